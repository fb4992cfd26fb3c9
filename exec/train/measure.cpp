#include "exec/train/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "common/base/check.h"
#include "exec/checkpoint/held.h"
#include "exec/kernels/loops.h"
#include "exec/optim/adamw_step.h"

namespace tandem::exec {
namespace {

template <class T>
TensorSums sums_of(const HeldPiece& h, const AdamWStep& s, bool decays,
                   const BufferMemory& memory) {
  const auto at = [&](BufferId id, std::int64_t element) {
    return reinterpret_cast<const T*>(memory(id)) + element;
  };
  const std::int64_t n = h.piece.elements();
  const T *g = at(h.grad, h.grad_element), *p = at(h.main, h.main_element);
  const T *m = at(h.m, h.state_element), *v = at(h.v, h.state_element);
  const double keep = decays ? s.decay : 1;
  const auto square = [](double x) { return x * x; };
  TensorSums out;
  out.elements = static_cast<double>(n);
  out.zeros = lane_sum<double>(n, [=](std::int64_t i) { return g[i] == T(0) ? 1.0 : 0.0; });
  out.gradient =
      lane_sum<double>(n, [=](std::int64_t i) { return square(static_cast<double>(g[i])); });
  out.parameter =
      lane_sum<double>(n, [=](std::int64_t i) { return square(static_cast<double>(p[i])); });
  out.step = lane_sum<double>(n, [=](std::int64_t i) {
    const double root = std::sqrt(static_cast<double>(v[i])) / s.root + s.eps;
    const double u = s.step_size * static_cast<double>(m[i]) / root;
    return square(((keep - 1) * static_cast<double>(p[i]) - u) / keep);
  });
  return out;
}

// "layers.12.attn.q.weight": 12; -1 outside of layers.
int layer_of(std::string_view name) {
  constexpr std::string_view kWord = "layers.";
  if (!name.starts_with(kWord)) return -1;
  int layer = -1;
  std::from_chars(name.data() + kWord.size(), name.data() + name.size(), layer);
  return layer;
}

double ratio_of(const TensorSums& s) { return std::sqrt(s.step) / std::sqrt(s.parameter); }

// The smallest of the sorted values that at least `share` of them do not exceed.
double percentile(const std::vector<double>& sorted, double share) {
  const double place = std::ceil(share * static_cast<double>(sorted.size()));
  return sorted[static_cast<std::size_t>(std::max(place, 1.0)) - 1];
}

void combine_tensors(const std::map<std::string, TensorSums>& tensors, Measures& out) {
  TensorSums all;
  std::vector<TensorSums> layers;
  std::map<std::string, TensorSums> outside;
  std::vector<double> ratios;
  for (const auto& [name, sums] : tensors) {
    all += sums;
    const int layer = layer_of(name);
    if (layer < 0) {
      outside[name.substr(0, name.find('.'))] += sums;
    } else {
      if (layer >= std::ssize(layers)) layers.resize(static_cast<std::size_t>(layer) + 1);
      layers[static_cast<std::size_t>(layer)] += sums;
    }
    if (!(sums.parameter > 0)) continue;
    ratios.push_back(ratio_of(sums));
    if (ratios.back() > out.update_max || out.update_max_tensor.empty())
      out.update_max = ratios.back(), out.update_max_tensor = name;
  }
  for (const TensorSums& s : layers) {
    out.norm_by_layer.push_back(std::sqrt(s.gradient));
    out.update_by_layer.push_back(s.parameter > 0 ? ratio_of(s) : 0);
  }
  for (const auto& [name, s] : outside) out.norm_outside[name] = std::sqrt(s.gradient);
  if (!layers.empty() && layers.back().gradient > 0)
    out.first_over_last = out.norm_by_layer.front() / out.norm_by_layer.back();
  if (all.elements > 0) out.zero_share = all.zeros / all.elements;
  out.parameter_norm = std::sqrt(all.parameter);
  if (ratios.empty()) return;
  out.update_ratio = ratio_of(all);
  std::sort(ratios.begin(), ratios.end());
  out.update_p50 = percentile(ratios, 0.5), out.update_p95 = percentile(ratios, 0.95);
}

// Communicators of sends and receives.
std::set<std::string> pipeline_communicators(const Plan& plan) {
  std::set<std::string> out;
  for (const Op& op : plan.ops)
    if (is_p2p(op.kind)) out.insert(plan.name(plan.communicators[op.comm.index()].name));
  return out;
}

void combine_time(const Plan& plan, std::span<const RankMeasures> ranks, Measures& out) {
  const auto pipeline = pipeline_communicators(plan);
  for (const RankMeasures& r : ranks)
    for (const auto& [name, seconds] : r.seconds) {
      const double part = seconds / static_cast<double>(ranks.size());
      const std::size_t space = name.find(' ');
      const std::string kind = name.substr(0, space);
      if (space != std::string::npos) {
        const std::string comm = name.substr(space + 1);
        (kind == "exposed" ? out.exposed_s : out.waiting_s)[comm] += part;
        if (kind == "waiting" && pipeline.contains(comm)) out.pipeline_idle_s += part;
      } else {
        (kind == "compute" ? out.compute_s : kind == "host" ? out.host_s : out.idle_s) += part;
      }
    }
}

void combine_memory(const Plan& plan, std::span<const RankMeasures> ranks, Measures& out) {
  const RankMeasures* fullest = &ranks.front();
  for (const RankMeasures& r : ranks)
    if (r.peak_bytes > fullest->peak_bytes) fullest = &r;
  out.fullest_rank = fullest->rank;
  out.peak_bytes = fullest->peak_bytes;
  out.live = fullest->live, out.peak_by_class = fullest->peak_by_class;
  out.kernel_scratch_bytes = fullest->kernel_scratch_bytes;
  out.slab_bytes = fullest->slab_bytes;
  const ProgramId program = plan.program_of(Rank{fullest->rank});
  const PeakBytes predicted =
      peak_with_rows(plan, program, persistent_bytes(plan)[program.index()], {});
  out.predicted_peak_bytes = predicted.total;
  out.predicted_by_class = predicted.by_class;
}

}  // namespace

TensorSums& TensorSums::operator+=(const TensorSums& other) {
  elements += other.elements, zeros += other.zeros;
  gradient += other.gradient, step += other.step, parameter += other.parameter;
  return *this;
}

std::map<std::string, TensorSums> tensor_sums(const Plan& plan, Rank rank,
                                              const TrainingConfig& config, int step,
                                              const BufferMemory& memory) {
  const AdamWStep constants = adamw_step(config, step);
  std::map<std::string, TensorSums> out;
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    if (!h.is_owner || !h.grad.valid()) continue;  // a router's bias has no gradient
    const bool decays = h.piece.dims == 2 || config.decay_all;
    out[h.piece.name] += plan.header.types.main == DType::f64
                             ? sums_of<double>(h, constants, decays, memory)
                             : sums_of<float>(h, constants, decays, memory);
  }
  return out;
}

