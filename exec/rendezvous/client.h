// A rank's end of the control plane: a member (member.h) on a socket, with a thread of its own, so
// that heartbeats go out and ABORT comes in whatever the rank does. Tries again with a growing,
// jittered delay (10 to 500 ms) until the run has taken it in or `timeout_s` has passed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "exec/rendezvous/auth.h"
#include "exec/rendezvous/protocol.h"
#include "exec/runtime/barrier.h"

namespace tandem::exec {

struct ClientConfig {
  std::string host = "127.0.0.1";  // numeric
  unsigned short port = 0;
  Join join;
  Token token;
  double timeout_s = 60;
  // Called on the client's thread; must not block and must not call the client.
  std::function<void(const Abort&)> on_abort;
  std::function<void(const std::string&)> on_lost;  // the launcher is gone
  std::function<Heartbeat()> heartbeat;
};

// Thread-safe; meet() is for one thread.
class Client final : public Barrier {
 public:
  // Blocks until all ranks are in. E-RDZV-001 no launcher there, -002 refused, -003 others did not
  // come, -004 the launcher stopped the run first.
  [[nodiscard]] static Result<std::unique_ptr<Client>> connect(ClientConfig config);
  ~Client() override;  // ends the connection without BYE unless leave() was called
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void report(const Report& report);
  // Tells all other ranks to stop.
  void abort(const Abort& cause);
  [[nodiscard]] Status meet() override;
  // BYE; waits up to 1 s for the answer.
  void leave();

 private:
  class Impl;
  explicit Client(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tandem::exec
