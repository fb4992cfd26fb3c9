// JSON Schema (draft 07) and reference page. The schema helps editors; the reader has the last
// word.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/base/text.h"
#include "common/scenario/explain.h"
#include "common/scenario/fields.h"
#include "common/scenario/presets.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

Json number_schema(const Field& f, const char* type) {
  Json schema = {{"type", type}};
  if (f.min == f.max) return schema;
  schema[f.above_min ? "exclusiveMinimum" : "minimum"] =
      std::string_view(type) == "integer" ? Json(static_cast<std::int64_t>(f.min)) : Json(f.min);
  if (f.max < 1e18)
    schema["maximum"] =
        std::string_view(type) == "integer" ? Json(static_cast<std::int64_t>(f.max)) : Json(f.max);
  return schema;
}

Json value_schema(const Field& f) {
  switch (f.type) {
    case FieldType::count:
      return number_schema(f, "integer");
    case FieldType::real:
      return number_schema(f, "number");
    case FieldType::boolean:
      return {{"type", "boolean"}};
    case FieldType::choice:
      return {{"enum", words_of(f.names)}};
    case FieldType::text:
      return {{"type", "string"}};
    case FieldType::counts:
      return {{"type", "array"}, {"items", number_schema(f, "integer")}};
    case FieldType::reals:
      return {{"type", "array"}, {"items", {{"type", "number"}}}, {"minItems", 2}, {"maxItems", 2}};
    case FieldType::words:
      return {{"type", "array"}, {"items", {{"enum", words_of(f.names)}}}, {"uniqueItems", true}};
    default:
      return {{"type", "string"}, {"pattern", "^[0-9.eE+-]+ ?[A-Za-z/]+$"}};
  }
}

Json field_schema(const Field& f) {
  Json schema = value_schema(f);
  if (f.type != FieldType::choice && f.type != FieldType::words && !f.names.empty())
    schema = Json{{"anyOf", {schema, {{"enum", words_of(f.names)}}}}};
  std::string doc(f.doc);
  if (f.works == "-") doc += " Not available in this version.";
  schema["description"] = doc;
  return schema;
}

Json section_schema(const std::string& section);

// `model: NAME` is short for a mapping; a few fields are a word or a mapping.
Json entry_schema(const std::string& path) {
  const Field* field = find_field(path);
  const bool list = is_section(path + "[]");
  if (list) return {{"type", "array"}, {"items", section_schema(path + "[]")}};
  if (!is_section(path)) return field_schema(*field);
  Json section = section_schema(path);
  if (field != nullptr) return {{"anyOf", {field_schema(*field), section}}};
  if (path == "schedule") return {{"anyOf", {field_schema(*find_field("schedule.kind")), section}}};
  if (path == "model" || path == "cluster") return {{"anyOf", {{{"type", "string"}}, section}}};
  return section;
}

Json section_schema(const std::string& section) {
  Json schema = {{"type", "object"}, {"additionalProperties", false}};
  Json properties = Json::object();
  // In the order of the table, which is the order of the reference page.
  const auto names = names_below(section);
  for (const Field& field : scenario_fields())
    for (const std::string& name : names) {
      const std::string path = section.empty() ? name : section + "." + name;
      if (!field.path.starts_with(path) || properties.contains(name)) continue;
      const char next = field.path.size() > path.size() ? field.path[path.size()] : '.';
      if (next == '.' || next == '[') properties[name] = entry_schema(path);
    }
  schema["properties"] = std::move(properties);
  return schema;
}

std::string cell(std::string_view text) {
  std::string out;
  for (char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

}  // namespace

std::string json_schema() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                 {"title", "Tandem scenario"},
                 {"description", "Generated from common/scenario/fields.cpp; do not edit."}};
  schema.update(section_schema(""));
  schema["properties"]["tandem"] = {{"const", 1}, {"description", "Version of this format: 1."}};
  schema["required"] = {"tandem", "model"};
  return schema.dump(1) + "\n";
}

std::string reference_page() {
  std::string page =
      "# The scenario file: every field\n\n"
      "Generated from `common/scenario/fields.cpp`; do not edit. A path such as `parallel.tp` is "
      "the\n"
      "key `tp` below `parallel:`; `[]` is an entry of a list. A field marked *later* is known, "
      "and\n"
      "refused with the values that work. Quantities have units: `50 GB/s` (10^9 bytes), `50 "
      "GiB/s`\n"
      "(2^30), `400 Gb/s` (bits), `2 us`, `80 GB`, `989 Tflop/s`.\n\n"
      "Presets of models: ";
  page += join(preset_names("models"), ", ") +
          ". Of clusters: " + join(preset_names("clusters"), ", ") +
          ". Of devices: " + join(preset_names("devices"), ", ") + ".\n";
  std::string section;
  for (const Field& f : scenario_fields()) {
    const std::string top(f.path.substr(0, f.path.find('.')));
    const std::string heading = top == f.path ? "Top" : top;
    if (heading != section)
      page += fmt::format("\n## {}\n\n| field | value | default | |\n| --- | --- | --- | --- |\n",
                          heading);
    section = heading;
    const std::string fallback = f.fallback == "-" ? "required" : std::string(f.fallback);
    const std::string later = f.works == "-"    ? " *Later.*"
                              : f.works.empty() ? ""
                                                : fmt::format(" This version: {}.", f.works);
    page += fmt::format("| `{}` | {} | {} | {}{} |\n", f.path, cell(describe(f)), cell(fallback),
                        cell(f.doc), cell(later));
  }
  return page;
}

}  // namespace tandem
