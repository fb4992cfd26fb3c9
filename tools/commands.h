// The commands of the program. How to add one:
//   1. tools/cmd_NAME.cpp with a function `void add_NAME(CLI::App&, Context&)`: it calls
//      add_command() below, adds its own flags and positionals to the App it gets back, and gives
//      that App a callback which sets context.action. Nothing runs while arguments are parsed.
//   2. a declaration at the end of this file, and a row in commands.cpp (the order of --help).
//   3. tools/CMakeLists.txt; the new flags in tests/tools/flags.txt and docs/cli.md
//      (TANDEM_UPDATE=1 build/no-exec/tests/tools/cli_page_test writes both).
// The same commands with the same flags exist in every build; what needs the executor asks for it
// by open_executor() (executor.h) when it runs.
#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>
#include <string_view>

#include "tools/context.h"

namespace tandem::tools {

// Which of the common options a command uses. The others are taken too, with a warning: they exist
// on every command, and silence would be a bug.
enum CommonUse : unsigned {
  kUsesNone = 0,
  kUsesSets = 1u << 0,       // --set, --seed
  kUsesDirectory = 1u << 1,  // -o, --force
  kUsesAll = kUsesSets | kUsesDirectory,
};

struct CommandText {
  std::string_view name;      // "simulate"
  std::string_view summary;   // one line, no full stop
  std::string_view details;   // what it reads, does and writes; may be empty
  std::string_view examples;  // lines "tandem simulate S.yaml   what that does"
};

// The subcommand with the common options; unused ones warn.
CLI::App* add_command(CLI::App& app, Context& context, const CommandText& text, unsigned uses);

struct Command {
  std::string_view name;
  void (*add)(CLI::App&, Context&);
};
// In the order of --help.
[[nodiscard]] std::span<const Command> commands();

void add_validate(CLI::App& app, Context& context);
void add_model(CLI::App& app, Context& context);
void add_execute(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_calibrate(CLI::App& app, Context& context);
void add_plan(CLI::App& app, Context& context);
void add_simulate(CLI::App& app, Context& context);
void add_compare(CLI::App& app, Context& context);
void add_report(CLI::App& app, Context& context);
void add_trace(CLI::App& app, Context& context);
void add_schedule(CLI::App& app, Context& context);
void add_schema(CLI::App& app, Context& context);
void add_version(CLI::App& app, Context& context);

}  // namespace tandem::tools
