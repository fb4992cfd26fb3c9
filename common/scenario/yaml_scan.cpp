// One pass, byte by byte; every refusal names the byte offset in the file as it lies on disk.
#include "common/scenario/yaml_scan.h"

#include <fmt/format.h>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

constexpr std::string_view kMark = "\xef\xbb\xbf";

Diagnostic bad_byte(std::string_view bytes, std::size_t at, std::size_t offset) {
  const auto byte = static_cast<unsigned char>(bytes[at]);
  const std::string found = fmt::format("byte 0x{:02x} at offset {}", byte, offset);
  if (offset < 2 && (byte == 0xff || byte == 0xfe))
    return make_diagnostic("E-YAML-001", "the text is not UTF-8",
                           found + ": a UTF-16 byte order mark", "UTF-8", "save the file as UTF-8");
  return make_diagnostic("E-YAML-001", "the text is not UTF-8", found, "UTF-8",
                         "save the file as UTF-8");
}

Diagnostic bad_control(unsigned value, std::size_t offset) {
  if (value == '\r')
    return make_diagnostic("E-YAML-002", "control character in the text",
                           fmt::format("a carriage return without line feed at offset {}", offset),
                           "lines that end in LF or CRLF", "save the file with Unix line ends");
  return make_diagnostic("E-YAML-002", "control character in the text",
                         fmt::format("U+{:04X} at offset {}", value, offset),
                         "text, spaces, tabs and line ends", "delete the character");
}

std::optional<Diagnostic> check_character(const YamlSource& source, std::size_t at,
                                          const CodePoint& c, std::size_t offset) {
  if (!c.valid) return bad_byte(source.bytes, at, offset);
  const auto value = static_cast<unsigned>(c.value);
  const bool crlf = value == '\r' && source.bytes.compare(at, 2, "\r\n") == 0;
  const bool control =
      (value < 0x20 && value != '\n' && value != '\t' && !crlf) || (value >= 0x7f && value < 0xa0);
  if (control) return bad_control(value, offset);
  if (is_deceptive(c.value))
    return make_diagnostic("E-YAML-003", "invisible character in the text",
                           fmt::format("U+{:04X} at offset {}", value, offset),
                           "characters that look like what they are", "delete the character");
  return {};
}

}  // namespace

std::optional<Diagnostic> scan_yaml(YamlSource& source) {
  std::size_t dropped = 0;
  if (std::string_view(source.bytes).starts_with(kMark)) {
    source.bytes.erase(0, kMark.size());
    dropped = kMark.size();
  }
  const std::string& bytes = source.bytes;
  source.line_starts = {0};
  int num_brackets = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const CodePoint c = decode_utf8(bytes, at);
    const std::size_t column = at - source.line_starts.back();
    const YamlMark mark{source.num_lines(), static_cast<int>(column) + 1, c.length};
    auto refused = check_character(source, at, c, at + dropped);
    if (!refused && column >= static_cast<std::size_t>(limits::kYamlLineBytes) && bytes[at] != '\n')
      refused = make_diagnostic("E-YAML-004", "the line is too long",
                                fmt::format("more than {} bytes", limits::kYamlLineBytes),
                                fmt::format("lines of at most {} bytes", limits::kYamlLineBytes),
                                "break the line; a list may have one entry a line");
    if (!refused && std::string_view("[]{},").find(bytes[at]) != std::string_view::npos &&
        ++num_brackets > limits::kYamlBrackets)
      refused = make_diagnostic("E-YAML-005", "too many brackets and commas",
                                fmt::format("more than {} of [ ] {{ }} ,", limits::kYamlBrackets),
                                fmt::format("at most {} of them in a file", limits::kYamlBrackets),
                                "write long lists with one \"- entry\" a line");
    if (!refused && column == 0 && bytes[at] == '%')
      refused = make_diagnostic("E-YAML-006", "YAML directives are not supported",
                                source.line_text(mark.line), "a line that does not start with %",
                                "delete the line");
    if (refused) {
      point_at(*refused, source, mark);
      return refused;
    }
    at += c.length;
    if (c.value == '\n') source.line_starts.push_back(at);
  }
  return {};
}

}  // namespace tandem
