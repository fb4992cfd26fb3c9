#include "sim/calibrate/kernel_list.h"

#include <algorithm>
#include <tuple>

#include "common/plan/totals.h"

namespace tandem::sim {
namespace {

using Dims = KernelDims;

void sort_unique(std::vector<MeasuredKernel>& list) {
  const auto key = [](const MeasuredKernel& k) { return std::tie(k.kernel, k.accumulate); };
  std::sort(list.begin(), list.end(),
            [&](const MeasuredKernel& a, const MeasuredKernel& b) { return key(a) < key(b); });
  list.erase(std::unique(list.begin(), list.end()), list.end());
}

class Grid {
 public:
  void add(KernelKind kind, Dims dims, std::uint32_t flags = 0, bool accumulate = false) {
    Kernel k;
    k.kind = kind;
    k.dims = dims;
    k.flags = flags;
    if (catalogue(kind).real == "eps") k.real = 1e-5;
    if (catalogue(kind).real == "base") k.real = 10000;
    if (catalogue(kind).real == "alpha") k.real = 0.01;
    if (catalogue(kind).real == "scale") k.real = 1;
    if (catalogue(kind).real == "rate") k.real = 0.001;
    if (catalogue(kind).real == "factor") k.real = 0.5;
    out.push_back({calibration_key(k), accumulate});
  }
  std::vector<MeasuredKernel> out;
};

using K = KernelKind;

void add_matmuls(Grid& g) {
  for (std::int64_t tokens : {32, 128, 512})
    for (std::int64_t in : {64, 256, 1024})
      for (std::int64_t out : {64, 256, 1024}) {
        g.add(K::linear_fwd, {tokens, in, out}, kBias);
        g.add(K::linear_bwd_input, {tokens, in, out});
        g.add(K::linear_bwd_weight, {tokens, in, out}, kBias, true);
        if (tokens == 128 || in == out) {  // fewer of what differs little
          g.add(K::linear_fwd, {tokens, in, out});
          g.add(K::linear_bwd_weight, {tokens, in, out}, 0, true);
        }
        if (tokens == 128) {  // the first microbatch
          g.add(K::linear_bwd_weight, {tokens, in, out}, kBias);
          g.add(K::linear_bwd_weight, {tokens, in, out});
        }
      }
}

void add_attention(Grid& g) {
  for (std::int64_t seq : {32, 64, 128, 256})
    for (std::int64_t heads : {2, 8})
      for (std::int64_t width : {16, 32, 64})
        for (std::int64_t batch : {1, 4}) {
          if (batch == 4 && (seq == 256 || width == 64)) continue;
          g.add(K::attention_fwd, {batch, heads, seq, width}, kCausal | kFlash);
          g.add(K::attention_bwd_input, {batch, heads, seq, width}, kCausal | kFlash);
          if (heads != 8 || width != 32 || batch != 1) continue;  // shared heads: fewer points
          g.add(K::attention_fwd, {batch, heads, seq, width, 2}, kCausal | kFlash);
          g.add(K::attention_bwd_input, {batch, heads, seq, width, 2}, kCausal | kFlash);
          g.add(K::rope_fwd, {batch, heads, seq, width, 2});
          g.add(K::rope_bwd_input, {batch, heads, seq, width, 2});
        }
}

// Blocks of a ring over cp, and of slices of a sequence.
void add_ring(Grid& g) {
  for (std::int64_t seq : {16, 64, 256})
    for (std::int64_t heads : {2, 8})
      for (std::int64_t width : {16, 64}) {
        const Dims own = {2, heads, seq, width}, other = {2, heads, seq, width, 0, 0, 1};
        g.add(K::kv_pack, own);
        g.add(K::kv_unpack, own);
        g.add(K::attention_block_fwd, other);
        g.add(K::attention_block_bwd_input, own);
        g.add(K::attention_block_bwd_input, other, 0, true);
        g.add(K::attention_block_fwd, other, kSlices);
        g.add(K::attention_block_bwd_input, other, kSlices, true);
      }
}

void add_rows(Grid& g) {
  for (std::int64_t tokens : {32, 128, 512})
    for (std::int64_t width : {64, 256, 1024}) {
      g.add(K::layernorm_fwd, {tokens, width});
      g.add(K::bias_residual_fwd, {tokens, width});
      g.add(K::residual_bwd_input, {tokens, width});
      g.add(K::embed_fwd, {tokens, 256, width});
      for (const bool accumulate : {false, true}) {
        if (!accumulate && tokens != 128) continue;
        g.add(K::layernorm_bwd_input, {tokens, width}, 0, accumulate);
        g.add(K::bias_residual_bwd_weight, {tokens, width}, 0, accumulate);
        g.add(K::embed_bwd_weight, {tokens, 256, width}, 0, accumulate);
        g.add(K::pos_add_bwd_weight, {tokens / 2, 2, width}, 0, accumulate);
      }
      g.add(K::pos_add_fwd, {tokens / 2, 2, width});
      for (const std::uint32_t kind : {kErf, kTanh}) {
        g.add(K::gelu_fwd, {4 * tokens * width}, kind);
        g.add(K::gelu_bwd_input, {4 * tokens * width}, kind);
      }
    }
  for (std::int64_t tokens : {32, 128, 512})
    for (std::int64_t classes : {128, 512, 2048}) {
      g.add(K::ce_max, {tokens, classes, classes});
      g.add(K::ce_sum, {tokens, classes});
      for (const bool accumulate : {false, true})
        if (accumulate || tokens == 128) g.add(K::ce_grad, {tokens, classes, 1024}, 0, accumulate);
    }
}

// Passes over rows that only llama has: like those above, so fewer points.
void add_llama_rows(Grid& g) {
  for (std::int64_t tokens : {32, 512})
    for (std::int64_t width : {64, 256, 1024}) {
      g.add(K::rmsnorm_fwd, {tokens, width});
      for (const bool accumulate : {false, true})
        g.add(K::rmsnorm_bwd_input, {tokens, width}, 0, accumulate);
      g.add(K::residual_fwd, {tokens, width});
      g.add(K::own_rows_fwd, {tokens, width, 2});
      g.add(K::swiglu_fwd, {tokens, 2 * width});
      g.add(K::swiglu_bwd_input, {tokens, 2 * width});
    }
}

// Experts: fewer points still, as they share the time of a calibration with all the others; what a
// few dimensions do is told by the formula's terms.
void add_experts(Grid& g) {
  constexpr std::int64_t batch = 2, top_k = 2, sources = 2;
  for (std::int64_t tokens : {32, 512}) {
    for (std::int64_t width : {64, 1024}) {
      g.add(K::dispatch_fwd, {tokens, width, 8, top_k});
      g.add(K::dispatch_bwd_input, {tokens, width, 8, top_k});
      for (const std::uint32_t scores : {kSoftmax, kSigmoid}) {
        g.add(K::combine_fwd, {tokens, width, 8, top_k}, scores);
        g.add(K::combine_bwd_input, {tokens, width, 8, top_k}, scores);
      }
      for (std::int64_t experts : {8, 64}) {
        g.add(K::router_fwd, {tokens, width, experts});
        g.add(K::router_bwd_input, {tokens, width, experts});
        g.add(K::router_bwd_weight, {tokens, width, experts}, 0, true);
      }
    }
    for (std::int64_t experts : {8, 64}) {
      const std::int64_t seq = tokens / batch;
      for (const std::uint32_t scores : {kSoftmax, kSigmoid}) {
        g.add(K::route_fwd, {batch, seq, experts, top_k, 1, 1}, scores | kScopeSequence, true);
        g.add(K::balance_bwd_input, {batch, experts, seq, top_k, experts, 8, tokens}, scores);
        g.add(K::router_scores_fwd, {tokens, experts}, scores);
        g.add(K::route_bwd_input, {tokens, experts}, scores);
      }
      g.add(K::balance_fwd, {batch, experts, seq, top_k, experts, 8}, 0, true);
    }
  }
  for (std::int64_t experts : {8, 64}) g.add(K::router_bias_update, {experts});
  for (std::int64_t tokens : {32, 512}) {
    g.add(K::label_rows_fwd, {tokens, 8, top_k, sources}, kSigmoid);
    g.add(K::count_rows, {tokens * top_k, sources, 4});
  }
  g.add(K::narrow_counts, {sources});
  for (std::int64_t rows : {64, 1024})
    for (std::int64_t width : {64, 256, 1024}) {
      for (std::int64_t experts : {2, 8}) {
        g.add(K::experts_linear_fwd, {rows, width, width, experts, sources});
        g.add(K::experts_linear_bwd_input, {rows, width, width, experts, sources});
        g.add(K::experts_linear_bwd_weight, {rows, width, width, experts, sources}, 0, true);
      }
      if (width == 256) continue;
      g.add(K::experts_swiglu_fwd, {rows, width, 8, sources});
      g.add(K::experts_swiglu_bwd_input, {rows, width, 8, sources});
      g.add(K::expert_sort, {rows, width, sources, 8});
      g.add(K::expert_unsort, {rows, width, sources, 8});
    }
}

void add_optimizer(Grid& g) {
  for (std::int64_t n = 1 << 14; n <= 1 << 22; n <<= 2) {
    g.add(K::adamw, {n}, kDecay2d);
    for (const std::uint32_t cls : {kTpCut, kWhole})
      for (const bool accumulate : {false, true}) g.add(K::sum_squares, {n}, cls, accumulate);
  }
  g.add(K::grad_add, {1 << 14});
  g.add(K::grad_add, {1 << 18});
  g.add(K::grad_scale, {1 << 14});
  g.add(K::grad_scale, {1 << 18});
  for (std::int64_t n = 1 << 14; n <= 1 << 22; n <<= 4) g.add(K::snapshot, {n});
  g.add(K::snapshot, {8}, kValues);
  Kernel clip;
  clip.kind = K::clip_coef;
  clip.real = 1.0;
  g.out.push_back({calibration_key(clip), false});
  for (const std::uint32_t has :
       {std::uint32_t{kHasNorm}, std::uint32_t{kHasLoss}, std::uint32_t{kHasNorm | kHasLoss},
        std::uint32_t{kHasBalance}, std::uint32_t{kHasBalance | kHasDropped}})
    for (const bool accumulate : {false, true}) g.add(K::metrics_pack, {8}, has, accumulate);
}

// Whether the router decides how many rows the call has.
bool has_run_time_rows(const Plan& plan, const Call& c) {
  if (catalogue(plan.kernel(c.kernel).kind).dims[0] != "rows") return false;
  for (const Range& range : {c.inputs, c.outputs})
    for (const OperandRef& o : plan.operands_of(range))
      if (plan.buffer(o.id).rows_of.valid()) return true;
  return false;
}

}  // namespace

std::vector<MeasuredKernel> kernels_of(const Plan& plan) {
  std::vector<MeasuredKernel> out;
  for (const Call& c : plan.calls) {
    Kernel k = plan.kernel(c.kernel);
    const bool accumulates = call_accumulates(plan, c);
    out.push_back({calibration_key(k), accumulates});
    if (!has_run_time_rows(plan, c)) continue;
    const std::int64_t balanced = k.dims[0];
    for (const std::int64_t rows : {balanced / 2, 2 * balanced}) {
      k.dims[0] = std::max<std::int64_t>(1, rows);
      out.push_back({calibration_key(k), accumulates});
    }
  }
  sort_unique(out);
  return out;
}

std::vector<MeasuredKernel> kernel_grid() {
  Grid g;
  add_matmuls(g);
  add_attention(g);
  add_ring(g);
  add_rows(g);
  add_llama_rows(g);
  add_experts(g);
  add_optimizer(g);
  sort_unique(g.out);
  return std::move(g.out);
}

std::vector<MeasuredKernel> merged(const std::vector<MeasuredKernel>& a,
                                   const std::vector<MeasuredKernel>& b) {
  std::vector<MeasuredKernel> out = a;
  out.insert(out.end(), b.begin(), b.end());
  sort_unique(out);
  return out;
}

}  // namespace tandem::sim
