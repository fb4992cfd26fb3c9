// See training.h.
#include "tools/training.h"

#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "tools/inputs.h"

namespace tandem::tools {
namespace {

namespace fs = std::filesystem;

// `path` is seen from the working folder; the result names the same file from `folder`.
std::string seen_from(const std::string& folder, const std::string& path) {
  if (fs::path(path).is_absolute()) return path;
  return fs::absolute(path).lexically_normal().lexically_proximate(
      fs::absolute(folder).lexically_normal());
}

}  // namespace

TrainingConfig training_config(const Scenario& scenario, bool verify) {
  TrainingConfig c = tandem::training_config(scenario);
  c.verify = verify;
  if (verify) c.warmup_steps = 0;
  if (c.data_path != "builtin")
    c.data_path = path_of_field(scenario, "training.data.path", c.data_path);
  return c;
}

Status write_training(const std::string& run_dir, TrainingConfig& config) {
  std::error_code failed;
  if (config.data_kind == "text" && config.data_path == "builtin") {
    if (Status s = write_file_atomic(run_dir + "/corpus.txt", shipped_text()); !s) return s;
    config.data_path = "corpus.txt";
  } else if (config.data_kind == "text") {
    if (!fs::is_regular_file(config.data_path, failed))
      return make_error(Failure::bad_input, "E-EXEC-016", "the training text is not there",
                        config.data_path, "a file of bytes",
                        "name it from the scenario's folder, or use builtin",
                        Location{config.data_path});
    config.data_path = seen_from(run_dir, config.data_path);
  }
  for (std::string* folder : {&config.checkpoint_directory, &config.resume_from})
    if (!folder->empty()) *folder = seen_from(run_dir, *folder);
  return write_file_atomic(run_dir + "/training.json", to_json(config));
}

}  // namespace tandem::tools
