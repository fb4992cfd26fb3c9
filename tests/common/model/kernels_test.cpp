// The catalogue: every entry has operands and a cost, its text is read back as it was, and the
// costs of experts are those of models.md 2.7, by hand.
#include "common/model/kernels.h"

#include <doctest/doctest.h>

#include <string>

#include "common/base/text.h"

namespace tandem {
namespace {

using K = KernelKind;
constexpr PlanTypes kF32{DType::f32, DType::f32}, kBf16{DType::bf16, DType::f32};

// The entry with dimensions 8, 16, 24 ... and all it may carry; rules between dimensions do not
// matter to its text.
Kernel full(KernelKind kind) {
  const CatalogueEntry& e = catalogue(kind);
  Kernel k;
  k.kind = kind;
  for (std::size_t i = 0; i < kNumDims; ++i)
    if (!e.dims[i].empty()) k.dims[i] = 8 * static_cast<std::int64_t>(i + 1);
  k.flags = e.flags;
  if (!e.real.empty()) k.real = 0.1;
  k.coords.add(Axis::tp);
  k.owner.add(Axis::tp).add(Axis::dp);
  return k;
}

std::optional<Kernel> read(const std::string& text) { return kernel_from_text(split(text, ' ')); }

Kernel entry(const std::string& text) {
  const auto k = read(text);
  REQUIRE_MESSAGE(k.has_value(), text);
  CHECK(to_text(*k) == text);
  CHECK(broken_rule(*k) == "");
  return *k;
}

void check_cost(const Kernel& k, double flops, double bytes, bool accumulates = false,
                PlanTypes types = kF32) {
  CAPTURE(to_text(k));
  const KernelCost c = cost(k, types, accumulates);
  CHECK(c.flops == flops);
  CHECK(c.bytes == bytes);
}

std::string rule(const std::string& text) {
  const auto k = read(text);
  REQUIRE_MESSAGE(k.has_value(), text);
  return std::string(broken_rule(*k));
}

}  // namespace

TEST_CASE("catalogue: the text of every entry, with all flags and with each, is read back") {
  for (int i = 0; i < kNumKernelKinds; ++i) {
    const Kernel k = full(static_cast<KernelKind>(i));
    CAPTURE(to_text(k));
    CHECK(read(to_text(k)) == k);
    CHECK(kernel_from(catalogue(k.kind).name) == k.kind);
    for (std::uint32_t flag = 1; flag != 0; flag <<= 1) {
      if (!(k.flags & flag)) continue;
      Kernel one = k;
      one.flags = flag;
      one.real.reset();
      CHECK(read(to_text(one)) == one);
    }
    // Each dimension that is not optional must be there; an optional one is not printed as 0.
    for (std::size_t d = 0; d < kNumDims; ++d) {
      const std::string_view name = catalogue(k.kind).dims[d];
      if (name.empty()) continue;
      Kernel without = k;
      without.dims[d] = 0;
      const std::string word = std::string(" ") + std::string(name) + "=0";
      const std::string text = to_text(without);
      const bool printed = text.find(word) != std::string::npos;
      CHECK(printed == !is_optional(catalogue(k.kind), d));
      if (!printed) CHECK(read(text) == without);
      if (!printed) CHECK_FALSE(read(text + word).has_value());  // one text for one kernel
    }
  }
}

TEST_CASE("catalogue: every entry has operands, bytes and a name of its own") {
  for (int i = 0; i < kNumKernelKinds; ++i) {
    const Kernel k = full(static_cast<KernelKind>(i));
    CAPTURE(to_text(k));
    const Signature s = signature(k, kF32);
    CHECK((!s.inputs.empty() || s.more_inputs));
    CHECK(!s.outputs.empty());
    for (const Operand& o : s.outputs) {
      if (o.in_place_of < 0) continue;
      REQUIRE(o.in_place_of < static_cast<int>(s.inputs.size()));
      const Operand& input = s.inputs[static_cast<std::size_t>(o.in_place_of)];
      CHECK(input.shape == o.shape);
      CHECK(input.dtype == o.dtype);
    }
    CHECK(cost(k, kF32, false).bytes > 0);
    CHECK((cost(k, kF32, false).flops > 0) ==
          (catalogue(k.kind).cost_class == CostClass::matmul ||
           catalogue(k.kind).cost_class == CostClass::attention));
    CHECK(hidden_scratch(k, kF32) >= 0);
  }
}

// n 64, H 32, E 8, K 2: X = 2048 elements, A = 128 rows; two local experts with Fe 16 get 128 rows.
TEST_CASE("catalogue: costs of experts by hand") {
  const double n = 64, h = 32, e = 8, k = 2, rows = 128, f = 16, local = 2;
  const std::string router = " tokens=64 in=32 experts=8";
  const double product = 2 * n * h * e;
  check_cost(entry("router_fwd" + router), product, 4 * (n * h + h * e + n * e));
  check_cost(entry("router_bwd_input" + router), product, 4 * (2 * n * h + h * e + n * e));
  check_cost(entry("router_bwd_weight" + router), product, 4 * (n * h + n * e + h * e));
  check_cost(entry("router_bwd_weight" + router), product, 4 * (n * h + n * e + 4 * h * e), true);
  // bf16: x, W and dx in 2 bytes, logits and gradients of weights in 4.
  check_cost(entry("router_fwd" + router), product, 2 * (n * h + h * e) + 4 * n * e, false, kBf16);
  CHECK(signature(entry("router_fwd" + router), kBf16).outputs[0].dtype == DType::f32);

  check_cost(entry("route_fwd batch=2 seq=32 experts=8 top_k=2 groups=4 groups_kept=2 capacity=5 "
                   "slices=2 sigmoid scope=sequence"),
             0, 2 * n * e * 4 + n * k * 8);
  check_cost(entry("balance_fwd scopes=2 experts=8 tokens=32 top_k=2 groups=4 divisor=16 "
                   "alpha=0.01"),
             0, 2 * 2 * e * 4);
  check_cost(entry("balance_bwd_input scopes=2 experts=8 tokens=32 top_k=2 groups=4 divisor=16 "
                   "rows=64 softmax alpha=0.01"),
             0, 3 * n * e * 4 + 2 * 2 * e * 4);
  check_cost(entry("router_scores_fwd tokens=64 experts=8 softmax"), 0, 2 * n * e * 4);
  check_cost(entry("route_bwd_input tokens=64 experts=8 sigmoid"), 0, 3 * n * e * 4);

  const std::string assigned = " tokens=64 width=32 experts=8 top_k=2";
  check_cost(entry("dispatch_fwd" + assigned), 0, 3 * n * h * 4 + n * k * 8);
  check_cost(entry("dispatch_bwd_input" + assigned), 0, 3 * n * h * 4 + n * k * 8);
  check_cost(entry("combine_fwd" + assigned + " sigmoid scale=2.5"), 0, 3 * n * h * 4);
  check_cost(entry("combine_bwd_input" + assigned + " softmax scale=1"), 0, 5 * n * h * 4);

  const std::string sort = " rows=128 width=32 sources=4 experts=2";
  check_cost(entry("expert_sort" + sort), 0, 2 * rows * h * 4 + 4 * local * 4);
  check_cost(entry("expert_unsort" + sort), 0, 2 * rows * h * 4 + 4 * local * 4);
  const std::string linear = " rows=128 in=32 out=16 experts=2 sources=4";
  const double gemm = 2 * rows * h * f, moved = 4 * rows * (h + f), weights = 4 * local * h * f;
  check_cost(entry("experts_linear_fwd" + linear), gemm, moved + weights);
  check_cost(entry("experts_linear_bwd_input" + linear), gemm, moved + weights);
  check_cost(entry("experts_linear_bwd_weight" + linear), gemm, moved + weights);
  check_cost(entry("experts_linear_bwd_weight" + linear), gemm, moved + 4 * weights, true);
  const std::string act = " rows=128 width=16 experts=2 sources=4";
  check_cost(entry("experts_swiglu_fwd" + act), 0, 3 * rows * f * 4);
  check_cost(entry("experts_swiglu_bwd_input" + act), 0, 5 * rows * f * 4);
  check_cost(entry("router_bias_update experts=8 rate=0.001"), 0, e * (4 + 8));
}

// Mapping and style nano_train. n 64, H 32, E 8, K 2, two members with four experts each.
TEST_CASE("catalogue: own rows, scaled gradients and labels of rows by hand") {
  check_cost(entry("own_rows_fwd tokens=64 width=32 parts=2 coords=tp"), 0, 2 * 64 * 32 * 4);
  check_cost(entry("own_rows_fwd tokens=64 width=32 parts=2"), 0, 2 * 64 * 32 * 2, false, kBf16);
  check_cost(entry("grad_scale elements=100 factor=0.5"), 0, 2 * 100 * 4);
  check_cost(entry("snapshot elements=100"), 0, 2 * 100 * 4, false, kBf16);  // of the main type
  check_cost(entry("snapshot elements=8 values"), 0, 2 * 8 * 8);
  const double rows = 128;
  // choice and scores of each slot; token, slot and expert, and the weight; counts of members.
  const Kernel labels =
      entry("label_rows_fwd tokens=64 experts=8 top_k=2 members=2 sigmoid scale=1");
  check_cost(labels, 0, rows * (8 + 4) + rows * (3 * 8 + 4) + 2 * 8);
  CHECK(hidden_scratch(labels, kF32) == 8 * 8);
  check_cost(entry("narrow_counts members=2"), 0, 2 * (8 + 4));
  check_cost(entry("count_rows rows=128 members=2 experts=4"), 0, rows * 8 + 2 * 8 + 8 * 4);
  const std::string label = "label_rows_fwd tokens=4";
  CHECK(rule(label + " experts=8 top_k=2 members=3 softmax") == "experts is a multiple of members");
  CHECK(rule(label + " experts=2 top_k=3 members=2 softmax") == "top_k is at most experts");
  CHECK(rule(label + " experts=8 top_k=2 members=2") == "either softmax or sigmoid");
}

// What a call takes beside its operands: counters of 8 bytes by expert, group or source; one
// candidate of 16 bytes for each assignment of a slice.
TEST_CASE("catalogue: hidden scratch of experts by hand") {
  const auto scratch = [](const std::string& text) { return hidden_scratch(entry(text), kF32); };
  const std::string route = "route_fwd batch=2 seq=32 experts=8 top_k=2";
  CHECK(scratch(route + " groups=1 groups_kept=1 softmax scope=sequence") == 2 * 8 * 8);
  CHECK(scratch(route + " groups=4 groups_kept=2 sigmoid scope=sequence") ==
        2 * 8 * 8 + 8 * (4 + 2 + 4));
  CHECK(scratch(route + " groups=1 groups_kept=1 capacity=5 slices=4 softmax scope=sequence") ==
        2 * 8 * 8 + 8 * 9 + 16 * 8 * 2 * 2);
  CHECK(scratch("dispatch_fwd tokens=64 width=32 experts=8 top_k=2") == 64);
  CHECK(scratch("expert_sort rows=128 width=32 sources=4 experts=2") == 32);
}

TEST_CASE("catalogue: rules between dimensions are named") {
  const std::string route = "route_fwd batch=2 seq=32 experts=8";
  const std::string flags = " softmax scope=sequence";
  CHECK(rule(route + " top_k=2 groups=4 groups_kept=2" + flags) == "");
  CHECK(rule(route + " top_k=2 groups=3 groups_kept=2" + flags) ==
        "experts is a multiple of groups");
  CHECK(rule(route + " top_k=2 groups=4 groups_kept=5" + flags) == "groups_kept is at most groups");
  CHECK(rule(route + " top_k=5 groups=4 groups_kept=2" + flags) ==
        "top_k is at most the experts of the groups kept");
  CHECK(rule(route + " top_k=2 groups=4 groups_kept=2 capacity=1 slices=3" + flags) ==
        "seq is a multiple of slices");
  CHECK(rule(route + " top_k=2 groups=4 groups_kept=2 softmax sigmoid scope=sequence") ==
        "either softmax or sigmoid");
  CHECK(rule(route + " top_k=2 groups=4 groups_kept=2 softmax") == "one scope");
  CHECK(rule("route_fwd batch=256 seq=16777216 experts=8 top_k=2 groups=1 groups_kept=1" + flags) ==
        "batch * seq is below 2^31");
  CHECK(rule("balance_fwd scopes=2 experts=8 tokens=32 top_k=2 groups=3 divisor=1") ==
        "experts is a multiple of groups");
  CHECK(rule("balance_bwd_input scopes=2 experts=8 tokens=32 top_k=2 groups=8 divisor=1 rows=5 "
             "softmax") == "rows is a multiple of scopes");
  CHECK(rule("dispatch_fwd tokens=4 width=4 experts=2 top_k=3") == "top_k is at most experts");
  CHECK(rule("attention_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=3 causal flash") ==
        "heads is a multiple of kv_heads");
  CHECK(rule("rope_fwd batch=1 heads=4 seq=8 head_dim=3 base=10000") == "head_dim is even");
}

}  // namespace tandem
