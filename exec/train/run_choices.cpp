#include "exec/train/run_choices.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <tuple>

#include "exec/kernels/positions.h"
#include "exec/train/shard.h"

namespace tandem::exec {
namespace {

constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::min();

Error missing(std::string what) {
  return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                    std::move(what), "the experts of every token, layer and step",
                    "run `tandem execute --verify` again");
}

const Kernel* route_of(const Plan& plan, OpId id) {
  if (id.value < 0 || id.value >= std::ssize(plan.ops)) return nullptr;
  for (const Call& c : plan.calls_of(plan.op(id)))
    if (const Kernel& k = plan.kernel(c.kernel); k.kind == KernelKind::route_fwd) return &k;
  return nullptr;
}

// Positions of a routing's tokens: each member of cp and tp routes its own, of each slice.
std::vector<std::int64_t> positions(const Plan& plan, Rank rank, const Op& op, std::int64_t count) {
  const Mesh& mesh = plan.header.mesh;
  SequencePart part;
  part.c = mesh.coordinate(rank, Axis::cp), part.cp = mesh.of(Axis::cp);
  part.t = mesh.coordinate(rank, Axis::tp), part.tp = mesh.of(Axis::tp);
  part.first = std::max(0, op.seq_slice) * (plan.header.sequence / plan.header.slices);
  return positions_of(part, count);
}

// In any order of slots: experts with nearly equal scores may change places.
bool same_experts(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return std::is_permutation(a.begin(), a.end(), b.begin(), b.end());
}

class Tokens {
 public:
  Tokens(const TrainingConfig& config, RunChoices& out) : c_(config), out_(out) {}

  // Everything is there afterwards, or is missed by complete().
  void expect(const Plan* evaluation) {
    const ModelShape shape = model_shape(c_);
    const auto tokens =
        static_cast<std::size_t>(std::int64_t{c_.micro_batch} * c_.sequence * c_.moe.top_k);
    for (int step = 0; step < total_steps(c_); ++step) {
      const int batches = evaluation && evaluates_after(c_, step) ? c_.evaluation_batches : 0;
      for (int batch = -1; batch < batches; ++batch)
        for (int i = 0; i < c_.global_batch / c_.micro_batch; ++i)
          for (int layer = 0; layer < c_.layers; ++layer)
            if (shape.is_moe(layer)) out_.routed[{step, batch, i, layer}].assign(tokens, kNone);
    }
  }

  Status add(const Plan& plan, Rank rank, const RankChoices& c, int batch) {
    const Kernel* route = route_of(plan, c.routed.op);
    if (!route) return missing(fmt::format("choices of op {}", c.routed.op.value));
    const Op& op = plan.op(c.routed.op);
    const int data = static_cast<int>(part_of(plan, rank, plan.header.data_axes)),
              num_data = plan.header.mesh.size_of_group(plan.header.data_axes);
    const auto it = out_.routed.find({c.step, batch, op.microbatch * num_data + data, op.layer});
    const std::int64_t b = route->dims[0], count = route->dims[1], k = route->dims[3];
    if (it == out_.routed.end() || b != c_.micro_batch || k != c_.moe.top_k ||
        std::ssize(c.routed.choice) != b * count * k)
      return missing(fmt::format("choices of step {}, op {}", c.step, c.routed.op.value));
    const std::vector<std::int64_t> place = positions(plan, rank, op, count);
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t s = 0; s < b; ++s) {
        const std::int64_t at = place[static_cast<std::size_t>(i)];
        if (at < 0 || at >= c_.sequence)
          return missing(fmt::format("choices of position {} of {}", at, c_.sequence));
        const auto slots = static_cast<std::size_t>(k);
        const auto from =
            std::span(c.routed.choice).subspan(static_cast<std::size_t>((i * b + s) * k), slots);
        const auto to = std::span(it->second)
                            .subspan(static_cast<std::size_t>((s * c_.sequence + at) * k), slots);
        if (to[0] == kNone)
          std::copy(from.begin(), from.end(), to.begin());
        else if (!same_experts(from, to) && out_.replica_difference.empty())
          out_.replica_difference =
              fmt::format("experts of step {}, layer {}, sequence {}, position {}: rank {}", c.step,
                          op.layer, it->first.microbatch * b + s, at, rank.value);
      }
    return Ok{};
  }

  [[nodiscard]] Status complete() const {
    for (const auto& [place, choice] : out_.routed)
      if (std::find(choice.begin(), choice.end(), kNone) != choice.end())
        return missing(
            fmt::format("not all choices of step {}, layer {}", place.step, place.layer));
    return Ok{};
  }

 private:
  const TrainingConfig& c_;
  RunChoices& out_;
};

}  // namespace

Result<RunChoices> put_together(const Plan& plan, const Plan* evaluation,
                                const TrainingConfig& config,
                                const std::vector<RankTensors>& ranks) {
  RunChoices out;
  if (config.moe.experts == 0) return out;
  Tokens tokens(config, out);
  tokens.expect(evaluation);
  for (const RankTensors& r : ranks) {
    std::map<std::tuple<int, OpId>, int> batches;  // seen of an evaluation
    for (const RankChoices& c : r.choices) {
      if (c.evaluation && !evaluation) return missing("an evaluation's choices without its plan");
      const int batch = c.evaluation ? batches[{c.step, c.routed.op}]++ : -1;
      if (Status s = tokens.add(c.evaluation ? *evaluation : plan, r.rank, c, batch); !s)
        return s.error();
    }
  }
  if (Status s = tokens.complete(); !s) return s.error();
  return out;
}

}  // namespace tandem::exec
