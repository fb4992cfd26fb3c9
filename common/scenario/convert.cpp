// Conversions by type. Each refusal shows what was found, what is expected and a value that works.
#include "common/scenario/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/units_text.h"

namespace tandem {
namespace {

using Kind = YamlNode::Kind;

// What a spelling of a whole number that we refuse would have meant elsewhere.
std::string reading_of(std::string_view text) {
  const bool digits = text.find_first_not_of("0123456789") == std::string_view::npos;
  if (digits && text.size() > 18) return "";
  if (digits && text.size() > 1 && text[0] == '0') {
    const auto nonzero = std::min(text.find_first_not_of('0'), text.size() - 1);
    const std::string decimal(text.substr(nonzero));
    if (text.find_first_of("89") != std::string_view::npos) return "write " + decimal;
    std::int64_t octal = 0;
    for (char c : text) octal = octal * 8 + (c - '0');
    return fmt::format("write {}, or {} if it was meant as an octal number", decimal, octal);
  }
  if (text.starts_with("0x") && text.size() > 2 && text.size() < 14 &&
      text.find_first_not_of("0123456789abcdefABCDEF", 2) == std::string_view::npos)
    return fmt::format("write {}", std::stoll(std::string(text.substr(2)), nullptr, 16));
  std::string plain;
  for (char c : text)
    if (c != '_' && c != ',') plain += c;
  if (plain.starts_with('+')) plain.erase(0, 1);
  if (const auto whole = parse_int(plain)) return fmt::format("write {}", *whole);
  if (const auto real = parse_double(plain); real && std::abs(*real) < 1e15)
    if (*real == std::floor(*real)) return fmt::format("write {:.0f}", *real);
  return "";
}

std::optional<Dimension> dimension_of(FieldType type) {
  switch (type) {
    case FieldType::bytes:
      return Dimension::bytes;
    case FieldType::rate:
      return Dimension::rate;
    case FieldType::seconds:
      return Dimension::seconds;
    case FieldType::flops:
      return Dimension::flops;
    default:
      return std::nullopt;
  }
}

class Converter {
 public:
  Converter(const std::string& path, const Leaf& leaf, Diagnostics& problems)
      : path_(path), leaf_(leaf), field_(*leaf.field), problems_(problems) {}

  std::optional<FieldValue> run() {
    const YamlNode& node = leaf_.node;
    if (field_.works == "-") return unavailable("nothing: the key left out", "delete this key");
    if (node.kind == Kind::null)
      return refuse("E-SCEN-011", path_ + " has no value", "nothing", describe(field_),
                    "give a value, or delete the key");
    auto value = typed(node);
    if (!value || field_.works.empty()) return value;
    const auto works = words_of(field_.works);
    const std::string text = value->index < 0 ? value_text(field_, *value) : node.text;
    if (std::find(works.begin(), works.end(), text) != works.end()) return value;
    return unavailable(works.size() == 1 ? works[0] : "one of " + join(works, ", "),
                       "use " + works[0] + (works.size() > 1 ? " or another one of these" : ""));
  }

 private:
  std::nullopt_t refuse(std::string code, std::string title, std::string found,
                        std::string expected, std::string hint, const YamlNode* at = nullptr) {
    Diagnostic d = make_diagnostic(std::move(code), std::move(title), std::move(found),
                                   std::move(expected), std::move(hint));
    const YamlNode& node = at != nullptr ? *at : leaf_.node;
    const bool at_key =
        !node.key.empty() && (node.kind == Kind::null || node.mark.line != node.key_mark.line);
    point_at(d, *leaf_.source, at_key ? node.key_mark : node.mark);
    problems_.push_back(std::move(d));
    return std::nullopt;
  }

  std::nullopt_t unavailable(std::string expected, std::string hint) {
    const bool scalar = leaf_.node.kind == Kind::scalar;
    const std::string value = scalar ? fmt::format(" = {}", leaf_.node.text) : "";
    if (path_ == "model.family")
      hint = "use gpt or llama, or a preset such as gpt-tiny or llama-8b";
    return refuse("E-SCEN-020", fmt::format("{}{} is not available in this version", path_, value),
                  scalar ? leaf_.node.text : "a value", std::move(expected), std::move(hint));
  }

  std::nullopt_t wrong_kind(const YamlNode& node) {
    const std::string found = node.kind == Kind::list      ? "a list"
                              : node.kind == Kind::mapping ? "a mapping"
                              : node.kind == Kind::null    ? "nothing"
                              : node.quoted ? fmt::format("the quoted text \"{}\"", node.text)
                                            : node.text;
    const std::string hint = node.quoted && node.kind == Kind::scalar
                                 ? "write it without quotes"
                                 : fmt::format("see {} in docs/scenario_reference.md", field_.path);
    return refuse("E-SCEN-004", path_ + " has the wrong kind of value", found, describe(field_),
                  hint, &node);
  }

