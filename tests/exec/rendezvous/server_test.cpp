// Goal    hostile peers beside an honest run on real sockets: the run ends at most 1 s later, and
// the
//         server's memory grows by at most 8 MiB. Nobody without the token gets in.
#include "exec/rendezvous/server.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cstdio>
#include <thread>
#include <utility>

#include "exec/rendezvous/client.h"

using namespace tandem;
using namespace tandem::exec;

#if defined(__SANITIZE_ADDRESS__)
#define TANDEM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TANDEM_ASAN 1
#endif
#endif

namespace {

#ifdef TANDEM_ASAN
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

Token the_token(std::uint8_t fill = 7) {
  std::array<std::uint8_t, 32> bytes{};
  bytes.fill(fill);
  return Token(bytes);
}

// A server on a thread of its own.
class Running {
 public:
  explicit Running(int world, double timeout_s = 20) {
    HubConfig config;
    config.world = world;
    config.version = "v";
    config.plan_id = "beef";
    config.token = the_token();
    config.timeout_s = timeout_s;
    auto server = Server::open(context_, std::move(config), [this](const HubEvent& e) {
      if (e.kind == HubEvent::Kind::bye) ++byes;
      if (e.kind == HubEvent::Kind::lost) ++losses;
      if (e.kind == HubEvent::Kind::running) ++runs;
    });
    REQUIRE(server.ok());
    server_ = std::move(*server);
    port = server_->port();
    server_->start();
    thread_ = std::thread([this] { context_.run(); });
  }
  ~Running() {
    boost::asio::post(context_, [this] {
      server_.reset();
      guard_.reset();
      context_.stop();
    });
    thread_.join();
  }
  void abort(const std::string& why) {
    boost::asio::post(context_, [this, why] { server_->abort({1, why}); });
  }
  std::atomic<int> byes{0}, losses{0}, runs{0};
  unsigned short port = 0;

 private:
  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_{
      context_.get_executor()};
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

ClientConfig config_of(const Running& server, int rank, int world) {
  ClientConfig config;
  config.port = server.port;
  config.join = {"v", "beef", world, rank, "local", ""};
  config.token = the_token();
  config.timeout_s = 20;
  return config;
}

// `world` ranks join, report 20 steps over 0.4 s, and leave. Seconds it took.
double honest_run(const Running& server, int world) {
  const auto start = Clock::now();
  std::vector<std::thread> ranks;
  std::atomic<int> failed{0};
  for (int rank = 0; rank < world; ++rank)
    ranks.emplace_back([&, rank] {
      Result<std::unique_ptr<Client>> client = Client::connect(config_of(server, rank, world));
      if (!client) {
        ++failed;
        return;
      }
      for (int step = 0; step < 20; ++step) {
        Report report;
        report.step = step;
        (*client)->report(report);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      (*client)->leave();
    });
  for (std::thread& t : ranks) t.join();
  CHECK(failed == 0);
  return since(start);
}

class Raw {
 public:
  explicit Raw(unsigned short port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  Raw(Raw&& other) noexcept : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_) {}
  Raw& operator=(Raw&& other) noexcept {
    std::swap(fd_, other.fd_);
    connected_ = other.connected_;
    return *this;
  }
  ~Raw() {
    if (fd_ >= 0) ::close(fd_);
  }
  bool send(std::string_view bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // Until the server closes, or the time is over. True: closed.
  bool closed_within(double seconds, std::string* got = nullptr) const {
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    for (;;) {
      const double left = std::chrono::duration<double>(end - Clock::now()).count();
      pollfd p{fd_, POLLIN, 0};
      if (left <= 0 || ::poll(&p, 1, static_cast<int>(left * 1000) + 1) <= 0) return false;
      char buffer[4096];
      const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return true;
      if (got) got->append(buffer, static_cast<std::size_t>(n));
    }
  }
  [[nodiscard]] bool connected() const { return connected_; }

 private:
  int fd_;
  bool connected_ = false;
};

std::int64_t resident_bytes() {
  long pages = 0, resident = 0;
  if (FILE* f = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return resident * ::sysconf(_SC_PAGESIZE);
}

std::string tls_hello() {
  std::string out = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01};
  return out + std::string(504, '\x2a');
}

std::string header(std::uint16_t type, std::uint32_t length) {
  std::string out = encode_frame(MessageType::bye, "");
  out[6] = static_cast<char>(type);
  for (int i = 0; i < 4; ++i)
    out[8 + static_cast<std::size_t>(i)] = static_cast<char>(length >> 8 * i);
  return out;
}

}  // namespace

TEST_CASE("server: an honest run") {
  Running server(3);
  CHECK(honest_run(server, 3) < 3);
  CHECK(server.byes == 3);
  CHECK(server.losses == 0);
}

TEST_CASE("server: payloads that are no frame are closed at once") {
  Running server(1);
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), tls_hello(), header(1, 0x40000000),
        header(1, 0), header(3, 32) + std::string(32, 'x'),
        encode_frame(MessageType::report, std::string(100, 'x')), std::string(12, '\0')}) {
    const Raw peer(server.port);
    REQUIRE(peer.connected());
    peer.send(bytes);
    std::string got;
    CHECK(peer.closed_within(1, &got));
    CHECK(got.empty());
  }
}

