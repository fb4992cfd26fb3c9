// Walks the tree once against the names of the table. The depth is bounded by the YAML reader.
#include "common/scenario/leaves.h"

#include <fmt/format.h>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

// `model: gpt-tiny` is short for `model: {preset: gpt-tiny}`.
std::string_view shorthand(std::string_view path) {
  if (path == "model") return "model.preset";
  if (path == "schedule") return "schedule.kind";
  if (path == "cluster") return "cluster.preset";
  return {};
}

class Walk {
 public:
  Walk(const YamlDocument& document, Leaves& out, Diagnostics& problems)
      : source_(document.source), out_(out), problems_(problems) {}

  void mapping(const std::string& path, const YamlNode& node) {
    for (const YamlNode& child : node.children)
      entry(path, path.empty() ? child.key : path + "." + child.key, child);
  }

 private:
  using Kind = YamlNode::Kind;

  void entry(const std::string& parent, const std::string& path, const YamlNode& node) {
    std::size_t index = 0;
    const std::string known = table_path(path, index);
    const bool collection = node.kind == Kind::mapping || node.kind == Kind::list;
    if (known.find_first_of("[]") != std::string::npos && known.find("[]") == std::string::npos)
      return unknown_key(parent, node);
    if (!collection && !shorthand(known).empty()) return leaf(std::string(shorthand(known)), node);
    if (node.kind == Kind::mapping && is_section(known)) return mapping(path, node);
    if (node.kind == Kind::list && is_section(known + "[]")) return list(path, node);
    if (find_field(known) != nullptr) return leaf(path, node);
    if (is_section(known + "[]"))
      return wrong_kind(known, node, "a list of mappings, \"- {...}\" for each entry");
    if (is_section(known))
      return wrong_kind(known, node, "a mapping with keys of " + join(names_below(known), ", "));
    unknown_key(parent, node);
  }

  void list(const std::string& path, const YamlNode& node) {
    out_.lists.insert(path);
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const YamlNode& item = node.children[i];
      const std::string item_path = fmt::format("{}[{}]", path, i);
      if (item.kind == Kind::mapping)
        mapping(item_path, item);
      else
        wrong_kind(path, item, "a mapping such as {" + names_below(path + "[]")[0] + ": ...}");
    }
  }

  void leaf(const std::string& path, const YamlNode& node) {
    Leaf leaf;
    leaf.field = find_field(table_path(path, leaf.index));
    leaf.node = node;
    leaf.source = source_;
    out_.values.insert_or_assign(path, std::move(leaf));
  }

  void unknown_key(const std::string& parent, const YamlNode& node) {
    if (problems_.size() >= limits::kDiagnosticsKept) return;
    std::size_t index = 0;
    const auto names = names_below(table_path(parent, index));
    Diagnostic d;
    d.code = "E-SCEN-003";
    d.title = fmt::format("unknown key \"{}\"", node.key);
    d.found = node.key;
    d.expected = "one of " + join(names, ", ");
    const auto nearest = nearest_name(node.key, names);
    d.hint = nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                     : "delete the key; docs/scenario_reference.md lists all of them";
    point_at(d, *source_, node.key_mark);
    problems_.push_back(std::move(d));
  }

  void wrong_kind(const std::string& path, const YamlNode& node, std::string expected) {
    if (problems_.size() >= limits::kDiagnosticsKept) return;
    Diagnostic d;
    d.code = "E-SCEN-004";
    d.title = path + " has the wrong kind of value";
    d.found = node.kind == Kind::list      ? "a list"
              : node.kind == Kind::mapping ? "a mapping"
              : node.kind == Kind::null    ? "no value"
                                           : node.text;
    d.expected = std::move(expected);
    d.hint = "see " + path + " in docs/scenario_reference.md";
    point_at(d, *source_, node.key.empty() ? node.mark : node.key_mark);
    problems_.push_back(std::move(d));
  }

  std::shared_ptr<const YamlSource> source_;
  Leaves& out_;
  Diagnostics& problems_;
};

}  // namespace

std::string table_path(std::string_view path, std::size_t& index) {
  std::string known;
  for (std::size_t at = 0; at < path.size(); ++at) {
    known += path[at];
    if (path[at] != '[') continue;
    const auto end = path.find(']', at);
    const auto number = end == std::string_view::npos
                            ? std::optional<std::int64_t>{}
                            : parse_int(path.substr(at + 1, end - at - 1));
    if (!number || *number < 0 || *number > 1'000'000) continue;
    index = static_cast<std::size_t>(*number);
    at = end - 1;
  }
  return known;
}

Leaves flatten(const YamlDocument& document, Diagnostics& problems) {
  Leaves leaves;
  if (document.root.kind == YamlNode::Kind::mapping)
    Walk(document, leaves, problems).mapping("", document.root);
  return leaves;
}

void lay_over(Leaves& base, const Leaves& over) {
  for (const std::string& list : over.lists) {
    std::erase_if(base.values,
                  [&](const auto& entry) { return entry.first.starts_with(list + "["); });
    base.lists.insert(list);
  }
  for (const auto& [path, leaf] : over.values) base.values.insert_or_assign(path, leaf);
}

}  // namespace tandem
