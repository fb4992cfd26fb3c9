// Implementation of text.h. No locale anywhere: from_chars and hand-written tables only.
#include "common/base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace tandem {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Skips digits; false if there is none.
bool skip_digits(std::string_view text, std::size_t& at) {
  const std::size_t start = at;
  while (at < text.size() && is_digit(text[at])) ++at;
  return at > start;
}

struct Range {
  char32_t first, last;
};
// Unicode 14 ranges that terminals draw two columns wide; the blocks, not every hole.
constexpr std::array<Range, 10> kWide = {{{0x1100, 0x115f},
                                          {0x2e80, 0x303e},
                                          {0x3041, 0x33ff},
                                          {0x3400, 0x4dbf},
                                          {0x4e00, 0xa4cf},
                                          {0xac00, 0xd7a3},
                                          {0xf900, 0xfaff},
                                          {0xfe30, 0xfe6f},
                                          {0xff00, 0xff60},
                                          {0x1f300, 0x1faff}}};
constexpr std::array<Range, 5> kCombining = {
    {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x1ab0, 0x1aff}, {0x20d0, 0x20ff}, {0xfe20, 0xfe2f}}};

template <std::size_t N>
bool in_ranges(const std::array<Range, N>& ranges, char32_t c) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [c](Range r) { return c >= r.first && c <= r.last; });
}

}  // namespace

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  std::size_t start = 0;
  while (true) {
    const auto end = text.find(separator, start);
    parts.push_back(text.substr(start, end - start));
    if (end == std::string_view::npos) return parts;
    start = end + 1;
  }
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += separator;
    text += parts[i];
  }
  return text;
}

std::optional<std::int64_t> parse_int(std::string_view text) {
  const std::string_view digits = text.starts_with('-') ? text.substr(1) : text;
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), is_digit)) return {};
  if (digits[0] == '0' && text != "0") return {};
  std::int64_t value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end.ec != std::errc{}) return {};
  return value;
}

std::optional<double> parse_double(std::string_view text) {
  std::size_t at = text.starts_with('-') ? 1 : 0;
  const std::size_t mantissa = at;
  if (!skip_digits(text, at)) return {};
  if (at < text.size() && text[at] == '.' && !skip_digits(text, ++at)) return {};
  const std::size_t mantissa_end = at;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    const bool plus = at < text.size() && text[at] == '+';
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    const std::size_t exponent = at;
    if (!skip_digits(text, at)) return {};
    if (plus) {  // from_chars knows no plus sign in exponents of some libraries
      std::string plain(text.substr(0, exponent - 1));
      plain += text.substr(exponent);
      return parse_double(plain);
    }
  }
  if (at != text.size()) return {};
  double value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end.ec != std::errc{} || !std::isfinite(value)) return {};
  const auto written = text.substr(mantissa, mantissa_end - mantissa);
  if (value == 0 && written.find_first_of("123456789") != std::string_view::npos) return {};
  return value;
}

std::string format_double(double value) {
  std::string text = fmt::format("{}", value);
  return text.ends_with(".0") ? text.substr(0, text.size() - 2) : text;
}

int edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, 256), b = b.substr(0, 256);
  std::vector<int> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::optional<std::string> nearest_name(std::string_view given,
                                        std::span<const std::string> known) {
  std::optional<std::string> best;
  int best_distance = 3;
  for (const std::string& name : known) {
    const int distance = edit_distance(given, name);
    const bool shares_something = distance < static_cast<int>(std::max(given.size(), name.size()));
    if (distance < best_distance && shares_something) best = name, best_distance = distance;
  }
  return best;
}

bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > 64 || name[0] == '.' || name[0] == '-') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '.' || c == '-';
  });
}

CodePoint decode_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const CodePoint broken{lead, 1, false};
  if (lead < 0x80) return {lead, 1, true};
  const int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || at + length > text.size()) return broken;
  char32_t value = lead & (0xff >> (length + 1));
  for (int i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return broken;
    value = value << 6 | (byte(at + i) & 0x3f);
  }
  constexpr std::array<char32_t, 5> kSmallest = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kSmallest[length] || value > 0x10ffff || surrogate) return broken;
  return {value, length, true};
}

bool is_deceptive(char32_t c) {
  return c == 0x061c || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
         (c >= 0x2060 && c <= 0x2069) || c == 0xfeff || c == 0x00ad || c == 0x180e ||
         (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe007f);
}

int display_width(char32_t c) {
  if (in_ranges(kCombining, c)) return 0;
  return in_ranges(kWide, c) ? 2 : 1;
}

int display_width(std::string_view utf8) {
  int width = 0;
  for (std::size_t at = 0; at < utf8.size();) {
    const CodePoint c = decode_utf8(utf8, at);
    width += c.valid ? display_width(c.value) : 1;
    at += c.length;
  }
  return width;
}

std::string escape_terminal(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    const bool control = c.value < 0x20 || c.value == 0x7f;
    if (!c.valid || control)
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c.value));
    else if ((c.value >= 0x80 && c.value < 0xa0) || is_deceptive(c.value))
      out += fmt::format("\\u{{{:x}}}", static_cast<unsigned>(c.value));
    else
      out += text.substr(at, c.length);
    at += c.length;
  }
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : escape_terminal(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string escape_xml(std::string_view text) { return escape_html(text); }

std::string escape_json(std::string_view text) {
  std::string out;
  const auto add_unit = [&](unsigned unit) { out += fmt::format("\\u{:04x}", unit); };
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    const auto value = static_cast<unsigned>(c.value);
    if (!c.valid) {
      add_unit(0xfffd);
    } else if (value == '"' || value == '\\') {
      out += '\\';
      out += static_cast<char>(value);
    } else if (value == '\n') {
      out += "\\n";
    } else if (value == '\t') {
      out += "\\t";
    } else if (value >= 0x20 && value < 0x7f) {
      out += static_cast<char>(value);
    } else if (value < 0x10000) {
      add_unit(value);
    } else {
      add_unit(0xd800 + ((value - 0x10000) >> 10));
      add_unit(0xdc00 + ((value - 0x10000) & 0x3ff));
    }
    at += c.length;
  }
  return out;
}

std::string csv_cell(std::string_view text) {
  // A spreadsheet runs a cell that starts with one of these; a quote in front makes it text.
  // Numbers keep their minus sign.
  const bool formula = !text.empty() &&
                       std::string_view("=+-@\t\r").find(text[0]) != std::string_view::npos &&
                       !parse_double(text);
  std::string cell = formula ? "'" : "";
  cell += text;
  if (cell.find_first_of(",\"\r\n") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (char c : cell) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace tandem
