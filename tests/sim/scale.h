// Counts of property tests grow with TANDEM_TEST_SCALE.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace tandem::sim {
inline int scaled(int count) {
  const char* text = std::getenv("TANDEM_TEST_SCALE");
  const double scale = text ? std::atof(text) : 1;
  return std::max(1, static_cast<int>(count * (scale > 0 ? scale : 1)));
}
}  // namespace tandem::sim
