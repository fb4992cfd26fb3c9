#include "exec/rendezvous/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace tandem::exec {
namespace {

constexpr Nanoseconds kSecond = 1'000'000'000;
constexpr Nanoseconds kAuthTime = 5 * kSecond;   // accept to authed, and authed to joined
constexpr Nanoseconds kFrameTime = 1 * kSecond;  // a started frame
constexpr Nanoseconds kDrainTime = 5 * kSecond;
constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

Nanoseconds to_ns(double seconds) { return static_cast<Nanoseconds>(seconds * 1e9); }

void keep_first(Nanoseconds& deadline, Nanoseconds time) {
  if (time != 0) deadline = std::min(deadline, time);
}

}  // namespace

Nanoseconds heartbeat_interval(double timeout_s) {
  return std::min(5 * kSecond, to_ns(timeout_s / 4));
}
Nanoseconds silence_limit(double timeout_s) { return std::min(15 * kSecond, to_ns(timeout_s)); }

Hub::Hub(HubConfig config, Nanoseconds now)
    : config_(std::move(config)),
      started_(now),
      peer_of_rank_(static_cast<std::size_t>(config_.world), -1),
      has_joined_(static_cast<std::size_t>(config_.world), false),
      addresses_(static_cast<std::size_t>(config_.world)) {}

void Hub::connected(int id, Nanoseconds now) {
  const auto limit = static_cast<std::size_t>(2 * config_.world + 16);
  if (peers_.size() >= limit) {
    int oldest = -1;
    for (const auto& [other, peer] : peers_)
      if (is_stranger(peer) && (oldest < 0 || peer.progress < peers_.at(oldest).progress))
        oldest = other;
    if (oldest < 0) {
      actions_.push_back({id, {}, true});
      return;
    }
    drop(oldest, "made room for another", now);
  }
  Peer& peer = peers_[id];
  peer.progress = now;
  peer.deadline = now + kAuthTime;
}

void Hub::received(int id, std::string_view bytes, Nanoseconds now) {
  while (!bytes.empty()) {
    const auto at = peers_.find(id);
    if (at == peers_.end()) return;  // dropped by what came before
    Peer& peer = at->second;
    std::optional<Frame> frame = peer.reader.take(bytes);
    if (!frame) {
      if (!peer.reader.fault().empty()) return drop(id, peer.reader.fault(), now);
      if (peer.frame_deadline == 0) peer.frame_deadline = now + kFrameTime;
      return;
    }
    peer.frame_deadline = 0;
    peer.progress = now;
    if (!may_send(peer.state, frame->type))
      return drop(id, fmt::format("sent {} when {}", name_of(frame->type), name_of(peer.state)),
                  now);
    handle(id, peer, *frame, now);
  }
}

