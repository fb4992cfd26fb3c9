#include "exec/rendezvous/member.h"

#include <fmt/format.h>

#include <limits>

#include "exec/rendezvous/hub.h"

namespace tandem::exec {
namespace {

constexpr Nanoseconds kSecond = 1'000'000'000;
constexpr Nanoseconds kHandshakeTime = 5 * kSecond;
constexpr Nanoseconds kLeaveTime = 1 * kSecond;
constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

}  // namespace

Member::Member(MemberConfig config, Nanoseconds now)
    : config_(std::move(config)), deadline_(now + kHandshakeTime) {
  send(MessageType::hello, encode(config_.nonce));
}

void Member::received(std::string_view bytes, Nanoseconds now) {
  while (!bytes.empty() && state_ != State::closed) {
    const std::optional<Frame> frame = reader_.take(bytes);
    if (frame)
      handle(*frame, now);
    else if (!reader_.fault().empty())
      close("the launcher: " + reader_.fault());
  }
}

void Member::handle(const Frame& frame, Nanoseconds now) {
  const auto unexpected = [&] { close(fmt::format("unexpected {}", name_of(frame.type))); };
  const bool in = state_ >= State::joined && state_ < State::closed;
  switch (frame.type) {
    case MessageType::challenge: {
      const std::optional<Nonce> nonce = parse_nonce(frame.payload);
      if (state_ != State::greeting || !nonce) return unexpected();
      server_ = *nonce;
      state_ = State::proving;
      return send(MessageType::proof,
                  encode(prove(config_.token, Role::client, config_.nonce, server_)));
    }
    case MessageType::proven: {
      const std::optional<Proof> proof = parse_nonce(frame.payload);
      if (state_ != State::proving || !proof) return unexpected();
      if (!check_proof(*proof, config_.token, Role::server, config_.nonce, server_))
        return close("what listens there does not know the run's token");
      state_ = State::joining;
      return send(MessageType::join, encode(config_.join));
    }
    case MessageType::welcome:
      if (state_ != State::joining || !frame.payload.empty()) return unexpected();
      state_ = State::joined;
      // Until all are in: the launcher's own limit, and a little, so that it speaks first.
      deadline_ = now + static_cast<Nanoseconds>(config_.timeout_s * 1e9) + kSecond;
      next_beat_ = now + heartbeat_interval(config_.timeout_s);
      return;
    case MessageType::refuse: {
      const std::optional<Refuse> refuse = parse_refuse(frame.payload);
      if (state_ != State::joining || !refuse) return unexpected();
      MemberEvent event{MemberEvent::Kind::refused, refuse->text, {}, 0, {}, {}};
      events_.push_back(std::move(event));
      state_ = State::closed;
      return;
    }
    case MessageType::roster:
      if (state_ != State::joined) return unexpected();
      return take_roster(frame.payload);
    case MessageType::abort: {
      const std::optional<Abort> cause = parse_abort(frame.payload);
      if (!in || !cause) return unexpected();
      MemberEvent event{MemberEvent::Kind::abort, {}, *cause, 0, {}, {}};
      events_.push_back(std::move(event));
      return;
    }
    case MessageType::barrier: {
      const std::optional<std::uint32_t> number = parse_barrier(frame.payload);
      if (state_ != State::running || !number) return unexpected();
      events_.push_back({MemberEvent::Kind::barrier, {}, {}, *number, {}, {}});
      return;
    }
    case MessageType::clock: {
      const std::optional<ClockSample> sample = parse_clock(frame.payload);
      if (!in || !sample) return unexpected();
      events_.push_back({MemberEvent::Kind::clock, {}, {}, 0, *sample, {}});
      return;
    }
    case MessageType::comm_id: {
      std::optional<CommIdMessage> id = parse_comm_id(frame.payload);
      if (!in || !id) return unexpected();
      events_.push_back({MemberEvent::Kind::comm_id, {}, {}, 0, {}, std::move(*id)});
      return;
    }
    case MessageType::bye:
      if (state_ != State::leaving) return unexpected();
      return close("");
    case MessageType::hello:  // a rank's own
    case MessageType::proof:
    case MessageType::join:
    case MessageType::heartbeat:
    case MessageType::report:
      return unexpected();
  }
}

// Parts come in order; the last one completes the table.
void Member::take_roster(std::string_view payload) {
  std::optional<Roster> part = parse_roster(payload);
  if (!part || part->world != config_.join.world || part->first != std::ssize(addresses_))
    return close("a malformed ROSTER");
  for (std::string& address : part->addresses) addresses_.push_back(std::move(address));
  if (std::ssize(addresses_) < part->world) return;
  state_ = State::running;
  deadline_ = 0;
  events_.push_back({MemberEvent::Kind::running, {}, {}, 0, {}, {}});
}

void Member::disconnected(std::string_view why) {
  if (state_ != State::closed) close(why);
}

void Member::close(std::string_view why) {
  state_ = State::closed;
  events_.push_back({MemberEvent::Kind::closed, std::string(why), {}, 0, {}, {}});
}

void Member::tick(Nanoseconds now) {
  if (state_ == State::closed) return;
  if (deadline_ != 0 && now >= deadline_)
    return close(state_ == State::leaving ? "" : "no answer from the launcher");
  if ((state_ == State::joined || state_ == State::running) && now >= next_beat_) {
    send(MessageType::heartbeat, encode(beat_));
    next_beat_ = now + heartbeat_interval(config_.timeout_s);
  }
}

Nanoseconds Member::next_deadline() const {
  Nanoseconds first = deadline_ != 0 ? deadline_ : kNever;
  if (state_ == State::joined || state_ == State::running) first = std::min(first, next_beat_);
  return state_ == State::closed ? kNever : first;
}

bool Member::report(const Report& report) {
  if (state_ != State::running && state_ != State::leaving) return false;
  send(MessageType::report, encode(report));
  return true;
}
bool Member::abort(const Abort& cause) {
  if (state_ != State::joined && state_ != State::running) return false;
  send(MessageType::abort, encode(cause));
  state_ = State::leaving;
  return true;
}
bool Member::barrier(std::uint32_t number) {
  if (state_ != State::running) return false;
  send(MessageType::barrier, encode_barrier(number));
  return true;
}
bool Member::clock(Nanoseconds now) {
  if (state_ != State::running) return false;
  send(MessageType::clock, encode(ClockSample{now, 0}));
  return true;
}
bool Member::comm_id(const CommIdMessage& message) {
  if (state_ != State::running) return false;
  send(MessageType::comm_id, encode(message));
  return true;
}
bool Member::bye(Nanoseconds now) {
  if (state_ != State::running && state_ != State::leaving) return false;
  send(MessageType::bye);
  state_ = State::leaving;
  deadline_ = now + kLeaveTime;
  return true;
}

void Member::send(MessageType type, std::string_view payload) {
  bytes_ += encode_frame(type, payload);
}
std::string Member::take_bytes() { return std::exchange(bytes_, {}); }
std::vector<MemberEvent> Member::take_events() { return std::exchange(events_, {}); }

}  // namespace tandem::exec
