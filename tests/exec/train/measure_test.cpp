// Goal    what is measured of a step counts every element once, on every kind of layout: norms of
//         gradients, of parameters and of the step, by tensor, are those of one process.
// Method  ranks are threads; each sums what it owns behind each step, and the sums are put
//         together. Oracles: the same job on one rank, to 1e-10 (fp64; after three steps); the
//         norm that the plan itself reduces; the difference of parameters before and after a step,
//         which the sums take from the moments instead. Then percentiles, parts of a step, files
//         and defects by hand.
#include "exec/train/measure.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/plan/build.h"
#include "common/scenario/read.h"
#include "exec/checkpoint/held.h"
#include "exec/runtime/on_cpu.h"
#include "tests/exec/runtime/memory_comm.h"

namespace tandem::exec {
namespace {

namespace fs = std::filesystem;

constexpr int kSteps = 3;

struct RankRun {
  std::string error;
  std::vector<StepResult> steps;
  std::vector<RankMeasures> measures;                       // by step
  std::vector<std::map<std::string, double>> step_squares;  // of p' - p, by step and tensor
};

struct Job {
  Plan plan;
  TrainingConfig config;
  std::vector<RankRun> ranks;
  [[nodiscard]] std::map<std::string, TensorSums> tensors(std::size_t step) const {
    std::map<std::string, TensorSums> out;
    for (const RankRun& r : ranks)
      for (const auto& [name, sums] : r.measures[step].tensors) out[name] += sums;
    return out;
  }
  [[nodiscard]] Measures combined(std::size_t step) const {
    std::vector<RankMeasures> all;
    for (const RankRun& r : ranks) all.push_back(r.measures[step]);
    return combine(plan, all);
  }
};

// Main parameters of the pieces that the rank owns, by tensor, one behind the other.
std::map<std::string, std::vector<double>> owned(const Plan& plan, Rank rank,
                                                 const BufferMemory& memory) {
  std::map<std::string, std::vector<double>> out;
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    if (!h.is_owner || !h.grad.valid()) continue;
    const auto* first = reinterpret_cast<const double*>(memory(h.main)) + h.main_element;
    std::vector<double>& list = out[h.piece.name];
    list.insert(list.end(), first, first + h.piece.elements());
  }
  return out;
}

void run_one(const Job& run, Rank rank, CommBackend& comm, RankRun& out) {
  auto interpreter = interpreter_on_cpu(run.plan, rank, run.config, comm);
  if (!interpreter) {
    out.error = to_text(interpreter.error().diagnostics);
    comm.abort();
    return;
  }
  const BufferMemory memory = [&](BufferId id) { return (*interpreter)->view(id).data; };
  for (int step = 0; step < kSteps; ++step) {
    const auto before = owned(run.plan, rank, memory);
    // One of the steps is timed: parts come from other spans then.
    const Result<StepResult> result = (*interpreter)->run_step(step == 1);
    if (!result) {
      out.error = to_text(result.error().diagnostics);
      comm.abort();
      return;
    }
    out.steps.push_back(*result);
    RankMeasures m;
    m.rank = static_cast<int>(rank.value), m.step = step;
    m.tensors = tensor_sums(run.plan, rank, run.config, step, memory);
    m.seconds = seconds_of(run.plan, (*interpreter)->last_parts());
    m.choices = (*interpreter)->expert_choices();
    m.bias_spread = bias_spreads(run.plan, rank, memory);
    m.live = (*interpreter)->live_bytes();
    m.peak_bytes = (*interpreter)->peak_bytes();
    m.peak_by_class = (*interpreter)->peak().by_class;
    out.measures.push_back(std::move(m));
    out.step_squares.emplace_back();
    for (const auto& [name, now] : owned(run.plan, rank, memory)) {
      double& sum = out.step_squares.back()[name];
      for (std::size_t i = 0; i < now.size(); ++i) {
        const double d = now[i] - before.at(name)[i];
        sum += d * d;
      }
    }
  }
}

Job execute(const std::string& job) {
  CAPTURE(job);
  auto s = read_scenario_text(
      "t.yaml", "tandem: 1\n" + job,
      {"training.init=test", "training.data.kind=random", "training.precision=fp64",
       "training.global_batch=8", "training.optimizer.lr=1e-2", "execute.warmup_steps=0"});
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  auto plan = build_plan(*s);
  REQUIRE(plan.ok());
  Job run{std::move(*plan), training_config(*s), {}};
  const auto world = static_cast<std::size_t>(run.plan.header.mesh.world());
  run.ranks.resize(world);
  Meeting meeting(run.plan);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      const Rank rank{static_cast<std::int64_t>(r)};
      MemoryComm comm(meeting, rank);
      run_one(run, rank, comm, run.ranks[r]);
    });
  for (std::thread& t : threads) t.join();
  for (const RankRun& r : run.ranks) REQUIRE_MESSAGE(r.error.empty(), r.error);
  return run;
}

