// Goal    rows whose number only the run knows: every member gets the rows that are its own, sums
//         are made in rank order, and the counters are the law of unequal parts (laws.h).
// Method  all_to_all, all_gather and reduce_scatter over real sockets, one thread a rank, with
// counts
//         that have zeros, a member without any row, and more than a socket holds; against a
//         serial loop. Members whose counts differ are told, both of them.
#include <doctest/doctest.h>

#include <array>
#include <numeric>

#include "common/collective/laws.h"
#include "tests/exec/transport/plans.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr std::array kAlgorithms = {
    CollectiveAlgorithm::ring, CollectiveAlgorithm::halving_doubling, CollectiveAlgorithm::direct};
constexpr std::int64_t kWidth = 3;  // elements of a row

using Counts = std::vector<std::int32_t>;
using Rows = std::vector<float>;

// Two counts for each member: rows of member m for (or from) a peer. Many zeros; member 1 has none.
std::int32_t count_of(int member, int which, std::int32_t scale) {
  if (member == 1) return 0;
  return (member * 5 + which * 3 + 1) % 4 * scale;
}

// Rows of each member as those that all know, [n * 2].
Counts shared_counts(int n, std::int32_t scale) {
  Counts out;
  for (int m = 0; m < n; ++m)
    for (int which : {0, 1}) out.push_back(count_of(m, which, scale));
  return out;
}

std::int64_t rows_of(const Counts& counts, int member) {
  const auto i = static_cast<std::size_t>(2 * member);
  return std::int64_t{counts[i]} + counts[i + 1];
}

std::vector<std::int64_t> starts_of(const Counts& counts, int n) {
  std::vector<std::int64_t> at = {0};
  for (int m = 0; m < n; ++m) at.push_back(at.back() + kWidth * rows_of(counts, m));
  return at;
}

// Fractions of very different size: their sum shows the order of additions.
float value(int member, std::int64_t e) {
  return static_cast<float>(1.0 / (3 + member * 7 + static_cast<double>(e % 1009)) *
                            (member % 2 ? 1e8 : 1));
}

CommOperands operands(Rows& data, Rows& source, const Counts& send, const Counts& recv) {
  CommOperands o;
  o.data = reinterpret_cast<std::byte*>(data.data());
  o.bytes = std::ssize(data) * 4;
  o.source = reinterpret_cast<std::byte*>(source.data());
  o.source_bytes = std::ssize(source) * 4;
  o.send_rows = send, o.recv_rows = recv;
  o.row_bytes = kWidth * 4;
  return o;
}

struct Case {
  OpKind kind;
  CollectiveAlgorithm algorithm;
  int n;
  std::int32_t scale;
  bool strict;
};

