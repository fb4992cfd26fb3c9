#include "exec/rendezvous/server.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>

#include "exec/device/clock.h"

namespace tandem::exec {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kCloseTime = std::chrono::seconds(1);  // for the last bytes of a closing peer
constexpr auto kNoDescriptors = std::chrono::milliseconds(100);

// Owned by its handlers and by the server's table.
struct Connection {
  explicit Connection(tcp::socket s) : socket(std::move(s)), close_timer(socket.get_executor()) {}
  tcp::socket socket;
  asio::steady_timer close_timer;
  std::array<char, 4096> buffer;
  std::deque<std::string> queue;
  std::size_t queued_bytes = 0;
  bool writing = false, closing = false;

  void shut() {
    error_code ignored;
    close_timer.cancel();
    socket.shutdown(tcp::socket::shutdown_both, ignored);
    socket.close(ignored);
  }
};

void close_on_exec(int fd) { ::fcntl(fd, F_SETFD, FD_CLOEXEC); }

}  // namespace

class Server::Impl : public std::enable_shared_from_this<Server::Impl> {
 public:
  Impl(asio::io_context& context, HubConfig config, Sink sink)
      : acceptor_(context),
        timer_(context),
        accept_timer_(context),
        hub_(std::move(config), now_ns()),
        sink_(std::move(sink)) {}

  Status listen(const std::string& address) {
    error_code failed;
    const auto ip = asio::ip::make_address(address, failed);
    if (!failed && ip.is_unspecified())
      failed = asio::error::make_error_code(asio::error::no_permission);
    if (!failed) acceptor_.open(ip.is_v4() ? tcp::v4() : tcp::v6(), failed);
    if (!failed) close_on_exec(acceptor_.native_handle());
    if (!failed) acceptor_.bind({ip, 0}, failed);
    if (!failed) acceptor_.listen(asio::socket_base::max_listen_connections, failed);
    if (!failed) port_ = acceptor_.local_endpoint(failed).port();
    if (!failed) return Ok{};
    return make_error(Failure::peer_lost, "E-RDZV-005", "the launcher cannot listen",
                      fmt::format("{}: {}", address, failed.message()),
                      "an address of this machine with a free port",
                      "use 127.0.0.1, or the address of one interface; never 0.0.0.0");
  }
  [[nodiscard]] unsigned short port() const { return port_; }
  [[nodiscard]] const Hub& hub() const { return hub_; }

  void start() {
    accept();
    pump();
  }

  void abort(const Abort& cause) {
    hub_.abort(cause, now_ns());
    pump();
  }

  void close() {
    closed_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    timer_.cancel();
    accept_timer_.cancel();
    for (auto& [id, connection] : connections_) connection->shut();
    connections_.clear();
  }

 private:
  void accept() {
    if (closed_) return;
    acceptor_.async_accept([self = shared_from_this()](error_code failed, tcp::socket socket) {
      if (self->closed_) return;
      if (failed == asio::error::no_descriptors || failed == asio::error::no_memory ||
          failed == asio::error::no_buffer_space) {
        self->accept_timer_.expires_after(kNoDescriptors);
        self->accept_timer_.async_wait([self](error_code) { self->accept(); });
        return;
      }
      if (!failed) self->add(std::move(socket));
      self->accept();
    });
  }

  void add(tcp::socket socket) {
    close_on_exec(socket.native_handle());
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const int id = next_id_++;
    auto connection = std::make_shared<Connection>(std::move(socket));
    connections_[id] = connection;
    hub_.connected(id, now_ns());
    pump();
    read(id, connection);
  }

  void read(int id, const std::shared_ptr<Connection>& connection) {
    if (closed_ || connection->closing || !connection->socket.is_open()) return;
    connection->socket.async_read_some(
        asio::buffer(connection->buffer),
        [self = shared_from_this(), id, connection](error_code failed, std::size_t count) {
          if (self->closed_ || connection->closing) return;
          if (failed)
            self->hub_.disconnected(id, "its connection closed", now_ns());
          else
            self->hub_.received(id, {connection->buffer.data(), count}, now_ns());
          self->pump();
          if (!failed) self->read(id, connection);
        });
  }

