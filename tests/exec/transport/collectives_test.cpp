// Goal    every collective over real sockets gives what a serial loop gives, and moves exactly the
//         bytes of common/collective/laws.h, which are those of the step programs.
// Method  all collectives x algorithms x group sizes x counts x types, one thread a rank; values
//         whose sum shows the order of additions are used where the order is promised (direct).
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <numeric>

#include "common/collective/laws.h"
#include "exec/transport/reduce.h"
#include "tests/exec/transport/plans.h"
#include "tests/exec/transport/run_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

constexpr std::array kSizes = {2, 3, 4, 7, 8};
constexpr std::array kAlgorithms = {CollectiveAlgorithm::ring, CollectiveAlgorithm::tree,
                                    CollectiveAlgorithm::halving_doubling,
                                    CollectiveAlgorithm::direct};
constexpr std::array kKinds = {OpKind::all_reduce, OpKind::all_gather, OpKind::reduce_scatter,
                               OpKind::broadcast};

Collective collective_of(OpKind kind) {
  if (kind == OpKind::all_gather) return Collective::all_gather;
  if (kind == OpKind::reduce_scatter) return Collective::reduce_scatter;
  return kind == OpKind::broadcast ? Collective::broadcast : Collective::all_reduce;
}

// Fractions of very different size: their sum depends on the order. Else small whole numbers, whose
// sum is exact in any order.
template <class T>
T value(int member, std::int64_t e, bool fractions) {
  if (!fractions) return static_cast<T>((member + 1) * 100 + e % 97);
  return static_cast<T>(1.0 / (3 + member * 7 + static_cast<double>(e)) * (member % 2 ? 1e8 : 1));
}

template <class T>
std::vector<T> values_of(int member, std::int64_t count, bool fractions) {
  std::vector<T> v;
  for (std::int64_t e = 0; e < count; ++e) v.push_back(value<T>(member, e, fractions));
  return v;
}

// The serial reference: what element e must be at `member`; false where it is undefined.
template <class T>
bool expected(OpKind kind, Reduction reduction, int n, int member, std::int64_t count,
              std::int64_t e, bool fractions, T& out) {
  int chunk = 0;
  while (elements_of({0, chunk + 1}, n, count).count <= e) ++chunk;
  if (kind == OpKind::reduce_scatter && chunk != member) return false;
  if (kind == OpKind::all_gather || kind == OpKind::broadcast) {
    out = value<T>(kind == OpKind::broadcast ? 0 : chunk, e, fractions);
    return true;
  }
  out = value<T>(0, e, fractions);
  for (int m = 1; m < n; ++m) {
    const T next = value<T>(m, e, fractions);
    out = reduction == Reduction::max ? std::max(out, next) : static_cast<T>(out + next);
  }
  return true;
}

struct Case {
  OpKind kind;
  CollectiveAlgorithm algorithm;
  int n;
  std::int64_t count;  // of the op: all_gather hands over count from each
  DType dtype;
  Reduction reduction = Reduction::sum;
  bool strict = true;
};

