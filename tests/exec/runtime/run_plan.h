// Whole plans run for tests: ranks are threads of this process with an in-memory transport, and
// what they hold goes to the comparison with plain autograd (exec/train/verify.h).
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "exec/runtime/on_cpu.h"
#include "exec/train/verify.h"
#include "tests/exec/runtime/memory_comm.h"

namespace tandem::exec {

struct RunOutcome {
  Plan plan;
  std::vector<std::vector<StepResult>> steps;  // by rank
  std::vector<Timeline> timelines;
  // Gradients of every step and parameters of all ranks; `bytes` of `kept` back the views.
  std::vector<RankTensors> tensors;
  std::vector<std::unique_ptr<std::string>> kept;
};

// One communication of a rank: carries it out by `properly()`, or does what a test wants instead.
// `self` is whose op it is, `rank` its interpreter.
struct HookedCall {
  Rank self;
  const Plan& plan;
  const Op& op;
  std::string_view tag;
  const CommOperands& operands;
  const Interpreter& rank;
  std::function<Result<Nanoseconds>()> properly;
};
using CommHook = std::function<Result<Nanoseconds>(const HookedCall&)>;

class HookedComm final : public CommBackend {
 public:
  HookedComm(const Plan& plan, Meeting& meeting, Rank rank, const CommHook& hook)
      : plan_(plan), rank_(rank), inner_(meeting, rank), hook_(hook) {}
  void of(const Interpreter& rank) { interpreter_ = &rank; }
  Result<Nanoseconds> run(OpId id, int step, const CommOperands& operands) override {
    const auto properly = [&] { return inner_.run(id, step, operands); };
    if (!hook_) return properly();
    const Op& op = plan_.op(id);
    return hook_({rank_, plan_, op, plan_.name(op.tag), operands, *interpreter_, properly});
  }
  void abort() override { inner_.abort(); }

 private:
  const Plan& plan_;
  const Rank rank_;
  MemoryComm inner_;
  const CommHook& hook_;
  const Interpreter* interpreter_ = nullptr;
};

// Tensors of a class by their own names, not the buckets that they lie in; of gradients those that
// are whole (a tied embedding's second part is not).
inline std::vector<BufferId> tensors_of(const Plan& plan, ProgramId program, BufferClass cls) {
  std::vector<BufferId> out, holders = exec::holders(plan, program, cls);
  if (cls == BufferClass::grad) holders = reduced_gradients(plan, program);
  for (BufferId holder : holders) {
    std::vector<BufferId> views;
    for (std::size_t i = 0; i < plan.buffers.size(); ++i)
      if (plan.buffers[i].alias_of == holder) views.push_back(BufferId{static_cast<int>(i)});
    if (views.empty()) views = {holder};
    out.insert(out.end(), views.begin(), views.end());
  }
  std::sort(out.begin(), out.end());
  return out;
}

inline void copy_tensors(const Plan& plan, Rank rank, const Interpreter& interpreter,
                         TensorKind kind, int step, RankTensors& out,
                         std::vector<std::unique_ptr<std::string>>& keep) {
  const ProgramId program = plan.program_of(rank);
  const auto cls = kind == TensorKind::gradient ? BufferClass::grad : BufferClass::param;
  std::vector<BufferId> list = tensors_of(plan, program, cls);
  if (kind == TensorKind::parameter)
    for (BufferId id : final_tensors(plan, program))
      if (plan.buffer(id).cls == BufferClass::optim) list.push_back(id);
  for (BufferId id : list) {
    const View v = interpreter.view(id);
    keep.push_back(std::make_unique<std::string>(
        reinterpret_cast<const char*>(v.data),
        static_cast<std::size_t>(v.shape.elements() * size_of(v.dtype))));
    out.tensors.push_back({kind, step, id, size_of(v.dtype), *keep.back()});
  }
}

// `config_of`: what rank r is told; a test may tell one something else. Fails the test on any
// error.
inline RunOutcome run_plan(Plan plan, const std::function<TrainingConfig(int)>& config_of,
                           const CommHook& hook = {}) {
  RunOutcome out;
  out.plan = std::move(plan);
  const int world = out.plan.header.mesh.world();
  const auto n = static_cast<std::size_t>(world);
  out.steps.resize(n), out.timelines.resize(n), out.tensors.resize(n);
  std::vector<std::string> errors(n);
  std::vector<std::vector<std::unique_ptr<std::string>>> kept(n);
  Meeting meeting(out.plan);
  std::vector<std::thread> threads;
  for (int r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      const auto i = static_cast<std::size_t>(r);
      const TrainingConfig config = config_of(r);
      HookedComm comm(out.plan, meeting, Rank{r}, hook);
      ChoiceLog choices;
      auto interpreter = interpreter_on_cpu(out.plan, Rank{r}, config, comm, nullptr, &choices);
      if (!interpreter) {
        errors[i] = to_text(interpreter.error().diagnostics);
        comm.abort();
        return;
      }
      comm.of(**interpreter);
      out.tensors[i].rank = Rank{r};
      for (int step = 0; step < config.steps; ++step) {
        Result<StepResult> result = (*interpreter)->run_step(true);
        if (!result) {
          errors[i] = to_text(result.error().diagnostics);
          comm.abort();
          return;
        }
        out.steps[i].push_back(*result);
        copy_tensors(out.plan, Rank{r}, **interpreter, TensorKind::gradient, step, out.tensors[i],
                     kept[i]);
        if (keeps_parameters(config, step))
          copy_tensors(out.plan, Rank{r}, **interpreter, TensorKind::parameter, step,
                       out.tensors[i], kept[i]);
        for (RoutedTokens& routed : choices.routed)
          out.tensors[i].choices.push_back({step, false, std::move(routed)});
      }
      out.timelines[i] = (*interpreter)->take_timeline();
    });
  for (std::thread& t : threads) t.join();
  for (const std::string& e : errors) REQUIRE_MESSAGE(e.empty(), e);
  for (auto& k : kept)
    for (auto& text : k) out.kept.push_back(std::move(text));
  return out;
}

inline VerifyReport verified(const TrainingConfig& config, const RunOutcome& run) {
  std::vector<double> losses, norms;
  for (const StepResult& s : run.steps[0]) {
    losses.push_back(s.loss);
    norms.push_back(s.norm);
  }
  Result<VerifyReport> report = verify_run(run.plan, config, run.tensors, losses, norms);
  REQUIRE_MESSAGE(report.ok(), (report.ok() ? "" : to_text(report.error().diagnostics)));
  return *report;
}

}  // namespace tandem::exec
