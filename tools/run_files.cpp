// See run_files.h.
#include "tools/run_files.h"

#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/scenario/explain.h"
#include "tools/training.h"

namespace tandem::tools {
namespace {

bool is_file_name(const std::string& preset) {
  return preset.find('/') != std::string::npos || preset.ends_with(".yaml");
}

}  // namespace

Status write_plan_files(RunDir& dir, const PlanInput& in) {
  if (Status s = dir.begin(); !s) return s;
  if (Status s = dir.write("plan.txt", in.text); !s) return s;
  // Evaluation is no part of the plan's id, so a run before may have left one.
  for (const auto& [side, file] : {std::pair{&in.evaluation, "plan_evaluation.txt"},
                                   std::pair{&in.settling, "plan_settling.txt"}}) {
    if (*side) {
      if (Status s = dir.write(file, (*side)->text); !s) return s;
    } else if (dir.has(file)) {
      std::error_code failed;
      std::filesystem::remove(dir.path_of(file), failed);
      dir.forget(file);
    }
  }
  if (in.from_plan_file) return Ok{};

  Scenario scenario = in.scenario;
  TrainingConfig training = training_config(in.scenario, /*verify=*/false);
  if (Status s = write_training(dir.folder(), training); !s) return s;
  for (const char* name : {"training.json", "corpus.txt"})
    if (name != std::string("corpus.txt") || training.data_path == name)
      if (Status s = dir.adopt(name); !s) return s;
  // Every field is written out, so a preset file of the user's is not needed any more.
  for (std::string* preset :
       {&scenario.model.preset, &scenario.cluster.preset, &scenario.cluster.device.preset})
    if (is_file_name(*preset)) preset->clear();

  // Paths as seen from the folder.
  if (scenario.training.data.path != "builtin" && scenario.training.data.kind == DataKind::text)
    scenario.training.data.path = training.data_path;
  if (!scenario.cluster.calibration.empty()) {
    const auto bytes = read_file(
        path_of_field(in.scenario, "cluster.calibration", in.scenario.cluster.calibration),
        limits::kTableBytes);
    if (!bytes) return bytes.error();
    scenario.cluster.calibration = "calibration.cal.json";
    if (Status s = dir.write(scenario.cluster.calibration, *bytes); !s) return s;
  }
  if (std::string& trace = scenario.simulate.routing.trace; !trace.empty()) {
    const auto bytes = read_file(path_of_field(in.scenario, "simulate.routing.trace", trace),
                                 limits::kRoutingBytes);
    if (!bytes) return bytes.error();
    trace = "routing_trace.csv";  // routing.csv is what a run of its own records
    if (Status s = dir.write(trace, *bytes); !s) return s;
  }
  if (const auto it = scenario.schedule.options.find("file");
      it != scenario.schedule.options.end()) {
    const auto bytes =
        read_file(path_of_field(in.scenario, "schedule.file", it->second), limits::kTableBytes);
    if (!bytes) return bytes.error();
    it->second = "order.csv";
    if (Status s = dir.write(it->second, *bytes); !s) return s;
  }
  return dir.write("scenario.yaml", explain(scenario, /*with_origins=*/false));
}

Manifest manifest_of(const Context& context, const PlanInput& in) {
  Manifest m;
  m.command = command_text(context, {in.file});
  m.plan_id = in.id;
  m.seed = in.scenario.seed;
  m.inputs = in.inputs;
  return m;
}

std::string run_folder(const Context& context, const PlanInput& in) {
  return context.options.directory.empty() ? in.scenario.output.directory
                                           : context.options.directory;
}

}  // namespace tandem::tools
