#include "exec/calibrate/operands.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/base/bf16.h"
#include "common/base/check.h"
#include "common/model/weight_kernels.h"

namespace tandem::exec {
namespace {

constexpr Bytes kAlignment = 64;
constexpr int kMostSets = 64;  // enough to leave every cache with operands of 1 MiB

Bytes aligned(Bytes n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

// The i-th of a fixed sequence that looks random: multiplicative hashing (Knuth), by index, so that
// the loops below are as fast as memory.
constexpr std::uint32_t scattered(std::int64_t i) {
  return static_cast<std::uint32_t>(i) * 2654435761U;
}
constexpr float centred(std::int64_t i) {  // [-0.5, 0.5)
  return static_cast<float>(scattered(i) >> 8) * 0x1p-24F - 0.5F;
}

bool is_batch(const Operand& o) { return o.shape.rank == 0; }

// Tokens below which a batch must stay: rows of the table or classes of the head.
std::int64_t vocabulary(const Kernel& k) { return std::max<std::int64_t>(1, k.dims[1]); }

// The operand as one sequence of all tokens, where its shape is not declared.
Shape shape_of(const Operand& o, const Kernel& k) {
  return is_batch(o) ? Shape{1, k.dims[0] + 1} : o.shape;
}

// A second moment and a variance are not negative; a sum of exponentials is above 0.
bool is_positive(const Operand& o) {
  return o.role == "v" || o.role == "sums" || o.role == "stat" || o.role == "norm_sq" ||
         o.role == "scores";
}

// Experts as a balanced router chooses them: each as often, no token one twice.
void fill_choice(const View& v, std::int64_t experts) {
  for (std::int64_t i = 0; i < v.shape.elements(); ++i) v.as<std::int64_t>()[i] = i % experts;
}

// As many rows from each source for each expert, `rows` in all.
template <class T>
void fill_counts(const View& v, std::int64_t rows) {
  const std::int64_t n = v.shape.elements();
  for (std::int64_t i = 0; i < n; ++i)
    v.as<T>()[i] = static_cast<T>(rows / n + (i < rows % n ? 1 : 0));
}

// What a weight gradient, the norm or the optimizer reads was written long ago: gradients of
// weights come after all of the segment's gradients of inputs, the others after everything.
bool reads_cold_operands(KernelKind kind) {
  return makes_only_weight_gradients(kind) || kind == KernelKind::adamw ||
         kind == KernelKind::sum_squares || kind == KernelKind::router_bias_update;
}
bool is_real(DType t) { return t == DType::f32 || t == DType::f64 || t == DType::bf16; }

// Element i becomes value(i), in the view's real type.
template <class F>
void fill_real(const View& v, F&& value) {
  const std::int64_t n = v.shape.elements();
  if (v.dtype == DType::f64)
    for (std::int64_t i = 0; i < n; ++i) v.as<double>()[i] = value(i);
  else if (v.dtype == DType::bf16)
    for (std::int64_t i = 0; i < n; ++i) v.as<std::uint16_t>()[i] = to_bf16(value(i));
  else
    for (std::int64_t i = 0; i < n; ++i) v.as<float>()[i] = value(i);
}

void fill(const View& v, const Operand& o, const Kernel& k) {
  const std::int64_t n = v.shape.elements();
  if (o.role == "choice")
    return fill_choice(v, k.kind == KernelKind::label_rows_fwd ? k.dims[1] : k.dims[2]);
  if (v.dtype == DType::i32) return fill_counts<std::int32_t>(v, k.dims[0]);
  if (v.dtype == DType::i64 && o.role == "counts") return fill_counts<std::int64_t>(v, k.dims[0]);
  if (v.dtype == DType::i64) {
    const std::int64_t below = o.role == "expert" ? k.dims[2] : vocabulary(k);
    for (std::int64_t i = 0; i < n; ++i) v.as<std::int64_t>()[i] = (scattered(i) >> 8) % below;
    return;
  }
  const float base = is_positive(o) ? 1 : 0;
  fill_real(v, [base](std::int64_t i) { return base + centred(i); });
}

std::vector<Operand> inputs_of(const Kernel& k, PlanTypes types) {
  std::vector<Operand> out = signature(k, types).inputs;
  if (k.kind == KernelKind::sum_squares) out.push_back({"gradient", {k.dims[0]}, types.main});
  return out;
}

}  // namespace

MeasureSlab::MeasureSlab(Bytes bytes) : bytes_(aligned(std::max<Bytes>(bytes, kAlignment))) {
  data_.reset(
      static_cast<std::byte*>(std::aligned_alloc(kAlignment, static_cast<std::size_t>(bytes_))));
  TANDEM_CHECK(data_ != nullptr, "no memory for {} bytes of operands", bytes_);
}
void MeasureSlab::Free::operator()(std::byte* p) const { std::free(p); }

Bytes set_bytes(const Kernel& k, PlanTypes types) {
  const Signature s = signature(k, types);
  Bytes sum = 0;
  const auto add = [&](const Operand& o) {
    sum += aligned(shape_of(o, k).elements() * size_of(o.dtype));
  };
  for (const Operand& o : inputs_of(k, types)) add(o);
  for (const Operand& o : s.outputs)
    if (o.in_place_of < 0) add(o);
  return sum;
}

// Lies at one address for all calls of a plan's stream, so it is hot: shared by the sets.
Bytes scratch_bytes(const Kernel& k, PlanTypes types, bool accumulate) {
  Bytes sum = 0;
  if (accumulate)
    for (const Operand& o : signature(k, types).scratch)
      sum += aligned(o.shape.elements() * size_of(o.dtype));
  return sum;
}

int num_sets(Bytes one_set, Bytes footprint) {
  const Bytes sets = (footprint + one_set - 1) / std::max<Bytes>(one_set, 1);
  return static_cast<int>(std::clamp<Bytes>(sets, 2, kMostSets));
}

Result<std::vector<OperandSet>> make_operand_sets(const Kernel& k, PlanTypes types, bool accumulate,
                                                  Bytes footprint, MeasureSlab& slab,
                                                  const KernelContext& context) {
  const Bytes bytes = set_bytes(k, types);
  const int sets = num_sets(bytes, footprint);
  TANDEM_CHECK(bytes * sets + scratch_bytes(k, types, accumulate) <= slab.size(),
               "{} sets of {} bytes in a slab of {}", sets, bytes, slab.size());
  const Signature s = signature(k, types);
  std::byte* at = slab.data();
  const auto take = [&](const Operand& o) {
    View v{at, o.dtype, shape_of(o, k)};
    at += aligned(v.shape.elements() * size_of(v.dtype));
    fill(v, o, k);
    return v;
  };
  std::vector<View> scratch;
  if (accumulate)
    for (const Operand& o : s.scratch) scratch.push_back(take(o));
  std::vector<OperandSet> out;
  for (int i = 0; i < sets; ++i) {
    KernelCall call;
    call.kernel = k;
    call.types = types;
    call.context = &context;
    for (const Operand& o : inputs_of(k, types)) call.inputs.push_back(take(o));
    for (const Operand& o : s.outputs) {
      call.outputs.push_back(
          o.in_place_of >= 0 ? call.inputs[static_cast<std::size_t>(o.in_place_of)] : take(o));
      call.accumulate.push_back(accumulate && o.may_accumulate);
    }
    call.scratch = scratch;
    if (k.kind == KernelKind::adamw) call.decay = {{0, k.dims[0]}};
    OperandSet set;
    if (!call.inputs.empty() && is_real(call.inputs[0].dtype) && !reads_cold_operands(k.kind))
      set.hot = call.inputs[0];
    Result<Prepared> bound = prepare(call);
    if (!bound) return bound.error();
    set.call = std::move(*bound);
    out.push_back(std::move(set));
  }
  return out;
}

void refresh(const OperandSet& set) {
  if (!set.hot.data) return;
  // A short period is enough: no kernel's time depends on the values.
  fill_real(set.hot, [](std::int64_t i) { return 0.25F + static_cast<float>(i & 63) / 128; });
}

}  // namespace tandem::exec
