// What a rank reads of a run's folder; see execute.h. No LibTorch, part of the host layer.
#include <fmt/format.h>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/plan/late_validation.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "exec/execute.h"

namespace tandem::exec {

namespace {

Result<Plan> read_plan(const std::string& path) {
  Result<std::string> text = read_file(path, limits::kPlanTextBytes);
  if (!text) return text.error();
  return parse_plan(*text, path);
}

// The plans of a run are of one mesh; whether their parameters fit is lent_buffers.h's.
Result<Plan> read_side_plan(const std::string& path, const Plan& training,
                            bool PlanHeader::*is_kind, const char* kind) {
  Result<Plan> plan = read_plan(path);
  if (!plan) return plan;
  const Mesh &own = plan->header.mesh, &mesh = training.header.mesh;
  if (plan->header.*is_kind && own.size == mesh.size && own.order == mesh.order) return plan;
  return make_error(Failure::bad_input, "E-EXEC-030", "a plan beside plan.txt is of another run",
                    plan->header.*is_kind ? "another mesh" : fmt::format("no plan of {}", kind),
                    fmt::format("a plan of {} on the mesh of plan.txt", kind),
                    "write the run directory again with `tandem execute`", Location{path});
}

}  // namespace

std::vector<const Plan*> side_plans(const RunInput& input) {
  std::vector<const Plan*> out;
  for (const std::optional<Plan>* p : {&input.evaluation, &input.settling})
    if (*p) out.push_back(&**p);
  return out;
}

Result<RunInput> read_run(const std::string& run_dir) {
  RunInput in;
  const std::string training_path = run_dir + "/training.json";
  Result<Plan> plan = read_plan(run_dir + "/plan.txt");
  if (!plan) return plan.error();
  in.plan = std::move(*plan);
  in.plan_id = plan_id(in.plan);
  Result<std::string> text = read_file(training_path, limits::kTableBytes);
  if (!text) return text.error();
  Result<TrainingConfig> config = training_from_json(*text, training_path);
  if (!config) return config.error();
  in.config = std::move(*config);
  if (has_evaluation_plan(in.config)) {
    Result<Plan> evaluation = read_side_plan(run_dir + "/plan_evaluation.txt", in.plan,
                                             &PlanHeader::evaluation, "evaluation");
    if (!evaluation) return evaluation.error();
    in.evaluation = std::move(*evaluation);
  }
  if (validates_late(in.plan)) {
    Result<Plan> settling =
        read_side_plan(run_dir + "/plan_settling.txt", in.plan, &PlanHeader::settling, "settling");
    if (!settling) return settling.error();
    in.settling = std::move(*settling);
  }
  // Paths are seen from the run's folder, wherever that is and whoever opens them.
  for (std::string* path :
       {&in.config.data_path, &in.config.checkpoint_directory, &in.config.resume_from})
    if (!path->empty() && !path->starts_with('/')) *path = run_dir + "/" + *path;
  return in;
}

}  // namespace tandem::exec
