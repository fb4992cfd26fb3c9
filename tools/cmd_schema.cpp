// tandem schema: the JSON Schema of scenario files, for editors.
#include "common/scenario/explain.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"

namespace tandem::tools {

void add_schema(CLI::App& app, Context& context) {
  CLI::App* sub = add_command(
      app, context,
      {.name = "schema",
       .summary = "Print the JSON Schema of scenario files",
       .details = "Editors use it to complete and check fields; docs/scenario.schema.json is "
                  "the same text.",
       .examples = "  tandem schema > scenario.schema.json"},
      kUsesNone);
  sub->callback([&context] {
    context.action = [&context] {
      const std::string schema = json_schema();
      context.print(schema);
      context.result["schema"] = Json::parse(schema);
      return kExitOk;
    };
  });
}

}  // namespace tandem::tools