TEST_CASE("server: half a frame, then silence, is closed after 1 s") {
  Running server(1);
  const Raw peer(server.port);
  const auto start = Clock::now();
  peer.send(encode_frame(MessageType::hello, encode(Nonce{})).substr(0, 20));
  CHECK(peer.closed_within(3));
  CHECK(since(start) > 0.9);
  CHECK(since(start) < 2);
}

TEST_CASE("server: a wrong token ends without an answer; a wrong plan with one") {
  Running server(2);
  const Raw peer(server.port);
  peer.send(encode_frame(MessageType::hello, encode(Nonce{})));
  peer.send(encode_frame(MessageType::proof, encode(Proof{})));
  std::string got;
  CHECK(peer.closed_within(1, &got));
  CHECK(got.size() == kFrameHeaderBytes + 32);  // CHALLENGE and nothing more

  ClientConfig config = config_of(server, 0, 2);
  config.join.plan_id = "f00d";
  const auto start = Clock::now();
  const auto client = Client::connect(std::move(config));
  REQUIRE(!client.ok());
  CHECK(client.error().diagnostics[0].code == "E-RDZV-002");
  CHECK(client.error().diagnostics[0].found == "plan: rank 0 has f00d, this run beef");
  CHECK(since(start) < 1);
}

TEST_CASE("client: nothing listens, somebody else listens, others do not come") {
  ClientConfig config;
  config.join = {"v", "beef", 1, 0, "local", ""};
  config.token = the_token();
  config.timeout_s = 0.4;
  {
    // A port that was free a moment ago.
    Running server(1);
    config.port = server.port;
  }
  auto start = Clock::now();
  auto client = Client::connect(config);
  REQUIRE(!client.ok());
  CHECK(client.error().diagnostics[0].code == "E-RDZV-001");
  CHECK(since(start) < 1.5);

  Running server(2, 0.5);
  config.port = server.port;
  config.token = the_token(8);
  client = Client::connect(config);
  REQUIRE(!client.ok());
  CHECK(client.error().diagnostics[0].code == "E-RDZV-001");

  config.token = the_token();
  config.join.world = 2;
  start = Clock::now();
  client = Client::connect(config);
  REQUIRE(!client.ok());
  CHECK(client.error().diagnostics[0].code == "E-RDZV-003");
  CHECK(since(start) < 3);
}

TEST_CASE("client: the run is stopped while it waits for others, and while it runs") {
  Running early(2);
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    early.abort("rank 1: crashed");
  });
  const auto client = Client::connect(config_of(early, 0, 2));
  stopper.join();
  REQUIRE(!client.ok());
  CHECK(client.error().diagnostics[0].code == "E-RDZV-004");
  CHECK(client.error().diagnostics[0].found == "rank 1: crashed");

  Running later(1);
  std::atomic<int> told{0};
  ClientConfig config = config_of(later, 0, 1);
  config.on_abort = [&](const Abort& a) { told += a.rank == 1; };
  const auto running = Client::connect(std::move(config));
  REQUIRE(running.ok());
  const auto start = Clock::now();
  later.abort("rank 1: crashed");
  while (told == 0 && since(start) < 5) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(told == 1);
  CHECK(since(start) < 1);
}

