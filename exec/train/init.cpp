#include "exec/train/init.h"

#include <cmath>

#include "common/base/rng.h"
#include "common/base/text.h"

namespace tandem::exec {

InitRule init_rule(const TrainingConfig& config, const std::string& name) {
  const bool bias = name.ends_with(".bias");
  const bool norm = name.find("norm") != std::string::npos;
  const double mean = norm && !bias ? 1 : 0;
  if (config.init == "test") return {mean, 0.1};
  if (bias || norm) return {mean, 0};
  const bool output = config.family == "gpt" &&
                      (name.ends_with(".attn.o.weight") || name.ends_with(".mlp.fc2.weight"));
  return {0, output ? 0.02 / std::sqrt(2.0 * config.layers) : 0.02};
}

void fill_block(const TrainingConfig& config, const Shard& s, std::int64_t begin, std::int64_t end,
                const std::function<void(std::int64_t, double)>& put) {
  const InitRule rule = init_rule(config, s.name);
  const std::uint64_t hash = fnv1a64(s.name);
  std::uint64_t quad = ~0ULL;
  std::array<double, 4> normals{};
  for (std::int64_t i = begin; i < end; ++i) {
    double value = rule.mean;
    if (rule.deviation != 0) {
      const std::int64_t row = s.row_begin + i / s.columns;
      const auto index =
          static_cast<std::uint64_t>(row * s.full_columns + s.column_begin + i % s.columns);
      if (index / 4 != quad) {
        quad = index / 4;
        normals = philox_normals(config.seed, hash, quad);
      }
      value += rule.deviation * normals[index % 4];
    }
    put(i, value);
  }
}

void init_parameters(const Plan& plan, Rank rank, const TrainingConfig& config,
                     const std::function<View(BufferId)>& view) {
  for (BufferId id : holders(plan, plan.program_of(rank), BufferClass::param)) {
    const View v = view(id);
    for (const HeldRange& h : ranges_in(plan, id, rank)) {
      const std::int64_t shift = h.element - h.begin;  // from the slice to the buffer
      const auto fill = [&](auto* p) {
        fill_block(config, h.shard, h.begin, h.end, [=](std::int64_t i, double x) {
          p[shift + i] = static_cast<std::remove_pointer_t<decltype(p)>>(x);
        });
      };
      if (v.dtype == DType::f64)
        fill(v.as<double>());
      else
        fill(v.as<float>());
    }
  }
}

}  // namespace tandem::exec
