// training.json: what is written reads back; what is wrong is refused by name. The rate of a step
// against the numbers of models.md 5.
#include "common/plan/training.h"

#include <doctest/doctest.h>

#include <cmath>

#include "common/base/file.h"
#include "common/base/sha256.h"

namespace tandem {
namespace {

TrainingConfig sample() {
  TrainingConfig c;
  c.seed = 0xffffffffffffffffULL;
  c.layers = 2, c.hidden = 64, c.heads = 4, c.ffn_hidden = 256, c.vocab = 256;
  c.max_sequence = c.sequence = 32;
  c.global_batch = 8, c.micro_batch = 2;
  c.lr = 1e-3, c.min_lr = 1e-4, c.lr_warmup_steps = 10, c.decay_steps = 100, c.cosine = true;
  c.clip.reset();
  c.data_path = "a \"quoted\" path";
  return c;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string code_of(const std::string& text) {
  const Result<TrainingConfig> r = training_from_json(text, "training.json");
  return r.ok() ? "ok" : r.error().diagnostics[0].code;
}

}  // namespace

TEST_CASE("training.json reads back what was written") {
  const std::string text = to_json(sample());
  const Result<TrainingConfig> read = training_from_json(text, "training.json");
  REQUIRE(read.ok());
  CHECK(read->seed == 0xffffffffffffffffULL);
  CHECK(!read->clip);
  CHECK(read->lr == 1e-3);
  CHECK(read->data_path == "a \"quoted\" path");
  CHECK(to_json(*read) == text);
  TrainingConfig clipped = sample();
  clipped.clip = 0.1;
  CHECK(training_from_json(to_json(clipped), "f")->clip == 0.1);
}

TEST_CASE("training.json: the fields of llama read back; what does not fit is refused") {
  TrainingConfig c = sample();
  c.family = "llama", c.kv_heads = 2, c.rope_base = 500'000;
  c.sequence = 64;  // no learned positions: longer than max_sequence
  const std::string text = to_json(c);
  const Result<TrainingConfig> read = training_from_json(text, "training.json");
  REQUIRE(read.ok());
  CHECK(to_json(*read) == text);
  CHECK(kv_heads_of(*read) == 2);
  CHECK(head_dim_of(*read) == 16);
  CHECK(kv_heads_of(sample()) == 4);
  CHECK(code_of(replaced(text, "\"kv_heads\": 2", "\"kv_heads\": 3")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"kv_heads\": 2", "\"kv_heads\": -2")) == "E-EXEC-030");
  CHECK(code_of(replaced(to_json(sample()), "\"kv_heads\": 0", "\"kv_heads\": 2")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"head_dim\": 0", "\"head_dim\": 15")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"rope_base\": 500000.0", "\"rope_base\": 0.0")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"family\": \"llama\"", "\"family\": \"mixtral\"")) ==
        "E-EXEC-030");  // without experts
  CHECK(code_of(replaced(text, "\"family\": \"llama\"", "\"family\": \"gpt\"")) == "E-EXEC-030");
}

