// Rules of training, schedule, and the size of the plan; what has no effect; and what all files of
// rules share (validate_rules.h says which rules are where).
#include "common/scenario/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/locate.h"
#include "common/scenario/order_file.h"
#include "common/scenario/validate_rules.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

class Rules : RuleSet {
 public:
  Rules(const RuleInputs& inputs, bool degrees_fit) : RuleSet(inputs), degrees_fit_(degrees_fit) {}

  void run() {
    training();
    routing();
    schedule();
    giants();
    no_effects();
  }

 private:
  void training() {
    const TrainingSpec& t = s_.training;
    const ParallelSpec& p = s_.parallel;
    const std::int64_t step = std::int64_t{t.micro_batch} * p.data_ranks();
    const bool split = p.data_ranks() != p.dp;  // ep ranks read their own sequences
    if (degrees_fit_ && good({"training.global_batch", "training.micro_batch"}) &&
        t.global_batch % step != 0)
      refuse({"training.global_batch", "training.micro_batch", "parallel.dp"}, "E-SCEN-034",
             fmt::format("training.global_batch = {} is not a multiple of micro_batch * dp{} = "
                         "{}*{}{} = {}",
                         t.global_batch, split ? " * ep" : "", t.micro_batch, p.dp,
                         split ? fmt::format("*{}", p.ep) : "", step),
             fmt::format("{} / {} = {:.3g}", t.global_batch, step,
                         double(t.global_batch) / double(step)),
             "a whole number of microbatches",
             "use global_batch: " + near_multiples(t.global_batch, step));
    if (good({"training.sequence", "model.max_sequence", "model.family"}) &&
        s_.model.max_sequence > 0 && s_.model.family == ModelFamily::gpt &&
        t.sequence > s_.model.max_sequence)
      refuse(
          {"training.sequence", "model.max_sequence"}, "E-SCEN-037",
          fmt::format("training.sequence = {} exceeds model.max_sequence = {}", t.sequence,
                      s_.model.max_sequence),
          fmt::format("{} tokens", t.sequence),
          fmt::format("at most {} tokens: the model has no more positions", s_.model.max_sequence),
          fmt::format("use sequence: {}, or max_sequence: {}", s_.model.max_sequence, t.sequence));
    optimizer();
  }

  void optimizer() {
    const ParallelSpec& p = s_.parallel;
    no_effect("parallel.parameter_gather.residency",
              p.zero < 3 && p.gather_residency == Residency::window,
              "parameters are gathered with parallel.zero = 3 only");
    no_effect("parallel.parameter_gather.overlap", p.zero < 3 && !p.gather_overlap,
              "parameters are gathered with parallel.zero = 3 only");
    no_effect("parallel.parameter_gather.prefetch", p.keeps_window() && p.gather_prefetch != 1,
              "with residency window whole stages are gathered ahead");
    no_effect("parallel.parameter_gather.prefetch",
              p.zero == 3 && !p.keeps_window() && !p.gather_overlap && p.gather_prefetch != 1,
              "without overlap nothing is gathered ahead");
    no_effect("parallel.parameter_gather.window", !p.keeps_window() && p.gather_window != 3,
              "gathered parameters stay for one visit");
    const OptimizerSpec& o = s_.training.optimizer;
    if (o.cosine && good({"training.optimizer.decay_steps", "training.optimizer.warmup_steps"}) &&
        o.decay_steps <= o.warmup_steps)
      refuse({"training.optimizer.decay_steps", "training.optimizer.warmup_steps"}, "E-SCEN-046",
             "the learning rate ends its decay before it has warmed up",
             fmt::format("decay_steps {}, warmup_steps {}", o.decay_steps, o.warmup_steps),
             "decay_steps above warmup_steps",
             fmt::format("use decay_steps: {} or more", o.warmup_steps + 1));
    if (good({"training.optimizer.min_lr", "training.optimizer.lr"}) && o.min_lr > o.lr)
      refuse({"training.optimizer.min_lr", "training.optimizer.lr"}, "E-SCEN-047",
             "training.optimizer.min_lr is above training.optimizer.lr",
             fmt::format("{} > {}", format_double(o.min_lr), format_double(o.lr)),
             "a rate that falls", fmt::format("use min_lr: {}", format_double(o.lr / 10)));
  }

