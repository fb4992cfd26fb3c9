#include "common/parallel/gathered.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/flops.h"  // local_vocabulary
#include "common/parallel/groups.h"
#include "common/parallel/local_sizes.h"
#include "common/parallel/memory.h"

namespace tandem {
namespace {

struct Sum {
  int unit = 0;
  Bytes bytes = 0;
  int buckets = 0;
};

bool has_no_form(const Scenario& s) {
  return s.parallel.style == Style::nano_train && s.parallel.zero >= 2;
}

int head_unit(const Scenario& s) { return 1 + s.model.layers; }

// Bytes to gather of the units of one stage, in the order of its forward.
std::vector<Sum> units_of(const Scenario& s, int stage, const std::vector<BucketSize>& buckets) {
  std::map<int, Sum> units;
  const auto add = [&units](int unit, const BucketSize& b) {
    units[unit].unit = unit;
    units[unit].bytes += b.elements * size_of(b.dtype);
    ++units[unit].buckets;
  };
  const bool first = stage == 0, last = stage + 1 == memory::stages(s);
  for (const BucketSize& b : buckets) {
    if (b.members == 1) continue;
    if (!b.tied && b.stage == stage) add(b.first_unit, b);
    if (!b.tied) continue;
    // One bucket, gathered for the embedding and again for the head; a window has it once.
    if (first) add(0, b);
    if (last && !(first && s.parallel.keeps_window())) add(head_unit(s), b);
  }
  std::vector<Sum> out;
  for (const auto& [unit, sum] : units) out.push_back(sum);
  return out;
}

// Of units [from, to), as far as there are so many.
Bytes sum_of(const std::vector<Sum>& units, std::size_t from, std::size_t to) {
  Bytes sum = 0;
  for (std::size_t i = from; i < std::min(units.size(), to); ++i) sum += units[i].bytes;
  return sum;
}

// Whether a tensor in it is called so.
bool names(const BucketSize& b, std::string_view prefix) {
  return std::any_of(b.tensors.begin(), b.tensors.end(),
                     [&](const std::string& name) { return name.starts_with(prefix); });
}

// Whether the backward of the final norm and the first use of a parameter of the last layer are one
// op; nullopt: it may be.
std::optional<bool> joins_final_norm(const Scenario& s, int pp) {
  const memory::StageLayer last = memory::layers_of(s, pp).back();
  if (recomputed_layer(s.training, last.place)) return false;
  if (!memory::has_experts(s, last.layer)) return !cuts_sequence(s);
  const bool moves = s.parallel.ep > 1 || s.parallel.etp > 1;
  if (cuts_sequence(s) || s.model.moe.shared_experts > 0) return std::nullopt;
  return !moves;
}

}  // namespace

std::optional<WholeBytes> gathered_parameters(const Scenario& s, int pp) {
  const ParallelSpec& p = s.parallel;
  if (p.zero < 3) return WholeBytes{};
  if (has_no_form(s)) return std::nullopt;
  const std::vector<BucketSize> buckets = bucket_sizes(s, pp, p.zero);
  const std::size_t ahead =
      p.gather_overlap ? static_cast<std::size_t>(p.gather_prefetch) : std::size_t{0};
  WholeBytes out;
  std::vector<Bytes> stages;
  for (int stage = 0; stage < memory::stages(s); ++stage) {
    if (!memory::holds(s, stage, pp)) continue;
    const std::vector<Sum> units = units_of(s, stage, buckets);
    stages.push_back(sum_of(units, 0, units.size()));
    if (p.keeps_window()) continue;
    for (std::size_t i = 0; i < units.size(); ++i) {
      out.most = std::max(out.most, sum_of(units, i, i + ahead + 1));
      if (!p.gather_overlap && units[i].buckets > 1) out.exact = false;
    }
  }
  if (p.keeps_window()) {
    std::sort(stages.begin(), stages.end(), std::greater<>());
    const auto kept = std::min(stages.size(), static_cast<std::size_t>(p.gather_window));
    out.exact = kept == stages.size();
    out.most = std::accumulate(stages.begin(), stages.begin() + static_cast<std::ptrdiff_t>(kept),
                               Bytes{0});
    return out;
  }
  const auto gathered = [&buckets](std::string_view prefix) {
    Bytes sum = 0;
    for (const BucketSize& b : buckets)
      if (b.members > 1 && names(b, prefix)) sum += b.elements * size_of(b.dtype);
    return sum;
  };
  // `sum` may be there at once; `joins`: it is, it is not, unknown.
  const auto meet = [&out](Bytes sum, std::optional<bool> joins) {
    if (sum <= out.most || joins == false) return;
    out = {sum, out.exact && joins.has_value()};
  };
  if (memory::holds_first(s, pp) && s.model.family == ModelFamily::gpt) {
    const std::vector<Sum> units = units_of(s, 0, buckets);
    meet(gathered("pos_embed.") + sum_of(units, 1, 2 + ahead), true);
  }
  if (memory::holds_last(s, pp)) {
    std::vector<Sum> units = units_of(s, memory::stages(s) - 1, buckets);
    std::reverse(units.begin(), units.end());
    const std::size_t layer = units.empty() || units[0].unit != head_unit(s) ? 0 : 1;
    meet(gathered("final_norm.") + sum_of(units, layer, layer + ahead + 1),
         joins_final_norm(s, pp));
    // With no sum over tp between, the last product of the layer is one op with norm and head.
    const memory::StageLayer last = memory::layers_of(s, pp).back();
    const bool whole_layer = s.parallel.tp == 1 && layer < units.size() &&
                             units[layer].buckets == 1 && !memory::has_experts(s, last.layer) &&
                             !recomputed_layer(s.training, last.place);
    if (ahead == 0)
      meet(sum_of(units, 0, layer + 1), whole_layer ? std::optional(true) : std::nullopt);
  }
  return out;
}

std::optional<WholeBytes> whole_gradients(const Scenario& s, int pp, bool splits) {
  const ParallelSpec& p = s.parallel;
  if (p.zero < 2) return WholeBytes{};
  if (has_no_form(s) || splits) return std::nullopt;
  const Bytes main = size_of(plan_types(s).main);
  const bool several =
      s.num_microbatches() * memory::symbols(s).k > 1;  // visits of a stage in a step
  Bytes all = 0, tied = 0;
  std::vector<BucketSize> scattered;
  for (const BucketSize& b : bucket_sizes(s, pp, p.zero)) {
    if (b.members == 1) continue;
    if (!b.tied) {
      scattered.push_back(b);
      all += b.elements * main;
      continue;
    }
    // With the head's part, where the embedding is on the same rank: added at the end of the step.
    tied = b.elements * main;
    if (memory::holds_first(s, pp) && memory::holds_last(s, pp))
      tied += local_vocabulary(s) * s.model.hidden * main;
  }
  // A stage of several may have been scattered before the next one begins.
  if (!scatters_every(s)) return WholeBytes{all + tied, several && s.schedule.stages_per_rank == 1};
  const auto meet = [&](auto&& is_there) {
    Bytes sum = 0;
    for (const BucketSize& b : scattered)
      if (is_there(b)) sum += b.elements * main;
    return sum;
  };
  const auto reaches = [](const BucketSize& b, int unit) {
    return b.first_unit <= unit && unit <= b.last_unit;
  };
  Bytes can = 0, must = 0;
  for (const BucketSize& b : scattered) must = std::max(must, b.elements * main);
  for (int unit = 1; unit <= head_unit(s); ++unit) {
    const bool with_embedding = unit == 1 && memory::holds_first(s, pp);
    const bool with_norm = unit == s.model.layers && memory::has_experts(s, unit - 1);
    can = std::max(can, meet([&](const BucketSize& b) {
                     return reaches(b, unit) || (with_embedding && reaches(b, 0)) ||
                            (with_norm && names(b, "final_norm."));
                   }));
    if (p.zero == 3 && unit < head_unit(s) && s.model.mla.kv_rank == 0 &&
        !memory::has_experts(s, unit - 1))
      must = std::max(must, meet([&](const BucketSize& b) { return reaches(b, unit); }));
  }
  if (memory::holds_first(s, pp))
    must = std::max(must, meet([](const BucketSize& b) {
                      return names(b, "embed.") || names(b, "pos_embed.") ||
                             names(b, "layers.0.norm1.");
                    }));
  return WholeBytes{can + tied, can == must && (tied == 0 || several)};
}

}  // namespace tandem
