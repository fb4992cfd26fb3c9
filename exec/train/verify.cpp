#include "exec/train/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include "common/base/bf16.h"
#include "exec/checkpoint/held.h"
#include "exec/train/reference.h"
#include "exec/train/replicas.h"
#include "exec/train/shard.h"

namespace tandem::exec {
namespace {

double element(const RankTensor& t, std::int64_t i) {
  const char* at = t.data.data() + i * t.element_bytes;
  if (t.element_bytes == 8) {
    double v = 0;
    std::memcpy(&v, at, 8);
    return v;
  }
  if (t.element_bytes == 2) {
    std::uint16_t word = 0;
    std::memcpy(&word, at, 2);
    return from_bf16(word);
  }
  float v = 0;
  std::memcpy(&v, at, 4);
  return v;
}

// One full tensor put together from the ranks.
struct Assembled {
  FullTensor tensor;
  std::int64_t filled = 0;
};
// The elements that a rank brought first: others must equal them.
struct FirstCopy {
  int rank = 0;
  const RankTensor* tensor = nullptr;
  std::int64_t element = 0;
};

class Assembler {
 public:
  // `floor`: below it a tensor's values are rounding noise, of gradients that are 0 by theory.
  Assembler(const Plan& plan, VerifyReport& report, double floor)
      : plan_(plan), report_(report), floor_(floor) {
    for (const Op& op : plan.ops)  // ZeRO-1: the other parts of the bucket hold no sums
      if (op.kind == OpKind::reduce_scatter && !op.source.valid())
        scattered_[op.buffer] = plan.communicators[op.comm.index()].axes;
  }

  void add(Rank rank, const RankTensor& t, TensorKind kind) {
    for (const HeldRange& h : ranges_of(rank, t, kind)) {
      const auto key =
          std::tuple(h.shard.name, h.shard.row_begin, h.shard.column_begin, h.begin, h.end);
      const auto [it, is_new] = first_.try_emplace(key, FirstCopy{rank.value, &t, h.element});
      if (is_new)
        place(h, t);
      else
        compare(it->second, rank, h, t, kind);
    }
  }
  [[nodiscard]] const std::map<std::string, Assembled>& tensors() const { return tensors_; }

 private:
  [[nodiscard]] std::vector<HeldRange> ranges_of(Rank rank, const RankTensor& t,
                                                 TensorKind kind) const {
    const auto it = scattered_.find(t.buffer);
    if (kind == TensorKind::parameter || it == scattered_.end())
      return ranges_in(plan_, t.buffer, rank);
    const std::int64_t part =
        plan_.buffer(t.buffer).shape.elements() / plan_.header.mesh.size_of_group(it->second);
    const std::int64_t first = part * part_of(plan_, rank, it->second);
    return ranges_in(plan_, t.buffer, rank, first, first + part);
  }
  void place(const HeldRange& h, const RankTensor& t) {
    const Shard& s = h.shard;
    Assembled& a = tensors_[s.name];
    if (a.tensor.values.empty()) {
      a.tensor.rows = s.full_rows;
      a.tensor.columns = s.full_columns;
      a.tensor.values.assign(static_cast<std::size_t>(s.full_rows * s.full_columns), 0);
    }
    for (std::int64_t i = h.begin; i < h.end; ++i) {
      const std::int64_t row = s.row_begin + i / s.columns, column = s.column_begin + i % s.columns;
      a.tensor.values[static_cast<std::size_t>(row * s.full_columns + column)] =
          element(t, h.element + i - h.begin);
    }
    a.filled += h.end - h.begin;
  }
  void compare(const FirstCopy& first, Rank rank, const HeldRange& h, const RankTensor& t,
               TensorKind kind) {
    const auto bytes = static_cast<std::size_t>((h.end - h.begin) * t.element_bytes);
    const auto begin = [](std::int64_t at, const RankTensor& tensor) {
      return tensor.data.data() + at * tensor.element_bytes;
    };
    if (first.tensor->element_bytes == t.element_bytes &&
        std::memcmp(begin(first.element, *first.tensor), begin(h.element, t), bytes) == 0)
      return;
    if (over_ep(Rank{first.rank}, rank) && close(first, h, t)) return;
    if (report_.replicas_equal)
      report_.replica_difference =
          fmt::format("{} of {}, step {}: ranks {} and {}",
                      kind == TensorKind::gradient ? "gradient" : "parameter", h.shard.name, t.step,
                      first.rank, rank.value);
    report_.replicas_equal = false;
  }

