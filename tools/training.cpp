// See training.h.
#include "tools/training.h"

#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "tools/inputs.h"

namespace tandem::tools {
namespace {

std::string name_of(Precision precision) {
  switch (precision) {
    case Precision::fp64:
      return "fp64";
    case Precision::fp32:
      return "fp32";
    case Precision::bf16:
      return "bf16";
    case Precision::fp16:
      return "fp16";
    case Precision::fp8:
      return "fp8";
  }
  return "fp32";
}

}  // namespace

TrainingConfig training_config(const Scenario& s, bool verify) {
  TrainingConfig c;
  c.seed = s.seed;
  c.steps = s.training.steps;
  c.warmup_steps = verify ? 0 : s.execute.warmup_steps;
  c.threads_per_rank = s.execute.threads_per_rank;
  c.timeout_s = s.execute.timeout;
  c.deterministic = s.execute.deterministic;
  c.verify = verify;
  const ModelSpec& m = s.model;
  c.layers = m.layers;
  c.hidden = m.hidden;
  c.heads = m.heads;
  c.ffn_hidden = m.ffn_hidden;
  c.vocab = m.vocab;
  c.max_sequence = m.max_sequence;
  c.tied_embeddings = m.tied_embeddings;
  c.gelu_tanh = m.gelu == Gelu::tanh;
  c.norm_eps = m.norm_eps;
  const TrainingSpec& t = s.training;
  c.init = t.init == Init::test ? "test" : "normal";
  c.precision = name_of(t.precision);
  c.sequence = t.sequence;
  c.global_batch = t.global_batch;
  c.micro_batch = t.micro_batch;
  c.lr = t.optimizer.lr;
  c.beta1 = t.optimizer.beta1;
  c.beta2 = t.optimizer.beta2;
  c.eps = t.optimizer.eps;
  c.weight_decay = t.optimizer.weight_decay;
  c.clip = t.optimizer.clip;
  c.lr_warmup_steps = t.optimizer.warmup_steps;
  c.decay_steps = t.optimizer.decay_steps;
  c.cosine = t.optimizer.cosine;
  c.min_lr = t.optimizer.min_lr;
  c.data_kind = t.data.kind == DataKind::random ? "random" : "text";
  c.data_path =
      t.data.path == "builtin" ? t.data.path : path_of_field(s, "training.data.path", t.data.path);
  c.sampler = t.data.sampler == Sampler::sequential ? "sequential" : "random";
  return c;
}

Status write_training(const std::string& run_dir, TrainingConfig& config) {
  namespace fs = std::filesystem;
  std::error_code failed;
  if (config.data_kind == "text") {
    if (config.data_path == "builtin") {
      config.data_path = run_dir + "/corpus.txt";
      if (Status s = write_file_atomic(config.data_path, shipped_text()); !s) return s;
    }
    const fs::path path = fs::absolute(config.data_path, failed);
    if (failed || !fs::is_regular_file(path, failed))
      return make_error(Failure::bad_input, "E-EXEC-016", "the training text is not there",
                        config.data_path, "a file of bytes",
                        "name it from the scenario's folder, or use builtin",
                        Location{config.data_path});
    config.data_path = path.string();
  }
  return write_file_atomic(run_dir + "/training.json", to_json(config));
}

}  // namespace tandem::tools
