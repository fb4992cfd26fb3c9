// The layers of a scenario, lowest first: presets, a Hugging Face configuration, device preset, the
// file, --set. Each but the configuration is a YAML text read by the same reader against the same
// table; a preset is a scenario of one section.
#include "common/scenario/read.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/convert.h"
#include "common/scenario/import_hf.h"
#include "common/scenario/json_reader.h"
#include "common/scenario/leaves.h"
#include "common/scenario/locate.h"
#include "common/scenario/order_file.h"
#include "common/scenario/presets.h"
#include "common/scenario/resolve.h"
#include "common/scenario/validate.h"
#include "common/scenario/yaml_reader.h"

namespace tandem {
namespace {

// What a preset may hold, and the fields it must leave to the user.
struct PresetKind {
  std::string_view folder, section, field, code;
};
constexpr PresetKind kModel = {"models", "model.", "model.preset", "E-MODEL-001"};
constexpr PresetKind kCluster = {"clusters", "cluster.", "cluster.preset", "E-CLUS-001"};
constexpr PresetKind kDevice = {"devices", "cluster.device.", "cluster.device.preset",
                                "E-CLUS-002"};

class Reader {
 public:
  explicit Reader(std::string name) { scenario_.file = std::move(name); }

  Result<Scenario> run(Result<YamlDocument> document, const std::vector<std::string>& sets,
                       Diagnostics* warnings) {
    if (!document) return error_of(document.error().diagnostics);
    add(document->duplicates);
    check_root(*document);
    lay_over(user_, flatten(*document, problems_));
    for (const std::string& set : sets) add_set(set);
    if (sets.size() > limits::kSets) refuse_sets(sets.size());
    split_nodes();
    default_cluster();
    add_preset(kModel);
    add_hf_config();
    add_preset(kCluster);
    add_preset(kDevice);
    lay_over(all_, user_);
    assign();
    check_version(*document);
    check_required();
    add_order();
    resolve(scenario_, given_);
    if (!stop_) validate(scenario_, given_, failed_, problems_);
    return finish(warnings);
  }

 private:
  Result<Scenario> finish(Diagnostics* warnings) {
    sort_diagnostics(problems_);
    const bool refused = std::any_of(problems_.begin(), problems_.end(),
                                     [](const Diagnostic& d) { return !d.is_warning(); });
    if (refused) {
      std::erase_if(problems_, [](const Diagnostic& d) { return d.is_warning(); });
      return error_of(std::move(problems_));
    }
    if (warnings != nullptr) *warnings = std::move(problems_);
    return std::move(scenario_);
  }

  void add(const Diagnostics& list) { problems_.insert(problems_.end(), list.begin(), list.end()); }

  void check_root(const YamlDocument& document) {
    if (document.root.kind == YamlNode::Kind::mapping) return;
    stop_ = true;
    Diagnostic d;
    d.code = "E-SCEN-001";
    d.title = "a scenario is a mapping of keys and values";
    d.found = document.root.kind == YamlNode::Kind::list     ? "a list"
              : document.root.kind == YamlNode::Kind::scalar ? document.root.text
                                                             : "nothing";
    d.expected = "keys such as tandem, model, parallel";
    d.hint = "start with \"tandem: 1\" and \"model: gpt-tiny\"";
    point_at(d, *document.source, document.root.mark);
    problems_.push_back(std::move(d));
  }

  // "a.b=c": the value is YAML, so that lists and quantities work.
  void add_set(const std::string& set) {
    const auto equals = set.find('=');
    const std::string path(trim(std::string_view(set).substr(0, equals)));
    if (equals == std::string::npos || path.empty()) return refuse_set(set);
    auto value = parse_yaml("--set " + set, set.substr(equals + 1), false);
    if (!value) return add(value.error().diagnostics);
    add(value->duplicates);
    YamlNode leaf = std::move(value->root);
    std::size_t index = 0;
    if (table_path(path, index) != path) return set_entry(path, std::move(leaf), value->source);
    // The path becomes the nesting of mappings that a file would have.
    const auto keys = split(path, '.');
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
      leaf.key = std::string(*key);
      YamlNode parent;
      parent.kind = YamlNode::Kind::mapping;
      parent.children.push_back(std::move(leaf));
      leaf = std::move(parent);
    }
    lay_over(user_, flatten({value->source, std::move(leaf), {}}, problems_));
  }

  // "cluster.network[1].latency=2 us": a field of an entry that a file or preset has given.
  void set_entry(const std::string& path, YamlNode node, std::shared_ptr<const YamlSource> source) {
    Leaf leaf;
    leaf.field = find_field(table_path(path, leaf.index));
    leaf.node = std::move(node);
    leaf.source = std::move(source);
    if (leaf.field == nullptr) return refuse_set(leaf.source->name.substr(6));
    user_.values.insert_or_assign(path, std::move(leaf));
  }