  // Replicas whose rows lay elsewhere in a product.
  [[nodiscard]] bool over_ep(Rank a, Rank b) const {
    const Mesh& mesh = plan_.header.mesh;
    return plan_.replicates_data() && mesh.coordinate(a, Axis::ep) != mesh.coordinate(b, Axis::ep);
  }
  [[nodiscard]] bool close(const FirstCopy& first, const HeldRange& h, const RankTensor& t) const {
    double largest = floor_, difference = 0;
    for (std::int64_t i = 0; i < h.end - h.begin; ++i) {
      const double a = element(*first.tensor, first.element + i), b = element(t, h.element + i);
      if (std::isnan(a) || std::isnan(b)) return false;
      largest = std::max(largest, std::abs(a));
      difference = std::max(difference, std::abs(a - b));
    }
    return difference <= kReplicaTolerance * largest;
  }

  const Plan& plan_;
  VerifyReport& report_;
  double floor_;
  std::map<BufferId, AxisSet> scattered_;
  std::map<std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, std::int64_t>,
           FirstCopy>
      first_;
  std::map<std::string, Assembled> tensors_;
};

double largest(const std::vector<double>& values) {
  double out = 0;
  for (double v : values) out = std::max(out, std::abs(v));
  return out;
}
// NaN counts as infinitely wrong.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]);
    out = std::isnan(d) ? INFINITY : std::max(out, d);
  }
  return out;
}

// NaN counts as infinitely wrong here too.
double relative(double value, double expected) {
  const double rel = std::abs(value - expected) / std::abs(expected);
  return std::isnan(rel) ? INFINITY : rel;
}

Error missing(std::string what) {
  return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                    std::move(what), "every parameter of the model from the ranks together",
                    "run `tandem execute --verify` again");
}

// Empty: the assembled tensors are exactly those of the model.
std::string coverage(const std::map<std::string, Assembled>& got, const TensorMap& expected) {
  for (const auto& [name, t] : expected) {
    const auto it = got.find(name);
    if (it == got.end()) return "no " + name;
    if (it->second.filled != static_cast<std::int64_t>(t.values.size()) ||
        it->second.tensor.values.size() != t.values.size())
      return fmt::format("{} of {} elements of {}", it->second.filled, t.values.size(), name);
  }
  for (const auto& [name, a] : got)
    if (!expected.contains(name)) return name + ", which the model does not have";
  return "";
}

// Put together from all ranks, replicas compared.
Assembler parameters_behind(const Plan& plan, const std::vector<RankTensors>& ranks, int step,
                            VerifyReport& report) {
  Assembler out(plan, report, 0);
  for (const RankTensors& r : ranks)
    for (const RankTensor& t : r.tensors)
      if (t.kind == TensorKind::parameter && t.step == step) out.add(r.rank, t, t.kind);
  return out;
}

// As final_tensors() of a run.
TensorMap final_values(const TrainingConfig& config, const ReferenceRun& reference) {
  TensorMap out = reference.parameters;
  if (config.moe.router == RouterKind::sigmoid)
    for (const auto& [layer, bias] : reference.router_bias)
      out[router_bias_name(layer)] = {std::ssize(bias), 1, bias};
  return out;
}

// All of the tensors in `shapes`, of the run.
Result<TensorMap> values_behind(const Plan& plan, const std::vector<RankTensors>& ranks, int step,
                                const TensorMap& shapes, VerifyReport& report) {
  const Assembler together = parameters_behind(plan, ranks, step, report);
  if (std::string gap = coverage(together.tensors(), shapes); !gap.empty())
    return missing(fmt::format("parameters behind step {}: {}", step, gap));
  TensorMap out;
  for (const auto& [name, a] : together.tensors()) out[name] = a.tensor;
  return out;
}

}  // namespace

bool keeps_parameters(const TrainingConfig& config, int step) {
  return step + 1 == total_steps(config) || (config.moe.experts > 0 && config.precision != "fp64");
}

std::vector<BufferId> reduced_gradients(const Plan& plan, ProgramId program) {
  std::set<BufferId> parts;
  for (const Op& op : plan.ops_of(program))
    for (const Call& c : plan.calls_of(op))
      if (plan.kernel(c.kernel).kind == KernelKind::grad_add)
        parts.insert(plan.operands_of(c.inputs)[1].id);
  std::vector<BufferId> out;
  for (BufferId id : holders(plan, program, BufferClass::grad))
    if (!parts.contains(id)) out.push_back(id);
  return out;
}

