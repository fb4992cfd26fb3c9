// Timing of kernels: every entry of the catalogue can be measured, operands are laid out as asked,
// and a figure follows the work. Method: small kernels and small budgets; times are only compared
// with each other, and only where they differ by a factor of tens.
#include "exec/calibrate/measure.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "common/base/text.h"
#include "exec/calibrate/operands.h"

namespace tandem::exec {
namespace {

constexpr PlanTypes kF32{DType::f32, DType::f32};

// One small kernel of each kind, and those that accumulate once more.
std::vector<MeasuredKernel> whole_catalogue() {
  std::vector<MeasuredKernel> out;
  for (int i = 0; i < kNumKernelKinds; ++i) {
    Kernel k;
    k.kind = static_cast<KernelKind>(i);
    const CatalogueEntry& e = catalogue(k.kind);
    for (std::size_t d = 0; d < e.dims.size(); ++d)
      if (!e.dims[d].empty()) k.dims[d] = 8;
    if (e.flags & kFlash) k.flags = kCausal | kFlash;
    if (e.flags & kErf) k.flags = kErf;
    if (e.flags & kWhole) k.flags = kWhole;
    if (e.flags & kDecay2d) k.flags = kDecay2d;
    if (e.flags & kHasLoss) k.flags = kHasLoss;
    if (e.flags & kSoftmax) k.flags = kSoftmax;
    if (e.flags & kScopeSequence) k.flags |= kScopeSequence;
    if (e.real == "eps") k.real = 1e-5;
    bool may_accumulate = false;
    for (const Operand& o : signature(k, kF32).outputs) may_accumulate |= o.may_accumulate;
    out.push_back({calibration_key(k), false});
    if (may_accumulate) out.push_back({calibration_key(k), true});
  }
  return out;
}

MeasureRequest request_of(std::vector<MeasuredKernel> kernels) {
  MeasureRequest r;
  r.types = kF32;
  r.budget_s = 0;
  r.footprint = 64 << 10;
  r.kernels = std::move(kernels);
  return r;
}

}  // namespace

TEST_CASE("measure: every kernel of the catalogue, alone and beside others") {
  MeasureRequest request = request_of(whole_catalogue());
  request.busy = {1, 3};
  int calls = 0, all_of_last = 0;
  const auto result = measure_kernels(request, [&](int done, int all) {
    CHECK(done == ++calls);
    all_of_last = all;
  });
  REQUIRE_MESSAGE(result.ok(), to_text(result.error().diagnostics));
  REQUIRE(result->points.size() == 2 * request.kernels.size());
  CHECK(calls == all_of_last);
  CHECK(result->libtorch.starts_with("2."));
  CHECK(result->call_overhead_s > 0);
  CHECK(result->call_overhead_s < 1e-4);
  for (std::size_t i = 0; i < result->points.size(); ++i) {
    const MeasuredPoint& p = result->points[i];
    CAPTURE(p.what.kernel);
    CHECK(p.what == request.kernels[i / 2]);
    CHECK(p.busy == (i % 2 == 0 ? 1 : 3));
    CHECK(p.samples >= 2 * 4 * p.busy);  // of all threads in four rounds
    CHECK(p.cpu_s > 0);
    CHECK(p.wall_s >= 0);
  }
}

// What a plan of deepseek adds: latents, and an attention whose v is narrower than q and k.
TEST_CASE("measure: latent attention without a latent of q, and a narrow v") {
  MeasureRequest request = request_of(
      {{"latent_norm_fwd tokens=8 q_rank=0 kv_rank=8 rope_dim=4 eps=1e-06", false},
       {"latent_norm_bwd_input tokens=8 q_rank=0 kv_rank=8 rope_dim=4", true},
       {"latent_split_fwd tokens=8 q_rank=8 kv_rank=8 rope_dim=0", false},
       {"mla_qkv_fwd batch=2 heads=2 seq=8 nope_dim=8 rope_dim=4 v_dim=8 base=10000", false},
       {"attention_fwd batch=2 heads=2 seq=8 head_dim=12 v_dim=8 causal flash", false},
       {"attention_bwd_input batch=2 heads=2 seq=8 head_dim=12 v_dim=8 causal materialised",
        false}});
  const auto result = measure_kernels(request);
  REQUIRE_MESSAGE(result.ok(), to_text(result.error().diagnostics));
  REQUIRE(result->points.size() == request.kernels.size());
  for (const MeasuredPoint& p : result->points) CHECK(p.cpu_s > 0);
}

// A product of 64 times the FLOPs takes longer, whatever else the machine does: at least 8 times.
TEST_CASE("measure: the figure follows the work") {
  MeasureRequest request = request_of({{"linear_fwd tokens=64 in=64 out=64", false},
                                       {"linear_fwd tokens=256 in=256 out=256", false}});
  request.budget_s = 0.2;
  const auto result = measure_kernels(request);
  REQUIRE(result.ok());
  CHECK(result->points[1].cpu_s > 8 * result->points[0].cpu_s);
  CHECK(result->points[0].samples > 3);
}

// x[8,16], W[4,16] -> y[8,4] in f32: 512 + 256 + 128 bytes, all multiples of 64.
TEST_CASE("measure: sets of operands fill the footprint and do not overlap") {
  const Kernel k = *kernel_from_text(split("linear_fwd tokens=8 in=16 out=4", ' '));
  CHECK(set_bytes(k, kF32) == 896);
  CHECK(num_sets(896, 8960) == 10);
  CHECK(num_sets(896, 8961) == 11);
  CHECK(num_sets(896, 0) == 2);  // never the same operands twice in a row
  CHECK(num_sets(896, Bytes{1} << 40) == 64);
  MeasureSlab slab(896 * 10);
  const KernelContext context;
  const auto sets = make_operand_sets(k, kF32, false, 8960, slab, context);
  REQUIRE(sets.ok());
  REQUIRE(sets->size() == 10);
  std::set<const std::byte*> addresses;
  for (const OperandSet& s : *sets) {
    CHECK(s.hot.data >= slab.data());
    CHECK(s.hot.data < slab.data() + slab.size());
    addresses.insert(s.hot.data);
  }
  CHECK(addresses.size() == 10);
}

// dweight[out,in] and the scratch product count only where the call adds: x 512, dy 128, dW 256.
TEST_CASE("measure: scratch belongs to accumulating calls") {
  const Kernel k = *kernel_from_text(split("linear_bwd_weight tokens=8 in=16 out=4", ' '));
  CHECK(set_bytes(k, kF32) == 896);
  CHECK(scratch_bytes(k, kF32, false) == 0);
  CHECK(scratch_bytes(k, kF32, true) == 256);
}

// 8 tokens with 2 of 4 experts each; 16 rows from 2 sources for 3 experts: 3 or 2 of each.
TEST_CASE("measure: experts are chosen evenly, and as many rows arrive as are declared") {
  MeasureSlab slab(1 << 16);
  const KernelContext context;
  const Kernel dispatch =
      *kernel_from_text(split("dispatch_fwd tokens=8 width=4 experts=4 top_k=2", ' '));
  const auto sent = make_operand_sets(dispatch, kF32, false, 0, slab, context);
  REQUIRE(sent.ok());
  // The slab holds x[8,4], then choice[8,2], each from a multiple of 64 bytes.
  const auto* choice = reinterpret_cast<const std::int64_t*>(slab.data() + 128);
  for (int expert = 0; expert < 4; ++expert) CHECK(std::count(choice, choice + 16, expert) == 4);
  for (int token = 0; token < 8; ++token) CHECK(choice[2 * token] != choice[2 * token + 1]);

  const Kernel sort =
      *kernel_from_text(split("expert_sort rows=16 width=4 sources=2 experts=3", ' '));
  const auto sorted = make_operand_sets(sort, kF32, false, 0, slab, context);
  REQUIRE(sorted.ok());
  const auto* counts = reinterpret_cast<const std::int32_t*>(slab.data() + 256);
  CHECK(std::accumulate(counts, counts + 6, 0) == 16);
  CHECK(*std::max_element(counts, counts + 6) == 3);
  CHECK(*std::min_element(counts, counts + 6) == 2);
  // Integers are never rewritten as if they were activations.
  const Kernel bias = *kernel_from_text(split("router_bias_update experts=8", ' '));
  const auto updates = make_operand_sets(bias, kF32, false, 0, slab, context);
  REQUIRE(updates.ok());
  for (const OperandSet& s : *updates) CHECK(s.hot.data == nullptr);
}

TEST_CASE("measure: bf16, with main copies in fp32") {
  MeasureRequest request = request_of({{"gelu_fwd elements=64 erf", false},
                                       {"linear_bwd_weight tokens=8 in=8 out=8", true},
                                       {"adamw elements=64 decay=all cast", false}});
  request.types = {DType::bf16, DType::f32};
  const auto result = measure_kernels(request);
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : to_text(result.error().diagnostics)));
  CHECK(result->points.size() == 3);
}

TEST_CASE("measure: a precision without kernels is refused") {
  MeasureRequest request = request_of({{"gelu_fwd elements=64 erf", false}});
  request.types = {DType::f16, DType::f32};
  const auto result = measure_kernels(request);
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().diagnostics[0].code == "E-EXEC-035");
}

}  // namespace tandem::exec
