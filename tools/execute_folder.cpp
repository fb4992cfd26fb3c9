// See execute_folder.h.
#include "tools/execute_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "common/scenario/validate.h"
#include "tools/executor.h"
#include "tools/training.h"

namespace tandem::tools {
namespace {

std::string mebibytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string losses_text(const ExecuteSummary& s) {
  std::string out =
      s.first_step > 0 ? fmt::format("losses from step {} on", s.first_step + 1) : "losses";
  for (std::size_t i = 0; i < s.losses.size(); ++i)
    out += fmt::format(" {:.4f}{}", s.losses[i], static_cast<int>(i) < s.warmup_steps ? "*" : "");
  return out + (s.warmup_steps > 0 ? "   (* warm-up)\n" : "\n");
}

Json to_json(const ChoiceSummary& c) {
  const auto differences = [](const ChoiceSummary::Differences& d) {
    return Json{{"differed", d.count}, {"largest_gap", d.largest_gap}, {"largest", d.largest}};
  };
  Json out = {{"routings", c.routings}, {"replayed", c.replayed}};
  out.update(differences(c.on_its_own));
  out["judged"] = differences(c.judged);
  out["judged"]["allowed_gap"] = c.allowed_gap;
  out["judged"]["wrong"] = c.num_wrong;
  return out;
}

// Nothing where all choices are the reference's own.
std::string choices_text(const ChoiceSummary& c) {
  if (c.num_wrong > 0)
    return fmt::format("verify: {} of {} choices of experts are wrong ({}; {:.2g} allowed)\n",
                       c.num_wrong, c.routings, c.judged.largest, c.allowed_gap);
  if (c.on_its_own.count == 0 && c.judged.count == 0) return "";
  return fmt::format(
      "verify: the reference took {} of {} choices of experts over from the run (largest gap of "
      "scores {:.2g}); where the run stood {} are near ties (largest gap {:.2g}, allowed {:.2g})\n",
      c.on_its_own.count, c.routings, c.on_its_own.largest_gap, c.judged.count,
      c.judged.largest_gap, c.allowed_gap);
}

}  // namespace

Status check_executable_here(const Scenario& scenario) {
  if (Diagnostics bad = check_executable(scenario); !bad.empty())
    return Error{Failure::infeasible, std::move(bad)};
  switch (scenario.execute.device) {
    case DeviceKind::cpu:
      return check_executor();
    case DeviceKind::rehearsal:
      return Ok{};
    case DeviceKind::cuda:
      break;
  }
  return make_error(Failure::execution, "E-EXEC-017", "the device is not built in", "cuda",
                    "cpu or rehearsal", "run with --device cpu; simulate predicts other devices");
}

Result<ExecuteSummary> execute_in_folder(Context& context, const PlanInput& in,
                                         const std::string& folder, const ExecuteFlags& flags) {
  ExecuteRequest request;
  request.plan = &in.plan;
  if (in.evaluation) request.evaluation = &in.evaluation->plan;
  if (in.settling) request.settling = &in.settling->plan;
  request.plan_id = in.id;
  request.config = training_config(in.scenario, flags.verify);
  request.config.resume_from = flags.checkpoints.resume_from;
  request.config.first_step = flags.checkpoints.first_step;
  request.config.check_replicas = flags.check_replicas;
  request.rehearsal = flags.rehearsal;
  if (flags.rehearsal) {
    request.config.data_kind = "random";  // no text is read
    request.config.deterministic = true;  // all members of a collective meet each other
  }
  request.run_dir = folder;
  request.predicted_step_s = flags.predicted_step_s;
  if (Status s = remove_old_results(folder, request.config.first_step); !s) return s.error();
  std::error_code failed;
  if (!flags.rehearsal) std::filesystem::remove(folder + "/rehearsal.json", failed);
  if (Status s = write_training(folder, request.config); !s) return s.error();
  ExecuteSink sink;
  sink.line = [&](int rank, bool, std::string_view line) {
    context.message(rank < 0 ? fmt::format("[verify] {}", line)
                             : fmt::format("[{}] {}", rank, line));
  };
  sink.progress = [&](std::string_view text) { context.progress(text); };
  sink.note = [&](std::string_view text) { context.message(text); };
  Result<ExecuteSummary> summary = execute_run(request, sink);
  if (!summary) return summary;
  if (Status s = write_summary(folder, in.id, "measured", to_json(*summary)); !s) return s.error();
  return summary;
}

Status adopt_results(RunDir& dir) {
  for (const char* name : {"training.json", "summary.json", "measured.pftrace", "routing.csv",
                           "metrics.jsonl", "verify.json", "rehearsal.json"}) {
    std::error_code failed;
    if (!std::filesystem::is_regular_file(dir.path_of(name), failed))
      dir.forget(name);
    else if (Status s = dir.adopt(name); !s)
      return s;
  }
  return Ok{};
}

Json to_json(const ExecuteSummary& s) {
  Json out = {{"iteration_s", s.iteration_s},
              {"losses", s.losses},
              {"peak_bytes", s.peak_bytes},
              {"ranks", s.ranks},
              {"first_step", s.first_step},
              {"warmup_steps", s.warmup_steps},
              {"step_s", s.step_s},
              {"tokens_per_s", s.tokens_per_s},
              {"peak_by_class", s.peak_by_class},
              {"kernel_scratch_bytes", s.kernel_scratch_bytes},
              {"pinned", s.pinned},
              {"checkpoint_s", s.checkpoint_s},
              {"evaluation_s", s.evaluation_s},
              {"wall_s", s.wall_s}};
  if (s.roll_backs) out["roll_backs"] = *s.roll_backs;
  out["evaluations"] = Json::array();
  for (const EvaluationSummary& e : s.evaluations)
    out["evaluations"].push_back({{"step", e.step}, {"loss", e.loss}});
  out["communication"] = Json::object();
  for (const auto& [name, moved] : s.communication)
    out["communication"][name] = {{"calls", moved.calls},
                                  {"bytes_in", moved.bytes_in},
                                  {"bytes_sent", moved.bytes_sent},
                                  {"bytes_sent_by_law", moved.bytes_sent_by_law}};
  if (!s.experts.empty()) {
    out["dropped_share"] = s.dropped_share;
    out["routing_steps"] = s.routing_steps;
    for (const ExpertLoad& load : s.experts)
      out["experts"].push_back({{"layer", load.layer},
                                {"choices", load.choices},
                                {"max_over_mean", load.max_over_mean},
                                {"rank_max_over_mean", load.rank_max_over_mean},
                                {"entropy", load.entropy}});
  }
  if (s.verify) {
    Json& verify = out["verify"];
    verify = {{"max_rel_loss", s.verify->max_rel_loss},
              {"max_rel_grad", s.verify->max_rel_grad},
              {"max_rel_norm", s.verify->max_rel_norm},
              {"max_rel_evaluation", s.verify->max_rel_evaluation},
              {"max_abs_parameter", s.verify->max_abs_parameter},
              {"max_abs_bias", s.verify->max_abs_bias},
              {"worst_tensor", s.verify->worst_tensor}};
    if (s.verify->choices) verify["choices"] = to_json(*s.verify->choices);
    verify["replicas_equal"] = s.verify->replicas_equal;
    verify["passed"] = s.verify->passed;
  }
  return out;
}

std::string to_text(const ExecuteSummary& s) {
  std::string out = fmt::format("step {:.2f} ms on {} ranks, {:.0f} tokens/s (median of {})\n",
                                s.iteration_s * 1e3, s.ranks, s.tokens_per_s, s.step_s.size());
  if (!s.losses.empty()) out += losses_text(s);
  if (!s.evaluations.empty()) {
    out += "validation losses after step";
    for (const EvaluationSummary& e : s.evaluations)
      out += fmt::format("  {}: {:.4f}", e.step + 1, e.loss);
    out += "\n";
  }
  if (s.roll_backs)
    out += fmt::format("{} of {} updates rolled back and clipped in the next step\n", *s.roll_backs,
                       s.losses.size());
  out += "peak memory by rank";
  for (std::int64_t bytes : s.peak_bytes) out += "  " + mebibytes(bytes);
  out += "\n";
  if (!s.experts.empty()) {
    const auto worst = std::max_element(
        s.experts.begin(), s.experts.end(),
        [](const ExpertLoad& a, const ExpertLoad& b) { return a.max_over_mean < b.max_over_mean; });
    out += fmt::format("experts: most chosen over mean");
    for (const ExpertLoad& load : s.experts) out += fmt::format(" {:.2f}", load.max_over_mean);
    out += fmt::format(" (worst: layer {}; its ranks {:.2f}); dropped {:.2f} %\n", worst->layer,
                       worst->rank_max_over_mean, 100 * s.dropped_share);
    if (s.routing_steps < std::ssize(s.losses))
      out += fmt::format("routing.csv holds the first {} steps: more would exceed its limit\n",
                         s.routing_steps);
  }
  if (!s.verify) return out;
  out += fmt::format(
      "verify {}: largest relative error of losses {:.2g}, gradients {:.2g} ({}), "
      "norm {:.2g}; replicas {}\n",
      s.verify->passed ? "ok" : "FAILED", s.verify->max_rel_loss, s.verify->max_rel_grad,
      s.verify->worst_tensor, s.verify->max_rel_norm,
      s.verify->replicas_equal ? "equal" : s.verify->replica_difference);
  if (!s.verify->biases_equal)
    out += fmt::format("verify: biases of routers do not follow the choices: {:.2g} apart\n",
                       s.verify->max_abs_bias);
  return out + (s.verify->choices ? choices_text(*s.verify->choices) : "");
}

}  // namespace tandem::tools