  void routing() {
    const RoutingSpec& r = s_.simulate.routing;
    if (good({"simulate.routing.zipf", "simulate.routing.trace"}) && r.zipf && !r.trace.empty())
      refuse({"simulate.routing.trace", "simulate.routing.zipf"}, "E-SCEN-066",
             "simulate.routing is given twice",
             fmt::format("zipf: {} and trace: {}", format_double(*r.zipf), r.trace),
             "one of balanced, {zipf: S}, {trace: FILE}", "delete one of the two keys");
  }

  // Row 13, and what a kind takes.
  void schedule() {
    const int v = s_.schedule.stages_per_rank;
    const std::string& kind = s_.schedule.kind;
    const ScheduleKind* row = find_schedule(kind);
    const std::optional<Order> file = kept_order(s_.schedule);
    const int needed =
        file ? stages_per_rank(*file) : default_stages_per_rank(kind, s_.schedule.options);
    const bool fixed = file || (row && (row->stages_per_rank > 0 || kind == "hanayo"));
    if (good({"schedule.kind", "schedule.stages_per_rank", "schedule.waves"}) && fixed &&
        v != needed)
      refuse({"schedule.stages_per_rank", "schedule.kind"}, "E-SCEN-045",
             fmt::format("sched/{}: stages_per_rank = {}; this {} has {} per rank", kind, v,
                         file ? "order" : "kind",
                         needed == 1 ? "one stage" : fmt::format("{} stages", needed)),
             fmt::format("{} stage{} per rank", v, v == 1 ? "" : "s"), fmt::format("{}", needed),
             fmt::format("use stages_per_rank: {}, or delete the key", needed));
    else if (good({"schedule.kind", "schedule.stages_per_rank", "parallel.pp"}))
      stages(std::int64_t{s_.parallel.pp} * v);
    for (const auto& [name, value] : s_.schedule.options) {
      const bool of_file = name == "file" || name == "order";  // its path, and what it holds
      if (of_file ? kind != "file" : !row || !takes_option(*row, name))
        option_of_another(name, value, of_file ? "only file takes it" : option_takers(name));
    }
    if (file) order(*file);
    if (row && !row->splits) {
      const char* who = "only kinds that split the backward take it";
      if (s_.schedule.merge) option_of_another("merge", "true", who);
      if (s_.schedule.first_stage == FirstStage::keep)
        option_of_another("first_stage", "keep", who);
    }
    if (s_.schedule.grouping == Grouping::runs && s_.schedule.receive == Receive::deferred)
      refuse({"schedule.grouping", "schedule.receive"}, "E-SCEN-048",
             "grouping runs is not possible with receive deferred", "grouping: runs",
             "grouping: none", "use receive: early, or grouping: none");
    few_microbatches();
  }

  // An order of a file is of certain ranks, stages and microbatches.
  void order(const Order& o) {
    if (good({"parallel.pp"}) && o.num_ranks() != s_.parallel.pp)
      refuse(
          {"schedule.file", "parallel.pp"}, "E-SCEN-064",
          fmt::format("the order is of {} ranks, parallel.pp = {}", o.num_ranks(), s_.parallel.pp),
          fmt::format("{} rows", o.num_ranks()), fmt::format("{} rows", s_.parallel.pp),
          fmt::format("use pp: {}, or an order of {} ranks", o.num_ranks(), s_.parallel.pp));
    if (!good({"training.global_batch", "training.micro_batch"})) return;
    const std::int64_t step = std::int64_t{s_.training.micro_batch} * s_.parallel.data_ranks();
    if (step == 0 || s_.training.global_batch % step != 0) return;  // another rule's
    const std::int64_t m = s_.training.global_batch / step;
    const int of_file = o.total_microbatches();
    if (m != of_file)
      refuse(
          {"schedule.file", "training.global_batch"}, "E-SCEN-064",
          fmt::format("the order is of {} microbatches, the scenario has {}", of_file, m),
          fmt::format("{} / {} = {} microbatches", s_.training.global_batch, step, m),
          fmt::format("{} microbatches", of_file),
          fmt::format("use global_batch: {}, or an order of {} microbatches", of_file * step, m));
  }

