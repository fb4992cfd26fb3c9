// Bytes of YAML -> a tree of our own with a mark for everything. Knows no field names. The .cpp is
// the only file that includes yaml-cpp, whose exceptions end there. Limits: limits.h.
// Not supported on purpose: anchors, aliases, tags, directives, merge keys, several documents.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace tandem {

// The text a value came from: a file, a preset, or a --set option.
struct YamlSource {
  std::string name;   // as messages show it
  std::string bytes;  // without a byte order mark
  std::vector<std::size_t> line_starts;
  bool is_file = true;  // false: messages give the name only, no line and column

  [[nodiscard]] int num_lines() const { return static_cast<int>(line_starts.size()); }
  [[nodiscard]] std::string line_text(int line) const;  // 1-based, without its end
};

struct YamlMark {
  int line = 1, column = 1, length = 1;  // as in Location
};

struct YamlNode {
  enum class Kind { null, scalar, list, mapping };
  Kind kind = Kind::null;
  std::string text;     // of a scalar
  bool quoted = false;  // quoted or block text: never a number, bool or word
  YamlMark mark;        // of the value
  std::string key;      // of an entry of a mapping
  YamlMark key_mark;
  std::vector<YamlNode> children;  // of a list; of a mapping in file order, keys are distinct
};

struct YamlDocument {
  std::shared_ptr<const YamlSource> source;
  YamlNode root;
  Diagnostics duplicates;  // keys given twice: errors, but the rest of the text can be checked too
};

// Location and source line of a mark: where a diagnostic points.
[[nodiscard]] Location location_of(const YamlSource& source, const YamlMark& mark);
void point_at(Diagnostic& d, const YamlSource& source, const YamlMark& mark);

// Exactly one document. An empty text gives a null root.
[[nodiscard]] Result<YamlDocument> parse_yaml(std::string name, std::string bytes,
                                              bool is_file = true);
[[nodiscard]] Result<YamlDocument> read_yaml(const std::string& path);

}  // namespace tandem