TEST_CASE("training.json: experts and latent attention read back; what does not fit is refused") {
  TrainingConfig c = sample();
  c.family = "deepseek_v3", c.cp = 2;
  c.mla = {.q_rank = 32, .kv_rank = 16, .nope_dim = 8, .rope_dim = 4, .v_dim = 8};
  c.moe.experts = 8, c.moe.top_k = 3, c.moe.expert_hidden = 32, c.moe.shared_experts = 1;
  c.moe.router = RouterKind::sigmoid, c.moe.groups = 4, c.moe.groups_kept = 2, c.moe.scale = 1.5;
  c.moe.dense_first = 1, c.moe.every = 2, c.moe.capacity_factor = 1.25, c.moe.drop_groups = 4;
  c.moe.expert_loss = 0.01, c.moe.device_loss = 0.005, c.moe.bias_update = 0.001;
  c.moe.scope = BalanceScope::microbatch, c.moe.device_groups = 2;
  const std::string text = to_json(c);
  const Result<TrainingConfig> read = training_from_json(text, "training.json");
  REQUIRE(read.ok());
  CHECK(to_json(*read) == text);
  CHECK(read->moe == c.moe);
  CHECK(read->mla == c.mla);
  CHECK(read->cp == 2);
  c.moe.capacity_factor.reset();
  CHECK(training_from_json(to_json(c), "f")->moe == c.moe);
  const std::pair<const char*, const char*> wrong[] = {
      {"\"experts\": 8", "\"experts\": 7"},
      {"\"experts\": 8", "\"expertz\": 8"},
      {"\"experts\": 8", "\"more\": 1, \"experts\": 8"},
      {"\"top_k\": 3", "\"top_k\": 5"},  // two groups of two are kept
      {"\"top_k\": 3", "\"top_k\": 0"},
      {"\"expert_hidden\": 32", "\"expert_hidden\": 0"},
      {"\"groups_kept\": 2", "\"groups_kept\": 5"},
      {"\"every\": 2", "\"every\": 0"},
      {"\"sigmoid\"", "\"softmax\""},  // has no bias to update
      {"\"sigmoid\"", "\"tanh\""},
      {"\"microbatch\"", "\"batch\""},
      {"\"capacity_factor\": 1.25", "\"capacity_factor\": 0.0"},
      {"\"drop_groups\": 4", "\"drop_groups\": 3"},
      {"\"drop_groups\": 4", "\"drop_groups\": 1"},  // cp parts have a limit each
      {"\"device_groups\": 2", "\"device_groups\": 3"},
      {"\"kv_rank\": 16", "\"kv_rank\": 0"},
      {"\"rope_dim\": 4", "\"rope_dim\": 3"},
      {"\"v_dim\": 8", "\"v_dim\": 0"},
      {"\"cp\": 2", "\"cp\": 0"},
      {"\"family\": \"deepseek_v3\"", "\"family\": \"mixtral\""},  // has no latent attention
      {"\"family\": \"deepseek_v3\"", "\"family\": \"llama\""},
  };
  for (const auto& change : wrong) {
    CAPTURE(change.second);
    CHECK(code_of(replaced(text, change.first, change.second)) == "E-EXEC-030");
  }
  const std::size_t begin = text.find("{", text.find("\"mla\""));
  const std::string number =
      std::string(text).replace(begin, text.find("}", begin) + 1 - begin, "3");
  CHECK(code_of(number) == "E-EXEC-030");  // no object
}

TEST_CASE("training config: a scenario's experts, latent attention and parts of a sequence") {
  Scenario s;
  s.model.family = ModelFamily::deepseek_v3;
  s.model.hidden = 64, s.model.heads = 4;
  s.model.moe.experts = 8, s.model.moe.drop_groups = 4;
  s.model.mla.kv_rank = 16;
  s.parallel.cp = 2;
  const TrainingConfig c = training_config(s);
  CHECK(c.family == "deepseek_v3");
  CHECK(c.moe == s.model.moe);
  CHECK(c.mla == s.model.mla);
  CHECK(c.cp == 2);
  const ModelShape shape = model_shape(c);
  CHECK(shape.family == ModelFamily::deepseek_v3);
  CHECK(shape.moe == s.model.moe);
  CHECK(shape.mla == s.model.mla);
  s.model.family = ModelFamily::mixtral;
  CHECK(training_config(s).family == "mixtral");
}

TEST_CASE("training.json: where a run resumes and saves; how many steps it times") {
  TrainingConfig c = sample();
  c.steps = 10, c.warmup_steps = 2;
  c.checkpoint_directory = "../ck", c.checkpoint_every = 4;
  c.resume_from = "../ck/step-0000000008", c.first_step = 8, c.check_replicas = 3;
  c.evaluation_every = 5, c.evaluation_batches = 2;
  c.metrics_every = 4, c.peak_flops = 6e10, c.device_bytes = 4e9;
  const std::string text = to_json(c);
  const Result<TrainingConfig> read = training_from_json(text, "training.json");
  REQUIRE(read.ok());
  CHECK(to_json(*read) == text);
  CHECK(read->checkpoint_directory == "../ck");
  CHECK(read->first_step == 8);
  CHECK(total_steps(*read) == 12);
  CHECK(untimed_steps(*read) == 2);  // steps 8 and 9 of this process
  c.first_step = 11;
  CHECK(untimed_steps(c) == 0);  // one step is left, and is timed
  c.first_step = 0;
  CHECK(untimed_steps(c) == 2);
  CHECK(code_of(replaced(text, "\"first_step\": 8", "\"first_step\": 12")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"first_step\": 8", "\"first_step\": -1")) == "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"checkpoint_every\": 4", "\"checkpoint_every\": -4")) ==
        "E-EXEC-030");
  CHECK(read->evaluation_every == 5);
  CHECK(read->evaluation_batches == 2);
  CHECK(evaluates_after(*read, 4));  // four more have been done before
  CHECK_FALSE(evaluates_after(*read, 5));
  c.evaluation_every = 0;
  CHECK_FALSE(evaluates_after(c, 4));
  CHECK(code_of(replaced(text, "\"evaluation_every\": 5", "\"evaluation_every\": -5")) ==
        "E-EXEC-030");
  CHECK(code_of(replaced(text, "\"evaluation_batches\": 2", "\"evaluation_batches\": 0")) ==
        "E-EXEC-030");
  CHECK(measures_after(*read, 3));
  CHECK_FALSE(measures_after(*read, 4));
  CHECK_FALSE(measures_after(c, 4));
  CHECK(read->peak_flops == 6e10);
  CHECK(read->device_bytes == 4e9);
  for (const char* key : {"\"metrics_every\": 4", "\"peak_flops\": 6", "\"device_bytes\": 4"}) {
    std::string negative = key;
    negative.insert(negative.find(": ") + 2, "-");
    CHECK(code_of(replaced(text, key, negative)) == "E-EXEC-030");
  }
}

