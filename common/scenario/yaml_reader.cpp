// yaml-cpp's events -> our tree. It is a good scanner and no validator: it accepts aliases, tags,
// second documents and duplicate keys, so each of them is refused here, at its own position.
#include "common/scenario/yaml_reader.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/yaml_scan.h"

namespace tandem {
namespace {

// Stops the parser; never leaves this file.
struct Refused {
  Diagnostic diagnostic;
};

YamlMark to_mark(const YAML::Mark& mark) {
  return mark.is_null() ? YamlMark{} : YamlMark{mark.line + 1, mark.column + 1, 1};
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const YamlSource& source) : source_(source) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++num_documents_ > 1)
      refuse(to_mark(mark), "E-YAML-015", "a second document in one file",
             "more text after the end of the first document", "one document",
             "check the indentation here, or delete everything from here on");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode node = begin(YamlNode::Kind::null, to_mark(mark), "?", anchor);
    if (source_.line_text(node.mark.line).substr(node.mark.column - 1).starts_with('!'))
      refuse_tag(node.mark);
    add(std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_alias(to_mark(mark)); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node = begin(YamlNode::Kind::scalar, to_mark(mark), tag, anchor);
    if (value.size() > limits::kYamlScalarBytes)
      refuse(node.mark, "E-YAML-010", "the value is too long",
             fmt::format("{} bytes", value.size()),
             fmt::format("at most {} bytes", limits::kYamlScalarBytes), "shorten it");
    node.text = value;
    node.quoted = tag == "!";
    if (node.quoted) check_closed(node.mark);
    node.mark.length = written_length(node);
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    open(YamlNode::Kind::list, mark, tag, anchor, style);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    open(YamlNode::Kind::mapping, mark, tag, anchor, style);
  }
  void OnMapEnd() override { close(); }

  [[nodiscard]] YamlNode take_root() { return std::move(root_); }
  [[nodiscard]] Diagnostics take_duplicates() { return std::move(duplicates_); }

  // The innermost bracket that is still open: "unclosed" is reported at the end of the file.
  [[nodiscard]] std::optional<YamlMark> open_bracket() const {
    for (auto it = open_.rbegin(); it != open_.rend(); ++it)
      if (it->flow) return it->node.mark;
    return {};
  }

 private:
  struct Open {
    YamlNode node;
    bool flow = false;
    bool has_key = false;  // mapping: the key of the next value has been read
    std::string key;
    YamlMark key_mark;
    std::map<std::string, YamlMark> keys;
  };

  [[noreturn]] void refuse(const YamlMark& mark, std::string code, std::string title,
                           std::string found, std::string expected, std::string hint) const {
    Diagnostic d = make_diagnostic(std::move(code), std::move(title), std::move(found),
                                   std::move(expected), std::move(hint));
    point_at(d, source_, mark);
    throw Refused{std::move(d)};
  }
  [[noreturn]] void refuse_tag(const YamlMark& mark) const {
    refuse(mark, "E-YAML-013", "YAML tags are not supported", word_at(mark),
           "a value without a tag",
           "delete the tag; quoted text is text, plain text is read as its field asks");
  }
  [[noreturn]] void refuse_alias(const YamlMark& mark) const {
    refuse(mark, "E-YAML-012", "YAML anchors and aliases are not supported", word_at(mark),
           "the value itself", "write the value out here");
  }

  [[nodiscard]] std::string word_at(const YamlMark& mark) const {
    const std::string line = source_.line_text(mark.line);
    const auto start = std::min<std::size_t>(line.size(), mark.column - 1);
    const auto end = line.find_first_of(" ,[]{}", start + 1);
    return line.substr(start, std::min<std::size_t>(end, line.size()) - start);
  }

