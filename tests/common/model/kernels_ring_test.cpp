// Ring attention in the catalogue: operands, text and rules; FLOPs and bytes by hand; and that the
// members of a ring together do the work of the whole attention (models.md 2.7, 4.7).
#include <doctest/doctest.h>

#include <string>

#include "common/base/text.h"
#include "common/model/calibration.h"
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

// "qkv:bf16:16,2,96 ..." of inputs or outputs.
std::string text_of(const std::vector<Operand>& operands) {
  std::string out;
  for (const Operand& o : operands) {
    out += std::string(out.empty() ? "" : " ") + std::string(o.role) + ":" +
           std::string(name_of(o.dtype)) + ":";
    for (int i = 0; i < o.shape.rank; ++i) out += (i > 0 ? "," : "") + std::to_string(o.shape[i]);
    if (o.may_accumulate) out += "+";
    if (o.in_place_of >= 0) out += "@" + std::to_string(o.in_place_of);
  }
  return out;
}

}  // namespace

// 4 heads of 16, 2 key/value heads: rows of 64 + 2 * 32; 2 sequences, 16 positions a member.
TEST_CASE("ring attention: operands of each entry; gradients of a block are in the main type") {
  const auto check = [](const std::string& text, const char* in, const char* out) {
    const Signature s = signature(entry(text), kBf16);
    CHECK(text_of(s.inputs) == in);
    CHECK(text_of(s.outputs) == out);
    CHECK(s.scratch.empty());
  };
  const std::string heads = " batch=2 heads=4 seq=16 head_dim=16 kv_heads=2";
  check("kv_pack" + heads, "qkv:bf16:16,2,128", "kv:bf16:16,2,64");
  check("kv_unpack" + heads, "dkv:f32:16,2,64 dqkv:bf16:16,2,128", "dqkv:bf16:16,2,128@1");
  check("attention_block_fwd" + heads + " step=1 coords=cp",
        "qkv:bf16:16,2,128 kv:bf16:16,2,64 out:bf16:16,2,64 lse:f32:2,4,16",
        "out:bf16:16,2,64@2 lse:f32:2,4,16@3");
  check("attention_block_bwd_input" + heads,
        "dout:bf16:16,2,64 qkv:bf16:16,2,128 kv:bf16:16,2,64 lse:f32:2,4,16 out:bf16:16,2,64",
        "dqkv:bf16:16,2,128+ dkv:f32:16,2,64+");
  // A narrow v, as many key/value heads as heads: models.md 4.7, n a (dn + dr + dv).
  check("kv_pack batch=2 heads=4 seq=16 head_dim=12 v_dim=8", "qkv:bf16:16,2,128",
        "kv:bf16:16,2,80");
}

TEST_CASE("ring attention: the pairs of all blocks are the causal pairs, shared evenly") {
  for (const std::int64_t c : {2, 3, 4, 8})
    for (const char* shape : {" head_dim=16 kv_heads=2", " head_dim=12 v_dim=8"}) {
      const std::int64_t whole = 24 * c;
      const auto flops = [&](const std::string& name, std::int64_t seq, const std::string& rest) {
        return cost(entry(name + " batch=2 heads=4 seq=" + std::to_string(seq) + shape + rest),
                    kF32, false)
            .flops;
      };
      const double forward = flops("attention_fwd", whole, " causal flash"),
                   backward = flops("attention_bwd_input", whole, " causal flash");
      double f = flops("attention_fwd", 24, " causal flash"),
             b = flops("attention_block_bwd_input", 24, "");
      for (std::int64_t step = 1; step < c; ++step) {
        f += flops("attention_block_fwd", 24, " step=" + std::to_string(step));
        b += flops("attention_block_bwd_input", 24, " step=" + std::to_string(step));
      }
      CHECK(f == forward / static_cast<double>(c));
      CHECK(b == backward / static_cast<double>(c));
    }
}

TEST_CASE("ring attention: bytes by hand") {
  const auto check = [](const std::string& text, double bytes, PlanTypes types = kBf16) {
    CAPTURE(text);
    CHECK(cost(entry(text), types, false).bytes == bytes);
  };
  const std::string heads = " batch=2 heads=4 seq=16 head_dim=16 kv_heads=2";
  const double n = 2 * 16, kv = 64, q = 64, lse = 4 * 4;
  check("kv_pack" + heads, 2 * n * kv * 2);
  check("kv_unpack" + heads, n * kv * (4 + 2));
  // All queries and half of the keys, or the other way: of each operand 3/4 in the mean.
  check("attention_block_fwd" + heads + " step=3", 0.75 * n * ((3 * q + kv) * 2 + 2 * lse));
  check("attention_block_bwd_input" + heads, n * ((4 * q + 2 * kv) * 2 + kv * 4 + lse));
  check("attention_block_bwd_input" + heads + " step=3",
        0.75 * n * ((5 * q + kv) * 2 + 2 * kv * 4 + lse));
}

