#include "common/model/dtype.h"

#include <array>

namespace tandem {
namespace {
constexpr std::array<std::string_view, 6> kDTypes = {"f64", "f32", "bf16", "f16", "i64", "i32"};
constexpr std::array<std::string_view, kNumAxes> kAxes = {"tp",  "cp", "dp", "pp",
                                                          "etp", "ep", "edp"};
}  // namespace

std::string_view name_of(DType t) { return kDTypes[static_cast<std::size_t>(t)]; }
std::optional<DType> dtype_from(std::string_view name) {
  for (std::size_t i = 0; i < kDTypes.size(); ++i)
    if (kDTypes[i] == name) return static_cast<DType>(i);
  return std::nullopt;
}
std::string_view name_of(Axis axis) { return kAxes[static_cast<std::size_t>(axis)]; }
std::optional<Axis> axis_from(std::string_view name) {
  for (std::size_t i = 0; i < kAxes.size(); ++i)
    if (kAxes[i] == name) return static_cast<Axis>(i);
  return std::nullopt;
}

}  // namespace tandem
