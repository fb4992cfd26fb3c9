// The rows, in the order of the reference page. A long table by nature: read it like one.
#include "common/scenario/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/units_text.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

using S = Scenario;
using V = FieldValue;
using I = std::size_t;

V of_int(std::int64_t x) {
  V v;
  v.integer = x;
  return v;
}
V of_real(double x) {
  V v;
  v.real = x;
  return v;
}
V of_bool(bool x) {
  V v;
  v.boolean = x;
  return v;
}
V of_index(int x) {
  V v;
  v.index = x;
  return v;
}
V of_text(const std::string& x) {
  V v;
  v.word = x;
  v.absent = x.empty();
  return v;
}

// Places of plain members: one line a row instead of two lambdas each.
#define INT(m)                                                              \
  [](S& s, I, const V& v) { s.m = static_cast<decltype(s.m)>(v.integer); }, \
      [](const S& s, I) { return of_int(static_cast<std::int64_t>(s.m)); }
#define REAL(m) \
  [](S& s, I, const V& v) { s.m = v.real; }, [](const S& s, I) { return of_real(s.m); }
#define BOOL(m) \
  [](S& s, I, const V& v) { s.m = v.boolean; }, [](const S& s, I) { return of_bool(s.m); }
#define TEXT(m) \
  [](S& s, I, const V& v) { s.m = v.word; }, [](const S& s, I) { return of_text(s.m); }
#define ENUM(m)                                                           \
  [](S& s, I, const V& v) { s.m = static_cast<decltype(s.m)>(v.index); }, \
      [](const S& s, I) { return of_index(static_cast<int>(s.m)); }
#define PEAK(name)                                                   \
  [](S& s, I, const V& v) { s.cluster.device.peak[name] = v.real; }, \
      [](const S& s, I) { return of_entry(s.cluster.device.peak, name); }
#define EFFICIENCY(name)                                                   \
  [](S& s, I, const V& v) { s.cluster.device.efficiency[name] = v.real; }, \
      [](const S& s, I) { return of_entry(s.cluster.device.efficiency, name); }
// A member of model.moe or model.mla: absent where the model has none.
#define MOE_INT(m)                                                          \
  [](S& s, I, const V& v) { s.model.moe.m = static_cast<int>(v.integer); }, \
      [](const S& s, I) { return with_experts(s, of_int(s.model.moe.m)); }
#define MOE_REAL(m)                                    \
  [](S& s, I, const V& v) { s.model.moe.m = v.real; }, \
      [](const S& s, I) { return with_experts(s, of_real(s.model.moe.m)); }
#define MOE_ENUM(m)                                                                           \
  [](S& s, I, const V& v) { s.model.moe.m = static_cast<decltype(s.model.moe.m)>(v.index); }, \
      [](const S& s, I) { return with_experts(s, of_index(static_cast<int>(s.model.moe.m))); }
#define MLA_INT(m)                                                          \
  [](S& s, I, const V& v) { s.model.mla.m = static_cast<int>(v.integer); }, \
      [](const S& s, I) { return with_latents(s, of_int(s.model.mla.m)); }
#define OPTION(name)                                              \
  [](S& s, I, const V& v) { s.schedule.options[name] = v.word; }, \
      [](const S& s, I) { return of_option(s, name); }

#define OPTION_INT(name)                                                             \
  [](S& s, I, const V& v) { s.schedule.options[name] = std::to_string(v.integer); }, \
      [](const S& s, I) { return of_int_option(s, name); }
#define OPTION_BOOL(name)                                                               \
  [](S& s, I, const V& v) { s.schedule.options[name] = v.boolean ? "true" : "false"; }, \
      [](const S& s, I) { return of_bool_option(s, name); }
#define OPTION_REAL(name)                                                        \
  [](S& s, I, const V& v) { s.schedule.options[name] = format_double(v.real); }, \
      [](const S& s, I) { return of_real_option(s, name); }

V of_entry(const std::map<std::string, double>& table, const char* name) {
  const auto it = table.find(name);
  V v = of_real(it == table.end() ? 0 : it->second);
  v.absent = it == table.end();
  return v;
}
V of_option(const S& s, const char* name) {
  const auto it = s.schedule.options.find(name);
  return of_text(it == s.schedule.options.end() ? "" : it->second);
}
std::string option_text(const S& s, const char* name) {
  const auto it = s.schedule.options.find(name);
  return it == s.schedule.options.end() ? "" : it->second;
}
V of_int_option(const S& s, const char* name) {
  const std::string text = option_text(s, name);
  V v = of_int(parse_int(text).value_or(0));
  v.absent = text.empty();
  return v;
}
V of_bool_option(const S& s, const char* name) {
  const std::string text = option_text(s, name);
  V v = of_bool(text == "true");
  v.absent = text.empty();
  return v;
}
V of_real_option(const S& s, const char* name) {
  const std::string text = option_text(s, name);
  V v = of_real(parse_double(text).value_or(0));
  v.absent = text.empty();
  return v;
}
// Absent where the kind does not split backwards.
V where_split(const S& s, V v) {
  const ScheduleKind* kind = find_schedule(s.schedule.kind);
  v.absent = kind && !kind->splits;
  return v;
}
V with_experts(const S& s, V v) {
  v.absent = v.absent || s.model.moe.experts == 0;
  return v;
}
V with_latents(const S& s, V v) {
  v.absent = v.absent || s.model.mla.kv_rank == 0;
  return v;
}
NetworkLevel& level(S& s, I i) {
  if (s.cluster.network.size() <= i) s.cluster.network.resize(i + 1);
  return s.cluster.network[i];
}
std::pair<int, double>& slow(S& s, I i) {
  if (s.cluster.slow_devices.size() <= i) s.cluster.slow_devices.resize(i + 1, {0, 1.0});
  return s.cluster.slow_devices[i];
}
V of_ints(const std::vector<int>& list) {
  V v;
  v.integers.assign(list.begin(), list.end());
  return v;
}
std::vector<int> to_ints(const V& v) { return {v.integers.begin(), v.integers.end()}; }

