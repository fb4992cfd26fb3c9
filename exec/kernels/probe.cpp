#include "exec/kernels/probe.h"

#include <ATen/ops/dot.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "exec/kernels/attention_heads.h"

namespace tandem::exec {
namespace {

// Entropy of p ~ exp(x), in nats: log sum exp x - sum p x.
double softmax_entropy(const double* x, std::int64_t n, double top) {
  double sum = 0, weighted = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double e = std::exp(x[i] - top);
    sum += e, weighted += e * (x[i] - top);
  }
  return std::log(sum) - weighted / sum;
}

Prepared probe_attention(const KernelCall& call, ActivationSums& into) {
  const c10::InferenceMode guard;
  const AttentionHeads h(call.kernel);
  const bool causal = (call.kernel.flags & kCausal) != 0;
  const at::Tensor q = h.q(call.inputs[0]), k = h.k(call.inputs[0]);
  return [=, &into] {
    const c10::InferenceMode inference;
    for (std::int64_t b = 0; b < h.batch; ++b)
      for (std::int64_t a = 0; a < h.heads; ++a) {
        const at::Tensor logits = at::mm(q[b][a].to(at::kDouble).mul(h.scale()),
                                         k[b][a / h.shared()].to(at::kDouble).t());
        const double* row = logits.const_data_ptr<double>();
        for (std::int64_t i = 0; i < h.seq; ++i, row += h.seq) {
          const std::int64_t n = causal ? i + 1 : h.seq;
          const double top = *std::max_element(row, row + n);
          into.max_logit = std::max(into.max_logit, top);
          into.attention_entropy += softmax_entropy(row, n, top);
        }
        into.attention_rows += static_cast<double>(h.seq);
      }
  };
}

Prepared probe_residual(const KernelCall& call, ActivationSums& into) {
  const c10::InferenceMode guard;
  const std::int64_t n = call.inputs[0].shape.elements();
  const at::Tensor x = tensor(call.inputs[0], {n});
  return [=, &into] {
    const c10::InferenceMode inference;
    const at::Tensor wide = x.to(at::kDouble);
    into.residual_squares += at::dot(wide, wide).item<double>();
    into.residual_elements += static_cast<double>(n);
  };
}

Prepared probe_router(const KernelCall& call, ActivationSums& into) {
  const c10::InferenceMode guard;
  const std::int64_t tokens = call.kernel.dims[0] * call.kernel.dims[1],
                     experts = call.kernel.dims[2];
  const bool softmax = (call.kernel.flags & kSoftmax) != 0;
  const at::Tensor logits = tensor(call.inputs[0], {tokens, experts});
  return [=, &into] {
    const c10::InferenceMode inference;
    const at::Tensor wide = logits.to(at::kDouble).contiguous();
    std::vector<double> row(static_cast<std::size_t>(experts));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double* x = wide.const_data_ptr<double>() + t * experts;
      // Scores of sigmoid routers over their sum are a softmax of log sigmoid.
      for (std::int64_t e = 0; e < experts; ++e)
        row[static_cast<std::size_t>(e)] = softmax ? x[e] : -std::log1p(std::exp(-x[e]));
      into.router_entropy +=
          softmax_entropy(row.data(), experts, *std::max_element(row.begin(), row.end()));
    }
    into.routed_tokens += static_cast<double>(tokens);
  };
}

}  // namespace

Prepared bind_probe(const KernelCall& call, ActivationSums& into) {
  switch (call.kernel.kind) {
    case KernelKind::attention_fwd:
      return probe_attention(call, into);
    case KernelKind::layernorm_fwd:
    case KernelKind::rmsnorm_fwd:
      return probe_residual(call, into);
    case KernelKind::route_fwd:
      return probe_router(call, into);
    default:
      return {};
  }
}

}  // namespace tandem::exec
