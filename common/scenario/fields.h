// The one table of scenario fields: path, type, unit, range, words, default, doc line, and the
// place in the structs. It drives the reader, the JSON Schema and the reference page, so they
// cannot disagree. To add a field: a row in fields.cpp, in the order of the reference page.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/scenario/scenario.h"

namespace tandem {

enum class FieldType {
  count,
  real,
  boolean,
  choice,
  text,
  bytes,
  rate,
  seconds,
  flops,
  counts,
  reals,
  words
};

// A value of any type, as read or as found in the structs.
struct FieldValue {
  bool absent = false;  // get: there is none, nothing is printed
  std::string word;     // one of the field's words, or the text of a text field
  int index = -1;       // of `word` in the field's words; -1: another kind of value
  std::int64_t integer = 0;
  double real = 0;  // real, and quantities in their base unit
  bool boolean = false;
  std::vector<std::int64_t> integers;
  std::vector<double> reals;
  std::vector<std::string> words;
};

struct Field {
  std::string_view path;  // "parallel.tp"; "[]" after a list of mappings
  FieldType type;
  std::string_view names;     // words it may be instead of, or (choice) as, a value: "auto", "a, b"
  double min = 0, max = 0;    // of a number; min == max: no bound
  bool above_min = false;     // min itself is excluded
  std::string_view fallback;  // default, as text; "-": must be given; "": absent
  std::string_view works;     // what this version can do, where that is less; "-": nothing
  std::string_view doc;
  // Place in the structs; nullptr: only the default works in this version.
  void (*set)(Scenario&, std::size_t index, const FieldValue&) = nullptr;
  FieldValue (*get)(const Scenario&, std::size_t index) = nullptr;
};

[[nodiscard]] std::span<const Field> scenario_fields();
[[nodiscard]] const Field* find_field(std::string_view path);
// True for "parallel", "model.moe", "cluster.network[]": some field lies below.
[[nodiscard]] bool is_section(std::string_view path);
// Names of fields and sections directly below a section ("" is the top), sorted.
[[nodiscard]] std::vector<std::string> names_below(std::string_view section);
// "auto, none" -> {"auto", "none"}.
[[nodiscard]] std::vector<std::string> words_of(std::string_view names);

// "a whole number from 1 to 1048576", "a size such as 40 MiB", "one of gpipe, 1f1b".
[[nodiscard]] std::string describe(const Field& field);
// As YAML, so that reading it gives the same value.
[[nodiscard]] std::string value_text(const Field& field, const FieldValue& value);

}  // namespace tandem
