// Balance of experts (models.md 2.5). Of one scope of T tokens, with groups of neighbouring
// experts:
//   f_i  = E/(K T) * choices of expert i      f' mean of f in a group   (without gradient)
//   P_i  = 1/T * sum of prob over tokens      P' sum of P in a group    prob: softmax s; sigmoid
//   loss = alpha/divisor * sum over scopes and groups of f' P'                s_i / sum of s
// and the bias of 'noaux_tc' routing (arXiv 2412.19437), which steers the choice without a loss.
#include "exec/kernels/assignments.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

// f' P' terms from aux[2,scopes,E]; sums in fp64.
template <class T>
struct Balance {
  const T* aux;
  std::int64_t scopes, experts, groups;
  double tokens, f_scale, alpha;  // f_scale: E/(K T); alpha: alpha/divisor
  explicit Balance(const KernelCall& call)
      : aux(call.inputs[0].as<T>()),
        scopes(call.kernel.dims[0]),
        experts(call.kernel.dims[1]),
        groups(call.kernel.dims[4]),
        tokens(static_cast<double>(call.kernel.dims[2])),
        f_scale(static_cast<double>(experts) / (static_cast<double>(call.kernel.dims[3]) * tokens)),
        alpha(call.kernel.real.value_or(1) / static_cast<double>(call.kernel.dims[5])) {}
  // Sum of row 0 (choices) or 1 (prob) of aux over a group.
  [[nodiscard]] double sum(int row, std::int64_t scope, std::int64_t group) const {
    const std::int64_t size = experts / groups;
    const T* from = aux + (row * scopes + scope) * experts + group * size;
    double out = 0;
    for (std::int64_t e = 0; e < size; ++e) out += static_cast<double>(from[e]);
    return out;
  }
  [[nodiscard]] double f(std::int64_t scope, std::int64_t group) const {
    return f_scale * sum(0, scope, group) / static_cast<double>(experts / groups);
  }
  [[nodiscard]] double p(std::int64_t scope, std::int64_t group) const {
    return sum(1, scope, group) / tokens;
  }
};

}  // namespace

Prepared bind_balance_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    const Balance<decltype(zero)> balance(call);
    double* loss = call.outputs[0].as<double>();
    const bool accumulate = call.accumulate[0], owner = call.context->owns(call.kernel.owner);
    return [=] {
      double total = 0;
      if (owner)
        for (std::int64_t s = 0; s < balance.scopes; ++s)
          for (std::int64_t g = 0; g < balance.groups; ++g)
            total += balance.f(s, g) * balance.p(s, g);
      *loss = (accumulate ? *loss : 0.0) + balance.alpha * total;
    };
  });
}

Prepared bind_balance_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Balance<T> balance(call);
    const std::int64_t experts = balance.experts, size = experts / balance.groups;
    const std::int64_t rows = call.kernel.dims[6], scopes = balance.scopes;
    const Bytes scratch = hidden_scratch(call.kernel, call.types);
    const bool sigmoid = (call.kernel.flags & kSigmoid) != 0;
    const T *scores = call.inputs[1].as<T>(), *before = call.inputs[2].as<T>();
    T* after = call.outputs[0].as<T>();
    return [=] {
      Workspace space(scratch);
      auto* dprob = space.take<double>(balance.groups);  // the same for all tokens of a scope
      for (std::int64_t scope = 0; scope < scopes; ++scope) {
        for (std::int64_t g = 0; g < balance.groups; ++g)
          dprob[g] = balance.alpha * balance.f(scope, g) / balance.tokens;
        for (std::int64_t r = scope; r < rows; r += scopes) {  // row = position * batch + sequence
          const T *s = scores + r * experts, *in = before + r * experts;
          T* out = after + r * experts;
          if (!sigmoid) {
            for (std::int64_t e = 0; e < experts; ++e)
              out[e] = in[e] + static_cast<T>(dprob[e / size]);
            continue;
          }
          // prob_i = s_i / sum: d s_i = (dprob_i - sum_j dprob_j prob_j) / sum
          double sum = 0, mean = 0;
          for (std::int64_t e = 0; e < experts; ++e) {
            sum += static_cast<double>(s[e]);
            mean += dprob[e / size] * static_cast<double>(s[e]);
          }
          for (std::int64_t e = 0; e < experts; ++e)
            out[e] = in[e] + static_cast<T>((dprob[e / size] - mean / sum) / sum);
        }
      }
    };
  });
}

Prepared bind_router_bias_update(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t experts = call.kernel.dims[0];
    const std::int32_t* choices = call.inputs[0].as<std::int32_t>();
    const T* before = call.inputs[1].as<T>();
    T* after = call.outputs[0].as<T>();
    const T rate = static_cast<T>(call.kernel.real.value_or(0));
    return [=] {
      std::int64_t sum = 0;
      for (std::int64_t e = 0; e < experts; ++e) sum += choices[e];
      for (std::int64_t e = 0; e < experts; ++e) {
        const std::int64_t mine = experts * choices[e];  // against the sum: mean against choices
        after[e] = before[e] + (mine < sum ? rate : mine > sum ? -rate : T(0));
      }
    };
  });
}

}  // namespace tandem::exec
