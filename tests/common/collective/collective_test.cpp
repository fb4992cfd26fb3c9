// Goal    step programs do what their collective says and send exactly the bytes of laws.h.
// Method  run all members' steps in memory. A send waits for its receiver (nothing is buffered), so
// a
//         program that needs a buffer stalls here; results are compared with a serial loop.
#include <doctest/doctest.h>

#include <array>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "common/collective/choose.h"
#include "common/collective/laws.h"
#include "common/collective/step.h"

using namespace tandem;

namespace {

constexpr std::array kCollectives = {Collective::all_reduce, Collective::all_gather,
                                     Collective::reduce_scatter, Collective::broadcast};
constexpr std::array kAlgorithms = {CollectiveAlgorithm::ring, CollectiveAlgorithm::tree,
                                    CollectiveAlgorithm::halving_doubling,
                                    CollectiveAlgorithm::direct};
constexpr std::array kSizes = {1, 2, 3, 4, 7, 8, 16, 64};

using Values = std::vector<double>;

// A send or a receive half of a step that has not met its other half yet.
struct Half {
  int peer = -1;
  ChunkSpan span;
  std::size_t step = 0;
};

class Run {
 public:
  Run(Collective collective, CollectiveAlgorithm algorithm, int n, std::int64_t count, int root)
      : n_(n), count_(count) {
    for (int i = 0; i < n; ++i) {
      programs_.push_back(build_steps(collective, algorithm, n, i, root));
      at_.push_back(0);
    }
    sent_.resize(n);
    sends_.resize(n);
    receives_.resize(n);
    contributions_.resize(n);
  }
  // False: some member waits for ever.
  bool run(std::vector<Values>& data) {
    for (bool moved = true; moved;) {
      moved = false;
      for (int i = 0; i < n_; ++i) moved |= open_round(i, data[i]);
      for (int i = 0; i < n_; ++i) moved |= deliver(i, data);
    }
    for (int i = 0; i < n_; ++i)
      if (at_[i] < programs_[i].steps.size() || !sends_[i].empty() || !receives_[i].empty())
        return false;
    return true;
  }
  std::int64_t sent(int member) const { return sent_[member]; }
  int rounds(int member) const {
    return programs_[member].steps.empty() ? 0 : programs_[member].steps.back().round + 1;
  }

