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

void fill_block(const TrainingConfig& config, const Shard& s,
                const std::function<void(std::int64_t, double)>& put) {
  const InitRule rule = init_rule(config, s.name);
  const std::uint64_t hash = fnv1a64(s.name);
  std::uint64_t quad = ~0ULL;
  std::array<double, 4> normals{};
  for (std::int64_t r = 0; r < s.rows; ++r)
    for (std::int64_t c = 0; c < s.columns; ++c) {
      double value = rule.mean;
      if (rule.deviation != 0) {
        const auto index =
            static_cast<std::uint64_t>((s.row_begin + r) * s.full_columns + s.column_begin + c);
        if (index / 4 != quad) {
          quad = index / 4;
          normals = philox_normals(config.seed, hash, quad);
        }
        value += rule.deviation * normals[index % 4];
      }
      put(s.local_begin + r * s.local_columns + c, value);
    }
}

void init_parameters(const Plan& plan, Rank rank, const TrainingConfig& config,
                     const std::function<View(BufferId)>& view) {
  const auto coordinate = coordinates(plan, rank);
  for (BufferId id : tensors(plan, plan.program_of(rank), BufferClass::param)) {
    const View v = view(id);
    for (const Shard& shard : shards_of(plan, plan.buffer(id), coordinate)) {
      if (v.dtype == DType::f64)
        fill_block(config, shard, [p = v.as<double>()](std::int64_t i, double x) { p[i] = x; });
      else
        fill_block(config, shard,
                   [p = v.as<float>()](std::int64_t i, double x) { p[i] = static_cast<float>(x); });
    }
  }
}

}  // namespace tandem::exec
