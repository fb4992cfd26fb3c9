#include "exec/rendezvous/client.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "exec/device/clock.h"
#include "exec/rendezvous/member.h"

namespace tandem::exec {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr Nanoseconds kMs = 1'000'000;

Error cannot_join(const char* code, const char* title, std::string found) {
  return make_error(Failure::peer_lost, code, title, std::move(found),
                    "the launcher of this run, with all its ranks",
                    "raise execute.timeout if the machine is slow to start ranks");
}

}  // namespace

// Everything but the marked parts is touched by the thread only.
class Client::Impl : public std::enable_shared_from_this<Client::Impl> {
 public:
  explicit Impl(ClientConfig config)
      : config_(std::move(config)),
        socket_(context_),
        timer_(context_),
        guard_(asio::make_work_guard(context_)) {}

  Status run() {
    end_ = now_ns() + static_cast<Nanoseconds>(config_.timeout_s * 1e9);
    asio::post(context_, [self = shared_from_this()] { self->attempt(); });
    thread_ = std::thread([this] {
      ::pthread_setname_np(::pthread_self(), "control");
      context_.run();
    });
    std::unique_lock lock(mutex_);
    // The launcher speaks first when ranks are missing; this bounds a launcher that is silent.
    const auto limit = std::chrono::duration<double>(config_.timeout_s + 2);
    if (!changed_.wait_for(lock, limit, [&] { return running_ || failure_; }))
      return cannot_join("E-RDZV-003", "not all ranks joined the run", "the launcher is silent");
    if (failure_) return *failure_;
    return Ok{};
  }

  void stop() {
    asio::post(context_, [self = shared_from_this()] {
      self->stopping_ = true;
      error_code ignored;
      self->timer_.cancel();
      self->socket_.close(ignored);
      self->guard_.reset();
    });
    if (thread_.joinable()) thread_.join();
  }

  // Runs `action` on the member, on the thread.
  void with_member(std::function<void(Member&)> action) {
    asio::post(context_, [self = shared_from_this(), action = std::move(action)] {
      if (!self->member_) return;
      action(*self->member_);
      self->pump();
    });
  }

  Status meet() {
    const std::uint32_t number = barriers_++;
    with_member([number](Member& m) { (void)m.barrier(number); });
    std::unique_lock lock(mutex_);
    const auto limit = std::chrono::duration<double>(config_.timeout_s);
    const bool told = changed_.wait_for(
        lock, limit, [&] { return barriers_passed_ > number || aborted_ || closed_; });
    if (barriers_passed_ > number) return Ok{};
    const std::string where = fmt::format("rank {}, barrier {}", config_.join.rank, number);
    if (told)
      return make_error(Failure::peer_lost, "E-EXEC-043", "the run was aborted", where,
                        "all ranks of the run", "look at the first cause");
    return make_error(Failure::peer_lost, "E-EXEC-042", "a peer did not answer in time",
                      fmt::format("{}: not all ranks came within {:g} s", where, config_.timeout_s),
                      "all ranks of the run",
                      "raise execute.timeout where ranks write checkpoints at different speeds");
  }

  void leave() {
    with_member([](Member& m) { (void)m.bye(now_ns()); });
    std::unique_lock lock(mutex_);
    (void)changed_.wait_for(lock, std::chrono::seconds(1), [&] { return closed_; });
  }

 private:
  void attempt() {
    if (stopping_) return;
    error_code failed;
    const auto ip = asio::ip::make_address(config_.host, failed);
    if (failed)
      return fail(cannot_join("E-RDZV-001", "the launcher cannot be reached",
                              config_.host + ": " + failed.message()));
    ++generation_;
    unsent_.clear();
    socket_ = tcp::socket(context_);
    socket_.open(ip.is_v4() ? tcp::v4() : tcp::v6(), failed);
    if (failed) return again(failed.message());
    ::fcntl(socket_.native_handle(), F_SETFD, FD_CLOEXEC);
    timer_.expires_after(std::chrono::nanoseconds(std::max<Nanoseconds>(1, end_ - now_ns())));
    timer_.async_wait([self = shared_from_this()](error_code cancelled) {
      error_code ignored;
      if (!cancelled) self->socket_.close(ignored);
    });
    socket_.async_connect({ip, config_.port}, [self = shared_from_this()](error_code refused) {
      self->timer_.cancel();
      if (self->stopping_) return;
      if (refused) return self->again(refused.message());
      error_code ignored;
      self->socket_.set_option(tcp::no_delay(true), ignored);
      self->member_.emplace(MemberConfig{self->config_.join, self->config_.token, random_nonce(),
                                         self->config_.timeout_s},
                            now_ns());
      self->pump();
      self->read();
    });
  }

  // Before the run has taken us in: another attempt, later.
  void again(const std::string& why) {
    const Nanoseconds now = now_ns();
    if (now >= end_)
      return fail(cannot_join("E-RDZV-001", "the launcher cannot be reached",
                              fmt::format("{}:{}: {}", config_.host, config_.port, why)));
    delay_ = delay_ == 0 ? 10 * kMs : std::min(500 * kMs, 2 * delay_);
    // Jitter: half to whole, from the bits of the clock that ranks do not share.
    const Nanoseconds wait = delay_ / 2 + (now / 64) % (delay_ / 2);
    timer_.expires_after(std::chrono::nanoseconds(std::min(wait, end_ - now)));
    timer_.async_wait([self = shared_from_this()](error_code cancelled) {
      if (!cancelled) self->attempt();
    });
  }

