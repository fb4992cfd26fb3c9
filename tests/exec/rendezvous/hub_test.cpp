// Goal    both ends of the control plane under every deadline and in thousands of random networks,
//         without a socket or a real second.
// Method  hub and members over a simulated network: bytes arrive cut into random pieces after
// random
//         delays, in order. One seed is one run; the seed is shown where a run fails.
#include "exec/rendezvous/hub.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "exec/rendezvous/member.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr Nanoseconds kMs = 1'000'000, kSecond = 1000 * kMs;

Token the_token(std::uint8_t fill = 7) {
  std::array<std::uint8_t, 32> bytes{};
  bytes.fill(fill);
  return Token(bytes);
}

class Net {
 public:
  Net(int world, unsigned seed, double timeout_s = 60) : world_(world), random_(seed) {
    HubConfig config;
    config.world = world;
    config.version = "v";
    config.plan_id = "beef";
    config.token = the_token();
    config.timeout_s = timeout_s;
    config.nonce = [this] {
      Nonce n{};
      for (auto& b : n) b = static_cast<std::uint8_t>(random_());
      return n;
    };
    timeout_s_ = timeout_s;
    hub_ = std::make_unique<Hub>(std::move(config), 0);
    settle_hub();
  }

  // A member that connects at `time`. Gives its peer number.
  int join_at(Nanoseconds time, int rank, const std::string& plan = "beef", std::uint8_t token = 7,
              const std::string& version = "v", int world = 0) {
    const int id = next_++;
    at(time, [=, this] {
      hub_->connected(id, now_);
      Nonce nonce{};
      nonce[0] = static_cast<std::uint8_t>(id);
      members_[id] = std::make_unique<Member>(
          MemberConfig{{version, plan, world ? world : world_, rank, "local", "a"},
                       the_token(token),
                       nonce,
                       timeout_s_},
          now_);
      settle(id);
      settle_hub();
    });
    return id;
  }
  // A peer that sends raw bytes and never reads.
  int stranger_at(Nanoseconds time, std::string bytes) {
    const int id = next_++;
    at(time, [=, this] {
      hub_->connected(id, now_);
      settle_hub();
      to_hub(id, bytes);
    });
    return id;
  }
  void at(Nanoseconds time, std::function<void()> action) {
    queue_.emplace(std::pair{std::max(time, now_), sequence_++}, std::move(action));
  }
  void run_until(Nanoseconds end) {
    while (!queue_.empty() && queue_.begin()->first.first <= end) {
      auto node = queue_.extract(queue_.begin());
      now_ = node.key().first;
      node.mapped()();
    }
    now_ = end;
  }
  void cut(int id) {  // the connection of a peer breaks
    gone_.insert(id);
    hub_->disconnected(id, "its connection closed", now_);
    if (members_.contains(id)) members_[id]->disconnected("the connection closed");
    settle_hub();
    settle(id);
  }
  void act(int id, const std::function<void(Member&)>& action) {
    action(*members_.at(id));
    settle(id);
  }
  void abort_all(const std::string& why) {
    hub_->abort({-1, why}, now_);
    settle_hub();
  }

  Hub& hub() { return *hub_; }
  Member& member(int id) { return *members_.at(id); }
  Nanoseconds now() const { return now_; }
  std::vector<HubEvent> events;                  // of the hub
  std::map<int, std::vector<MemberEvent>> told;  // of members
  std::set<int> closed_by_hub;
  bool quiet = false;  // members stop ticking: no heartbeats

  int count(HubEvent::Kind kind) const {
    int n = 0;
    for (const HubEvent& e : events) n += e.kind == kind;
    return n;
  }
  const HubEvent* find(HubEvent::Kind kind) const {
    for (const HubEvent& e : events)
      if (e.kind == kind) return &e;
    return nullptr;
  }
  int told_of(int id, MemberEvent::Kind kind) {
    int n = 0;
    for (const MemberEvent& e : told[id]) n += e.kind == kind;
    return n;
  }

