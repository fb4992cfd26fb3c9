// The server's half of the control plane as a state machine: bytes and times in, bytes and events
// out. No socket and no clock, so tests run it over a simulated network from a seed. The sockets
// are server.h; the table of states is protocol.h.
//
//   A peer that breaks the protocol is closed. Before it has proved itself that is counted and told
//   at most once a second (Event::stranger); afterwards its rank is lost (Event::lost).
//   At most 2 * world + 16 peers. When full, the unproved one without progress for longest goes.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/ids.h"
#include "common/base/units.h"
#include "exec/rendezvous/auth.h"
#include "exec/rendezvous/protocol.h"

namespace tandem::exec {

// Deadlines that follow from execute.timeout: heartbeats every 5 s and dead at 15 s, or sooner
// where the timeout is shorter.
[[nodiscard]] Nanoseconds heartbeat_interval(double timeout_s);
[[nodiscard]] Nanoseconds silence_limit(double timeout_s);

struct HubConfig {
  int world = 1;
  std::string version, plan_id;
  std::string backend = "local";
  Token token;
  double timeout_s = 60;  // bounds the time until all ranks are in
  std::function<Nonce()> nonce = random_nonce;
};

struct HubEvent {
  enum class Kind {
    joined,      // rank
    running,     // all ranks are in
    incomplete,  // not all ranks came in time; text names the missing ones
    heartbeat,   // rank, heartbeat
    report,      // rank, report
    abort,       // rank asked for it, text
    bye,         // rank has ended its work
    lost,        // rank is gone without BYE; text says why
    stranger,    // text; at most one a second
  };
  Kind kind = Kind::joined;
  int rank = -1;
  Nanoseconds time = 0;
  std::string text;
  Heartbeat heartbeat;
  Report report;
};

// Bytes to send to a peer, then whether to close it.
struct HubAction {
  int peer = -1;
  std::string bytes;
  bool close = false;
};

// Used by one thread at a time. Times never go back.
class Hub {
 public:
  Hub(HubConfig config, Nanoseconds now);

  // A new connection. The caller names peers by numbers of its own.
  void connected(int peer, Nanoseconds now);
  void received(int peer, std::string_view bytes, Nanoseconds now);
  // The connection is gone; also for what the shell dropped itself (`why`: "too slow").
  void disconnected(int peer, std::string_view why, Nanoseconds now);
  // Carries out every deadline that has passed.
  void tick(Nanoseconds now);
  [[nodiscard]] Nanoseconds next_deadline() const;

  // Tells every rank to stop, once.
  void abort(const Abort& cause, Nanoseconds now);

  [[nodiscard]] std::vector<HubAction> take_actions();
  [[nodiscard]] std::vector<HubEvent> take_events();

  [[nodiscard]] bool running() const { return running_; }
  [[nodiscard]] std::vector<int> missing() const;  // ranks that have not joined
  [[nodiscard]] PeerState state_of(int peer) const;
  [[nodiscard]] std::size_t num_peers() const { return peers_.size(); }
  [[nodiscard]] std::size_t num_strangers_dropped() const { return strangers_; }

 private:
  struct Peer {
    PeerState state = PeerState::fresh;
    FrameReader reader{static_cast<std::size_t>(limits::kStrangerFrameBytes)};
    Nonce client{}, server{};
    int rank = -1;
    Nanoseconds progress = 0;        // last complete frame
    Nanoseconds deadline = 0;        // of the state; 0: none
    Nanoseconds frame_deadline = 0;  // of a started frame; 0: none
    bool at_barrier = false;
  };
  void handle(int id, Peer& peer, const Frame& frame, Nanoseconds now);
  void join(int id, Peer& peer, std::string_view payload, Nanoseconds now);
  void start(Nanoseconds now);
  void barrier(int id, Peer& peer, std::uint32_t barrier, Nanoseconds now);
  void send(int id, MessageType type, std::string_view payload = {});
  // Closes the peer and says what that means. Erases it.
  void drop(int id, std::string_view why, Nanoseconds now);
  [[nodiscard]] int peer_of(int rank) const;
  [[nodiscard]] static bool is_stranger(const Peer& peer) { return peer.state < PeerState::joined; }

  HubConfig config_;
  Nanoseconds started_ = 0;
  std::map<int, Peer> peers_;
  std::vector<int> peer_of_rank_;  // -1: not joined
  std::vector<bool> has_joined_;   // ever
  std::vector<std::string> addresses_;
  bool running_ = false, aborting_ = false, incomplete_told_ = false;
  Abort cause_;
  std::uint32_t barrier_ = 0;
  std::size_t strangers_ = 0;
  Nanoseconds stranger_told_ = 0;
  std::vector<HubAction> actions_;
  std::vector<HubEvent> events_;
};

}  // namespace tandem::exec
