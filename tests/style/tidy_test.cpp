// Goal    house rules hold in the whole tree, and each rule really catches what it is for.
// Method  every rule first sees a bad and a good example, then all our files: no finding allowed.
//         Sizes are printed for a human to look at; they never fail.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/style/rules.h"

namespace fs = std::filesystem;
using namespace tandem::style;

namespace {

const fs::path kRoot = TANDEM_SOURCE_DIR;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// All .h and .cpp files below the given top folders, in order.
std::vector<SourceFile> sources(std::initializer_list<const char*> folders) {
  std::vector<SourceFile> files;
  for (const char* folder : folders) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp") continue;
      files.push_back(
          {entry.path().lexically_relative(kRoot).generic_string(), read(entry.path())});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

void expect_none(const Findings& findings) {
  for (const std::string& finding : findings) FAIL_CHECK(finding);
}

}  // namespace

TEST_CASE("style: comments and literals are blanked, code and lines stay") {
  CHECK(blank_comments_and_literals("a // rand(\nb") == "a         \nb");
  CHECK(blank_comments_and_literals("f(\"exit(1)\", 'x')") == "f(\"       \", ' ')");
  CHECK(blank_comments_and_literals("1'000 /* x\ny */ z") == "1'000     \n     z");
  CHECK(blank_comments_and_literals("R\"(a\"b)\" c").ends_with(" c"));
}

TEST_CASE("style: includes go down") {
  const auto count = [](const char* path, const char* line) {
    return check_includes({path, fmt::format("{}\n", line)}).size();
  };
  CHECK(count("sim/simulate.cpp", "#include \"exec/execute.h\"") == 1);
  CHECK(count("exec/execute.cpp", "#include \"sim/simulate.h\"") == 1);
  CHECK(count("common/plan/print.cpp", "#include \"sim/simulate.h\"") == 1);
  CHECK(count("common/base/text.cpp", "#include \"common/plan/plan.h\"") == 1);
  CHECK(count("common/plan/print.cpp", "#include \"common/base/text.h\"") == 0);
  CHECK(count("common/plan/print.cpp", "#include \"plan.h\"") == 1);
  CHECK(count("sim/simulate.cpp", "#include <ATen/ATen.h>") == 1);
  CHECK(count("exec/transport/local.cpp", "#include <c10/util/Exception.h>") == 1);
  CHECK(count("exec/kernels/linear.cpp", "#include <ATen/ops/mm.h>") == 0);
  CHECK(count("exec/kernels/linear.cpp", "#include <torch/torch.h>") == 1);
  CHECK(count("common/scenario/read.cpp", "#include <yaml-cpp/parser.h>") == 1);
  CHECK(count("tools/main.cpp", "#include <CLI/CLI.hpp>") == 0);
  for (const SourceFile& file : sources({"common", "sim", "exec", "tools"}))
    expect_none(check_includes(file));
}

TEST_CASE("style: no banned calls") {
  const auto count = [](const char* path, const char* code) {
    return check_banned_calls({path, code}).size();
  };
  CHECK(count("common/base/x.cpp", "int a = rand();") == 1);
  CHECK(count("common/base/x.cpp", "int a = operand(1); // rand()") == 0);
  CHECK(count("sim/x.cpp", "auto t = std::chrono::steady_clock::now();") == 0);
  CHECK(count("sim/x.cpp", "using steady_clock = int;") == 1);
  CHECK(count("tools/x.cpp", "std::exit(1);") == 0);
  CHECK(count("exec/x.cpp", "std::exit(1);") == 1);
  CHECK(count("exec/x.cpp", "comm.abort(); _exit(1);") == 0);
  for (const SourceFile& file : sources({"common", "sim", "exec", "tools"}))
    expect_none(check_banned_calls(file));
}

TEST_CASE("style: nothing visible depends on the order of an unordered container") {
  const std::string declared = "std::unordered_map<int, std::vector<int>> seen_;";
  CHECK(check_unordered_loops({"a.cpp", "for (auto& [k, v] : seen_) {}"}, declared).size() == 1);
  CHECK(check_unordered_loops({"a.cpp", declared + " seen_.begin();"}, "").size() == 1);
  CHECK(check_unordered_loops({"a.cpp", "seen_.find(3); for (int x : unseen_) {}"}, declared)
            .empty());
  const std::vector<SourceFile> files = sources({"common", "sim"});
  std::map<std::string, std::string> text;
  for (const SourceFile& file : files) text[file.path] = file.text;
  for (const SourceFile& file : files) {
    const std::string header = fs::path(file.path).replace_extension(".h").generic_string();
    expect_none(check_unordered_loops(file, text.contains(header) ? text[header] : ""));
  }
}

TEST_CASE("style: files are ASCII, say what they are for, and headers stand alone") {
  CHECK(check_form({"a.h", "// Why.\n#pragma once\n"}).empty());
  CHECK(check_form({"a.h", "#include <map>\n"}).size() == 2);
  CHECK(check_form({"sim/a.cpp", "#include \"sim/a.h\"\n"}).empty());
  CHECK(check_form({"sim/a.cpp", "#include \"sim/b.h\"\n"}).size() == 1);
  CHECK(check_form({"a.cpp", "// caf\xc3\xa9\n"}).size() == 1);
  for (const SourceFile& file : sources({"common", "sim", "exec", "tools", "tests"}))
    expect_none(check_form(file));
}

TEST_CASE("style: every .cpp is in the CMakeLists.txt of its folder or of one above") {
  for (const SourceFile& file : sources({"common", "sim", "exec", "tools", "tests"})) {
    if (!file.path.ends_with(".cpp")) continue;
    bool named = file.path == "tests/doctest_main.cpp";
    for (fs::path folder = fs::path(file.path).parent_path(); !named && !folder.empty();
         folder = folder.parent_path()) {
      const std::string name = fs::path(file.path).lexically_relative(folder).generic_string();
      named = read(kRoot / folder / "CMakeLists.txt").find(name) != std::string::npos;
    }
    CHECK_MESSAGE(named, file.path << " is built by no CMakeLists.txt");
  }
}

TEST_CASE("style: the map of the tree is the tree") {
  CHECK(check_map("\n| `sim/` | x |\n| `gone/` | y |\n", {"sim", "new"}).size() == 2);
  CHECK(check_map("\n| `sim/engine/` | x |\n", {"sim/engine"}).empty());
  // Two levels (tests: one, it mirrors the others): a folder counts when a file lies in or below
  // it.
  std::set<std::string> folders;
  for (const char* top : {"common", "sim", "exec", "tools", "scenarios", "tests", "docs"}) {
    if (!fs::exists(kRoot / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / top)) {
      if (!entry.is_regular_file() ||
          entry.path().string().find("__pycache__") != std::string::npos)
        continue;
      const fs::path relative = entry.path().lexically_relative(kRoot).parent_path();
      folders.insert(top);
      if (relative != fs::path(top) && std::string_view(top) != "tests")
        folders.insert((fs::path(top) / *std::next(relative.begin())).generic_string());
    }
  }
  expect_none(check_map(read(kRoot / "docs/architecture.md"), {folders.begin(), folders.end()}));
}

TEST_CASE("style: the ten longest files, for a human to look at") {
  std::vector<std::pair<long, std::string>> lengths;
  for (const SourceFile& file : sources({"common", "sim", "exec", "tools", "tests"}))
    lengths.emplace_back(std::count(file.text.begin(), file.text.end(), '\n'), file.path);
  std::sort(lengths.rbegin(), lengths.rend());
  for (std::size_t i = 0; i < std::min<std::size_t>(10, lengths.size()); ++i)
    fmt::print("{:6} lines  {}\n", lengths[i].first, lengths[i].second);
}
