#include "exec/rendezvous/protocol.h"

#include <bit>
#include <cmath>

#include "common/base/check.h"

namespace tandem::exec {
namespace {

template <class T>
void put(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i)
    out.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i)));
}
void put_text(std::string& out, std::string_view text) {
  text = text.substr(0, limits::kRendezvousTextBytes);
  put(out, static_cast<std::uint16_t>(text.size()));
  out += text;
}
void put_double(std::string& out, double value) { put(out, std::bit_cast<std::uint64_t>(value)); }

std::uint64_t read_le(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;)
    value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
  return value;
}

// Reads fields from the front. After the first that does not fit, ok() is false for good.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <class T>
  T get() {
    return static_cast<T>(read_le(bytes(sizeof(T))));
  }
  double real() { return std::bit_cast<double>(get<std::uint64_t>()); }
  std::string text() {
    const auto length = get<std::uint16_t>();
    if (length > limits::kRendezvousTextBytes) ok_ = false;
    return std::string(bytes(length));
  }
  std::string_view bytes(std::size_t count) {
    if (!ok_ || left_.size() < count) {
      ok_ = false;
      return {};
    }
    const std::string_view out = left_.substr(0, count);
    left_.remove_prefix(count);
    return out;
  }
  [[nodiscard]] std::size_t left() const { return left_.size(); }
  // All fields were there and nothing is left.
  [[nodiscard]] bool complete() const { return ok_ && left_.empty(); }
  [[nodiscard]] bool ok() const { return ok_; }

 private:
  std::string_view left_;
  bool ok_ = true;
};

template <class T>
std::optional<T> when(bool good, T value) {
  if (!good) return std::nullopt;
  return value;
}

}  // namespace

std::string_view name_of(MessageType type) {
  switch (type) {
    case MessageType::hello:
      return "HELLO";
    case MessageType::challenge:
      return "CHALLENGE";
    case MessageType::proof:
      return "PROOF";
    case MessageType::proven:
      return "PROVEN";
    case MessageType::join:
      return "JOIN";
    case MessageType::welcome:
      return "WELCOME";
    case MessageType::refuse:
      return "REFUSE";
    case MessageType::roster:
      return "ROSTER";
    case MessageType::heartbeat:
      return "HEARTBEAT";
    case MessageType::clock:
      return "CLOCK";
    case MessageType::barrier:
      return "BARRIER";
    case MessageType::comm_id:
      return "COMM_ID";
    case MessageType::report:
      return "REPORT";
    case MessageType::abort:
      return "ABORT";
    case MessageType::bye:
      return "BYE";
  }
  return "?";
}

std::string_view name_of(PeerState state) {
  switch (state) {
    case PeerState::fresh:
      return "fresh";
    case PeerState::challenged:
      return "challenged";
    case PeerState::authed:
      return "authed";
    case PeerState::joined:
      return "joined";
    case PeerState::running:
      return "running";
    case PeerState::draining:
      return "draining";
    case PeerState::closed:
      return "closed";
  }
  return "?";
}

bool may_send(PeerState state, MessageType type) {
  using enum MessageType;
  switch (state) {
    case PeerState::fresh:
      return type == hello;
    case PeerState::challenged:
      return type == proof;
    case PeerState::authed:
      return type == join;
    case PeerState::joined:
      return type == heartbeat || type == abort || type == bye;
    case PeerState::running:
      return type == heartbeat || type == clock || type == barrier || type == comm_id ||
             type == report || type == abort || type == bye;
    case PeerState::draining:
      return type == report || type == bye;
    case PeerState::closed:
      return false;
  }
  return false;
}

// --- frames ------------------------------------------------------------------------------------

std::string encode_frame(MessageType type, std::string_view payload) {
  TANDEM_CHECK(payload.size() <= static_cast<std::size_t>(limits::kFrameBytes), "a {} of {} bytes",
               name_of(type), payload.size());
  std::string out;
  out.reserve(kFrameHeaderBytes + payload.size());
  put(out, kFrameMagic);
  put(out, kProtocolVersion);
  put(out, static_cast<std::uint16_t>(type));
  put(out, static_cast<std::uint32_t>(payload.size()));
  out += payload;
  return out;
}

