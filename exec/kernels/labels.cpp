// What style nano_train sends beside the rows (models.md 7.1): of each row the token, the slot, the
// expert at its destination and the weight; of each destination the number of rows. The order of
// rows is that of dispatch: by (expert, token, slot), without the dropped ones.
#include <limits>

#include "exec/kernels/assignments.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {

Prepared bind_label_rows_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Kernel& k = call.kernel;
    const std::int64_t tokens = k.dims[0], experts = k.dims[1], top_k = k.dims[2],
                       members = k.dims[3], local = experts / members;
    const std::int64_t* choice = call.inputs[0].as<std::int64_t>();
    const T* scores = call.inputs[1].as<T>();
    auto *token = call.outputs[0].as<std::int64_t>(), *slot = call.outputs[1].as<std::int64_t>(),
         *expert = call.outputs[2].as<std::int64_t>(), *counts = call.outputs[4].as<std::int64_t>();
    T* weight = call.outputs[3].as<T>();
    auto *routed = call.outputs[5].as<std::int32_t>(),
         *dropped = call.outputs[6].as<std::int32_t>();
    const T scale = static_cast<T>(k.real.value_or(1));
    const std::uint32_t flags = k.flags;
    const Bytes scratch = hidden_scratch(k, call.types);
    return [=] {
      Workspace space(scratch);
      std::int64_t* next = first_rows(space, choice, tokens * top_k, experts);
      std::fill_n(counts, members, 0);
      std::int32_t lost = 0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t* chosen = choice + t * top_k;
        const T* s = scores + t * experts;
        const T divisor = weight_divisor(s, chosen, top_k, flags);
        for (std::int64_t i = 0; i < top_k; ++i) {
          if (is_dropped(chosen[i])) {
            ++lost;
            continue;
          }
          const std::int64_t row = next[chosen[i]]++;
          token[row] = t;
          slot[row] = i;
          expert[row] = chosen[i] % local;
          weight[row] = scale * s[chosen[i]] / divisor;
          ++counts[chosen[i] / local];
        }
      }
      routed[0] = static_cast<std::int32_t>(tokens);
      dropped[0] = lost;
      dropped[1] = static_cast<std::int32_t>(tokens * top_k);
    };
  });
}

Prepared bind_narrow_counts(const KernelCall& call) {
  const std::int64_t members = call.kernel.dims[0];
  const std::int64_t* wide = call.inputs[0].as<std::int64_t>();
  auto* narrow = call.outputs[0].as<std::int32_t>();
  return [=] {
    for (std::int64_t i = 0; i < members; ++i) {
      TANDEM_CHECK(wide[i] >= 0 && wide[i] <= std::numeric_limits<std::int32_t>::max(),
                   "{} rows from member {}", wide[i], i);
      narrow[i] = static_cast<std::int32_t>(wide[i]);
    }
  };
}

Prepared bind_count_rows(const KernelCall& call) {
  const std::int64_t members = call.kernel.dims[1], experts = call.kernel.dims[2];
  const std::int64_t *expert = call.inputs[0].as<std::int64_t>(),
                     *counts = call.inputs[1].as<std::int64_t>();
  auto* out = call.outputs[0].as<std::int32_t>();
  return [=] {
    std::fill_n(out, members * experts, 0);
    std::int64_t row = 0;  // by source; as many as `counts` says, not as the operand has room for
    for (std::int64_t m = 0; m < members; ++m)
      for (std::int64_t i = 0; i < counts[m]; ++i, ++row) {
        TANDEM_CHECK(expert[row] >= 0 && expert[row] < experts, "a row for local expert {} of {}",
                     expert[row], experts);
        ++out[m * experts + expert[row]];
      }
  };
}

}  // namespace tandem::exec
