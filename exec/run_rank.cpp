// Steps and files of one rank; see execute.h. No LibTorch header, no host layer.
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/timeline/rank_file.h"
#include "exec/checkpoint/load.h"
#include "exec/checkpoint/save.h"
#include "exec/device/clock.h"
#include "exec/device/loaded_pages.h"
#include "exec/device/torch_memory.h"
#include "exec/execute.h"
#include "exec/rank_outcome.h"
#include "exec/runtime/on_cpu.h"
#include "exec/train/evaluation.h"
#include "exec/train/metrics_files.h"
#include "exec/train/rank_tensors.h"
#include "exec/train/replicas.h"
#include "exec/train/settling.h"
#include "exec/train/shard.h"
#include "exec/train/verify.h"

namespace tandem::exec {
namespace {

// What a rank says of its evaluations: losses, and memory and bytes of their plan.
Json evaluation_json(const Plan& plan, Rank rank, const Evaluator& evaluator,
                     const CommBackend& comm) {
  const Interpreter& interpreter = evaluator.interpreter();
  Json out = {{"steps", Json::array()}, {"losses", Json::array()}, {"seconds", Json::array()}};
  for (const EvaluationLoss& e : evaluator.losses()) {
    out["steps"].push_back(e.step);
    out["losses"].push_back(e.loss);
    out["seconds"].push_back(static_cast<double>(e.duration) * 1e-9);
  }
  out["peak_bytes"] = interpreter.peak().total;
  out["peak_by_class"] = by_class(interpreter.peak().by_class);
  if (!interpreter.rows_seen().empty()) out["rows"] = rows_json(interpreter.rows_seen());
  out["kernel_scratch_bytes"] = interpreter.kernel_scratch_peak();
  out["slab_bytes"] = interpreter.slab_bytes();
  out["communication"] = communication(plan, rank, interpreter.communication_calls(), comm);
  return out;
}

BufferMemory memory_of(const Interpreter& interpreter) {
  return [&interpreter](BufferId id) { return interpreter.view(id).data; };
}

// Reads the checkpoint that the run resumes from; the state of a new run otherwise.
Result<TrainingState> start_state(const RunInput& in, Rank rank, const Interpreter& interpreter) {
  if (in.config.resume_from.empty()) return TrainingState{};
  const Result<CheckpointManifest> manifest = read_manifest(in.config.resume_from);
  if (!manifest) return manifest.error();
  if (manifest->state.step != in.config.first_step)
    return make_error(Failure::bad_input, "E-CKPT-003", "the manifest of a checkpoint is damaged",
                      fmt::format("step {}", manifest->state.step),
                      fmt::format("step {}, as the tool found it", in.config.first_step),
                      "change no checkpoint while a run reads it", Location{in.config.resume_from});
  if (Status s = load_rank(*manifest, in.config.resume_from, in.plan, rank, memory_of(interpreter));
      !s)
    return s.error();
  return manifest->state;
}

StepValues values_of(const StepResult& r) {
  return {r.loss,      r.norm,    r.lr,      r.tokens,    r.ended - r.started,
          r.data_wait, r.balance, r.dropped, r.non_finite};
}

// The norm was finite, or the step had stopped before its update.
Status check_loss(const StepResult& r, int step) {
  if (std::isfinite(r.loss) && r.non_finite == 0) return Ok{};
  return make_error(Failure::execution, "E-EXEC-031", "a value that must be finite is not",
                    fmt::format("loss = {} in step {}", r.loss, step), "a finite value",
                    "lower training.optimizer.lr; --resume goes on from the last checkpoint");
}

void say(const Diagnostics& warnings) {
  const std::string text = to_text(warnings);
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

bool is_save_due(const TrainingConfig& c, int steps_done) {
  if (c.checkpoint_directory.empty()) return false;
  return steps_done == total_steps(c) ||
         (c.checkpoint_every > 0 && steps_done % c.checkpoint_every == 0);
}

// What a comparison of choices (replay.h) found; null for models without experts.
Json choices_json(const TrainingConfig& config, const VerifyReport& report) {
  if (!report.choices) return nullptr;
  const auto found = [](const ChoiceCheck& c) {
    return Json{{"differed", c.differed}, {"largest_gap", c.largest_gap}, {"largest", c.largest}};
  };
  Json out = {{"routings", report.choices->routings}, {"replayed", report.judged.has_value()}};
  out.update(found(*report.choices));
  Json judged = found(report.verdict());
  judged["allowed_gap"] = allowed_gap(config);
  judged["wrong"] = report.verdict().wrong;
  out["judged"] = std::move(judged);
  return out;
}

// One rank of a run: its steps, and what is done between them.
class RankRun {
 public:
  // `evaluator`, `settler`: null where the run has none.
  RankRun(const RunInput& in, Rank rank, Interpreter& interpreter, Evaluator* evaluator,
          Settler* settler, Barrier& barrier, std::string run_dir)
      : in_(in),
        rank_(rank),
        interpreter_(interpreter),
        evaluator_(evaluator),
        settler_(settler),
        barrier_(barrier),
        run_dir_(std::move(run_dir)) {}

  // Until the end or the first failure.
  void run(MetricsFiles* metrics, RankTensorWriter* tensors, ChoiceLog& choices,
           OpObserver* observer, Outcome& outcome) {
    Result<TrainingState> state = start_state(in_, rank_, interpreter_);
    if (!state) {
      outcome.error = state.error();
      return;
    }
    state_ = *state;
    const ProgramId program = in_.plan.program_of(rank_);
    const int first_timed = in_.config.first_step + untimed_steps(in_.config);
    for (int step = state_.step; step < total_steps(in_.config); ++step) {
      Ran now{step, step >= first_timed, {}, {}};
      if (measures_after(in_.config, step)) now.choices_before = interpreter_.expert_choices();
      Result<StepResult> result = interpreter_.run_step(now.timed);
      if (!result) {
        outcome.error = result.error();
        return;
      }
      outcome.roll_backs += result->rolled_back ? 1 : 0;
      now.result = *result;
      if (tensors)
        for (BufferId id : reduced_gradients(in_.plan, program))
          tensors->add(TensorKind::gradient, step, id, interpreter_.view(id));
      if (Status s = end_step(std::move(now), metrics, observer, outcome); !s) {
        outcome.error = s.error();
        return;
      }
      if (tensors) keep(*tensors, step, choices);
    }
  }

 private:
  using Choices = std::map<int, std::vector<std::int64_t>>;
  // A step that has run.
  struct Ran {
    int step = 0;
    bool timed = false;
    Choices choices_before;  // where it is measured
    StepResult result;
  };

  // Where updates are checked late, the next step brings the values of this one, or settling does.
  Status end_step(Ran now, MetricsFiles* metrics, OpObserver* observer, Outcome& outcome) {
    if (!settler_) return finish(now, metrics, observer, outcome);
    if (open_) {
      take_values(now.result, open_->result);
      const Ran before = *std::exchange(open_, std::nullopt);
      if (Status s = finish(before, metrics, observer, outcome); !s) return s;
    }
    if (!is_seen_after(now.step)) {
      open_ = std::move(now);
      return Ok{};
    }
    const Result<StepResult> settled = settler_->run(now.step);
    if (!settled) return settled.error();
    take_values(*settled, now.result);
    return finish(now, metrics, observer, outcome);
  }
  static void take_values(const StepResult& from, StepResult& to) {
    to.loss = from.loss, to.norm = from.norm, to.balance = from.balance, to.dropped = from.dropped;
    to.tokens = from.tokens, to.non_finite = from.non_finite;
  }
  // What --verify reads of the step beside its gradients.
  void keep(RankTensorWriter& tensors, int step, const ChoiceLog& choices) const {
    if (keeps_parameters(in_.config, step))
      for (BufferId id : final_tensors(in_.plan, in_.plan.program_of(rank_)))
        tensors.add(TensorKind::parameter, step, id, interpreter_.view(id));
    for (const RoutedTokens& r : choices.routed) tensors.add(step, false, r);
    if (evaluator_ && evaluates_after(in_.config, step))
      for (const RoutedTokens& r : evaluator_->choices().routed) tensors.add(step, true, r);
  }
  // Somebody looks at what the step leaves behind.
  [[nodiscard]] bool is_seen_after(int step) const {
    const TrainingConfig& c = in_.config;
    return step + 1 == total_steps(c) || is_save_due(c, step + 1) || evaluates_after(c, step) ||
           measures_after(c, step) || (c.verify && keeps_parameters(c, step)) ||
           (c.check_replicas > 0 && (step + 1) % c.check_replicas == 0);
  }

  Status finish(const Ran& ran, MetricsFiles* metrics, OpObserver* observer, Outcome& outcome) {
    const StepValues values = values_of(ran.result);
    StepMetrics m = metrics_of(values, state_, in_.config);
    m.timed = ran.timed;
    m.checkpoint_s = static_cast<double>(outcome.saving) * 1e-9;
    if (in_.config.clip) m.clipped_share = clipped_.add(m.clip_coef);
    Status good = check_loss(ran.result, ran.step);
    if (good) {
      outcome.steps.push_back(ran.result);
      good = behind_step(m, measures_after(in_.config, ran.step) ? &ran.choices_before : nullptr);
    }
    if (metrics) note(*metrics, m);  // also of a step that stops the run
    if (!good) return good;
    advance(state_, values);
    if (observer)
      observer->step_ended(ran.step, ran.result.loss, ran.result.tokens,
                           ran.result.ended - ran.result.started,
                           m.evaluation ? std::optional(m.evaluation->loss) : std::nullopt);
    return between_steps(state_, outcome);
  }

  // What is done with what the step has left, before anybody changes it. `choices_before`: null
  // where the step is not measured.
  Status behind_step(StepMetrics& m, const Choices* choices_before) {
    // First: an evaluation and what follows can read what differs.
    if (Status s = check_replicas(m); !s) return s;
    if (choices_before)
      if (Status s = measure(m, *choices_before); !s) return s;
    return evaluate(m);
  }
  Status measure(StepMetrics& m, const Choices& choices_before) {
    const Nanoseconds start = now_ns();
    RankMeasures own;
    own.rank = rank_.value, own.step = m.step;
    own.tensors = tensor_sums(in_.plan, rank_, in_.config, m.step, memory_of(interpreter_));
    if (Status s = check_finite(own.tensors, m.step); !s) return s;
    own.seconds = seconds_of(in_.plan, interpreter_.last_parts());
    own.choices = interpreter_.expert_choices();
    for (const auto& [layer, list] : choices_before)
      for (std::size_t e = 0; e < list.size(); ++e) own.choices[layer][e] -= list[e];
    own.bias_spread = bias_spreads(in_.plan, rank_, memory_of(interpreter_));
    if (evaluator_ && in_.config.metrics_activations) {
      Result<Activations> seen = evaluator_->look(m.step);
      if (!seen) return seen.error();
      own.activations = std::move(*seen);
    }
    own.live = interpreter_.live_bytes();
    own.peak_bytes = interpreter_.peak_bytes();
    own.peak_by_class = interpreter_.peak().by_class;
    own.kernel_scratch_bytes = interpreter_.kernel_scratch_peak();
    own.slab_bytes = interpreter_.slab_bytes();
    if (Status s = write_measures(own, run_dir_); !s) return s;
    if (Status s = barrier_.meet(); !s) return s;
    if (rank_.value != 0) return Ok{};
    const auto all = read_measures(in_.plan.header.mesh.world(), m.step, run_dir_);
    if (!all) return all.error();
    m.measures = combine(in_.plan, *all);
    m.measures->seconds = static_cast<double>(now_ns() - start) * 1e-9;
    largest_peak_ = std::max(largest_peak_, m.measures->peak_bytes);
    return Ok{};
  }
  Status evaluate(StepMetrics& m) {
    if (!evaluator_ || !evaluates_after(in_.config, m.step)) return Ok{};
    const Result<EvaluationLoss> e = evaluator_->run(m.step);
    if (!e) return e.error();
    m.evaluation = {e->loss, std::exp(e->loss), static_cast<double>(e->duration) * 1e-9};
    return Ok{};
  }
  void note(MetricsFiles& files, StepMetrics& m) {
    m.peak_bytes = interpreter_.peak_bytes();
    largest_peak_ = std::max(largest_peak_, m.peak_bytes);
    if (in_.config.device_bytes > 0)
      m.memory_share = static_cast<double>(largest_peak_) / in_.config.device_bytes;
    files.add(m);
    if (const Diagnostics alerts = files.new_alerts(m); !alerts.empty()) say(alerts);
  }
  Status between_steps(const TrainingState& state, Outcome& outcome) {
    if (!is_save_due(in_.config, state.step)) return Ok{};
    const Nanoseconds start = now_ns();
    const Status saved = save(state);
    outcome.saving += now_ns() - start;
    return saved;
  }
  // In these, no rank can come here again before rank 0 has done its part: a step needs rank 0.
  Status check_replicas(StepMetrics& m) {
    const int every = in_.config.check_replicas, done = m.step + 1;
    if (every == 0 || done % every != 0) return Ok{};
    if (Status s = write_replica_hashes(in_.plan, rank_, memory_of(interpreter_), done, run_dir_);
        !s)
      return s;
    if (Status s = barrier_.meet(); !s) return s;
    if (rank_.value != 0) return Ok{};
    const Status compared = compare_replicas(in_.plan, done, run_dir_);
    if (compared || compared.error().diagnostics.front().code == "E-EXEC-036")
      m.replicas_equal = compared.ok();
    return compared;
  }
  Status save(const TrainingState& state) {
    if (Status s = save_shard(in_.plan, rank_, memory_of(interpreter_),
                              in_.config.checkpoint_directory, state.step, run_dir_);
        !s)
      return s;
    if (Status s = barrier_.meet(); !s) return s;
    if (rank_.value != 0) return Ok{};
    return commit_checkpoint(in_.plan, in_.plan_id, in_.config, state, run_dir_);
  }

  const RunInput& in_;
  const Rank rank_;
  Interpreter& interpreter_;
  Evaluator* evaluator_;
  Settler* settler_;
  Barrier& barrier_;
  const std::string run_dir_;
  TrainingState state_;      // behind the last step whose values are known
  std::optional<Ran> open_;  // the step behind it, where these are not
  ClippedShare clipped_;
  Bytes largest_peak_ = 0;  // rank 0: of itself, and of all ranks behind each measurement
};

}  // namespace

Status run_rank(const RunInput& in, Rank rank, CommBackend& comm, SideComms side, Barrier& barrier,
                OpObserver* observer, const std::string& run_dir) {
  Outcome outcome;
  std::optional<MetricsFiles> metrics;
  if (rank.value == 0) metrics.emplace(run_dir, in.config.first_step);
  std::optional<RankTensorWriter> tensors;
  if (in.config.verify) {
    Result<RankTensorWriter> writer =
        RankTensorWriter::create(rank_path(run_dir, rank.value, "grads"), rank);
    if (!writer) return writer.error();
    tensors = std::move(*writer);
  }
  ChoiceLog choices;
  Result<std::unique_ptr<Interpreter>> interpreter = interpreter_on_cpu(
      in.plan, rank, in.config, comm, observer, in.config.verify ? &choices : nullptr);
  const auto failed = [&](const Error& error) {
    comm.abort();
    outcome.error = error;
    (void)write_outcome(in, rank, outcome, nullptr, comm, {}, run_dir);
    return error;
  };
  if (!interpreter) return failed(interpreter.error());
  std::unique_ptr<Evaluator> evaluator;
  if (in.evaluation) {
    TANDEM_CHECK(side.evaluation, "an evaluation plan without a transport of its own");
    Result<std::unique_ptr<Evaluator>> own = Evaluator::create(
        *in.evaluation, in.plan, in.config, *side.evaluation, observer, **interpreter);
    if (!own) return failed(own.error());
    evaluator = std::move(*own);
  }
  std::unique_ptr<Settler> settler;
  if (in.settling) {
    TANDEM_CHECK(side.settling, "a plan of settling without a transport of its own");
    const std::int64_t before =
        std::ssize(in.plan.ops) + (in.evaluation ? std::ssize(in.evaluation->ops) : 0);
    Result<std::unique_ptr<Settler>> own =
        Settler::create(*in.settling, in.config, *side.settling, observer, before, **interpreter);
    if (!own) return failed(own.error());
    settler = std::move(*own);
  }
  ::malloc_trim(0);  // what parsing the plan left behind
  drop_loaded_pages();
  RankRun(in, rank, **interpreter, evaluator.get(), settler.get(), barrier, run_dir)
      .run(metrics ? &*metrics : nullptr, tensors ? &*tensors : nullptr, choices, observer,
           outcome);
  if (outcome.error) {
    // Workers may still run: nothing of the interpreters is read, and they end first.
    evaluator.reset();
    settler.reset();
    interpreter->reset();
    (void)write_outcome(in, rank, outcome, nullptr, comm, {}, run_dir);
    return *outcome.error;
  }
  Timeline timeline = (*interpreter)->take_timeline();
  timeline.meta["plan_id"] = in.plan_id;
  timeline.meta["device"] = "cpu";
  timeline.meta["threads_per_rank"] = std::to_string(in.config.threads_per_rank);
  Json more;
  if (evaluator)
    more["evaluation"] = evaluation_json(*in.evaluation, rank, *evaluator, *side.evaluation);
  if (settler) {
    more["roll_backs"] = outcome.roll_backs;
    more["peak_bytes_given_up"] = (*interpreter)->peak_bytes_given_up();
  }
  if (Status s = write_outcome(in, rank, outcome, interpreter->get(), comm, timeline, run_dir,
                               std::move(more));
      !s)
    return s;
  if (!(*interpreter)->routing().empty())
    if (Status s = write_file_atomic(rank_path(run_dir, rank.value, "routing.csv"),
                                     to_text({.file = {}, .records = (*interpreter)->routing()}));
        !s)
      return s;
  if (Status s =
          write_rank_timeline(rank_path(run_dir, rank.value, "timeline"), timeline, rank.value);
      !s)
    return s;
  if (tensors)
    if (Status s = tensors->commit(); !s) return s;
  return metrics ? metrics->status() : Status(Ok{});
}

Status verify_files(const std::string& run_dir) {
  Result<RunInput> in = read_run(run_dir);
  if (!in) return in.error();
  // As many as a rank has: idle threads of LibTorch spin, which on busy cores costs ten times more.
  set_up_torch(in->config.threads_per_rank);
  std::vector<RankTensors> ranks;
  for (int r = 0; r < in->plan.header.mesh.world(); ++r) {
    Result<RankTensors> t = read_rank_tensors(rank_path(run_dir, r, "grads"));
    if (!t) return t.error();
    if (t->rank != Rank{r})
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        fmt::format("gradients of rank {}", t->rank.value),
                        fmt::format("gradients of rank {}", r), "run again",
                        Location{rank_path(run_dir, r, "grads")});
    ranks.push_back(std::move(*t));
  }
  const std::string first = rank_path(run_dir, 0, "json");
  Result<std::string> text = read_file(first, limits::kTableBytes);
  if (!text) return text.error();
  const Json root = Json::parse(*text, nullptr, false);
  std::vector<double> losses, norms, evaluations;
  try {
    losses = root.at("losses").get<std::vector<double>>();
    norms = root.at("norms").get<std::vector<double>>();
    if (in->evaluation) evaluations = root.at("evaluation").at("losses").get<std::vector<double>>();
  } catch (const nlohmann::json::exception&) {
    return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                      "no losses and norms", "the file that rank 0 wrote", "run again",
                      Location{first});
  }
  Result<VerifyReport> report = verify_run(in->plan, in->config, ranks, losses, norms, evaluations,
                                           in->evaluation ? &*in->evaluation : nullptr);
  if (!report) return report.error();
  const Json out = {{"format", "tandem-verify"},
                    {"version", 1},
                    {"plan_id", in->plan_id},
                    {"max_rel_loss", report->max_rel_loss},
                    {"max_rel_evaluation", report->max_rel_evaluation},
                    {"max_rel_norm", report->max_rel_norm},
                    {"max_rel_grad", report->max_rel_grad},
                    {"worst_tensor", report->worst_tensor},
                    {"worst_step", report->worst_step},
                    {"rel_grad_by_step", report->rel_grad_by_step},
                    {"max_abs_parameter", report->max_abs_parameter},
                    {"max_abs_bias", report->max_abs_bias},
                    {"tensors", report->num_tensors},
                    {"replicas_equal", report->replicas_equal},
                    {"replica_difference", report->replica_difference},
                    {"choices", choices_json(in->config, *report)},
                    {"losses", report->losses},
                    {"reference_losses", report->reference_losses},
                    {"reference_norms", report->reference_norms}};
  return write_file_atomic(run_dir + "/verify.json", out.dump(1) + "\n");
}

}  // namespace tandem::exec
