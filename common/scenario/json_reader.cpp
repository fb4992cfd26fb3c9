// nlohmann's SAX parser over an iterator that tells how far it has read: it has just passed a key's
// closing quote when it reports the key, so every key has its place, and its value stands behind
// the colon.
#include "common/scenario/json_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/base/limits.h"

namespace tandem {
namespace {

// A pointer that writes down where it is.
class Watched {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  Watched(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  Watched& operator++() {
    *seen_ = ++at_;
    return *this;
  }
  Watched operator++(int) {
    Watched before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Watched& other) const { return at_ == other.at_; }
  bool operator!=(const Watched& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

class Builder {
 public:
  explicit Builder(std::shared_ptr<const YamlSource> source)
      : source_(std::move(source)), seen_(source_->bytes.data()) {}

  Result<YamlDocument> run() {
    const std::string& bytes = source_->bytes;
    Handler handler{*this};
    const bool good = nlohmann::json::sax_parse(
        Watched(bytes.data(), &seen_), Watched(bytes.data() + bytes.size(), &seen_), &handler);
    if (!good) return Error{Failure::bad_input, {std::move(refused_)}};
    return YamlDocument{source_, std::move(root_), std::move(duplicates_)};
  }

 private:
  using Kind = YamlNode::Kind;
  struct Open {
    YamlNode* node;  // stays where it is: nothing is added beside it while it is open
    std::set<std::string> keys;
  };
  // What the parser calls; false ends it.
  struct Handler : nlohmann::json_sax<nlohmann::json> {
    explicit Handler(Builder& b) : to(b) {}
    bool null() override { return to.value(Kind::null, {}); }
    bool boolean(bool v) override { return to.value(Kind::scalar, v ? "true" : "false"); }
    bool number_integer(std::int64_t v) override {
      return to.value(Kind::scalar, fmt::format("{}", v));
    }
    bool number_unsigned(std::uint64_t v) override {
      return to.value(Kind::scalar, fmt::format("{}", v));
    }
    bool number_float(double, const std::string& text) override {
      return to.value(Kind::scalar, text);
    }
    bool string(std::string& text) override { return to.value(Kind::scalar, text, true); }
    bool binary(binary_t&) override { return false; }  // not in text
    bool start_object(std::size_t) override { return to.open(Kind::mapping); }
    bool key(std::string& name) override { return to.key(name); }
    bool end_object() override { return to.close(); }
    bool start_array(std::size_t) override { return to.open(Kind::list); }
    bool end_array() override { return to.close(); }
    bool parse_error(std::size_t position, const std::string&,
                     const nlohmann::detail::exception& e) override {
      return to.syntax(position, e.what());
    }
    Builder& to;
  };

  [[nodiscard]] std::size_t read() const {
    return static_cast<std::size_t>(seen_ - source_->bytes.data());
  }
  [[nodiscard]] YamlMark mark_at(std::size_t offset, std::size_t length = 1) const {
    const auto& lines = source_->line_starts;
    const auto line = std::upper_bound(lines.begin(), lines.end(), offset) - lines.begin();
    const std::size_t start = lines[static_cast<std::size_t>(line) - 1];
    return {static_cast<int>(line), static_cast<int>(offset - start) + 1, static_cast<int>(length)};
  }

  bool refuse(const YamlMark& mark, std::string code, std::string title, std::string found,
              std::string expected, std::string hint) {
    refused_ = make_diagnostic(std::move(code), std::move(title), std::move(found),
                               std::move(expected), std::move(hint));
    point_at(refused_, *source_, mark);
    return false;
  }

  bool key(const std::string& name) {
    const std::string& bytes = source_->bytes;
    const std::size_t end = read();  // behind the closing quote
    std::size_t begin = end - 2;
    const auto escaped = [&](std::size_t at) {
      std::size_t slashes = 0;
      while (at > slashes && bytes[at - slashes - 1] == '\\') ++slashes;
      return slashes % 2 == 1;
    };
    while (bytes[begin] != '"' || escaped(begin)) --begin;
    key_ = name;
    key_mark_ = mark_at(begin, end - begin);
    has_key_ = true;
    std::size_t at = bytes.find(':', end);
    at = at == std::string::npos ? at : bytes.find_first_not_of(" \t\r\n", at + 1);
    value_at_ = std::min(at, bytes.size() - 1);
    Open& open = open_.back();
    if (!open.keys.insert(name).second) duplicate();
    return true;
  }

  void duplicate() {
    if (skipped_ == 0) skipped_ = open_.size();  // else it goes with the outer one
    if (duplicates_.size() >= static_cast<std::size_t>(limits::kDiagnosticsKept)) return;
    Diagnostic d = make_diagnostic("E-YAML-017", fmt::format("key \"{}\" is given twice", key_),
                                   key_, "each key once", "delete one of the two");
    point_at(d, *source_, key_mark_);
    duplicates_.push_back(std::move(d));
  }

  // The next node: the value of the key that came, or an entry of the open list.
  YamlNode* add(Kind kind) {
    if (++num_nodes_ > limits::kYamlNodes) {
      refuse(mark_at(std::min(read(), source_->bytes.size()) - 1), "E-YAML-009", "too many values",
             fmt::format("more than {}", limits::kYamlNodes),
             fmt::format("at most {} keys, values and lists", limits::kYamlNodes),
             "is this the right file?");
      return nullptr;
    }
    YamlNode* node = &root_;
    if (!open_.empty()) node = &open_.back().node->children.emplace_back();
    node->kind = kind;
    if (has_key_) {
      node->key = key_;
      node->key_mark = key_mark_;
      node->mark = mark_at(value_at_);
    } else if (!open_.empty()) {
      node->mark = open_.back().node->mark;
    }
    has_key_ = false;
    return node;
  }

  bool value(Kind kind, const std::string& text, bool quoted = false) {
    const bool counted = has_key_;
    YamlNode* node = add(kind);
    if (!node) return false;
    node->text = text;
    node->quoted = quoted;
    if (counted && kind == Kind::scalar && !quoted)
      node->mark.length = static_cast<int>(text.size());
    else if (counted)
      node->mark.length = static_cast<int>(std::max<std::size_t>(1, read() - value_at_));
    drop_duplicate();
    return true;
  }

  bool open(Kind kind) {
    if (static_cast<int>(open_.size()) >= limits::kYamlDepth)
      return refuse(mark_at(std::max<std::size_t>(read(), 1) - 1), "E-YAML-008",
                    "lists and mappings are nested too deeply",
                    fmt::format("more than {} levels", limits::kYamlDepth),
                    fmt::format("at most {} levels", limits::kYamlDepth),
                    "is this the right file?");
    YamlNode* node = add(kind);
    if (!node) return false;
    open_.push_back({node, {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    drop_duplicate();
    return true;
  }

  // A second value of a key goes as soon as it is complete.
  void drop_duplicate() {
    if (skipped_ == 0 || open_.size() != skipped_) return;
    open_.back().node->children.pop_back();
    skipped_ = 0;
  }

  // "... parse error at line 3, column 5: syntax error while parsing object - unexpected '}';
  // expected string literal": at the byte that was read last.
  bool syntax(std::size_t position, const std::string& what) {
    const std::string& bytes = source_->bytes;
    const std::size_t at = std::min(position > 0 ? position - 1 : 0, bytes.size());
    const bool ended = at >= bytes.size() || what.find("end of input") != std::string::npos;
    const std::size_t expected = what.find("; expected ");
    return refuse(mark_at(bytes.empty() ? 0 : std::min(at, bytes.size() - 1)), "E-MODEL-012",
                  "not valid JSON", ended ? "the end of the file" : bytes.substr(at, 1),
                  expected == std::string::npos ? "JSON (RFC 8259)" : what.substr(expected + 11),
                  "a config.json holds one JSON object; look at this place and above it");
  }

  std::shared_ptr<const YamlSource> source_;
  const char* seen_;
  std::vector<Open> open_;
  YamlNode root_;
  Diagnostics duplicates_;
  Diagnostic refused_;
  std::string key_;
  YamlMark key_mark_;
  bool has_key_ = false;
  std::size_t value_at_ = 0;
  std::size_t skipped_ = 0;  // depth of the object whose second value of a key is being read
  int num_nodes_ = 0;
};

}  // namespace

Result<YamlDocument> parse_json(std::string name, std::string bytes) {
  auto source = std::make_shared<YamlSource>();
  source->name = std::move(name);
  source->bytes = std::move(bytes);
  source->line_starts = {0};
  for (std::size_t i = 0; i < source->bytes.size(); ++i)
    if (source->bytes[i] == '\n') source->line_starts.push_back(i + 1);
  return Builder(std::move(source)).run();
}

Result<YamlDocument> read_json(const std::string& path) {
  Result<std::string> bytes = read_file(path, limits::kScenarioBytes);
  if (!bytes) return bytes.error();
  return parse_json(path, std::move(bytes).value());
}

}  // namespace tandem
