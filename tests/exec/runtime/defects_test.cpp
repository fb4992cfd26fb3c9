// Goal    each of the eleven faults that the first system showed (models.md 4.10) is one that our
//         tests see. Method: the right plan runs and equals plain autograd; then the same plan runs
//         with the faulty rule, put in between a rank and its transport or its data, and the
//         comparison must fail. In most of them the loss of the step stays right to the last
//         digits: that is why every gradient is compared.
//           1 to 5, 7, 9, 10   here
//           6                  rope: kernels_test.cpp, "defect 6"
//           8                  order of messages: verify/deadlock_test.cpp, "N1", "N3" and "N8"
//           11                 printed groups: tests/tools/plan_test.cpp, "--groups"
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "common/base/file.h"
#include "common/plan/build.h"
#include "common/scenario/read.h"
#include "exec/train/data.h"
#include "exec/train/init.h"
#include "exec/train/shard.h"
#include "tests/exec/runtime/run_plan.h"

namespace tandem::exec {
namespace {

const std::string kText = TANDEM_SOURCE_DIR "/scenarios/data/corpus.txt";

struct Job {
  Scenario scenario;
  TrainingConfig config;
};

Job job(const std::string& model, const std::string& training, const std::string& parallel) {
  auto s = read_scenario_text(
      "defects.yaml", "tandem: 1\nseed: 1234\nmodel: " + model +
                          "\ntraining: {init: test, precision: fp64, global_batch: 8, steps: 1, "
                          "data: {kind: random}, " +
                          training + "}\nparallel: {" + parallel + "}\n");
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  Job out{*s, training_config(*s)};
  out.config.warmup_steps = 0;
  return out;
}

struct Seen {
  double loss, gradient, parameter;
  bool replicas_equal;
  std::string worst;
  [[nodiscard]] bool right() const {
    return loss < 1e-10 && gradient < 1e-10 && parameter < 1e-10 && replicas_equal;
  }
};

Seen seen(const Job& j, const CommHook& hook = {},
          const std::function<TrainingConfig(int)>& config_of = {}) {
  auto plan = build_plan(j.scenario);
  REQUIRE(plan.ok());
  const RunOutcome run = run_plan(
      std::move(*plan), config_of ? config_of : [&](int) { return j.config; }, hook);
  const VerifyReport report = verified(j.config, run);
  return {report.max_rel_loss, report.max_rel_grad, report.max_abs_parameter, report.replicas_equal,
          report.worst_tensor};
}

// The reduction with this tag does not happen, on any member.
CommHook without(std::string tag) {
  return [tag](const HookedCall& c) -> Result<Nanoseconds> {
    return c.tag == tag ? Result<Nanoseconds>(now_ns()) : c.properly();
  };
}

// Before the norm, when all gradients are summed, those whose name has `part` are multiplied.
CommHook scaled(std::string part, double factor) {
  return [=](const HookedCall& c) {
    if (c.tag == "norm") {
      const ProgramId program = c.plan.programs.size() == 1 ? ProgramId{0} : ProgramId{c.op.stage};
      for (BufferId id : tensors_of(c.plan, program, BufferClass::grad)) {
        if (c.plan.name(c.plan.buffer(id).name).find(part) == std::string::npos) continue;
        const View v = c.rank.view(id);
        for (std::int64_t i = 0; i < v.shape.elements(); ++i) v.as<double>()[i] *= factor;
      }
    }
    return c.properly();
  };
}

}  // namespace

TEST_CASE("defect 1: ranks of one model replica must read the same tokens") {
  const Job dense = job("gpt-tiny", "micro_batch: 4", "tp: 2");               // P04
  const Job experts = job("mixtral-tiny", "micro_batch: 4", "tp: 2, ep: 2");  // P22
  for (const Job& j : {dense, experts}) {
    CHECK(seen(j).right());
    const Seen wrong = seen(j, {}, [&](int rank) {
      TrainingConfig c = j.config;
      if (rank == 1) c.data_kind = "text", c.data_path = kText;  // other tokens than rank 0
      return c;
    });
    CHECK_FALSE(wrong.right());
    CHECK(wrong.gradient > 1e-2);
  }
}

TEST_CASE("defect 1: a step's sequences are those of the global batch, each on one data index") {
  const Job j = job("llama-tiny", "micro_batch: 2", "dp: 2");
  auto source = BatchSource::open(j.config);
  REQUIRE(source.ok());
  std::set<std::vector<std::int64_t>> together;
  for (int microbatch = 0; microbatch < 2; ++microbatch)
    for (int index = 0; index < 2; ++index) {
      std::vector<std::int64_t> batch(2 * 33);
      source->fill(batch.data(), 0, microbatch, index, 2);
      together.emplace(batch.begin(), batch.begin() + 33);
      together.emplace(batch.begin() + 33, batch.end());
    }
  CHECK(together.size() == 8);
}

TEST_CASE("defect 2: dense gradients are summed over all ranks that saw other tokens, ep too") {
  const Job j = job("mixtral-tiny", "micro_batch: 2", "pp: 2, dp: 2, ep: 2");  // P25
  Job drops = j;
  drops.scenario.model.moe.capacity_factor = 0.75;
  drops.config.moe.capacity_factor = 0.75;
  for (const Job& each : {j, drops}) {
    CHECK(seen(each).right());
    const Seen wrong = seen(each, without("grad.dp"));
    CHECK_FALSE(wrong.replicas_equal);
    CHECK(wrong.loss < 1e-10);  // of the step itself
  }
}

TEST_CASE("defect 3: gradients of experts are sums, not e times as large") {
  const Job j = job("mixtral-tiny", "micro_batch: 2", "dp: 2, ep: 2");  // P18
  CHECK(seen(j).right());
  const Seen wrong = seen(j, scaled(".experts.", 2));
  CHECK(wrong.loss < 1e-10);
  CHECK(wrong.gradient == doctest::Approx(1).epsilon(1e-6));
  CHECK(wrong.worst.find(".experts.") != std::string::npos);
}

TEST_CASE("defect 4: with sequence parallelism router and norms are summed over tp as well") {
  for (const char* model : {"mixtral-tiny", "deepseek-tiny"}) {
    const Job j = job(model, "micro_batch: 4", "tp: 2, ep: 2, sequence_parallel: true");  // P22
    CHECK(seen(j).right());
    const Seen wrong = seen(j, without("grad.stage"));
    CHECK(wrong.loss < 1e-10);
    CHECK(wrong.gradient > 0.1);
    CHECK_FALSE(wrong.replicas_equal);
  }
}

// Without sequence parallelism the gradient of the latents is summed in place, [n, Q] with the rope
// key in the last columns; with it a scatter does the same.
TEST_CASE("defect 5: the gradient of the rope key is summed over tp with the other latents") {
  Job j = job("{preset: deepseek-tiny, moe: {dense_first: 8}}", "micro_batch: 4", "tp: 2");
  const int width = 32 + 16 + 4, key = 4;
  CHECK(seen(j).right());
  const Seen wrong = seen(j, [&](const HookedCall& c) {
    if (c.tag != "attn.in" || c.op.kind != OpKind::all_reduce) return c.properly();
    auto* latents = reinterpret_cast<double*>(c.operands.data);
    const std::vector<double> own(latents, latents + c.op.count);
    Result<Nanoseconds> done = c.properly();
    for (std::int64_t row = 0; row < c.op.count / width; ++row)
      for (int i = width - key; i < width; ++i) latents[row * width + i] = own[row * width + i];
    return done;
  });
  CHECK(wrong.loss < 1e-10);
  CHECK(wrong.gradient > 0.01);

  j = job("deepseek-tiny", "micro_batch: 4", "tp: 2, sequence_parallel: true");  // P26
  CHECK(seen(j).right());
  const Seen scattered = seen(j, [&](const HookedCall& c) {
    if (c.tag != "attn.in" || c.op.kind != OpKind::reduce_scatter) return c.properly();
    const std::int64_t part = c.op.count / 2, rows = part / width;  // that this member keeps
    const auto* all = reinterpret_cast<const double*>(c.operands.source) +
                      c.plan.header.mesh.coordinate(c.self, Axis::tp) * part;
    const std::vector<double> own(all, all + part);
    Result<Nanoseconds> done = c.properly();
    auto* latents = reinterpret_cast<double*>(c.operands.data);
    for (std::int64_t row = 0; row < rows; ++row)
      for (int i = width - key; i < width; ++i) latents[row * width + i] = own[row * width + i];
    return done;
  });
  CHECK(scattered.loss < 1e-10);
  CHECK(scattered.gradient > 0.01);
}

// Labels are the tokens shifted by one; a second shift gives another loss at once.
TEST_CASE("defect 7: labels are shifted once, and the balance loss is in every gradient") {
  const Job j = job("llama-tiny", "micro_batch: 2", "pp: 2");
  CHECK(seen(j).right());
  // The last stage reads its tokens one position later: its labels are shifted twice.
  const auto folder = std::filesystem::temp_directory_path() / "tandem_defect_7";
  std::filesystem::create_directories(folder);
  auto text = read_file(kText, 1 << 24);
  REQUIRE(text.ok());
  REQUIRE(write_file_atomic((folder / "text").string(), *text).ok());
  REQUIRE(write_file_atomic((folder / "later").string(), text->substr(1) + " ").ok());
  Job of_text = j;
  of_text.config.data_kind = "text";
  of_text.config.data_path = (folder / "text").string();
  CHECK(seen(of_text).right());
  const Seen wrong = seen(of_text, {}, [&](int rank) {
    TrainingConfig c = of_text.config;
    if (rank == 1) c.data_path = (folder / "later").string();
    return c;
  });
  CHECK(wrong.loss > 1e-3);
  std::filesystem::remove_all(folder);

  // Without the balance loss the router's gradient is another one, while the reported loss is not.
  for (const char* parallel : {"dp: 1", "pp: 2", "tp: 2, ep: 2", "dp: 2, ep: 2"}) {
    CAPTURE(parallel);
    const Job balanced = job("mixtral-tiny", "micro_batch: 2", parallel);
    Job forgotten = balanced;
    forgotten.scenario.model.moe.expert_loss = 0;
    CHECK(seen(balanced).right());
    const Seen without_it = seen(forgotten);
    CHECK(without_it.loss < 1e-10);
    CHECK(without_it.gradient > 1e-3);
    CHECK(without_it.worst.find("router") != std::string::npos);
  }
}

TEST_CASE("defect 9: gradients of experts are summed over edp, not averaged") {
  const Job j = job("mixtral-tiny", "micro_batch: 1", "dp: 4, ep: 2");  // edp 2
  CHECK(seen(j).right());
  const Seen wrong = seen(j, scaled(".experts.", 0.5));
  CHECK(wrong.loss < 1e-10);
  CHECK(wrong.gradient == doctest::Approx(0.5).epsilon(1e-6));
}

// No fault of that list, but of the same kind: neither a loss nor a gradient of the step shows it.
TEST_CASE("biases of routers follow the choices of the whole stage") {
  const Job j = job("deepseek-tiny", "micro_batch: 2", "dp: 2, ep: 2");
  CHECK(seen(j).right());
  const Seen wrong = seen(j, without("bias"));
  CHECK(wrong.loss < 1e-10);
  CHECK(wrong.gradient < 1e-10);
  CHECK(wrong.parameter >= 0.001);
  CHECK_FALSE(wrong.replicas_equal);
}

namespace {

// Every parameter of the model as the ranks of a mesh hold it at the start.
std::map<std::string, std::vector<double>> initial_tensors(const Job& j) {
  auto plan = build_plan(j.scenario);
  REQUIRE(plan.ok());
  std::map<std::string, std::vector<double>> out;
  for (int r = 0; r < plan->header.mesh.world(); ++r) {
    std::map<BufferId, std::vector<double>> memory;
    const auto view = [&](BufferId id) {
      const Buffer& b = plan->buffer(id);
      std::vector<double>& m = memory[id];
      m.resize(static_cast<std::size_t>(b.shape.elements()));
      return View{reinterpret_cast<std::byte*>(m.data()), b.dtype, b.shape};
    };
    init_parameters(*plan, Rank{r}, j.config, view);
    for (BufferId id : holders(*plan, plan->program_of(Rank{r}), BufferClass::param))
      for (const HeldRange& h : ranges_in(*plan, id, Rank{r})) {
        const Shard& s = h.shard;
        std::vector<double>& full = out[s.name];
        full.resize(static_cast<std::size_t>(s.full_rows * s.full_columns));
        for (std::int64_t i = h.begin; i < h.end; ++i) {
          const std::int64_t row = s.row_begin + i / s.columns,
                             column = s.column_begin + i % s.columns;
          full[static_cast<std::size_t>(row * s.full_columns + column)] =
              memory[id][static_cast<std::size_t>(h.element + i - h.begin)];
        }
      }
  }
  return out;
}

}  // namespace

TEST_CASE("defect 10: the model does not change with tp: names, counts and values") {
  for (const char* model :
       {"gpt-tiny", "{preset: llama-tiny, kv_heads: 4}", "mixtral-tiny", "deepseek-tiny"}) {
    CAPTURE(model);
    const bool few = std::string(model) == "mixtral-tiny";  // two key/value heads
    const Job one = job(model, "micro_batch: 2", "tp: 1");
    const auto expected = initial_tensors(one);
    std::set<std::string> names;
    for (const tandem::Tensor& t : parameter_tensors(model_shape(one.config))) {
      names.insert(t.name);
      CHECK(expected.contains(t.name));
    }
    CHECK(expected.size() == names.size());
    for (const char* parallel : {"tp: 2", "tp: 4", "tp: 2, sequence_parallel: true, pp: 2"}) {
      if (few && std::string(parallel) == "tp: 4") continue;
      CAPTURE(parallel);
      CHECK((initial_tensors(job(model, "micro_batch: 2", parallel)) == expected));
    }
  }
}

}  // namespace tandem::exec
