// A rank's half of the control plane as a state machine: bytes and times in, bytes and events out.
// No socket, no clock; the sockets are client.h, the other half is hub.h.
//
//   greeting    HELLO sent       CHALLENGE        -> PROOF
//   proving     PROOF sent       PROVEN, checked  -> JOIN      a server that cannot prove itself:
//   failed joining     JOIN sent        WELCOME          -> joined    REFUSE: failed joined
//   HEARTBEAT        ROSTER, all parts -> running running     anything of protocol.h; ABORT,
//   BARRIER, CLOCK, COMM_ID come back leaving     BYE sent         BYE              -> closed
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/units.h"
#include "exec/rendezvous/auth.h"
#include "exec/rendezvous/protocol.h"

namespace tandem::exec {

struct MemberConfig {
  Join join;
  Token token;
  Nonce nonce{};
  double timeout_s = 60;
};

struct MemberEvent {
  enum class Kind {
    running,  // all ranks are in: addresses()
    refused,  // text; trying again is no use
    abort,    // abort
    barrier,  // number
    clock,    // clock
    comm_id,  // comm_id
    closed,   // the connection has ended; text says why, empty after BYE
  };
  Kind kind = Kind::closed;
  std::string text;
  Abort abort;
  std::uint32_t barrier = 0;
  ClockSample clock;
  CommIdMessage comm_id;
};

// Used by one thread at a time. One object is one connection.
class Member {
 public:
  enum class State { greeting, proving, joining, joined, running, leaving, closed };
  Member(MemberConfig config, Nanoseconds now);  // HELLO is the first action

  void received(std::string_view bytes, Nanoseconds now);
  void disconnected(std::string_view why);
  void tick(Nanoseconds now);  // heartbeats, deadlines
  [[nodiscard]] Nanoseconds next_deadline() const;
  void set_heartbeat(const Heartbeat& beat) { beat_ = beat; }

  // Nothing is sent, and false comes back, unless running (report: or leaving).
  bool report(const Report& report);
  bool abort(const Abort& cause);
  bool barrier(std::uint32_t number);
  bool clock(Nanoseconds now);
  bool comm_id(const CommIdMessage& message);
  bool bye(Nanoseconds now);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool joined() const { return state_ >= State::joined && state_ != State::closed; }
  [[nodiscard]] const std::vector<std::string>& addresses() const { return addresses_; }
  [[nodiscard]] std::string take_bytes();
  [[nodiscard]] bool wants_close() const { return state_ == State::closed; }
  [[nodiscard]] std::vector<MemberEvent> take_events();

 private:
  void handle(const Frame& frame, Nanoseconds now);
  void take_roster(std::string_view payload);
  void send(MessageType type, std::string_view payload = {});
  void close(std::string_view why);

  MemberConfig config_;
  State state_ = State::greeting;
  FrameReader reader_{static_cast<std::size_t>(limits::kFrameBytes)};
  Nonce server_{};
  Heartbeat beat_;
  Nanoseconds deadline_ = 0, next_beat_ = 0;
  std::vector<std::string> addresses_;
  std::string bytes_;
  std::vector<MemberEvent> events_;
};

}  // namespace tandem::exec