Status check_finite(const std::map<std::string, TensorSums>& tensors, int step) {
  for (const auto& [name, s] : tensors)
    if (!std::isfinite(s.step) || !std::isfinite(s.parameter))
      return make_error(Failure::execution, "E-EXEC-031", "a value that must be finite is not",
                        fmt::format("{} or its moments behind step {}", name, step),
                        "finite parameters and optimizer state",
                        "lower training.optimizer.lr; --resume goes on from the last checkpoint");
  return Ok{};
}

std::map<int, double> bias_spreads(const Plan& plan, Rank rank, const BufferMemory& memory) {
  std::map<int, double> out;
  for (BufferId id : router_biases(plan, plan.program_of(rank))) {
    const Buffer& b = plan.buffer(id);
    const auto spread = [&]<class T>(const T* first) {
      const auto [low, high] = std::minmax_element(first, first + b.shape.elements());
      return static_cast<double>(*high) - static_cast<double>(*low);
    };
    out[layer_of(plan.name(b.name))] = b.dtype == DType::f64
                                           ? spread(reinterpret_cast<const double*>(memory(id)))
                                           : spread(reinterpret_cast<const float*>(memory(id)));
  }
  return out;
}

std::map<std::string, double> seconds_of(const Plan& plan, const Parts& parts) {
  std::map<std::string, double> out;
  for (const auto& [key, ns] : parts) {
    std::string name = part_name(plan, key);
    if (key.kind == PartKind::compute) name = "compute";
    if (key.kind == PartKind::transfer) name = "exposed" + name.substr(name.find(' '));
    out[name] += static_cast<double>(ns) * 1e-9;
  }
  return out;
}

Measures combine(const Plan& plan, std::span<const RankMeasures> ranks) {
  TANDEM_CHECK(std::ssize(ranks) == plan.header.mesh.world(), "measures of {} ranks", ranks.size());
  Measures out;
  std::map<std::string, TensorSums> tensors;
  ExpertChoices choices(plan);
  for (const RankMeasures& r : ranks) {
    for (const auto& [name, sums] : r.tensors) tensors[name] += sums;
    for (const auto& [layer, list] : r.choices) choices.add(Rank{r.rank}, layer, list);
    out.bias_spread.insert(r.bias_spread.begin(), r.bias_spread.end());
    for (const auto& [layer, sums] : r.activations) out.activations[layer] += sums;
  }
  combine_tensors(tensors, out);
  out.experts = choices.loads();
  combine_time(plan, ranks, out);
  combine_memory(plan, ranks, out);
  return out;
}

}  // namespace tandem::exec
