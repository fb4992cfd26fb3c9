// The house rules that a program can check (docs/testing.md, suite 24). Each rule takes text and
// gives findings, so that tidy_test.cpp can show that it catches what it is for. Not a C++ parser:
// comments and literals are blanked, the rest is searched for names.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::style {

struct SourceFile {
  std::string path;  // from the top of the tree, with '/'
  std::string text;
};

// "path:line: what is wrong". Empty: nothing found.
using Findings = std::vector<std::string>;

// The same text with comments, string and character literals turned into spaces; lines stay.
std::string blank_comments_and_literals(std::string_view text);

// Which folder may include which (docs/architecture.md).
Findings check_includes(const SourceFile& file);

// Random numbers, wall clocks, exits and printing where they have no place.
Findings check_banned_calls(const SourceFile& file);

// Loops over unordered containers; `header` is the file's own header or empty.
Findings check_unordered_loops(const SourceFile& file, std::string_view header);

// ASCII only; a first line that says what for (or includes the own header that does); #pragma once.
Findings check_form(const SourceFile& file);

// Every folder is in the map (docs/architecture.md) and every folder of the map is there.
Findings check_map(std::string_view map, const std::vector<std::string>& folders);

}  // namespace tandem::style
