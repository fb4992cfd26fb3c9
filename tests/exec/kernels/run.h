// What the tests of kernels share: calls whose operands live in tensors, the two precisions and
// their tolerances, and the measure of an error. A test includes ATen/ATen.h before doctest: both
// name a macro CHECK, and the last one counts.
#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "exec/kernels/kernel.h"

namespace tandem::exec {

using at::Tensor;

inline at::ScalarType type_of(DType t) {
  switch (t) {
    case DType::f64:
      return at::kDouble;
    case DType::i64:
      return at::kLong;
    case DType::i32:
      return at::kInt;
    case DType::bf16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

// A call whose operands live in tensors.
struct Run {
  Kernel kernel;
  PlanTypes types;
  std::vector<Tensor> inputs, outputs, scratch;
  std::vector<bool> accumulate;
  std::vector<ElementRange> decay;
  KernelContext context;

  Run(Kernel k, PlanTypes t, std::vector<Tensor> in) : kernel(k), types(t), inputs(std::move(in)) {
    const Signature s = signature(k, t);
    accumulate.assign(s.outputs.size(), false);
    for (std::size_t i = 0; i < s.outputs.size(); ++i) {
      const Operand& o = s.outputs[i];
      if (o.in_place_of >= 0) {
        outputs.push_back(inputs[static_cast<std::size_t>(o.in_place_of)]);
        continue;
      }
      const std::vector<std::int64_t> sizes(o.shape.dim.begin(),
                                            o.shape.dim.begin() + o.shape.rank);
      outputs.push_back(at::full(sizes, 7, at::TensorOptions().dtype(type_of(o.dtype))));
    }
    for (const Operand& o : s.scratch)
      scratch.push_back(at::full({o.shape.elements()}, 3, type_of(o.dtype)));
  }
  static View view(const Tensor& t) {
    View v;
    v.data = static_cast<std::byte*>(t.data_ptr());
    for (const DType d : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32})
      if (type_of(d) == t.scalar_type()) v.dtype = d;
    for (std::int64_t d : t.sizes()) v.shape.dim[static_cast<std::size_t>(v.shape.rank++)] = d;
    return v;
  }
  [[nodiscard]] KernelCall call() {
    KernelCall out{kernel, types, {}, {}, {}, accumulate, decay, &context};
    for (const Tensor& t : inputs) out.inputs.push_back(view(t));
    for (const Tensor& t : outputs) out.outputs.push_back(view(t));
    for (const Tensor& t : scratch) out.scratch.push_back(view(t));
    return out;
  }
  [[nodiscard]] Result<Prepared> prepared() { return prepare(call()); }
  void operator()() {
    Result<Prepared> p = prepared();
    REQUIRE_MESSAGE(p.ok(), to_text(p.error().diagnostics));
    (*p)();
  }
};

struct Types {
  PlanTypes plan;
  at::ScalarType scalar;
  double tolerance;
};
inline const Types kTypes[] = {{{DType::f64, DType::f64}, at::kDouble, 1e-12},
                               {{DType::f32, DType::f32}, at::kFloat, 2e-5}};

inline Tensor random(at::IntArrayRef sizes, at::ScalarType t) {
  return at::randn(sizes, at::kDouble).to(t);
}

// Largest difference over the largest reference element, at least 1.
inline double error(const Tensor& got, const Tensor& expected) {
  const Tensor e = expected.detach().to(at::kDouble).reshape({-1});
  const Tensor g = got.detach().to(at::kDouble).reshape({-1});
  REQUIRE(g.numel() == e.numel());
  return (g - e).abs().max().item<double>() / std::max(1.0, e.abs().max().item<double>());
}

inline Kernel make(KernelKind kind, KernelDims dims, std::uint32_t flags = 0) {
  Kernel k;
  k.kind = kind;
  k.dims = dims;
  k.flags = flags;
  return k;
}
using K = KernelKind;

// Tokens i64[b, S+1] below `vocab`.
inline Tensor tokens(std::int64_t b, std::int64_t s, std::int64_t vocab) {
  return at::randint(0, vocab, {b, s + 1}, at::kLong);
}

}  // namespace tandem::exec
