// x^y from +, -, * and / alone: the same bits on every machine, where a library's pow may differ
// in the last one. Relative error below 1e-13 for results between 1e-300 and 1e300
// (tests/common/base/powers_test.cpp). Pure and thread-safe.
#pragma once

namespace tandem {

// base > 0 and finite, exponent finite (checked). Beyond the range of a double: 0 or infinity.
[[nodiscard]] double power(double base, double exponent);

}  // namespace tandem
