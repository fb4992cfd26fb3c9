// Latent attention in the catalogue: operands, text, and FLOPs and bytes by hand (models.md 2.7).
#include <doctest/doctest.h>

#include <string>

#include "common/base/text.h"
#include "common/model/kernels.h"

namespace tandem {
namespace {

constexpr PlanTypes kF32{DType::f32, DType::f32}, kBf16{DType::bf16, DType::f32};

std::optional<Kernel> read(const std::string& text) { return kernel_from_text(split(text, ' ')); }
Kernel entry(const std::string& text) {
  const auto k = read(text);
  REQUIRE_MESSAGE(k.has_value(), text);
  CHECK(to_text(*k) == text);
  return *k;
}

// "z f32[64,52], ..." of inputs or outputs.
std::string text_of(const std::vector<Operand>& operands) {
  std::string out;
  for (const Operand& o : operands) {
    out += std::string(out.empty() ? "" : " ") + std::string(o.role) + ":";
    for (int i = 0; i < o.shape.rank; ++i) out += (i > 0 ? "," : "") + std::to_string(o.shape[i]);
    if (o.may_accumulate) out += "+";
    if (o.in_place_of >= 0) out += "@" + std::to_string(o.in_place_of);
  }
  return out;
}

}  // namespace

// deepseek-tiny, b 2, S 32: n 64, rq 32, rkv 16, dn 8, dr 4, dv 8, Q 52, 4 heads.
TEST_CASE("latent attention: operands of each entry") {
  const auto check = [](const std::string& text, const char* in, const char* out) {
    const Signature s = signature(entry(text), kF32);
    CHECK(text_of(s.inputs) == in);
    CHECK(text_of(s.outputs) == out);
    CHECK(s.scratch.empty());
  };
  const std::string all = " tokens=64 q_rank=32 kv_rank=16 rope_dim=4";
  check("latent_norm_fwd" + all + " eps=1e-06", "z:64,52 wq:32 wkv:16",
        "latents:64,52 zn:64,48 stat:2,64");
  check("latent_norm_bwd_input" + all, "dlatents:64,52 zn:64,48 stat:2,64 wq:32 wkv:16",
        "dz:64,52@0 dwq:32+ dwkv:16+");
  check("latent_split_fwd" + all, "latents:64,52", "ql:64,32 kl:64,16 kr:64,4");
  check("latent_merge_bwd_input" + all, "dql:64,32 dkl:64,16 dkr:64,4", "dlatents:64,52");
  const std::string bare = " tokens=64 q_rank=0 kv_rank=16 rope_dim=0";
  check("latent_norm_fwd" + bare + " eps=1e-06", "z:64,16 wkv:16",
        "latents:64,16 zn:64,16 stat:1,64");
  check("latent_norm_bwd_input" + bare, "dlatents:64,16 zn:64,16 stat:1,64 wkv:16",
        "dz:64,16@0 dwkv:16+");
  check("latent_split_fwd" + bare, "latents:64,16", "kl:64,16");
  const std::string heads = " batch=2 heads=4 seq=32 nope_dim=8 rope_dim=4 v_dim=8 base=10000";
  check("mla_qkv_fwd" + heads, "q:64,48 kv:64,64 kr:64,4", "qkv:32,2,128");
  check("mla_qkv_bwd_input" + heads, "dqkv:32,2,128", "dq:64,48 dkv:64,64 dkr:64,4");
  check("mla_qkv_fwd batch=2 heads=4 seq=32 nope_dim=8 rope_dim=0 v_dim=8 base=10000",
        "q:64,32 kv:64,64", "qkv:32,2,96");
  check("attention_fwd batch=2 heads=4 seq=32 head_dim=12 v_dim=8 causal flash", "qkv:32,2,128",
        "out:32,2,32 lse:2,4,32");
  check(
      "attention_bwd_input batch=2 heads=4 seq=32 head_dim=12 kv_heads=2 v_dim=8 causal "
      "materialised",
      "dout:32,2,32 qkv:32,2,88 probs:2,4,32,32 out:32,2,32", "dqkv:32,2,88");
}

TEST_CASE("latent attention: norm weights and statistics stay in fp32 in a bf16 plan") {
  const Signature s =
      signature(entry("latent_norm_bwd_input tokens=64 q_rank=32 kv_rank=16 rope_dim=4"), kBf16);
  CHECK(s.inputs[0].dtype == DType::bf16);
  CHECK(s.inputs[1].dtype == DType::bf16);
  for (std::size_t i = 2; i < 5; ++i) CHECK(s.inputs[i].dtype == DType::f32);
  CHECK(s.outputs[1].dtype == DType::f32);
}

TEST_CASE("latent attention: FLOPs and bytes by hand") {
  const auto check = [](const std::string& text, double flops, double bytes) {
    CAPTURE(text);
    const KernelCost c = cost(entry(text), kF32, false);
    CHECK(c.flops == flops);
    CHECK(c.bytes == bytes);
  };
  const std::string all = " tokens=64 q_rank=32 kv_rank=16 rope_dim=4";
  check("latent_norm_fwd" + all + " eps=1e-06", 0, 4 * 64 * (52 + 52 + 48) + 2 * 4 * 64);
  check("latent_norm_bwd_input" + all, 0, 3 * 4 * 64 * 48 + 2 * 4 * 64);
  check("latent_split_fwd" + all, 0, 2 * 4 * 64 * 52);
  check("latent_merge_bwd_input" + all, 0, 2 * 4 * 64 * 52);
  const std::string heads = " batch=2 heads=4 seq=32 nope_dim=8 rope_dim=4 v_dim=8 base=10000";
  check("mla_qkv_fwd" + heads, 0, 4 * 64 * (48 + 64 + 4 + 128));
  check("mla_qkv_bwd_input" + heads, 0, 4 * 64 * (48 + 64 + 4 + 128));
  // Core: 2 b pairs a (dqk + dv); flash executes v as wide as q, and in I the scores again.
  const std::string core = " batch=2 heads=4 seq=32 head_dim=12 v_dim=8 causal ";
  const double pairs = 32 * 33 / 2, unit = 2 * 2 * 4, lse = 4 * 2 * 4 * 32, probs = lse * 32;
  const double row = 4 * 64 * 4 * (12 + 8);  // q and out; k and v
  check("attention_fwd" + core + "flash", unit * pairs * (12 + 12), 2 * row + lse);
  check("attention_bwd_input" + core + "flash", unit * pairs * 5 * 12, 4 * row + lse);
  check("attention_fwd" + core + "materialised", unit * 32 * 32 * (12 + 8), 2 * row + 2 * probs);
  check("attention_bwd_input" + core + "materialised", unit * 32 * 32 * 2 * (12 + 8),
        4 * row + 4 * probs);
}

TEST_CASE("latent attention: text and rules") {
  // A v as wide as q is no other kernel than one without the dimension.
  const auto same = read("attention_fwd batch=2 heads=4 seq=32 head_dim=12 v_dim=12 causal flash");
  REQUIRE(same.has_value());
  CHECK(*same == entry("attention_fwd batch=2 heads=4 seq=32 head_dim=12 causal flash"));
  CHECK(v_dim_of(*same) == 12);
  CHECK_FALSE(read("attention_fwd batch=2 heads=4 seq=32 head_dim=12 v_dim=0 causal flash"));
  CHECK_FALSE(read("rope_fwd batch=2 heads=4 seq=32 head_dim=12 v_dim=8 base=10000"));
  CHECK_FALSE(read("latent_split_fwd tokens=64 q_rank=32 kv_rank=16"));  // 0 is written
  const auto rule = [](const std::string& text) { return broken_rule(entry(text)); };
  CHECK(rule("attention_fwd batch=2 heads=4 seq=8 head_dim=12 v_dim=16 causal flash") ==
        "v_dim is at most head_dim with flash");
  CHECK(rule("attention_fwd batch=2 heads=4 seq=8 head_dim=12 v_dim=16 causal materialised") == "");
  CHECK(rule("latent_split_fwd tokens=64 q_rank=32 kv_rank=16 rope_dim=3") == "rope_dim is even");
  CHECK(rule("mla_qkv_fwd batch=2 heads=4 seq=8 nope_dim=8 rope_dim=3 v_dim=8 base=10000") ==
        "rope_dim is even");
  // A model may lack a latent of q and a rope part, and a slice may begin with the first position.
  for (const KernelKind kind : {KernelKind::latent_norm_fwd, KernelKind::mla_qkv_fwd}) {
    const CatalogueEntry& e = catalogue(kind);
    for (std::size_t d = 0; d < kNumDims; ++d)
      if (!e.dims[d].empty())
        CHECK(least_of(e, d) ==
              (e.dims[d] == "q_rank" || e.dims[d] == "rope_dim" || e.dims[d] == "first" ? 0 : 1));
  }
}

}  // namespace tandem