// W = 4 ranks share 2 cores of 60 Gflop/s: 120. The devices of another cluster do not run here.
TEST_CASE("training config: the peak of the cores that the ranks share, and a device's memory") {
  Scenario s;
  s.model.hidden = 64, s.model.heads = 4;
  s.parallel.dp = 4;
  s.cluster.device.peak = {{"fp32", 60e9}};
  s.cluster.device.memory = 4'000'000'000;
  s.cluster.cores_per_node = 2;
  CHECK(training_config(s).peak_flops == 120e9);
  s.cluster.cores_per_node = 8;
  CHECK(training_config(s).peak_flops == 240e9);
  CHECK(training_config(s).device_bytes == 4e9);
  s.training.precision = Precision::fp64;  // no peak of it
  CHECK(training_config(s).peak_flops == 0);
  s.training.precision = Precision::fp32;
  s.cluster.local = false;
  CHECK(training_config(s).peak_flops == 0);
}

TEST_CASE("training.json: wrong content is refused") {
  const std::string good = to_json(sample());
  CHECK(code_of(good) == "ok");
  CHECK(code_of("") == "E-EXEC-030");
  CHECK(code_of("[]") == "E-EXEC-030");
  CHECK(code_of(good.substr(0, good.size() / 2)) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"version\": 1", "\"version\": 2")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"steps\": 3", "\"steps\": \"3\"")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"steps\": 3", "\"steps\": 3.5")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"steps\": 3", "\"stepz\": 3")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"steps\": 3,", "\"steps\": 3, \"more\": 1,")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"steps\": 3", "\"steps\": 99999999999")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"heads\": 4", "\"heads\": 5")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"heads\": 4", "\"heads\": 0")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"sequence\": 32", "\"sequence\": 33")) == "E-EXEC-030");
  CHECK(code_of(replaced(good, "\"init\": \"normal\"", "\"init\": \"zeros\"")) == "E-EXEC-030");
}

TEST_CASE("learning rate: warm-up, cosine, minimum") {
  const TrainingConfig c = sample();
  CHECK(learning_rate(c, 0) == doctest::Approx(1e-4).epsilon(1e-12));
  CHECK(learning_rate(c, 4) == doctest::Approx(5e-4).epsilon(1e-12));
  CHECK(learning_rate(c, 9) == doctest::Approx(1e-3).epsilon(1e-12));
  CHECK(learning_rate(c, 10) == doctest::Approx(1e-3).epsilon(1e-12));
  CHECK(learning_rate(c, 11) == doctest::Approx(9.99725872e-4).epsilon(1e-9));
  CHECK(learning_rate(c, 55) == doctest::Approx(5.5e-4).epsilon(1e-12));
  CHECK(learning_rate(c, 99) == doctest::Approx(1.00274128e-4).epsilon(1e-8));
  CHECK(learning_rate(c, 100) == 1e-4);
  CHECK(learning_rate(c, 1'000'000) == 1e-4);
  TrainingConfig flat = c;
  flat.cosine = false;
  CHECK(learning_rate(flat, 4) == doctest::Approx(5e-4).epsilon(1e-12));
  CHECK(learning_rate(flat, 5000) == 1e-3);
}

// Losses of runs on the built-in text are comparable between versions only while these bytes are.
TEST_CASE("the shipped text is the one that tools/make_corpus wrote") {
  const Result<std::string> text =
      read_file(TANDEM_SOURCE_DIR "/scenarios/data/corpus.txt", 10 << 20);
  REQUIRE(text.ok());
  CHECK(text->size() >= 100'000);
  CHECK(sha256_hex(*text) == "d6a70630cf9775f06e1345859aca3f10ad013cfb178514d720b8712794c1ed6a");
}

}  // namespace tandem
