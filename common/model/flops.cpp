// The formulas of flops.h.
#include "common/model/flops.h"

#include "common/base/check.h"

namespace tandem {
namespace {

double num(std::int64_t v) { return static_cast<double>(v); }

// Causal pairs of one sequence (models.md Q2), or all.
double pairs_of(std::int64_t sequence, Pairs pairs) {
  const double s = num(sequence);
  return pairs == Pairs::causal ? s * (s + 1) / 2 : s * s;
}

// F = I = W.
OperationFlops gemm(std::string_view name, double rows, double in, double out) {
  const double f = 2 * rows * in * out;
  return {name, {f, f, f}, {f, f, f}};
}

}  // namespace

double model_flops(const ModelShape& model, std::int64_t sequences, std::int64_t sequence,
                   Pairs pairs) {
  const double b = num(sequences);
  const double matrices = 2 * b * num(sequence) * num(matrix_parameters_per_token(model));
  const double core = num(model.layers) * b * 2 * pairs_of(sequence, pairs) * num(model.heads) *
                      num(model.qk_dim() + model.v_dim());
  return 3 * (matrices + core);
}

double model_flops_of_step(const Scenario& s) {
  return model_flops(model_shape(s.model), s.training.global_batch, s.training.sequence);
}

double six_n_flops(const ModelShape& model, std::int64_t sequences, std::int64_t sequence) {
  return 6 * num(parameters_per_token(model)) * num(sequences) * num(sequence);
}

std::vector<OperationFlops> layer_flops(const Scenario& s) {
  const bool gpt = s.model.family == ModelFamily::gpt;
  TANDEM_CHECK(gpt || s.model.family == ModelFamily::llama,
               "validate() let another family through");
  const double t = s.parallel.tp, b = s.training.micro_batch, h = s.model.hidden;
  const double n = b * s.training.sequence, f = s.model.ffn_hidden / t;
  const double heads = s.model.heads / t, kv = s.model.kv_heads / t, dh = s.model.head_dim;
  const bool flash = s.training.attention == AttentionKind::flash;

  OperationFlops core{"core", {}, {}};
  const double product = 2 * b * heads * dh;  // of q.k, or of p.v, for each pair
  const double model_pairs = pairs_of(s.training.sequence, Pairs::causal);
  const double pairs = pairs_of(s.training.sequence, flash ? Pairs::causal : Pairs::all);
  core.model = {2 * product * model_pairs, 4 * product * model_pairs, 0};
  core.executed = {2 * product * pairs, (flash ? 5 : 4) * product * pairs, 0};

  const OperationFlops qkv = gemm("qkv", n, h, (heads + 2 * kv) * dh);
  const OperationFlops o = gemm("o", n, heads * dh, h);
  if (gpt) return {qkv, core, o, gemm("fc1", n, h, f), gemm("fc2", n, f, h)};
  return {qkv, core, o, gemm("gate_up", n, h, 2 * f), gemm("down", n, f, h)};
}

std::int64_t local_vocabulary(const Scenario& s) {
  if (!s.parallel.vocab_parallel) return s.model.vocab;
  const std::int64_t t = s.parallel.tp;
  return (s.model.vocab + t - 1) / t;
}

OperationFlops head_flops(const Scenario& s) {
  const double n = num(s.training.micro_batch) * s.training.sequence, h = s.model.hidden;
  OperationFlops head = gemm("head", n, h, num(local_vocabulary(s)));
  head.model = gemm("head", n, h, num(s.model.vocab) / s.parallel.tp).model;
  return head;
}

double executed_flops_of_rank(const Scenario& s, int pp) {
  double layer = 0, sum = 0;
  for (const OperationFlops& op : layer_flops(s)) layer += op.executed.sum();
  const int stages = s.parallel.pp * s.schedule.stages_per_rank;
  TANDEM_CHECK(static_cast<int>(s.parallel.layer_split.size()) == stages, "{} stages, {} entries",
               stages, s.parallel.layer_split.size());
  for (int stage = pp; stage < stages; stage += s.parallel.pp) {
    sum += layer * s.parallel.layer_split[static_cast<std::size_t>(stage)];
    if (stage == stages - 1) sum += head_flops(s).executed.sum();
  }
  return sum * s.num_microbatches();
}

}  // namespace tandem
