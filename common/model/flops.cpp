// The formulas of flops.h.
#include "common/model/flops.h"

#include "common/base/check.h"
#include "common/scenario/order_file.h"
#include "common/schedule/registry.h"

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

namespace {

// A product over the own tokens of a tensor rank: executed on every rank, counted once.
OperationFlops own_gemm(std::string_view name, double rows, double counted, double in, double out) {
  OperationFlops op = gemm(name, rows, in, out);
  op.model = gemm(name, counted, in, out).model;
  return op;
}

// Flash pads v to the width of q and k (models.md 2.7).
OperationFlops core_flops(const Scenario& s) {
  const bool flash = s.training.attention == AttentionKind::flash;
  const ModelShape shape = model_shape(s.model);
  const double rows = 2.0 * s.training.micro_batch * s.model.heads / s.parallel.tp;
  const double qk = rows * shape.qk_dim(), v = rows * shape.v_dim();  // for each pair
  const double cp = s.parallel.cp;  // zig-zag: each member has the same number of pairs
  const double model_pairs = pairs_of(s.training.sequence, Pairs::causal) / cp;
  const double pairs = pairs_of(s.training.sequence, flash ? Pairs::causal : Pairs::all) / cp;
  OperationFlops core{"core", {}, {}};
  core.model = {(qk + v) * model_pairs, 2 * (qk + v) * model_pairs, 0};
  core.executed = flash ? Work{2 * qk * pairs, 5 * qk * pairs, 0}
                        : Work{(qk + v) * pairs, 2 * (qk + v) * pairs, 0};
  return core;
}

}  // namespace

std::vector<OperationFlops> layer_flops(const Scenario& s, int layer) {
  const bool gpt = s.model.family == ModelFamily::gpt;
  const MoeSpec& moe = s.model.moe;
  const MlaSpec& mla = s.model.mla;
  const double t = s.parallel.tp, b = s.training.micro_batch, h = s.model.hidden;
  const double n = b * s.training.sequence / s.parallel.cp, f = s.model.ffn_hidden / t;
  const double own = s.parallel.sequence_parallel ? n / t : n;
  const double heads = s.model.heads / t, kv = s.model.kv_heads / t, dh = s.model.head_dim;
  std::vector<OperationFlops> out;
  if (mla.kv_rank == 0) {
    out = {gemm("qkv", n, h, (heads + 2 * kv) * dh), core_flops(s), gemm("o", n, heads * dh, h)};
  } else {
    const double latents = mla.q_rank + mla.kv_rank + mla.rope_dim;
    const double q = heads * (mla.nope_dim + mla.rope_dim);
    out = {own_gemm(mla.q_rank > 0 ? "q_a, kv_a" : "kv_a", own, n / t, h, latents),
           mla.q_rank > 0 ? gemm("q_b", n, mla.q_rank, q) : gemm("q", n, h, q),
           gemm("kv_b", n, mla.kv_rank, heads * (mla.nope_dim + mla.v_dim)), core_flops(s),
           gemm("o", n, heads * mla.v_dim, h)};
  }
  if (!model_shape(s.model).is_moe(layer)) {
    out.push_back(gpt ? gemm("fc1", n, h, f) : gemm("gate_up", n, h, 2 * f));
    out.push_back(gemm(gpt ? "fc2" : "down", n, f, h));
    return out;
  }
  // What the rank routes: in mapping nano_train its slice of the tokens.
  const double routed = s.parallel.nano_train() ? n / t : own;
  const double rows = routed * moe.top_k * s.parallel.etp,
               expert = moe.expert_hidden / s.parallel.etp;
  out.push_back(own_gemm("router", routed, n / t, h, moe.experts));
  out.push_back(gemm("experts", rows, h, 3 * expert));
  if (moe.shared_experts > 0)
    out.push_back(gemm("shared", n, h, 3.0 * moe.shared_experts * moe.expert_hidden / t));
  return out;
}

std::int64_t local_vocabulary(const Scenario& s) {
  if (!s.parallel.vocab_parallel) return s.model.vocab;
  const std::int64_t t = s.parallel.tp;
  return (s.model.vocab + t - 1) / t;
}

OperationFlops head_flops(const Scenario& s) {
  // With sequence parallelism and a whole vocabulary a rank heads its own tokens.
  const bool own = s.parallel.sequence_parallel && !s.parallel.vocab_parallel;
  const double shares = s.parallel.tp, h = s.model.hidden;
  const double n =
      num(s.training.micro_batch) * s.training.sequence / s.parallel.cp / (own ? shares : 1);
  OperationFlops head = gemm("head", n, h, num(local_vocabulary(s)));
  head.model = gemm("head", n, h, num(s.model.vocab) / (own ? 1 : shares)).model;
  return head;
}

double again_flops(const Scenario& s, int layer, int place) {
  const TrainingSpec& t = s.training;
  double sum = 0;
  for (const OperationFlops& op : layer_flops(s, layer)) {
    const double forward = op.executed.forward;
    if (recomputed_layer(t, place)) {
      // The layer's last product is read by nobody; of the shared experts that is a third.
      if (op.name != "fc2" && op.name != "down") sum += forward * (op.name == "shared" ? 2 : 3) / 3;
    } else if (op.name == "core" && t.recompute == Recompute::selective &&
               t.attention == AttentionKind::materialised) {
      sum += forward;
    }
  }
  return sum;
}

double executed_flops_of_rank(const Scenario& s, int pp) {
  double sum = 0;
  int first = 0;
  const int stages = s.parallel.pp * s.schedule.stages_per_rank;
  TANDEM_CHECK(static_cast<int>(s.parallel.layer_split.size()) == stages, "{} stages, {} entries",
               stages, s.parallel.layer_split.size());
  for (int stage = 0; stage < stages; ++stage) {
    const int count = s.parallel.layer_split[static_cast<std::size_t>(stage)];
    if (lies_on(s.schedule.kind, s.schedule.options, s.parallel.pp, stage, pp)) {
      for (int layer = first; layer < first + count; ++layer) {
        for (const OperationFlops& op : layer_flops(s, layer)) sum += op.executed.sum();
        sum += again_flops(s, layer, layer - first);
      }
      if (stage == stages - 1) sum += head_flops(s).executed.sum();
    }
    first += count;
  }
  const ScheduleKind* kind = find_schedule(s.schedule.kind);
  const std::optional<Order> file = kept_order(s.schedule);
  const int copies = file ? file->num_dirs : kind ? kind->copies : 1;
  return sum * s.num_microbatches() / copies;  // each does its share
}

}  // namespace tandem
