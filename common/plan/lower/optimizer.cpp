// Step `optimizer`: the gradient norm, its check, the update, and the metrics of the step, which
// every step ends with (models.md 4.9, 5).
//   Each element counts once in the norm: whole tensors on tp rank 0, all on dp rank 0, a tied
//   embedding on the first stage only, a shard where it lies. The loss is the same on all tp ranks:
//   tp rank 0 counts; each cp rank has that of its own positions. With ZeRO 1 and 2 each bucket is
//   gathered behind its update.
//   An evaluation ends with the metrics alone: its loss.
//   Optimizer_barrier post_validated (models.md 8a; docs/decisions.md D-042): the update does not
//   wait for the norm but takes 1 for the coefficient, behind a copy of what it changes; what the
//   rank has of the metrics, the norm among them, stays until the next step, which sums it first.
//   The plan of settling makes the same update from the copy with the true coefficient.
#include <optional>
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
    const BufferId norm = norm_buffer(), coef = coef_buffer(), metrics = metrics_buffer();
    sum_choices();
    compute();
    sum_squares_into(norm);
    end();
    reduce("norm", norm, 0);
    ops_.push_back(host_op(OpKind::host_wait, norm));
    compute();
    clip(norm, d_.scenario.training.optimizer.clip, coef);
    update_all(coef);
    update_router_bias();
    pack_metrics(norm, metrics);
    end();
    reduce("metrics", metrics, 1);
  }

  // The tail of the step, and what checks it in the next one: one sum of the metrics, with the norm
  // in its slot, begun before everything else. A free of it at once would hold back the host until
  // all ranks have begun the step, so the check is its last use.
  ValidationOps add_late() {
    const BufferId norm = norm_buffer(), coef = coef_buffer(), pending = pending_buffer();
    sum_choices();
    compute();
    sum_squares_into(norm);
    for (const Bucket& b : t_.buckets) {
      snapshot(b, main_of(b), b.kept_main);
      snapshot(b, b.m, b.kept_m);
      snapshot(b, b.v, b.kept_v);
    }
    clip(norm, std::nullopt, coef);
    update_all(coef);
    update_router_bias();
    pack_metrics(norm, pending);
    end();

    const BufferId metrics = metrics_buffer();
    const std::size_t begin = ops_.size();
    compute();
    snapshot_values(pending, metrics);
    end();
    reduce("metrics", metrics, 0);
    const auto first = ops_.begin() + static_cast<std::ptrdiff_t>(begin);
    ValidationOps out{{first, ops_.end()}, host_op(OpKind::post_validate, norm_slot(metrics))};
    ops_.erase(first, ops_.end());
    return out;
  }

  void add_settling() {
    const BufferId coef = coef_buffer(), pending = pending_buffer(), metrics = metrics_buffer();
    compute();
    for (const Bucket& b : t_.buckets) {
      snapshot(b, b.kept_main, main_of(b));
      snapshot(b, b.kept_m, b.m);
      snapshot(b, b.kept_v, b.v);
    }
    snapshot_values(pending, metrics);
    end();
    reduce("metrics", metrics, 0);
    const BufferId norm = norm_slot(metrics);
    ops_.push_back(host_op(OpKind::host_wait, norm));
    compute();
    clip(norm, d_.scenario.training.optimizer.clip, coef);
    update_all(coef);
    end();
  }

 private:
  BufferId norm_buffer() { return buffer(BufferClass::scratch, DType::f64, {1}, "norm_sq"); }
  BufferId coef_buffer() {
    return buffer(BufferClass::scratch, d_.plan.header.types.main, {1}, "coef");
  }
  BufferId metrics_buffer() {
    return buffer(BufferClass::comm, DType::f64, {kMetricValues}, "metrics");
  }
  // What the rank adds to the metrics of the step before.
  BufferId pending_buffer() {
    return buffer(BufferClass::optim, DType::f64, {kMetricValues}, "pending.metrics");
  }
  BufferId norm_slot(BufferId metrics) {
    const BufferId id = norm_buffer();
    Buffer& b = d_.plan.buffers[id.index()];
    b.cls = BufferClass::comm;
    b.alias_of = metrics;
    b.alias_offset = kMetricNormSquared * size_of(DType::f64);
    return id;
  }
  static BufferId main_of(const Bucket& b) { return b.main.valid() ? b.main : b.param; }

  // The squares of all gradients that this rank counts.
  void sum_squares_into(BufferId norm) {
    average_expert_copies();
    bool written = false;
    using enum TensorClass;
    for (TensorClass c : {tp_cut, whole, router, routed_expert})
      written = squares(c, norm, written);
    TANDEM_CHECK(written, "program {} has no layer", program_);  // its biases are whole tensors
  }
  Op host_op(OpKind kind, BufferId value) {
    Op op;
    op.kind = kind;
    op.phase = Phase::O;
    op.stage = stage_;
    op.stream = d_.stream("host");
    op.buffer = value;
    return op;
  }
  // Without a limit: 1.
  void clip(BufferId norm, std::optional<double> limit, BufferId coef) {
    Kernel k;
    k.kind = KernelKind::clip_coef;
    k.real = limit;
    call(k, {norm}, {{coef, false}});
  }
  void update_all(BufferId coef) {
    for (const Bucket& b : t_.buckets) {
      update(b, coef);
      if (b.zero == 0 || b.zero == 3) continue;
      end();  // the next update runs beside the gather
      gather(b);
      compute();
    }
  }
  void snapshot(const Bucket& b, BufferId from, BufferId to) {
    Kernel k;
    k.kind = KernelKind::snapshot;
    k.dims = {b.shard()};
    if (b.zero > 0) k.coords = b.axes;
    call(k, {from}, {{to, false}});
  }
  void snapshot_values(BufferId from, BufferId to) {
    Kernel k;
    k.kind = KernelKind::snapshot;
    k.dims = {d_.plan.buffer(from).shape.elements()};
    k.flags = kValues;
    call(k, {from}, {{to, false}});
  }
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
  void end() {
    if (op_.calls.count > 0) ops_.push_back(op_);
  }

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
    const BufferId main = main_of(b);
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
    if (norm.valid() && (program_ == 0 || d_.validates_late())) {
      k.flags = kHasNorm;
      // Checked late, it is not summed yet.
      k.owner = d_.validates_late() ? AxisSet{}
                                    : with_ep(axes({Axis::tp, Axis::cp, Axis::dp}), d_.sizes.nano);
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
  std::vector<ValidationOps> late;
  for (std::size_t p = 0; p < d.programs.size(); ++p)
    if (Optimizer o(d, p); d.evaluation)
      o.add_evaluation();
    else if (d.settling)
      o.add_settling();
    else if (d.validates_late())
      late.push_back(o.add_late());
    else
      o.add();
  if (!late.empty()) validate_late(d, std::move(late));
}

}  // namespace tandem::lower
