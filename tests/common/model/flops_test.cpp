// Goal    FLOPs agree with published formulas and with counting by hand.
// Method  arXiv 2104.04473's formula for gpt, arXiv 2505.09343's figure for DeepSeek-V3, and the
//         matrices of one small layer counted one by one.
#include "common/model/flops.h"

#include <doctest/doctest.h>

#include "common/scenario/read.h"
#include "preset_shape.h"

using namespace tandem;

namespace {

Scenario scenario(const std::string& text) {
  auto s = read_scenario_text("test.yaml", "tandem: 1\n" + text);
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : s.error().diagnostics[0].title));
  return *s;
}

}  // namespace

// 3 F with all S^2 pairs = 72 B S L H^2 (1 + S/(6H) + V/(12 H L)).
TEST_CASE("flops: gpt with all pairs equals the formula of arXiv 2104.04473") {
  for (const char* name :
       {"gpt-tiny", "gpt2-small", "gpt3-6.7b", "gpt3-175b", "megatron-530b", "megatron-1t"}) {
    CAPTURE(name);
    const ModelShape m = preset_shape(name);
    const double b = 512, s = m.max_sequence, l = m.layers, h = m.hidden, v = m.vocab;
    const double law = 72 * b * s * l * h * h * (1 + s / (6 * h) + v / (12 * h * l));
    CHECK(model_flops(m, 512, m.max_sequence, Pairs::all) == doctest::Approx(law).epsilon(1e-14));
  }
}

// 250 GFLOP a token is the figure of arXiv 2505.09343; models.md gives three more digits of ours.
TEST_CASE("flops: DeepSeek-V3 at 4,096 positions, per token") {
  const ModelShape m = preset_shape("deepseek-v3");
  CHECK(model_flops(m, 1, 4096) / 4096 == doctest::Approx(250.457e9).epsilon(2e-6));
  CHECK(model_flops(m, 1, 4096, Pairs::all) / 4096 == doctest::Approx(281.152e9).epsilon(2e-6));
}

