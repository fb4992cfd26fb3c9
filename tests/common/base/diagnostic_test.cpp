// Goal: the exact text form of messages, their order, and that no message changes a terminal.
#include "common/base/diagnostic.h"

#include <doctest/doctest.h>

#include <set>

#include "common/base/diagnostic_codes.h"

using namespace tandem;

namespace {

Diagnostic example() {
  Diagnostic d;
  d.code = "E-SCEN-003";
  d.where = {"scenarios/x.yaml", 15, 1, 7};
  d.title = "unknown key \"paralel\"";
  d.source_line = "paralel:";
  d.found = "paralel";
  d.expected = "one of cluster, execute";
  d.hint = "did you mean \"parallel\"?";
  return d;
}

}  // namespace

TEST_CASE("to_text: all parts in order, caret under the text") {
  CHECK(to_text(example()) ==
        "scenarios/x.yaml:15:1: error E-SCEN-003: unknown key \"paralel\"\n"
        "   15 | paralel:\n"
        "      | ^^^^^^^\n"
        "  found:    paralel\n"
        "  expected: one of cluster, execute\n"
        "  hint:     did you mean \"parallel\"?\n");
}

TEST_CASE("to_text: notes stand before the hint, at most four; a place may have no line") {
  Diagnostic d = example();
  d.where = {"--set parallel.tp=2"};
  d.code = "W-SCEN-001";
  for (int i = 1; i <= 5; ++i) d.notes.push_back({{"plan.txt", i, 3}, "n"});
  CHECK(to_text(d) ==
        "--set parallel.tp=2: warning W-SCEN-001: unknown key \"paralel\"\n"
        "  found:    paralel\n"
        "  expected: one of cluster, execute\n"
        "  note:     plan.txt:1:3: n\n"
        "  note:     plan.txt:2:3: n\n"
        "  note:     plan.txt:3:3: n\n"
        "  note:     plan.txt:4:3: n\n"
        "  hint:     did you mean \"parallel\"?\n");
}

TEST_CASE("to_text: the caret counts columns, not bytes, and escapes take their width") {
  Diagnostic d = example();
  d.source_line = "\xe6\x97\xa5\x1b: ab";  // a wide character (3 bytes), an escape code (1)
  d.where = {"f", 1, 7, 2};                // "ab"
  CHECK(to_text(d).find("    1 | \xe6\x97\xa5\\x1b: ab\n      |         ^^\n") !=
        std::string::npos);
}

TEST_CASE("to_text: a caret after the end of the line") {
  Diagnostic d = example();
  d.source_line = "a: [1";
  d.where = {"f", 3, 6, 1};
  CHECK(to_text(d).find("    3 | a: [1\n      |      ^\n") != std::string::npos);
}

TEST_CASE("to_text: a long line is cut to 120 columns around the caret") {
  Diagnostic d = example();
  d.source_line = std::string(500, 'x') + "HERE" + std::string(500, 'y');
  d.where = {"f", 1, 501, 4};
  const std::string text = to_text(d);
  const auto start = text.find("    1 | ") + 8;
  const std::string line = text.substr(start, text.find('\n', start) - start);
  CHECK(line.size() == 120);
  CHECK(line.starts_with("..."));
  CHECK(line.ends_with("..."));
  const auto here = line.find("HERE");
  REQUIRE(here != std::string::npos);
  const auto marks = text.find("      | ", start) + 8;
  CHECK(text.substr(marks, here + 4) == std::string(here, ' ') + "^^^^");
}

TEST_CASE("to_text never passes control or bidirectional characters on") {
  Diagnostic d = example();
  d.title = d.found = d.hint = d.source_line = d.where.file = "\x1b[2J\xe2\x80\xae\n\x07";
  for (char c : to_text(d)) CHECK((c == '\n' || (c >= ' ' && c < 0x7f)));
}

TEST_CASE("sort: file in order of first appearance, line, column, code; duplicates dropped") {
  Diagnostics list;
  const auto add = [&](std::string file, int line, int column, std::string code) {
    Diagnostic d;
    d.where = {std::move(file), line, column};
    d.code = std::move(code);
    list.push_back(d);
  };
  add("z", 2, 1, "E-SCEN-002");
  add("a", 1, 1, "E-SCEN-001");
  add("z", 2, 1, "E-SCEN-001");
  add("z", 1, 9, "E-SCEN-003");
  add("a", 1, 1, "E-SCEN-001");
  sort_diagnostics(list);
  REQUIRE(list.size() == 4);
  CHECK(list[0].where.line == 1);
  CHECK(list[1].code == "E-SCEN-001");
  CHECK(list[2].code == "E-SCEN-002");
  CHECK(list[3].where.file == "a");
}

TEST_CASE("to_text of a list stops at 100") {
  Diagnostics list(103, example());
  const std::string text = to_text(list);
  CHECK(text.ends_with("and 3 more\n"));
}

TEST_CASE("codes: unique, well formed, sorted inside their area, explained") {
  const std::set<std::string> areas = {"CLI",   "IO",   "YAML", "SCEN",  "UNIT",
                                       "MODEL", "CLUS", "PLAN", "SCHED", "CAL",
                                       "TIME",  "RDZV", "EXEC", "CKPT",  "INT"};
  std::set<std::string_view> seen;
  for (const CodeInfo& row : diagnostic_codes()) {
    const std::string code(row.code);
    CHECK_MESSAGE(seen.insert(row.code).second, code);
    REQUIRE(code.size() > 6);
    CHECK_MESSAGE((code[0] == 'E' || code[0] == 'W'), code);
    CHECK_MESSAGE(areas.contains(code.substr(2, code.rfind('-') - 2)), code);
    CHECK_MESSAGE(code.substr(code.rfind('-') + 1).size() == 3, code);
    CHECK_MESSAGE(!row.title.empty(), code);
    CHECK_MESSAGE(!row.explanation.empty(), code);
    CHECK_MESSAGE(!row.example.empty(), code);
    CHECK(find_code(code) == &row);
  }
  CHECK(find_code("E-SCEN-999") == nullptr);
}
