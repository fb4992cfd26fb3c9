// Quantities as people write them: "50 GB/s", "400 Gb/s", "40 MiB", "2 us", "989 Tflop/s". The
// value is the double nearest to the written decimal. Pure and thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

enum class Dimension { bytes, rate, seconds, flops };  // base units: B, B/s, s, flop/s

struct QuantityProblem {
  std::string code, title, expected, hint;  // empty code: none
};

struct Quantity {
  double value = 0;
  QuantityProblem problem;
};

// `large`: a bare size is likelier to be GB than MB (memory of a device).
[[nodiscard]] Quantity parse_quantity(Dimension dimension, std::string_view text,
                                      bool large = false);

// Reads back to exactly this value; the shortest such text.
[[nodiscard]] std::string quantity_text(Dimension dimension, double value);

}  // namespace tandem