constexpr auto kCount = FieldType::count;
constexpr auto kReal = FieldType::real;
constexpr auto kBool = FieldType::boolean;
constexpr auto kChoice = FieldType::choice;
constexpr auto kText = FieldType::text;
constexpr auto kBytes = FieldType::bytes;
constexpr auto kRate = FieldType::rate;
constexpr auto kSeconds = FieldType::seconds;
constexpr auto kFlops = FieldType::flops;

constexpr double kMaxInt = 2147483647;
constexpr double kSeed = 9.2e18;  // any 63-bit number
constexpr double kWidth = limits::kWidth, kLayers = limits::kLayers, kDevices = limits::kDevices;
constexpr double kSteps = limits::kSteps, kMany = 1e30;

// clang-format off
constexpr Field kFields[] = {
    {"tandem", kCount, "", 1, 1e6, false, "-", "", "Version of this format: 1."},
    {"name", kText, "", 0, 0, false, "the file's name", "", "Name of the run: letters, digits, `_`, `.`, `-`; at most 64.", TEXT(name)},
    {"seed", kCount, "", 0, kSeed, false, "1", "", "Seed of initial values and data.", INT(seed)},

    {"model.preset", kText, "", 0, 0, false, "", "", "Preset to start from, or the path of a preset file. `model: NAME` is short for it.", TEXT(model.preset)},
    {"model.from_hf", kText, "", 0, 0, false, "", "", "Hugging Face `config.json` to start from, relative to this file.",
     [](S&, I, const V&) {},  // the reader lays its values under the scenario's (read.cpp)
     [](const S&, I) { return of_text(""); }},  // and a full form has them all: nothing to read again
    {"model.family", kChoice, "gpt, llama, mixtral, deepseek_v3", 0, 0, false, "gpt", "", "Model family.", ENUM(model.family)},
    {"model.layers", kCount, "", 1, kLayers, false, "-", "", "Transformer layers.", INT(model.layers)},
    {"model.hidden", kCount, "", 1, kWidth, false, "-", "", "Hidden width.", INT(model.hidden)},
    {"model.heads", kCount, "", 1, kWidth, false, "-", "", "Query heads of a layer.", INT(model.heads)},
    {"model.kv_heads", kCount, "auto", 1, kWidth, false, "auto", "", "Key/value heads; auto: as many as heads.", INT(model.kv_heads)},
    {"model.ffn_hidden", kCount, "auto", 1, kWidth, false, "auto", "", "Width inside the feed-forward part; auto: 4 * hidden.", INT(model.ffn_hidden)},
    {"model.vocab", kCount, "", 1, kWidth, false, "-", "", "Vocabulary; byte text has 256.", INT(model.vocab)},
    {"model.max_sequence", kCount, "", 1, kWidth, false, "-", "", "Longest sequence the model has positions for.", INT(model.max_sequence)},
    {"model.tied_embeddings", kBool, "", 0, 0, false, "true", "", "Embedding and head share one matrix.", BOOL(model.tied_embeddings)},
    {"model.moe.experts", kCount, "", 1, 65536, false, "", "", "Routed experts of a layer.", MOE_INT(experts)},
    {"model.moe.top_k", kCount, "", 1, 65536, false, "1", "", "Experts a token is sent to.", MOE_INT(top_k)},
    {"model.moe.expert_hidden", kCount, "", 1, kWidth, false, "", "", "Width inside an expert.", MOE_INT(expert_hidden)},
    {"model.moe.shared_experts", kCount, "", 0, 65536, false, "0", "", "Experts that every token visits.", MOE_INT(shared_experts)},
    {"model.moe.router", kChoice, "softmax, sigmoid", 0, 0, false, "softmax", "", "Scores of the router.", MOE_ENUM(router)},
    {"model.moe.groups", kCount, "", 1, 65536, false, "1", "", "Groups of experts for routing.", MOE_INT(groups)},
    {"model.moe.groups_kept", kCount, "", 1, 65536, false, "1", "", "Groups a token may choose from.", MOE_INT(groups_kept)},
    {"model.moe.scale", kReal, "", 0, kMany, true, "1", "", "Factor on the routing weights.", MOE_REAL(scale)},
    {"model.moe.dense_first", kCount, "", 0, kLayers, false, "0", "", "First layers that have no experts.", MOE_INT(dense_first)},
    {"model.moe.every", kCount, "", 1, kLayers, false, "1", "", "Every n-th layer has experts.", MOE_INT(every)},
    {"model.moe.capacity_factor", kReal, "none", 0, kMany, true, "none", "", "Largest load of an expert over the mean; none: no token is dropped.", 
     [](S& s, I, const V& v) { if (v.index == 0) s.model.moe.capacity_factor.reset(); else s.model.moe.capacity_factor = v.real; },
     [](const S& s, I) { return with_experts(s, s.model.moe.capacity_factor ? of_real(*s.model.moe.capacity_factor) : of_index(0)); }},
    {"model.moe.drop_groups", kCount, "auto", 1, kWidth, false, "auto", "", "Slices of positions over which capacity holds.", MOE_INT(drop_groups)},
    {"model.moe.balance.expert_loss", kReal, "", 0, kMany, false, "0", "", "Weight of the balance loss over experts.", MOE_REAL(expert_loss)},
    {"model.moe.balance.device_loss", kReal, "", 0, kMany, false, "0", "", "Weight of the balance loss over devices.", MOE_REAL(device_loss)},
    {"model.moe.balance.bias_update", kReal, "", 0, kMany, false, "0", "", "Step of the routing bias.", MOE_REAL(bias_update)},
    {"model.moe.balance.scope", kChoice, "sequence, microbatch", 0, 0, false, "sequence", "", "Tokens over which balance is measured.", MOE_ENUM(scope)},
    {"model.moe.balance.device_groups", kCount, "auto", 1, 65536, false, "auto", "", "Groups of the device loss.", MOE_INT(device_groups)},
    {"model.gelu", kChoice, "erf, tanh", 0, 0, false, "erf", "", "Form of GELU (gpt).", ENUM(model.gelu)},
    {"model.norm_eps", kReal, "auto", 0, 1, true, "auto", "", "Added to the variance in norms; auto: 1e-5.", REAL(model.norm_eps)},
    {"model.head_dim", kCount, "auto", 1, kWidth, false, "auto", "", "Width of a head; auto: hidden / heads.", INT(model.head_dim)},
    {"model.rope_base", kReal, "", 0, kMany, true, "10000", "", "Base of rotary positions (not gpt).", REAL(model.rope_base)},
    {"model.rope_scaling", kChoice, "none", 0, 0, false, "none", "", "Scaling of rotary positions."},
    {"model.mla.q_rank", kCount, "", 0, kWidth, false, "", "", "Latent attention: rank of queries; 0: they have no latent, one matrix makes them.", MLA_INT(q_rank)},
    {"model.mla.kv_rank", kCount, "", 1, kWidth, false, "", "", "Latent attention: rank of keys and values.", MLA_INT(kv_rank)},
    {"model.mla.nope_dim", kCount, "", 1, kWidth, false, "", "", "Latent attention: width of a head without positions.", MLA_INT(nope_dim)},
    {"model.mla.rope_dim", kCount, "", 1, kWidth, false, "", "", "Latent attention: width of a head with positions.", MLA_INT(rope_dim)},
    {"model.mla.v_dim", kCount, "", 1, kWidth, false, "", "", "Latent attention: width of a value head.", MLA_INT(v_dim)},

    {"training.sequence", kCount, "auto", 1, kWidth, false, "auto", "", "Tokens of a sequence; auto: model.max_sequence.", INT(training.sequence)},
    {"training.init", kChoice, "normal, test", 0, 0, false, "normal", "", "Initial values; test: every parameter random, for parity runs.", ENUM(training.init)},
    {"training.global_batch", kCount, "auto", 1, kMaxInt, false, "auto", "", "Sequences a step; auto: 8 * micro_batch * dp.", INT(training.global_batch)},
    {"training.micro_batch", kCount, "", 1, kWidth, false, "1", "", "Sequences a microbatch and data-parallel rank.", INT(training.micro_batch)},
    {"training.steps", kCount, "", 1, kSteps, false, "3", "", "Timed training steps.", INT(training.steps)},
    {"training.precision", kChoice, "fp64, fp32, bf16, fp16, fp8", 0, 0, false, "fp32", "fp64, fp32, bf16, fp16", "Compute type.", ENUM(training.precision)},
    {"training.main_gradients", kChoice, "auto", 0, 0, false, "auto", "", "Type gradients are summed in: fp64 in fp64 runs, else fp32."},
    {"training.recompute", kChoice, "none, selective, full", 0, 0, false, "none", "", "Activations computed again in the backward pass.",
     [](S& s, I, const V& v) { s.training.recompute = static_cast<Recompute>(v.index); },
     [](const S& s, I) { V v = of_index(static_cast<int>(s.training.recompute)); v.absent = s.training.recompute == Recompute::layers; return v; }},
    {"training.recompute.layers", kCount, "", 1, kLayers, false, "", "", "Layers of a stage that are recomputed.", 
     [](S& s, I, const V& v) { s.training.recompute = Recompute::layers; s.training.recompute_layers = static_cast<int>(v.integer); },
     [](const S& s, I) { V v = of_int(s.training.recompute_layers); v.absent = s.training.recompute != Recompute::layers; return v; }},
    {"training.attention", kChoice, "flash, materialised", 0, 0, false, "flash", "", "Attention kernel.", ENUM(training.attention)},
    {"training.optimizer.kind", kChoice, "adamw", 0, 0, false, "adamw", "", "Optimizer."},
    {"training.optimizer.lr", kReal, "", 0, kMany, true, "3e-4", "", "Learning rate.", REAL(training.optimizer.lr)},
    {"training.optimizer.betas", FieldType::reals, "", 0, 1, false, "[0.9, 0.95]", "", "Decay of the two moments: two numbers from 0 to below 1.",
     [](S& s, I, const V& v) { s.training.optimizer.beta1 = v.reals[0]; s.training.optimizer.beta2 = v.reals[1]; },
     [](const S& s, I) { V v; v.reals = {s.training.optimizer.beta1, s.training.optimizer.beta2}; return v; }},
    {"training.optimizer.eps", kReal, "", 0, 1, true, "1e-8", "", "Added to the root of the second moment.", REAL(training.optimizer.eps)},
    {"training.optimizer.weight_decay", kReal, "", 0, 1, false, "0.1", "", "Weight decay of matrices.", REAL(training.optimizer.weight_decay)},
    {"training.optimizer.clip", kReal, "none", 0, kMany, true, "1", "", "Largest gradient norm; none: no clipping.",
     [](S& s, I, const V& v) { if (v.index == 0) s.training.optimizer.clip.reset(); else s.training.optimizer.clip = v.real; },
     [](const S& s, I) { return s.training.optimizer.clip ? of_real(*s.training.optimizer.clip) : of_index(0); }},
    {"training.optimizer.warmup_steps", kCount, "", 0, kSteps, false, "0", "", "Steps in which the rate rises to lr.", INT(training.optimizer.warmup_steps)},
    {"training.optimizer.decay", kChoice, "none, cosine", 0, 0, false, "none", "", "How the rate falls after the warm-up.",
     [](S& s, I, const V& v) { s.training.optimizer.cosine = v.index == 1; },
     [](const S& s, I) { return of_index(s.training.optimizer.cosine ? 1 : 0); }},
    {"training.optimizer.decay_steps", kCount, "auto", 1, kSteps, false, "auto", "", "Step at which the rate has fallen to min_lr; auto: steps.", INT(training.optimizer.decay_steps)},
    {"training.optimizer.min_lr", kReal, "auto", 0, kMany, false, "auto", "", "Rate after the decay; auto: lr / 10.", REAL(training.optimizer.min_lr)},
    {"training.data.kind", kChoice, "text, random", 0, 0, false, "text", "", "Tokens from text bytes, or random ones.", ENUM(training.data.kind)},
    {"training.data.path", kText, "", 0, 0, false, "builtin", "", "File of training text; builtin: the shipped corpus.", TEXT(training.data.path)},
    {"training.data.sampler", kChoice, "random, sequential", 0, 0, false, "random", "", "Where in the text a sequence starts.", ENUM(training.data.sampler)},
    {"training.checkpoint.directory", kText, "none", 0, 0, false, "none", "", "Folder that `execute` saves checkpoints into, from the working folder; the newest two stay.",
     [](S& s, I, const V& v) { s.training.checkpoint.directory = v.index == 0 ? "" : v.word; },
     [](const S& s, I) { const std::string& dir = s.training.checkpoint.directory; return dir.empty() ? of_index(0) : of_text(dir); }},
    {"training.checkpoint.every", kCount, "", 0, kSteps, false, "0", "", "Steps between two checkpoints; 0: one at the end only.", INT(training.checkpoint.every)},
    {"training.evaluation.every", kCount, "", 0, kSteps, false, "0", "", "Steps between two evaluations of the validation loss; 0: never.", INT(training.evaluation.every)},
    {"training.evaluation.batches", kCount, "", 1, kSteps, false, "1", "", "Global batches of one evaluation, the same sequences each time.", INT(training.evaluation.batches)},
    {"training.metrics.every", kCount, "", 0, kSteps, false, "0", "", "Steps between two measurements between steps: gradients and updates by layer, experts, where the time went, memory by class; 0: never.", INT(training.metrics.every)},
    {"training.metrics.activations", kBool, "", 0, 0, false, "false", "", "With them, of each layer: largest logit and entropy of attention, rms of the residual stream, entropy of routers. Costs a forward of a validation batch.", BOOL(training.metrics.activations)},

    {"parallel.tp", kCount, "", 1, kDevices, false, "1", "", "Tensor parallelism.", INT(parallel.tp)},
    {"parallel.pp", kCount, "", 1, kDevices, false, "1", "", "Pipeline parallelism.", INT(parallel.pp)},
    {"parallel.cp", kCount, "", 1, kDevices, false, "1", "", "Context parallelism: each rank holds two zig-zag chunks of every sequence.", INT(parallel.cp)},
    {"parallel.ep", kCount, "", 1, kDevices, false, "1", "", "Expert parallelism.", INT(parallel.ep)},
    {"parallel.etp", kCount, "", 1, kDevices, false, "1", "", "Tensor parallelism inside an expert.", INT(parallel.etp)},
    {"parallel.dp", kCount, "auto", 1, kDevices, false, "auto", "", "Data parallelism; auto: devices / (tp * pp * cp), with mapping nano_train also / ep; 1 on cluster local.", INT(parallel.dp)},
    {"parallel.sequence_parallel", kBool, "", 0, 0, false, "false", "", "Norms and residuals split along the sequence over tp.", BOOL(parallel.sequence_parallel)},
    {"parallel.vocab_parallel", kBool, "", 0, 0, false, "true", "", "Embedding and head split along the vocabulary over tp.", BOOL(parallel.vocab_parallel)},
    {"parallel.zero", kCount, "", 0, 3, false, "0", "", "What data-parallel ranks share: 0 nothing, 1 optimizer, 2 gradients, 3 parameters.", INT(parallel.zero)},
    {"parallel.mapping", kChoice, "megatron, nano_train", 0, 0, false, "megatron", "", "How ranks and expert groups are laid out; nano_train: ep is a factor of the ranks.", ENUM(parallel.mapping)},
    {"parallel.style", kChoice, "tandem, nano_train", 0, 0, false, "tandem", "", "Whose communications are used; nano_train: those of lastweek/nano-train, with its defaults.", ENUM(parallel.style)},
    {"parallel.ep_data", kChoice, "split, replicate", 0, 0, false, "split", "", "Data of expert ranks (mapping nano_train).", ENUM(parallel.ep_data)},
    {"parallel.zero_reduce", kChoice, "auto, last, every", 0, 0, false, "auto", "", "When ZeRO sums gradients: after the last microbatch, or every one.", ENUM(parallel.zero_reduce)},
    {"parallel.weight_stash", kChoice, "auto, full, shard", 0, 0, false, "auto", "", "Output gradients that a split backward keeps for its W: full, at all positions; shard, the own rows, gathered again (auto with sequence parallelism).", ENUM(parallel.weight_stash)},
    {"parallel.order", FieldType::words, "tp, cp, ep, dp, pp", 0, 0, false, "[tp, cp, ep, dp, pp]", "", "Axes of the mesh, fastest first.",
     [](S& s, I, const V& v) { s.parallel.order = v.words; },
     [](const S& s, I) { V v; v.words = s.parallel.order; return v; }},
    {"parallel.layer_split", FieldType::counts, "auto", 1, kLayers, false, "auto", "", "Layers of each stage; auto: equal, the first ones take the rest.",
     [](S& s, I, const V& v) { s.parallel.layer_split = to_ints(v); },
     [](const S& s, I) { return of_ints(s.parallel.layer_split); }},
    {"parallel.gradient_reduce.bucket", kBytes, "", 1, 1e12, false, "40 MiB", "", "Size of a bucket of gradients.", 
     [](S& s, I, const V& v) { s.parallel.gradient_bucket = static_cast<Bytes>(v.real); },
     [](const S& s, I) { return of_real(static_cast<double>(s.parallel.gradient_bucket)); }},
    {"parallel.gradient_reduce.overlap", kBool, "", 0, 0, false, "true", "", "Buckets are summed while the backward pass goes on.", BOOL(parallel.gradient_overlap)},
    {"parallel.parameter_gather.prefetch", kCount, "", 0, kLayers, false, "1", "", "ZeRO-3: units gathered ahead.", INT(parallel.gather_prefetch)},
    {"parallel.parameter_gather.overlap", kBool, "", 0, 0, false, "true", "", "ZeRO-3: gathers run beside computing. false: one is issued right before its first use, begins when what was issued before it has been computed, and all computing behind it waits.", BOOL(parallel.gather_overlap)},
    {"parallel.parameter_gather.residency", kChoice, "visit, window", 0, 0, false, "visit", "", "ZeRO-3: how long gathered parameters stay: those of a layer for one visit, or those of whole stages while they are among the next `window` ones of the rank.", ENUM(parallel.gather_residency)},
    {"parallel.parameter_gather.window", kCount, "", 1, kLayers, false, "3", "", "ZeRO-3 with residency window: stages of the rank that stay.", 
     [](S& s, I, const V& v) { s.parallel.gather_window = static_cast<int>(v.integer); },
     [](const S& s, I) { V v = of_int(s.parallel.gather_window); v.absent = s.parallel.gather_residency != Residency::window; return v; }},

    {"schedule.kind", kChoice, "gpipe, 1f1b, eager_1f1b, interleaved_1f1b, bfs, zb_h1, zb_h2, interleaved_zb, zbv, v_half, v_min, dualpipe, dualpipev, chimera, hanayo, seq1f1b, zb_greedy, file",
     0, 0, false, "1f1b", "", "Pipeline schedule. `schedule: KIND` is short for it.",
     [](S& s, I, const V& v) { s.schedule.kind = v.word; },
     [](const S& s, I) { return of_text(s.schedule.kind); }},
    {"schedule.stages_per_rank", kCount, "auto", 1, kLayers, false, "auto", "", "Stages a pipeline rank holds; auto: what the kind needs.", INT(schedule.stages_per_rank)},
    {"schedule.group", kCount, "auto", 1, kDevices, false, "", "", "Microbatch group of interleaved kinds.", OPTION_INT("group")},
    {"schedule.overlap", kBool, "", 0, 0, false, "", "", "interleaved_1f1b: one more forward in the warm-up.", OPTION_BOOL("overlap")},
    {"schedule.fuse", kBool, "", 0, 0, false, "", "", "Forward and backward of two microbatches in one cell.", OPTION_BOOL("fuse")},
    {"schedule.backward", kChoice, "fifo, lifo", 0, 0, false, "", "", "gpipe, bfs: order of the backward passes (default fifo, bfs lifo).", OPTION("backward")},
    {"schedule.strict", kChoice, "none, torch", 0, 0, false, "", "", "1f1b: torch refuses fewer microbatches than stages (default none).", OPTION("strict")},
    {"schedule.slices", kCount, "", 1, kWidth, false, "", "", "seq1f1b: slices of a sequence (default 1).", OPTION_INT("slices")},
    {"schedule.waves", kCount, "", 1, kLayers, false, "", "", "hanayo: waves.", OPTION_INT("waves")},
    {"schedule.placement", kChoice, "linear, loop, v", 0, 0, false, "", "", "zb_greedy: where stages lie.", OPTION("placement")},
    {"schedule.memory_limit", kCount, "", 1, kMaxInt, false, "", "", "zb_greedy: stage visits a rank may hold.", OPTION_INT("memory_limit")},
    {"schedule.mu", kReal, "", -kMany, 1, false, "", "", "zb_greedy: share of a visit's memory freed before W.", OPTION_REAL("mu")},
    {"schedule.objective", kChoice, "span, ms", 0, 0, false, "", "", "zb_greedy: what is made small.", OPTION("objective")},
    {"schedule.first_stage", kChoice, "full_at_W, keep", 0, 0, false, "full_at_W", "", "Split kinds: how the first stage runs its backward: full_at_W (default), whole at the place of W; keep: as the others.", 
     [](S& s, I, const V& v) { s.schedule.first_stage = static_cast<FirstStage>(v.index); },
     [](const S& s, I) { return where_split(s, of_index(static_cast<int>(s.schedule.first_stage))); }},
    {"schedule.merge", kBool, "", 0, 0, false, "false", "", "Split kinds: I followed by its W becomes B.", 
     [](S& s, I, const V& v) { s.schedule.merge = v.boolean; },
     [](const S& s, I) { return where_split(s, of_bool(s.schedule.merge)); }},
    {"schedule.file", kText, "", 0, 0, false, "", "", "Kind file: the CSV of the order (L1 text), relative to this file; its stages count.", OPTION("file")},
    {"schedule.receive", kChoice, "early, deferred, deferred_parity", 0, 0, false, "early", "", "When a receive is posted.", ENUM(schedule.receive)},
    {"schedule.communicators", kChoice, "edge, pair, world", 0, 0, false, "edge", "", "Communicators of pipeline messages.", ENUM(schedule.communicators)},
    {"schedule.grouping", kChoice, "none, runs", 0, 0, false, "none", "", "Grouping of neighbouring messages.", ENUM(schedule.grouping)},
    {"schedule.optimizer_barrier", kChoice, "synchronous, post_validated", 0, 0, false, "synchronous", "", "Whether the update waits for the gradient norm, or is made at once and checked in the next step.", ENUM(schedule.optimizer_barrier)},

    {"cluster.preset", kText, "", 0, 0, false, "local", "", "Preset to start from, or the path of a preset file. `cluster: NAME` or `cluster: NAME x NODES` is short for it.", TEXT(cluster.preset)},
    {"cluster.nodes", kCount, "", 1, kDevices, false, "1", "", "Nodes.", INT(cluster.nodes)},
    {"cluster.devices_per_node", kCount, "auto", 1, kDevices, false, "auto", "", "Devices of a node; auto (cluster local): as many as the degrees ask for, else 1.", INT(cluster.devices_per_node)},
    {"cluster.cores_per_node", kCount, "auto", 0, 65536, false, "auto", "", "CPU cores that the ranks of a node share; auto: this machine's on cluster local, else 0 (one each).", INT(cluster.cores_per_node)},
    {"cluster.device.preset", kText, "", 0, 0, false, "", "", "Device preset to start from, or the path of a preset file.", TEXT(cluster.device.preset)},
    {"cluster.device.memory", kBytes, "", 1, 1e15, false, "-", "", "Memory of a device.",
     [](S& s, I, const V& v) { s.cluster.device.memory = static_cast<Bytes>(v.real); },
     [](const S& s, I) { return of_real(static_cast<double>(s.cluster.device.memory)); }},
    {"cluster.device.memory_bandwidth", kRate, "", 0, 1e15, true, "-", "", "Bandwidth of that memory.", REAL(cluster.device.memory_bandwidth)},
    {"cluster.device.peak.fp64", kFlops, "", 0, 1e18, true, "", "", "Peak rate of dense matrix products in fp64.", PEAK("fp64")},
    {"cluster.device.peak.fp32", kFlops, "", 0, 1e18, true, "", "", "The same in fp32.", PEAK("fp32")},
    {"cluster.device.peak.bf16", kFlops, "", 0, 1e18, true, "", "", "The same in bf16.", PEAK("bf16")},
    {"cluster.device.peak.fp16", kFlops, "", 0, 1e18, true, "", "", "The same in fp16.", PEAK("fp16")},
    {"cluster.device.peak.fp8", kFlops, "", 0, 1e18, true, "", "", "The same in fp8.", PEAK("fp8")},
    {"cluster.device.efficiency.matmul", kReal, "", 0, 1, true, "", "", "Share of the peak that matrix products reach.", EFFICIENCY("matmul")},
    {"cluster.device.efficiency.attention", kReal, "", 0, 1, true, "", "", "Share of the peak that attention reaches.", EFFICIENCY("attention")},
    {"cluster.device.efficiency.memory", kReal, "", 0, 1, true, "", "", "Share of the memory bandwidth that vector kernels reach.", EFFICIENCY("memory")},
    {"cluster.device.launch_overhead", kSeconds, "", 0, 1, false, "4 us", "", "Host time to issue an operation.", REAL(cluster.device.launch_overhead)},
    {"cluster.network[].name", kText, "", 0, 0, false, "-", "", "Name of a level of the network; levels go from the inside out.",
     [](S& s, I i, const V& v) { level(s, i).name = v.word; },
     [](const S& s, I i) { return of_text(s.cluster.network[i].name); }},
    {"cluster.network[].kind", kChoice, "switch, fat_tree, ring, full_mesh", 0, 0, false, "switch", "", "Shape of the level.",
     [](S& s, I i, const V& v) { level(s, i).kind = v.word; },
     [](const S& s, I i) { return of_text(s.cluster.network[i].kind); }},
    {"cluster.network[].scope", kChoice, "node, cluster", 0, 0, false, "node; fat_tree: cluster", "", "What the level connects: devices of a node, or nodes.",
     [](S& s, I i, const V& v) { level(s, i).scope = v.word; },
     [](const S& s, I i) { return of_text(s.cluster.network[i].scope); }},
    {"cluster.network[].bandwidth", kRate, "", 0, 1e15, true, "-", "", "One direction: of a device (scope node) or of a NIC.",
     [](S& s, I i, const V& v) { level(s, i).bandwidth = v.real; },
     [](const S& s, I i) { return of_real(s.cluster.network[i].bandwidth); }},
    {"cluster.network[].latency", kSeconds, "", 0, 1, false, "-", "", "Time to cross the level once.",
     [](S& s, I i, const V& v) { level(s, i).latency = v.real; },
     [](const S& s, I i) { return of_real(s.cluster.network[i].latency); }},
    {"cluster.network[].nics_per_node", kCount, "", 1, 1024, false, "1", "", "Network cards of a node (scope cluster).",
     [](S& s, I i, const V& v) { level(s, i).nics_per_node = static_cast<int>(v.integer); },
     [](const S& s, I i) { return of_int(s.cluster.network[i].nics_per_node); }},
    {"cluster.network[].oversubscription", kReal, "", 1, 1e6, false, "1", "", "Bandwidth below a switch over that above it.",
     [](S& s, I i, const V& v) { level(s, i).oversubscription = v.real; },
     [](const S& s, I i) { return of_real(s.cluster.network[i].oversubscription); }},
    {"cluster.network[].rail_optimised", kBool, "", 0, 0, false, "true", "", "The n-th cards of all nodes share a switch.",
     [](S& s, I i, const V& v) { level(s, i).rail_optimised = v.boolean; },
     [](const S& s, I i) { return of_bool(s.cluster.network[i].rail_optimised); }},
    {"cluster.graph.file", kText, "", 0, 0, false, "", "-", "A free graph of links."},
    {"cluster.nccl_topology", kText, "", 0, 0, false, "", "-", "Topology XML of NCCL."},
    {"cluster.astra_network", kText, "", 0, 0, false, "", "-", "Network file of ASTRA-sim."},
    {"cluster.collectives.library", kChoice, "nccl, host", 0, 0, false, "host on cluster local, else nccl", "", "Whose rules of collectives are used.", ENUM(cluster.library)},
    {"cluster.collectives.all_reduce", kChoice, "auto, ring, tree, halving_doubling, direct, nvls, hierarchical", 0, 0, false, "auto", "auto, ring, tree, halving_doubling, direct", "Algorithm of all-reduce.",
     [](S& s, I, const V& v) { s.cluster.all_reduce = v.word; },
     [](const S& s, I) { return of_text(s.cluster.all_reduce); }},
    {"cluster.collectives.channels", kCount, "auto", 1, 64, false, "auto", "auto", "Channels of a collective."},
    {"cluster.calibration", kText, "", 0, 0, false, "", "", "Calibration file, from `tandem calibrate`.", TEXT(cluster.calibration)},
    {"cluster.slow_devices[].rank", kCount, "", 0, kDevices, false, "-", "", "A rank that is slower than the others.",
     [](S& s, I i, const V& v) { slow(s, i).first = static_cast<int>(v.integer); },
     [](const S& s, I i) { return of_int(s.cluster.slow_devices[i].first); }},
    {"cluster.slow_devices[].factor", kReal, "", 1, 1000, false, "-", "", "Its time over the others' time.",
     [](S& s, I i, const V& v) { slow(s, i).second = v.real; },
     [](const S& s, I i) { return of_real(s.cluster.slow_devices[i].second); }},

    {"simulate.fidelity", kChoice, "auto, closed_form, flow, message", 0, 0, false, "auto", "", "How the network is simulated.", ENUM(simulate.fidelity)},
    {"simulate.jitter.compute", kReal, "", 0, 1, false, "0", "0", "Relative spread of compute times."},
    {"simulate.jitter.network", kReal, "", 0, 1, false, "0", "0", "Relative spread of message times."},
    {"simulate.jitter.runs", kCount, "", 1, 1e6, false, "1", "1", "Runs with different draws."},
    {"simulate.routing", kChoice, "balanced", 0, 0, false, "balanced", "", "How tokens choose experts."},
    {"simulate.routing.zipf", kReal, "", 0, 100, false, "", "", "Exponent of the experts' popularity; 0: all alike.",
     [](S& s, I, const V& v) { s.simulate.routing.zipf = v.real; },
     [](const S& s, I) { return s.simulate.routing.zipf ? of_real(*s.simulate.routing.zipf) : of_text(""); }},
    {"simulate.routing.trace", kText, "", 0, 0, false, "", "", "File of recorded counts, such as routing.csv of a run.", TEXT(simulate.routing.trace)},
    {"simulate.allocator", kChoice, "exact, caching", 0, 0, false, "exact", "exact", "Memory: live bytes, or those a caching allocator reserves."},
    {"simulate.folding", kChoice, "auto, off", 0, 0, false, "auto", "", "Equal ranks are simulated once.",
     [](S& s, I, const V& v) { s.simulate.folding = v.index == 0; },
     [](const S& s, I) { return of_index(s.simulate.folding ? 0 : 1); }},

    {"execute.device", kChoice, "cpu, cuda, rehearsal", 0, 0, false, "cpu", "cpu, rehearsal", "Device of the ranks; rehearsal: real processes and messages, timed waits instead of kernels.", ENUM(execute.device)},
    {"execute.transport", kChoice, "auto, local, mpi, nccl", 0, 0, false, "auto", "auto, local", "How ranks communicate.", ENUM(execute.transport)},
    {"execute.threads_per_rank", kCount, "", 1, 1024, false, "1", "", "Compute threads of a rank.", INT(execute.threads_per_rank)},
    {"execute.warmup_steps", kCount, "", 0, kSteps, false, "1", "", "Untimed training steps before the timed ones.", INT(execute.warmup_steps)},
    {"execute.deterministic", kBool, "", 0, 0, false, "true", "", "Fixed order of every sum.", BOOL(execute.deterministic)},
    {"execute.timeout", kSeconds, "", 0.1, 86400, false, "60 s", "", "Longest wait for a peer.", REAL(execute.timeout)},

    {"output.directory", kText, "", 0, 0, false, "runs/{name}", "", "Folder of the results.", TEXT(output.directory)},
    {"output.timeline", kChoice, "perfetto, chrome, csv", 0, 0, false, "perfetto", "", "Format of timelines.", ENUM(output.timeline)},
    {"output.ranks", FieldType::counts, "representatives, all", 0, kDevices, false, "representatives", "", "Ranks in the timelines.",
     [](S& s, I, const V& v) { s.output.ranks = v.index < 0 ? RankSelection::listed : static_cast<RankSelection>(v.index);
                               s.output.rank_list = to_ints(v); },
     [](const S& s, I) { V v = of_ints(s.output.rank_list);
                         v.index = s.output.ranks == RankSelection::listed ? -1 : static_cast<int>(s.output.ranks); return v; }},
    {"output.keep_steps", kChoice, "all", 0, 0, false, "all", "", "Steps in the timelines."},
};
// clang-format on