std::optional<Frame> FrameReader::take(std::string_view& bytes) {
  if (!fault_.empty()) return std::nullopt;
  const auto move = [&](std::size_t total) {
    const std::size_t count = std::min(bytes.size(), total - pending_.size());
    pending_ += bytes.substr(0, count);
    bytes.remove_prefix(count);
    return pending_.size() == total;
  };
  if (pending_.size() < kFrameHeaderBytes && !move(kFrameHeaderBytes)) return std::nullopt;
  const std::string_view header = pending_;
  const auto type = read_le(header.substr(6, 2));
  const auto length = read_le(header.substr(8, 4));
  if (read_le(header.substr(0, 4)) != kFrameMagic) {
    fault_ = "the bytes are no frame";
  } else if (read_le(header.substr(4, 2)) != kProtocolVersion) {
    fault_ = "another version of the protocol";
  } else if (type < 1 || type > kNumMessageTypes) {
    fault_ = "an unknown message";
  } else if (length > limit_) {
    fault_ = "the frame is too long";
  }
  if (!fault_.empty() || !move(kFrameHeaderBytes + length)) return std::nullopt;
  Frame frame{static_cast<MessageType>(type), pending_.substr(kFrameHeaderBytes)};
  pending_.clear();
  return frame;
}

// --- payloads ----------------------------------------------------------------------------------

std::string encode(const Nonce& value) { return {value.begin(), value.end()}; }
std::optional<Nonce> parse_nonce(std::string_view payload) {
  Nonce out{};
  if (payload.size() != out.size()) return std::nullopt;
  std::copy(payload.begin(), payload.end(), out.begin());
  return out;
}

std::string encode(const Join& v) {
  std::string out;
  put_text(out, v.version);
  put_text(out, v.plan_id);
  put(out, v.world);
  put(out, v.rank);
  put_text(out, v.backend);
  put_text(out, v.data_address);
  return out;
}
std::optional<Join> parse_join(std::string_view payload) {
  Reader r(payload);
  Join v;
  v.version = r.text();
  v.plan_id = r.text();
  v.world = r.get<std::int32_t>();
  v.rank = r.get<std::int32_t>();
  v.backend = r.text();
  v.data_address = r.text();
  return when(r.complete(), v);
}

std::string encode(const Refuse& v) {
  std::string out;
  put(out, static_cast<std::uint16_t>(v.code));
  put_text(out, v.text);
  return out;
}
std::optional<Refuse> parse_refuse(std::string_view payload) {
  Reader r(payload);
  Refuse v;
  const auto code = r.get<std::uint16_t>();
  v.code = static_cast<RefuseCode>(code);
  v.text = r.text();
  return when(r.complete() && code >= 1 && code <= static_cast<int>(RefuseCode::taken), v);
}

std::string encode(const Roster& v) {
  std::string out;
  put(out, v.world);
  put(out, v.first);
  put(out, static_cast<std::uint32_t>(v.addresses.size()));
  for (const std::string& address : v.addresses) put_text(out, address);
  return out;
}
std::optional<Roster> parse_roster(std::string_view payload) {
  Reader r(payload);
  Roster v;
  v.world = r.get<std::int32_t>();
  v.first = r.get<std::int32_t>();
  const auto count = r.get<std::uint32_t>();
  if (!r.ok() || v.world < 1 || v.world > limits::kExecutedRanks || v.first < 0 ||
      count > static_cast<std::uint32_t>(v.world) || v.first > v.world - static_cast<int>(count))
    return std::nullopt;
  for (std::uint32_t i = 0; i < count && r.ok(); ++i) v.addresses.push_back(r.text());
  return when(r.complete(), v);
}