  std::optional<FieldValue> typed(const YamlNode& node) {
    const auto words = words_of(field_.names);
    if (node.kind == Kind::scalar && !node.quoted && field_.type != FieldType::words) {
      const auto it = std::find(words.begin(), words.end(), node.text);
      if (it != words.end()) {
        FieldValue value;
        value.word = node.text;
        value.index = static_cast<int>(it - words.begin());
        return value;
      }
    }
    switch (field_.type) {
      case FieldType::counts:
        return counts(node);
      case FieldType::reals:
        return betas(node);
      case FieldType::words:
        return order(node);
      default:
        break;
    }
    if (node.kind != Kind::scalar) return wrong_kind(node);
    // Quantities may be quoted, as they contain a space; everything else plain only.
    if (const auto dimension = dimension_of(field_.type)) return quantity(node, *dimension);
    if (node.quoted && field_.type != FieldType::text) return wrong_kind(node);
    switch (field_.type) {
      case FieldType::count:
        return count(node);
      case FieldType::real:
        return real(node);
      case FieldType::boolean:
        return boolean(node);
      case FieldType::choice:
        return choice(node, words);
      case FieldType::text:
        return text(node);
      default:
        return wrong_kind(node);
    }
  }

  std::optional<FieldValue> count(const YamlNode& node) {
    const auto number = parse_int(node.text);
    if (!number) {
      std::string hint = reading_of(node.text);
      if (hint.empty()) hint = "write digits only, such as " + example();
      return refuse("E-SCEN-006", path_ + " is not a whole number", node.text, describe(field_),
                    hint, &node);
    }
    const bool bounded = field_.max < 9e18;
    const auto low = static_cast<std::int64_t>(field_.min);
    const auto high = bounded ? static_cast<std::int64_t>(field_.max) : INT64_MAX;
    if (*number < low || *number > high) {
      const std::string title =
          *number < 1 && low == 1 ? path_ + " must be at least 1" : path_ + " is out of range";
      return refuse("E-SCEN-007", title, node.text, describe(field_),
                    fmt::format("use {}", *number < low ? low : high), &node);
    }
    FieldValue value;
    value.integer = *number;
    value.word = node.text;
    return value;
  }

  std::string example() const {
    const auto number = parse_int(field_.fallback);
    return number ? std::string(field_.fallback) : "8";
  }

  bool in_range(double x) const {
    if (field_.min == field_.max) return true;
    return x <= field_.max && (field_.above_min ? x > field_.min : x >= field_.min);
  }

  std::optional<FieldValue> real(const YamlNode& node) {
    const auto number = parse_double(node.text);
    if (!number)
      return refuse("E-SCEN-008", path_ + " is not a decimal number", node.text, describe(field_),
                    node.text.find(',') != std::string::npos
                        ? "write a decimal point, not a comma"
                        : "write a finite decimal number such as 0.5 or 3e-4",
                    &node);
    if (!in_range(*number))
      return refuse("E-SCEN-009", path_ + " is out of range", node.text, describe(field_),
                    near_range(*number), &node);
    FieldValue value;
    value.real = *number;
    value.word = node.text;
    return value;
  }

  std::string near_range(double x) const {
    if (x > field_.max) return "use " + format_double(field_.max) + " or less";
    return fmt::format("use {} {}", field_.above_min ? "more than" : "at least",
                       format_double(field_.min));
  }

  std::optional<FieldValue> boolean(const YamlNode& node) {
    FieldValue value;
    value.boolean = node.text == "true";
    value.word = node.text;
    if (value.boolean || node.text == "false") return value;
    static const std::set<std::string> kYes = {"yes", "Yes", "YES", "on",   "On",  "ON",
                                               "y",   "Y",   "1",   "True", "TRUE"};
    static const std::set<std::string> kNo = {"no", "No", "NO", "off",   "Off",  "OFF",
                                              "n",  "N",  "0",  "False", "FALSE"};
    const std::string hint = kYes.contains(node.text)  ? "write true"
                             : kNo.contains(node.text) ? "write false"
                                                       : "write true or false";
    return refuse("E-SCEN-010", path_ + " is not true or false", node.text, "true or false", hint,
                  &node);
  }

