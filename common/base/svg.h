// What all drawings share: a text that grows, round marks of an axis, and the colours of phases.
// Pure and thread-safe.
#pragma once

#include <fmt/format.h>

#include <array>
#include <iterator>
#include <string>
#include <string_view>

namespace tandem {

class SvgText {
 public:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
  }
  std::string text;
};

// The distance of about `count` round marks in `range` (> 0).
[[nodiscard]] double tick_step(double range, int count);

// Which of dark and white ink is legible on a colour "#rrggbb": weights of ITU-R BT.601.
[[nodiscard]] std::string_view ink_on(std::string_view colour);

// Okabe and Ito's colours, the same as page/report.js: of F, I, W, B, R, O, D.
inline constexpr std::array<std::string_view, 7> kPhaseColours = {
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#999999"};
inline constexpr std::array<std::string_view, 7> kPhaseWords = {
    "F forward",  "I backward for inputs", "W backward for weights",
    "B backward", "R recompute",           "O optimizer",
    "D data"};

}  // namespace tandem
