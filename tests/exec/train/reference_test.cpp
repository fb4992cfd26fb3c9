// The oracle against the numbers of models.md 2.8, which come from an independent prototype.
#include "exec/train/reference.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "common/base/file.h"
#include "exec/device/torch_memory.h"
#include "exec/train/data.h"
#include "exec/train/init.h"

namespace tandem::exec {
namespace {

// Small tensors: a second thread of LibTorch costs more than it saves where cores are shared.
const bool kOneThread = (set_up_torch(1), true);

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

TrainingConfig mixtral_tiny() {
  TrainingConfig c = llama_tiny();
  c.family = "mixtral";
  c.moe.experts = 8, c.moe.top_k = 2, c.moe.expert_hidden = 32;
  c.moe.expert_loss = 0.01;
  return c;
}

TrainingConfig deepseek_tiny() {
  TrainingConfig c = llama_tiny();
  c.family = "deepseek_v3";
  c.kv_heads = 0;
  c.norm_eps = 1e-6;
  c.mla = {.q_rank = 32, .kv_rank = 16, .nope_dim = 8, .rope_dim = 4, .v_dim = 8};
  MoeSpec& m = c.moe;
  m.router = RouterKind::sigmoid;
  m.experts = 8, m.top_k = 2, m.expert_hidden = 32, m.shared_experts = 1;
  m.groups = 4, m.groups_kept = 2;
  m.scale = 1.5;
  m.dense_first = 1;
  m.expert_loss = 0.01, m.device_loss = 0.005, m.device_groups = 4, m.bias_update = 0.001;
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

// Goldens of models.md 2.8, one row a quantity.
struct MoeGoldens {
  double loss[4], balance[2], norm[2];  // of steps 0..3; 0 and 3; 0 and 3
  double embed, norm1, attn_o, router, down;
  double parameters;
  std::int64_t choices[8];
  std::size_t num_tensors;
};
ReferenceRun check_goldens(const TrainingConfig& config, const MoeGoldens& g) {
  Result<ReferenceRun> run = run_reference(config, 1);
  REQUIRE(run.ok());
  const std::vector<ReferenceStep>& s = run->steps;
  REQUIRE(s.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(s[i].loss - g.loss[i]) < 1e-9);
  CHECK(std::abs(s[0].balance - g.balance[0]) < 1e-9);
  CHECK(std::abs(s[3].balance - g.balance[1]) < 1e-9);
  CHECK(std::abs(s[0].norm - g.norm[0]) < 1e-9);
  CHECK(std::abs(s[3].norm - g.norm[1]) < 1e-9);
  const auto gradient = [&](const char* name) { return l2(s[0].gradients.at(name)); };
  CHECK(std::abs(gradient("embed.weight") - g.embed) < 1e-9);
  CHECK(std::abs(gradient("layers.0.norm1.weight") - g.norm1) < 1e-9);
  CHECK(std::abs(gradient("layers.0.attn.o.weight") - g.attn_o) < 1e-9);
  CHECK(std::abs(gradient("layers.1.moe.router.weight") - g.router) < 1e-9);
  CHECK(std::abs(gradient("layers.1.moe.experts.3.down.weight") - g.down) < 1e-9);
  double sum = 0;
  for (const auto& [name, t] : run->parameters) sum += l2(t) * l2(t);
  CHECK(std::abs(std::sqrt(sum) - g.parameters) < 1e-9);
  CHECK(s[0].choices.at(1) == std::vector<std::int64_t>(g.choices, g.choices + 8));
  CHECK(s[0].dropped == 0);
  CHECK(run->parameters.size() == g.num_tensors);
  return std::move(*run);
}

TEST_CASE("autograd reference: goldens of mixtral-tiny") {
  check_goldens(mixtral_tiny(), {{5.966893047246, 5.766237820626, 5.794498074919, 5.823454678216},
                                 {0.131053181481, 0.132414893252},
                                 {1.805166743582, 1.299584784309},
                                 0.652476111081,
                                 0.058167145978,
                                 0.626567208805,
                                 0.063761520691,
                                 0.056261093827,
                                 80.809956277557,
                                 {38, 52, 84, 86, 22, 49, 114, 67},
                                 251});
}

TEST_CASE("autograd reference: goldens of deepseek-tiny") {
  const ReferenceRun run = check_goldens(
      deepseek_tiny(), {{5.823550189939, 5.813032455657, 5.821911524383, 5.805551857471},
                        {0.110960543200, 0.112057046470},
                        {3.185197058526, 2.427060314644},
                        1.539534421612,
                        0.084875714776,
                        0.842434587077,
                        0.058073304930,
                        0.105807836023,
                        82.044331060863,
                        {86, 90, 47, 51, 39, 66, 58, 75},
                        274});
  // Four updates by 0.001, up, down or none. The first layer is dense.
  CHECK(run.router_bias.size() == 7);
  const double bias[] = {-0.004, -0.003, 0.004, -0.002, 0.002, 0, 0, 0.002};
  for (std::size_t i = 0; i < 8; ++i) {
    CAPTURE(i);
    CHECK(std::abs(run.router_bias.at(1)[i] - bias[i]) < 1e-15);
  }
}

// The run behind parity test P25 (models.md 9): capacity 0.75, microbatches of 2 sequences on one
// rank each. How many assignments are dropped does not depend on the mesh.
TEST_CASE("autograd reference: drops of mixtral-tiny at capacity 0.75") {
  TrainingConfig c = mixtral_tiny();
  c.steps = 1;
  c.moe.capacity_factor = 0.75;
  c.moe.drop_groups = 1;
  const Result<ReferenceRun> run = run_reference(c, 0);
  REQUIRE(run.ok());
  CHECK(run->steps[0].dropped == 1994);
}

// A width of heads that is not hidden / heads, and other key/value heads: shapes and losses follow.
TEST_CASE("autograd reference: llama by its other fields") {
  TrainingConfig c = llama_tiny();
  c.steps = 1;
  c.head_dim = 8;
  const Result<ReferenceRun> run = run_reference(c, 0);
  const auto shape = [&](const char* name) {
    const FullTensor& t = run->parameters.at(name);
    return std::pair(t.rows, t.columns);
  };
  CHECK(shape("layers.3.attn.q.weight") == std::pair<std::int64_t, std::int64_t>(32, 64));
  CHECK(shape("layers.3.attn.k.weight") == std::pair<std::int64_t, std::int64_t>(16, 64));
  CHECK(shape("layers.3.attn.o.weight") == std::pair<std::int64_t, std::int64_t>(64, 32));
  CHECK(shape("layers.3.mlp.down.weight") == std::pair<std::int64_t, std::int64_t>(64, 128));
  CHECK(run->steps[0].loss > 0);
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

// Offsets by a Philox written apart from ours: the same counter with FNV-1a-64("validation").
TEST_CASE("validation data: the last tenth, its own offsets, the same at every evaluation") {
  TrainingConfig c = gpt_tiny();
  const std::uint64_t expected[] = {7724, 8922, 8953, 3575, 7551, 1041};
  for (std::uint64_t i = 0; i < 6; ++i)
    CHECK(BatchSource::offset(c, i, 10'000, DataPart::validation) == expected[i]);
  // Ones are trained on, twos are not.
  char path[] = "/tmp/tandem-validation-XXXXXX";
  const int file = ::mkstemp(path);
  REQUIRE(file >= 0);
  ::close(file);
  const std::string trained(900, '\1'), kept(100, '\2');
  REQUIRE(write_file_atomic(path, trained + kept).ok());
  c.data_kind = "text";
  c.data_path = path;
  const Result<BatchSource> training = BatchSource::open(c),
                            validation = BatchSource::open(c, DataPart::validation);
  REQUIRE(training.ok());
  REQUIRE(validation.ok());
  for (int step = 0; step < 20; ++step) {
    std::int64_t tokens[2 * 33];
    training->fill(tokens, step, 1, 0, 1);
    CHECK(std::count(std::begin(tokens), std::end(tokens), 1) == 66);
    validation->fill(tokens, step, 1, 0, 1);
    CHECK(std::count(std::begin(tokens), std::end(tokens), 2) == 66);
  }
  c.sequence = 100;  // as long as the tenth: no offset is left
  const auto short_text = BatchSource::open(c, DataPart::validation);
  CHECK(BatchSource::open(c).ok());
  REQUIRE_FALSE(short_text.ok());
  CHECK(short_text.error().diagnostics[0].code == "E-EXEC-033");
  CHECK(short_text.error().diagnostics[0].found.find("100 bytes to evaluate") == 0);
  std::remove(path);
}

TEST_CASE("validation data, random: other tokens than those of any step, the same on every mesh") {
  const TrainingConfig c = gpt_tiny();
  const Result<BatchSource> training = BatchSource::open(c),
                            validation = BatchSource::open(c, DataPart::validation);
  const auto batch = [](const BatchSource& source, int step, int microbatch, int data, int num) {
    std::vector<std::int64_t> tokens(2 * 33);
    source.fill(tokens.data(), step, microbatch, data, num);
    return tokens;
  };
  const auto first = batch(*validation, 0, 0, 0, 1);
  CHECK(first != batch(*validation, 1, 0, 0, 1));
  for (int step = 0; step < 100; ++step) CHECK(first != batch(*training, step, 0, 0, 1));
  // Microbatch 3 of one rank is microbatch 1 of the second of two.
  CHECK(batch(*validation, 4, 3, 0, 1) == batch(*validation, 4, 1, 1, 2));
}

TEST_CASE("text data: offsets are the goldens of models.md 8.2") {
  TrainingConfig c = gpt_tiny();
  const std::uint64_t expected[] = {95703, 59377, 37611, 32199, 48406, 68321};
  for (std::uint64_t i = 0; i < 6; ++i) CHECK(BatchSource::offset(c, i, 100'000) == expected[i]);
  c.sampler = "sequential";
  CHECK(BatchSource::offset(c, 3, 100'000) == 96);
  CHECK(BatchSource::offset(c, 3, 10'000, DataPart::validation) == 96);
}

}  // namespace tandem::exec