  void refuse_set(const std::string& set) {
    problems_.push_back(make_diagnostic("E-SCEN-016", "--set needs PATH=VALUE", set,
                                        "the path of a field, =, and its value",
                                        "write --set parallel.tp=2", Location{"--set " + set}));
  }
  void refuse_sets(std::size_t count) {
    problems_.push_back(
        make_diagnostic("E-SCEN-017", "too many --set options", fmt::format("{}", count),
                        fmt::format("at most {}", limits::kSets),
                        "write the values into the scenario file", Location{"--set"}));
  }

  void refuse_leaf(const std::string& path, const Leaf& leaf, std::string code, std::string title,
                   std::string found, std::string expected, std::string hint) {
    Diagnostic d = make_diagnostic(std::move(code), std::move(title), std::move(found),
                                   std::move(expected), std::move(hint));
    point_at(d, *leaf.source, leaf.node.mark);
    problems_.push_back(std::move(d));
    failed_.insert(path);
  }

  // "dgx-h100 x 16" -> preset dgx-h100, nodes 16.
  void split_nodes() {
    const auto it = user_.values.find("cluster.preset");
    if (it == user_.values.end() || it->second.node.kind != YamlNode::Kind::scalar) return;
    const std::string text = it->second.node.text;
    const auto at = text.find(" x ");
    if (at == std::string::npos) return;
    Leaf nodes = it->second;
    nodes.field = find_field("cluster.nodes");
    nodes.node.text = std::string(trim(text.substr(at + 3)));
    nodes.node.quoted = false;
    it->second.node.text = std::string(trim(text.substr(0, at)));
    const auto [given, is_new] = user_.values.emplace("cluster.nodes", nodes);
    if (is_new) return;
    if (given->second.source->is_file && !it->second.source->is_file)
      given->second = nodes;  // --set wins over the file
    else if (given->second.source->is_file)
      refuse_leaf("cluster.nodes", given->second, "E-CLUS-003",
                  "the number of nodes is given twice",
                  given->second.node.text + " here, and " + text, "one of the two",
                  "delete this key, or \" x " + nodes.node.text + "\"");
  }

  // A cluster that describes no device and no network starts from `local`.
  void default_cluster() {
    const bool described =
        std::any_of(user_.values.begin(), user_.values.end(), [](const auto& entry) {
          const std::string& path = entry.first;
          return path.starts_with("cluster.device.") || path.starts_with("cluster.network[") ||
                 path == "cluster.preset" || path == "cluster.nodes" ||
                 path == "cluster.devices_per_node";
        });
    if (!described) default_preset_ = "local";
  }

  [[nodiscard]] const Leaf* find(const std::string& path) const {
    if (const auto it = user_.values.find(path); it != user_.values.end()) return &it->second;
    if (const auto it = all_.values.find(path); it != all_.values.end()) return &it->second;
    return nullptr;
  }

  void add_preset(const PresetKind& kind) {
    const std::string field(kind.field);
    const Leaf* leaf = find(field);
    const bool by_default = leaf == nullptr && kind.folder == "clusters";
    if (by_default ? default_preset_.empty() : leaf == nullptr) return;
    if (leaf != nullptr && (leaf->node.kind != YamlNode::Kind::scalar || leaf->node.text.empty())) {
      preset_missing_ = true;  // assign() refuses it
      return;
    }
    const std::string name = by_default ? default_preset_ : leaf->node.text;
    if (by_default) scenario_.cluster.preset = name;
    auto document = preset_document(kind, name, leaf);
    if (!document) return;
    Leaves values = flatten(*document, problems_);
    std::erase_if(values.values, [&](const auto& entry) {
      const std::string& path = entry.first;
      if (path == "tandem" || path == kind.field) return true;
      if (path.starts_with(kind.section)) return false;
      refuse_leaf(path, entry.second, "E-SCEN-023", "a preset cannot set " + path, path,
                  fmt::format("fields of {}", kind.section.substr(0, kind.section.size() - 1)),
                  "move it to the scenario");
      note_preset(std::string(kind.section), entry.second, problems_.back());
      return true;
    });
    lay_over(all_, values);
  }