  // Carries out what the hub wants. The sink may call abort(), which lands here again: then the
  // outer call goes on with it.
  void pump() {
    if (pumping_) return;
    pumping_ = true;
    for (;;) {
      std::vector<HubAction> actions = hub_.take_actions();
      const std::vector<HubEvent> events = hub_.take_events();
      if (actions.empty() && events.empty()) break;
      for (HubAction& action : actions) carry_out(std::move(action));
      for (const HubEvent& event : events) sink_(event);
    }
    pumping_ = false;
    arm();
  }

  void carry_out(HubAction action) {
    const auto at = connections_.find(action.peer);
    if (at == connections_.end()) return;
    const std::shared_ptr<Connection> connection = at->second;
    if (!action.bytes.empty()) {
      connection->queued_bytes += action.bytes.size();
      if (connection->queued_bytes > static_cast<std::size_t>(limits::kPeerQueueBytes)) {
        connections_.erase(at);
        connection->shut();
        hub_.disconnected(action.peer, "it is too slow to read", now_ns());
        return;
      }
      connection->queue.push_back(std::move(action.bytes));
      write(connection);
    }
    if (!action.close) return;
    connections_.erase(at);
    connection->closing = true;
    if (!connection->writing) return connection->shut();
    connection->close_timer.expires_after(kCloseTime);
    connection->close_timer.async_wait([connection](error_code failed) {
      if (!failed) connection->shut();
    });
  }

  void write(const std::shared_ptr<Connection>& connection) {
    if (connection->writing || connection->queue.empty() || !connection->socket.is_open()) return;
    connection->writing = true;
    asio::async_write(connection->socket, asio::buffer(connection->queue.front()),
                      [self = shared_from_this(), connection](error_code failed, std::size_t) {
                        connection->writing = false;
                        connection->queued_bytes -= connection->queue.front().size();
                        connection->queue.pop_front();
                        if (failed) return connection->shut();  // the reader tells the hub
                        if (connection->queue.empty() && connection->closing)
                          return connection->shut();
                        self->write(connection);
                      });
  }

  void arm() {
    if (closed_) return;
    const Nanoseconds next = hub_.next_deadline();
    if (next == armed_for_) return;
    armed_for_ = next;
    if (next == std::numeric_limits<Nanoseconds>::max()) {
      timer_.cancel();
      return;
    }
    timer_.expires_after(std::chrono::nanoseconds(std::max<Nanoseconds>(0, next - now_ns())));
    timer_.async_wait([self = shared_from_this()](error_code failed) {
      if (failed || self->closed_) return;
      self->armed_for_ = 0;
      self->hub_.tick(now_ns());
      self->pump();
    });
  }

  tcp::acceptor acceptor_;
  asio::steady_timer timer_, accept_timer_;
  Hub hub_;
  Sink sink_;
  std::map<int, std::shared_ptr<Connection>> connections_;
  int next_id_ = 0;
  unsigned short port_ = 0;
  bool pumping_ = false, closed_ = false;
  Nanoseconds armed_for_ = 0;
};

Server::Server(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { impl_->close(); }

Result<std::unique_ptr<Server>> Server::open(asio::io_context& context, HubConfig config, Sink sink,
                                             const std::string& address) {
  auto impl = std::make_shared<Impl>(context, std::move(config), std::move(sink));
  if (Status s = impl->listen(address); !s) return s.error();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

void Server::start() { impl_->start(); }
unsigned short Server::port() const { return impl_->port(); }
void Server::abort(const Abort& cause) { impl_->abort(cause); }
const Hub& Server::hub() const { return impl_->hub(); }

}  // namespace tandem::exec