TEST_CASE("ring attention: text and rules") {
  CHECK_FALSE(read("kv_pack batch=2 heads=4 seq=16 head_dim=16 step=1"));
  CHECK_FALSE(read("attention_block_fwd batch=2 heads=4 seq=16 head_dim=16 step=0"));
  const auto rule = [](const std::string& text) { return broken_rule(entry(text)); };
  const std::string block = " batch=2 heads=4 seq=16 head_dim=16";
  CHECK(rule("attention_block_fwd" + block + " step=1") == "");
  CHECK(rule("attention_block_fwd" + block) == "step is at least 1");
  CHECK(rule("attention_block_bwd_input" + block) == "");
  CHECK(rule("attention_block_bwd_input batch=2 heads=4 seq=7 head_dim=16") == "");
  CHECK(rule("attention_block_bwd_input batch=2 heads=4 seq=7 head_dim=16 step=2") ==
        "seq is two chunks of equal length");
  CHECK(rule("attention_block_fwd" + block + " v_dim=20 step=1") ==
        "v_dim is at most head_dim with flash");
  CHECK(rule("kv_pack" + block + " kv_heads=3") == "heads is a multiple of kv_heads");
}

// Slices of a sequence on one rank (models.md 8a): a block is an earlier slice, all of it is seen.
TEST_CASE("slices: operands, bytes, text and rules of a block that is an earlier slice") {
  const std::string heads = " batch=2 heads=4 seq=16 head_dim=16 kv_heads=2";
  const auto inputs = [](const std::string& text) {
    return text_of(signature(entry(text), kBf16).inputs);
  };
  CHECK(inputs("attention_block_fwd" + heads + " step=1 slices") ==
        "qkv:bf16:16,2,128 kv:bf16:16,2,64 out:bf16:16,2,64 lse:f32:2,4,16");
  CHECK(inputs("attention_block_fwd" + heads + " step=1 slices fused") ==
        "qkv:bf16:16,2,128 kv:bf16:16,2,128 out:bf16:16,2,64 lse:f32:2,4,16");
  CHECK(inputs("attention_block_bwd_input" + heads + " slices fused") ==
        "dout:bf16:16,2,64 qkv:bf16:16,2,128 kv:bf16:16,2,128 lse:f32:2,4,16 out:bf16:16,2,64");
  const auto bytes = [](const std::string& text) { return cost(entry(text), kBf16, false).bytes; };
  const double n = 2 * 16, kv = 64, q = 64, lse = 4 * 4;
  CHECK(bytes("attention_block_fwd" + heads + " step=1 slices") ==
        n * ((3 * q + kv) * 2 + 2 * lse));
  CHECK(bytes("attention_block_bwd_input" + heads + " step=1 slices fused") ==
        n * ((5 * q + kv) * 2 + 2 * kv * 4 + lse));
  // No chunks, so an odd length is well.
  CHECK(broken_rule(entry("attention_block_fwd batch=2 heads=4 seq=7 head_dim=16 step=1 slices")) ==
        "");
  CHECK_FALSE(read("kv_pack batch=2 heads=4 seq=16 head_dim=16 slices"));
  CHECK_FALSE(read("attention_fwd batch=2 heads=4 seq=16 head_dim=16 causal flash slices"));
  // Where rows begin, and how a block lies, is text of a kernel and no part of what it costs.
  for (const char* text :
       {"pos_add_fwd seq=8 batch=2 width=64 first=24",
        "pos_add_bwd_weight seq=8 batch=2 width=64 first=24",
        "rope_fwd batch=2 heads=4 seq=8 head_dim=16 kv_heads=2 first=24 base=10000",
        "rope_bwd_input batch=2 heads=4 seq=8 head_dim=16 first=24 base=10000",
        "mla_qkv_fwd batch=2 heads=4 seq=8 nope_dim=8 rope_dim=4 v_dim=8 first=24 base=10000",
        "mla_qkv_bwd_input batch=2 heads=4 seq=8 nope_dim=8 rope_dim=4 v_dim=8 first=24 "
        "base=10000"}) {
    const Kernel k = entry(text);
    CHECK(first_position_of(k) == 24);
    std::string without = text;
    without.erase(without.find(" first=24"), 9);
    CHECK(first_position_of(entry(without)) == 0);
    CHECK(calibration_key(k) == without);
    CHECK(cost(k, kBf16, false).bytes == cost(entry(without), kBf16, false).bytes);
  }
  CHECK(calibration_key(entry("attention_block_fwd" + heads + " step=1 slices fused")) ==
        "attention_block_fwd" + heads + " step=1 slices");
}

}  // namespace tandem
