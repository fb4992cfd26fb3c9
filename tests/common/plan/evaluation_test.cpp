// Goal    an evaluation plan is the forward of the training plan and nothing else: the same
// kernels,
//         messages and parameters, no gradient, nothing kept, nothing written that lives for the
//         run.
// Method  both plans of each job side by side, over all families, axes and policies; then plans
// that
//         are no evaluation, by hand, against the verifier and the parser.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "common/plan/build.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/plan/verify/verify.h"
#include "common/scenario/read.h"
#include "tests/common/plan/plan_equal.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

Plan evaluation_of(const Scenario& s) {
  auto p = build_evaluation_plan(s);
  REQUIRE(p.ok());
  return std::move(p).value();
}

const std::vector<std::string> kJobs = {
    "model: gpt-tiny\n",
    "model: gpt-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 4}\n",
    "model: gpt-tiny\ntraining: {global_batch: 12}\nparallel: {pp: 2, tp: 2}\nschedule: gpipe\n",
    "model: gpt-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 4}\n"
    "schedule: {kind: 1f1b, receive: deferred, communicators: pair}\n",
    "model: gpt-tiny\ntraining: {global_batch: 8}\nparallel: {pp: 4}\n"
    "schedule: {kind: gpipe, communicators: world, grouping: runs}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, attention: materialised}\n"
    "parallel: {tp: 2, sequence_parallel: true, dp: 2}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, precision: bf16}\n"
    "parallel: {tp: 2, sequence_parallel: true, vocab_parallel: false, zero: 1, dp: 2}\n",
    "model: gpt-tiny\ntraining: {global_batch: 8}\nparallel: {dp: 2, pp: 2, zero: 2}\n",
    "model: llama-tiny\ntraining: {global_batch: 8, recompute: full}\n"
    "parallel: {dp: 2, pp: 2, zero: 3}\n",
    "model: mixtral-tiny\ntraining: {global_batch: 8}\nparallel: {dp: 2, ep: 2}\n",
    "model: mixtral-tiny\ntraining: {global_batch: 8, recompute: full}\n"
    "parallel: {pp: 2, dp: 2, ep: 2, zero: 3}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8, micro_batch: 2}\n"
    "parallel: {tp: 2, pp: 2, dp: 2, ep: 4, sequence_parallel: true}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8}\nparallel: {dp: 2, ep: 2}\n",
    "model: llama-tiny\ntraining: {global_batch: 8}\nparallel: {cp: 2, tp: 2, pp: 2}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8, recompute: full}\n"
    "parallel: {cp: 2, dp: 2, ep: 2, zero: 3}\n",
    "model: mixtral-tiny\ntraining: {global_batch: 8}\n"
    "parallel: {tp: 2, dp: 2, ep: 2, etp: 2}\n",
    "model: mixtral-tiny\ntraining: {global_batch: 8}\n"
    "parallel: {mapping: nano_train, tp: 2, ep: 2, zero: 1}\n",
    "model: deepseek-tiny\ntraining: {global_batch: 8}\n"
    "parallel: {style: nano_train, tp: 2, pp: 2, ep: 2, dp: 2, zero: 1}\n",
    "model: nano-train\ntraining: {global_batch: 16, micro_batch: 8}\n"
    "parallel: {style: nano_train, pp: 2, ep: 2, zero: 2}\n"};

// Of the forwards of a program: kernels with their stages, layers and microbatches, messages and
// reductions with their bytes; how often each.
using Work = std::map<std::string, int>;
Work forwards(const Plan& plan, int program) {
  Work out;
  for (const Op& o : plan.ops_of(ProgramId{program})) {
    if (o.phase != Phase::F) continue;
    const std::string at = fmt::format("s{} l{} mb{} ", o.stage, o.layer, o.microbatch);
    for (const Call& c : plan.calls_of(o)) ++out[at + to_text(plan.kernel(c.kernel))];
    if (is_communication(o.kind))
      ++out[at + fmt::format("{} {} {}", name_of(o.kind), plan.name(o.tag), Plan::bytes_in(o))];
  }
  return out;
}

