// Step `optimizer`: the gradient norm, its check, the update, and the metrics of the step, which
// every step ends with (models.md 4.9, 5).
//   Each element counts once in the norm: whole tensors on tp rank 0, all on dp rank 0, a tied
//   embedding on the first stage only, a shard where it lies. The loss is the same on all tp ranks:
//   tp rank 0 counts; each cp rank has that of its own positions. With ZeRO 1 and 2 each bucket is
//   gathered behind its update.
//   An evaluation ends with the metrics alone: its loss.
#include <set>
#include <utility>

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
        first_match_(d.first_match() + 1),
        spans_programs_(d.programs.size() > 1) {
    stage_ = ops_.empty() ? -1 : ops_.back().stage;
  }

  void add_evaluation() {
    const BufferId metrics = buffer(BufferClass::comm, DType::f64, {kMetricValues}, "metrics");
    compute();
    pack_metrics({}, metrics);
    end();
    reduce("metrics", metrics, 0);
  }

  void add() {
    const DType main = d_.plan.header.types.main;
    const BufferId norm = buffer(BufferClass::scratch, DType::f64, {1}, "norm_sq");
    const BufferId coef = buffer(BufferClass::scratch, main, {1}, "coef");
    const BufferId metrics = buffer(BufferClass::comm, DType::f64, {kMetricValues}, "metrics");

    sum_choices();
    compute();
    average_expert_copies();
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
    for (const Bucket& b : t_.buckets) {
      update(b, coef);
      if (b.zero == 0 || b.zero == 3) continue;
      end();  // the next update runs beside the gather
      gather(b);
      compute();
    }
    update_router_bias();
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

  // Each element counts once: of the axes over which it is equal after the reduction, coordinate 0
  // counts it; of a shard its member.
  [[nodiscard]] AxisSet copies(TensorClass cls) const {
    const bool nano = d_.sizes.nano;
    switch (cls) {
      case TensorClass::routed_expert:
        return nano ? axes({Axis::tp, Axis::dp}) : axes({Axis::edp});
      case TensorClass::tp_cut:
      case TensorClass::tied:
        return with_ep(axes({Axis::cp, Axis::dp}), nano);
      case TensorClass::whole:
      case TensorClass::router:
        break;
    }
    return with_ep(axes({Axis::tp, Axis::cp, Axis::dp}), nano);
  }
  static AxisSet with_ep(AxisSet set, bool yes) { return yes ? set.add(Axis::ep) : set; }
  static std::uint32_t class_flag(TensorClass cls) {
    const bool cut = cls == TensorClass::tp_cut || cls == TensorClass::routed_expert;
    return cut ? kTpCut : kWhole;
  }

  // ep_data: replicate: each token reaches its experts once from every ep rank (models.md 3.2).
  void average_expert_copies() {
    if (!d_.scenario.parallel.replicates() || d_.sizes.ep == 1) return;
    for (const Bucket& b : t_.buckets) {
      if (b.tag != "grad.exp") continue;
      Kernel k;
      k.kind = KernelKind::grad_scale;
      const bool own = b.zero > 0 && !b.sums_whole;  // elsewhere the bucket holds no sums
      k.dims = {own ? b.shard() : b.elements};
      k.real = 1.0 / static_cast<double>(d_.sizes.ep);
      if (own) k.coords = b.axes;
      call(k, {b.grad}, {{b.grad, false}});
    }
  }

  // A tied embedding counts on the first stage; of two copies of the model the first counts.
  [[nodiscard]] bool counts(const Tensor& t, const Bucket& b) const {
    const auto program = static_cast<int>(program_);
    return d_.order.rank_of(0, b.tied ? 0 : t.stage) == program;
  }

  bool squares(TensorClass cls, BufferId norm, bool written) {
    std::vector<BufferId> grads;
    std::int64_t elements = 0;
    std::vector<char> sharded(t_.buckets.size(), 0);
    for (const Tensor& t : t_.tensors) {
      const Bucket& b = t_.buckets[static_cast<std::size_t>(t.bucket)];
      if (t.cls != cls || !counts(t, b)) continue;
      if (b.zero > 0) {
        for (int i = t.bucket; i < t.bucket + t.num_buckets; ++i)
          sharded[static_cast<std::size_t>(i)] = 1;
        continue;
      }
      grads.push_back(t.grad);
      elements += t.shape.elements();
    }
    Kernel k;
    k.kind = KernelKind::sum_squares;
    k.flags = class_flag(cls);
    k.owner = copies(cls);
    k.dims = {elements};
    if (!grads.empty()) {
      call(k, grads, {{norm, written}});
      written = true;
    }
    for (std::size_t i = 0; i < sharded.size(); ++i) {
      // One call takes the tensors of a flag in a bucket, of whichever class.
      if (!sharded[i] || !counted_.insert({i, class_flag(cls)}).second) continue;
      const Bucket& b = t_.buckets[i];
      k.dims = {b.shard()};
      k.coords = b.axes;
      k.owner.bits = copies(cls).bits & static_cast<std::uint8_t>(~b.axes.bits);
      call(k, {b.grad}, {{norm, written}});
      written = true;
    }
    return written;
  }

  void update(const Bucket& b, BufferId coef) {
    Kernel k;
    k.kind = KernelKind::adamw;
    k.dims = {b.shard()};
    if (b.zero > 0) k.coords = b.axes;
    bool all_decay = false;  // a bucket that is one matrix
    for (const Tensor& t : t_.tensors)
      if (t.grad.valid() && t.grad == b.grad) all_decay = t.shape.rank >= 2;
    all_decay = all_decay || d_.scenario.training.optimizer.decay_all;
    k.flags = all_decay ? kDecayAll : kDecay2d;
    const BufferId main = b.main.valid() ? b.main : b.param;
    std::vector<OperandRef> outputs = {{main, false}, {b.m, false}, {b.v, false}};
    if (b.main.valid()) {  // bf16 runs: the parameter is cast from its main copy
      k.flags |= kCast;
      outputs.push_back({b.param, false});
    }
    call(k, {main, b.grad, b.m, b.v, coef}, outputs);
  }

  // The parameters that the other members have updated.
  void gather(const Bucket& b) {
    Op op;
    op.kind = OpKind::all_gather;
    op.phase = Phase::O;
    op.stage = stage_;
    op.comm = d_.comm(b.group);
    op.stream = d_.stream("comm:" + b.group);
    op.tag = d_.name("param" + b.tag.substr(4));  // grad.dp: param.dp
    op.buffer = b.param;
    op.dtype = b.dtype;
    op.count = b.shard();
    ops_.push_back(op);
  }

  // Program 0 reports the norm if there is one, the last stage's the loss; the others add zeros.
  void pack_metrics(BufferId norm, BufferId metrics) {
    bool written = false;
    const bool replicates = d_.scenario.parallel.replicates();  // ep ranks have equal sums
    Kernel k;
    k.kind = KernelKind::metrics_pack;
    k.dims = {kMetricValues};
    if (program_ == 0 && norm.valid()) {
      k.flags = kHasNorm;
      k.owner = with_ep(axes({Axis::tp, Axis::cp, Axis::dp}), d_.sizes.nano);
      call(k, {norm}, {{metrics, false}});
      written = true;
    }
    if (t_.loss.valid()) {
      k.flags = kHasLoss;
      k.owner = with_ep(axes({Axis::tp}), replicates);
      if (d_.sizes.cp > 1) k.coords.add(Axis::cp);  // each rank has the loss of its own positions
      if (d_.sizes.sp && !d_.sizes.vocab_cut) {
        k.owner = {};
        k.coords.add(Axis::tp);
      }
      if (!k.coords.empty()) k.flags |= kPositions;
      call(k, {t_.loss}, {{metrics, written}});
      written = true;
      k.coords = {};
    }
    // Both are already 0 where they are another rank's to count; drops of equal tokens count once.
    for (const auto& [flag, value] :
         {std::pair{kHasBalance, t_.balance}, std::pair{kHasDropped, t_.dropped}}) {
      if (!value.valid()) continue;
      k.owner = with_ep({}, replicates && flag == kHasDropped);
      k.flags = flag;
      call(k, {value}, {{metrics, written}});
      written = true;
    }
    k.flags = 0;
    k.owner = axes({Axis::tp});
    if (!written) call(k, {}, {{metrics, false}});
  }

  // Choices of the whole batch, for the bias of sigmoid routers (models.md 2.5, bias_update).
  void sum_choices() {
    if (t_.bias_of.empty() || d_.scenario.model.moe.bias_update == 0) return;
    Op op;
    op.kind = OpKind::all_reduce;
    op.phase = Phase::O;
    op.stage = stage_;
    op.reduction = Reduction::sum;
    op.tag = d_.name("bias");
    op.buffer = t_.all_choices;
    op.dtype = DType::i32;
    op.count = d_.plan.buffer(op.buffer).shape.elements();
    op.comm = d_.comm("stage");
    if (op.comm.valid()) {
      op.stream = d_.stream("comm:stage");
      ops_.push_back(op);
    }
    op.comm = d_.copies_of(static_cast<int>(program_));
    if (!op.comm.valid()) return;
    op.stream = d_.stream("comm:" + d_.plan.name(d_.plan.communicators[op.comm.index()].name));
    op.match = copy_match(d_, program_, -1);
    ops_.push_back(op);
  }
  void update_router_bias() {
    const MoeSpec& moe = d_.scenario.model.moe;
    if (moe.bias_update == 0) return;
    for (const auto& [layer, bias] : t_.bias_of) {
      Kernel k;
      k.kind = KernelKind::router_bias_update;
      k.dims = {moe.experts};
      k.real = moe.bias_update;
      call(k, {t_.choices(layer), bias}, {{bias, false}});
    }
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
  std::set<std::pair<std::size_t, std::uint32_t>> counted_;  // shards of buckets, by class flag
  Op op_;
};

}  // namespace

void optimizer(Draft& d) {
  for (std::size_t p = 0; p < d.programs.size(); ++p)
    if (Optimizer o(d, p); d.evaluation)
      o.add_evaluation();
    else
      o.add();
}

}  // namespace tandem::lower
