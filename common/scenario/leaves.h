// A YAML tree as a flat map from dotted path to value, checked against the names of the field
// table. Layers (presets, file, --set) are flattened apart and laid over each other.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "common/scenario/fields.h"
#include "common/scenario/yaml_reader.h"

namespace tandem {

struct Leaf {
  const Field* field = nullptr;
  std::size_t index = 0;  // entry of the list of mappings it lies in
  YamlNode node;
  std::shared_ptr<const YamlSource> source;
};

struct Leaves {
  std::map<std::string, Leaf> values;  // "cluster.network[0].name"
  std::set<std::string> lists;         // lists given as a whole: they replace those of lower layers
};

// Unknown keys and sections of the wrong kind go to `problems`.
[[nodiscard]] Leaves flatten(const YamlDocument& document, Diagnostics& problems);

// Adds `over` to `base`; it wins.
void lay_over(Leaves& base, const Leaves& over);

// The path with "[3]" written "[]", as in the table; `index` is the 3.
[[nodiscard]] std::string table_path(std::string_view path, std::size_t& index);

}  // namespace tandem
