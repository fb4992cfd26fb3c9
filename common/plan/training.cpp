// JSON form of training.json: one table of fields serves the writer and the reader.
#include "common/plan/training.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>
#include <type_traits>

#include "common/base/check.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

// Calls visit(key, member) for every field, in the order of the file. A struct inside is an object
// with fields of its own.
template <class Struct>
concept IsMoe = std::is_same_v<std::remove_const_t<Struct>, MoeSpec>;
template <class Struct>
concept IsMla = std::is_same_v<std::remove_const_t<Struct>, MlaSpec>;

template <IsMoe Moe, class Visit>
void for_each_field(Moe& m, Visit&& visit) {
  visit("experts", m.experts);
  visit("top_k", m.top_k);
  visit("expert_hidden", m.expert_hidden);
  visit("shared_experts", m.shared_experts);
  visit("router", m.router);
  visit("groups", m.groups);
  visit("groups_kept", m.groups_kept);
  visit("scale", m.scale);
  visit("dense_first", m.dense_first);
  visit("every", m.every);
  visit("capacity_factor", m.capacity_factor);
  visit("drop_groups", m.drop_groups);
  visit("expert_loss", m.expert_loss);
  visit("device_loss", m.device_loss);
  visit("bias_update", m.bias_update);
  visit("scope", m.scope);
  visit("device_groups", m.device_groups);
  visit("group_max", m.group_max);
}
template <IsMla Mla, class Visit>
void for_each_field(Mla& m, Visit&& visit) {
  visit("q_rank", m.q_rank);
  visit("kv_rank", m.kv_rank);
  visit("nope_dim", m.nope_dim);
  visit("rope_dim", m.rope_dim);
  visit("v_dim", m.v_dim);
}
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
  visit("moe", c.moe);
  visit("mla", c.mla);
  visit("cp", c.cp);
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
  visit("decay_all", c.decay_all);
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
  visit("evaluation_every", c.evaluation_every);
  visit("evaluation_batches", c.evaluation_batches);
  visit("metrics_every", c.metrics_every);
  visit("peak_flops", c.peak_flops);
  visit("device_bytes", c.device_bytes);
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

std::string take(const Json& v, RouterKind& out) {
  if (v != "softmax" && v != "sigmoid") return "softmax or sigmoid";
  out = v == "softmax" ? RouterKind::softmax : RouterKind::sigmoid;
  return "";
}
std::string take(const Json& v, BalanceScope& out) {
  if (v != "sequence" && v != "microbatch") return "sequence or microbatch";
  out = v == "sequence" ? BalanceScope::sequence : BalanceScope::microbatch;
  return "";
}

template <class T>
Json json_of(const T& member) {
  return member;
}
Json json_of(const std::optional<double>& member) { return member ? Json(*member) : Json(nullptr); }
Json json_of(RouterKind kind) { return kind == RouterKind::softmax ? "softmax" : "sigmoid"; }
Json json_of(BalanceScope scope) {
  return scope == BalanceScope::sequence ? "sequence" : "microbatch";
}

template <class T>
concept IsObject = IsMoe<T> || IsMla<T>;

// Fields of a struct, after those that `root` has.
template <class Struct>
Json with_fields(Json root, const Struct& s) {
  for_each_field(s, [&]<class T>(const char* key, const T& member) {
    if constexpr (IsObject<T>)
      root[key] = with_fields(Json::object(), member);
    else
      root[key] = json_of(member);
  });
  return root;
}

// All fields of a struct, and no others than those and `known`. `path`: of the struct, "moe.".
template <class Struct>
std::optional<Error> read_fields(const Json& root, const std::string& path,
                                 std::set<std::string> known, const std::string& file, Struct& s) {
  std::optional<Error> error;
  for_each_field(s, [&]<class T>(const char* key, T& member) {
    known.insert(key);
    if (error) return;
    const auto it = root.find(key);
    if (it == root.end()) {
      error = bad(file, "a field of the training file is missing", "no `" + path + key + "`",
                  "every field");
      return;
    }
    std::string expected;
    if constexpr (IsObject<T>) {
      if (it->is_object())
        error = read_fields(*it, path + key + ".", {}, file, member);
      else
        expected = "an object";
    } else {
      expected = take(*it, member);
    }
    if (!expected.empty())
      error = bad(file, "the training file has a wrong value",
                  "`" + path + key + "`: " + it->dump(), expected);
  });
  if (error) return error;
  for (const auto& [key, value] : root.items())
    if (!known.contains(key))
      return bad(file, "unknown field in the training file", "`" + path + key + "`",
                 "known fields only");
  return std::nullopt;
}

