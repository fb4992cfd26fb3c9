#include "exec/train/init.h"

#include <cmath>

#include "common/base/bf16.h"
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

namespace {

// Of a buffer that holds the tensors of `ranges`; `value` makes its elements.
template <class T, class F>
void fill(const TrainingConfig& config, const std::vector<HeldRange>& ranges, T* to, F&& value) {
  for (const HeldRange& h : ranges) {
    const std::int64_t shift = h.element - h.begin;  // from the slice to the buffer
    fill_block(config, h.shard, h.begin, h.end,
               [&](std::int64_t i, double x) { to[shift + i] = value(x); });
  }
}

float as_float(double x) { return static_cast<float>(x); }

}  // namespace

void init_parameters(const Plan& plan, Rank rank, const TrainingConfig& config,
                     const std::function<View(BufferId)>& view) {
  const ProgramId program = plan.program_of(rank);
  for (BufferId id : holders(plan, program, BufferClass::param)) {
    const View v = view(id);
    const std::vector<HeldRange> ranges = ranges_in(plan, id, rank);
    if (v.dtype == DType::f64)
      fill(config, ranges, v.as<double>(), [](double x) { return x; });
    else if (v.dtype == DType::f32)
      fill(config, ranges, v.as<float>(), as_float);
    else
      fill(config, ranges, v.as<std::uint16_t>(), [](double x) { return to_bf16(as_float(x)); });
  }
  // Main copies: where they are whole they are laid out as the parameter.
  for (const Op& op : plan.ops_of(program))
    for (const Call& c : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(c.kernel);
      if (k.kind != KernelKind::adamw || !(k.flags & kCast)) continue;
      const BufferId main = plan.operands_of(c.inputs)[0].id;
      const BufferId param = plan.operands_of(c.outputs)[3].id;
      const bool shard = plan.buffer(main).shard_of.valid();
      fill(config, ranges_in(plan, shard ? main : param, rank), view(main).as<float>(), as_float);
    }
}

}  // namespace tandem::exec
