#include "exec/train/replay.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <span>
#include <vector>

#include "exec/train/near_tie.h"
#include "exec/train/reference_moe.h"

namespace tandem::exec {

using at::Tensor;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::int32_t expert_of(std::int32_t choice) { return choice < 0 ? -1 - choice : choice; }

std::vector<std::int32_t> sorted(std::vector<std::int32_t> v) {
  std::sort(v.begin(), v.end());
  return v;
}

// Among the assignments to one expert in one slice of capacity.
struct Rivals {
  std::int64_t kept = 0, due = 0;  // by the run, by the oracle
  double best_dropped = -kInfinity, worst_kept = kInfinity, largest = 0;  // weights, as the run did
  std::vector<std::int64_t> tokens;                                       // where the two differ
};

}  // namespace

double allowed_gap(const TrainingConfig& config) {
  if (config.precision == "fp64") return 0;
  return config.precision == "fp32" ? 1e-5 : 0.05;
}

void ChoiceReplay::note(std::int64_t token, double gap, const std::string& what) {
  ++seen_.differed;
  if (rule_ == ChoiceRule::strict || (rule_ == ChoiceRule::near_tie && gap > allowed_gap(c_)))
    ++seen_.wrong;
  if (!seen_.largest.empty() && !(gap > seen_.largest_gap)) return;
  seen_.largest_gap = gap;
  const std::string evaluation =
      place_.evaluation_batch < 0
          ? ""
          : fmt::format(", batch {} of the evaluation", place_.evaluation_batch);
  seen_.largest = fmt::format(
      "step {}{}, layer {}, sequence {}, position {}: {}, gap {:.2g}", place_.step, evaluation,
      place_.layer, std::int64_t{place_.microbatch} * c_.micro_batch + token / c_.sequence,
      token % c_.sequence, what, gap);
}

Tensor ChoiceReplay::choice(int layer, const Tensor& scores, const Tensor& own) {
  place_.layer = layer;
  const std::vector<std::int32_t>& run = run_.routed.at(place_);
  const std::int64_t experts = scores.size(-1), k = own.size(-1), tokens = own.numel() / k;
  const Tensor flat = scores.contiguous();
  Tensor out = own.clone(at::MemoryFormat::Contiguous);
  const double* z = flat.const_data_ptr<double>();
  auto* slot = out.mutable_data_ptr<std::int64_t>();
  seen_.routings += tokens;
  for (std::int64_t t = 0; t < tokens; ++t, z += experts, slot += k) {
    std::vector<std::int32_t> theirs(k), mine(slot, slot + k);
    for (std::int64_t i = 0; i < k; ++i)
      theirs[static_cast<std::size_t>(i)] = expert_of(run[static_cast<std::size_t>(t * k + i)]);
    double gap = 0;
    if (sorted(theirs) != sorted(mine)) {
      const std::span<const double> row(z, static_cast<std::size_t>(experts));
      double scale = 0;
      for (double x : row) scale = std::max(scale, std::abs(x));
      gap = choice_gap(row, theirs, c_.moe) / scale;
      note(t, gap,
           fmt::format("experts {} of the run, {} of one process", fmt::join(sorted(theirs), " "),
                       fmt::join(sorted(mine), " ")));
    }
    if (rule_ != ChoiceRule::strict && gap < kInfinity)
      std::copy(theirs.begin(), theirs.end(), slot);
  }
  return out;
}

Tensor ChoiceReplay::kept(int layer, const Tensor& choice, const Tensor& weights,
                          const Tensor& own) {
  place_.layer = layer;
  if (!c_.moe.capacity_factor) return own;
  const std::vector<std::int32_t>& run = run_.routed.at(place_);
  const std::int64_t k = choice.size(-1), n = choice.numel();
  const std::vector<int> slice = drop_slices(c_.sequence, c_.moe.drop_groups, c_.cp);
  const Tensor flat = weights.detach().contiguous(), expert = choice.contiguous();
  Tensor out = own.clone(at::MemoryFormat::Contiguous);
  bool* keep = out.mutable_data_ptr<bool>();
  std::map<std::pair<int, std::int64_t>, Rivals> rivals;
  for (std::int64_t a = 0; a < n; ++a) {
    const double weight = flat.const_data_ptr<double>()[a];
    const int part = slice[static_cast<std::size_t>(a / k % c_.sequence)];
    Rivals& r = rivals[{part, expert.const_data_ptr<std::int64_t>()[a]}];
    const bool is_kept = run[static_cast<std::size_t>(a)] >= 0;
    r.due += keep[a], r.kept += is_kept;
    r.largest = std::max(r.largest, weight);
    (is_kept ? r.worst_kept : r.best_dropped) =
        is_kept ? std::min(r.worst_kept, weight) : std::max(r.best_dropped, weight);
    if (is_kept != keep[a]) r.tokens.push_back(a / k);
    if (rule_ != ChoiceRule::strict) keep[a] = is_kept;
  }
  for (const auto& [at, r] : rivals)
    for (std::int64_t token : r.tokens)
      note(token, r.kept == r.due ? (r.best_dropped - r.worst_kept) / r.largest : kInfinity,
           fmt::format("expert {} keeps other tokens in the run", at.second));
  return out;
}

}  // namespace tandem::exec