std::string encode(const Heartbeat& v) {
  std::string out;
  put(out, v.ops_done);
  put(out, v.step);
  put(out, v.op);
  return out;
}
std::optional<Heartbeat> parse_heartbeat(std::string_view payload) {
  Reader r(payload);
  Heartbeat v;
  v.ops_done = r.get<std::uint64_t>();
  v.step = r.get<std::int32_t>();
  v.op = r.get<std::int32_t>();
  return when(r.complete() && v.step >= -1 && v.op >= -1, v);
}

std::string encode(const ClockSample& v) {
  std::string out;
  put(out, v.client_ns);
  put(out, v.server_ns);
  return out;
}
std::optional<ClockSample> parse_clock(std::string_view payload) {
  Reader r(payload);
  ClockSample v;
  v.client_ns = r.get<std::int64_t>();
  v.server_ns = r.get<std::int64_t>();
  return when(r.complete(), v);
}

std::string encode_barrier(std::uint32_t id) {
  std::string out;
  put(out, id);
  return out;
}
std::optional<std::uint32_t> parse_barrier(std::string_view payload) {
  Reader r(payload);
  const auto id = r.get<std::uint32_t>();
  return when(r.complete(), id);
}

std::string encode(const CommIdMessage& v) {
  std::string out;
  put(out, v.communicator);
  put(out, v.group);
  put_text(out, v.bytes);
  return out;
}
std::optional<CommIdMessage> parse_comm_id(std::string_view payload) {
  Reader r(payload);
  CommIdMessage v;
  v.communicator = r.get<std::int32_t>();
  v.group = r.get<std::int32_t>();
  v.bytes = r.text();
  return when(r.complete() && v.communicator >= 0 && v.group >= 0, v);
}

std::string encode(const Report& v) {
  std::string out;
  put(out, static_cast<std::uint8_t>(v.kind));
  put(out, v.step);
  if (v.kind == ReportKind::progress) {
    put_double(out, v.loss);
    put_double(out, v.tokens_per_s);
    put(out, v.step_ns);
    put(out, static_cast<std::uint8_t>(v.evaluation_loss.has_value()));
    if (v.evaluation_loss) put_double(out, *v.evaluation_loss);
  } else {
    put(out, static_cast<std::uint8_t>(v.fault));
    put(out, v.exit_class);
    put(out, v.op);
    put_text(out, v.code);
    put_text(out, v.text);
  }
  return out;
}
std::optional<Report> parse_report(std::string_view payload) {
  Reader r(payload);
  Report v;
  const auto kind = r.get<std::uint8_t>();
  v.kind = static_cast<ReportKind>(kind);
  v.step = r.get<std::int32_t>();
  if (v.step < -1) return std::nullopt;
  if (kind == static_cast<std::uint8_t>(ReportKind::progress)) {
    v.loss = r.real();
    v.tokens_per_s = r.real();
    v.step_ns = r.get<std::int64_t>();
    const auto evaluated = r.get<std::uint8_t>();
    if (evaluated == 1) v.evaluation_loss = r.real();
    return when(r.complete() && v.step_ns >= 0 && evaluated <= 1, v);
  }
  if (kind != static_cast<std::uint8_t>(ReportKind::fault)) return std::nullopt;
  const auto fault = r.get<std::uint8_t>();
  v.fault = static_cast<FaultKind>(fault);
  v.exit_class = r.get<std::uint8_t>();
  v.op = r.get<std::int32_t>();
  v.code = r.text();
  v.text = r.text();
  return when(r.complete() && fault >= 1 && fault <= static_cast<int>(FaultKind::aborted) &&
                  v.exit_class != 0 && v.op >= -1,
              v);
}

std::string encode(const Abort& v) {
  std::string out;
  put(out, v.rank);
  put_text(out, v.text);
  return out;
}
std::optional<Abort> parse_abort(std::string_view payload) {
  Reader r(payload);
  Abort v;
  v.rank = r.get<std::int32_t>();
  v.text = r.text();
  return when(r.complete() && v.rank >= -1, v);
}

}  // namespace tandem::exec