  void read() {
    socket_.async_read_some(
        asio::buffer(buffer_),
        [self = shared_from_this(), generation = generation_](error_code failed, std::size_t n) {
          if (self->stopping_ || generation != self->generation_ || !self->member_) return;
          if (failed)
            self->member_->disconnected("the connection closed");
          else
            self->member_->received({self->buffer_.data(), n}, now_ns());
          self->pump();
          if (!failed && generation == self->generation_ && self->member_ &&
              !self->member_->wants_close())
            self->read();
        });
  }

  void pump() {
    if (!member_) return;
    unsent_ += member_->take_bytes();
    write();
    for (const MemberEvent& event : member_->take_events()) handle(event);
    if (member_) arm();
  }

  void handle(const MemberEvent& event) {
    switch (event.kind) {
      case MemberEvent::Kind::running:
        in_ = true;
        return wake([this] { running_ = true; });
      case MemberEvent::Kind::refused:
        return fail(cannot_join("E-RDZV-002", "the launcher refused the rank", event.text));
      case MemberEvent::Kind::abort:
        if (!in_)
          return fail(
              cannot_join("E-RDZV-004", "the run was stopped before it began", event.abort.text));
        if (config_.on_abort) config_.on_abort(event.abort);
        return wake([this] { aborted_ = true; });
      case MemberEvent::Kind::closed:
        return closed(event.text);
      case MemberEvent::Kind::barrier:
        return wake([&] { barriers_passed_ = event.barrier + 1; });
      case MemberEvent::Kind::clock:  // for transports that set themselves up over this plane
      case MemberEvent::Kind::comm_id:
        return;
    }
  }

  // Changes what the callers' threads wait for.
  template <class Change>
  void wake(Change&& change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }

  void closed(const std::string& why) {
    error_code ignored;
    timer_.cancel();
    socket_.close(ignored);
    member_.reset();
    if (!greeted_) return again(why);
    if (!in_) return fail(cannot_join("E-RDZV-003", "not all ranks joined the run", why));
    if (!why.empty() && config_.on_lost) config_.on_lost(why);
    wake([this] { closed_ = true; });
  }

  void fail(Error error) {
    error_code ignored;
    timer_.cancel();
    socket_.close(ignored);
    member_.reset();
    wake([&] {
      if (!failure_) failure_ = std::move(error);
      closed_ = true;
    });
  }

  void write() {
    if (writing_ || unsent_.empty()) return;
    writing_ = true;
    sending_ = std::exchange(unsent_, {});
    asio::async_write(
        socket_, asio::buffer(sending_),
        [self = shared_from_this(), generation = generation_](error_code failed, std::size_t) {
          self->writing_ = false;
          if (!failed || generation != self->generation_) self->write();
        });
  }

  void arm() {
    if (member_->joined()) greeted_ = true;
    const Nanoseconds next = member_->next_deadline();
    timer_.expires_after(
        std::chrono::nanoseconds(std::clamp<Nanoseconds>(next - now_ns(), 0, 3600'000 * kMs)));
    timer_.async_wait([self = shared_from_this()](error_code cancelled) {
      if (cancelled || self->stopping_ || !self->member_) return;
      if (self->config_.heartbeat) self->member_->set_heartbeat(self->config_.heartbeat());
      self->member_->tick(now_ns());
      self->pump();
    });
  }

  ClientConfig config_;
  asio::io_context context_{1};
  tcp::socket socket_;
  asio::steady_timer timer_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::optional<Member> member_;
  std::array<char, 4096> buffer_;
  std::string unsent_, sending_;
  bool writing_ = false, stopping_ = false, in_ = false, greeted_ = false;
  int generation_ = 0;
  Nanoseconds end_ = 0, delay_ = 0;
  std::thread thread_;
  std::uint32_t barriers_ = 0;  // meet() only

  std::mutex mutex_;  // below
  std::condition_variable changed_;
  bool running_ = false, closed_ = false, aborted_ = false;
  std::uint32_t barriers_passed_ = 0;
  std::optional<Error> failure_;
};

Client::Client(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() { impl_->stop(); }

Result<std::unique_ptr<Client>> Client::connect(ClientConfig config) {
  std::unique_ptr<Client> client(new Client(std::make_shared<Impl>(std::move(config))));
  if (Status s = client->impl_->run(); !s) return s.error();
  return client;
}

void Client::report(const Report& report) {
  impl_->with_member([report](Member& m) { (void)m.report(report); });
}
void Client::abort(const Abort& cause) {
  impl_->with_member([cause](Member& m) { (void)m.abort(cause); });
}
Status Client::meet() { return impl_->meet(); }
void Client::leave() { impl_->leave(); }

}  // namespace tandem::exec
