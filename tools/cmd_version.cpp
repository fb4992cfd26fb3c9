// tandem version: what this program is, how it was built, which formats it reads.
#include <fmt/format.h>

#include "common/base/text.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

#ifdef __clang__
constexpr std::string_view kCompiler = "clang " __clang_version__;
#else
constexpr std::string_view kCompiler = "gcc " __VERSION__;
#endif

}  // namespace

void add_version(CLI::App& app, Context& context) {
  CLI::App* sub = add_command(app, context,
                              {.name = "version",
                               .summary = "Print version and build options",
                               .details = "",
                               .examples = "  tandem version\n  tandem version --json"},
                              kUsesNone);
  sub->callback([&context] {
    context.action = [&context] {
      context.print(
          fmt::format("tandem {}\nbuild      {}, {}\nexecutor   {}\ncuda       {}\n"
                      "faults     {}\nformats    scenario {}, plan {}, run {}\n",
                      kVersion, TANDEM_BUILD_TYPE, trim(kCompiler),
                      kHasExecutor ? "yes" : "no (built with TANDEM_EXEC=OFF)", "no",
                      kHasFaults ? "yes" : "no", kScenarioFormat, kPlanFormat, kRunFormat));
      context.result["version"] = kVersion;
      context.result["build"] = {{"type", TANDEM_BUILD_TYPE},
                                 {"compiler", trim(kCompiler)},
                                 {"executor", kHasExecutor},
                                 {"cuda", false},
                                 {"faults", kHasFaults}};
      context.result["formats"] = {
          {"scenario", kScenarioFormat}, {"plan", kPlanFormat}, {"run", kRunFormat}};
      return kExitOk;
    };
  });
}

}  // namespace tandem::tools
