// Bytes of JSON (RFC 8259) -> the tree that the YAML reader makes, with a mark for every key and
// value, so that what reads scenarios reads it too and points at its place. Knows no key names. The
// .cpp is the only file here that includes nlohmann/json, whose exceptions end there.
//   numbers    keep the text they are written with: 1e-05, 4096.0
//   strings    are `quoted`; true, false and numbers are plain; null is Kind::null
//   marks      of a value its first byte; of an entry of a list, the list's
// For files from outside: size, depth and number of values have limits (limits.h). Thread-safe.
#pragma once

#include <string>

#include "common/scenario/yaml_reader.h"

namespace tandem {

// Exactly one value. Keys that an object has twice are `duplicates`; the first one counts.
[[nodiscard]] Result<YamlDocument> parse_json(std::string name, std::string bytes);
[[nodiscard]] Result<YamlDocument> read_json(const std::string& path);

}  // namespace tandem
