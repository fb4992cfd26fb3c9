// The rules themselves. A new exception belongs into a table here, with its reason.
#include "tests/style/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>

namespace tandem::style {
namespace {

bool is_name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

bool is_under(std::string_view path, std::string_view folder) {
  return path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/';
}

int line_at(std::string_view text, std::size_t position) {
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + position, '\n'));
}

// Layers of common: an include goes to a smaller number or stays in its folder.
struct Layer {
  std::string_view folder;
  int height;
};
constexpr std::array kLayers = {
    Layer{"common/base", 0},
    Layer{"common/schedule", 1},
    Layer{"common/collective", 1},
    Layer{"common/scenario", 2},
    Layer{"common/model", 3},
    Layer{"common/parallel", 4},
    Layer{"common/plan", 5},
    Layer{"common/timeline", 6},
    Layer{"common/report", 7},
    Layer{"sim", 8},
    Layer{"exec", 8},
    Layer{"tools", 9},
};

const Layer* layer_of(std::string_view path) {
  for (const Layer& layer : kLayers)
    if (is_under(path, layer.folder)) return &layer;
  return nullptr;
}

// Built into the host layer, and so without LibTorch, though it shares plain code with exec/train.
bool is_checkpoint(std::string_view path) { return is_under(path, "exec/checkpoint"); }

bool is_host_layer(std::string_view path) {
  return is_under(path, "exec/launch") || is_under(path, "exec/rendezvous") ||
         is_under(path, "exec/transport");
}

// Says why `path` may not include the foreign header `header`; empty when it may.
std::string_view refuse_foreign(std::string_view path, std::string_view header) {
  const auto starts = [&](std::initializer_list<std::string_view> prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](std::string_view p) { return header.starts_with(p); });
  };
  if (starts({"yaml-cpp/"}) && path != "common/scenario/yaml_reader.cpp")
    return "yaml-cpp stays in common/scenario/yaml_reader.cpp";
  if (starts({"torch/torch.h"})) return "torch/torch.h takes 40 s to compile: include ATen headers";
  if (starts({"ATen/", "c10/", "torch/"}) &&
      (!is_under(path, "exec") || is_host_layer(path) || is_checkpoint(path)))
    return "LibTorch stays in exec, outside checkpoint, launch, rendezvous and transport";
  if (starts({"cuda", "nccl"}) && !is_under(path, "exec/cuda"))
    return "CUDA and NCCL stay in exec/cuda";
  if (starts({"boost/"}) && !is_under(path, "exec")) return "Boost.Asio stays in exec";
  if (starts({"mpi.h"}) && !is_under(path, "exec/transport")) return "MPI stays in exec/transport";
  if (starts({"CLI/"}) && !is_under(path, "tools")) return "CLI11 stays in tools";
  if (starts({"doctest/", "rapidcheck"})) return "test libraries stay in tests";
  return {};
}

std::string_view refuse_own(std::string_view path, std::string_view header) {
  const Layer* from = layer_of(path);
  const Layer* to = layer_of(header);
  if (header.starts_with("tests/")) return "shipped code does not include tests";
  if (!from || !to || from == to) {
    if (is_host_layer(path) && (is_under(header, "exec/kernels") ||
                                is_under(header, "exec/train") || is_under(header, "exec/optim")))
      return "the host layer builds without LibTorch";
    return {};
  }
  if (to->height >= from->height) return "an include goes down or stays in its folder";
  return {};
}