  // model.from_hf: the fields of a config.json (import_hf.h).
  void add_hf_config() {
    const std::string field = "model.from_hf";
    const Leaf* leaf = find(field);
    if (leaf == nullptr) return;
    if (leaf->node.kind != YamlNode::Kind::scalar || leaf->node.text.empty()) {
      preset_missing_ = true;  // assign() refuses it
      return;
    }
    if (const Leaf* preset = find("model.preset")) {
      preset_missing_ = true;
      refuse_leaf(field, *leaf, "E-MODEL-014", "a model cannot start from two places",
                  leaf->node.text + " here, and preset " + preset->node.text, "one of the two",
                  "delete model.from_hf or model.preset");
      return;
    }
    scenario_.model.from_hf = beside(*leaf->source, leaf->node.text);
    const auto note = [&](Diagnostics list) {
      for (Diagnostic& d : list) {
        d.notes.push_back({location_of(*leaf->source, leaf->node.mark), field + " is chosen here"});
        problems_.push_back(std::move(d));
      }
    };
    auto document = read_json(scenario_.model.from_hf);
    if (!document) {
      preset_missing_ = true;
      return note(document.error().diagnostics);
    }
    Diagnostics found = document->duplicates;
    const Leaves values = import_hf(*document, found);
    if (values.values.empty()) preset_missing_ = true;
    note(std::move(found));
    lay_over(all_, values);
  }

  // schedule.file: the order of kind file.
  void add_order() {
    const std::string field = "schedule.file";
    const bool wanted = scenario_.schedule.kind == "file" && !failed_.contains("schedule.kind");
    const Leaf* leaf = find(field);
    if (!wanted || failed_.contains(field)) return;
    auto& options = scenario_.schedule.options;
    std::optional<Order> order;
    if (leaf == nullptr || !options.contains("file")) {
      problems_.push_back(at_fields(scenario_, {"schedule.kind"}, "E-SCEN-063",
                                    "schedule kind file without a file", "no schedule.file",
                                    "the path of an order",
                                    "write schedule: {kind: file, file: order.csv}"));
    } else {
      Diagnostics found;
      order = read_order_file(beside(*leaf->source, options.at("file")), found);
      for (Diagnostic& d : found) {
        if (d.notes.size() < static_cast<std::size_t>(limits::kNotesPrinted))
          d.notes.push_back(
              {location_of(*leaf->source, leaf->node.mark), field + " is chosen here"});
        problems_.push_back(std::move(d));
      }
    }
    if (order)
      keep_order(scenario_.schedule, *order);
    else
      failed_.insert({field, "schedule.kind"});
  }

  std::optional<YamlDocument> preset_document(const PresetKind& kind, const std::string& name,
                                              const Leaf* leaf) {
    const bool is_path = name.find('/') != std::string::npos || name.ends_with(".yaml");
    const EmbeddedPreset* preset = is_path ? nullptr : find_preset(kind.folder, name);
    auto document = is_path ? read_yaml(beside(*leaf->source, name))
                    : preset != nullptr
                        ? parse_yaml(std::string(preset->path), std::string(preset->text))
                        : Result<YamlDocument>(Error{Failure::bad_input, {}});
    if (document) {
      add(document->duplicates);
      return std::move(document).value();
    }
    failed_.insert(std::string(kind.field));
    preset_missing_ = true;
    if (is_path) {
      for (Diagnostic d : document.error().diagnostics) {
        d.notes.push_back({location_of(*leaf->source, leaf->node.mark),
                           fmt::format("{} is chosen here", kind.field)});
        problems_.push_back(std::move(d));
      }
      return {};
    }
    const auto names = preset_names(kind.folder);
    const auto nearest = nearest_name(name, names);
    refuse_leaf(std::string(kind.field), *leaf, std::string(kind.code),
                fmt::format("{} \"{}\" is unknown", kind.field, name), name,
                "one of " + join(names, ", ") + ", or the path of a preset file",
                nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                        : "use one of these, or describe it in the scenario");
    return {};
  }

  // Paths in a file are relative to its folder, those of --set to the working folder.
  static std::string beside(const YamlSource& source, const std::string& path) {
    const auto slash = source.name.rfind('/');
    if (path.starts_with('/') || !source.is_file || slash == std::string::npos) return path;
    return source.name.substr(0, slash + 1) + path;
  }

  bool too_many(const std::string& path, const Leaf& leaf) {
    const auto limit = static_cast<std::size_t>(
        path.starts_with("cluster.network[") ? limits::kNetworkLevels : limits::kSlowDevices);
    if (leaf.index < limit) return false;
    const std::string list = path.substr(0, path.find('['));
    if (!failed_.insert(list).second) return true;  // said once
    refuse_leaf(path, leaf, "E-CLUS-014", list + " has too many entries",
                fmt::format("entry {}", leaf.index + 1), fmt::format("at most {}", limit),
                "delete the entries beyond");
    return true;
  }