// Against the largest of the step: a gradient that is 0 by theory has no relative error.
double error_of(double a, double b, double largest) {
  return std::abs(a - b) / std::max({std::abs(a), std::abs(b), 1e-6 * largest});
}

void check_against(const Job& one, const std::string& job) {
  CAPTURE(job);
  const Job run = execute(job);
  for (std::size_t step = 0; step < kSteps; ++step) {
    CAPTURE(step);
    const auto expected = one.tensors(step), found = run.tensors(step);
    REQUIRE(found.size() == expected.size());
    double worst = 0, squares = 0;
    for (const auto& [name, e] : expected) {
      CAPTURE(name);
      const TensorSums& f = found.at(name);
      CHECK(f.elements == e.elements);
      const double norm = run.ranks[0].steps[step].norm;
      worst = std::max({worst, error_of(std::sqrt(f.gradient), std::sqrt(e.gradient), norm),
                        error_of(std::sqrt(f.parameter), std::sqrt(e.parameter), 0)});
      squares += f.gradient;
      // AdamW divides by the gradient's own size: where that is rounding, so is the step.
      if (std::sqrt(e.gradient) > 1e-6 * norm)
        worst = std::max(worst, error_of(std::sqrt(f.step), std::sqrt(e.step), 0));
      double moved = 0;
      for (const RankRun& r : run.ranks)
        if (const auto it = r.step_squares[step].find(name); it != r.step_squares[step].end())
          moved += it->second;
      CHECK(std::sqrt(f.step) == doctest::Approx(std::sqrt(moved)).epsilon(1e-9));
    }
    CHECK(worst <= 1e-10);
    // The plan's own sum over all ranks (models.md 4.9).
    const double norm = run.ranks[0].steps[step].norm;
    CHECK(std::abs(std::sqrt(squares) - norm) <= 1e-12 * norm);

    const Measures a = one.combined(step), b = run.combined(step);
    REQUIRE(b.norm_by_layer.size() == 8);
    CHECK(a.norm_outside.size() == b.norm_outside.size());
    for (std::size_t l = 0; l < 8; ++l) {
      CHECK(std::abs(b.norm_by_layer[l] - a.norm_by_layer[l]) <= 1e-10 * a.norm_by_layer[l]);
      CHECK(b.update_by_layer[l] == doctest::Approx(a.update_by_layer[l]).epsilon(1e-6));
    }
    CHECK(b.parameter_norm == doctest::Approx(a.parameter_norm).epsilon(1e-10));
    CHECK(b.zero_share == doctest::Approx(a.zero_share).epsilon(1e-3));
    REQUIRE(a.experts.size() == b.experts.size());
    for (std::size_t l = 0; l < a.experts.size(); ++l)
      CHECK_MESSAGE(
          a.experts[l].choices == b.experts[l].choices,
          fmt::format("layer {}: {} against {}", a.experts[l].layer,
                      fmt::join(b.experts[l].choices, " "), fmt::join(a.experts[l].choices, " ")));
    for (const auto& [layer, spread] : a.bias_spread) CHECK(b.bias_spread.at(layer) == spread);
  }
}

}  // namespace