 private:
  // All steps of the next round, once the earlier round has ended.
  bool open_round(int i, Values& own) {
    if (!sends_[i].empty() || !receives_[i].empty()) return false;
    finish_sums(i, own);
    const std::vector<Step>& steps = programs_[i].steps;
    if (at_[i] == steps.size()) return false;
    const int round = steps[at_[i]].round;
    for (; at_[i] < steps.size() && steps[at_[i]].round == round; ++at_[i]) {
      const Step& s = steps[at_[i]];
      if (s.send_to >= 0) sends_[i].push_back({s.send_to, s.send, at_[i]});
      if (s.recv_from >= 0) receives_[i].push_back({s.recv_from, s.recv, at_[i]});
    }
    return true;
  }
  // A message passes when its sender and its receiver are both in the round that has it.
  bool deliver(int i, std::vector<Values>& data) {
    bool moved = false;
    for (auto send = sends_[i].begin(); send != sends_[i].end();) {
      std::deque<Half>& in = receives_[send->peer];
      auto receive = in.begin();
      while (receive != in.end() && receive->peer != i) ++receive;
      if (receive == in.end()) {
        ++send;
        continue;
      }
      const ElementSpan from = elements_of(send->span, programs_[i].chunks, count_);
      const ElementSpan to = elements_of(receive->span, programs_[send->peer].chunks, count_);
      REQUIRE(from.begin == to.begin);
      REQUIRE(from.count == to.count);
      sent_[i] += from.count;
      take(i, send->peer, *receive, to, data);
      in.erase(receive);
      send = sends_[i].erase(send);
      moved = true;
    }
    return moved;
  }
  void take(int from, int to, const Half& half, ElementSpan span, std::vector<Values>& data) {
    const StepAction action = programs_[to].steps[half.step].action;
    const double* source = data[from].data() + span.begin;
    double* target = data[to].data() + span.begin;
    if (action == StepAction::reduce_in_rank_order) {
      contributions_[to][from] = {span.begin, Values(source, source + span.count)};
      return;
    }
    for (std::int64_t e = 0; e < span.count; ++e)
      target[e] = action == StepAction::copy ? source[e] : source[e] + target[e];
  }
  void finish_sums(int i, Values& own) {
    if (contributions_[i].empty()) return;
    REQUIRE(static_cast<int>(contributions_[i].size()) == n_ - 1);
    const auto [begin, first] = contributions_[i].begin()->second;
    contributions_[i][i] = {
        begin, Values(own.begin() + begin, own.begin() + begin + static_cast<long>(first.size()))};
    for (std::size_t e = 0; e < first.size(); ++e) {
      double sum = contributions_[i].begin()->second.second[e];
      for (auto it = std::next(contributions_[i].begin()); it != contributions_[i].end(); ++it)
        sum += it->second.second[e];
      own[static_cast<std::size_t>(begin) + e] = sum;
    }
    contributions_[i].clear();
  }
  int n_;
  std::int64_t count_;
  std::vector<MemberProgram> programs_;
  std::vector<std::size_t> at_;
  std::vector<std::int64_t> sent_;
  std::vector<std::deque<Half>> sends_, receives_;
  std::vector<std::map<int, std::pair<std::int64_t, Values>>> contributions_;
};

// Values whose sum depends on the order of summands (in `fractions`), or does not.
Values values_of(int member, std::int64_t count, bool fractions) {
  Values v;
  for (std::int64_t e = 0; e < count; ++e)
    v.push_back(fractions ? 1.0 / static_cast<double>(3 + member * 7 + e) * (member % 2 ? 1e8 : 1)
                          : static_cast<double>(member * 1000 + e));
  return v;
}

void check_results(Collective collective, int n, int root, const std::vector<Values>& before,
                   const std::vector<Values>& after) {
  const std::int64_t count = std::ssize(before[0]);
  Values sums = before[0];
  for (int i = 1; i < n; ++i)
    for (std::int64_t e = 0; e < count; ++e) sums[e] += before[i][e];
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < n; ++c) {
      const ElementSpan span = elements_of({c, 1}, n, count);
      for (std::int64_t e = span.begin; e < span.begin + span.count; ++e) switch (collective) {
          case Collective::all_reduce:
            REQUIRE(after[i][e] == sums[e]);
            break;
          case Collective::reduce_scatter:
            if (c == i) REQUIRE(after[i][e] == sums[e]);
            break;
          case Collective::all_gather:
            REQUIRE(after[i][e] == before[c][e]);
            break;
          case Collective::broadcast:
            REQUIRE(after[i][e] == before[root][e]);
            break;
        }
    }
}

}  // namespace

TEST_CASE("collective: every program gives the serial result and sends the law's bytes") {
  for (Collective collective : kCollectives)
    for (CollectiveAlgorithm algorithm : kAlgorithms)
      for (int n : kSizes)
        // Divisible, not divisible, fewer elements than members, none.
        for (std::int64_t count :
             {std::int64_t{2} * n, std::int64_t{2} * n + 1, std::int64_t{3}, std::int64_t{0}})
          for (int root : {0, n - 1}) {
            CAPTURE(name_of(collective));
            CAPTURE(name_of(algorithm));
            CAPTURE(n);
            CAPTURE(count);
            std::vector<Values> before, after;
            for (int i = 0; i < n; ++i) before.push_back(values_of(i, count, false));
            after = before;
            Run run(collective, algorithm, n, count, root);
            REQUIRE(run.run(after));
            check_results(collective, n, root, before, after);
            for (int i = 0; i < n; ++i)
              REQUIRE(run.sent(i) == elements_sent(collective, algorithm, n, i, count, root));
          }
}