template <class T>
void check(const Case& c) {
  CAPTURE(name_of(c.kind));
  CAPTURE(name_of(c.algorithm));
  CAPTURE(c.n);
  CAPTURE(c.count);
  CAPTURE(name_of(c.dtype));
  const Plan plan = group_plan(c.n, {{c.kind, c.count, c.dtype, c.reduction}});
  const LocalOptions options{10'000'000'000, {true, c.algorithm}, c.strict};
  const std::int64_t whole = c.kind == OpKind::all_gather ? c.count * c.n : c.count;
  const bool fractions = c.algorithm == CollectiveAlgorithm::direct;
  const auto transports = make_transports(plan, options);
  std::vector<std::vector<T>> data;
  for (int i = 0; i < c.n; ++i) data.push_back(values_of<T>(i, whole, fractions));
  std::vector<std::string> errors(static_cast<std::size_t>(c.n));
  on_threads(c.n, [&](int i) {
    const auto k = static_cast<std::size_t>(i);
    const auto r = transports[k]->run(
        OpId{0}, 0,
        {reinterpret_cast<std::byte*>(data[k].data()), whole * static_cast<Bytes>(sizeof(T))});
    if (!r) errors[k] = to_text(r.error().diagnostics);
  });
  Bytes sent = 0, received = 0;
  for (int i = 0; i < c.n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    REQUIRE(errors[k] == "");
    std::int64_t wrong = 0;
    for (std::int64_t e = 0; e < whole; ++e) {
      T want{};
      if (expected<T>(c.kind, c.reduction, c.n, i, whole, e, fractions, want))
        wrong += std::memcmp(&want, &data[k][static_cast<std::size_t>(e)], sizeof(T)) != 0;
    }
    REQUIRE(wrong == 0);
    const Traffic t = transports[k]->traffic(OpId{0});
    const auto law = elements_sent(collective_of(c.kind), c.algorithm, c.n, i, whole);
    REQUIRE(t.sent == law * static_cast<Bytes>(sizeof(T)));
    REQUIRE(t.operations == 1);
    sent += t.sent;
    received += t.received;
  }
  REQUIRE(sent == received);
}

}  // namespace