// all_gather and reduce_scatter: counts that all members share.
void check_shared(const Case& c) {
  CAPTURE(name_of(c.kind));
  CAPTURE(name_of(c.algorithm));
  CAPTURE(c.n);
  CAPTURE(c.scale);
  const bool gathers = c.kind == OpKind::all_gather;
  const Counts counts = shared_counts(c.n, c.scale), none;
  const std::vector<std::int64_t> at = starts_of(counts, c.n);
  // COUNT is the balanced number; here it only has to be the same for all.
  const Plan plan = group_plan(c.n, {{c.kind, kWidth * c.n * 100}});
  const auto transports = make_transports(plan, {10'000'000'000, {true, c.algorithm}, c.strict});
  std::vector<Rows> data, source;
  for (int i = 0; i < c.n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    const std::int64_t own = at[k + 1] - at[k], room = 4;  // memory has room for more rows
    data.emplace_back((gathers ? at.back() : own) + room, -1.F);
    source.emplace_back();
    for (std::int64_t e = 0; e < (gathers ? own : at.back()) + room; ++e)
      source.back().push_back(value(i, gathers ? at[k] + e : e));
  }
  std::vector<std::string> errors(static_cast<std::size_t>(c.n));
  on_threads(c.n, [&](int i) {
    const auto k = static_cast<std::size_t>(i);
    const auto r = transports[k]->run(
        OpId{0}, 0, operands(data[k], source[k], gathers ? none : counts, gathers ? counts : none));
    if (!r) errors[k] = to_text(r.error().diagnostics);
  });
  for (int i = 0; i < c.n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    REQUIRE(errors[k] == "");
    const std::int64_t own = at[k + 1] - at[k];
    std::int64_t wrong = 0;
    for (std::int64_t e = 0; e < (gathers ? at.back() : own); ++e) {
      int owner = 0;  // of a gathered element
      while (gathers && at[static_cast<std::size_t>(owner) + 1] <= e) ++owner;
      float want = value(gathers ? owner : 0, gathers ? e : at[k] + e);
      for (int m = 1; m < c.n && !gathers; ++m) want += value(m, at[k] + e);
      const float got = data[k][static_cast<std::size_t>(e)];
      // Only `direct` promises the order of the ranks.
      const bool exact = gathers || c.algorithm == CollectiveAlgorithm::direct;
      wrong += exact ? got != want : std::abs(got - want) > 1e-5F * std::abs(want);
    }
    CHECK(wrong == 0);
    CHECK(data[k].back() == -1.F);  // nothing beyond the rows
    const Traffic t = transports[k]->traffic(OpId{0});
    const Collective collective = gathers ? Collective::all_gather : Collective::reduce_scatter;
    CHECK(t.sent == 4 * elements_sent(collective, c.algorithm, at, i));
    CHECK(t.lawful_sent == t.sent);
    CHECK(t.handed_over == 4 * (gathers ? own : at.back()));
  }
}

}  // namespace

TEST_CASE("rows: all_gather and reduce_scatter of parts of unequal size, every algorithm") {
  for (OpKind kind : {OpKind::all_gather, OpKind::reduce_scatter})
    for (CollectiveAlgorithm algorithm : kAlgorithms)
      for (int n : {2, 3, 4, 7, 8})
        for (bool strict : {true, false})
          for (std::int32_t scale : {0, 1, 37}) check_shared({kind, algorithm, n, scale, strict});
  for (OpKind kind : {OpKind::all_gather, OpKind::reduce_scatter})
    for (CollectiveAlgorithm algorithm : kAlgorithms)
      check_shared({kind, algorithm, 4, 100'003, true});  // more than a socket holds
}

TEST_CASE("rows: all_to_all, each pair with a number of its own") {
  for (int n : {2, 3, 4, 7})
    for (std::int32_t scale : {0, 1, 20'011}) {
      CAPTURE(n);
      CAPTURE(scale);
      // from[i][2 j + which]: rows of member i for member j.
      std::vector<Counts> from(static_cast<std::size_t>(n)), to(static_cast<std::size_t>(n));
      for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
          for (int which : {0, 1}) {
            const std::int32_t rows = count_of(i, j + which, scale);
            from[static_cast<std::size_t>(i)].push_back(rows);
            to[static_cast<std::size_t>(j)].push_back(rows);
          }
      const Plan plan = group_plan(n, {{OpKind::all_to_all, kWidth * n * 100}});
      const auto transports = make_transports(plan, {10'000'000'000, {}, true});
      std::vector<Rows> data, source;
      for (int i = 0; i < n; ++i) {
        const auto k = static_cast<std::size_t>(i);
        source.emplace_back();
        // Element e of what i has for j is 1000 i + j.
        for (int j = 0; j < n; ++j)
          source[k].insert(source[k].end(), static_cast<std::size_t>(kWidth * rows_of(from[k], j)),
                           static_cast<float>(1000 * i + j));
        std::int64_t arrive = 0;
        for (int j = 0; j < n; ++j) arrive += kWidth * rows_of(to[k], j);
        data.emplace_back(arrive, -1.F);
      }
      on_threads(n, [&](int i) {
        const auto k = static_cast<std::size_t>(i);
        CHECK(transports[k]->run(OpId{0}, 0, operands(data[k], source[k], from[k], to[k])).ok());
      });
      for (int i = 0; i < n; ++i) {
        const auto k = static_cast<std::size_t>(i);
        std::size_t at = 0, wrong = 0;
        for (int j = 0; j < n; ++j)
          for (std::int64_t e = 0; e < kWidth * rows_of(to[k], j); ++e)
            wrong += data[k][at++] != static_cast<float>(1000 * j + i);
        CHECK(wrong == 0);
        CHECK(at == data[k].size());
        const Traffic t = transports[k]->traffic(OpId{0});
        CHECK(t.sent == 4 * (std::ssize(source[k]) - kWidth * rows_of(from[k], i)));
        CHECK(t.lawful_sent == t.sent);
        CHECK(t.handed_over == 4 * std::ssize(source[k]));
      }
    }
}

TEST_CASE("rows: members whose counts differ are told, and nobody waits for bytes") {
  for (OpKind kind : {OpKind::all_gather, OpKind::reduce_scatter}) {
    const bool gathers = kind == OpKind::all_gather;
    const Plan plan = group_plan(2, {{kind, 60}});
    const auto transports = make_transports(plan, {10'000'000'000, {}, true});
    const Counts none;
    const std::array<Counts, 2> counts = {Counts{2, 1}, Counts{2, 3}};  // member 1 has 1, or 3
    std::array<std::string, 2> found;
    on_threads(2, [&](int i) {
      const auto k = static_cast<std::size_t>(i);
      Rows data(60), source(60);
      const auto r = transports[k]->run(
          OpId{0}, 0,
          operands(data, source, gathers ? none : counts[k], gathers ? counts[k] : none));
      CHECK(code_of(r) == "E-EXEC-040");
      found[k] = found_of(r);
    });
    // Member 1's part is 12 B at member 0 and 36 B at member 1.
    CHECK(found[0].find("bytes is 12 here and 36 at rank 1") != std::string::npos);
    CHECK(found[1].find("bytes is 36 here and 12 at rank 0") != std::string::npos);
  }
}

TEST_CASE("rows: more than the buffer or the source has room for is refused before a message") {
  const Plan plan = group_plan(2, {{OpKind::all_gather, 60}});
  const auto transports = make_transports(plan, {10'000'000'000, {}, true});
  const Counts counts = {4, 5}, none;
  on_threads(2, [&](int i) {
    const auto k = static_cast<std::size_t>(i);
    Rows data(9 * kWidth - 1), source(5 * kWidth);
    CHECK(code_of(transports[k]->run(OpId{0}, 0, operands(data, source, none, counts))) ==
          "E-EXEC-045");
  });
}
