// See checkpoints.h.
#include "tools/checkpoints.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "exec/checkpoint/load.h"
#include "tools/training.h"

namespace tandem::tools {
namespace {

namespace fs = std::filesystem;

Error usage(const char* code, const char* title, std::string found, std::string expected,
            std::string hint, const std::string& where) {
  return make_error(Failure::usage, code, title, std::move(found), std::move(expected),
                    std::move(hint), Location{where});
}

// The folder of the checkpoint to go on from.
Result<std::string> choose(const std::string& dir, const std::string& path) {
  if (!path.empty()) {
    std::string out = fs::path(path).lexically_normal().string();
    while (out.size() > 1 && out.ends_with('/')) out.pop_back();
    const std::vector<int> steps = exec::list_checkpoints(out);  // of a folder of checkpoints
    return steps.empty() ? out : exec::checkpoint_path(out, steps.back());
  }
  if (dir.empty())
    return usage("E-CKPT-002", "there is no checkpoint to resume from",
                 "no training.checkpoint.directory", "a folder of checkpoints",
                 "give the folder of a checkpoint: --resume DIR/step-N", "");
  const std::vector<int> steps = exec::list_checkpoints(dir);
  if (!steps.empty()) return exec::checkpoint_path(dir, steps.back());
  return make_error(Failure::bad_input, "E-CKPT-002", "there is no checkpoint to resume from",
                    "no complete checkpoint in the folder", "a folder step-N with a manifest.json",
                    "leave --resume out to start from the beginning", Location{dir});
}

// A run may save into `dir` when nothing there is in its way.
Status check_folder(const std::string& dir, const std::string& resume_from, int first_step) {
  const std::vector<int> steps = exec::list_checkpoints(dir);
  if (steps.empty()) return Ok{};
  const std::string newest = exec::checkpoint_path(dir, steps.back());
  if (resume_from.empty())
    return usage("E-CKPT-001", "there are checkpoints already",
                 fmt::format("{} of them, the newest of step {}", steps.size(), steps.back()),
                 "a folder without checkpoints, or --resume",
                 "tandem execute --resume goes on from it; --set training.checkpoint.directory=DIR "
                 "starts anew",
                 dir);
  std::error_code failed;
  const bool own = std::any_of(steps.begin(), steps.end(), [&](int step) {
    return fs::equivalent(exec::checkpoint_path(dir, step), resume_from, failed);
  });
  if (own && steps.back() == first_step) return Ok{};
  return usage("E-CKPT-009", "the folder holds other checkpoints than the one that is resumed",
               newest, resume_from,
               "move the newer ones away, or choose another training.checkpoint.directory", dir);
}

}  // namespace

Result<Checkpoints> open_checkpoints(Context& context, const PlanInput& in,
                                     const ResumeRequest& request) {
  const TrainingConfig config = training_config(in.scenario, /*verify=*/false);
  const std::string& dir = config.checkpoint_directory;
  Checkpoints out;
  if (!dir.empty()) {
    Result<exec::FolderLock> lock = exec::FolderLock::take(dir);
    if (!lock) return lock.error();
    out.lock = std::move(*lock);
  }
  if (request.resume) {
    const Result<std::string> chosen = choose(dir, request.path);
    if (!chosen) return chosen.error();
    context.progress("reading " + *chosen);
    const Result<exec::CheckpointManifest> manifest = exec::read_manifest(*chosen);
    if (!manifest) return manifest.error();
    Diagnostics warnings;
    if (Status s = exec::check_continues(*manifest, *chosen, in.plan, config, warnings); !s)
      return s.error();
    context.warn(warnings);
    if (manifest->state.step >= total_steps(config))
      return usage("E-CKPT-008", "the training has ended already",
                   fmt::format("{} steps done", manifest->state.step),
                   fmt::format("fewer than {}: {} steps and {} of warm-up", total_steps(config),
                               config.steps, config.warmup_steps),
                   fmt::format("--set training.steps={} or more",
                               manifest->state.step - config.warmup_steps + 1),
                   *chosen);
    if (Status s = exec::check_files(*manifest, *chosen); !s) return s.error();
    out.resume_from = *chosen;
    out.first_step = manifest->state.step;
  }
  if (dir.empty()) return out;
  if (Status s = check_folder(dir, out.resume_from, out.first_step); !s) return s.error();
  exec::remove_partial_checkpoints(dir);
  return out;
}

}  // namespace tandem::tools
