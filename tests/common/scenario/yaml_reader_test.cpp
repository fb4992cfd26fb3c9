// Goal: each trap of yaml-cpp is closed at its own position. Method: one text per trap; the ones
// with a readable file stand in scenarios/invalid, here are sizes, marks and what is accepted.
#include "common/scenario/yaml_reader.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <pthread.h>

#include <chrono>

#include "common/base/limits.h"

using namespace tandem;

namespace {

Diagnostic refused(const std::string& text) {
  const auto document = parse_yaml("t", text);
  REQUIRE_FALSE(document.ok());
  REQUIRE(document.error().failure == Failure::bad_input);
  return document.error().diagnostics.back();
}

std::string code(const std::string& text) { return refused(text).code; }

const YamlNode& child(const YamlNode& node, std::size_t i) { return node.children.at(i); }

}  // namespace

TEST_CASE("a tree with kinds, quotes and marks") {
  const auto document = parse_yaml("t", "a: 1\nb:\n  - x\n  - 'y z'\nc: {d: }\n");
  REQUIRE(document.ok());
  const YamlNode& root = document->root;
  REQUIRE(root.children.size() == 3);
  CHECK(child(root, 0).key == "a");
  CHECK(child(root, 0).text == "1");
  CHECK_FALSE(child(root, 0).quoted);
  const YamlNode& list = child(root, 1);
  CHECK(list.kind == YamlNode::Kind::list);
  CHECK(child(list, 1).text == "y z");
  CHECK(child(list, 1).quoted);
  CHECK(child(list, 1).mark.line == 4);
  CHECK(child(list, 1).mark.column == 5);
  CHECK(child(list, 1).mark.length == 5);
  CHECK(child(child(root, 2), 0).kind == YamlNode::Kind::null);
  CHECK(child(child(root, 2), 0).key_mark.column == 5);
}

TEST_CASE("accepted: byte order mark, CRLF, one ---, comments, block text, empty") {
  const auto document = parse_yaml("t", "\xef\xbb\xbf---\r\n# x\r\na: 1\r\nb: |\r\n  text\r\n");
  REQUIRE(document.ok());
  CHECK(child(document->root, 0).text == "1");
  CHECK(child(document->root, 0).mark.line == 3);
  CHECK(child(document->root, 1).quoted);
  CHECK(document->source->line_text(3) == "a: 1");
  CHECK(parse_yaml("t", "")->root.kind == YamlNode::Kind::null);
  CHECK(parse_yaml("t", "# only this")->root.kind == YamlNode::Kind::null);
}

TEST_CASE("quotes that end, with escapes; quotes that do not") {
  CHECK(child(parse_yaml("t", "a: 'it''s'")->root, 0).text == "it's");
  CHECK(child(parse_yaml("t", "a: \"x\\\"y\"")->root, 0).text == "x\"y");
  CHECK(child(parse_yaml("t", "a: \"\"\n")->root, 0).text.empty());
  for (const char* text : {"a: \"x", "a: 'x", "a: 'it''", "a: \"x\\\"", "\"a", "{a: 'b}", "a: '\n"})
    CHECK_MESSAGE(code(text) == "E-YAML-007", text);
}

TEST_CASE("one code for each trap") {
  CHECK(code("a: &x 1") == "E-YAML-012");
  CHECK(code("a: *x") == "E-YAML-012");
  CHECK(code("&a [*a]") == "E-YAML-012");
  CHECK(code("a: &x") == "E-YAML-012");
  CHECK(code("&k a: 1") == "E-YAML-012");
  CHECK(code("a: !!str 1") == "E-YAML-013");
  CHECK(code("a: ! 1") == "E-YAML-013");
  CHECK(code("a: !!null ~") == "E-YAML-013");
  CHECK(code("a: !<x> [1]") == "E-YAML-013");
  CHECK(code("!x {a: 1}") == "E-YAML-013");
  CHECK(code("<<: {a: 1}") == "E-YAML-014");
  CHECK(code("a: 1\n---\nb: 2") == "E-YAML-015");
  CHECK(code("- 1\nb: 2") == "E-YAML-015");
  CHECK(code("{a: 1}\nb: 2") == "E-YAML-015");
  CHECK(code("a: 1\n...\nb: 2") == "E-YAML-015");
  CHECK(code("? [a]\n: 1") == "E-YAML-016");
  CHECK(code("{{a: 1}: 2}") == "E-YAML-016");
  CHECK(code(": 1") == "E-YAML-016");
  CHECK(code("%TAG ! x\n---\na: 1") == "E-YAML-006");
  CHECK(code("a: 1\n%x") == "E-YAML-006");
  CHECK(code(std::string("a: \"\0n\"", 8)) == "E-YAML-002");
  CHECK(code("a: \"\xc2\x85\"") == "E-YAML-002");
  CHECK(code("\xfe\xff"
             "a") == "E-YAML-001");
  CHECK(code("a: \xc0\x80") == "E-YAML-001");
  CHECK(code("a\xe2\x80\x8b: 1") == "E-YAML-003");
  CHECK(code("\xef\xbb\xbf\xef\xbb\xbf"
             "a: 1") == "E-YAML-003");
}