 private:
  // In order, in pieces.
  void deliver(Nanoseconds& last, const std::string& bytes,
               const std::function<void(const std::string&)>& take) {
    for (std::size_t from = 0; from < bytes.size();) {
      const std::size_t n = 1 + random_() % std::min<std::size_t>(bytes.size() - from, 40);
      last = std::max(last + 1, now_ + static_cast<Nanoseconds>(random_() % 3000) * 1000);
      at(last, [take, piece = bytes.substr(from, n)] { take(piece); });
      from += n;
    }
  }
  void to_hub(int id, const std::string& bytes) {
    deliver(last_to_hub_[id], bytes, [this, id](const std::string& piece) {
      if (gone_.contains(id)) return;
      hub_->received(id, piece, now_);
      settle_hub();
    });
  }
  void settle(int id) {
    const auto at_member = members_.find(id);
    if (at_member == members_.end()) return;
    Member& m = *at_member->second;
    for (MemberEvent& e : m.take_events()) told[id].push_back(std::move(e));
    const std::string bytes = m.take_bytes();
    if (!gone_.contains(id)) to_hub(id, bytes);
    if (m.wants_close() && !gone_.contains(id)) {
      gone_.insert(id);
      // Behind what is under way.
      last_to_hub_[id] = std::max(last_to_hub_[id], now_) + 1;
      at(last_to_hub_[id], [this, id] {
        hub_->disconnected(id, "its connection closed", now_);
        settle_hub();
      });
    }
    const Nanoseconds next = m.next_deadline();
    if (next < 3600 * kSecond && next != ticks_[id]) {
      ticks_[id] = next;
      at(next, [this, id] {
        if (quiet) return;
        members_[id]->tick(now_);
        settle(id);
      });
    }
  }
  void settle_hub() {
    for (;;) {
      auto actions = hub_->take_actions();
      auto news = hub_->take_events();
      if (actions.empty() && news.empty()) break;
      for (HubAction& a : actions) {
        if (!a.bytes.empty() && members_.contains(a.peer))
          deliver(last_to_member_[a.peer], a.bytes, [this, id = a.peer](const std::string& piece) {
            members_[id]->received(piece, now_);
            settle(id);
          });
        if (!a.close) continue;
        closed_by_hub.insert(a.peer);
        at(last_to_member_[a.peer] + 1, [this, id = a.peer] {
          if (!members_.contains(id)) return;
          members_[id]->disconnected("the connection closed");
          settle(id);
        });
      }
      for (HubEvent& e : news) events.push_back(std::move(e));
    }
    const Nanoseconds next = hub_->next_deadline();
    if (next < 3600 * kSecond && next != hub_tick_) {
      hub_tick_ = next;
      at(next, [this] {
        hub_->tick(now_);
        settle_hub();
      });
    }
  }

  int world_;
  double timeout_s_ = 60;
  std::mt19937 random_;
  Nanoseconds now_ = 0, hub_tick_ = -1;
  std::uint64_t sequence_ = 0;
  std::map<std::pair<Nanoseconds, std::uint64_t>, std::function<void()>> queue_;
  std::unique_ptr<Hub> hub_;
  std::map<int, std::unique_ptr<Member>> members_;
  std::map<int, Nanoseconds> last_to_hub_, last_to_member_, ticks_;
  std::set<int> gone_;
  int next_ = 0;
};

int scaled(int count) {
  const char* scale = std::getenv("TANDEM_TEST_SCALE");
  return scale ? std::max(1, static_cast<int>(count * std::atof(scale))) : count;
}

}  // namespace

