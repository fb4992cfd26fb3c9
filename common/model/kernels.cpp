// The catalogue's table, operand signatures and costs; kernels.h states the conventions.
#include "common/model/kernels.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/check.h"
#include "common/base/text.h"
#include "common/model/kernels_mla.h"
#include "common/model/kernels_moe.h"
#include "common/model/kernels_ring.h"

namespace tandem {
namespace {

using K = KernelKind;
using C = CostClass;

constexpr std::uint32_t kAttentionFlags = kCausal | kFlash | kMaterialised;
constexpr std::uint32_t kGeluFlags = kErf | kTanh;
constexpr std::uint32_t kDecayFlags = kDecay2d | kDecayAll | kDecayNone;

constexpr std::array<std::string_view, kNumDims> kHeads = {"batch",    "heads",    "seq",
                                                           "head_dim", "kv_heads", "first"};

constexpr std::uint32_t kScores = kSoftmax | kSigmoid;
constexpr std::uint32_t kScopes = kScopeSequence | kScopeMicrobatch;
constexpr std::uint32_t kMetrics = kHasNorm | kHasLoss | kHasBalance | kHasDropped | kPositions;
constexpr std::array<std::string_view, kNumDims> kRouter = {"tokens", "in", "experts"};
constexpr std::array<std::string_view, kNumDims> kRoute = {
    "batch", "seq", "experts", "top_k", "groups", "groups_kept", "capacity", "slices"};
constexpr std::array<std::string_view, kNumDims> kBalance = {"scopes", "experts", "tokens",
                                                             "top_k",  "groups",  "divisor"};
constexpr std::array<std::string_view, kNumDims> kBalanceRows = {
    "scopes", "experts", "tokens", "top_k", "groups", "divisor", "rows"};
constexpr std::array<std::string_view, kNumDims> kAssignments = {"tokens", "width", "experts",
                                                                 "top_k"};
constexpr std::array<std::string_view, kNumDims> kSort = {"rows", "width", "sources", "experts"};
constexpr std::array<std::string_view, kNumDims> kExperts = {"rows", "in", "out", "experts",
                                                             "sources"};
constexpr std::array<std::string_view, kNumDims> kExpertRows = {"rows", "width", "experts",
                                                                "sources"};
constexpr std::array<std::string_view, kNumDims> kAttention = {"batch",    "heads",    "seq",
                                                               "head_dim", "kv_heads", "v_dim"};
constexpr std::array<std::string_view, kNumDims> kBlock = {"batch",    "heads", "seq", "head_dim",
                                                           "kv_heads", "v_dim", "step"};
constexpr std::uint32_t kCutRows = kPositions | kVocab;
constexpr std::array<std::string_view, kNumDims> kLatents = {"tokens", "q_rank", "kv_rank",
                                                             "rope_dim"};
constexpr std::array<std::string_view, kNumDims> kMla = {"batch",    "heads", "seq",  "nope_dim",
                                                         "rope_dim", "v_dim", "first"};
constexpr std::array<std::string_view, kNumDims> kLearned = {"seq", "batch", "width", "first"};
constexpr std::uint32_t kBlockFlags = kSlices | kFused;

constexpr std::array<CatalogueEntry, kNumKernelKinds> kCatalogue = {{
    {K::embed_fwd, "embed_fwd", C::embedding, {"tokens", "rows", "width"}, kCutRows, ""},
    {K::pos_add_fwd, "pos_add_fwd", C::elementwise, kLearned, kPositions, "", 1},
    {K::layernorm_fwd, "layernorm_fwd", C::norm, {"tokens", "width"}, 0, "eps"},
    {K::rmsnorm_fwd, "rmsnorm_fwd", C::norm, {"tokens", "width"}, 0, "eps"},
    {K::linear_fwd, "linear_fwd", C::matmul, {"tokens", "in", "out"}, kBias, ""},
    {K::rope_fwd, "rope_fwd", C::elementwise, kHeads, kPositions, "base", 2},
    {K::attention_fwd, "attention_fwd", C::attention, kAttention, kAttentionFlags, "", 2},
    {K::bias_residual_fwd, "bias_residual_fwd", C::elementwise, {"tokens", "width"}, 0, ""},
    {K::residual_fwd, "residual_fwd", C::elementwise, {"tokens", "width"}, 0, ""},
    {K::own_rows_fwd, "own_rows_fwd", C::elementwise, {"tokens", "width", "parts"}, 0, ""},
    {K::gelu_fwd, "gelu_fwd", C::elementwise, {"elements"}, kGeluFlags, ""},
    {K::swiglu_fwd, "swiglu_fwd", C::elementwise, {"tokens", "width"}, 0, ""},
    {K::ce_max, "ce_max", C::loss, {"tokens", "classes", "valid"}, 0, ""},
    {K::ce_sum, "ce_sum", C::loss, {"tokens", "classes"}, kCutRows | kLabels, ""},
    {K::ce_grad, "ce_grad", C::loss, {"tokens", "classes", "divisor"}, kCutRows | kLabels, ""},
    {K::linear_bwd_input, "linear_bwd_input", C::matmul, {"tokens", "in", "out"}, 0, ""},
    {K::gelu_bwd_input, "gelu_bwd_input", C::elementwise, {"elements"}, kGeluFlags, ""},
    {K::swiglu_bwd_input, "swiglu_bwd_input", C::elementwise, {"tokens", "width"}, 0, ""},
    {K::layernorm_bwd_input, "layernorm_bwd_input", C::norm, {"tokens", "width"}, 0, ""},
    {K::rmsnorm_bwd_input, "rmsnorm_bwd_input", C::norm, {"tokens", "width"}, 0, ""},
    {K::residual_bwd_input, "residual_bwd_input", C::elementwise, {"tokens", "width"}, 0, ""},
    {K::attention_bwd_input, "attention_bwd_input", C::attention, kAttention, kAttentionFlags, "",
     2},
    {K::rope_bwd_input, "rope_bwd_input", C::elementwise, kHeads, kPositions, "base", 2},
    {K::latent_norm_fwd, "latent_norm_fwd", C::norm, kLatents, 0, "eps"},
    {K::latent_split_fwd, "latent_split_fwd", C::elementwise, kLatents, 0, ""},
    {K::mla_qkv_fwd, "mla_qkv_fwd", C::elementwise, kMla, kPositions, "base", 1},
    {K::latent_norm_bwd_input, "latent_norm_bwd_input", C::norm, kLatents, 0, ""},
    {K::latent_merge_bwd_input, "latent_merge_bwd_input", C::elementwise, kLatents, 0, ""},
    {K::mla_qkv_bwd_input, "mla_qkv_bwd_input", C::elementwise, kMla, kPositions, "base", 1},
    {K::kv_pack, "kv_pack", C::elementwise, kAttention, 0, "", 2},
    {K::attention_block_fwd, "attention_block_fwd", C::attention, kBlock, kBlockFlags, "", 3},
    {K::attention_block_bwd_input, "attention_block_bwd_input", C::attention, kBlock, kBlockFlags,
     "", 3},
    {K::kv_unpack, "kv_unpack", C::elementwise, kAttention, 0, "", 2},
    {K::linear_bwd_weight, "linear_bwd_weight", C::matmul, {"tokens", "in", "out"}, kBias, ""},
    {K::bias_residual_bwd_weight,
     "bias_residual_bwd_weight",
     C::elementwise,
     {"tokens", "width"},
     0,
     ""},
    {K::embed_bwd_weight,
     "embed_bwd_weight",
     C::embedding,
     {"tokens", "rows", "width"},
     kCutRows,
     ""},
    {K::pos_add_bwd_weight, "pos_add_bwd_weight", C::elementwise, kLearned, kPositions, "", 1},
    {K::grad_add, "grad_add", C::elementwise, {"elements"}, 0, ""},
    {K::grad_scale, "grad_scale", C::elementwise, {"elements"}, 0, "factor"},
    {K::snapshot, "snapshot", C::elementwise, {"elements"}, kValues, ""},
    {K::sum_squares, "sum_squares", C::reduction, {"elements"}, kTpCut | kWhole, ""},
    {K::clip_coef, "clip_coef", C::reduction, {}, 0, "max_norm"},
    {K::adamw, "adamw", C::optimizer, {"elements"}, kDecayFlags | kCast, ""},
    {K::metrics_pack, "metrics_pack", C::reduction, {"values"}, kMetrics, ""},
    {K::router_fwd, "router_fwd", C::matmul, kRouter, 0, ""},
    {K::router_bwd_input, "router_bwd_input", C::matmul, kRouter, 0, ""},
    {K::router_bwd_weight, "router_bwd_weight", C::matmul, kRouter, 0, ""},
    {K::route_fwd, "route_fwd", C::elementwise, kRoute, kScores | kScopes | kGroupMax, "", 2},
    {K::router_scores_fwd, "router_scores_fwd", C::elementwise, {"tokens", "experts"}, kScores, ""},
    {K::balance_fwd, "balance_fwd", C::loss, kBalance, 0, "alpha"},
    {K::balance_bwd_input, "balance_bwd_input", C::loss, kBalanceRows, kScores, "alpha"},
    {K::route_bwd_input, "route_bwd_input", C::elementwise, {"tokens", "experts"}, kScores, ""},
    {K::dispatch_fwd, "dispatch_fwd", C::elementwise, kAssignments, 0, ""},
    {K::dispatch_bwd_input, "dispatch_bwd_input", C::elementwise, kAssignments, 0, ""},
    {K::combine_fwd, "combine_fwd", C::elementwise, kAssignments, kScores, "scale"},
    {K::combine_bwd_input, "combine_bwd_input", C::elementwise, kAssignments, kScores, "scale"},
    {K::expert_sort, "expert_sort", C::elementwise, kSort, 0, ""},
    {K::expert_unsort, "expert_unsort", C::elementwise, kSort, 0, ""},
    {K::experts_linear_fwd, "experts_linear_fwd", C::matmul, kExperts, 0, ""},
    {K::experts_linear_bwd_input, "experts_linear_bwd_input", C::matmul, kExperts, 0, ""},
    {K::experts_linear_bwd_weight, "experts_linear_bwd_weight", C::matmul, kExperts, 0, ""},
    {K::experts_swiglu_fwd, "experts_swiglu_fwd", C::elementwise, kExpertRows, 0, ""},
    {K::experts_swiglu_bwd_input, "experts_swiglu_bwd_input", C::elementwise, kExpertRows, 0, ""},
    {K::label_rows_fwd,
     "label_rows_fwd",
     C::elementwise,
     {"tokens", "experts", "top_k", "members"},
     kScores,
     "scale"},
    {K::narrow_counts, "narrow_counts", C::elementwise, {"members"}, 0, ""},
    {K::count_rows, "count_rows", C::elementwise, {"rows", "members", "experts"}, 0, ""},
    {K::router_bias_update, "router_bias_update", C::optimizer, {"experts"}, 0, "rate"},
}};

constexpr std::array<std::string_view, kNumCostClasses> kCostClasses = {
    "matmul", "attention", "norm", "elementwise", "embedding", "loss", "optimizer", "reduction"};

constexpr std::array<std::string_view, 27> kFlagWords = {"bias",
                                                         "causal",
                                                         "flash",
                                                         "materialised",
                                                         "erf",
                                                         "tanh",
                                                         "class=tp_cut",
                                                         "class=whole",
                                                         "decay=2d",
                                                         "decay=all",
                                                         "decay=none",
                                                         "has=norm",
                                                         "has=ce",
                                                         "cast",
                                                         "softmax",
                                                         "sigmoid",
                                                         "scope=sequence",
                                                         "scope=microbatch",
                                                         "has=balance",
                                                         "has=dropped",
                                                         "positions",
                                                         "vocab",
                                                         "group=max",
                                                         "labels",
                                                         "slices",
                                                         "fused",
                                                         "values"};

// "tp,dp"
std::string axes_text(AxisSet set) {
  std::string out;
  for (int i = 0; i < kNumAxes; ++i) {
    const auto axis = static_cast<Axis>(i);
    if (!set.has(axis)) continue;
    if (!out.empty()) out += ',';
    out += name_of(axis);
  }
  return out;
}

std::optional<AxisSet> axes_from(std::string_view text) {
  AxisSet set;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const auto axis = axis_from(text.substr(0, comma));
    if (!axis) return std::nullopt;
    set.add(*axis);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return set;
}

std::optional<std::int64_t> integer(std::string_view text) {
  std::int64_t v = 0;
  if (text.empty() || text.size() > 18) return std::nullopt;
  for (char ch : text) {
    if (ch < '0' || ch > '9') return std::nullopt;
    v = v * 10 + (ch - '0');
  }
  return v;
}

bool has_kv_heads(const Kernel& k) { return catalogue(k.kind).dims[kKvHeads] == "kv_heads"; }
bool is_attention(const Kernel& k) { return catalogue(k.kind).cost_class == C::attention; }
bool has_v_dim(const Kernel& k) { return is_attention(k) || is_ring(k.kind); }

// A dimension that is not printed: an optional one that is 0 or says what holds without it.
bool left_out(const Kernel& k, std::size_t dim) {
  if (dim == kKvHeads && has_kv_heads(k)) return kv_heads_of(k) == k.dims[1];
  if (dim == kVDim && has_v_dim(k)) return v_dim_of(k) == k.dims[3];
  return k.dims[dim] == 0 && is_optional(catalogue(k.kind), dim);
}

// Elements of one of the parts of qkv that belong to `heads` heads, as wide as q.
std::int64_t elements_of(const Kernel& k, std::int64_t heads) {
  return k.dims[0] * heads * k.dims[2] * k.dims[3];
}

// Causal pairs of one sequence, or all pairs where the kernel executes all (models.md Q2).
double attention_pairs(const Kernel& k) {
  const double s = static_cast<double>(k.dims[2]);
  return (k.flags & kMaterialised) ? s * s : s * (s + 1) / 2;
}

}  // namespace

const CatalogueEntry& catalogue(KernelKind kind) {
  const CatalogueEntry& e = kCatalogue[static_cast<std::size_t>(kind)];
  TANDEM_CHECK(e.kind == kind, "catalogue row {} holds {}", static_cast<int>(kind), e.name);
  return e;
}

bool is_optional(const CatalogueEntry& e, std::size_t dim) {
  std::size_t used = 0;
  while (used < e.dims.size() && !e.dims[used].empty()) ++used;
  return dim < used && dim + e.num_optional >= used;
}

std::int64_t least_of(const CatalogueEntry& e, std::size_t dim) {
  const bool part = is_mla(e.kind) && (e.dims[dim] == "q_rank" || e.dims[dim] == "rope_dim");
  return part || is_optional(e, dim) ? 0 : 1;
}

std::optional<KernelKind> kernel_from(std::string_view name) {
  for (const CatalogueEntry& e : kCatalogue)
    if (e.name == name) return e.kind;
  return std::nullopt;
}

std::string_view name_of(CostClass c) { return kCostClasses[static_cast<std::size_t>(c)]; }

std::string_view flag_word(std::uint32_t one_flag) {
  for (std::size_t i = 0; i < kFlagWords.size(); ++i)
    if (one_flag == (1u << i)) return kFlagWords[i];
  return "?";
}

std::string to_text(const Kernel& k) {
  const CatalogueEntry& e = catalogue(k.kind);
  std::string out(e.name);
  for (std::size_t i = 0; i < e.dims.size(); ++i)
    if (!e.dims[i].empty() && !left_out(k, i)) out += fmt::format(" {}={}", e.dims[i], k.dims[i]);
  for (std::size_t i = 0; i < kFlagWords.size(); ++i)
    if (k.flags & (1u << i)) out += fmt::format(" {}", kFlagWords[i]);
  if (k.real) out += fmt::format(" {}={}", e.real, *k.real);  // shortest round-trip form
  if (!k.coords.empty()) out += fmt::format(" coords={}", axes_text(k.coords));
  if (!k.owner.empty()) out += fmt::format(" owner={}", axes_text(k.owner));
  return out;
}

std::optional<Kernel> kernel_from_text(std::span<const std::string_view> words) {
  if (words.empty()) return std::nullopt;
  const auto kind = kernel_from(words[0]);
  if (!kind) return std::nullopt;
  const CatalogueEntry& e = catalogue(*kind);
  Kernel k;
  k.kind = *kind;
  std::array<bool, kNumDims> seen{};
  for (std::string_view word : words.subspan(1)) {
    bool known = false;
    for (std::size_t i = 0; i < kFlagWords.size() && !known; ++i) {
      if (word != kFlagWords[i] || !(e.flags & (1u << i))) continue;
      k.flags |= 1u << i;
      known = true;
    }
    const std::size_t equal = word.find('=');
    if (known) continue;
    if (equal == std::string_view::npos) return std::nullopt;
    const std::string_view key = word.substr(0, equal), value = word.substr(equal + 1);
    if (key == "coords" || key == "owner") {
      const auto set = axes_from(value);
      if (!set) return std::nullopt;
      (key == "coords" ? k.coords : k.owner) = *set;
      continue;
    }
    if (!e.real.empty() && key == e.real) {
      k.real = parse_double(value);  // finite, without locale
      if (!k.real) return std::nullopt;
      continue;
    }
    for (std::size_t i = 0; i < e.dims.size() && !known; ++i) {
      if (e.dims[i].empty() || key != e.dims[i]) continue;
      const auto v = integer(value);
      if (!v) return std::nullopt;
      k.dims[i] = *v;
      seen[i] = known = true;
    }
    if (!known) return std::nullopt;
  }
  for (std::size_t i = 0; i < e.dims.size(); ++i) {
    const bool optional = is_optional(e, i);
    if (!e.dims[i].empty() && !seen[i] && !optional) return std::nullopt;
    if (seen[i] && optional && k.dims[i] == 0) return std::nullopt;  // one text for one kernel
    if (optional && left_out(k, i)) k.dims[i] = 0;
  }
  return k;
}

std::string_view broken_rule(const Kernel& k) {
  if (k.kind >= kFirstMoeKernel) return broken_moe_rule(k);
  if (is_mla(k.kind)) return broken_mla_rule(k);
  if (has_kv_heads(k) && (kv_heads_of(k) < 1 || k.dims[1] % kv_heads_of(k) != 0))
    return "heads is a multiple of kv_heads";
  if ((k.kind == K::rope_fwd || k.kind == K::rope_bwd_input) && k.dims[3] % 2 != 0)
    return "head_dim is even";
  // Flash wants v as wide as q and k; a narrower one is padded.
  if (is_attention(k) && (k.flags & kMaterialised) == 0 && v_dim_of(k) > k.dims[3])
    return "v_dim is at most head_dim with flash";
  return is_ring(k.kind) ? broken_ring_rule(k) : std::string_view{};
}

Signature signature(const Kernel& k, PlanTypes t) {
  if (k.kind >= kFirstMoeKernel) return moe_signature(k, t);
  if (is_mla(k.kind)) return mla_signature(k, t);
  if (is_ring(k.kind)) return ring_signature(k, t);
  const auto& d = k.dims;
  const DType w = t.compute, s = t.statistic(), m = t.main;
  const Shape any_batch{};  // rank 0: i64[b, S+1] with b * S = tokens
  // Norm weights and biases are never kept below fp32 (models.md 2.1).
  const DType norm_w = s;
  const bool flash = (k.flags & kMaterialised) == 0;
  const Shape rows{d[0], d[1]};
  const std::int64_t kv = kv_heads_of(k), dv = v_dim_of(k);
  const Shape qkv{d[2], d[0], (d[1] + 2 * kv) * d[3]};  // of rope
  const Shape parts{d[2], d[0], (d[1] + kv) * d[3] + kv * dv}, out{d[2], d[0], d[1] * dv};
  Signature sig;
  switch (k.kind) {
    case K::embed_fwd:
      sig.inputs = {{"batch", any_batch, DType::i64}, {"weight", {d[1], d[2]}, w}};
      sig.outputs = {{"x", {d[0], d[2]}, w}};
      break;
    case K::pos_add_fwd:
      sig.inputs = {{"x", {d[0], d[1], d[2]}, w}, {"pos", {d[0], d[2]}, w}};
      sig.outputs = {{"y", {d[0], d[1], d[2]}, w}};
      break;
    case K::layernorm_fwd:
      sig.inputs = {{"x", rows, w}, {"weight", {d[1]}, norm_w}, {"bias", {d[1]}, norm_w}};
      sig.outputs = {{"y", rows, w}, {"stat", {2, d[0]}, s}};
      break;
    case K::rmsnorm_fwd:
      sig.inputs = {{"x", rows, w}, {"weight", {d[1]}, norm_w}};
      sig.outputs = {{"y", rows, w}, {"stat", {d[0]}, s}};
      break;
    case K::rope_fwd:
      sig.inputs = {{"qkv", qkv, w}};
      sig.outputs = {{"qkv", qkv, w, false, 0}};
      break;
    case K::rope_bwd_input:
      sig.inputs = {{"dqkv", qkv, w}};
      sig.outputs = {{"dqkv", qkv, w, false, 0}};
      break;
    case K::linear_fwd:
      sig.inputs = {{"x", {d[0], d[1]}, w}, {"weight", {d[2], d[1]}, w}};
      if (k.flags & kBias) sig.inputs.push_back({"bias", {d[2]}, w});
      sig.outputs = {{"y", {d[0], d[2]}, w}};
      break;
    case K::attention_fwd:
      sig.inputs = {{"qkv", parts, w}};
      sig.outputs = {{"out", out, w}};
      if (flash)
        sig.outputs.push_back({"lse", {d[0], d[1], d[2]}, s});
      else
        sig.outputs.push_back({"probs", {d[0], d[1], d[2], d[2]}, w});
      break;
    case K::bias_residual_fwd:
      sig.inputs = {{"x", rows, w}, {"bias", {d[1]}, w}, {"residual", rows, w}};
      sig.outputs = {{"y", rows, w}};
      break;
    case K::residual_fwd:
      sig.inputs = {{"x", rows, w}, {"residual", rows, w}};
      sig.outputs = {{"y", rows, w}};
      break;
    case K::own_rows_fwd:
      sig.inputs = {{"x", {d[2] * d[0], d[1]}, w}};
      sig.outputs = {{"y", rows, w}};
      break;
    case K::swiglu_fwd:
      sig.inputs = {{"gate_up", {d[0], 2 * d[1]}, w}};
      sig.outputs = {{"y", rows, w}};
      break;
    case K::swiglu_bwd_input:
      sig.inputs = {{"dy", rows, w}, {"gate_up", {d[0], 2 * d[1]}, w}};
      sig.outputs = {{"dgate_up", {d[0], 2 * d[1]}, w}};
      break;
    case K::rmsnorm_bwd_input:
      sig.inputs = {
          {"dy", rows, w}, {"x", rows, w}, {"stat", {d[0]}, s}, {"weight", {d[1]}, norm_w}};
      sig.outputs = {{"dx", rows, w, false, 0}, {"dweight", {d[1]}, m, true}};
      break;
    case K::gelu_fwd:
      sig.inputs = {{"x", {d[0]}, w}};
      sig.outputs = {{"y", {d[0]}, w}};
      break;
    case K::ce_max:
      sig.inputs = {{"logits", rows, w}};
      sig.outputs = {{"max", {d[0]}, s}};
      break;
    case K::ce_sum:
      sig.inputs = {{"logits", rows, w}, {"max", {d[0]}, s}, {"batch", any_batch, DType::i64}};
      sig.outputs = {{"sums", {2, d[0]}, s}};
      break;
    case K::ce_grad:
      sig.inputs = {{"logits", rows, w},
                    {"max", {d[0]}, s},
                    {"sums", {2, d[0]}, s},
                    {"batch", any_batch, DType::i64}};
      sig.outputs = {{"dlogits", rows, w, false, 0}, {"loss", {1}, DType::f64, true}};
      break;
    case K::linear_bwd_input:
      sig.inputs = {{"dy", {d[0], d[2]}, w}, {"weight", {d[2], d[1]}, w}};
      sig.outputs = {{"dx", {d[0], d[1]}, w}};
      break;
    case K::gelu_bwd_input:
      sig.inputs = {{"dy", {d[0]}, w}, {"x", {d[0]}, w}};
      sig.outputs = {{"dx", {d[0]}, w, false, 0}};
      break;
    case K::layernorm_bwd_input:
      sig.inputs = {
          {"dy", rows, w}, {"x", rows, w}, {"stat", {2, d[0]}, s}, {"weight", {d[1]}, norm_w}};
      sig.outputs = {
          {"dx", rows, w, false, 0}, {"dweight", {d[1]}, m, true}, {"dbias", {d[1]}, m, true}};
      break;
    case K::residual_bwd_input:
      sig.inputs = {{"dx", rows, w}, {"dres", rows, w}};
      sig.outputs = {{"dx", rows, w, false, 0}};
      break;
    case K::attention_bwd_input:
      sig.inputs = {{"dout", out, w}, {"qkv", parts, w}};
      if (flash)
        sig.inputs.push_back({"lse", {d[0], d[1], d[2]}, s});
      else
        sig.inputs.push_back({"probs", {d[0], d[1], d[2], d[2]}, w});
      sig.inputs.push_back({"out", out, w});
      sig.outputs = {{"dqkv", parts, w}};
      break;
    case K::linear_bwd_weight:
      sig.inputs = {{"dy", {d[0], d[2]}, w}, {"x", {d[0], d[1]}, w}};
      sig.outputs = {{"dweight", {d[2], d[1]}, m, true}};
      if (k.flags & kBias) sig.outputs.push_back({"dbias", {d[2]}, m, true});
      sig.scratch = {{"product", {d[2], d[1]}, m}};
      break;
    case K::bias_residual_bwd_weight:
      sig.inputs = {{"dy", rows, w}};
      sig.outputs = {{"dbias", {d[1]}, m, true}};
      break;
    case K::embed_bwd_weight:
      sig.inputs = {{"dy", {d[0], d[2]}, w}, {"batch", any_batch, DType::i64}};
      sig.outputs = {{"dweight", {d[1], d[2]}, m, true}};
      break;
    case K::pos_add_bwd_weight:
      sig.inputs = {{"dy", {d[0], d[1], d[2]}, w}};
      sig.outputs = {{"dpos", {d[0], d[2]}, m, true}};
      sig.scratch = {{"sum", {d[0], d[2]}, m}};
      break;
    case K::grad_add:
      sig.inputs = {{"a", {d[0]}, m}, {"b", {d[0]}, m}};
      sig.outputs = {{"a", {d[0]}, m, false, 0}};
      break;
    case K::grad_scale:
      sig.inputs = {{"a", {d[0]}, m}};
      sig.outputs = {{"a", {d[0]}, m, false, 0}};
      break;
    case K::snapshot: {
      const DType type = (k.flags & kValues) ? DType::f64 : m;
      sig.inputs = {{"a", {d[0]}, type}};
      sig.outputs = {{"b", {d[0]}, type}};
      break;
    }
    case K::sum_squares:
      sig.more_inputs = true;
      sig.outputs = {{"sum", {1}, DType::f64, true}};
      break;
    case K::clip_coef:
      sig.inputs = {{"norm_sq", {1}, DType::f64}};
      sig.outputs = {{"coef", {1}, m}};
      break;
    case K::adamw:
      sig.inputs = {{"param", {d[0]}, m},
                    {"grad", {d[0]}, m},
                    {"m", {d[0]}, m},
                    {"v", {d[0]}, m},
                    {"coef", {1}, m}};
      sig.outputs = {
          {"param", {d[0]}, m, false, 0}, {"m", {d[0]}, m, false, 2}, {"v", {d[0]}, m, false, 3}};
      if (k.flags & kCast) sig.outputs.push_back({"cast", {d[0]}, w});
      break;
    case K::metrics_pack:
      if (k.flags & kHasNorm) sig.inputs.push_back({"norm_sq", {1}, DType::f64});
      if (k.flags & kHasLoss) sig.inputs.push_back({"loss", {1}, DType::f64});
      if (k.flags & kHasBalance) sig.inputs.push_back({"balance", {1}, DType::f64});
      if (k.flags & kHasDropped) sig.inputs.push_back({"dropped", {1}, DType::f64});
      sig.outputs = {{"metrics", {d[0]}, DType::f64, true}};
      break;
    default:
      break;  // those of kernels_mla.cpp, kernels_moe.cpp and kernels_ring.cpp
  }
  return sig;
}

KernelCost cost(const Kernel& k, PlanTypes t, bool accumulates) {
  if (k.kind >= kFirstMoeKernel) return moe_cost(k, t, accumulates);
  if (is_mla(k.kind)) return mla_cost(k, t);
  if (is_ring(k.kind)) return ring_cost(k, t);
  const double a = static_cast<double>(k.dims[0]), b = static_cast<double>(k.dims[1]),
               c = static_cast<double>(k.dims[2]), e = static_cast<double>(k.dims[3]);
  const double w = size_of(t.compute), s = size_of(t.statistic()), m = size_of(t.main);
  const double add = accumulates ? 1 : 0, kv = static_cast<double>(kv_heads_of(k)),
               dv = static_cast<double>(v_dim_of(k));
  switch (k.kind) {
    case K::embed_fwd:
      return {0, 2 * a * c * w};
    case K::pos_add_fwd:
      return {0, 2 * a * b * c * w + a * c * w};
    case K::layernorm_fwd:
      return {0, 2 * a * b * w + 2 * a * s};
    case K::linear_fwd:
    case K::linear_bwd_input:
      return {2 * a * b * c, w * (a * b + b * c + a * c)};
    case K::linear_bwd_weight:  // accumulating: scratch written, read; gradient read, written
      return {2 * a * b * c, w * (a * b + a * c) + m * b * c * (1 + 3 * add)};
    // Flash executes v as wide as q and k. Operands: q and k of one width, v and out of the other.
    case K::attention_fwd: {
      const bool flash = (k.flags & kMaterialised) == 0;
      const double core = 2 * a * b * attention_pairs(k) * (flash ? 2 * e : e + dv);
      const double stash = flash ? a * b * c * s : 2 * a * b * c * c * w;
      return {core, (b + kv) * (e + dv) * a * c * w + stash};
    }
    case K::attention_bwd_input: {
      const bool flash = (k.flags & kMaterialised) == 0;
      const double pairs = 2 * a * b * attention_pairs(k), unit = pairs * e;
      const double stash = flash ? a * b * c * s : 4 * a * b * c * c * w;
      return {flash ? unit * 5 : 2 * unit + 2 * pairs * dv,
              2 * (b + kv) * (e + dv) * a * c * w + stash};
    }
    case K::rope_fwd:  // q and k, read and written
    case K::rope_bwd_input:
      return {0, 2 * (b + kv) * a * c * e * w};
    case K::bias_residual_fwd:
    case K::residual_fwd:
    case K::swiglu_fwd:
      return {0, 3 * a * b * w};
    case K::swiglu_bwd_input:
      return {0, 5 * a * b * w};
    case K::own_rows_fwd:
      return {0, 2 * a * b * w};
    case K::rmsnorm_fwd:
      return {0, 2 * a * b * w + a * s};
    case K::rmsnorm_bwd_input:
      return {0, 3 * a * b * w + a * s};
    case K::gelu_fwd:
      return {0, 2 * a * w};
    case K::gelu_bwd_input:
      return {0, 3 * a * w};
    case K::ce_max:
      return {0, a * b * w};
    case K::ce_sum:
      return {0, a * b * w};
    case K::ce_grad:
      return {0, 2 * a * b * w};
    case K::layernorm_bwd_input:
      return {0, 3 * a * b * w + 2 * a * s};
    case K::residual_bwd_input:
      return {0, 3 * a * b * w};
    case K::bias_residual_bwd_weight:
      return {0, a * b * w};
    case K::embed_bwd_weight:
      return {0, a * c * (w + 2 * m) + (1 - add) * b * c * m};
    case K::pos_add_bwd_weight:
      return {0, a * b * c * w + a * c * m * (1 + 3 * add)};
    case K::grad_add:
      return {0, 3 * a * m};
    case K::grad_scale:
      return {0, 2 * a * m};
    case K::snapshot:
      return {0, 2 * a * ((k.flags & kValues) ? 8 : m)};
    case K::sum_squares:
      return {0, a * m};
    case K::clip_coef:
      return {0, 16};
    case K::adamw:
      return {0, a * (7 * m + ((k.flags & kCast) ? w : 0))};
    case K::metrics_pack:
      return {0, a * 8};
    default:
      return {};  // those of kernels_mla.cpp, kernels_moe.cpp and kernels_ring.cpp
  }
}

Bytes hidden_scratch(const Kernel& k, PlanTypes t) {
  if (k.kind >= kFirstMoeKernel) return moe_hidden_scratch(k);
  if (is_ring(k.kind)) return ring_hidden_scratch(k, t);
  const Bytes w = size_of(t.compute), s = size_of(t.statistic());
  const auto& d = k.dims;
  const std::int64_t kv = kv_heads_of(k);
  const bool padded = v_dim_of(k) != d[3];
  const Bytes query_block = std::min<Bytes>(d[2], 256), key_block = std::min<Bytes>(d[2], 512);
  switch (k.kind) {
    // Flash on one thread: LibTorch returns its own results, which are copied into the plan's, and
    // works on blocks of at most 256 queries and 512 keys; as many query heads at a time as there
    // are key/value heads. A narrower v is padded to the width of q, in backward dO and the output
    // too. Materialised: one matrix in backward.
    case K::attention_fwd:
      if (k.flags & kMaterialised) return 0;
      return (padded ? 2 : 1) * elements_of(k, kv) * w + d[0] * kv * d[2] * s +
             query_block * (key_block + 2 + d[3]) * s;
    case K::attention_bwd_input:  // dq, dk, dv and a copy of dO
      if (k.flags & kMaterialised) return d[2] * d[2] * w;
      return (padded ? 7 : 4) * elements_of(k, kv) * w + query_block * (2 * key_block + 1) * s;
    default:
      return 0;
  }
}

}  // namespace tandem