TEST_CASE("the place of a second document is its own") {
  const Diagnostic d = refused("{a: 1}\nb: 2\n");
  CHECK(d.where.line == 2);
  CHECK(d.where.column == 1);
}

TEST_CASE("duplicates are collected with a note at the first; the tree keeps the first") {
  const auto document = parse_yaml("t", "a: 1\nb: {c: 1, c: 2}\na: 3\n");
  REQUIRE(document.ok());
  REQUIRE(document->duplicates.size() == 2);
  CHECK(document->duplicates[0].where.line == 2);
  CHECK(document->duplicates[1].where.line == 3);
  CHECK(document->duplicates[1].notes.at(0).where.line == 1);
  CHECK(document->root.children.size() == 2);
  CHECK(child(document->root, 0).text == "1");
}

TEST_CASE("unclosed bracket: the note says where it was opened") {
  const Diagnostic d = refused("a: 1\nb: [1, 2\nc: 3\n");
  CHECK(d.code == "E-YAML-007");
  REQUIRE(d.notes.size() == 1);
  CHECK(d.notes[0].where.line == 2);
  CHECK(d.notes[0].where.column == 4);
  // Where yaml-cpp mistakes the bracket for the start of a key, the bracket itself is the place.
  const Diagnostic key = refused("a:\n  - [1, 2\n  - 3\n");
  CHECK(key.code == "E-YAML-007");
  CHECK(key.where.line == 2);
  CHECK(key.where.column == 5);
  CHECK(code("[1") == "E-YAML-007");
}

TEST_CASE("limits: at the limit accepted, one beyond refused") {
  const auto depth = [](int n) {
    std::string text = "a: ";
    text.append(n - 1, '[');
    return text.append(n - 1, ']');
  };
  CHECK(parse_yaml("t", depth(limits::kYamlDepth)).ok());
  CHECK(code(depth(limits::kYamlDepth + 1)) == "E-YAML-008");
  const auto line = [](int n) { return "a: " + std::string(n - 3, 'x') + "\n"; };
  CHECK(parse_yaml("t", line(limits::kYamlLineBytes)).ok());
  CHECK(code(line(limits::kYamlLineBytes + 1)) == "E-YAML-004");
  const auto keys = [](int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += fmt::format("k{}: 1\n", i);
    return text;
  };
  CHECK(parse_yaml("t", keys(limits::kYamlKeysPerMapping)).ok());
  CHECK(code(keys(limits::kYamlKeysPerMapping + 1)) == "E-YAML-011");
  const auto nodes = [](int n) {  // the list and its entries
    std::string text;
    for (int i = 1; i < n; ++i) text += "- 1\n";
    return text;
  };
  CHECK(parse_yaml("t", nodes(limits::kYamlNodes)).ok());
  CHECK(code(nodes(limits::kYamlNodes + 1)) == "E-YAML-009");
}

TEST_CASE("hostile texts end within 2 s") {
  const auto start = std::chrono::steady_clock::now();
  const auto fill = [](const std::string& unit) {
    std::string text;
    while (text.size() + unit.size() <= static_cast<std::size_t>(limits::kScenarioBytes))
      text += unit;
    return text;
  };
  for (const char* unit :
       {"[",     "{",     "[\n",  "- ",   "- \n",   "a: ",    "? ",        "'",
        "\"",    "&a ",   "*a ",  "!",    "[1,\n",  "{a: \n", "- - -\n",   "a:\n ",
        "|\n",   "#",     ",\n",  ": \n", "\t",     " \n",    "a: b: c\n", "x\n",
        "---\n", "...\n", "[]\n", "'\n",  "\"\\\n", "- 'x'\n"}) {
    const std::string text = fill(unit);
    (void)parse_yaml("t", text);
    const std::chrono::duration<double> used = std::chrono::steady_clock::now() - start;
    CHECK_MESSAGE(used.count() < 30, unit);
  }
}

#ifndef __SANITIZE_ADDRESS__  // its frames are several times as large
namespace {
void* read_on_small_stack(void* ok) {
  const std::string deep = "a: " + std::string(20'000, '[');
  const std::string maps = [] {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "[{a: ";
    return text;
  }();
  *static_cast<bool*>(ok) = !parse_yaml("t", deep).ok() && !parse_yaml("t", maps).ok();
  return nullptr;
}
}  // namespace

TEST_CASE("nested texts end on a stack of 64 KiB") {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstacksize(&attributes, 64 * 1024) == 0);
  pthread_t thread{};
  bool ok = false;
  REQUIRE(pthread_create(&thread, &attributes, read_on_small_stack, &ok) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  CHECK(ok);
}
#endif
