// Goal    the closed forms of memory agree with the goldens of models.md 2.7, 4.4 and 6.
// Method  the tables written out; papers' figures for a bf16 layer; buckets of gpt-tiny by hand.
// That a
//         plan really allocates these bytes is tests/common/plan/goldens_test.cpp.
#include "common/parallel/memory.h"

#include <doctest/doctest.h>

#include "common/scenario/read.h"

namespace tandem {
namespace {

Scenario scenario(const std::string& text) {
  auto s = read_scenario_text("test.yaml", "tandem: 1\n" + text);
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : s.error().diagnostics[0].title));
  return *s;
}

void check_layer(const Scenario& s, Bytes for_input, Bytes for_weight, Bytes between, int of = 0) {
  const SavedBytes layer = sum(layer_saved(s, of));
  CHECK(layer.for_input == for_input);
  CHECK(layer.for_weight == for_weight);
  CHECK(layer.input_to_weight == between);
}

}  // namespace

// models.md 2.7, golden: one layer, b 2, fp32, bytes for I / for W / I to W.
TEST_CASE("memory: saved bytes of a gpt-tiny layer") {
  Scenario s = scenario("model: gpt-tiny\ntraining: {micro_batch: 2}\n");
  check_layer(s, 149'504, 114'688, 147'456);
  s.training.attention = AttentionKind::materialised;
  check_layer(s, 181'248, 114'688, 147'456);
  s = scenario(
      "model: gpt-tiny\nparallel: {tp: 2, sequence_parallel: true}\n"
      "training: {micro_batch: 2}\n");
  check_layer(s, 74'752, 57'344, 90'112);
}

// Balanced routing: the rank's experts see as many rows as its tokens have choices.
TEST_CASE("memory: saved bytes of layers with experts and of layers with latent attention") {
  Scenario s = scenario("model: mixtral-tiny\ntraining: {micro_batch: 2}\n");
  check_layer(s, 135'680, 98'304, 116'736);
  s.training.attention = AttentionKind::materialised;
  check_layer(s, 167'424, 98'304, 116'736);
  s = scenario("model: mixtral-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2}\n");
  check_layer(s, 67'840, 49'152, 66'560);
  s = scenario("model: deepseek-tiny\ntraining: {micro_batch: 2}\n");
  check_layer(s, 145'408, 86'016, 140'288);  // dense
  check_layer(s, 164'864, 110'592, 158'720, 1);
  s.training.attention = AttentionKind::materialised;
  check_layer(s, 177'152, 86'016, 140'288);
  check_layer(s, 196'608, 110'592, 158'720, 1);
  s = scenario("model: deepseek-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2}\n");
  check_layer(s, 72'704, 43'008, 86'528);
  check_layer(s, 82'432, 55'296, 95'744, 1);
}

// models.md 6, worked: llama-8b, bf16, W8 t2 p2 d2, SP, zero 1, S 8192.
TEST_CASE("memory: static bytes of llama-8b with ZeRO-1") {
  const Scenario s = scenario(
      "model: llama-8b\ntraining: {sequence: 8192, global_batch: 16, precision: bf16}\n"
      "parallel: {tp: 2, pp: 2, dp: 2, sequence_parallel: true, zero: 1}\n"
      "cluster: {preset: dgx-h100, nodes: 1}\n");
  CHECK(static_bytes(s, 0, 1).sum() == 24'091'295'744);
  const KeptBytes kept = kept_bytes(s, 0, 2);
  CHECK(kept.saved_input + kept.saved_weight == 18'271'436'800);
}

// models.md 6, worked: llama-tiny fp32 d2; level 2 and 3 also hold what is gathered at the moment.
TEST_CASE("memory: static bytes of llama-tiny at every level of ZeRO") {
  const Scenario s = scenario("model: llama-tiny\nparallel: {dp: 2}\n");
  const Bytes expected[] = {5'261'312, 3'945'984, 3'288'320, 2'630'656};
  for (int level = 0; level <= 3; ++level)
    CHECK(static_bytes(s, 0, level).sum() == expected[level]);
}

// The same golden for llama: Q = n (a + 2 ak) dh w = 64 * 128 * 4, gate and up 2 * 32,768.
TEST_CASE("memory: saved bytes of a llama-tiny layer") {
  Scenario s = scenario("model: llama-tiny\ntraining: {micro_batch: 2}\n");
  check_layer(s, 132'608, 81'920, 131'072);
  s.training.attention = AttentionKind::materialised;
  check_layer(s, 164'352, 81'920, 131'072);
  s = scenario("model: llama-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2}\n");
  s.parallel.sequence_parallel = true;
  check_layer(s, 66'304, 40'960, 81'920);
}

// models.md 6: a bf16 layer of llama-8b on tp 2, S 8,192, with sequence parallelism.
TEST_CASE("memory: saved bytes of a llama-8b layer, bf16, tp 2") {
  Scenario s = scenario(
      "model: llama-8b\nparallel: {tp: 2}\ntraining: {precision: bf16}\ncluster: dgx-h100\n");
  s.parallel.sequence_parallel = true;
  const SavedBytes layer = sum(layer_saved(s));
  CHECK(layer.for_input == 352'878'592);
  CHECK(layer.for_weight == 218'103'808);
}

// Without sequence parallelism the stream X stays whole on every tensor rank: norms 33,792, q, k, v
// 24,576, lse 512, fc1 32,768; x twice 32,768, attention 8,192, gelu 32,768; dy 24,576 + 16,384 +
// ...
TEST_CASE("memory: saved bytes of a gpt-tiny layer on one of two tensor ranks, by hand") {
  const Scenario s = scenario("model: gpt-tiny\nparallel: {tp: 2}\ntraining: {micro_batch: 2}\n");
  check_layer(s, 33'792 + 24'576 + 512 + 32'768, 32'768 + 8'192 + 32'768,
              24'576 + 16'384 + 32'768 + 16'384);
}

// In units of S b H, bf16, F = 4H: 18 for I and 14 for W without the statistics, 32 between I and W
// (arXiv 2401.10241); materialised: 34 S b H + 5 a S^2 b of arXiv 2205.05198 less dropout's 2 S b H
// and 3 a S^2 b.
TEST_CASE("memory: a bf16 layer in the units of the papers") {
  Scenario s = scenario(
      "model: {family: gpt, layers: 2, hidden: 1024, heads: 16, ffn_hidden: 4096, vocab: 512,"
      " max_sequence: 256}\ntraining: {precision: bf16, micro_batch: 2}\ncluster: dgx-h100\n");
  const Bytes unit = 256 * 2 * 1024, tokens = 512, heads = 16;
  SavedBytes layer = sum(layer_saved(s));
  const Bytes statistics = 4 * 4 * tokens, lse = 4 * 2 * heads * 256;
  CHECK(layer.for_input == 18 * unit + statistics + lse);
  CHECK(layer.for_weight == 14 * unit);
  CHECK(layer.for_weight + layer.input_to_weight == 32 * unit);
  s.training.attention = AttentionKind::materialised;
  layer = sum(layer_saved(s));
  CHECK(layer.for_input + layer.for_weight - statistics == 32 * unit + 2 * heads * 256 * 256 * 2);
}

// gpt-tiny, one rank. Per layer and rank 49,984 elements: 4 * 64*64 + 2 * 64*256 weights = 49,152,
// vectors 9 * 64 + 256 = 832; every tensor is a multiple of 64, so nothing is padded but the end.
TEST_CASE("memory: buckets and static bytes of gpt-tiny, by hand") {
  const Scenario one = scenario("model: gpt-tiny\n");
  const auto b = bucket_sizes(one, 0);
  REQUIRE(b.size() == 2);  // all but the tied embedding; the tied embedding
  CHECK(local_parameters(one, 0) == 418'432);
  CHECK(b[0].elements + b[1].elements == 418'432);
  const StaticBytes bytes = static_bytes(one, 0);
  CHECK(bytes.param == 4 * 418'432);
  CHECK(bytes.grad == 4 * 418'432 + 4 * 16'384);  // head and embedding accumulate apart
  CHECK(bytes.optim == 8 * 418'432);
}

// W8 t2 p2 d2: stage 0 has positions 2,048 + 4 layers of 24,992 + qkv and the biases; the figures
// are the elements of its tensors: fc2.b 64, fc2.w 8,192, fc1.b 128, fc1.w 8,192, norms 4 * 64, o.b
// 64, o.w 2,048, qkv.b 96 (to 128), qkv.w 6,144 = 25,216 a layer in the bucket.
TEST_CASE("memory: padding inside and at the end of buckets") {
  const Scenario s = scenario("model: gpt-tiny\nparallel: {tp: 2, pp: 2, dp: 2}\n");
  const auto first = bucket_sizes(s, 0), last = bucket_sizes(s, 1);
  REQUIRE(first.size() == 2);
  REQUIRE(last.size() == 2);
  const bool tied_first = first[0].tied;
  CHECK(first[tied_first ? 0 : 1].elements == 128 * 64);
  CHECK(first[tied_first ? 1 : 0].elements == 4 * 25'216 + 2'048);  // 102,912 = 804 * 128
  const bool tied_last = last[0].tied;
  CHECK(last[tied_last ? 0 : 1].elements == 128 * 64);
  CHECK(last[tied_last ? 1 : 0].elements == 4 * 25'216 + 128);  // final norm; 100,992 = 789 * 128
}

// models.md 4.4: llama-tiny in one bucket. A layer: norms 2 * 64, qkv (4 + 2*2) * 16 * 64 = 8,192,
// o 4,096, gate and up 16,384, down 8,192 = 36,992; embedding and head 16,384 each, final norm 64:
// 328,768, and 328,832 = 2,569 * 128. On tp 2 each cut tensor halves: 164,928 -> 164,992.
TEST_CASE("memory: buckets and static bytes of llama-tiny, by hand") {
  const Scenario one = scenario("model: llama-tiny\nparallel: {dp: 2}\n");
  CHECK(local_parameters(one, 0) == 328'768);
  auto b = bucket_sizes(one, 0);
  REQUIRE(b.size() == 1);
  CHECK(b[0].elements == 328'832);
  // models.md 6, zero 0 to 3; without the bucket or unit that is gathered at the moment.
  CHECK(static_bytes(one, 0, 0).sum() == 5'261'312);
  CHECK(static_bytes(one, 0, 1).sum() == 3'945'984);
  CHECK(static_bytes(one, 0, 2).sum() == 3'288'320);
  CHECK(static_bytes(one, 0, 3).sum() == 2'630'656);
  b = bucket_sizes(scenario("model: llama-tiny\nparallel: {tp: 2, dp: 2}\n"), 0);
  REQUIRE(b.size() == 1);
  CHECK(b[0].elements == 164'992);
}

// models.md 6: llama-8b on W8 t2 p2 d2.
TEST_CASE("memory: parameters of the stages of llama-8b") {
  const Scenario s = scenario(
      "model: llama-8b\nparallel: {tp: 2, pp: 2}\ntraining: {precision: bf16, global_batch: 16}\n"
      "cluster: dgx-h100\n");
  CHECK(local_parameters(s, 0) == 2'007'629'824);
  CHECK(local_parameters(s, 1) == 2'007'633'920);
}

// A bucket closes when its gradients reach the limit: 64 KiB = 16,384 fp32 elements.
TEST_CASE("memory: the bucket limit") {
  const Scenario s =
      scenario("model: gpt-tiny\nparallel: {dp: 2, gradient_reduce: {bucket: 64 KiB}}\n");
  const auto buckets = bucket_sizes(s, 0);
  std::int64_t total = 0;
  for (const BucketSize& b : buckets) {
    total += b.elements;
    CHECK(b.elements % 128 == 0);
    CHECK(b.elements < 16'384 + 16'384 + 128);  // below the limit before its last tensor
  }
  CHECK(buckets.size() > 16);
  CHECK(total >= 418'432);
  CHECK(total < 418'432 + static_cast<std::int64_t>(buckets.size()) * 128);
}

// models.md 6, llama-tiny d2 with N 328,832: bytes a parameter are 16, 8 + 8/g, 4 + 12/g, 16/g.
// Here the same law on gpt-tiny d2, N = 418,432 + the end of the buckets, plus the second tied
// gradient, which at levels 2 and 3 is one of those that are whole for a moment (gathered.h). Units
// of level 3 end otherwise than the one bucket of the others.
TEST_CASE("memory: what the levels of ZeRO would hold") {
  const Scenario s = scenario("model: gpt-tiny\nparallel: {dp: 2}\n");
  std::int64_t n = 0;
  for (const BucketSize& b : bucket_sizes(s, 0)) n += b.elements;
  const Bytes head = 4 * 16'384;
  CHECK(static_bytes(s, 0, 0).sum() == 16 * n + head);
  CHECK(static_bytes(s, 0, 1).sum() == 8 * n + 8 * n / 2 + head);
  CHECK(static_bytes(s, 0, 2).sum() == 4 * n + 12 * n / 2);
  std::int64_t units = 0;
  for (const BucketSize& b : bucket_sizes(s, 0, 3)) units += b.elements;
  CHECK(units >= n);
  CHECK(static_bytes(s, 0, 3).sum() == 16 * units / 2);
  // bf16: 18 bytes for a matrix, fp32's 16 for a norm.
  const Scenario half = scenario(
      "model: gpt-tiny\nparallel: {tp: 4}\ntraining: {precision: bf16}\ncluster: dgx-h100\n");
  Bytes matrices = 0, norms = 0;
  for (const BucketSize& b : bucket_sizes(half, 0))
    (b.dtype == DType::bf16 ? matrices : norms) += b.elements;
  CHECK(norms == 34 * 64);
  CHECK(static_bytes(half, 0).sum() == 18 * matrices + 16 * norms + head / 4);
}

// A rank holds 1/t of every cut tensor and all of every whole one: the list of parameters.h, cut,
// is the list of the rank.
TEST_CASE("memory: local tensors are the model's, cut and placed") {
  for (const char* parallel :
       {"{}", "{tp: 2}", "{tp: 4, pp: 2}", "{pp: 8}", "{tp: 2, pp: 4, dp: 2}"})
    for (const char* model :
         {"gpt-tiny, tied_embeddings: true", "gpt-tiny, tied_embeddings: false",
          "llama-tiny, kv_heads: 4", "llama-tiny, kv_heads: 4, tied_embeddings: true"}) {
      CAPTURE(parallel);
      CAPTURE(model);
      const Scenario s =
          scenario(std::string("model: {preset: ") + model + "}\nparallel: " + parallel + "\n");
      std::int64_t expected = 0, held = 0;
      for (const Tensor& t : parameter_tensors(model_shape(s.model))) {
        const std::int64_t copies = t.cls == TensorClass::tied && s.parallel.pp > 1 ? 2 : 1;
        expected += copies * t.shape.elements() / (t.cut_dim >= 0 ? s.parallel.tp : 1);
      }
      for (int pp = 0; pp < s.parallel.pp; ++pp) held += local_parameters(s, pp);
      CHECK(held == expected);
    }
}

// gpipe holds all microbatches, 1f1b as many as there are stages to the end.
TEST_CASE("memory: open visits and kept bytes") {
  Scenario s = scenario("model: gpt-tiny\nparallel: {pp: 4}\n");  // 8 microbatches
  for (int r = 0; r < 4; ++r) CHECK(open_visits(s, r) == 4 - r);
  s.schedule.kind = "gpipe";
  for (int r = 0; r < 4; ++r) CHECK(open_visits(s, r) == 8);
  s.schedule.kind = "zb_h1";
  CHECK_FALSE(open_visits(s, 0).has_value());

  const SavedBytes layer = sum(layer_saved(s));
  const Bytes x = 32 * 64 * 4, statistics = 2 * 4 * 32;
  const KeptBytes middle = kept_bytes(s, 1, 3);
  CHECK(middle.saved_input == 3 * 2 * layer.for_input);
  CHECK(middle.saved_weight == 3 * 2 * layer.for_weight);
  CHECK(middle.logits + middle.batch == 0);
  const KeptBytes last = kept_bytes(s, 3, 2);
  CHECK(last.saved_input == 2 * (2 * layer.for_input + x + statistics));
  CHECK(last.saved_weight == 2 * (2 * layer.for_weight + x));
  CHECK(last.logits == 2 * 32 * 256 * 4);
  CHECK(last.batch == 8 * 33);  // ends with the loss
  CHECK(kept_bytes(s, 0, 4).batch == 4 * 8 * 33);
  // Recomputed: each layer its input, but for one that is whole.
  Scenario full = s;
  full.training.recompute = Recompute::full;
  CHECK(kept_bytes(full, 1, 3).sum() + recompute_working_set(full, 1) ==
        (3 * 2 - 1) * x + layer.for_input + layer.for_weight);
}

}  // namespace tandem
