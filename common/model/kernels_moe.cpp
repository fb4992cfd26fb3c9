// Operands, costs and rules of the kernels for experts; kernels.h states the conventions.
// Sources: models.md 2.5 (router, balance), 2.7 (FLOPs, bytes), 4.5 (what travels).
#include "common/model/kernels_moe.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace tandem {
namespace {

using K = KernelKind;

std::int64_t scopes_of_route(const Kernel& k) {
  return (k.flags & kScopeMicrobatch) ? 1 : k.dims[0];
}

bool takes_scores(K kind) {
  switch (kind) {
    case K::route_fwd:
    case K::router_scores_fwd:
    case K::route_bwd_input:
    case K::balance_bwd_input:
    case K::combine_fwd:
    case K::combine_bwd_input:
    case K::label_rows_fwd:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string_view broken_moe_rule(const Kernel& k) {
  const auto& d = k.dims;
  const auto one_of = [&](std::uint32_t flags) { return std::popcount(k.flags & flags) == 1; };
  if (takes_scores(k.kind) && !one_of(kSoftmax | kSigmoid)) return "either softmax or sigmoid";
  switch (k.kind) {
    case K::route_fwd:
      if (!one_of(kScopeSequence | kScopeMicrobatch)) return "one scope";
      if (d[4] < 1 || d[2] % d[4] != 0) return "experts is a multiple of groups";
      if (d[5] > d[4]) return "groups_kept is at most groups";
      if (d[3] > d[5] * (d[2] / d[4])) return "top_k is at most the experts of the groups kept";
      if (d[7] > 0 && d[1] % d[7] != 0) return "seq is a multiple of slices";
      // Tokens of one expert are counted in 32 bits; the factors are below 2^47 each.
      if (d[0] > std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(1, d[1]))
        return "batch * seq is below 2^31";
      return {};
    case K::balance_fwd:
    case K::balance_bwd_input:
      if (d[4] < 1 || d[1] % d[4] != 0) return "experts is a multiple of groups";
      if (k.kind == K::balance_bwd_input && (d[0] < 1 || d[6] % d[0] != 0))
        return "rows is a multiple of scopes";
      return {};
    case K::dispatch_fwd:
    case K::dispatch_bwd_input:
    case K::combine_fwd:
    case K::combine_bwd_input:
      return d[3] > d[2] ? "top_k is at most experts" : std::string_view{};
    case K::label_rows_fwd:
      if (d[2] > d[1]) return "top_k is at most experts";
      if (d[1] % d[3] != 0) return "experts is a multiple of members";
      // Assignments are counted in 32 bits.
      if (d[0] > std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(1, d[2]))
        return "tokens * top_k is below 2^31";
      return {};
    default:
      return {};
  }
}

Signature moe_signature(const Kernel& k, PlanTypes t) {
  const auto& d = k.dims;
  const DType w = t.compute, s = t.statistic(), m = t.main;
  constexpr DType i32 = DType::i32, i64 = DType::i64, f64 = DType::f64;
  Signature sig;
  switch (k.kind) {
    case K::router_fwd:
      sig.inputs = {{"x", {d[0], d[1]}, w}, {"weight", {d[2], d[1]}, w}};
      sig.outputs = {{"logits", {d[0], d[2]}, s}};
      break;
    case K::router_bwd_input:
      sig.inputs = {
          {"dlogits", {d[0], d[2]}, s}, {"weight", {d[2], d[1]}, w}, {"dx", {d[0], d[1]}, w}};
      sig.outputs = {{"dx", {d[0], d[1]}, w, false, 2}};
      break;
    case K::router_bwd_weight:
      sig.inputs = {{"dlogits", {d[0], d[2]}, s}, {"x", {d[0], d[1]}, w}};
      sig.outputs = {{"dweight", {d[2], d[1]}, m, true}};
      sig.scratch = {{"product", {d[2], d[1]}, m}};
      break;
    case K::route_fwd: {
      const Shape scores{d[1], d[0], d[2]};
      sig.inputs = {{"logits", scores, s}};
      if (k.flags & kSigmoid) sig.inputs.push_back({"bias", {d[2]}, s});
      sig.outputs = {
          {"scores", scores, s, false, 0}, {"choice", {d[1], d[0], d[3]}, i64},
          {"counts", {d[2]}, i32},         {"aux", {2, scopes_of_route(k), d[2]}, s, true},
          {"choices", {d[2]}, i32, true},  {"dropped", {1}, f64, true}};
      break;
    }
    case K::router_scores_fwd:
      sig.inputs = {{"logits", {d[0], d[1]}, s}};
      sig.outputs = {{"scores", {d[0], d[1]}, s, false, 0}};
      break;
    case K::balance_fwd:
      sig.inputs = {{"aux", {2, d[0], d[1]}, s}};
      sig.outputs = {{"loss", {1}, f64, true}};
      break;
    case K::balance_bwd_input:
      sig.inputs = {
          {"aux", {2, d[0], d[1]}, s}, {"scores", {d[6], d[1]}, s}, {"dscores", {d[6], d[1]}, s}};
      sig.outputs = {{"dscores", {d[6], d[1]}, s, false, 2}};
      break;
    case K::route_bwd_input:
      sig.inputs = {{"dscores", {d[0], d[1]}, s}, {"scores", {d[0], d[1]}, s}};
      sig.outputs = {{"dlogits", {d[0], d[1]}, s, false, 0}};
      break;
    case K::dispatch_fwd:
      sig.inputs = {{"x", {d[0], d[1]}, w}, {"choice", {d[0], d[3]}, i64}};
      sig.outputs = {{"rows", {d[0] * d[3], d[1]}, w}};
      break;
    case K::dispatch_bwd_input:
      sig.inputs = {{"drows", {d[0] * d[3], d[1]}, w}, {"choice", {d[0], d[3]}, i64}};
      sig.outputs = {{"dx", {d[0], d[1]}, w}};
      break;
    case K::combine_fwd:
      sig.inputs = {{"rows", {d[0] * d[3], d[1]}, w},
                    {"scores", {d[0], d[2]}, s},
                    {"choice", {d[0], d[3]}, i64}};
      sig.outputs = {{"y", {d[0], d[1]}, w}};
      break;
    case K::combine_bwd_input:
      sig.inputs = {{"dy", {d[0], d[1]}, w},
                    {"rows", {d[0] * d[3], d[1]}, w},
                    {"scores", {d[0], d[2]}, s},
                    {"choice", {d[0], d[3]}, i64}};
      sig.outputs = {{"drows", {d[0] * d[3], d[1]}, w}, {"dscores", {d[0], d[2]}, s}};
      break;
    case K::expert_sort:
    case K::expert_unsort:
      sig.inputs = {{"rows", {d[0], d[1]}, w}, {"counts", {d[2], d[3]}, i32}};
      sig.outputs = {{"rows", {d[0], d[1]}, w}};
      break;
    case K::experts_linear_fwd:
      sig.inputs = {
          {"x", {d[0], d[1]}, w}, {"weight", {d[3], d[2], d[1]}, w}, {"counts", {d[4], d[3]}, i32}};
      sig.outputs = {{"y", {d[0], d[2]}, w}};
      break;
    case K::experts_linear_bwd_input:
      sig.inputs = {{"dy", {d[0], d[2]}, w},
                    {"weight", {d[3], d[2], d[1]}, w},
                    {"counts", {d[4], d[3]}, i32}};
      sig.outputs = {{"dx", {d[0], d[1]}, w}};
      break;
    case K::experts_linear_bwd_weight:
      sig.inputs = {{"dy", {d[0], d[2]}, w}, {"x", {d[0], d[1]}, w}, {"counts", {d[4], d[3]}, i32}};
      sig.outputs = {{"dweight", {d[3], d[2], d[1]}, m, true}};
      sig.scratch = {{"product", {d[2], d[1]}, m}};  // of one expert
      break;
    case K::experts_swiglu_fwd:
      sig.inputs = {{"gate_up", {d[0], 2 * d[1]}, w}, {"counts", {d[3], d[2]}, i32}};
      sig.outputs = {{"y", {d[0], d[1]}, w}};
      break;
    case K::experts_swiglu_bwd_input:
      sig.inputs = {
          {"dy", {d[0], d[1]}, w}, {"gate_up", {d[0], 2 * d[1]}, w}, {"counts", {d[3], d[2]}, i32}};
      sig.outputs = {{"dgate_up", {d[0], 2 * d[1]}, w}};
      break;
    case K::label_rows_fwd: {
      const Shape rows{d[0] * d[2]};
      sig.inputs = {{"choice", {d[0], d[2]}, i64}, {"scores", {d[0], d[1]}, s}};
      sig.outputs = {{"token", rows, i64}, {"slot", rows, i64},     {"expert", rows, i64},
                     {"weight", rows, w},  {"counts", {d[3]}, i64}, {"tokens", {1}, i32},
                     {"dropped", {2}, i32}};
      break;
    }
    case K::narrow_counts:
      sig.inputs = {{"counts", {d[0]}, i64}};
      sig.outputs = {{"counts", {d[0]}, i32}};
      break;
    case K::count_rows:
      sig.inputs = {{"expert", {d[0]}, i64}, {"counts", {d[1]}, i64}};
      sig.outputs = {{"counts", {d[1], d[2]}, i32}};
      break;
    case K::router_bias_update:
      sig.inputs = {{"choices", {d[0]}, i32}, {"bias", {d[0]}, s}};
      sig.outputs = {{"bias", {d[0]}, s, false, 1}};
      break;
    default:
      break;  // those of kernels.cpp
  }
  return sig;
}

KernelCost moe_cost(const Kernel& k, PlanTypes t, bool accumulates) {
  const auto dim = [&](std::size_t i) { return static_cast<double>(k.dims[i]); };
  const double a = dim(0), b = dim(1), c = dim(2), e = dim(3);
  const double w = size_of(t.compute), s = size_of(t.statistic()), m = size_of(t.main);
  const double index = size_of(DType::i64), count = size_of(DType::i32);
  const double add = accumulates ? 1 : 0;
  switch (k.kind) {
    case K::router_fwd:
      return {2 * a * b * c, w * (a * b + b * c) + s * a * c};
    case K::router_bwd_input:  // dx is read and written
      return {2 * a * b * c, w * (2 * a * b + b * c) + s * a * c};
    case K::router_bwd_weight:  // accumulating: scratch written, read; gradient read, written
      return {2 * a * b * c, w * a * b + s * a * c + m * b * c * (1 + 3 * add)};
    case K::route_fwd:  // logits read, scores and the choice written
      return {0, 2 * a * b * c * s + a * b * e * index};
    case K::router_scores_fwd:
    case K::balance_fwd:
      return {0, 2 * a * b * s};
    case K::balance_bwd_input:  // scores and dscores read, dscores written
      return {0, 3 * dim(6) * b * s + 2 * a * b * s};
    case K::route_bwd_input:
      return {0, 3 * a * b * s};
    case K::dispatch_fwd:
    case K::dispatch_bwd_input:  // the tokens once, their rows once
      return {0, (e + 1) * a * b * w + a * e * index};
    case K::combine_fwd:
      return {0, (e + 1) * a * b * w};
    case K::combine_bwd_input:
      return {0, (2 * e + 1) * a * b * w};
    case K::expert_sort:
    case K::expert_unsort:
      return {0, 2 * a * b * w + c * e * count};
    case K::experts_linear_fwd:
    case K::experts_linear_bwd_input:
      return {2 * a * b * c, w * (a * b + e * b * c + a * c)};
    case K::experts_linear_bwd_weight:
      return {2 * a * b * c, w * (a * b + a * c) + m * e * b * c * (1 + 3 * add)};
    case K::experts_swiglu_fwd:
      return {0, 3 * a * b * w};
    case K::experts_swiglu_bwd_input:
      return {0, 5 * a * b * w};
    case K::label_rows_fwd:  // each slot and its score; token, slot, expert and weight of a row
      return {0, a * c * (index + s) + a * c * (3 * index + w) + e * index};
    case K::narrow_counts:
      return {0, a * (index + count)};
    case K::count_rows:
      return {0, a * index + b * index + b * c * count};
    case K::router_bias_update:
      return {0, a * (count + 2 * s)};
    default:
      return {};  // those of kernels.cpp
  }
}

// What exec/kernels carves from one block (workspace.h); all entries are 8 bytes, of a
// candidate 16.
Bytes moe_hidden_scratch(const Kernel& k) {
  const auto& d = k.dims;
  switch (k.kind) {
    case K::route_fwd: {
      // Of one scope: choices and sums of prob by expert. Scores and order of the groups.
      Bytes bytes = 8 * 2 * d[2];
      if (d[5] < d[4]) bytes += 8 * (d[4] + d[5]) + 8 * d[4];
      // Of one slice: where each expert's candidates begin, and the candidates.
      if (d[6] > 0)
        bytes += 8 * (d[2] + 1) + 16 * (d[1] / std::max<std::int64_t>(1, d[7])) * d[0] * d[3];
      return bytes;
    }
    case K::balance_bwd_input:  // d loss / d prob by group
      return 8 * d[4];
    case K::dispatch_fwd:
    case K::dispatch_bwd_input:
    case K::combine_fwd:
    case K::combine_bwd_input:  // where the next row of each expert lies
      return 8 * d[2];
    case K::label_rows_fwd:
      return 8 * d[1];
    case K::expert_sort:
    case K::expert_unsort:  // the same of each source
      return 8 * d[2];
    default:
      return 0;
  }
}

}  // namespace tandem