TEST_CASE("collectives: serial results and the law's bytes, f32 and f64") {
  for (OpKind kind : kKinds)
    for (CollectiveAlgorithm algorithm : kAlgorithms)
      for (int n : kSizes)
        // None, fewer elements than members, odd, many pieces and more than a socket holds.
        for (std::int64_t count : {0, 1, 5, 1001, 40'003}) {
          check<float>({kind, algorithm, n, count, DType::f32});
          if (count != 40'003) check<double>({kind, algorithm, n, count, DType::f64});
        }
}

TEST_CASE("collectives: the same when a small first message travels with the header") {
  for (OpKind kind : kKinds)
    for (CollectiveAlgorithm algorithm : kAlgorithms)
      for (int n : {2, 3, 4})
        for (std::int64_t count : {0, 5, 1001, 40'003})
          check<float>({kind, algorithm, n, count, DType::f32, Reduction::sum, false});
}

TEST_CASE("collectives: more than the sockets hold, in both directions at once") {
  for (CollectiveAlgorithm algorithm : kAlgorithms)
    check<float>({OpKind::all_reduce, algorithm, 4, 3'000'001, DType::f32});
}

TEST_CASE("collectives: max, and whole numbers") {
  for (CollectiveAlgorithm algorithm : kAlgorithms) {
    check<float>({OpKind::all_reduce, algorithm, 3, 1001, DType::f32, Reduction::max});
    check<double>({OpKind::all_reduce, algorithm, 4, 77, DType::f64, Reduction::max});
    check<std::int64_t>({OpKind::all_reduce, algorithm, 4, 77, DType::i64});
    check<std::int32_t>({OpKind::reduce_scatter, algorithm, 4, 77, DType::i32, Reduction::max});
  }
}

TEST_CASE("collectives: direct shows the order of the ranks; a ring adds in another") {
  // The reference adds 0, 1, 2, ...; with these values a ring's sums differ in some last bit.
  const int n = 7;
  const std::int64_t count = 1001;
  const Plan plan = group_plan(n, {{OpKind::all_reduce, count}});
  const LocalOptions options{10'000'000'000, {true, CollectiveAlgorithm::ring}};
  const auto transports = make_transports(plan, options);
  std::vector<std::vector<float>> data;
  for (int i = 0; i < n; ++i) data.push_back(values_of<float>(i, count, true));
  on_threads(n, [&](int i) {
    auto& d = data[static_cast<std::size_t>(i)];
    CHECK(transports[static_cast<std::size_t>(i)]
              ->run(OpId{0}, 0, {reinterpret_cast<std::byte*>(d.data()), count * 4})
              .ok());
  });
  int differ = 0;
  for (std::int64_t e = 0; e < count; ++e) {
    float want = 0;
    expected<float>(OpKind::all_reduce, Reduction::sum, n, 0, count, e, true, want);
    differ += want != data[0][static_cast<std::size_t>(e)];
  }
  CHECK(differ > 0);
  for (int i = 1; i < n; ++i) CHECK(data[static_cast<std::size_t>(i)] == data[0]);
}

TEST_CASE("shift and all_to_all: in place, also where all sockets are full") {
  for (int n : kSizes)
    for (std::int64_t per : {std::int64_t{1}, std::int64_t{501}, std::int64_t{400'000}}) {
      if (per == 400'000 && n > 4) continue;  // 3 is a ring, 4 has several exchanges at once
      CAPTURE(n);
      CAPTURE(per);
      const std::int64_t count = per * n;
      for (bool strict : {true, false}) {
        const Plan plan = group_plan(n, {{OpKind::shift, count}, {OpKind::all_to_all, count}});
        const auto transports = make_transports(plan, {10'000'000'000, {}, strict});
        // Element e of member i is i * 10^6 + e / per: who it was, and which chunk.
        std::vector<std::vector<float>> shifted(static_cast<std::size_t>(n)), all;
        for (int i = 0; i < n; ++i)
          for (std::int64_t e = 0; e < count; ++e)
            shifted[static_cast<std::size_t>(i)].push_back(
                static_cast<float>(i * 1'000'000 + e / per));
        all = shifted;
        on_threads(n, [&](int i) {
          const auto k = static_cast<std::size_t>(i);
          CHECK(transports[k]
                    ->run(OpId{0}, 0, {reinterpret_cast<std::byte*>(shifted[k].data()), count * 4})
                    .ok());
          CHECK(transports[k]
                    ->run(OpId{1}, 0, {reinterpret_cast<std::byte*>(all[k].data()), count * 4})
                    .ok());
        });
        std::int64_t wrong = 0;
        for (int i = 0; i < n; ++i)
          for (std::int64_t e = 0; e < count; ++e) {
            const auto k = static_cast<std::size_t>(i), at = static_cast<std::size_t>(e);
            const auto from = (i + n - 1) % n;
            wrong += shifted[k][at] != static_cast<float>(from * 1'000'000 + e / per);
            // Chunk j of member i is what j had for i.
            wrong += all[k][at] != static_cast<float>(e / per * 1'000'000 + i);
          }
        CHECK(wrong == 0);
        CHECK(transports[0]->traffic(OpId{0}).sent == count * 4);
        CHECK(transports[0]->traffic(OpId{1}).sent == per * (n - 1) * 4);
      }
    }
}

TEST_CASE("reduce: bf16 adds in f32 and rounds once, to nearest even") {
  // 1 + 2^-8 + 2^-8: each step alone rounds back to 1 (7 bits of fraction); the f32 sum is
  // 1 + 2^-7, one unit above 1 in bf16.
  const std::uint16_t one = 0x3f80, eighth = 0x3b80;
  std::uint16_t out = 0;
  const std::byte* values[] = {reinterpret_cast<const std::byte*>(&one),
                               reinterpret_cast<const std::byte*>(&eighth),
                               reinterpret_cast<const std::byte*>(&eighth)};
  combine_in_order(DType::bf16, Reduction::sum, reinterpret_cast<std::byte*>(&out), values, 1);
  CHECK(out == 0x3f81);
  std::uint16_t own = one;  // a tie: to even
  combine(DType::bf16, Reduction::sum, reinterpret_cast<std::byte*>(&own),
          reinterpret_cast<const std::byte*>(&eighth), 1);
  CHECK(own == 0x3f80);
  own = 0x3f81;
  combine(DType::bf16, Reduction::sum, reinterpret_cast<std::byte*>(&own),
          reinterpret_cast<const std::byte*>(&eighth), 1);
  CHECK(own == 0x3f82);
  CHECK_FALSE(can_reduce(DType::f16, Reduction::sum));
  CHECK_FALSE(can_reduce(DType::f32, Reduction::none));
}
