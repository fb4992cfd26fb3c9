// What holds of any bytes that are read as a Hugging Face config.json: for the fuzz target
// (fuzz_config.cpp) and the short run of every test (import_hf_fuzz_test.cpp).
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "common/scenario/import_hf.h"
#include "common/scenario/json_reader.h"

namespace tandem {

// Whether a mark lies in the text: at one of its lines, and in it or right behind its last byte.
inline bool lies_in(const YamlSource& source, const YamlMark& mark) {
  if (mark.line < 1 || mark.line > source.num_lines() || mark.column < 1 || mark.length < 1)
    return false;
  const std::size_t start = source.line_starts[static_cast<std::size_t>(mark.line) - 1];
  return start + static_cast<std::size_t>(mark.column) - 1 <= source.bytes.size();
}

// Depth is limited by the reader, so recursion is.
inline bool all_lie_in(const YamlSource& source, const YamlNode& node) {
  if (!lies_in(source, node.mark)) return false;
  if (!node.key.empty() && !lies_in(source, node.key_mark)) return false;
  for (const YamlNode& child : node.children)
    if (!all_lie_in(source, child)) return false;
  return true;
}

struct ConfigOutcome {
  bool parsed = false, accepted = false;  // as JSON; without a message as a configuration
  std::string code;                       // of the first message; "" if there is none
};

// Nothing: a rule is broken, and `broken` says which.
inline std::optional<ConfigOutcome> read_config(std::string bytes, std::string& broken) {
  const auto fail = [&](const char* rule) {
    broken = rule;
    return std::nullopt;
  };
  ConfigOutcome out;
  const Result<YamlDocument> document = parse_json("config.json", std::move(bytes));
  if (!document) {
    const Diagnostics& why = document.error().diagnostics;
    if (why.size() != 1 || why[0].code.empty()) return fail("a refusal has one message");
    if (to_text(why).empty()) return fail("a message has a text");
    out.code = why[0].code;
    return out;
  }
  out.parsed = true;
  if (!all_lie_in(*document->source, document->root)) return fail("marks lie in the text");
  if (!document->duplicates.empty()) out.code = document->duplicates[0].code;
  Diagnostics problems, again;
  const Leaves leaves = import_hf(*document, problems);
  for (const auto& [path, leaf] : leaves.values) {
    if (leaf.field == nullptr) return fail("a leaf is a field");
    if (!path.starts_with("model.")) return fail("a configuration sets fields of the model only");
  }
  for (const Diagnostic& d : problems)
    if (d.code.empty() || d.title.empty()) return fail("a message has a code and a title");
  (void)to_text(problems);
  if (import_hf(*document, again).values.size() != leaves.values.size() ||
      to_text(again) != to_text(problems))
    return fail("the same text gives the same fields and messages");
  if (out.code.empty() && !problems.empty()) out.code = problems[0].code;
  out.accepted = out.code.empty() || out.code.starts_with("W-");
  return out;
}

}  // namespace tandem