// gpt-tiny, 8 sequences of 32: a token meets 8 layers of 12 H^2 = 49,152 and the head of 256 * 64;
// 8 layers x 8 sequences x 528 pairs x 4 heads x 32 (q.k and p.v of width 16).
TEST_CASE("flops: a step of gpt-tiny, by hand") {
  const double matrices = 2.0 * 8 * 32 * (8 * 49'152 + 16'384);
  const double core = 8.0 * 8 * 2 * 528 * 4 * 32;
  CHECK(model_flops_of_step(scenario("model: gpt-tiny\n")) == 3 * (matrices + core));
  CHECK(3 * (matrices + core) == 655'097'856);
  // 6N counts vectors and the position table, and leaves out the core.
  CHECK(six_n_flops(preset_shape("gpt-tiny"), 8, 32) == 6.0 * 418'432 * 256);
}

// llama-tiny: a token meets 8 layers of q 4,096, k and v 2,048 each, o 4,096, gate, up and down
// 8,192 each = 36,864, and the head; the core is that of gpt-tiny, shared key/value heads cost no
// less.
TEST_CASE("flops: a step of llama-tiny, by hand") {
  const double matrices = 2.0 * 8 * 32 * (8 * 36'864 + 16'384);
  const double core = 8.0 * 8 * 2 * 528 * 4 * 32;
  CHECK(model_flops_of_step(scenario("model: llama-tiny\n")) == 3 * (matrices + core));
  CHECK(3 * (matrices + core) == 504'102'912);
  CHECK(six_n_flops(preset_shape("llama-tiny"), 8, 32) == 6.0 * 328'768 * 256);
}

// The mesh splits work, it does not change the work of the model.
TEST_CASE("flops: the model's work does not depend on the mesh") {
  const double one = model_flops_of_step(scenario("model: gpt-tiny\n"));
  CHECK(model_flops_of_step(scenario("model: gpt-tiny\nparallel: {tp: 2, pp: 2}\n")) == one);
  // dp 4 with the default batch: four times as many sequences.
  CHECK(model_flops_of_step(scenario("model: gpt-tiny\nparallel: {dp: 4}\n")) == 4 * one);
}

// b 2, t 2, n = 64: qkv 2*64*64*96, o 2*64*32*64, fc 2*64*64*128; core of 2 heads: 2 products of
// 2*2*528*2*16. Flash recomputes q.k in backward: 5 products; materialised has all 1,024 pairs.
TEST_CASE("flops: operations of a layer on one of two tensor ranks, by hand") {
  const std::string text =
      "model: gpt-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2, attention: ";
  const auto flash = layer_flops(scenario(text + "flash}\n"));
  REQUIRE(flash.size() == 5);
  CHECK(flash[0].name == "qkv");
  CHECK(flash[0].executed.forward == 786'432);
  CHECK(flash[0].executed.input == 786'432);
  CHECK(flash[0].executed.weight == 786'432);
  CHECK(flash[1].name == "core");
  const double product = 2.0 * 2 * 2 * 16;
  CHECK(flash[1].model.forward == 2 * product * 528);
  CHECK(flash[1].model.input == 4 * product * 528);
  CHECK(flash[1].executed.input == 5 * product * 528);
  CHECK(flash[1].executed.weight == 0);
  CHECK(flash[2].executed.forward == 262'144);
  CHECK(flash[3].executed.forward == 1'048'576);
  CHECK(flash[4].executed.forward == 1'048'576);
  const auto all = layer_flops(scenario(text + "materialised}\n"));
  CHECK(all[1].executed.forward == 2 * product * 1024);
  CHECK(all[1].executed.input == 4 * product * 1024);
  CHECK(all[1].model.forward == flash[1].model.forward);
}

// b 2, t 2, n = 64: qkv 64 -> (2 + 2) * 16, gate and up 64 -> 128, down 64 -> 64.
TEST_CASE("flops: operations of a llama layer on one of two tensor ranks, by hand") {
  const auto ops =
      layer_flops(scenario("model: llama-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2}\n"));
  REQUIRE(ops.size() == 5);
  CHECK(ops[0].name == "qkv");
  CHECK(ops[0].executed.forward == 2.0 * 64 * 64 * 64);
  CHECK(ops[1].executed.forward == 2 * (2.0 * 2 * 2 * 16) * 528);
  CHECK(ops[2].executed.weight == 2.0 * 64 * 32 * 64);
  CHECK(ops[3].name == "gate_up");
  CHECK(ops[3].executed.input == 2.0 * 64 * 64 * 128);
  CHECK(ops[4].name == "down");
  CHECK(ops[4].executed.forward == 2.0 * 64 * 64 * 64);
}

// The operations of all ranks, model part, are the step's model FLOPs: nothing is left out.
TEST_CASE("flops: the operations of all ranks sum to the step") {
  for (const char* text :
       {"model: gpt-tiny\n", "model: gpt-tiny\nparallel: {tp: 4, pp: 2, dp: 2}\n",
        "model: gpt3-6.7b\nparallel: {tp: 8, pp: 4}\ntraining: {global_batch: 64}\n",
        "model: llama-tiny\nparallel: {tp: 2, pp: 2, dp: 2}\n",
        "model: llama-70b\nparallel: {tp: 8, pp: 4}\ntraining: {global_batch: 64}\n"}) {
    CAPTURE(text);
    const Scenario s = scenario(text);
    double layer = 0;
    for (const OperationFlops& op : layer_flops(s)) layer += op.model.sum();
    const double lanes = s.parallel.tp * s.parallel.dp * s.num_microbatches();
    const double sum = lanes * (s.model.layers * layer + head_flops(s).model.sum());
    CHECK(sum == doctest::Approx(model_flops_of_step(s)).epsilon(1e-14));
  }
}

// V 251 over two ranks: 126 rows each, one of them padding. Only the executed work pays for it.
TEST_CASE("flops: a padded vocabulary costs the executed work only") {
  const Scenario s = scenario("model: {preset: gpt-tiny, vocab: 251}\nparallel: {tp: 2}\n");
  CHECK(local_vocabulary(s) == 126);
  CHECK(head_flops(s).executed.forward == 2.0 * 32 * 64 * 126);
  CHECK(head_flops(s).model.forward == 2.0 * 32 * 64 * 125.5);
}

// Flash of gpt-tiny, one rank: model + one more product of the core in I.
TEST_CASE("flops: executed work of a rank") {
  const Scenario s = scenario("model: gpt-tiny\nparallel: {pp: 2}\n");
  const double core_again = 2.0 * 528 * 4 * 16;  // one microbatch, one layer
  const double both = executed_flops_of_rank(s, 0) + executed_flops_of_rank(s, 1);
  CHECK(both == model_flops_of_step(s) + 8 * 8 * core_again);
  CHECK(executed_flops_of_rank(s, 1) - executed_flops_of_rank(s, 0) ==
        8 * 3 * 2.0 * 32 * 64 * 256);  // the head
}