TEST_CASE("measured sums of gpt and llama layouts are those of one process") {
  for (const std::string model : {"gpt-tiny", "llama-tiny"}) {
    const Job one = execute("model: " + model + "\ntraining: {micro_batch: 2}\n");
    for (const char* parallel : {"tp: 2", "dp: 2", "pp: 2", "dp: 2, zero: 1", "dp: 2, zero: 2",
                                 "dp: 2, zero: 3", "cp: 2", "tp: 2, pp: 2, sequence_parallel: true",
                                 "tp: 2, dp: 2, zero: 3, sequence_parallel: true"})
      check_against(
          one, "model: " + model + "\ntraining: {micro_batch: 2}\nparallel: {" + parallel + "}\n");
  }
}

TEST_CASE("measured sums of models with experts are those of one process") {
  for (const std::string model : {"mixtral-tiny", "deepseek-tiny"}) {
    const Job one = execute("model: " + model + "\ntraining: {micro_batch: 2}\n");
    for (const char* parallel :
         {"dp: 2, ep: 2", "mapping: nano_train, ep: 2, ep_data: replicate", "tp: 2, ep: 2",
          "pp: 2, dp: 2, ep: 2, zero: 2", "tp: 2, dp: 2, ep: 2, etp: 2",
          "mapping: nano_train, ep: 2, dp: 2, zero: 1"})
      check_against(
          one, "model: " + model + "\ntraining: {micro_batch: 2}\nparallel: {" + parallel + "}\n");
  }
}

TEST_CASE("padding of the vocabulary is nobody's element; style nano_train's tensors are") {
  const std::string odd = "model: {preset: gpt-tiny, vocab: 251}\ntraining: {micro_batch: 2}\n";
  check_against(execute(odd), odd + "parallel: {tp: 2, dp: 2, zero: 1}\n");
  const std::string style =
      "model: deepseek-tiny\ntraining: {micro_batch: 2}\nparallel: {style: "
      "nano_train";
  const Job one = execute(style + "}\n");
  for (const char* more : {", dp: 2, zero: 1", ", dp: 2, zero: 2", ", ep: 2, pp: 2"})
    check_against(one, style + more + "}\n");
}

TEST_CASE("parts of the time of a step sum to it, timed or not; peaks stand beside the plan's") {
  const Job run =
      execute("model: gpt-tiny\ntraining: {micro_batch: 2}\nparallel: {pp: 2, tp: 2}\n");
  for (std::size_t step = 0; step < kSteps; ++step) {
    double mean = 0;
    for (const RankRun& r : run.ranks) {
      const auto ns = static_cast<double>(r.steps[step].ended - r.steps[step].started);
      double sum = 0;
      for (const auto& [name, seconds] : r.measures[step].seconds) sum += seconds;
      CHECK(sum == doctest::Approx(ns * 1e-9).epsilon(1e-9));
      mean += ns * 1e-9 / 4;
    }
    const Measures m = run.combined(step);
    double sum = m.compute_s + m.host_s + m.idle_s, waiting = 0;
    for (const auto& [name, seconds] : m.exposed_s) sum += seconds;
    for (const auto& [name, seconds] : m.waiting_s) {
      sum += seconds;
      if (name.starts_with("edge:")) waiting += seconds;
    }
    CHECK(sum == doctest::Approx(mean).epsilon(1e-9));
    CHECK(m.compute_s > 0);
    CHECK(m.pipeline_idle_s == doctest::Approx(waiting));
    CHECK(m.pipeline_idle_s > 0);  // rank 2 and 3 have nothing before the first message
    CHECK(m.peak_by_class == m.predicted_by_class);
    CHECK(m.peak_bytes == m.predicted_peak_bytes);
    // Between steps only what lives for the run is there.
    const ProgramId program = run.plan.program_of(Rank{m.fullest_rank});
    CHECK(m.live == persistent_bytes(run.plan)[program.index()]);
  }
}

namespace {

// One rank with tensors of `sums` and nothing else.
Measures measured(const std::map<std::string, TensorSums>& sums) {
  static const Job run = execute("model: gpt-tiny\ntraining: {micro_batch: 4}\n");
  RankMeasures r;
  r.tensors = sums;
  return combine(run.plan, std::vector{r});
}

}  // namespace