void Hub::handle(int id, Peer& peer, const Frame& frame, Nanoseconds now) {
  const auto malformed = [&] {
    drop(id, fmt::format("sent a malformed {}", name_of(frame.type)), now);
  };
  if (peer.state == PeerState::joined || peer.state == PeerState::running)
    peer.deadline = now + (aborting_ ? kDrainTime : silence_limit(config_.timeout_s));
  switch (frame.type) {
    case MessageType::hello: {
      const std::optional<Nonce> nonce = parse_nonce(frame.payload);
      if (!nonce) return malformed();
      peer.client = *nonce;
      peer.server = config_.nonce();
      peer.state = PeerState::challenged;
      return send(id, MessageType::challenge, encode(peer.server));
    }
    case MessageType::proof: {
      const std::optional<Proof> proof = parse_nonce(frame.payload);
      if (!proof) return malformed();
      if (!check_proof(*proof, config_.token, Role::client, peer.client, peer.server))
        return drop(id, "does not know the token", now);
      peer.state = PeerState::authed;
      peer.deadline = now + kAuthTime;
      peer.reader.set_limit(limits::kFrameBytes);
      return send(id, MessageType::proven,
                  encode(prove(config_.token, Role::server, peer.client, peer.server)));
    }
    case MessageType::join:
      return join(id, peer, frame.payload, now);
    case MessageType::heartbeat: {
      const std::optional<Heartbeat> beat = parse_heartbeat(frame.payload);
      if (!beat) return malformed();
      events_.push_back({HubEvent::Kind::heartbeat, peer.rank, now, {}, *beat, {}});
      return;
    }
    case MessageType::clock: {
      std::optional<ClockSample> sample = parse_clock(frame.payload);
      if (!sample) return malformed();
      sample->server_ns = now;
      return send(id, MessageType::clock, encode(*sample));
    }
    case MessageType::barrier: {
      const std::optional<std::uint32_t> number = parse_barrier(frame.payload);
      if (!number) return malformed();
      return barrier(id, peer, *number, now);
    }
    case MessageType::comm_id: {
      if (!parse_comm_id(frame.payload)) return malformed();
      for (const auto& [other, p] : peers_)
        if (other != id && p.state == PeerState::running)
          send(other, MessageType::comm_id, frame.payload);
      return;
    }
    case MessageType::report: {
      std::optional<Report> report = parse_report(frame.payload);
      if (!report) return malformed();
      events_.push_back({HubEvent::Kind::report, peer.rank, now, {}, {}, std::move(*report)});
      return;
    }
    case MessageType::abort: {
      std::optional<Abort> cause = parse_abort(frame.payload);
      if (!cause) return malformed();
      cause->rank = peer.rank;  // whatever it says
      events_.push_back({HubEvent::Kind::abort, peer.rank, now, cause->text, {}, {}});
      peer.state = PeerState::draining;
      peer.deadline = now + kDrainTime;
      return abort(*cause, now);
    }
    case MessageType::bye:
      if (!frame.payload.empty()) return malformed();
      if (peer.state == PeerState::joined) return drop(id, "said BYE before the run began", now);
      if (peer.state == PeerState::running)
        events_.push_back({HubEvent::Kind::bye, peer.rank, now, {}, {}, {}});
      send(id, MessageType::bye);
      peer.state = PeerState::draining;
      peer.deadline = now + kDrainTime;
      return;
    case MessageType::challenge:  // the server's own
    case MessageType::proven:
    case MessageType::welcome:
    case MessageType::refuse:
    case MessageType::roster:
      return;
  }
}

void Hub::join(int id, Peer& peer, std::string_view payload, Nanoseconds now) {
  const std::optional<Join> join = parse_join(payload);
  if (!join) return drop(id, "sent a malformed JOIN", now);
  std::optional<Refuse> refuse;
  const auto differ = [&](RefuseCode code, const char* what, const auto& theirs, const auto& ours) {
    if (!refuse && theirs != ours)
      refuse = Refuse{
          code, fmt::format("{}: rank {} has {}, this run {}", what, join->rank, theirs, ours)};
  };
  differ(RefuseCode::version, "version", join->version, config_.version);
  differ(RefuseCode::plan, "plan", join->plan_id, config_.plan_id);
  differ(RefuseCode::world, "world", join->world, config_.world);
  differ(RefuseCode::backend, "backend", join->backend, config_.backend);
  if (!refuse && (join->rank < 0 || join->rank >= config_.world))
    refuse = Refuse{RefuseCode::rank,
                    fmt::format("rank {} of a world of {}", join->rank, config_.world)};
  if (!refuse && has_joined_[static_cast<std::size_t>(join->rank)])
    refuse = Refuse{RefuseCode::taken, fmt::format("rank {} has joined already", join->rank)};
  if (refuse) {
    send(id, MessageType::refuse, encode(*refuse));
    return drop(id, "was refused: " + refuse->text, now);
  }
  const auto rank = static_cast<std::size_t>(join->rank);
  peer.rank = join->rank;
  peer.state = PeerState::joined;
  peer.deadline = now + (aborting_ ? kDrainTime : silence_limit(config_.timeout_s));
  peer_of_rank_[rank] = id;
  has_joined_[rank] = true;
  addresses_[rank] = join->data_address;
  events_.push_back({HubEvent::Kind::joined, join->rank, now, {}, {}, {}});
  send(id, MessageType::welcome);
  if (aborting_) return send(id, MessageType::abort, encode(cause_));
  if (missing().empty()) start(now);
}

// ROSTER to all, in frames that fit.
void Hub::start(Nanoseconds now) {
  running_ = true;
  std::vector<std::string> frames;
  Roster part{config_.world, 0, {}};
  std::size_t bytes = 0;
  for (int rank = 0; rank < config_.world; ++rank) {
    const std::string& address = addresses_[static_cast<std::size_t>(rank)];
    if (bytes + address.size() + 2 > limits::kFrameBytes - 64) {
      frames.push_back(encode(part));
      part = {config_.world, rank, {}};
      bytes = 0;
    }
    part.addresses.push_back(address);
    bytes += address.size() + 2;
  }
  frames.push_back(encode(part));
  for (auto& [id, peer] : peers_) {
    if (peer.state != PeerState::joined) continue;
    for (const std::string& frame : frames) send(id, MessageType::roster, frame);
    peer.state = PeerState::running;
    peer.deadline = now + silence_limit(config_.timeout_s);
  }
  events_.push_back({HubEvent::Kind::running, -1, now, {}, {}, {}});
}