TEST_CASE("hub: all ranks in, reports, barrier, clock, ids, and a quiet end") {
  Net net(3, 1);
  int id[3];
  for (int rank = 0; rank < 3; ++rank) id[rank] = net.join_at(rank * 10 * kMs, rank);
  net.run_until(kSecond);
  CHECK(net.hub().running());
  for (int i : id) {
    CHECK(net.told_of(i, MemberEvent::Kind::running) == 1);
    CHECK(net.member(i).addresses() == std::vector<std::string>{"a", "a", "a"});
  }
  Report report;
  report.step = 2;
  report.loss = 1.5;
  net.act(id[1], [&](Member& m) { CHECK(m.report(report)); });
  net.act(id[0], [&](Member& m) { CHECK(m.barrier(0)); });
  net.act(id[1], [&](Member& m) { CHECK(m.barrier(0)); });
  net.act(id[2], [&](Member& m) { CHECK(m.clock(net.now())); });
  net.act(id[2], [&](Member& m) { CHECK(m.comm_id({4, 0, "unique"})); });
  net.run_until(2 * kSecond);
  REQUIRE(net.find(HubEvent::Kind::report) != nullptr);
  CHECK(net.find(HubEvent::Kind::report)->report.loss == 1.5);
  CHECK(net.told_of(id[0], MemberEvent::Kind::barrier) == 0);  // one is missing
  CHECK(net.told_of(id[0], MemberEvent::Kind::comm_id) == 1);
  CHECK(net.told_of(id[2], MemberEvent::Kind::comm_id) == 0);
  CHECK(net.told_of(id[2], MemberEvent::Kind::clock) == 1);
  net.act(id[2], [&](Member& m) { CHECK(m.barrier(0)); });
  net.run_until(3 * kSecond);
  for (int i : id) CHECK(net.told_of(i, MemberEvent::Kind::barrier) == 1);
  net.run_until(40 * kSecond);  // heartbeats keep it alive
  CHECK(net.count(HubEvent::Kind::lost) == 0);
  CHECK(net.count(HubEvent::Kind::heartbeat) >= 3 * 7);
  for (int i : id) net.act(i, [&](Member& m) { CHECK(m.bye(net.now())); });
  net.run_until(60 * kSecond);
  CHECK(net.count(HubEvent::Kind::bye) == 3);
  CHECK(net.count(HubEvent::Kind::lost) == 0);
  CHECK(net.hub().num_peers() == 0);
}

TEST_CASE("hub: what differs is named with both values, and the rank stays free") {
  struct Case {
    std::string plan, version;
    int rank, world;
    const char* text;
  };
  const Case cases[] = {
      {"f00d", "v", 1, 0, "plan: rank 1 has f00d, this run beef"},
      {"beef", "w", 1, 0, "version: rank 1 has w, this run v"},
      {"beef", "v", 1, 3, "world: rank 1 has 3, this run 2"},
      {"beef", "v", 2, 0, "rank 2 of a world of 2"},
      {"beef", "v", -5, 0, "rank -5 of a world of 2"},
  };
  for (const Case& c : cases) {
    Net net(2, 3);
    const int bad = net.join_at(0, c.rank, c.plan, 7, c.version, c.world);
    net.run_until(kSecond);
    REQUIRE(net.told_of(bad, MemberEvent::Kind::refused) == 1);
    CHECK(net.told[bad].front().text == c.text);
    net.join_at(kSecond, 0);
    net.join_at(kSecond, 1);
    net.run_until(2 * kSecond);
    CHECK(net.hub().running());
  }
}

TEST_CASE("hub: a second rank 1 is refused and the first stays") {
  Net net(2, 4);
  net.join_at(0, 1);
  const int second = net.join_at(kSecond, 1);
  net.join_at(2 * kSecond, 0);
  const int late = net.join_at(3 * kSecond, 1);  // in a running run
  net.run_until(4 * kSecond);
  for (int i : {second, late}) {
    REQUIRE(net.told_of(i, MemberEvent::Kind::refused) == 1);
    CHECK(net.told[i].front().text == "rank 1 has joined already");
  }
  CHECK(net.hub().running());
  CHECK(net.count(HubEvent::Kind::lost) == 0);
}