  // The bracket at `mark` if no later one closes it; it need not know quotes to word a message.
  [[nodiscard]] char unclosed_bracket(const YamlMark& mark) const {
    const std::string& bytes = source_.bytes;
    const std::size_t start = source_.line_starts[mark.line - 1] + mark.column - 1;
    if (start >= bytes.size() || (bytes[start] != '[' && bytes[start] != '{')) return '\0';
    int depth = 0;
    for (std::size_t at = start; at < bytes.size(); ++at) {
      if (bytes[at] == '[' || bytes[at] == '{') ++depth;
      if (bytes[at] == ']' || bytes[at] == '}') --depth;
      if (depth == 0) return '\0';
    }
    return bytes[start];
  }

  // yaml-cpp takes the end of the file for a closing quote.
  void check_closed(const YamlMark& mark) const {
    const std::string& bytes = source_.bytes;
    std::size_t at = source_.line_starts[mark.line - 1] + mark.column - 1;
    const char quote = at < bytes.size() ? bytes[at] : '\0';
    if (quote != '"' && quote != '\'') return;  // block text
    for (++at; at < bytes.size() && bytes[at] != quote; ++at)
      if (quote == '"' && bytes[at] == '\\') ++at;
    if (at >= bytes.size())
      refuse(mark, "E-YAML-007", "not valid YAML: a quote is not closed", word_at(mark),
             "a closing quote", "add the missing quote");
  }

  // Bytes under the caret: the scalar as written, up to the end of its first line.
  [[nodiscard]] int written_length(const YamlNode& node) const {
    const std::string line = source_.line_text(node.mark.line);
    const int left = static_cast<int>(line.size()) - node.mark.column + 1;
    int length = static_cast<int>(node.text.size()) + (node.quoted ? 2 : 0);
    const auto first_line = node.text.find('\n');
    if (first_line != std::string::npos) length = static_cast<int>(first_line);
    return std::clamp(length, 1, std::max(1, left));
  }

  YamlNode begin(YamlNode::Kind kind, const YamlMark& mark, const std::string& tag,
                 YAML::anchor_t anchor) {
    YamlNode node;
    node.kind = kind;
    node.mark = mark;
    if (anchor != 0) refuse_alias(mark);
    const std::string line = source_.line_text(mark.line);
    const bool bang = mark.column <= static_cast<int>(line.size()) && line[mark.column - 1] == '!';
    if ((tag != "?" && tag != "!") || bang) refuse_tag(mark);
    if (++num_nodes_ > limits::kYamlNodes)
      refuse(mark, "E-YAML-009", "too many values", fmt::format("more than {}", limits::kYamlNodes),
             fmt::format("at most {} keys, values and lists", limits::kYamlNodes),
             "check that this is the file you meant");
    return node;
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor, YAML::EmitterStyle::value style) {
    YamlNode node = begin(kind, to_mark(mark), tag, anchor);
    if (expects_key()) refuse_complex_key(node.mark);
    if (open_.size() >= limits::kYamlDepth)
      refuse(node.mark, "E-YAML-008", "lists and mappings are nested too deeply",
             fmt::format("more than {} levels", limits::kYamlDepth),
             fmt::format("at most {} levels", limits::kYamlDepth),
             "no field needs more than 6 levels: look for a bracket too many");
    Open& opened = open_.emplace_back();
    opened.node = std::move(node);
    opened.flow = style == YAML::EmitterStyle::Flow;
  }

  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(node));
  }

  [[nodiscard]] bool expects_key() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::mapping &&
           !open_.back().has_key;
  }
  [[noreturn]] void refuse_complex_key(const YamlMark& mark) const {
    // yaml-cpp takes some brackets that never close for the start of a key.
    if (const char bracket = unclosed_bracket(mark); bracket != '\0')
      refuse(mark, "E-YAML-007", fmt::format("not valid YAML: a \"{}\" is not closed", bracket),
             word_at(mark), "a closing bracket",
             fmt::format("add the missing \"{}\"", bracket == '[' ? ']' : '}'));
    refuse(mark, "E-YAML-016", "this cannot be a key", word_at(mark), "a name followed by a colon",
           "write \"name: value\"");
  }

  void add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (open_.back().node.kind == YamlNode::Kind::list) {
      open_.back().node.children.push_back(std::move(node));
    } else if (expects_key()) {
      take_key(node);
    } else {
      Open& parent = open_.back();
      node.key = std::move(parent.key);
      node.key_mark = parent.key_mark;
      parent.has_key = false;
      const auto [first, is_new] = parent.keys.emplace(node.key, node.key_mark);
      if (!is_new) return note_duplicate(node, first->second);
      if (parent.keys.size() > limits::kYamlKeysPerMapping)
        refuse(node.key_mark, "E-YAML-011", "too many keys in one mapping",
               fmt::format("more than {}", limits::kYamlKeysPerMapping),
               fmt::format("at most {}", limits::kYamlKeysPerMapping),
               "check that this is the file you meant");
      parent.node.children.push_back(std::move(node));
    }
  }

  void take_key(const YamlNode& node) {
    if (node.kind == YamlNode::Kind::null) refuse_complex_key(node.mark);
    if (node.text == "<<" && !node.quoted)
      refuse(node.mark, "E-YAML-014", "YAML merge keys are not supported", "<<",
             "the keys themselves", "write the keys out here, or start from a preset");
    Open& parent = open_.back();
    parent.key = node.text;
    parent.key_mark = node.mark;
    parent.has_key = true;
  }

  void note_duplicate(const YamlNode& node, const YamlMark& first) {
    if (duplicates_.size() >= limits::kDiagnosticsKept) return;
    Diagnostic d;
    d.code = "E-YAML-017";
    d.title = fmt::format("key \"{}\" is given twice", node.key);
    d.found = node.key;
    d.expected = "each key once in a mapping";
    d.hint = "delete one of the two";
    d.notes.push_back({location_of(source_, first), "first given here"});
    point_at(d, source_, node.key_mark);
    duplicates_.push_back(std::move(d));
  }

  const YamlSource& source_;
  std::vector<Open> open_;
  YamlNode root_;
  Diagnostics duplicates_;
  int num_nodes_ = 0, num_documents_ = 0;
};

