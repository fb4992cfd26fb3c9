// The control plane's server: a hub (hub.h) on sockets. One io_context, one thread, no blocking
// call, no name lookup. Binds 127.0.0.1 and a port the system chooses, unless told otherwise.
//
//   limits   2 * world + 16 connections; 256 KiB of unsent bytes a peer, then it is dropped as too
//            slow; no descriptors left: accepts again after 100 ms. SIGPIPE is never raised
//   descriptors are close-on-exec
#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "exec/rendezvous/hub.h"

namespace tandem::exec {

// Lives on the thread that runs the io_context. `sink` is called there, never inside a call of
// another method than abort(), and may call abort().
class Server {
 public:
  using Sink = std::function<void(const HubEvent&)>;
  // `address`: a numeric address; not "any" (0.0.0.0, ::). E-RDZV-005.
  [[nodiscard]] static Result<std::unique_ptr<Server>> open(
      boost::asio::io_context& context, HubConfig config, Sink sink,
      const std::string& address = "127.0.0.1");
  ~Server();  // closes every connection
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Accepts from now on. Until then a connection waits in the system's queue.
  void start();
  [[nodiscard]] unsigned short port() const;
  void abort(const Abort& cause);
  [[nodiscard]] const Hub& hub() const;

 private:
  class Impl;
  explicit Server(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tandem::exec