// Four tensors with ratios 1, 2, 3 and 4 (and one of zeros, which has none): half of them do not
// exceed 2, 95 % do not exceed 4.
TEST_CASE("norms, ratios and percentiles by hand") {
  const Measures m = measured({{"layers.0.attn.q.weight", {10, 1, 9, 1, 1}},
                               {"layers.0.mlp.fc1.weight", {10, 4, 16, 4, 1}},
                               {"layers.1.attn.q.weight", {10, 0, 4, 9, 1}},
                               {"embed.weight", {10, 5, 36, 64, 4}},
                               {"final_norm.bias", {10, 10, 0, 0, 0}}});
  CHECK(m.norm_by_layer == std::vector<double>{5, 2});
  CHECK(m.first_over_last == 2.5);
  CHECK(m.norm_outside == std::map<std::string, double>{{"embed", 6}, {"final_norm", 0}});
  CHECK(m.zero_share == 0.4);
  CHECK(m.parameter_norm == std::sqrt(7.0));
  CHECK(m.update_ratio == std::sqrt(78.0) / std::sqrt(7.0));
  CHECK(m.update_p50 == 2);
  CHECK(m.update_p95 == 4);
  CHECK(m.update_max == 4);
  CHECK(m.update_max_tensor == "embed.weight");
  CHECK(m.update_by_layer == std::vector<double>{std::sqrt(5.0) / std::sqrt(2.0), 3});
}

TEST_CASE("what the optimizer leaves must be finite") {
  CHECK(check_finite({{"a", {1, 0, 1, 1, 1}}}, 7).ok());
  for (const TensorSums& bad : {TensorSums{1, 0, 1, NAN, 1}, TensorSums{1, 0, 1, 1, INFINITY}}) {
    const Status s = check_finite({{"a", {1, 0, 1, 1, 1}}, {"b", bad}}, 7);
    REQUIRE_FALSE(s.ok());
    CHECK(s.error().failure == Failure::execution);
    CHECK(s.error().diagnostics.front().code == "E-EXEC-031");
    CHECK(s.error().diagnostics.front().found == "b or its moments behind step 7");
  }
}

TEST_CASE("files of measures: read as written; of another step or cut they are refused") {
  std::string folder = (fs::temp_directory_path() / "tandem_measures_XXXXXX").string();
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  fs::create_directory(folder + "/ranks");
  RankMeasures m;
  m.rank = 1, m.step = 5;
  m.tensors["layers.0.attn.q.weight"] = {3, 1, 1.0 / 3, 2e-300, 7e200};
  m.seconds = {{"compute", 0.1}, {"exposed tp", 1e-6}};
  m.choices[2] = {4, 0, 12};
  m.bias_spread[2] = 0.25;
  m.peak_bytes = 1'000'000'000'000;
  m.live[0] = 12, m.peak_by_class[12] = 34;
  m.kernel_scratch_bytes = 56, m.slab_bytes = 78;
  RankMeasures first;
  first.step = 5;
  REQUIRE(write_measures(first, folder).ok());
  REQUIRE(write_measures(m, folder).ok());
  const auto read = read_measures(2, 5, folder);
  REQUIRE(read.ok());
  const RankMeasures& r = (*read)[1];
  CHECK(r.rank == 1);
  const TensorSums &a = r.tensors.at("layers.0.attn.q.weight"), &b = m.tensors.begin()->second;
  CHECK(std::memcmp(&a, &b, sizeof a) == 0);
  CHECK(r.seconds == m.seconds);
  CHECK(r.choices == m.choices);
  CHECK(r.bias_spread == m.bias_spread);
  CHECK(r.peak_bytes == m.peak_bytes);
  CHECK(r.live == m.live);
  CHECK(r.peak_by_class == m.peak_by_class);
  CHECK(r.kernel_scratch_bytes == 56);
  CHECK(r.slab_bytes == 78);
  CHECK_FALSE(read_measures(2, 6, folder).ok());
  CHECK_FALSE(read_measures(3, 5, folder).ok());
  std::ofstream(folder + "/ranks/1.measures.json") << "{\"step\": 5";
  const auto cut = read_measures(2, 5, folder);
  REQUIRE_FALSE(cut.ok());
  CHECK(cut.error().diagnostics.front().code == "E-EXEC-034");
  fs::remove_all(folder);
}

}  // namespace tandem::exec