// What yaml-cpp says, what we say, and how to fix it.
struct Translation {
  std::string_view theirs, title, hint;
};
constexpr std::array<Translation, 17> kTranslations = {{
    {"end of map flow not found", "a \"{\" is not closed", "add the missing \"}\""},
    {"end of sequence flow not found", "a \"[\" is not closed", "add the missing \"]\""},
    {"end of map not found", "a mapping ends in the middle of a line",
     "write each \"key: value\" on its own line, with the indentation of the line above"},
    {"end of sequence not found", "a list ends in the middle of a line",
     "write each \"- entry\" on its own line, with the indentation of the line above"},
    {"illegal flow end", "a closing bracket without an opening one", "delete the bracket"},
    {"illegal map value", "a colon where none can be",
     "indent the key as the ones above it, or quote a text that contains \": \""},
    {"illegal map key", "a key where none can be",
     "give all keys of a mapping the same indentation"},
    {"illegal block entry", "a \"- \" where none can be",
     "give all entries of a list the same indentation"},
    {"illegal EOF in scalar", "a quote is not closed", "add the missing quote"},
    {"illegal document indicator in scalar", "a quote is not closed", "add the missing quote"},
    {"illegal tab when looking for indentation", "a tab in the indentation", "indent with spaces"},
    {"cannot start a scalar with this character", "a value cannot start with this character",
     "quote the value"},
    {"unknown token", "a value cannot start with this character", "quote the value"},
    {"unknown escape character: ", "unknown escape sequence in a quoted text",
     "write the backslash twice, or use single quotes"},
    {"bad character found while scanning hex number", "bad hexadecimal escape in a quoted text",
     "write the backslash twice, or use single quotes"},
    {"invalid unicode: ", "bad Unicode escape in a quoted text",
     "write the backslash twice, or use single quotes"},
    {"the referenced anchor is not defined", "YAML anchors and aliases are not supported",
     "write the value out here"},
}};