TEST_CASE("hub: a stranger without the token learns nothing and is dropped") {
  Net net(1, 5);
  const int bad = net.join_at(0, 0, "beef", /*token=*/8);
  net.run_until(kSecond);
  CHECK(net.closed_by_hub.contains(bad));
  CHECK(net.told_of(bad, MemberEvent::Kind::refused) == 0);
  CHECK(net.hub().missing() == std::vector<int>{0});
  CHECK(net.find(HubEvent::Kind::stranger)->text == "does not know the token");
}

TEST_CASE("member: a server that does not know the token is not believed") {
  Member member({{"v", "p", 1, 0, "local", ""}, the_token(1), Nonce{}, 60}, 0);
  (void)member.take_bytes();
  member.received(encode_frame(MessageType::challenge, encode(Nonce{})), 0);
  (void)member.take_bytes();  // PROOF
  member.received(encode_frame(MessageType::proven,
                               encode(prove(the_token(2), Role::server, Nonce{}, Nonce{}))),
                  0);
  CHECK(member.wants_close());
  CHECK(member.take_bytes().empty());  // no JOIN
}

TEST_CASE("hub: a recorded proof is worth nothing to the next connection") {
  // Everything an honest rank sent, replayed.
  Member honest({{"v", "beef", 1, 0, "local", ""}, the_token(), Nonce{}, 60}, 0);
  HubConfig config;
  config.world = 1;
  config.version = "v";
  config.plan_id = "beef";
  config.token = the_token();
  Hub hub(std::move(config), 0);
  std::string recorded;
  const auto pass = [&](int peer, const std::string& bytes) {
    hub.received(peer, bytes, 0);
    std::string back;
    for (const HubAction& a : hub.take_actions()) back += a.bytes;
    return back;
  };
  hub.connected(1, 0);
  for (int i = 0; i < 3; ++i) {
    const std::string bytes = honest.take_bytes();
    recorded += bytes;
    honest.received(pass(1, bytes), 0);
  }
  CHECK(hub.running());
  hub.connected(2, 0);
  pass(2, recorded);
  CHECK(hub.state_of(2) == PeerState::closed);
  CHECK(hub.num_strangers_dropped() == 1);
}

TEST_CASE("hub: deadlines of every state") {
  const std::string hello = encode_frame(MessageType::hello, encode(Nonce{}));
  SUBCASE("no byte: 5 s") {
    Net net(1, 6);
    const int id = net.stranger_at(0, "");
    net.run_until(5 * kSecond - kMs);
    CHECK(net.hub().state_of(id) == PeerState::fresh);
    net.run_until(5 * kSecond);
    CHECK(net.hub().state_of(id) == PeerState::closed);
  }
  SUBCASE("HELLO and nothing more: the same 5 s") {
    Net net(1, 6);
    const int id = net.stranger_at(0, hello);
    net.run_until(4 * kSecond);
    CHECK(net.hub().state_of(id) == PeerState::challenged);
    net.run_until(5 * kSecond);
    CHECK(net.hub().state_of(id) == PeerState::closed);
  }
  SUBCASE("half a frame: 1 s") {
    Net net(1, 6);
    const int id = net.stranger_at(0, hello.substr(0, 20));
    net.run_until(kSecond - kMs);
    CHECK(net.hub().state_of(id) == PeerState::fresh);
    net.run_until(kSecond + 200 * kMs);
    CHECK(net.hub().state_of(id) == PeerState::closed);
  }
  SUBCASE("one byte a second") {
    Net net(1, 6);
    const int id = net.stranger_at(0, "1");
    for (int i = 1; i < 10; ++i) net.at(i * kSecond, [&net, id] { (void)net, (void)id; });
    net.run_until(2 * kSecond);
    CHECK(net.hub().state_of(id) == PeerState::closed);
  }
  SUBCASE("not all ranks: the timeout, with their names") {
    Net net(4, 6, 7);
    net.join_at(0, 2);
    net.run_until(7 * kSecond - kMs);
    CHECK(net.count(HubEvent::Kind::incomplete) == 0);
    net.run_until(7 * kSecond);
    REQUIRE(net.find(HubEvent::Kind::incomplete) != nullptr);
    CHECK(net.find(HubEvent::Kind::incomplete)->text == "0, 1, 3");
  }
  SUBCASE("no heartbeat: 15 s, or the timeout if that is shorter") {
    for (const double timeout : {60.0, 4.0}) {
      Net net(1, 6, timeout);
      net.join_at(0, 0);
      net.run_until(kSecond);
      const Nanoseconds last = net.now();
      CHECK(net.hub().running());
      net.quiet = true;
      const Nanoseconds limit = silence_limit(timeout);
      net.run_until(limit - 2 * kSecond);
      CHECK(net.count(HubEvent::Kind::lost) == 0);
      net.run_until(last + limit);
      REQUIRE(net.find(HubEvent::Kind::lost) != nullptr);
      CHECK(net.find(HubEvent::Kind::lost)->text == "was silent");
    }
  }
}