// Law     direct: every element is ((x_0 + x_1) + x_2) + ..., bit for bit, for every n and chunk.
TEST_CASE("collective: direct adds in rank order, bit for bit; a ring does not") {
  int differ = 0;
  for (int n : {2, 3, 4, 7, 8, 16, 64}) {
    std::vector<Values> before;
    for (int i = 0; i < n; ++i) before.push_back(values_of(i, 1000, true));
    std::vector<Values> direct = before, ring = before;
    REQUIRE(Run(Collective::all_reduce, CollectiveAlgorithm::direct, n, 1000, 0).run(direct));
    check_results(Collective::all_reduce, n, 0, before, direct);
    REQUIRE(Run(Collective::all_reduce, CollectiveAlgorithm::ring, n, 1000, 0).run(ring));
    differ += ring != direct;
    for (int i = 1; i < n; ++i) CHECK(ring[i] == ring[0]);  // but all members agree
  }
  CHECK(differ >= 5);  // these values do show the order
}

TEST_CASE("collective: bytes by hand") {
  // 8 members, 8,000 elements: 2 * 7/8 * 8000 for all but the tree.
  for (CollectiveAlgorithm a : {CollectiveAlgorithm::ring, CollectiveAlgorithm::direct,
                                CollectiveAlgorithm::halving_doubling}) {
    CHECK(elements_sent(Collective::all_reduce, a, 8, 3, 8000) == 14000);
    CHECK(elements_sent(Collective::all_gather, a, 8, 3, 8000) == 7000);
    CHECK(elements_sent(Collective::reduce_scatter, a, 8, 3, 8000) == 7000);
  }
  // Tree of 8: 0 has 1, 2; 3 has 7; 4 has none. Up once, down once a child.
  CHECK(elements_sent(Collective::all_reduce, CollectiveAlgorithm::tree, 8, 0, 8000) == 16000);
  CHECK(elements_sent(Collective::all_reduce, CollectiveAlgorithm::tree, 8, 3, 8000) == 16000);
  CHECK(elements_sent(Collective::all_reduce, CollectiveAlgorithm::tree, 8, 4, 8000) == 8000);
  // 10 elements over 3 members: chunks of 3, 3, 4.
  CHECK(elements_of({0, 1}, 3, 10).count == 3);
  CHECK(elements_of({2, 1}, 3, 10).count == 4);
  CHECK(elements_sent(Collective::all_reduce, CollectiveAlgorithm::direct, 3, 2, 10) == 6 + 8);
  CHECK(elements_sent(Collective::all_reduce, CollectiveAlgorithm::ring, 3, 1, 10) == 20 - 3 - 4);
}

// Rows of experts: the chunks of the same steps have sizes that only a run knows.
TEST_CASE("collective: chunks of any size send what the law says") {
  for (int n : kSizes) {
    std::vector<std::int64_t> starts = {0};
    for (int c = 0; c < n; ++c) starts.push_back(starts.back() + (c % 3 == 1 ? 0 : 7 * c + 5));
    for (Collective c :
         {Collective::all_reduce, Collective::all_gather, Collective::reduce_scatter})
      for (CollectiveAlgorithm a : kAlgorithms)
        for (int i = 0; i < n; ++i) {
          const bool tree = effective_algorithm(c, a, n) == CollectiveAlgorithm::tree;
          if (tree) continue;  // cuts the buffer by itself
          std::int64_t sent = 0;
          for (const Step& s : build_steps(c, a, n, i).steps)
            if (s.send_to >= 0)
              sent += starts[static_cast<std::size_t>(s.send.first + s.send.count)] -
                      starts[static_cast<std::size_t>(s.send.first)];
          CHECK(elements_sent(c, a, starts, i) == sent);
        }
  }
  // By hand: 4 members with 10, 0, 3 and 7 elements.
  const std::vector<std::int64_t> starts = {0, 10, 10, 13, 20};
  using A = CollectiveAlgorithm;
  CHECK(elements_sent(Collective::all_gather, A::direct, starts, 0) == 3 * 10);
  CHECK(elements_sent(Collective::all_gather, A::direct, starts, 1) == 0);
  CHECK(elements_sent(Collective::all_gather, A::ring, starts, 2) == 20 - 7);
  CHECK(elements_sent(Collective::all_gather, A::halving_doubling, starts, 2) == 3 + (3 + 7));
  CHECK(elements_sent(Collective::reduce_scatter, A::direct, starts, 3) == 20 - 7);
  CHECK(elements_sent(Collective::reduce_scatter, A::ring, starts, 1) == 20);
}