  void stages(std::int64_t num_stages) {
    const int layers = s_.model.layers;
    if (!good({"model.layers", "parallel.layer_split"}) || layers == 0) return;
    if (num_stages > layers)
      return refuse({"parallel.pp", "model.layers"}, "E-SCEN-035",
                    fmt::format("{} layers cannot fill {} pipeline stages", layers, num_stages),
                    fmt::format("{} layers, {} stages", layers, num_stages),
                    "at least one layer for each stage",
                    fmt::format("use pp: {} or less, or layers: {} or more", layers, num_stages));
    const auto& split = s_.parallel.layer_split;
    std::int64_t sum = 0;
    for (int part : split) sum += part;
    if (static_cast<std::int64_t>(split.size()) == num_stages && sum == layers) return;
    std::vector<std::string> works;
    for (std::int64_t i = 0; i < num_stages && i < 16; ++i)
      works.push_back(fmt::format("{}", layers / num_stages + (i < layers % num_stages ? 1 : 0)));
    refuse({"parallel.layer_split", "parallel.pp", "model.layers"}, "E-SCEN-036",
           fmt::format("parallel.layer_split has {} entries that sum to {}; {} entries and sum {} "
                       "are needed",
                       split.size(), sum, num_stages, layers),
           fmt::format("[{}]",
                       fmt::join(split.begin(),
                                 split.begin() + std::min<std::size_t>(split.size(), 16), ", ")),
           fmt::format("{} positive numbers that sum to {}", num_stages, layers),
           num_stages <= 16 ? "use [" + join(works, ", ") + "], or auto" : "use auto");
  }

  void option_of_another(const std::string& option, const std::string& value,
                         const std::string& takers) {
    const std::string path = "schedule." + option;
    if (!good({path, "schedule.kind"})) return;
    refuse({path, "schedule.kind"}, "E-SCEN-021",
           fmt::format("sched/{}: {} is not an option of this kind", s_.schedule.kind, option),
           option + ": " + value, "an option of " + s_.schedule.kind, takers + "; drop it");
  }

  void few_microbatches() {
    if (!degrees_fit_ || !good({"training.global_batch", "training.micro_batch"})) return;
    const std::int64_t step = std::int64_t{s_.training.micro_batch} * s_.parallel.data_ranks();
    const int p = s_.parallel.pp;
    if (s_.training.global_batch % step != 0) return;
    const std::int64_t m = s_.training.global_batch / step;
    const auto strict = s_.schedule.options.find("strict");
    if (m >= p) return;
    if (strict != s_.schedule.options.end() && strict->second == "torch")
      return refuse({"schedule.strict", "training.global_batch", "parallel.pp"}, "E-SCEN-049",
                    fmt::format("sched/1f1b: {} microbatches are fewer than {} stages", m, p),
                    fmt::format("{} / {} = {} microbatches", s_.training.global_batch, step, m),
                    fmt::format("{} microbatches or more", p),
                    fmt::format("use global_batch: {}, or strict: none", p * step));
    if (s_.schedule.kind != "gpipe" && s_.schedule.kind != "1f1b" &&
        s_.schedule.kind != "eager_1f1b")
      return;  // the formula is of these
    refuse({"parallel.pp", "training.global_batch"}, "W-SCEN-002",
           fmt::format("{} microbatches cannot keep {} pipeline stages busy", m, p),
           fmt::format("a bubble of ({0}-1)/({1}+{0}-1) = {2:.0f} % of the step", p, m,
                       100.0 * (p - 1) / double(m + p - 1)),
           "at least as many microbatches as stages",
           fmt::format("use global_batch: {} or more", p * step));
  }

