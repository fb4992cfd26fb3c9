// Numbers for people: three significant digits and the unit that fits. Pure and thread-safe.
#pragma once

#include <string>

#include "common/base/units.h"

namespace tandem {

[[nodiscard]] std::string text_of_time(double ns);      // "131 ms", "2.07 us", "0 ns"
[[nodiscard]] std::string text_of_bytes(double bytes);  // "1.50 GiB", "312 B"
[[nodiscard]] std::string text_of_error(double error);  // "-6.1 %", "+0.00 %"

}  // namespace tandem