Diagnostic translate(const YamlSource& source, const TreeBuilder& tree,
                     const YAML::Exception& problem) {
  Diagnostic d;
  d.code = "E-YAML-007";
  d.title = "not valid YAML: " + problem.msg;
  d.hint = "quote texts with special characters, and align the keys of a mapping";
  for (const Translation& row : kTranslations) {
    if (!std::string_view(problem.msg).starts_with(row.theirs)) continue;
    d.title = "not valid YAML: " + std::string(row.title);
    d.hint = row.hint;
    break;
  }
  YamlMark mark = to_mark(problem.mark);
  const std::string bad_line = source.line_text(mark.line);
  if (bad_line.substr(0, bad_line.find_first_not_of(" \t")).find('\t') != std::string::npos) {
    d.title = "not valid YAML: a tab in the indentation";
    d.hint = "indent with spaces";
  }
  // Never beyond the last character: an editor cannot jump there.
  mark.line = std::clamp(mark.line, 1, std::max(1, source.num_lines()));
  while (mark.line > 1 && source.line_text(mark.line).empty() && mark.line == source.num_lines()) {
    --mark.line;
    mark.column = static_cast<int>(source.line_text(mark.line).size()) + 1;
  }
  const std::string line = source.line_text(mark.line);
  mark.column = std::clamp(mark.column, 1, static_cast<int>(line.size()) + 1);
  d.found = mark.column > static_cast<int>(line.size()) ? "the end of the line"
                                                        : line.substr(mark.column - 1, 40);
  d.expected = "YAML as docs/scenario_reference.md shows it";
  if (problem.msg == "the referenced anchor is not defined") {
    d.code = "E-YAML-012";
    d.title = "YAML anchors and aliases are not supported";
    d.expected = "the value itself";
  } else if (const auto open = tree.open_bracket()) {
    d.notes.push_back({location_of(source, *open), "opened here"});
  }
  point_at(d, source, mark);
  return d;
}

Error bad_input(Diagnostics list) { return Error{Failure::bad_input, std::move(list)}; }

}  // namespace

std::string YamlSource::line_text(int line) const {
  if (line < 1 || line > num_lines()) return {};
  const std::size_t start = line_starts[line - 1];
  const std::size_t end = std::min(bytes.find('\n', start), bytes.size());
  // A line over the limit is refused, and shown around its limit only.
  constexpr std::size_t kShown = limits::kYamlLineBytes + limits::kSourceColumns;
  std::string text = bytes.substr(start, std::min(end - start, kShown));
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

Location location_of(const YamlSource& source, const YamlMark& mark) {
  if (!source.is_file) return Location{source.name};
  return Location{source.name, mark.line, mark.column, mark.length};
}

void point_at(Diagnostic& d, const YamlSource& source, const YamlMark& mark) {
  d.where = location_of(source, mark);
  d.source_line = source.is_file ? source.line_text(mark.line) : "";
}

Result<YamlDocument> parse_yaml(std::string name, std::string bytes, bool is_file) {
  auto source = std::make_shared<YamlSource>();
  source->name = std::move(name);
  source->bytes = std::move(bytes);
  source->is_file = is_file;
  if (auto refused = scan_yaml(*source)) return bad_input({std::move(*refused)});
  TreeBuilder tree(*source);
  try {
    std::istringstream stream(source->bytes);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(tree)) {
    }
  } catch (Refused& refused) {
    Diagnostics list = tree.take_duplicates();
    list.push_back(std::move(refused.diagnostic));
    return bad_input(std::move(list));
  } catch (const YAML::Exception& problem) {
    Diagnostics list = tree.take_duplicates();
    list.push_back(translate(*source, tree, problem));
    return bad_input(std::move(list));
  }
  return YamlDocument{std::move(source), tree.take_root(), tree.take_duplicates()};
}

Result<YamlDocument> read_yaml(const std::string& path) {
  Result<std::string> bytes = read_file(path, limits::kScenarioBytes);
  if (!bytes) return bytes.error();
  return parse_yaml(path, std::move(bytes).value());
}

}  // namespace tandem
