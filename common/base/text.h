// Text helpers without locale: numbers, splitting, nearest names, UTF-8, one escape per format.
// Pure and thread-safe. Everything accepts any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// --- cutting and joining ----------------------------------------------------------------------
[[nodiscard]] std::string_view trim(std::string_view text);  // spaces and tabs, CR, LF
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);
[[nodiscard]] std::string join(std::span<const std::string> parts, std::string_view separator);

// --- numbers ----------------------------------------------------------------------------------
// A whole text that is 0 or -?[1-9][0-9]* and fits 64 bits; nothing else ("010", "+5", "1e3").
[[nodiscard]] std::optional<std::int64_t> parse_int(std::string_view text);
// A finite decimal: -?digits[.digits][e[+-]digits]; overflow and underflow to zero are refused.
[[nodiscard]] std::optional<double> parse_double(std::string_view text);
// The shortest decimal that reads back to the same double; always with a point or an exponent
// where the value is not whole.
[[nodiscard]] std::string format_double(double value);

// --- names ------------------------------------------------------------------------------------
[[nodiscard]] int edit_distance(std::string_view a, std::string_view b);
// The known name at edit distance at most 2 (and less than the length); the first one of several.
[[nodiscard]] std::optional<std::string> nearest_name(std::string_view given,
                                                      std::span<const std::string> known);
// [A-Za-z0-9_.-]{1,64}, not starting with '.' or '-'.
[[nodiscard]] bool is_plain_name(std::string_view name);

// --- UTF-8 ------------------------------------------------------------------------------------
struct CodePoint {
  char32_t value = 0;
  int length = 1;     // bytes taken
  bool valid = true;  // false: `value` is the one invalid byte
};
[[nodiscard]] CodePoint decode_utf8(std::string_view text, std::size_t at);
// Bidirectional controls, zero-width characters, line separators: they make text lie.
[[nodiscard]] bool is_deceptive(char32_t c);
// Terminal columns: 0 for combining marks, 2 for East Asian wide characters, else 1.
[[nodiscard]] int display_width(char32_t c);
[[nodiscard]] int display_width(std::string_view utf8);

// --- escapes: one per output format -----------------------------------------------------------
[[nodiscard]] std::string escape_terminal(std::string_view text);  // \x1b, \u{202e}
[[nodiscard]] std::string escape_html(std::string_view text);      // also for attribute values
[[nodiscard]] std::string escape_json(std::string_view text);      // inside quotes; ASCII only
[[nodiscard]] std::string csv_cell(std::string_view text);         // quoted where needed
[[nodiscard]] std::string escape_xml(std::string_view text);       // SVG and XML text

}  // namespace tandem