TEST_CASE("collective: steps are those of the closed form") {
  for (int n : kSizes)
    for (Collective c :
         {Collective::all_reduce, Collective::all_gather, Collective::reduce_scatter})
      for (CollectiveAlgorithm a : {CollectiveAlgorithm::ring, CollectiveAlgorithm::direct,
                                    CollectiveAlgorithm::halving_doubling})
        for (int i = 0; i < n; ++i) CHECK(Run(c, a, n, n, 0).rounds(i) == latency_steps(c, a, n));
  CHECK(latency_steps(Collective::all_reduce, CollectiveAlgorithm::ring, 8) == 14);
  CHECK(latency_steps(Collective::all_reduce, CollectiveAlgorithm::direct, 8) == 2);
  CHECK(latency_steps(Collective::all_reduce, CollectiveAlgorithm::halving_doubling, 8) == 6);
  CHECK(latency_steps(Collective::all_reduce, CollectiveAlgorithm::tree, 8) == 6);
  CHECK(latency_steps(Collective::broadcast, CollectiveAlgorithm::tree, 7) == 2);
}

TEST_CASE("collective: bus factors are those of nccl-tests") {
  CHECK(bus_factor(Collective::all_reduce, 8) == 1.75);
  CHECK(bus_factor(Collective::all_gather, 8) == 0.875);
  CHECK(bus_factor(Collective::reduce_scatter, 4) == 0.75);
  CHECK(bus_factor(Collective::broadcast, 8) == 1.0);
}

TEST_CASE("collective: which algorithm runs") {
  using A = CollectiveAlgorithm;
  const AlgorithmSetting deterministic, fast{false, {}};
  CHECK(choose_collective(Collective::all_reduce, 1 << 20, 64, deterministic) == A::direct);
  CHECK(choose_collective(Collective::all_reduce, 1 << 30, 8, fast) == A::direct);
  CHECK(choose_collective(Collective::all_reduce, 1 << 30, 16, fast) == A::ring);
  CHECK(choose_collective(Collective::all_reduce, 1000, 16, fast) == A::halving_doubling);
  CHECK(choose_collective(Collective::all_reduce, 1000, 17, fast) == A::ring);
  CHECK(choose_collective(Collective::broadcast, 1000, 17, fast) == A::tree);
  CHECK(choose_collective(Collective::all_reduce, 1000, 3, {true, A::tree}) == A::tree);
  // What an algorithm cannot do falls back.
  CHECK(effective_algorithm(Collective::all_gather, A::tree, 8) == A::ring);
  CHECK(effective_algorithm(Collective::all_reduce, A::halving_doubling, 6) == A::ring);
  CHECK(effective_algorithm(Collective::broadcast, A::halving_doubling, 8) == A::tree);
}

TEST_CASE("collective: who talks to whom") {
  CHECK(peers_of(build_steps(Collective::all_reduce, CollectiveAlgorithm::ring, 5, 0)) ==
        std::vector<int>{1, 4});
  CHECK(peers_of(build_steps(Collective::all_reduce, CollectiveAlgorithm::direct, 4, 2)) ==
        std::vector<int>{0, 1, 3});
  CHECK(peers_of(build_steps(Collective::all_reduce, CollectiveAlgorithm::tree, 7, 1)) ==
        std::vector<int>{0, 3, 4});
}
