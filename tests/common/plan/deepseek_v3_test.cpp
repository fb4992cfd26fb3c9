// Goal    the plan of DeepSeek-V3 on 2,048 devices (scenarios/deepseek-v3-2048.yaml, with and
//         without recomputation) is the one that models.md describes: every byte of every tag in
//         closed form (4.1, 4.6), and what lives for the run by class (6), on all 16 stages.
// Method  the formulas written out with the numbers of the model; buckets by
//         common/parallel/memory.h, whose elements sum to the model's 671,026,404,352 parameters.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>

#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/totals.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "sim/memory/tracker.h"

namespace tandem {
namespace {

Scenario scenario(const char* recompute) {
  const auto s = read_scenario_text(
      "t.yaml",
      std::string("tandem: 1\nmodel: deepseek-v3\ntraining: {sequence: 4096, global_batch: 4096, "
                  "precision: bf16, recompute: ") +
          recompute + "}\nparallel: {pp: 16, dp: 128, ep: 64, zero: 1}\ncluster: dgx-h100 x 256\n");
  REQUIRE(s.ok());
  return *s;
}

using Calls = std::map<std::string, std::int64_t>;

std::string key(const std::string& tag, const char* kind, Bytes bytes) {
  return fmt::format("{} {} {}", tag, kind, bytes);
}

// m 32 microbatches of n 4096 tokens, H 7168, K 8, E 256, ep 64; 61 layers, the first three dense.
Calls expected(const Scenario& s, int stage, bool again) {
  constexpr std::int64_t m = 32, n = 4096, H = 7168, K = 8, E = 256, bf16 = 2;
  const bool first = stage == 0, last = stage == 15;
  const std::int64_t layers = stage < 13 ? 4 : 3, experts = first ? 1 : layers;
  Calls out;
  const auto add = [&](const std::string& k, std::int64_t calls) {
    if (calls > 0) out[k] += calls;
  };
  add(key("cnt", "all_to_all", 4 * E), m * experts);
  for (const char* tag : {"disp", "comb"})  // balanced rows there and back, and in R again
    add(key(tag, "all_to_all", n * K * H * bf16), m * experts * (again ? 3 : 2));
  add(key("act", "send", n * H * bf16), last ? 0 : m);
  add(key("act", "recv", n * H * bf16), first ? 0 : m);
  add(key("grad", "send", n * H * bf16), first ? 0 : m);
  add(key("grad", "recv", n * H * bf16), last ? 0 : m);
  for (const BucketSize& b : bucket_sizes(s, stage)) {  // 128 ranks share dense ones, 2 experts
    const bool routed = b.members == 2;
    add(key(routed ? "grad.exp" : "grad.dp", "reduce_scatter", 4 * b.elements), 1);
    add(key(routed ? "param.exp" : "param.dp", "all_gather",
            size_of(b.dtype) * b.elements / b.members),
        1);
  }
  add(key("bias", "all_reduce", 4 * E * experts), 1);
  add(key("norm", "all_reduce", 8), 1);
  add(key("metrics", "all_reduce", 64), 1);
  return out;
}

}  // namespace

TEST_CASE("DeepSeek-V3 on 2,048 devices: bytes of every tag, bytes of every class") {
  for (const bool again : {false, true}) {
    CAPTURE(again);
    const Scenario s = scenario(again ? "full" : "none");
    const auto plan = build_plan(s);
    REQUIRE(plan.ok());
    CHECK(verify_plan(*plan).ok());
    const auto memory = sim::track_memory(*plan);
    std::int64_t parameters = 0;
    for (int stage = 0; stage < 16; ++stage) {
      CAPTURE(stage);
      Calls got;
      for (const TagTotal& t : tag_totals(*plan, ProgramId{stage}))
        got[key(plan->name(t.tag), std::string(name_of(t.kind)).c_str(), t.bytes_in)] += t.calls;
      CHECK((got == expected(s, stage, again)));
      const ClassBytes& lives = memory[static_cast<std::size_t>(stage)].persistent;
      const StaticBytes fixed = static_bytes(s, stage, 1);
      CHECK(lives[static_cast<std::size_t>(BufferClass::param)] == fixed.param);
      CHECK(lives[static_cast<std::size_t>(BufferClass::grad)] == fixed.grad);
      CHECK(lives[static_cast<std::size_t>(BufferClass::optim)] == fixed.optim);
      // models.md 6 by hand: parameters 2 B and gradients 4 B each, main copy, m and v 12 B over
      // the group, norms as fp32; what is more is padding, below a thousandth.
      double param = 0, grad = 0, optim = 0;
      for (const LocalTensor& t : local_tensors(s, stage)) {
        const auto elements = static_cast<double>(t.shape.elements());
        const bool routed = t.cls == TensorClass::routed_expert, norm = t.dtype == DType::f32;
        parameters += t.shape.elements() * (routed ? 64 : 1);
        param += elements * (norm ? 4 : 2), grad += elements * 4;
        optim += elements * (norm ? 8 : 12) / (routed ? 2 : 128);
      }
      CHECK(static_cast<double>(fixed.param) == doctest::Approx(param).epsilon(1e-3));
      CHECK(static_cast<double>(fixed.grad) == doctest::Approx(grad).epsilon(1e-3));
      CHECK(static_cast<double>(fixed.optim) == doctest::Approx(optim).epsilon(1e-3));
      CHECK(static_cast<double>(fixed.param) >= param);
    }
    CHECK(parameters == 671'026'404'352);
  }
}

}  // namespace tandem
