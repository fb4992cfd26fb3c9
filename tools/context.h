// What every command gets: the common options, and the only ways to print. stdout is the result,
// stderr the messages; with --json stdout is one object that holds both. docs/cli.md.
// Used by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace tandem::tools {

using Json = nlohmann::ordered_json;

// Options that every command takes (commands.h says which ones it uses).
struct CommonOptions {
  bool json = false;   // one JSON object on stdout, nothing else
  bool quiet = false;  // errors only
  bool force = false;
  std::string directory;  // -o; empty: not given
  std::optional<std::uint64_t> seed;
  std::vector<std::string> sets;  // --set, in order
};

class Context {
 public:
  CommonOptions options;
  std::string command;  // "simulate"
  // Set by the chosen command's callback; returns the exit code. Called once, after parsing.
  std::function<int()> action;
  // Keys of the --json object, in the order in which they are set. `ok`, `command`, `errors` and
  // `warnings` are added by finish().
  Json result = Json::object();

  // Part of the result for people: to stdout, unless --json or --quiet.
  void print(std::string_view text);
  // A line about what is going on ("wrote runs/x"): to stderr, unless --json or --quiet.
  void message(std::string_view line);
  // One line that replaces itself, on a terminal only; gone before anything else is printed.
  void progress(std::string_view what);
  // Warnings and errors: to stderr, or with --json into warnings[] and errors[].
  void warn(const Diagnostics& list);
  // The same for an error; returns the exit code to return.
  [[nodiscard]] int fail(const Error& error);

  // Prints the JSON object and flushes. Returns the exit code: `code`, or 7 where stdout took not
  // everything and the command had not failed otherwise.
  [[nodiscard]] int finish(int code);

 private:
  void write_out(std::string_view bytes);
  void write_err(std::string_view bytes);
  void clear_progress();

  Json errors_ = Json::array(), warnings_ = Json::array();
  int out_errno_ = 0;  // of the first failed write to stdout
  bool progress_shown_ = false;
};

// {"code", "severity", "file", "line", "column", "title", "source_line", "found", "expected",
// "notes", "hint"}
[[nodiscard]] Json to_json(const Diagnostic& d);

// stderr is a terminal that takes colours: isatty, no NO_COLOR, TERM other than dumb.
[[nodiscard]] bool colour_on_stderr();

}  // namespace tandem::tools
