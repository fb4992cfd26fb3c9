#include "exec/transport/reduce.h"

#include <algorithm>
#include <cstring>

#include "common/base/bf16.h"
#include "common/base/check.h"

namespace tandem::exec {
namespace {

constexpr std::int64_t kBlock = 1024;  // elements: an accumulator of 4 or 8 KiB stays in L1

// Storage type and the type sums are made in.
template <class Stored, class Sum>
struct Plain {
  using storage = Stored;
  using sum = Sum;
  static Sum load(Stored x) { return static_cast<Sum>(x); }
  static Stored store(Sum x) { return static_cast<Stored>(x); }
};
struct BFloat16 {
  using storage = std::uint16_t;
  using sum = float;
  static float load(std::uint16_t x) { return from_bf16(x); }
  static std::uint16_t store(float x) { return to_bf16(x); }
};

struct Sum {
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Max {
  template <class T>
  static T apply(T a, T b) {
    return a < b ? b : a;
  }
};

template <class T, class F>
void pairwise(std::byte* own_bytes, const std::byte* received_bytes, std::int64_t count) {
  auto* own = reinterpret_cast<typename T::storage*>(own_bytes);
  const auto* received = reinterpret_cast<const typename T::storage*>(received_bytes);
  for (std::int64_t e = 0; e < count; ++e)
    own[e] = T::store(F::apply(T::load(received[e]), T::load(own[e])));
}

template <class T, class F>
void in_order(std::byte* into_bytes, std::span<const std::byte* const> values, std::int64_t count) {
  using Stored = typename T::storage;
  typename T::sum acc[kBlock];
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, count - begin);
    const auto* first = reinterpret_cast<const Stored*>(values[0]) + begin;
    for (std::int64_t e = 0; e < n; ++e) acc[e] = T::load(first[e]);
    for (std::size_t v = 1; v < values.size(); ++v) {
      const auto* next = reinterpret_cast<const Stored*>(values[v]) + begin;
      for (std::int64_t e = 0; e < n; ++e) acc[e] = F::apply(acc[e], T::load(next[e]));
    }
    auto* into = reinterpret_cast<Stored*>(into_bytes) + begin;
    for (std::int64_t e = 0; e < n; ++e) into[e] = T::store(acc[e]);
  }
}

// Calls f with the arithmetic of a type. Integer sums wrap: unsigned inside.
template <class Visit>
void visit_sum(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::f64:
      return visit(Plain<double, double>{});
    case DType::f32:
      return visit(Plain<float, float>{});
    case DType::bf16:
      return visit(BFloat16{});
    case DType::i64:
      return visit(Plain<std::int64_t, std::uint64_t>{});
    case DType::i32:
      return visit(Plain<std::int32_t, std::uint32_t>{});
    case DType::f16:
      break;
  }
  TANDEM_CHECK(false, "no arithmetic for {}", name_of(dtype));
}
template <class Visit>
void visit_max(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::i64:
      return visit(Plain<std::int64_t, std::int64_t>{});
    case DType::i32:
      return visit(Plain<std::int32_t, std::int32_t>{});
    default:
      return visit_sum(dtype, visit);
  }
}

}  // namespace

bool can_reduce(DType dtype, Reduction reduction) {
  return dtype != DType::f16 && reduction != Reduction::none;
}

void combine(DType dtype, Reduction reduction, std::byte* own, const std::byte* received,
             std::int64_t count) {
  if (reduction == Reduction::max)
    visit_max(dtype, [&]<class T>(T) { pairwise<T, Max>(own, received, count); });
  else
    visit_sum(dtype, [&]<class T>(T) { pairwise<T, Sum>(own, received, count); });
}

void combine_in_order(DType dtype, Reduction reduction, std::byte* into,
                      std::span<const std::byte* const> values, std::int64_t count) {
  if (reduction == Reduction::max)
    visit_max(dtype, [&]<class T>(T) { in_order<T, Max>(into, values, count); });
  else
    visit_sum(dtype, [&]<class T>(T) { in_order<T, Sum>(into, values, count); });
}

}  // namespace tandem::exec
