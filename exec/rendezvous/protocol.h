// The control plane's bytes: frames, messages, and which message a peer may send in which state.
// Pure functions over bytes; sockets are server.h and client.h, what a message leads to is hub.h
// and member.h. Worked bytes: docs/formats/rendezvous.md.
//
//   frame    magic u32 | version u16 | type u16 | length u32 | payload     little-endian
//   limits   payload 64 KiB, of a peer that has not proved itself 4 KiB; a started frame must be
//            complete within 1 s
//
//   state       a peer may send                                     then              deadline
//   fresh       HELLO                                               CHALLENGE         5 s to authed
//   challenged  PROOF                                               PROVEN, or close  the same 5 s
//   authed      JOIN                                                WELCOME | REFUSE  5 s
//   joined      HEARTBEAT ABORT BYE                                 ROSTER: running   timeout
//   running     HEARTBEAT CLOCK BARRIER COMM_ID REPORT ABORT BYE                      silence
//   draining    REPORT BYE                                          closed            5 s
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/limits.h"

namespace tandem::exec {

inline constexpr std::uint32_t kFrameMagic = 0x4d445431;  // bytes "1TDM"
inline constexpr std::uint16_t kProtocolVersion = 1;
inline constexpr std::size_t kFrameHeaderBytes = 12;

enum class MessageType : std::uint16_t {
  hello = 1,
  challenge,
  proof,
  proven,
  join,
  welcome,
  refuse,
  roster,
  heartbeat,
  clock,
  barrier,
  comm_id,
  report,
  abort,
  bye,
};
inline constexpr int kNumMessageTypes = 15;
[[nodiscard]] std::string_view name_of(MessageType type);

enum class PeerState : std::uint8_t {
  fresh,
  challenged,
  authed,
  joined,
  running,
  draining,
  closed
};
inline constexpr int kNumPeerStates = 7;
[[nodiscard]] std::string_view name_of(PeerState state);

// The table above: may a peer in `state` send `type` to the server?
[[nodiscard]] bool may_send(PeerState state, MessageType type);

// --- frames ------------------------------------------------------------------------------------

struct Frame {
  MessageType type = MessageType::hello;
  std::string payload;
};

// `payload` has at most limits::kFrameBytes (checked).
[[nodiscard]] std::string encode_frame(MessageType type, std::string_view payload);

// Cuts a stream of bytes into frames. Holds at most one header and one payload of `limit` bytes,
// whatever arrives. After a fault it stays faulty.
class FrameReader {
 public:
  explicit FrameReader(std::size_t limit) : limit_(limit) {}
  void set_limit(std::size_t limit) { limit_ = limit; }
  // Takes bytes from the front of `bytes` up to the end of one frame. A frame: complete. None: more
  // bytes are needed, or fault() says why there will be none.
  [[nodiscard]] std::optional<Frame> take(std::string_view& bytes);
  [[nodiscard]] bool in_frame() const { return !pending_.empty(); }
  [[nodiscard]] const std::string& fault() const { return fault_; }

 private:
  std::size_t limit_;
  std::string pending_;
  std::string fault_;
};

// --- payloads ----------------------------------------------------------------------------------
// Each has encode() and a parse_x() that gives nothing on any byte too few, too many or out of
// range. Texts are at most limits::kRendezvousTextBytes long and cut there when encoded.

using Nonce = std::array<std::uint8_t, 32>;  // HELLO, CHALLENGE
using Proof = std::array<std::uint8_t, 32>;  // PROOF, PROVEN

struct Join {
  std::string version;  // of the program
  std::string plan_id;
  std::int32_t world = 0, rank = 0;
  std::string backend;       // "local"
  std::string data_address;  // where its transport listens; empty: inherited descriptors
  bool operator==(const Join&) const = default;
};

enum class RefuseCode : std::uint16_t { version = 1, plan, world, rank, backend, taken };
struct Refuse {
  RefuseCode code = RefuseCode::version;
  std::string text;  // which item differs, and both values
};

// Entries [first, first + addresses.size()) of the table of data addresses.
struct Roster {
  std::int32_t world = 0, first = 0;
  std::vector<std::string> addresses;
};

struct Heartbeat {
  std::uint64_t ops_done = 0;       // since the start: a rank that computes makes it grow
  std::int32_t step = -1, op = -1;  // the oldest op that has started and not ended; -1: none
};

struct ClockSample {
  std::int64_t client_ns = 0, server_ns = 0;  // client_ns comes back as it was sent
};

struct CommIdMessage {
  std::int32_t communicator = 0, group = 0;
  std::string bytes;  // NCCL's unique id, for all members
};

// Ordered from the strongest cause to the weakest: launch/verdict.h.
enum class FaultKind : std::uint8_t {
  failed = 1,  // the rank itself: a kernel, a value, its memory
  late,        // the rank's watchdog: an op does not end
  peer_lost,   // waited for another rank in vain
  aborted,     // told to stop
};

enum class ReportKind : std::uint8_t { progress = 1, fault };
struct Report {
  ReportKind kind = ReportKind::progress;
  std::int32_t step = -1;
  // progress: the step has ended
  double loss = 0, tokens_per_s = 0;
  std::int64_t step_ns = 0;
  std::optional<double> evaluation_loss;  // looked at behind the step
  // fault
  FaultKind fault = FaultKind::failed;
  std::uint8_t exit_class = 5;
  std::int32_t op = -1;
  std::string code, text;  // E-..., what was found
};

struct Abort {
  std::int32_t rank = -1;  // who caused it; -1: the launcher
  std::string text;
};

[[nodiscard]] std::string encode(const Nonce& value);
[[nodiscard]] std::string encode(const Join& value);
[[nodiscard]] std::string encode(const Refuse& value);
[[nodiscard]] std::string encode(const Roster& value);
[[nodiscard]] std::string encode(const Heartbeat& value);
[[nodiscard]] std::string encode(const ClockSample& value);
[[nodiscard]] std::string encode(const CommIdMessage& value);
[[nodiscard]] std::string encode(const Report& value);
[[nodiscard]] std::string encode(const Abort& value);
[[nodiscard]] std::string encode_barrier(std::uint32_t id);

[[nodiscard]] std::optional<Nonce> parse_nonce(std::string_view payload);
[[nodiscard]] std::optional<Join> parse_join(std::string_view payload);
[[nodiscard]] std::optional<Refuse> parse_refuse(std::string_view payload);
[[nodiscard]] std::optional<Roster> parse_roster(std::string_view payload);
[[nodiscard]] std::optional<Heartbeat> parse_heartbeat(std::string_view payload);
[[nodiscard]] std::optional<ClockSample> parse_clock(std::string_view payload);
[[nodiscard]] std::optional<CommIdMessage> parse_comm_id(std::string_view payload);
[[nodiscard]] std::optional<Report> parse_report(std::string_view payload);
[[nodiscard]] std::optional<Abort> parse_abort(std::string_view payload);
[[nodiscard]] std::optional<std::uint32_t> parse_barrier(std::string_view payload);

}  // namespace tandem::exec