bool one_of(const std::string& word, std::initializer_list<const char*> words) {
  for (const char* w : words)
    if (word == w) return true;
  return false;
}

const char* family_word(ModelFamily f) {
  switch (f) {
    case ModelFamily::gpt:
      return "gpt";
    case ModelFamily::llama:
      return "llama";
    case ModelFamily::mixtral:
      return "mixtral";
    case ModelFamily::deepseek_v3:
      return "deepseek_v3";
  }
  return "?";
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

std::optional<ModelFamily> family_from(const std::string& word) {
  for (const ModelFamily f :
       {ModelFamily::gpt, ModelFamily::llama, ModelFamily::mixtral, ModelFamily::deepseek_v3})
    if (word == family_word(f)) return f;
  return std::nullopt;
}

// Experts, where there are some; empty: fine.
std::string check_moe(const TrainingConfig& c) {
  const MoeSpec& m = c.moe;
  if (m.top_k < 1 || m.top_k > m.experts || m.expert_hidden < 1 || m.shared_experts < 0)
    return "moe.top_k in 1 .. experts, expert_hidden of at least 1";
  if (m.groups < 1 || m.experts % m.groups || m.groups_kept < 1 || m.groups_kept > m.groups ||
      m.top_k > m.groups_kept * (m.experts / m.groups))
    return "moe.experts in equal groups, and top_k experts in groups_kept of them";
  if (m.dense_first < 0 || m.every < 1) return "moe.dense_first of at least 0, every of at least 1";
  if (m.device_loss != 0 && (m.device_groups < 1 || m.experts % m.device_groups))
    return "moe.experts, a multiple of device_groups";
  if (m.bias_update != 0 && m.router != RouterKind::sigmoid)
    return "moe.router sigmoid where bias_update is not 0";
  if (!m.capacity_factor) return "";
  if (!(*m.capacity_factor > 0)) return "moe.capacity_factor above 0";
  if (m.drop_groups < 1 || c.sequence % m.drop_groups || m.drop_groups % c.cp)
    return "sequence, a multiple of moe.drop_groups, and that of cp";
  if (c.cp > 1 && c.sequence % (2 * c.cp)) return "sequence, a multiple of 2 cp";
  return "";
}

std::string check_mla(const MlaSpec& m) {
  if (m.kv_rank < 1 || m.q_rank < 0 || m.nope_dim < 1 || m.v_dim < 1)
    return "mla.kv_rank, nope_dim and v_dim of at least 1";
  return m.rope_dim < 0 || m.rope_dim % 2 ? "an even mla.rope_dim" : "";
}

// What only some families have; empty: fine.
std::string check_family(const TrainingConfig& c, ModelFamily family) {
  const bool gpt = family == ModelFamily::gpt, deepseek = family == ModelFamily::deepseek_v3;
  if (gpt && kv_heads_of(c) != c.heads) return "as many kv_heads as heads";
  if (!gpt && !(c.rope_base > 0)) return "a rope_base above 0";
  if (!gpt && !deepseek && head_dim_of(c) % 2 != 0) return "an even head_dim";
  if (deepseek != (c.mla.kv_rank != 0)) return "mla of family deepseek_v3, and of no other";
  if (std::string wrong = deepseek ? check_mla(c.mla) : ""; !wrong.empty()) return wrong;
  if (family == ModelFamily::mixtral && c.moe.experts < 1) return "moe.experts of at least 1";
  if ((gpt || family == ModelFamily::llama) && c.moe.experts != 0)
    return "experts in mixtral and deepseek_v3 only";
  return c.moe.experts != 0 ? check_moe(c) : "";
}

// What the executor relies on; empty: fine.
std::string check(const TrainingConfig& c) {
  if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.ffn_hidden < 1 || c.vocab < 1)
    return "layers, hidden, heads, ffn_hidden and vocab of at least 1";
  const std::optional<ModelFamily> family = family_from(c.family);
  if (!family) return "family gpt, llama, mixtral or deepseek_v3";
  if (c.head_dim < 0 || (c.head_dim == 0 && c.hidden % c.heads))
    return "hidden, a multiple of heads, or head_dim";
  if (c.kv_heads < 0 || c.heads % kv_heads_of(c)) return "heads, a multiple of kv_heads";
  if (c.cp < 1) return "cp of at least 1";
  if (std::string wrong = check_family(c, *family); !wrong.empty()) return wrong;
  const bool positions = family == ModelFamily::gpt;  // learned: there are max_sequence of them
  if (c.sequence < 1 || (positions && c.sequence > c.max_sequence))
    return "sequence in 1 .. max_sequence";
  if (c.micro_batch < 1 || c.global_batch < 1 || c.global_batch % c.micro_batch)
    return "global_batch, a multiple of micro_batch";
  if (c.steps < 1 || c.warmup_steps < 0) return "steps of at least 1, warmup_steps of at least 0";
  if (c.first_step < 0 || c.first_step >= total_steps(c))
    return "first_step from 0 to below steps + warmup_steps";
  if (c.checkpoint_every < 0 || c.check_replicas < 0)
    return "checkpoint_every and check_replicas of at least 0";
  if (c.evaluation_every < 0 || c.evaluation_batches < 1)
    return "evaluation_every of at least 0, evaluation_batches of at least 1";
  if (c.metrics_every < 0 || c.peak_flops < 0 || c.device_bytes < 0)
    return "metrics_every, peak_flops and device_bytes of at least 0";
  if (c.threads_per_rank < 1) return "threads_per_rank of at least 1";
  if (!(c.timeout_s > 0)) return "timeout_s above 0";
  if (!one_of(c.init, {"normal", "test"})) return "init normal or test";
  if (!one_of(c.precision, {"fp64", "fp32", "bf16"})) return "precision fp64, fp32 or bf16";
  if (!one_of(c.data_kind, {"text", "random"})) return "data_kind text or random";
  if (!one_of(c.sampler, {"random", "sequential"})) return "sampler random or sequential";
  return "";
}