TEST_CASE("client: ranks meet; one that does not come is waited for so long, an abort ends it") {
  Running server(3);
  std::vector<std::unique_ptr<Client>> clients(3);
  const auto on_all = [](int count, auto&& work) {
    std::vector<std::thread> threads;
    for (int r = 0; r < count; ++r) threads.emplace_back([&, r] { work(r); });
    for (std::thread& t : threads) t.join();
  };
  on_all(3, [&](int r) {
    ClientConfig config = config_of(server, r, 3);
    if (r < 2) config.timeout_s = 2;
    Result<std::unique_ptr<Client>> client = Client::connect(std::move(config));
    if (client) clients[static_cast<std::size_t>(r)] = std::move(*client);
  });
  for (const auto& client : clients) REQUIRE(client);
  // Nobody leaves the n-th meeting before everybody has come to it.
  std::atomic<int> arrived{0}, early{0}, failed{0};
  on_all(3, [&](int r) {
    for (int n = 1; n <= 50; ++n) {
      if (r == n % 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++arrived;
      failed += clients[static_cast<std::size_t>(r)]->meet() ? 0 : 1;
      early += arrived < 3 * n ? 1 : 0;
    }
  });
  CHECK(failed == 0);
  CHECK(early == 0);
  CHECK(arrived == 150);

  const auto start = Clock::now();
  const Status missed = clients[0]->meet();  // alone
  REQUIRE(!missed.ok());
  CHECK(missed.error().diagnostics[0].code == "E-EXEC-042");
  CHECK(missed.error().failure == Failure::peer_lost);
  CHECK(since(start) > 1.9);
  CHECK(since(start) < 4);
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    server.abort("rank 1: crashed");
  });
  const Status stopped = clients[2]->meet();
  stopper.join();
  REQUIRE(!stopped.ok());
  CHECK(stopped.error().diagnostics[0].code == "E-EXEC-043");
  CHECK(!clients[2]->meet().ok());  // and later ones end at once
  CHECK(since(start) < 6);
}

TEST_CASE("server: an honest run among hostile peers") {
  Running calm(3);
  const double alone = honest_run(calm, 3);
  Running server(3);
  honest_run(calm, 0);
  ::malloc_trim(0);
  const std::int64_t before = resident_bytes();
  std::atomic<bool> stop{false};
  std::atomic<int> connects{0};
  std::vector<std::thread> hostile;
  // Connect and go, 2,000 times.
  hostile.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) {
      const Raw peer(server.port);
      connects += peer.connected();
    }
  });
  // Garbage, one payload after the other.
  hostile.emplace_back([&] {
    const std::string payloads[] = {
        "GET / HTTP/1.1\r\n\r\n", tls_hello(), header(1, 0x7fffffff), header(1, 0), header(99, 4),
        std::string(4096, '\xff')};
    for (int i = 0; !stop; ++i) {
      const Raw peer(server.port);
      peer.send(payloads[i % 6]);
      (void)peer.closed_within(0.05);
    }
  });
  // Open and silent, as many as there is room for and more.
  hostile.emplace_back([&] {
    std::vector<Raw> open;
    while (!stop) {
      open.emplace_back(server.port);
      open.back().send(encode_frame(MessageType::hello, encode(Nonce{})).substr(0, 1));
      if (open.size() > 64) open.erase(open.begin());
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  const double disturbed = honest_run(server, 3);
  stop = true;
  for (std::thread& t : hostile) t.join();
  MESSAGE("alone " << alone << " s, disturbed " << disturbed << " s, connects " << connects.load()
                   << ", memory +" << (resident_bytes() - before) / 1024 << " KiB");
  CHECK(disturbed < alone + 1);
  CHECK(server.byes == 3);
  CHECK(server.losses == 0);
  // AddressSanitizer keeps freed memory in quarantine: what is resident says nothing there.
  if (!kAddressSanitizer) CHECK(resident_bytes() - before < (8 << 20));
}
