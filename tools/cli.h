// The command line as a whole: all commands, parsing, dispatch. main.cpp is only process matters.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tools/context.h"

namespace tandem::tools {

// The program's options and commands. `context` must live as long as the App.
[[nodiscard]] std::unique_ptr<CLI::App> make_app(Context& context);

// Parses, runs the command, prints the result. Returns the exit code. Exceptions of broken
// invariants pass through (run_guarded catches them).
[[nodiscard]] int run_cli(const std::vector<std::string>& arguments);

// run_cli with a last line of defence: any exception becomes one line on stderr and exit code 70.
[[nodiscard]] int run_guarded(const std::function<int()>& run);

// docs/cli.md, and the frozen list of flags, one "command --flag TYPE" a line.
[[nodiscard]] std::string cli_page();
[[nodiscard]] std::string flag_list();

}  // namespace tandem::tools
