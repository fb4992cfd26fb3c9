// Step `optimizer`: the gradient norm, its check, the update, and the metrics of the step, which
// every step ends with (models.md 4.9, 5).
//   Each element counts once in the norm: whole tensors on tp rank 0, all on dp rank 0, a tied
//   embedding on the first stage only. The loss is the same on all tp ranks: tp rank 0 counts.
#include "common/base/check.h"
#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

constexpr std::int64_t kMetricValues = 8;

AxisSet axes(std::initializer_list<Axis> list) {
  AxisSet set;
  for (Axis a : list) set.add(a);
  return set;
}

class Optimizer {
 public:
  Optimizer(Draft& d, std::size_t program)
      : d_(d),
        program_(program),
        t_(d.tensors[program]),
        ops_(d.programs[program]),
        first_match_(2 * (d.order.num_stages() - 1) * d.order.num_microbatches + 1),
        spans_programs_(d.programs.size() > 1) {
    stage_ = ops_.empty() ? -1 : ops_.back().stage;
  }

  void add() {
    const DType main = d_.plan.header.types.main;
    const BufferId norm = buffer(BufferClass::scratch, DType::f64, {1}, "norm_sq");
    const BufferId coef = buffer(BufferClass::scratch, main, {1}, "coef");
    const BufferId metrics = buffer(BufferClass::comm, DType::f64, {kMetricValues}, "metrics");

    compute();
    bool written = false;
    using enum TensorClass;
    for (TensorClass c : {tp_cut, whole, router, routed_expert})
      written = squares(c, norm, written);
    TANDEM_CHECK(written, "program {} has no layer", program_);  // its biases are whole tensors
    end();
    reduce("norm", norm, 0);
    Op wait;
    wait.kind = OpKind::host_wait;
    wait.phase = Phase::O;
    wait.stage = stage_;
    wait.stream = d_.stream("host");
    wait.buffer = norm;
    ops_.push_back(wait);

    compute();
    Kernel clip;
    clip.kind = KernelKind::clip_coef;
    clip.real = d_.scenario.training.optimizer.clip;
    call(clip, {norm}, {{coef, false}});
    for (const Bucket& b : t_.buckets) update(b, coef);
    pack_metrics(norm, metrics);
    end();
    reduce("metrics", metrics, 1);
  }

 private:
  BufferId buffer(BufferClass cls, DType dtype, Shape shape, const char* name) {
    Buffer b;
    b.program = ProgramId{static_cast<std::int64_t>(program_)};
    b.cls = cls, b.dtype = dtype, b.shape = shape;
    b.name = d_.name(name);
    return d_.add(b);
  }
  void compute() {
    op_ = Op{};
    op_.phase = Phase::O;
    op_.stage = stage_;
    op_.stream = d_.stream("compute");
    op_.calls.begin = static_cast<std::uint32_t>(d_.plan.calls.size());
  }
  void call(const Kernel& k, const std::vector<BufferId>& inputs,
            const std::vector<OperandRef>& outputs) {
    std::vector<OperandRef> in;
    for (BufferId id : inputs) in.push_back({id, false});
    Call c{d_.kernel(k), d_.operands(in), d_.operands(outputs), {}};
    d_.plan.calls.push_back(c);
    ++op_.calls.count;
  }
  void end() { ops_.push_back(op_); }

  // Of the axes over which an element is equal after the reduction, coordinate 0 counts it.
  bool squares(TensorClass cls, BufferId norm, bool written) {
    std::vector<BufferId> grads;
    std::int64_t elements = 0;
    for (const Tensor& t : t_.tensors) {
      const bool other_copy = t_.buckets[static_cast<std::size_t>(t.bucket)].tied && program_ != 0;
      if (t.cls != cls || other_copy) continue;
      grads.push_back(t.grad);
      elements += t.shape.elements();
    }
    if (grads.empty()) return written;
    Kernel k;
    k.kind = KernelKind::sum_squares;
    k.dims = {elements};
    const bool cut = cls == TensorClass::tp_cut || cls == TensorClass::routed_expert;
    k.flags = cut ? kTpCut : kWhole;
    k.owner = cls == TensorClass::routed_expert ? axes({Axis::edp})
              : cut                             ? axes({Axis::cp, Axis::dp})
                                                : axes({Axis::tp, Axis::cp, Axis::dp});
    call(k, grads, {{norm, written}});
    return true;
  }

  void update(const Bucket& b, BufferId coef) {
    Kernel k;
    k.kind = KernelKind::adamw;
    k.dims = {b.elements};
    bool all_decay = true;
    for (const Tensor& t : t_.tensors)
      if (t.grad == b.grad)
        all_decay = t.shape.rank == 2;
      else if (d_.plan.buffer(t.grad).alias_of == b.grad)
        all_decay = false;
    k.flags = all_decay ? kDecayAll : kDecay2d;
    const BufferId main = b.main.valid() ? b.main : b.param;
    std::vector<OperandRef> outputs = {{main, false}, {b.m, false}, {b.v, false}};
    if (b.main.valid()) {  // bf16 runs: the parameter is cast from its main copy
      k.flags |= kCast;
      outputs.push_back({b.param, false});
    }
    call(k, {main, b.grad, b.m, b.v, coef}, outputs);
  }

  // Program 0 reports the norm, the last stage's the loss; the others add zeros.
  void pack_metrics(BufferId norm, BufferId metrics) {
    bool written = false;
    Kernel k;
    k.kind = KernelKind::metrics_pack;
    k.dims = {kMetricValues};
    if (program_ == 0) {
      k.flags = kHasNorm;
      k.owner = axes({Axis::tp, Axis::cp, Axis::dp});
      call(k, {norm}, {{metrics, false}});
      written = true;
    }
    if (t_.loss.valid()) {
      k.flags = kHasLoss;
      k.owner = axes({Axis::tp});
      call(k, {t_.loss}, {{metrics, written}});
      written = true;
    }
    k.flags = 0;
    k.owner = axes({Axis::tp});
    if (!written) call(k, {}, {{metrics, false}});
  }

  void reduce(const char* tag, BufferId buffer, int match) {
    Op op;
    op.comm = d_.comm("world");
    if (!op.comm.valid()) return;
    op.kind = OpKind::all_reduce;
    op.phase = Phase::O;
    op.stage = stage_;
    op.stream = d_.stream("comm:world");
    op.reduction = Reduction::sum;
    op.tag = d_.name(tag);
    op.buffer = buffer;
    op.dtype = DType::f64;
    op.count = d_.plan.buffer(buffer).shape.elements();
    if (spans_programs_) op.match = first_match_ + match;
    ops_.push_back(op);
  }

  Draft& d_;
  std::size_t program_;
  const ProgramTensors& t_;
  std::vector<Op>& ops_;
  int first_match_;
  bool spans_programs_;
  int stage_ = -1;
  Op op_;
};

}  // namespace

void optimizer(Draft& d) {
  for (std::size_t p = 0; p < d.programs.size(); ++p) Optimizer(d, p).add();
}

}  // namespace tandem::lower