  std::optional<FieldValue> choice(const YamlNode& node, const std::vector<std::string>& words) {
    const auto nearest = nearest_name(node.text, words);
    return refuse("E-SCEN-005", fmt::format("{} cannot be \"{}\"", path_, node.text), node.text,
                  describe(field_),
                  nearest ? fmt::format("did you mean \"{}\"?", *nearest) : "use " + words[0],
                  &node);
  }

  std::optional<FieldValue> text(const YamlNode& node) {
    const bool is_name = path_ == "name" || path_.ends_with("].name");
    if (is_name && !is_plain_name(node.text))
      return refuse("E-SCEN-012", path_ + " is not a plain name", node.text,
                    "1 to 64 of A-Z a-z 0-9 _ . -, not starting with . or -",
                    "use a name such as my-run.1", &node);
    if (node.text.empty())
      return refuse("E-SCEN-011", path_ + " has no value", "an empty text", describe(field_),
                    "give a value, or delete the key", &node);
    if (node.text.size() > limits::kPathBytes)
      return refuse("E-SCEN-018", path_ + " is too long", fmt::format("{} bytes", node.text.size()),
                    fmt::format("at most {} bytes", limits::kPathBytes), "shorten it", &node);
    FieldValue value;
    value.word = node.text;
    return value;
  }

  std::optional<FieldValue> quantity(const YamlNode& node, Dimension dimension) {
    const Quantity q = parse_quantity(dimension, node.text, path_.ends_with(".memory"));
    if (!q.problem.code.empty())
      return refuse(q.problem.code, path_ + ": " + q.problem.title, node.text, q.problem.expected,
                    q.problem.hint, &node);
    if (!in_range(q.value))
      return refuse("E-SCEN-009", path_ + " is out of range", node.text, quantity_range(dimension),
                    "check the number and its unit", &node);
    if (dimension == Dimension::bytes && q.value != std::floor(q.value))
      return refuse("E-UNIT-006", path_ + " is not a whole number of bytes", node.text,
                    "a whole number of bytes",
                    "use " + quantity_text(dimension, std::ceil(q.value)), &node);
    FieldValue value;
    value.real = q.value;
    return value;
  }

  std::string quantity_range(Dimension dimension) const {
    return fmt::format("{} {}, at most {}", field_.above_min ? "above" : "at least",
                       quantity_text(dimension, field_.min), quantity_text(dimension, field_.max));
  }

  std::optional<FieldValue> counts(const YamlNode& node) {
    if (node.kind != Kind::list) return wrong_kind(node);
    if (node.children.empty())
      return refuse("E-SCEN-015", path_ + " is an empty list", "[]", describe(field_),
                    "give at least one number, or delete the key", &node);
    FieldValue value;
    for (const YamlNode& item : node.children) {
      if (item.kind != Kind::scalar || item.quoted) return wrong_kind(item);
      const auto one = count(item);
      if (!one) return std::nullopt;
      value.integers.push_back(one->integer);
    }
    return value;
  }

  std::optional<FieldValue> betas(const YamlNode& node) {
    if (node.kind != Kind::list) return wrong_kind(node);
    if (node.children.size() != 2)
      return refuse("E-SCEN-015", path_ + " has the wrong number of entries",
                    fmt::format("{}", node.children.size()), describe(field_),
                    "give two numbers, such as [0.9, 0.95]", &node);
    FieldValue value;
    for (const YamlNode& item : node.children) {
      if (item.kind != Kind::scalar || item.quoted) return wrong_kind(item);
      const auto one = real(item);
      if (!one) return std::nullopt;
      if (one->real >= 1)
        return refuse("E-SCEN-009", path_ + " is out of range", item.text, describe(field_),
                      "use less than 1", &item);
      value.reals.push_back(one->real);
    }
    return value;
  }

  std::optional<FieldValue> order(const YamlNode& node) {
    if (node.kind != Kind::list) return wrong_kind(node);
    auto wanted = words_of(field_.names);
    FieldValue value;
    for (const YamlNode& item : node.children) value.words.push_back(item.text);
    auto sorted = value.words;
    std::sort(sorted.begin(), sorted.end());
    std::sort(wanted.begin(), wanted.end());
    if (sorted != wanted)
      return refuse("E-SCEN-022", path_ + " does not name each axis once",
                    "[" + join(value.words, ", ") + "]", describe(field_),
                    "use " + std::string(field_.fallback), &node);
    return value;
  }

  const std::string& path_;
  const Leaf& leaf_;
  const Field& field_;
  Diagnostics& problems_;
};

}  // namespace

std::optional<FieldValue> convert(const std::string& path, const Leaf& leaf,
                                  Diagnostics& problems) {
  return Converter(path, leaf, problems).run();
}

}  // namespace tandem