void Hub::barrier(int id, Peer& peer, std::uint32_t number, Nanoseconds now) {
  if (number != barrier_ || peer.at_barrier)
    return drop(id, fmt::format("came to barrier {} instead of {}", number, barrier_), now);
  peer.at_barrier = true;
  for (int rank = 0; rank < config_.world; ++rank) {
    const auto at = peers_.find(peer_of(rank));
    if (at == peers_.end() || !at->second.at_barrier) return;
  }
  for (auto& [other, p] : peers_) {
    if (!p.at_barrier) continue;
    p.at_barrier = false;
    send(other, MessageType::barrier, encode_barrier(barrier_));
  }
  ++barrier_;
}

void Hub::disconnected(int id, std::string_view why, Nanoseconds now) {
  if (peers_.contains(id)) drop(id, why, now);
}

void Hub::drop(int id, std::string_view why, Nanoseconds now) {
  const auto at = peers_.find(id);
  const Peer peer = std::move(at->second);
  peers_.erase(at);
  actions_.push_back({id, {}, true});
  if (is_stranger(peer)) {
    ++strangers_;
    if (stranger_told_ != 0 && now < stranger_told_ + kSecond) return;
    stranger_told_ = now;
    events_.push_back({HubEvent::Kind::stranger, -1, now, std::string(why), {}, {}});
    return;
  }
  peer_of_rank_[static_cast<std::size_t>(peer.rank)] = -1;
  if (peer.state != PeerState::draining)
    events_.push_back({HubEvent::Kind::lost, peer.rank, now, std::string(why), {}, {}});
}

void Hub::tick(Nanoseconds now) {
  std::vector<std::pair<int, std::string_view>> late;
  for (const auto& [id, peer] : peers_) {
    if (peer.frame_deadline != 0 && now >= peer.frame_deadline)
      late.emplace_back(id, "sent half a frame");
    else if (peer.deadline != 0 && now >= peer.deadline)
      late.emplace_back(id, is_stranger(peer) ? "did not join in time" : "was silent");
  }
  for (const auto& [id, why] : late) drop(id, why, now);
  if (running_ || aborting_ || incomplete_told_ || now < started_ + to_ns(config_.timeout_s))
    return;
  incomplete_told_ = true;
  const std::vector<int> ranks = missing();
  events_.push_back({HubEvent::Kind::incomplete,
                     ranks.empty() ? -1 : ranks[0],
                     now,
                     fmt::format("{}", fmt::join(ranks, ", ")),
                     {},
                     {}});
}

Nanoseconds Hub::next_deadline() const {
  Nanoseconds first = kNever;
  if (!running_ && !aborting_ && !incomplete_told_) first = started_ + to_ns(config_.timeout_s);
  for (const auto& [id, peer] : peers_) {
    keep_first(first, peer.deadline);
    keep_first(first, peer.frame_deadline);
  }
  return first;
}

void Hub::abort(const Abort& cause, Nanoseconds now) {
  if (aborting_) return;
  aborting_ = true;
  cause_ = cause;
  for (auto& [id, peer] : peers_) {
    if (peer.state != PeerState::joined && peer.state != PeerState::running) continue;
    peer.deadline = now + kDrainTime;
    send(id, MessageType::abort, encode(cause));
  }
}

void Hub::send(int id, MessageType type, std::string_view payload) {
  actions_.push_back({id, encode_frame(type, payload), false});
}

std::vector<HubAction> Hub::take_actions() { return std::exchange(actions_, {}); }
std::vector<HubEvent> Hub::take_events() { return std::exchange(events_, {}); }

std::vector<int> Hub::missing() const {
  std::vector<int> out;
  for (int rank = 0; rank < config_.world; ++rank)
    if (!has_joined_[static_cast<std::size_t>(rank)]) out.push_back(rank);
  return out;
}

int Hub::peer_of(int rank) const { return peer_of_rank_[static_cast<std::size_t>(rank)]; }

PeerState Hub::state_of(int peer) const {
  const auto at = peers_.find(peer);
  return at == peers_.end() ? PeerState::closed : at->second.state;
}

}  // namespace tandem::exec