  // A fault in a preset: also show who asked for the preset.
  void note_preset(const std::string& path, const Leaf& leaf, Diagnostic& d) const {
    if (leaf.source->name == scenario_.file || !leaf.source->is_file) return;
    if (leaf.source->name == scenario_.model.from_hf) {
      if (const Leaf* chosen = find("model.from_hf"))
        d.notes.push_back(
            {location_of(*chosen->source, chosen->node.mark), "model.from_hf is chosen here"});
      return;
    }
    for (const PresetKind& kind : {kDevice, kCluster, kModel}) {
      const auto chosen = user_.values.find(std::string(kind.field));
      if (!path.starts_with(kind.section) || chosen == user_.values.end()) continue;
      d.notes.push_back({location_of(*chosen->second.source, chosen->second.node.mark),
                         fmt::format("{} is chosen here", kind.field)});
      return;
    }
  }

  void assign() {
    for (const auto& [path, leaf] : all_.values) {
      scenario_.origins[path] = location_of(*leaf.source, leaf.node.mark);
      if (leaf.source->is_file)
        scenario_.origin_lines[path] = leaf.source->line_text(leaf.node.mark.line);
      if (failed_.contains(path)) continue;
      const std::size_t before = problems_.size();
      const auto value = too_many(path, leaf) ? std::nullopt : convert(path, leaf, problems_);
      if (!value) {
        failed_.insert(path);
        if (problems_.size() > before) note_preset(path, leaf, problems_.back());
        continue;
      }
      const bool automatic =
          value->index >= 0 && value->word == "auto" && leaf.field->type != FieldType::choice;
      if (automatic) continue;
      given_.insert(path);
      if (leaf.field->set != nullptr) leaf.field->set(scenario_, leaf.index, *value);
      if (path == "tandem") version_ = value->integer;
    }
  }

  void check_version(const YamlDocument& document) {
    if (stop_ || failed_.contains("tandem") || version_ == 1) return;
    const auto it = all_.values.find("tandem");
    if (it != all_.values.end())
      return refuse_leaf("tandem", it->second, "E-SCEN-013", "unknown format version",
                         it->second.node.text, "1", "write \"tandem: 1\"");
    Diagnostic d =
        make_diagnostic("E-SCEN-002", "the format version is missing", "no key \"tandem\"",
                        "tandem: 1", "add the line \"tandem: 1\" at the top");
    point_at(d, *document.source, YamlMark{});
    problems_.push_back(std::move(d));
  }

  // Fields whose default is "-". One message a section: they are missing together.
  void check_required() {
    if (stop_) return;
    require("model.", "E-MODEL-005",
            "start from a preset, such as \"model: gpt-tiny\", or add them");
    require("cluster.device.", "E-CLUS-007",
            "start from a preset, such as \"preset: h100-sxm\", or add them");
    for (std::size_t i = 0; i < scenario_.cluster.network.size(); ++i)
      require(fmt::format("cluster.network[{}].", i), "E-CLUS-009", "add them to this level");
    for (std::size_t i = 0; i < scenario_.cluster.slow_devices.size(); ++i)
      require(fmt::format("cluster.slow_devices[{}].", i), "E-CLUS-013", "add them to this entry");
  }

  void require(const std::string& section, std::string code, std::string hint) {
    std::size_t index = 0;
    const std::string known = table_path(section, index);
    std::vector<std::string> missing;
    for (const Field& field : scenario_fields()) {
      if (field.fallback != "-" || !field.path.starts_with(known)) continue;
      const std::string path = section + std::string(field.path.substr(known.size()));
      if (!given_.contains(path) && !failed_.contains(path)) missing.push_back(path);
    }
    if (missing.empty() || (preset_missing_ && section.find('[') == std::string::npos)) return;
    Diagnostic d = at_fields(scenario_, {}, std::move(code),
                             section.substr(0, section.size() - 1) + " is incomplete",
                             "nothing for " + join(missing, ", "), "a value for each", hint);
    const auto near = std::find_if(all_.values.begin(), all_.values.end(), [&](const auto& entry) {
      return entry.first.starts_with(section) ||
             (section == "cluster.device." && entry.first.starts_with("cluster."));
    });
    if (near != all_.values.end()) point_at(d, *near->second.source, near->second.node.mark);
    problems_.push_back(std::move(d));
    failed_.insert(missing.begin(), missing.end());
    stop_ = true;  // most rules need them
  }

  Scenario scenario_;
  Leaves user_, all_;
  Diagnostics problems_;
  std::set<std::string> given_, failed_;
  std::string default_preset_;
  std::int64_t version_ = 0;
  bool stop_ = false, preset_missing_ = false;
};

}  // namespace

Result<Scenario> read_scenario(const std::string& path, const std::vector<std::string>& sets,
                               Diagnostics* warnings) {
  return Reader(path).run(read_yaml(path), sets, warnings);
}

Result<Scenario> read_scenario_text(const std::string& name, const std::string& text,
                                    const std::vector<std::string>& sets, Diagnostics* warnings) {
  return Reader(name).run(parse_yaml(name, text), sets, warnings);
}

}  // namespace tandem