// Of the cores that the ranks share, as `simulate` counts them (docs/cli.md, `mfu`). The executor
// runs on this machine's CPU, so the peak of another cluster's devices says nothing about it.
double peak_flops(const Scenario& s, const std::string& precision) {
  const ClusterSpec& c = s.cluster;
  const auto peak = c.device.peak.find(precision);
  if (!c.local || peak == c.device.peak.end()) return 0;
  const int cores = c.cores_per_node > 0 ? c.cores_per_node : s.parallel.world();
  return peak->second * std::min(s.parallel.world(), cores);
}

}  // namespace

ModelShape model_shape(const TrainingConfig& c) {
  ModelSpec m;
  const std::optional<ModelFamily> family = family_from(c.family);
  TANDEM_CHECK(family, "check() let family {} through", c.family);
  m.family = *family;
  m.layers = c.layers;
  m.hidden = c.hidden;
  m.heads = c.heads;
  m.kv_heads = kv_heads_of(c);
  m.head_dim = head_dim_of(c);
  m.ffn_hidden = c.ffn_hidden;
  m.vocab = c.vocab;
  m.max_sequence = c.max_sequence;
  m.tied_embeddings = c.tied_embeddings;
  m.moe = c.moe;
  m.mla = c.mla;
  return model_shape(m);
}

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
  c.family = family_word(m.family);
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
  c.moe = m.moe;
  c.moe.drop_groups *= num_slices(s.schedule.kind, s.schedule.options);  // of each slice
  c.mla = m.mla;
  c.cp = s.parallel.cp;
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
  c.decay_all = o.decay_all;
  c.lr_warmup_steps = o.warmup_steps;
  c.decay_steps = o.decay_steps;
  c.cosine = o.cosine;
  c.min_lr = o.min_lr;
  c.data_kind = t.data.kind == DataKind::random ? "random" : "text";
  c.data_path = t.data.path;
  c.sampler = t.data.sampler == Sampler::sequential ? "sequential" : "random";
  c.checkpoint_directory = t.checkpoint.directory;
  c.checkpoint_every = t.checkpoint.every;
  c.evaluation_every = t.evaluation.every;
  c.evaluation_batches = t.evaluation.batches;
  c.metrics_every = t.metrics.every;
  c.peak_flops = peak_flops(s, c.precision);
  c.device_bytes = static_cast<double>(s.cluster.device.memory);
  return c;
}

std::string to_json(const TrainingConfig& config) {
  const Json head = {{"format", "tandem-training"}, {"version", kVersion}};
  return with_fields(head, config).dump(2) + "\n";
}

Result<TrainingConfig> training_from_json(const std::string& text, const std::string& file) {
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return bad(file, "not a training file", "other text", "a JSON object");
  if (root.value("format", Json()) != "tandem-training" ||
      root.value("version", Json()) != kVersion)
    return bad(file, "not a training file of this version", root.value("format", Json()).dump(),
               "format tandem-training, version 1");
  TrainingConfig config;
  std::optional<Error> error = read_fields(root, "", {"format", "version"}, file, config);
  if (error) return *error;
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
