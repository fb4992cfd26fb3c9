// Element types of buffers and kernels, and the mesh axes a rank has a coordinate on.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tandem {

enum class DType : std::uint8_t { f64, f32, bf16, f16, i64, i32 };

[[nodiscard]] constexpr int size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
  }
  return 0;
}
[[nodiscard]] std::string_view name_of(DType t);
[[nodiscard]] std::optional<DType> dtype_from(std::string_view name);

// The types of a plan: activations and parameters; main gradients and optimizer state;
// statistics of norms and softmax (models.md 1: w, main, s).
struct PlanTypes {
  DType compute = DType::f32;
  DType main = DType::f32;  // f64 in fp64 runs, else f32
  [[nodiscard]] constexpr DType statistic() const {
    return compute == DType::f64 ? DType::f64 : DType::f32;
  }
  bool operator==(const PlanTypes&) const = default;
};

// Axes of the mesh: tp, cp, dp, pp of everything but routed experts; etp, ep, edp of these, which
// see the ranks of a stage through a grid of their own (models.md 3.1).
enum class Axis : std::uint8_t { tp, cp, dp, pp, etp, ep, edp };
inline constexpr int kNumAxes = 7;
[[nodiscard]] std::string_view name_of(Axis axis);
[[nodiscard]] std::optional<Axis> axis_from(std::string_view name);

// A set of axes, one bit each.
struct AxisSet {
  std::uint8_t bits = 0;
  [[nodiscard]] constexpr bool has(Axis a) const { return (bits >> static_cast<int>(a)) & 1; }
  constexpr AxisSet& add(Axis a) {
    bits = static_cast<std::uint8_t>(bits | (1u << static_cast<int>(a)));
    return *this;
  }
  [[nodiscard]] constexpr bool empty() const { return bits == 0; }
  bool operator==(const AxisSet&) const = default;
};

}  // namespace tandem
