#include "tests/exec/kernels/ring_runs.h"

namespace tandem::exec {

std::vector<Run> ring_runs(const Types& t) {
  std::vector<Run> out;
  const auto add = [&](KernelKind kind, KernelDims dims, int coordinate) {
    const Kernel k = make(kind, dims);
    std::vector<Tensor> inputs;
    for (const Operand& o : signature(k, t.plan).inputs)
      inputs.push_back(
          random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, type_of(o.dtype)));
    out.emplace_back(k, t.plan, std::move(inputs));
    out.back().context.coordinate[static_cast<std::size_t>(Axis::cp)] = coordinate;
  };
  for (const std::int64_t v : {0, 8})
    for (const std::int64_t kv : {0, 2}) {
      const KernelDims dims = {2, 4, 8, 12, kv, v}, block = {2, 4, 8, 12, kv, v, 1};
      add(K::kv_pack, dims, 0);
      add(K::kv_unpack, dims, 0);
      add(K::attention_block_bwd_input, dims, 0);
      for (const int coordinate : {0, 1}) {  // a higher member's block, a lower one's
        add(K::attention_block_fwd, block, coordinate);
        add(K::attention_block_bwd_input, block, coordinate);
      }
    }
  return out;
}

}  // namespace tandem::exec