bool steers_training(const std::string& work) {
  return work.find("balance_fwd") != std::string::npos || work.find(" aux ") != std::string::npos ||
         work.find("latent_merge_bwd_input") != std::string::npos;  // rows kept for a backward
}

// What lives for the run, by class and name.
using Held = std::map<std::pair<std::string, std::string>, std::tuple<DType, Bytes, Bytes>>;
Held held(const Plan& plan, int program) {
  Held out;
  for (const BufferId id : plan.persistent(ProgramId{program})) {
    const Buffer& b = plan.buffer(id);
    if (b.window) continue;  // what an update covers at once
    if (b.cls == BufferClass::param || b.cls == BufferClass::optim)
      out[{std::string(name_of(b.cls)), plan.name(b.name)}] = {b.dtype, b.bytes(), b.alias_offset};
  }
  return out;
}

}  // namespace

TEST_CASE("an evaluation verifies, and its text reads back") {
  for (const std::string& job : kJobs) {
    CAPTURE(job);
    const Plan plan = evaluation_of(scenario(job));
    CHECK(plan.header.evaluation);
    const Verification v = verify_plan(plan);
    CHECK_MESSAGE(v.ok(), to_text(v.errors));
    CHECK(v.deadlock_free);
    CHECK(v.memory_order);
    for (const ProgramMemory& m : v.programs) CHECK(m.peak_w == 1);
    const std::string text = print(plan);
    const auto first_line = text.substr(0, text.find('\n'));
    CHECK(first_line.ends_with(" evaluation"));
    auto again = parse_plan(text, "plan.txt");
    REQUIRE(again.ok());
    check_equal(plan, *again);
    CHECK(print(*again) == text);
  }
}

TEST_CASE("an evaluation is the forward of the training plan, with the same parameters") {
  for (const std::string& job : kJobs) {
    CAPTURE(job);
    const Scenario s = scenario(job);
    const Plan plan = evaluation_of(s), training = plan_of(s);
    const Verification v = verify_plan(plan), of_training = verify_plan(training);
    REQUIRE(plan.programs.size() == training.programs.size());
    for (int p = 0; p < s.parallel.pp; ++p) {
      CAPTURE(p);
      Work expected = forwards(training, p);
      std::erase_if(expected, [](const auto& work) { return steers_training(work.first); });
      CHECK(forwards(plan, p) == expected);
      Held parameters = held(training, p);
      std::erase_if(parameters, [](const auto& b) {
        return b.first.first == "optim" && b.first.second.find("router_bias") == std::string::npos;
      });
      CHECK(held(plan, p) == parameters);
      const auto i = static_cast<std::size_t>(p);
      CHECK(v.programs[i].peak < of_training.programs[i].peak);
      for (const BufferClass c :
           {BufferClass::grad, BufferClass::grad_full, BufferClass::grad_activation,
            BufferClass::saved_input, BufferClass::saved_weight})
        CHECK(v.programs[i].by_class[static_cast<std::size_t>(c)] == 0);
    }
    for (const Op& o : plan.ops)
      CHECK((o.phase == Phase::F || o.phase == Phase::D || o.phase == Phase::O));
  }
}

// gpt-tiny on one rank: of a layer nothing is left when its output is there. Widths 64 and 256, 32
// tokens of one sequence in fp32.
TEST_CASE("the peak of activations does not grow with layers or microbatches, by hand") {
  Bytes first = -1;
  for (const int layers : {2, 8})
    for (const int batch : {1, 6}) {
      const Scenario s =
          scenario(fmt::format("model: {{preset: gpt-tiny, layers: {}}}\ntraining: {{global_batch: "
                               "{}, micro_batch: 1}}\n",
                               layers, batch));
      const Verification v = verify_plan(evaluation_of(s));
      const Bytes peak = v.programs[0].by_class[static_cast<std::size_t>(BufferClass::activation)];
      if (first < 0) first = peak;
      CHECK(peak == first);
    }
  // The largest op: h_mid, norm2_out with mean and rstd, both sides of gelu, fc2's partial output.
  // It begins with the layer's input and attention's partial output.
  const Bytes x = 32 * 64 * 4, wide = 32 * 256 * 4, stat = 2 * 32 * 4;
  CHECK(first == 2 * x + x + x + stat + 2 * wide + x);
}

