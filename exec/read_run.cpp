// What a rank reads of a run's folder; see execute.h. No LibTorch, part of the host layer.
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "exec/execute.h"

namespace tandem::exec {

Result<RunInput> read_run(const std::string& run_dir) {
  RunInput in;
  const std::string plan_path = run_dir + "/plan.txt", training_path = run_dir + "/training.json";
  Result<std::string> text = read_file(plan_path, limits::kPlanTextBytes);
  if (!text) return text.error();
  Result<Plan> plan = parse_plan(*text, plan_path);
  if (!plan) return plan.error();
  in.plan = std::move(*plan);
  in.plan_id = plan_id(in.plan);
  text = read_file(training_path, limits::kTableBytes);
  if (!text) return text.error();
  Result<TrainingConfig> config = training_from_json(*text, training_path);
  if (!config) return config.error();
  in.config = std::move(*config);
  // Paths are seen from the run's folder, wherever that is and whoever opens them.
  for (std::string* path :
       {&in.config.data_path, &in.config.checkpoint_directory, &in.config.resume_from})
    if (!path->empty() && !path->starts_with('/')) *path = run_dir + "/" + *path;
  return in;
}

}  // namespace tandem::exec
