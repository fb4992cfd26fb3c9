// JSON form of training.json: one table of fields serves the writer and the reader.
#include "common/plan/training.h"

#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>
#include <type_traits>

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

// Calls visit(key, member) for every field, in the order of the file.
template <class Config, class Visit>
void for_each_field(Config& c, Visit&& visit) {
  visit("seed", c.seed);
  visit("steps", c.steps);
  visit("warmup_steps", c.warmup_steps);
  visit("threads_per_rank", c.threads_per_rank);
  visit("timeout_s", c.timeout_s);
  visit("deterministic", c.deterministic);
  visit("verify", c.verify);
  visit("family", c.family);
  visit("layers", c.layers);
  visit("hidden", c.hidden);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("head_dim", c.head_dim);
  visit("ffn_hidden", c.ffn_hidden);
  visit("vocab", c.vocab);
  visit("max_sequence", c.max_sequence);
  visit("tied_embeddings", c.tied_embeddings);
  visit("gelu_tanh", c.gelu_tanh);
  visit("norm_eps", c.norm_eps);
  visit("rope_base", c.rope_base);
  visit("init", c.init);
  visit("precision", c.precision);
  visit("sequence", c.sequence);
  visit("global_batch", c.global_batch);
  visit("micro_batch", c.micro_batch);
  visit("lr", c.lr);
  visit("beta1", c.beta1);
  visit("beta2", c.beta2);
  visit("eps", c.eps);
  visit("weight_decay", c.weight_decay);
  visit("clip", c.clip);
  visit("lr_warmup_steps", c.lr_warmup_steps);
  visit("decay_steps", c.decay_steps);
  visit("cosine", c.cosine);
  visit("min_lr", c.min_lr);
  visit("data_kind", c.data_kind);
  visit("data_path", c.data_path);
  visit("sampler", c.sampler);
  visit("checkpoint_directory", c.checkpoint_directory);
  visit("checkpoint_every", c.checkpoint_every);
  visit("resume_from", c.resume_from);
  visit("first_step", c.first_step);
  visit("check_replicas", c.check_replicas);
}

Error bad(const std::string& file, std::string title, std::string found, std::string expected) {
  return make_error(Failure::bad_input, "E-EXEC-030", std::move(title), std::move(found),
                    std::move(expected), "write the run directory again with `tandem execute`",
                    Location{file});
}

// One value of the file into one member; empty: fine, else what was expected.
std::string take(const Json& v, int& out) {
  if (!v.is_number_integer()) return "a whole number";
  const auto n = v.get<std::int64_t>();
  if (n < -1'000'000'000 || n > 1'000'000'000) return "a number of at most nine digits";
  out = static_cast<int>(n);
  return "";
}
std::string take(const Json& v, std::uint64_t& out) {
  if (!v.is_number_unsigned()) return "a whole number, at least 0";
  out = v.get<std::uint64_t>();
  return "";
}
std::string take(const Json& v, double& out) {
  if (!v.is_number() || !std::isfinite(v.get<double>())) return "a finite number";
  out = v.get<double>();
  return "";
}
std::string take(const Json& v, bool& out) {
  if (!v.is_boolean()) return "true or false";
  out = v.get<bool>();
  return "";
}
std::string take(const Json& v, std::string& out) {
  if (!v.is_string()) return "text";
  out = v.get<std::string>();
  return "";
}
std::string take(const Json& v, std::optional<double>& out) {
  if (v.is_null()) return out.reset(), "";
  double d = 0;
  const std::string expected = take(v, d);
  out = d;
  return expected.empty() ? "" : "a finite number or null";
}

bool one_of(const std::string& word, std::initializer_list<const char*> words) {
  for (const char* w : words)
    if (word == w) return true;
  return false;
}

const char* precision_word(Precision p) {
  switch (p) {
    case Precision::fp64:
      return "fp64";
    case Precision::fp32:
      return "fp32";
    case Precision::bf16:
      return "bf16";
    case Precision::fp16:
      return "fp16";  // training_from_json refuses these two: they are simulated only
    case Precision::fp8:
      return "fp8";
  }
  return "?";
}

// What the executor relies on; empty: fine.
std::string check(const TrainingConfig& c) {
  if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.ffn_hidden < 1 || c.vocab < 1)
    return "layers, hidden, heads, ffn_hidden and vocab of at least 1";
  if (!one_of(c.family, {"gpt", "llama"})) return "family gpt or llama";
  if (c.head_dim < 0 || (c.head_dim == 0 && c.hidden % c.heads))
    return "hidden, a multiple of heads, or head_dim";
  if (c.kv_heads < 0 || c.heads % kv_heads_of(c)) return "heads, a multiple of kv_heads";
  if (c.family == "gpt" && kv_heads_of(c) != c.heads) return "as many kv_heads as heads";
  if (c.family == "llama" && (head_dim_of(c) % 2 != 0 || !(c.rope_base > 0)))
    return "an even head_dim and a rope_base above 0";
  const bool positions = c.family == "gpt";  // learned: there are max_sequence of them
  if (c.sequence < 1 || (positions && c.sequence > c.max_sequence))
    return "sequence in 1 .. max_sequence";
  if (c.micro_batch < 1 || c.global_batch < 1 || c.global_batch % c.micro_batch)
    return "global_batch, a multiple of micro_batch";
  if (c.steps < 1 || c.warmup_steps < 0) return "steps of at least 1, warmup_steps of at least 0";
  if (c.first_step < 0 || c.first_step >= total_steps(c))
    return "first_step from 0 to below steps + warmup_steps";
  if (c.checkpoint_every < 0 || c.check_replicas < 0)
    return "checkpoint_every and check_replicas of at least 0";
  if (c.threads_per_rank < 1) return "threads_per_rank of at least 1";
  if (!(c.timeout_s > 0)) return "timeout_s above 0";
  if (!one_of(c.init, {"normal", "test"})) return "init normal or test";
  if (!one_of(c.precision, {"fp64", "fp32", "bf16"})) return "precision fp64, fp32 or bf16";
  if (!one_of(c.data_kind, {"text", "random"})) return "data_kind text or random";
  if (!one_of(c.sampler, {"random", "sequential"})) return "sampler random or sequential";
  return "";
}

}  // namespace

