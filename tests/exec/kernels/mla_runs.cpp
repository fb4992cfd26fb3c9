#include "tests/exec/kernels/mla_runs.h"

namespace tandem::exec {

std::vector<Run> mla_runs(const Types& t) {
  std::vector<Run> out;
  // Random operands, as the signature declares them.
  const auto add = [&](Kernel k) {
    std::vector<Tensor> inputs;
    for (const Operand& o : signature(k, t.plan).inputs)
      inputs.push_back(
          random({o.shape.dim.data(), static_cast<std::size_t>(o.shape.rank)}, type_of(o.dtype)));
    out.emplace_back(k, t.plan, std::move(inputs));
  };
  for (const std::int64_t q_rank : {12, 0})
    for (const std::int64_t rope : {4, 0})
      for (const KernelKind kind : {K::latent_norm_fwd, K::latent_norm_bwd_input,
                                    K::latent_split_fwd, K::latent_merge_bwd_input})
        add(make(kind, {16, q_rank, 8, rope}));
  for (const KernelKind kind : {K::mla_qkv_fwd, K::mla_qkv_bwd_input})
    add(make(kind, {2, 3, 8, 6, 4, 8}));
  for (const KernelFlag kind : {kFlash, kMaterialised})
    for (const KernelKind attention : {K::attention_fwd, K::attention_bwd_input})
      add(make(attention, {2, 3, 8, 12, 0, 8}, kCausal | kind));
  return out;
}

}  // namespace tandem::exec