std::vector<BufferId> final_tensors(const Plan& plan, ProgramId program) {
  std::vector<BufferId> out = holders(plan, program, BufferClass::param);
  for (BufferId id : router_biases(plan, program)) out.push_back(id);
  return out;
}

Result<VerifyReport> verify_run(const Plan& plan, const TrainingConfig& config,
                                const std::vector<RankTensors>& ranks,
                                const std::vector<double>& losses, const std::vector<double>& norms,
                                const std::vector<double>& evaluations, const Plan* evaluation) {
  const int steps = config.warmup_steps + config.steps;
  if (static_cast<int>(losses.size()) != steps || losses.size() != norms.size())
    return missing(fmt::format("losses of {} steps of {}", losses.size(), steps));
  const Result<RunChoices> choices = put_together(plan, evaluation, config, ranks);
  if (!choices) return choices.error();
  Result<ReferenceRun> reference = run_reference(config, steps, &*choices);
  if (!reference) return reference.error();
  VerifyReport report;
  report.choices = reference->choices;
  if (report.choices && config.precision != "fp64") {
    Result<ChoiceCheck> judged = judge_choices(config, *choices, [&](int step) {
      return values_behind(plan, ranks, step, final_values(config, *reference), report);
    });
    if (!judged) return judged.error();
    report.judged = std::move(*judged);
  }
  if (!choices->replica_difference.empty()) {
    report.replicas_equal = false;
    report.replica_difference = choices->replica_difference;
  }
  std::size_t evaluated = 0;
  for (const ReferenceStep& ref : reference->steps) {
    if (!ref.evaluation_loss) continue;
    if (evaluated == evaluations.size())
      return missing(fmt::format("{} losses of evaluations", evaluated));
    const double rel = relative(evaluations[evaluated++], *ref.evaluation_loss);
    report.max_rel_evaluation = std::max(report.max_rel_evaluation, rel);
  }
  if (evaluated != evaluations.size())
    return missing(
        fmt::format("{} losses of evaluations, {} are due", evaluations.size(), evaluated));
  report.losses = losses;
  const bool fp64 = config.precision == "fp64";
  for (int step = 0; step < steps; ++step) {
    const ReferenceStep& ref = reference->steps[static_cast<std::size_t>(step)];
    report.reference_losses.push_back(ref.loss);
    report.reference_norms.push_back(ref.norm);
    report.max_rel_loss =
        std::max(report.max_rel_loss, relative(losses[static_cast<std::size_t>(step)], ref.loss));
    Assembler together(plan, report, (fp64 ? 1e-6 : 1e-3) * ref.norm);
    for (const RankTensors& r : ranks)
      for (const RankTensor& t : r.tensors)
        if (t.kind == TensorKind::gradient && t.step == step) together.add(r.rank, t, t.kind);
    if (std::string gap = coverage(together.tensors(), ref.gradients); !gap.empty())
      return missing("gradients of step " + std::to_string(step) + ": " + gap);
    double worst = 0;
    for (const auto& [name, expected] : ref.gradients) {
      const double floor = (fp64 ? 1e-6 : 1e-3) * ref.norm;
      const double error = difference(together.tensors().at(name).tensor.values, expected.values) /
                           std::max({largest(expected.values), floor, 1e-300});
      worst = std::max(worst, error);
      if ((step == 0 || fp64) && error > report.max_rel_grad) {
        report.max_rel_grad = error;
        report.worst_tensor = name;
        report.worst_step = step;
      }
    }
    report.rel_grad_by_step.push_back(worst);
    report.num_tensors = static_cast<int>(ref.gradients.size());
  }
  report.max_rel_norm = std::abs(norms[0] - report.reference_norms[0]) / report.reference_norms[0];
  const Assembler last = parameters_behind(plan, ranks, steps - 1, report);
  const TensorMap at_the_end = final_values(config, *reference);
  if (std::string gap = coverage(last.tensors(), at_the_end); !gap.empty())
    return missing("parameters: " + gap);
  for (const auto& [name, expected] : at_the_end) {
    const double apart = difference(last.tensors().at(name).tensor.values, expected.values);
    report.max_abs_parameter = std::max(report.max_abs_parameter, apart);
    if (name.ends_with(".router_bias")) report.max_abs_bias = std::max(report.max_abs_bias, apart);
  }
  return report;
}

}  // namespace tandem::exec