TEST_CASE("hub: every message in every state either moves on or closes the peer") {
  // The states are reached honestly, then each message follows with an empty payload.
  for (int s = 0; s < kNumPeerStates - 1; ++s)
    for (int type = 1; type <= kNumMessageTypes; ++type) {
      const auto state = static_cast<PeerState>(s);
      const auto message = static_cast<MessageType>(type);
      CAPTURE(name_of(state));
      CAPTURE(name_of(message));
      HubConfig config;
      config.world = state == PeerState::joined ? 2 : 1;
      config.version = "v";
      config.plan_id = "beef";
      config.token = the_token();
      config.nonce = [] { return Nonce{}; };
      Hub hub(std::move(config), 0);
      hub.connected(1, 0);
      const auto send = [&](MessageType t, std::string_view payload) {
        hub.received(1, encode_frame(t, payload), 0);
      };
      if (state >= PeerState::challenged) send(MessageType::hello, encode(Nonce{}));
      if (state >= PeerState::authed)
        send(MessageType::proof, encode(prove(the_token(), Role::client, Nonce{}, Nonce{})));
      if (state >= PeerState::joined)
        send(MessageType::join,
             encode(Join{"v", "beef", state == PeerState::joined ? 2 : 1, 0, "local", ""}));
      if (state == PeerState::draining) send(MessageType::bye, "");
      REQUIRE(hub.state_of(1) == state);
      send(message, "");
      const bool fits =
          may_send(state, message) && message == MessageType::bye && state != PeerState::joined;
      // Every other message needs a payload, so an empty one closes.
      CHECK(hub.state_of(1) == (fits ? PeerState::draining : PeerState::closed));
    }
}

TEST_CASE("hub: full of strangers, it drops the one without progress for longest") {
  Net net(2, 7);
  std::vector<int> strangers;
  for (int i = 0; i < 2 * 2 + 16; ++i) strangers.push_back(net.stranger_at(i * kMs, ""));
  net.run_until(100 * kMs);
  CHECK(net.hub().num_peers() == 20);
  const int rank = net.join_at(100 * kMs, 0);
  net.run_until(200 * kMs);
  CHECK(net.hub().state_of(strangers[0]) == PeerState::closed);
  CHECK(net.hub().state_of(strangers[1]) == PeerState::fresh);
  CHECK(net.hub().state_of(rank) == PeerState::joined);
  CHECK(net.hub().num_peers() == 20);
}

TEST_CASE("hub: strangers are told at most once a second") {
  Net net(1, 8);
  for (int i = 0; i < 300; ++i) net.stranger_at(i * 10 * kMs, "GET / HTTP/1.1\r\n\r\n");
  net.run_until(10 * kSecond);
  CHECK(net.hub().num_strangers_dropped() == 300);
  CHECK(net.count(HubEvent::Kind::stranger) <= 4);
}

