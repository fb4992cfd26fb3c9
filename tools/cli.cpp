// Parsing with CLI11; its exceptions end here, as diagnostics with the nearest known name.
#include "tools/cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <new>

#include "common/base/text.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

constexpr std::string_view kFooter = R"(Start here
  tandem validate scenarios/quickstart.yaml             is the scenario right?
  tandem plan scenarios/quickstart.yaml --grid          which rank computes what, when
  tandem simulate scenarios/quickstart.yaml             how long a step takes, and where it goes
  tandem simulate scenarios/gpt3-175b-1024.yaml --set parallel.pp=8
`tandem COMMAND --help` explains a command; docs/cli.md is the reference.
Exit codes: 0 ok, 1 outside tolerance, 2 usage, 3 bad input, 4 infeasible, 5 execution failed,
6 timeout or peer lost, 7 output, 70 internal error, 130 and 143 interrupted.)";

// "Usage: tandem simulate [options] S.yaml": CLI11 leaves the program's name out.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* app, std::string /*name*/) const override {
    if (app->get_parent() == nullptr) return "\nUsage: tandem COMMAND [options]\n";
    std::string out = "\nUsage: tandem " + app->get_name() + " [options]";
    for (const CLI::Option* option : app->get_options([](const CLI::Option*) { return true; }))
      if (option->get_positional())
        out += (option->get_required() ? " " : " [") + option->get_type_name() +
               (option->get_required() ? "" : "]");
    return out + "\n";
  }
};

Diagnostic usage(std::string code, std::string title, std::string found, std::string expected,
                 std::string hint) {
  return make_diagnostic(std::move(code), std::move(title), std::move(found), std::move(expected),
                         std::move(hint), Location{"command line"});
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    if (!sub->get_group().empty()) names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

const CLI::App* chosen_command(const CLI::App& app, const std::vector<std::string>& arguments) {
  for (const std::string& a : arguments)
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
      if (sub->get_name() == a) return sub;
  return nullptr;
}

Diagnostic unknown_command(const CLI::App& app, const std::string& word) {
  const auto names = command_names(app);
  const auto nearest = nearest_name(word, names);
  return usage("E-CLI-001", fmt::format("unknown command \"{}\"", word), word,
               "one of " + join(names, ", "),
               nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                       : "`tandem --help` explains the commands");
}

Diagnostic extra_argument(const CLI::App& app, const CLI::App* command, const std::string& word) {
  const std::string help =
      command ? fmt::format("tandem {} --help", command->get_name()) : "tandem --help";
  if (!word.starts_with('-'))
    return usage("E-CLI-003", fmt::format("one argument too many: \"{}\"", word), word,
                 "the arguments of the usage line", fmt::format("`{}` shows them", help));
  const std::string name = word.substr(0, word.find('='));
  const auto names = option_names(command ? *command : app);
  const auto nearest = nearest_name(name, names);
  return usage("E-CLI-002", fmt::format("unknown option \"{}\"", name), word,
               "one of " + join(names, ", "),
               nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                       : fmt::format("`{}` explains the options", help));
}

// What was wrong, from the exception; CLI11's own text stands behind "found".
Diagnostic parse_fault(const CLI::App& app, const std::vector<std::string>& arguments,
                       const CLI::ParseError& e) {
  const CLI::App* command = chosen_command(app, arguments);
  const std::string help =
      command ? fmt::format("`tandem {} --help` explains the arguments", command->get_name())
              : std::string("`tandem --help` explains the commands");
  if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) {
    const std::vector<std::string> rest =
        (command != nullptr ? command : &app)->remaining(/*recurse=*/true);
    for (const std::string& word : rest)
      if (word.starts_with('-')) return extra_argument(app, command, word);
    if (!rest.empty()) return extra_argument(app, command, rest.front());
  }
  if (dynamic_cast<const CLI::RequiredError*>(&e) != nullptr)
    return usage("E-CLI-003", "an argument is missing", e.what(), "every required argument", help);
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&e) != nullptr)
    return usage("E-CLI-003", "an option lacks its value, or has too many", e.what(),
                 "the values that the option takes", help);
  if (dynamic_cast<const CLI::ExcludesError*>(&e) != nullptr ||
      dynamic_cast<const CLI::RequiresError*>(&e) != nullptr)
    return usage("E-CLI-005", "these options do not go together", e.what(),
                 "options that can be used together", help);
  return usage("E-CLI-004", "an option has a wrong value", e.what(),
               "a value that the option takes", help);
}

// The first word that is no option: the command, if it is one.
std::optional<std::string> first_word(const std::vector<std::string>& arguments) {
  for (const std::string& a : arguments)
    if (!a.starts_with('-')) return a;
  return std::nullopt;
}

}  // namespace

std::unique_ptr<CLI::App> make_app(Context& context) {
  auto app = std::make_unique<CLI::App>(
      "Tandem: what will a training step cost, what does it really cost, and where do they differ?",
      "tandem");
  app->formatter(std::make_shared<HelpFormatter>());
  app->set_help_flag("-h,--help", "Explain the command and its options");
  app->set_version_flag("--version", fmt::format("tandem {}", kVersion), "Print the version");
  app->footer(std::string(kFooter));
  app->require_subcommand(1);
  app->failure_message(nullptr);
  for (const Command& command : commands()) command.add(*app, context);
  return app;
}

int run_cli(const std::vector<std::string>& arguments) {
  Context context;
  const auto app = make_app(context);
  // Asked for in whatever form the fault has: a script that asked for JSON gets JSON.
  const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
  const auto refuse = [&](Diagnostic d) {
    context.options.json = json;
    if (const CLI::App* command = chosen_command(*app, arguments))
      context.command = command->get_name();
    return context.finish(context.fail({Failure::usage, {std::move(d)}}));
  };
  if (arguments.empty()) {
    return refuse(usage("E-CLI-003", "a command is missing", "no arguments",
                        "one of " + join(command_names(*app), ", "),
                        "`tandem --help` explains the commands"));
  }
  if (const auto word = first_word(arguments); word && chosen_command(*app, {*word}) == nullptr)
    return refuse(unknown_command(*app, *word));
  else if (!word)
    for (const std::string& a : arguments)
      if (const auto known = option_names(*app);
          std::find(known.begin(), known.end(), a) == known.end())
        return refuse(extra_argument(*app, nullptr, a));
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app->parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    const CLI::App* command = chosen_command(*app, arguments);
    context.options = {};
    context.print((command != nullptr ? command : app.get())->help());
    return context.finish(kExitOk);
  } catch (const CLI::CallForVersion&) {
    context.print(fmt::format("tandem {}\n", kVersion));
    return context.finish(kExitOk);
  } catch (const CLI::ParseError& e) {
    return refuse(parse_fault(*app, arguments, e));
  }
  TANDEM_CHECK(context.action != nullptr, "command {} has no action", context.command);
  return context.finish(context.action());
}

int run_guarded(const std::function<int()>& run) {
  const auto line = [](const std::string& what) {
    std::fputs(fmt::format("tandem: error E-INT-001: internal error: {}\n"
                           "  hint:     this is a fault of the program, please report it with the "
                           "command and its input\n",
                           escape_terminal(what))
                   .c_str(),
               stderr);
    return exit_code(Failure::internal);
  };
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return line("out of memory");
  } catch (const std::exception& e) {
    return line(e.what());
  } catch (...) {
    return line("an unknown exception");
  }
}

}  // namespace tandem::tools