TrainingConfig training_config(const Scenario& s) {
  const ModelSpec& m = s.model;
  const TrainingSpec& t = s.training;
  const OptimizerSpec& o = t.optimizer;
  TrainingConfig c;
  c.seed = s.seed;
  c.steps = t.steps;
  c.warmup_steps = s.execute.warmup_steps;
  c.threads_per_rank = s.execute.threads_per_rank;
  c.timeout_s = s.execute.timeout;
  c.deterministic = s.execute.deterministic;
  c.family = m.family == ModelFamily::llama ? "llama" : "gpt";
  c.layers = m.layers;
  c.hidden = m.hidden;
  c.heads = m.heads;
  c.kv_heads = m.kv_heads;
  c.head_dim = m.head_dim;
  c.ffn_hidden = m.ffn_hidden;
  c.vocab = m.vocab;
  c.max_sequence = m.max_sequence;
  c.tied_embeddings = m.tied_embeddings;
  c.gelu_tanh = m.gelu == Gelu::tanh;
  c.norm_eps = m.norm_eps;
  c.rope_base = m.rope_base;
  c.init = t.init == Init::test ? "test" : "normal";
  c.precision = precision_word(t.precision);
  c.sequence = t.sequence;
  c.global_batch = t.global_batch;
  c.micro_batch = t.micro_batch;
  c.lr = o.lr;
  c.beta1 = o.beta1;
  c.beta2 = o.beta2;
  c.eps = o.eps;
  c.weight_decay = o.weight_decay;
  c.clip = o.clip;
  c.lr_warmup_steps = o.warmup_steps;
  c.decay_steps = o.decay_steps;
  c.cosine = o.cosine;
  c.min_lr = o.min_lr;
  c.data_kind = t.data.kind == DataKind::random ? "random" : "text";
  c.data_path = t.data.path;
  c.sampler = t.data.sampler == Sampler::sequential ? "sequential" : "random";
  c.checkpoint_directory = t.checkpoint.directory;
  c.checkpoint_every = t.checkpoint.every;
  return c;
}

std::string to_json(const TrainingConfig& config) {
  Json root = {{"format", "tandem-training"}, {"version", kVersion}};
  for_each_field(config, [&](const char* key, const auto& member) {
    using T = std::decay_t<decltype(member)>;
    if constexpr (std::is_same_v<T, std::optional<double>>)
      root[key] = member ? Json(*member) : Json(nullptr);
    else
      root[key] = member;
  });
  return root.dump(2) + "\n";
}

Result<TrainingConfig> training_from_json(const std::string& text, const std::string& file) {
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return bad(file, "not a training file", "other text", "a JSON object");
  if (root.value("format", Json()) != "tandem-training" ||
      root.value("version", Json()) != kVersion)
    return bad(file, "not a training file of this version", root.value("format", Json()).dump(),
               "format tandem-training, version 1");
  TrainingConfig config;
  std::optional<Error> error;
  std::set<std::string> known = {"format", "version"};
  for_each_field(config, [&](const char* key, auto& member) {
    known.insert(key);
    if (error) return;
    const auto it = root.find(key);
    if (it == root.end()) {
      error = bad(file, "a field of the training file is missing", "no `" + std::string(key) + "`",
                  "every field");
      return;
    }
    const std::string expected = take(*it, member);
    if (!expected.empty())
      error = bad(file, "the training file has a wrong value",
                  "`" + std::string(key) + "`: " + it->dump(), expected);
  });
  if (error) return *error;
  for (const auto& [key, value] : root.items())
    if (!known.contains(key))
      return bad(file, "unknown field in the training file", "`" + key + "`", "known fields only");
  const std::string expected = check(config);
  if (!expected.empty())
    return bad(file, "the training file cannot be run", "values that do not fit", expected);
  return config;
}

double learning_rate(const TrainingConfig& c, int step) {
  if (step < c.lr_warmup_steps) return c.lr * (step + 1) / c.lr_warmup_steps;
  if (!c.cosine) return c.lr;
  if (step >= c.decay_steps) return c.min_lr;
  const double done = static_cast<double>(step - c.lr_warmup_steps) /
                      static_cast<double>(c.decay_steps - c.lr_warmup_steps);
  return c.min_lr + (c.lr - c.min_lr) / 2 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace tandem