struct Ban {
  std::string_view name;
  std::string_view reason;
  bool in_tools;  // banned there too
  bool in_exec;   // banned there too
};
constexpr std::array kBans = {
    Ban{"rand(", "random numbers come from common/base/rng", true, true},
    Ban{"srand(", "random numbers come from common/base/rng", true, true},
    Ban{"random_device", "random numbers come from common/base/rng", true, true},
    Ban{"high_resolution_clock", "may be a wall clock: use steady_clock", true, true},
    Ban{"gettimeofday(", "wall clock", true, true},
    Ban{"std::time(", "wall clock", false, true},
    Ban{"system_clock", "wall clock", false, true},
    Ban{"steady_clock", "common and sim know no real time", false, false},
    Ban{"clock_gettime(", "common and sim know no real time", false, false},
    Ban{"std::exit(", "only tools/ exits", false, true},
    Ban{"exit(", "only tools/ exits", false, true},
    Ban{"quick_exit(", "only tools/ exits", false, true},
    Ban{"std::abort(", "return an error or use TANDEM_CHECK", false, true},
    Ban{"std::cout", "only tools/ prints", false, true},
    Ban{"std::cerr", "only tools/ prints", false, true},
    Ban{"printf(", "only tools/ prints", false, true},
    Ban{"fprintf(", "only tools/ prints", false, true},
    Ban{"fmt::print(", "only tools/ prints", false, true},
    Ban{"puts(", "only tools/ prints", false, true},
    Ban{"std::setlocale", "numbers do not depend on a locale", true, true},
};

// Names of the unordered containers that `code` declares.
std::set<std::string> unordered_names(std::string_view code) {
  std::set<std::string> names;
  for (std::size_t at = code.find("unordered_"); at != code.npos;
       at = code.find("unordered_", at + 1)) {
    std::size_t i = code.find('<', at);
    if (i == code.npos || code.substr(at, i - at).find_first_of(" ;\n") != code.npos) continue;
    int depth = 0;
    for (; i < code.size(); ++i) {
      if (code[i] == '<') ++depth;
      if (code[i] == '>' && --depth == 0) break;
    }
    for (++i; i < code.size() && (code[i] == ' ' || code[i] == '&' || code[i] == '\n');) ++i;
    std::size_t end = i;
    while (end < code.size() && is_name_char(code[end])) ++end;
    if (end > i) names.emplace(code.substr(i, end - i));
  }
  return names;
}

}  // namespace

std::string blank_comments_and_literals(std::string_view text) {
  std::string out(text);
  enum class In { code, line_comment, comment, text, character, raw } in = In::code;
  std::string raw_end;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const char c = text[i];
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    const auto blank = [&](std::size_t n) {
      for (std::size_t k = i; k < std::min(i + n, out.size()); ++k)
        if (out[k] != '\n') out[k] = ' ';
      i += n - 1;
    };
    switch (in) {
      case In::code:
        if (c == '/' && next == '/') in = In::line_comment;
        if (c == '/' && next == '*') in = In::comment;
        if (in != In::code) {
          blank(2);
        } else if (c == '"' && i > 0 && text[i - 1] == 'R') {
          const std::size_t open = text.find('(', i);
          raw_end = fmt::format("){}\"", text.substr(i + 1, open - i - 1));
          in = In::raw;
        } else if (c == '"') {
          in = In::text;
        } else if (c == '\'' && !(i > 0 && std::isdigit(static_cast<unsigned char>(text[i - 1])))) {
          in = In::character;  // a quote after a digit separates digits
        }
        break;
      case In::line_comment:
        if (c == '\n') in = In::code;
        blank(1);
        break;
      case In::comment:
        if (c == '*' && next == '/') {
          in = In::code;
          blank(2);
        } else {
          blank(1);
        }
        break;
      case In::text:
      case In::character:
        if (c == '\\') {
          blank(2);
        } else if (c == (in == In::text ? '"' : '\'')) {
          in = In::code;
        } else {
          blank(1);
        }
        break;
      case In::raw:
        if (text.substr(i, raw_end.size()) == raw_end) {
          blank(raw_end.size());
          in = In::code;
        } else {
          blank(1);
        }
        break;
    }
  }
  return out;
}