TEST_CASE("hub: ABORT goes to all at once, and latecomers get it too") {
  Net net(3, 9);
  const int a = net.join_at(0, 0), b = net.join_at(0, 1);
  net.run_until(kSecond);
  net.abort_all("rank 2: crashed");
  const int late = net.join_at(1500 * kMs, 2);
  net.run_until(2 * kSecond);
  for (int i : {a, b, late}) REQUIRE(net.told_of(i, MemberEvent::Kind::abort) == 1);
  CHECK(net.told[a].front().abort.text == "rank 2: crashed");
  // Whoever stays after that is dropped after 5 s without a word of it.
  net.quiet = true;
  net.run_until(10 * kSecond);
  CHECK(net.hub().num_peers() == 0);
}

TEST_CASE("hub: a rank's ABORT names that rank, whatever it says") {
  Net net(2, 10);
  const int a = net.join_at(0, 0), b = net.join_at(0, 1);
  net.run_until(kSecond);
  net.act(b, [](Member& m) { CHECK(m.abort({0, "mine"})); });
  net.run_until(2 * kSecond);
  CHECK(net.find(HubEvent::Kind::abort)->rank == 1);
  CHECK(net.told_of(a, MemberEvent::Kind::abort) == 1);
  CHECK(net.told_of(b, MemberEvent::Kind::abort) == 0);
  for (const MemberEvent& e : net.told[a])
    if (e.kind == MemberEvent::Kind::abort) CHECK(e.abort.rank == 1);
}

TEST_CASE("hub: thousands of random networks with a fault in each") {
  enum class Kind { none, cut, wrong_token, wrong_plan, duplicate, noise, missing, count };
  const int runs = scaled(4000);
  for (int seed = 0; seed < runs; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(static_cast<unsigned>(seed));
    const int world = 1 + static_cast<int>(random() % 6);
    const auto kind = static_cast<Kind>(random() % static_cast<unsigned>(Kind::count));
    const int victim = static_cast<int>(random() % static_cast<unsigned>(world));
    CAPTURE(static_cast<int>(kind));
    Net net(world, random(), 20);
    std::map<int, int> id;
    const auto soon = [&] { return static_cast<Nanoseconds>(random() % 3000) * kMs; };
    for (int rank = 0; rank < world; ++rank)
      if (kind != Kind::missing || rank != victim) id[rank] = net.join_at(soon(), rank);
    if (kind == Kind::wrong_token) net.join_at(soon(), victim, "beef", 9);
    if (kind == Kind::wrong_plan) net.join_at(soon(), victim, "f00d");
    if (kind == Kind::noise)
      for (int i = 0; i < 20; ++i) {
        std::string bytes(random() % 300, '\0');
        for (char& c : bytes) c = static_cast<char>(random());
        if (i % 2) bytes = encode_frame(static_cast<MessageType>(1 + random() % 15), bytes);
        net.stranger_at(soon(), bytes);
      }
    if (kind == Kind::duplicate) net.join_at(4 * kSecond, victim);
    net.run_until(5 * kSecond);
    if (kind == Kind::cut) net.cut(id[victim]);
    net.run_until(30 * kSecond);

    REQUIRE(net.hub().running() == (kind != Kind::missing));
    CHECK(net.count(HubEvent::Kind::joined) == static_cast<int>(id.size()));
    CHECK(net.count(HubEvent::Kind::incomplete) == (kind == Kind::missing));
    CHECK(net.count(HubEvent::Kind::lost) >= (kind == Kind::cut));
    if (kind == Kind::missing) continue;
    for (const auto& [rank, peer] : id) {
      CHECK(net.told_of(peer, MemberEvent::Kind::running) == 1);
      if (kind == Kind::cut && rank == victim) continue;
      net.act(peer, [&](Member& m) { CHECK(m.bye(net.now())); });
    }
    net.run_until(40 * kSecond);
    CHECK(net.count(HubEvent::Kind::lost) == (kind == Kind::cut));
    CHECK(net.count(HubEvent::Kind::bye) == world - (kind == Kind::cut));
    CHECK(net.hub().num_peers() == 0);
  }
}
