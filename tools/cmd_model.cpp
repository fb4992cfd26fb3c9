// tandem model: what the model costs, before anything is simulated.
#include <fmt/format.h>

#include "common/model/flops.h"
#include "common/parallel/groups.h"
#include "common/plan/build.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/fields.h"
#include "common/schedule/registry.h"
#include "tools/commands.h"
#include "tools/degrees.h"
#include "tools/exit_codes.h"
#include "tools/inputs.h"
#include "tools/model_report.h"

namespace tandem::tools {
namespace {

std::string head(const Scenario& s) {
  const ModelSpec& m = s.model;
  const std::string kv =
      m.kv_heads == m.heads ? "" : fmt::format(" of {} key/value heads", m.kv_heads);
  const int k = num_slices(s.schedule.kind, s.schedule.options);
  const std::string slices = k > 1 ? fmt::format(", each in {} slices", k) : "";
  return fmt::format(
      "{}: {}, {} layers, hidden {}, {} heads{}, ffn {}, vocabulary {}; sequence {}, global batch "
      "{}\n"
      "  {}; schedule {}, {} microbatches of {} sequences{}\n\n",
      s.name, words_of(find_field("model.family")->names)[static_cast<std::size_t>(m.family)],
      m.layers, m.hidden, m.heads, kv, m.ffn_hidden, m.vocab, s.training.sequence,
      s.training.global_batch, degrees_text(mesh_of(s)), s.schedule.kind, s.num_microbatches(),
      s.training.micro_batch, slices);
}

int report_model(Context& context, const std::string& file) {
  const auto scenario = load_scenario(context, file);
  if (!scenario) return context.fail(scenario.error());
  const auto plan = build_plan(*scenario);
  if (!plan) return context.fail(plan.error());
  // Also: no size overflows, so the closed forms fit 64 bits.
  const Verification verified = verify_plan(*plan);
  if (!verified.errors.empty()) return context.fail({Failure::infeasible, verified.errors});
  const auto roofline = roofline_section(*scenario, *plan);
  if (!roofline) return context.fail(roofline.error());
  const auto communication = communication_section(*scenario, *plan);
  if (!communication) return context.fail(communication.error());

  const Section parameters = parameters_section(*scenario);
  const Section flops = flops_section(*scenario, *plan);
  const Section memory = memory_section(*scenario, *plan);
  context.print(head(*scenario) + parameters.text + "\n" + flops.text + "\n" + memory.text + "\n" +
                roofline->text + "\n" + communication->text);
  context.result["parameters"] = parameters.json["total"];
  context.result["flops_per_step"] = flops.json["model"];
  context.result["parameter_table"] = parameters.json;
  context.result["flops"] = flops.json;
  context.result["memory"] = memory.json;
  context.result["roofline"] = roofline->json;
  context.result["communication"] = communication->json;
  return kExitOk;
}

}  // namespace

void add_model(CLI::App& app, Context& context) {
  auto file = std::make_shared<std::string>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "model",
       .summary = "Parameters, FLOPs, memory, roofline and bytes sent of a model",
       .details = "Closed forms beside the sums over the plan's operations. Nothing is simulated.",
       .examples = "  tandem model scenarios/quickstart.yaml\n"
                   "  tandem model scenarios/gpt3-175b-1024.yaml --json      the same numbers for "
                   "programs"},
      kUsesSets);
  sub->add_option("scenario", *file, "Scenario file")->required()->type_name("S.yaml");
  sub->callback([&context, file] {
    context.action = [&context, file] { return report_model(context, *file); };
  });
}

}  // namespace tandem::tools