Findings check_includes(const SourceFile& file) {
  Findings findings;
  int line_number = 0;
  for (std::size_t begin = 0; begin < file.text.size();) {
    const std::size_t end = std::min(file.text.find('\n', begin), file.text.size());
    const std::string_view line = std::string_view(file.text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (!line.starts_with("#include ")) continue;
    const bool own = line.size() > 9 && line[9] == '"';
    const std::size_t close = line.find(own ? '"' : '>', 10);
    if (close == line.npos) continue;
    const std::string_view header = line.substr(10, close - 10);
    const std::string_view reason =
        own ? refuse_own(file.path, header) : refuse_foreign(file.path, header);
    if (!reason.empty())
      findings.push_back(
          fmt::format("{}:{}: includes {}: {}", file.path, line_number, header, reason));
    if (own && header.find('/') == header.npos)
      findings.push_back(fmt::format("{}:{}: includes {}: name it from the top of the tree",
                                     file.path, line_number, header));
  }
  return findings;
}

Findings check_banned_calls(const SourceFile& file) {
  const std::string code = blank_comments_and_literals(file.text);
  Findings findings;
  for (const Ban& ban : kBans) {
    if (is_under(file.path, "tools") && !ban.in_tools) continue;
    if (is_under(file.path, "exec") && !ban.in_exec) continue;
    for (std::size_t at = code.find(ban.name); at != code.npos; at = code.find(ban.name, at + 1)) {
      const char before = at == 0 ? ' ' : code[at - 1];
      if (is_name_char(before) || before == '.' || before == ':' || before == '>') continue;
      findings.push_back(
          fmt::format("{}:{}: {}: {}", file.path, line_at(code, at), ban.name, ban.reason));
    }
  }
  return findings;
}

Findings check_unordered_loops(const SourceFile& file, std::string_view header) {
  const std::string code = blank_comments_and_literals(file.text);
  std::set<std::string> names = unordered_names(code);
  names.merge(unordered_names(blank_comments_and_literals(header)));
  Findings findings;
  for (const std::string& name : names) {
    for (const std::string& use : {fmt::format(": {})", name), fmt::format("{}.begin()", name)}) {
      for (std::size_t at = code.find(use); at != code.npos; at = code.find(use, at + 1)) {
        if (at > 0 && is_name_char(code[at - 1])) continue;
        findings.push_back(
            fmt::format("{}:{}: goes through the unordered {}: its order is not ours", file.path,
                        line_at(code, at), name));
      }
    }
  }
  return findings;
}

Findings check_form(const SourceFile& file) {
  Findings findings;
  for (std::size_t i = 0; i < file.text.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(file.text[i]);
    if (c < 0x80 && c != '\t' && c != '\r') continue;
    findings.push_back(fmt::format("{}:{}: byte {:#04x}: files are ASCII, without tabs", file.path,
                                   line_at(file.text, i), c));
    break;
  }
  // A .cpp file that starts with its own header is introduced there.
  const std::string stem = file.path.substr(0, file.path.rfind('.'));
  if (!file.text.starts_with("//") &&
      !file.text.starts_with(fmt::format("#include \"{}.h\"", stem)))
    findings.push_back(fmt::format("{}:1: the first line says what the file is for", file.path));
  if (file.path.ends_with(".h") && file.text.find("#pragma once") == std::string::npos)
    findings.push_back(fmt::format("{}:1: no #pragma once", file.path));
  return findings;
}

Findings check_map(std::string_view map, const std::vector<std::string>& folders) {
  Findings findings;
  std::set<std::string> mapped;
  // Lines of the map: "`folder/` ..." as the first cell of a table.
  for (std::size_t at = map.find("\n| `"); at != map.npos; at = map.find("\n| `", at + 1)) {
    const std::size_t begin = at + 4;
    const std::size_t end = map.find("/`", begin);
    if (end == map.npos || map.substr(begin, end - begin).find_first_of("\n|`") != map.npos)
      continue;
    mapped.emplace(map.substr(begin, end - begin));
  }
  for (const std::string& folder : folders)
    if (!mapped.erase(folder))
      findings.push_back(
          fmt::format("docs/architecture.md: the folder {} is not in the map", folder));
  for (const std::string& gone : mapped)
    findings.push_back(
        fmt::format("docs/architecture.md: the map names {}, which is not there", gone));
  return findings;
}

}  // namespace tandem::style
