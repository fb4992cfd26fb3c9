// The extents of a tensor: at most four dimensions, row-major.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "common/base/units.h"

namespace tandem {

struct Shape {
  std::array<std::int64_t, 4> dim{};
  int rank = 0;
  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<std::int64_t> extents) {
    for (std::int64_t e : extents) dim[static_cast<std::size_t>(rank++)] = e;
  }
  [[nodiscard]] constexpr std::int64_t operator[](int i) const {
    return dim[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] constexpr std::int64_t elements() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n = n * dim[static_cast<std::size_t>(i)];
    return n;
  }
  bool operator==(const Shape&) const = default;
};

}  // namespace tandem