  void giants() {
    if (!degrees_fit_ || !good({"training.global_batch", "training.micro_batch", "model.layers"}))
      return;
    const double m = double(s_.training.global_batch) /
                     (double(s_.training.micro_batch) * s_.parallel.data_ranks());
    const double ops = estimated_plan_ops(s_);
    if (m > double(limits::kMicrobatches))
      refuse({"training.global_batch", "training.micro_batch"}, "E-SCEN-039",
             "more microbatches than Tandem handles", fmt::format("{:.3g} microbatches", m),
             fmt::format("at most {}", limits::kMicrobatches), "use a larger micro_batch");
    else if (ops > double(limits::kOps))
      too_many_ops(ops, m);
  }

  void too_many_ops(double ops, double m) {
    const int k = num_slices(s_.schedule.kind, s_.schedule.options);
    refuse({"training.global_batch", "model.layers", "parallel.pp", "schedule.slices"},
           "E-SCEN-040", "the plan would have more operations than Tandem handles",
           fmt::format("about {:.1g} operations: {:.0f} microbatches{} of {} layers", ops, m,
                       k > 1 ? fmt::format(" in {} slices", k) : "", s_.model.layers),
           fmt::format("at most {} operations", limits::kOps),
           k > 1 ? "use fewer slices, a larger micro_batch or a smaller global_batch"
                 : "use a larger micro_batch or a smaller global_batch");
  }

  // A value equal to the default changes nothing and is not worth a warning.
  void no_effects() {
    no_effect("parallel.sequence_parallel", s_.parallel.sequence_parallel && s_.parallel.tp == 1,
              "one tp rank holds all positions");
    no_effect("training.recompute",
              s_.training.recompute == Recompute::selective &&
                  s_.training.attention == AttentionKind::flash,
              "flash attention keeps no probabilities that could be made again");
    const OptimizerSpec& o = s_.training.optimizer;
    const bool gpt = s_.model.family == ModelFamily::gpt;
    const DataSpec& data = s_.training.data;
    const bool random = data.kind == DataKind::random;
    no_effect("training.optimizer.decay_steps", !o.cosine && o.decay_steps != s_.training.steps,
              "the rate does not decay");
    no_effect("training.optimizer.min_lr", !o.cosine && o.min_lr != o.lr / 10,
              "the rate does not decay");
    no_effect("training.data.path", random && data.path != "builtin",
              "random tokens come from no file");
    no_effect("training.data.sampler", random && data.sampler != Sampler::random,
              "random tokens come from no file");
    no_effect("training.checkpoint.every",
              s_.training.checkpoint.every != 0 && s_.training.checkpoint.directory.empty(),
              "there is no training.checkpoint.directory");
    const char* no_experts = "the model has no experts";
    const RoutingSpec& routing = s_.simulate.routing;
    no_effect("simulate.routing.zipf", s_.model.moe.experts == 0 && routing.zipf, no_experts);
    no_effect("simulate.routing.trace", s_.model.moe.experts == 0 && !routing.trace.empty(),
              no_experts);
    const EvaluationSpec& evaluation = s_.training.evaluation;
    no_effect("training.evaluation.batches", evaluation.every == 0 && evaluation.batches != 1,
              "training.evaluation.every is 0");
    no_effect("training.evaluation.every",
              evaluation.every - s_.execute.warmup_steps > s_.training.steps,
              "the training has fewer steps");
    no_effect("training.metrics.every",
              s_.training.metrics.every - s_.execute.warmup_steps > s_.training.steps,
              "the training has fewer steps");
    no_effect("training.metrics.activations",
              s_.training.metrics.activations && s_.training.metrics.every == 0,
              "training.metrics.every is 0");
    no_effect("model.rope_base", gpt && s_.model.rope_base != 10000,
              "family gpt has learned positions");
    no_effect("model.gelu", !gpt && s_.model.gelu != Gelu::erf, "family llama has SwiGLU");
  }

  bool degrees_fit_;
};

}  // namespace

// The divisors of n nearest to x on both sides: values that would work.
std::string near_divisors(std::int64_t n, std::int64_t x) {
  std::int64_t below = 0, above = 0;
  for (std::int64_t d = std::min(x, n); d >= 1 && below == 0; --d)
    if (n % d == 0) below = d;
  for (std::int64_t d = x; d <= n && above == 0; ++d)
    if (n % d == 0) above = d;
  if (below == 0 || above == 0 || below == above) return fmt::format("{}", std::max(below, above));
  return fmt::format("{} or {}", below, above);
}

