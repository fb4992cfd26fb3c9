// The oracle against the numbers of models.md 2.8, which come from an independent prototype.
#include "exec/train/reference.h"

#include <doctest/doctest.h>

#include <cmath>

#include "exec/train/data.h"
#include "exec/train/init.h"

namespace tandem::exec {
namespace {

TrainingConfig gpt_tiny() {
  TrainingConfig c;
  c.seed = 1234;
  c.steps = 4;
  c.warmup_steps = 0;
  c.layers = 8, c.hidden = 64, c.heads = 4, c.ffn_hidden = 256, c.vocab = 256;
  c.max_sequence = c.sequence = 32;
  c.init = "test";
  c.precision = "fp64";
  c.global_batch = 8, c.micro_batch = 2;
  c.lr = 1e-2, c.min_lr = 1e-3, c.lr_warmup_steps = 2, c.decay_steps = 10, c.cosine = true;
  c.data_kind = "random";
  return c;
}

TrainingConfig llama_tiny() {
  TrainingConfig c = gpt_tiny();
  c.family = "llama";
  c.kv_heads = 2, c.ffn_hidden = 128;
  c.tied_embeddings = false;
  return c;
}

double l2(const FullTensor& t) {
  double sum = 0;
  for (double x : t.values) sum += x * x;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("autograd reference: goldens of gpt-tiny") {
  const Result<ReferenceRun> run = run_reference(gpt_tiny(), 1);
  REQUIRE(run.ok());
  const std::vector<ReferenceStep>& s = run->steps;
  REQUIRE(s.size() == 4);
  CHECK(std::abs(s[0].loss - 5.949555518307) < 1e-9);
  CHECK(std::abs(s[1].loss - 5.906266559578) < 1e-9);
  CHECK(std::abs(s[2].loss - 5.813160585587) < 1e-9);
  CHECK(std::abs(s[3].loss - 5.715424664985) < 1e-9);
  CHECK(std::abs(s[0].norm - 1.885701991895) < 1e-9);
  CHECK(std::abs(s[3].norm - 0.582143799214) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("embed.weight")) - 0.706478125835) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("layers.0.norm1.weight")) - 0.043800282579) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("layers.0.attn.o.weight")) - 0.463741024147) < 1e-9);
  double sum = 0;
  for (const auto& [name, t] : run->parameters) sum += l2(t) * l2(t);
  CHECK(std::abs(std::sqrt(sum) - 73.497868540889) < 1e-9);
  CHECK(run->parameters.size() == 132);
  CHECK(std::abs(s[3].lr - 0.009657457896) < 1e-12);
}

TEST_CASE("autograd reference: goldens of llama-tiny") {
  const Result<ReferenceRun> run = run_reference(llama_tiny(), 1);
  REQUIRE(run.ok());
  const std::vector<ReferenceStep>& s = run->steps;
  REQUIRE(s.size() == 4);
  CHECK(std::abs(s[0].loss - 5.931469862488) < 1e-9);
  CHECK(std::abs(s[1].loss - 5.858676694350) < 1e-9);
  CHECK(std::abs(s[2].loss - 5.844753450888) < 1e-9);
  CHECK(std::abs(s[3].loss - 5.873094933369) < 1e-9);
  CHECK(std::abs(s[0].norm - 2.878598771877) < 1e-9);
  CHECK(std::abs(s[3].norm - 1.430021918770) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("embed.weight")) - 1.245616069375) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("layers.0.norm1.weight")) - 0.100983623027) < 1e-9);
  CHECK(std::abs(l2(s[0].gradients.at("layers.0.attn.o.weight")) - 0.972665427529) < 1e-9);
  double sum = 0;
  for (const auto& [name, t] : run->parameters) sum += l2(t) * l2(t);
  CHECK(std::abs(std::sqrt(sum) - 66.769328773128) < 1e-9);
  CHECK(run->parameters.size() == 75);
}

// A width of heads that is not hidden / heads, and other key/value heads: shapes and losses follow.
TEST_CASE("autograd reference: llama by its other fields") {
  TrainingConfig c = llama_tiny();
  c.steps = 1;
  c.head_dim = 8;
  const auto shapes = parameter_shapes(c);
  CHECK(shapes.at("layers.3.attn.q.weight") == std::pair<std::int64_t, std::int64_t>(32, 64));
  CHECK(shapes.at("layers.3.attn.k.weight") == std::pair<std::int64_t, std::int64_t>(16, 64));
  CHECK(shapes.at("layers.3.attn.o.weight") == std::pair<std::int64_t, std::int64_t>(64, 32));
  CHECK(shapes.at("layers.3.mlp.down.weight") == std::pair<std::int64_t, std::int64_t>(64, 128));
  CHECK(run_reference(c, 0)->steps[0].loss > 0);
  c = llama_tiny();
  c.steps = 1;
  c.rope_base = 500'000;
  CHECK(std::abs(run_reference(c, 0)->steps[0].loss - 5.931469862488) > 1e-6);
}

TEST_CASE("initial values: only gpt scales what is added to the residual by depth") {
  TrainingConfig c = llama_tiny();
  c.init = "normal";
  CHECK(init_rule(c, "layers.0.attn.o.weight").deviation == 0.02);
  CHECK(init_rule(c, "layers.0.mlp.down.weight").deviation == 0.02);
  CHECK(init_rule(c, "layers.0.norm1.weight").mean == 1);
  c = gpt_tiny();
  c.init = "normal";
  CHECK(init_rule(c, "layers.0.attn.o.weight").deviation == 0.02 / 4);  // sqrt(2 * 8)
}

TEST_CASE("autograd reference: untied and tanh are other models") {
  TrainingConfig c = gpt_tiny();
  c.steps = 1;
  c.tied_embeddings = false;
  const double untied = run_reference(c, 0)->steps[0].loss;
  CHECK(std::abs(untied - 5.949555518307) > 1e-3);
  c = gpt_tiny();
  c.steps = 1;
  c.gelu_tanh = true;
  const double tanh = run_reference(c, 0)->steps[0].loss;
  CHECK(std::abs(tanh - 5.949555518307) > 1e-9);
  CHECK(std::abs(tanh - 5.949555518307) < 1e-2);
}

TEST_CASE("random data: goldens") {
  const Result<BatchSource> source = BatchSource::open(gpt_tiny());
  REQUIRE(source.ok());
  std::vector<std::int64_t> batch(2 * 33);
  source->fill(batch.data(), 0, 0, 0, 1);
  const std::vector<std::int64_t> first = {74, 169, 253, 146, 138, 231, 222, 79, 78, 87, 166, 143};
  CHECK(std::vector<std::int64_t>(batch.begin(), batch.begin() + 12) == first);
  // Step 3, sequence 5: microbatch 1, data index 0 of 2, row 1 (q = 1*2*2 + 0*2 + 1).
  source->fill(batch.data(), 3, 1, 0, 2);
  const std::vector<std::int64_t> other = {65, 160, 89, 5, 124, 242};
  CHECK(std::vector<std::int64_t>(batch.begin() + 33, batch.begin() + 39) == other);
}

TEST_CASE("text data: offsets are the goldens of models.md 8.2") {
  TrainingConfig c = gpt_tiny();
  const std::uint64_t expected[] = {95703, 59377, 37611, 32199, 48406, 68321};
  for (std::uint64_t i = 0; i < 6; ++i) CHECK(BatchSource::offset(c, i, 100'000) == expected[i]);
  c.sampler = "sequential";
  CHECK(BatchSource::offset(c, 3, 100'000) == 96);
}

}  // namespace tandem::exec