#undef INT
#undef MOE_INT
#undef MOE_REAL
#undef MOE_ENUM
#undef MLA_INT
#undef REAL
#undef BOOL
#undef TEXT
#undef ENUM
#undef PEAK
#undef EFFICIENCY
#undef OPTION

std::string bound_text(const Field& f, std::string_view what) {
  if (f.min == f.max) return std::string(what);
  const bool has_max = f.max < 1e18;
  if (f.above_min)
    return fmt::format("{} above {}{}", what, format_double(f.min),
                       has_max ? fmt::format(" and at most {}", format_double(f.max)) : "");
  if (!has_max) return fmt::format("{}, at least {}", what, format_double(f.min));
  return fmt::format("{} from {} to {}", what, format_double(f.min),
                     fmt::format("{:.0f}", f.max) == format_double(f.max) || f.max < 1
                         ? format_double(f.max)
                         : fmt::format("{:.0f}", f.max));
}

// A word that YAML could take for something else is quoted.
std::string text_value(const std::string& word) {
  if (is_plain_name(word) && !parse_double(word)) return word;
  return fmt::format("\"{}\"", escape_json(word));
}

}  // namespace

std::span<const Field> scenario_fields() { return kFields; }

const Field* find_field(std::string_view path) {
  for (const Field& field : kFields)
    if (field.path == path) return &field;
  return nullptr;
}