std::string near_multiples(std::int64_t n, std::int64_t step) {
  const std::int64_t below = n / step * step, above = below + step;
  return below == 0 ? fmt::format("{}", above) : fmt::format("{} or {}", below, above);
}

bool RuleSet::good(Paths paths) const {
  return std::none_of(paths.begin(), paths.end(),
                      [&](std::string_view path) { return failed_.contains(std::string(path)); });
}

bool RuleSet::given(std::string_view path) const { return given_.contains(std::string(path)); }

void RuleSet::refuse(Paths paths, std::string code, std::string title, std::string found,
                     std::string expected, std::string hint) {
  problems_.push_back(at_fields(s_, paths, std::move(code), std::move(title), std::move(found),
                                std::move(expected), std::move(hint)));
}

void RuleSet::no_effect(const std::string& path, bool idle, const std::string& why) {
  // Only what the user wrote: a preset may hold fields that one family or mode ignores.
  const auto origin = s_.origins.find(path);
  if (!idle || origin == s_.origins.end() || failed_.contains(path)) return;
  if (origin->second.file != s_.file && !origin->second.file.starts_with("--set ")) return;
  problems_.push_back(at_fields(s_, {path}, "W-SCEN-001", path + " has no effect", "a value",
                                "nothing: " + why, "delete this key"));
}

double estimated_plan_ops(const Scenario& s) {
  const double m =
      double(s.training.global_batch) / (double(s.training.micro_batch) * s.parallel.data_ranks());
  // A layer and microbatch: two segments forward, four backward, with tp as many reductions; of
  // each block that comes round with cp three shifts and two segments.
  const double per_layer = (s.parallel.tp > 1 ? 12 : 6) + 5.0 * (s.parallel.cp - 1);
  const double per_stage = 6;  // embedding or head, send, receive, both ways
  const double stages = double(s.parallel.pp) * s.schedule.stages_per_rank;
  // Each pair of slices is two calls: its attention and the gradient of that.
  const double slices = num_slices(s.schedule.kind, s.schedule.options);
  return m * slices * ((per_layer + slices - 1) * s.model.layers + per_stage * stages);
}

void validate(const Scenario& scenario, const std::set<std::string>& given,
              const std::set<std::string>& failed, Diagnostics& problems) {
  const RuleInputs inputs{scenario, given, failed, problems};
  validate_model(inputs);
  const bool degrees_fit = validate_mesh(inputs);
  Rules(inputs, degrees_fit).run();
  validate_cluster(inputs, degrees_fit);
}

Diagnostics check_executable(const Scenario& s) {
  Diagnostics problems;
  if (s.training.precision == Precision::fp16)
    problems.push_back(at_fields(
        s, {"training.precision"}, "E-SCEN-060", "the executor has no kernels for this precision",
        "fp16", "fp32, fp64 or bf16", "use precision: bf16, or only simulate this scenario"));
  // The transports of this version run one message of a queue after the other. With a queue for
  // each edge that makes no difference; in a shared one a group may hold both directions.
  if (s.parallel.pp > 1 && s.schedule.grouping == Grouping::runs &&
      s.schedule.communicators != P2pCommunicators::edge)
    problems.push_back(at_fields(s, {"schedule.grouping", "schedule.communicators"}, "E-SCEN-062",
                                 "the executor has no grouped messages on shared communicators",
                                 "grouping runs with communicators other than edge",
                                 "communicators: edge, or grouping: none",
                                 "use communicators: edge, or only simulate this scenario"));
  const std::int64_t world = s.parallel.world();
  if (world > limits::kExecutedRanks)
    problems.push_back(at_fields(s, {"parallel.tp", "parallel.pp", "parallel.dp", "cluster.preset"},
                                 "E-SCEN-061", "too many ranks to execute",
                                 fmt::format("{} ranks", world),
                                 fmt::format("at most {} ranks", limits::kExecutedRanks),
                                 "use smaller degrees, or only simulate this scenario"));
  return problems;
}

}  // namespace tandem
