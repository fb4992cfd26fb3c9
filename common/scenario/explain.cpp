// Walks the field table in order and prints a line a field, nested by its path.
#include "common/scenario/explain.h"

#include <fmt/format.h>

#include "common/base/text.h"
#include "common/scenario/fields.h"

namespace tandem {
namespace {

std::string origin_of(const Scenario& s, const std::string& path) {
  const auto it = s.origins.find(path);
  if (it == s.origins.end()) return "default";
  const Location& where = it->second;
  const std::string file = escape_terminal(where.file);
  const char* imported =
      !s.model.from_hf.empty() && where.file == s.model.from_hf ? "from_hf " : "";
  return where.line > 0 ? fmt::format("{}{}:{}", imported, file, where.line) : file;
}

class Printer {
 public:
  Printer(const Scenario& s, bool with_origins) : s_(s), with_origins_(with_origins) {}

  std::string run() {
    out_ = with_origins_ ? "# every field, with the place of its value\n" : "# every field\n";
    out_ += "tandem: 1\n";
    bool network_done = false, slow_done = false;
    for (const Field& field : scenario_fields()) {
      if (field.get == nullptr) continue;
      if (field.path.starts_with("cluster.network[]")) {
        if (!network_done) list("cluster.network", s_.cluster.network.size());
        network_done = true;
      } else if (field.path.starts_with("cluster.slow_devices[]")) {
        if (!slow_done) list("cluster.slow_devices", s_.cluster.slow_devices.size());
        slow_done = true;
      } else {
        leaf(field);
      }
    }
    return std::move(out_);
  }

 private:
  void leaf(const Field& field) {
    const FieldValue value = field.get(s_, 0);
    if (value.absent) return;
    const auto keys = split(field.path, '.');
    open(keys);
    line(keys.size() - 1, fmt::format("{}: {}", keys.back(), value_text(field, value)),
         origin_of(s_, std::string(field.path)));
  }

  // Prints the names of sections that were not open yet.
  void open(const std::vector<std::string_view>& keys) {
    std::size_t same = 0;
    while (same < open_.size() && same + 1 < keys.size() && open_[same] == keys[same]) ++same;
    open_.assign(keys.begin(), keys.end() - 1);
    for (std::size_t i = same; i < open_.size(); ++i)
      out_ += fmt::format("{}{}:\n", std::string(2 * i, ' '), open_[i]);
  }

  void list(std::string_view path, std::size_t size) {
    if (size == 0) return;
    const auto keys = split(path, '.');
    open(keys);
    out_ += fmt::format("{}{}:\n", std::string(2 * (keys.size() - 1), ' '), keys.back());
    for (std::size_t i = 0; i < size; ++i) {
      std::vector<std::string> parts;
      std::string first;
      const std::string prefix = std::string(path) + "[].";
      for (const Field& field : scenario_fields()) {
        if (!field.path.starts_with(prefix)) continue;
        const auto name = field.path.substr(prefix.size());
        if (first.empty()) first = origin_of(s_, fmt::format("{}[{}].{}", path, i, name));
        parts.push_back(fmt::format("{}: {}", name, value_text(field, field.get(s_, i))));
      }
      line(keys.size(), "- {" + join(parts, ", ") + "}", first);
    }
  }

  void line(std::size_t depth, const std::string& text, const std::string& origin) {
    const std::string indented = std::string(2 * depth, ' ') + text;
    out_ += with_origins_ ? fmt::format("{:<46}  # {}\n", indented, origin) : indented + "\n";
  }

  const Scenario& s_;
  const bool with_origins_;
  std::string out_;
  std::vector<std::string_view> open_;
};

}  // namespace

std::string explain(const Scenario& scenario, bool with_origins) {
  return Printer(scenario, with_origins).run();
}

}  // namespace tandem