bool is_section(std::string_view path) {
  if (path.empty()) return true;
  return std::any_of(std::begin(kFields), std::end(kFields), [&](const Field& field) {
    if (!field.path.starts_with(path) || field.path.size() == path.size()) return false;
    const char next = field.path[path.size()];
    return next == '.' || (next == '[' && !path.ends_with("[]"));
  });
}

std::vector<std::string> names_below(std::string_view section) {
  std::vector<std::string> names;
  for (const Field& field : kFields) {
    std::string_view rest = field.path;
    if (!section.empty()) {
      if (!rest.starts_with(section) || rest.size() <= section.size() ||
          rest[section.size()] != '.')
        continue;
      rest.remove_prefix(section.size() + 1);
    }
    names.emplace_back(rest.substr(0, rest.find_first_of(".[")));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

std::vector<std::string> words_of(std::string_view names) {
  std::vector<std::string> words;
  if (names.empty()) return words;
  for (std::string_view word : split(names, ',')) words.emplace_back(trim(word));
  return words;
}

std::string describe(const Field& f) {
  std::string text;
  switch (f.type) {
    case FieldType::count:
      text = bound_text(f, "a whole number");
      break;
    case FieldType::real:
      text = bound_text(f, "a number");
      break;
    case FieldType::boolean:
      return "true or false";
    case FieldType::choice: {
      const auto words = words_of(f.names);
      return words.size() == 1 ? words[0] : "one of " + join(words, ", ");
    }
    case FieldType::text:
      text = "a text";
      break;
    case FieldType::bytes:
      text = "a size such as 40 MiB";
      break;
    case FieldType::rate:
      text = "a rate such as 50 GB/s";
      break;
    case FieldType::seconds:
      text = "a time such as 2 us";
      break;
    case FieldType::flops:
      text = "a rate such as 989 Tflop/s";
      break;
    case FieldType::counts:
      text = bound_text(f, "a list of whole numbers");
      break;
    case FieldType::reals:
      return "two numbers from 0 to below 1, such as [0.9, 0.95]";
    case FieldType::words:
      return "a list of " + std::string(f.names) + ", each once";
  }
  for (const std::string& word : words_of(f.names)) text += " or " + word;
  return text;
}

std::string value_text(const Field& f, const FieldValue& v) {
  if (v.index >= 0) return words_of(f.names)[static_cast<std::size_t>(v.index)];
  switch (f.type) {
    case FieldType::count:
      return fmt::format("{}", v.integer);
    case FieldType::real:
      return format_double(v.real);
    case FieldType::boolean:
      return v.boolean ? "true" : "false";
    case FieldType::choice:
      return v.word;
    case FieldType::text:
      return text_value(v.word);
    case FieldType::bytes:
      return quantity_text(Dimension::bytes, v.real);
    case FieldType::rate:
      return quantity_text(Dimension::rate, v.real);
    case FieldType::seconds:
      return quantity_text(Dimension::seconds, v.real);
    case FieldType::flops:
      return quantity_text(Dimension::flops, v.real);
    case FieldType::counts:
      return fmt::format("[{}]", fmt::join(v.integers, ", "));
    case FieldType::reals: {
      std::vector<std::string> parts;
      for (double x : v.reals) parts.push_back(format_double(x));
      return "[" + join(parts, ", ") + "]";
    }
    case FieldType::words:
      return "[" + join(v.words, ", ") + "]";
  }
  return {};
}

}  // namespace tandem
