// Which kernels a calibration measures: those of given plans (exactly what they call), or a grid of
// sizes that small CPU models use, so that other scenarios lie between its points. Pure.
#pragma once

#include <vector>

#include "common/model/measurement.h"
#include "common/plan/plan.h"

namespace tandem::sim {

// Every kernel of the plan in the modes its ops use, once, sorted; without coords and owner. Where
// a router decides how many rows it has, also with half and twice the balanced number.
[[nodiscard]] std::vector<MeasuredKernel> kernels_of(const Plan& plan);

// tokens x in x out = {32, 128, 512} x {64, 256, 1024}^2 for matrix products, and for the rest
// extents that cover the same models: microbatches of 32 to 512 tokens, hidden 64 to 1024, head
// dimensions 16 to 64, optimizers of up to 2^22 elements. GELU by erf and by tanh, flash attention.
[[nodiscard]] std::vector<MeasuredKernel> kernel_grid();

// Both lists, each kernel once, sorted.
[[nodiscard]] std::vector<MeasuredKernel> merged(const std::vector<MeasuredKernel>& a,
                                                 const std::vector<MeasuredKernel>& b);

}  // namespace tandem::sim