TEST_CASE("evaluation fields change no byte of the training plan") {
  const std::string job = "model: mixtral-tiny\nparallel: {dp: 2, ep: 2}\n";
  const Scenario plain = scenario(job + "training: {global_batch: 8}\n");
  const Scenario evaluated =
      scenario(job + "training: {global_batch: 8, evaluation: {every: 2, batches: 3}}\n");
  CHECK(evaluated.training.evaluation.every == 2);
  CHECK(evaluated.training.evaluation.batches == 3);
  CHECK(print(plan_of(plain)) == print(plan_of(evaluated)));
  CHECK(print(evaluation_of(plain)) == print(evaluation_of(evaluated)));
}

TEST_CASE("evaluation fields without effect are told") {
  const auto warnings = [](const std::string& training) {
    Diagnostics out;
    const auto s =
        read_scenario_text("t.yaml", "tandem: 1\nmodel: gpt-tiny\n" + training, {}, &out);
    REQUIRE(s.ok());
    return to_text(out);
  };
  CHECK(warnings("training: {evaluation: {batches: 2}}\n").find("training.evaluation.batches") !=
        std::string::npos);
  CHECK(warnings("training: {steps: 3, evaluation: {every: 5}}\n")
            .find("training.evaluation.every") != std::string::npos);
  CHECK(warnings("training: {steps: 3, evaluation: {every: 4}}\n") == "");  // and one to warm up
}

TEST_CASE("a plan that trains is no evaluation: V2.2 and V2.6") {
  Plan plan = plan_of(scenario("model: gpt-tiny\ntraining: {global_batch: 2}\n"));
  plan.header.evaluation = true;
  const std::string errors = to_text(verify_plan(plan).errors);
  CHECK(errors.find("E-PLAN-022: V2.2 rank 0 stage 0 mb 0") != std::string::npos);
  CHECK(errors.find("V2.6 rank 0: ") != std::string::npos);
}

TEST_CASE("an evaluation by another name lacks its backward: V2.2") {
  Plan plan = evaluation_of(scenario("model: gpt-tiny\ntraining: {global_batch: 2}\n"));
  plan.header.evaluation = false;
  CHECK(to_text(verify_plan(plan).errors).find("no backward") != std::string::npos);
}

TEST_CASE("the header word has no value, and stands once") {
  std::string text = print(evaluation_of(scenario("model: gpt-tiny\n")));
  const auto at = text.find(" evaluation\n");
  REQUIRE(at != std::string::npos);
  const auto code_of = [&](const std::string& word) {
    std::string changed = text;
    changed.replace(at, std::string(" evaluation").size(), word);
    const auto plan = parse_plan(changed, "plan.txt");
    return plan.ok() ? std::string("none") : plan.error().diagnostics[0].code;
  };
  CHECK(code_of(" evaluation") == "none");
  CHECK(code_of(" evaluation=1") == "E-PLAN-012");
  CHECK(code_of(" evaluation evaluation") == "E-PLAN-016");
  CHECK(code_of(" digest") == "E-PLAN-012");
  CHECK(code_of("") == "none");  // read as a plan; the verifier refuses it
}

TEST_CASE("--dump-after of an evaluation: forwards only, and no gradients to place") {
  const Scenario s = scenario("model: gpt-tiny\ntraining: {global_batch: 4}\nparallel: {pp: 2}\n");
  const auto order = dump_after(s, "p2p", /*evaluation=*/true);
  REQUIRE(order.ok());
  CHECK(order->find('B') == std::string::npos);
  CHECK(order->find("SEND_F") != std::string::npos);
  const auto segments = dump_after(s, "segments", true),
             gradients = dump_after(s, "gradients", true);
  REQUIRE(segments.ok());
  REQUIRE(gradients.ok());
  CHECK(*segments == *gradients);
}

}  // namespace tandem
