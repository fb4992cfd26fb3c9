#include "exec/device/cpu.h"

#include <algorithm>

#include "exec/device/clock.h"
#include "exec/device/torch_memory.h"
#include "exec/kernels/probe.h"
#include "exec/optim/adamw_step.h"
#include "exec/train/shard.h"

namespace tandem::exec {
namespace {

// Elements [begin, end) of a bucket, or of the bucket that it is a shard of, in the tensors that
// `chosen` accepts; counted from `begin`.
template <class Chosen>
std::vector<ElementRange> ranges_of(const Plan& plan, BufferId bucket, std::int64_t begin,
                                    std::int64_t end, Chosen&& chosen) {
  const Buffer& asked = plan.buffer(bucket);
  const BufferId id = asked.shard_of.valid() ? asked.shard_of : bucket;
  const Buffer& root = plan.buffer(id);
  std::vector<ElementRange> out;
  const auto add = [&](const Buffer& b, std::int64_t first) {
    const std::int64_t from = std::max(begin, first),
                       to = std::min(end, first + b.shape.elements());
    if (from < to && chosen(b)) out.emplace_back(from - begin, to - begin);
  };
  bool has_views = false;
  for (const Buffer& b : plan.buffers) {
    if (!b.alias_of.valid() || b.alias_of != id || b.window) continue;
    has_views = true;
    add(b, b.alias_offset / size_of(root.dtype));
  }
  if (!has_views) add(root, 0);
  std::sort(out.begin(), out.end());
  return out;
}

// Matrices decay (models.md 5); stacks of experts are matrices.
bool decays(const Buffer& tensor) { return tensor.shape.rank >= 2; }
bool is_cut(const Buffer& tensor) { return tensor.slice.dim >= 0 || tensor.slice.experts > 0; }

// `count` elements of a view, from `first` on.
View part_of_view(View v, std::int64_t first, std::int64_t count) {
  v.data += first * size_of(v.dtype);
  v.shape = {count};
  return v;
}

}  // namespace

Result<std::unique_ptr<CpuDevice>> CpuDevice::create(const Plan& plan, Rank rank,
                                                     const TrainingConfig& config,
                                                     Result<Arena> arena, ActivationProbe* probe,
                                                     ChoiceLog* choices) {
  if (!arena) return arena.error();
  set_up_torch(config.threads_per_rank);
  Result<BatchSource> data =
      BatchSource::open(config, plan.header.evaluation ? DataPart::validation : DataPart::training);
  if (!data) return data.error();
  return std::unique_ptr<CpuDevice>(
      new CpuDevice(plan, rank, config, std::move(*data), std::move(*arena), probe, choices));
}

CpuDevice::CpuDevice(const Plan& plan, Rank rank, const TrainingConfig& config, BatchSource data,
                     Arena arena, ActivationProbe* probe, ChoiceLog* choices)
    : plan_(plan),
      rank_(rank),
      config_(config),
      data_(std::move(data)),
      arena_(std::move(arena)),
      probe_(probe),
      choices_(choices) {
  context_.coordinate = coordinates(plan, rank);
  for (int a = 0; a < kNumAxes; ++a)
    context_.size[static_cast<std::size_t>(a)] = plan.header.mesh.of(static_cast<Axis>(a));
  context_.tokens_per_step =
      std::int64_t{plan.header.microbatches} * plan.header.micro_batch * plan.header.sequence;
}

void CpuDevice::begin_thread() { set_up_torch(config_.threads_per_rank); }

Result<std::vector<Prepared>> CpuDevice::prepare(const Op& op) {
  std::vector<Prepared> out;
  for (const Call& c : plan_.calls_of(op)) {
    KernelCall call;
    call.kernel = plan_.kernel(c.kernel);
    call.types = plan_.header.types;
    call.context = &context_;
    for (const OperandRef& o : plan_.operands_of(c.inputs)) call.inputs.push_back(view(o.id));
    for (const OperandRef& o : plan_.operands_of(c.outputs)) {
      call.outputs.push_back(view(o.id));
      call.accumulate.push_back(o.accumulate);
    }
    for (const OperandRef& o : plan_.operands_of(c.scratch)) call.scratch.push_back(view(o.id));
    own_parts(c, call);
    Result<Prepared> bound = exec::prepare(call);
    if (!bound) return bound.error();
    if (probe_) *bound = probed(op, call, std::move(*bound));
    if (choices_) *bound = logged(op, call, std::move(*bound));
    out.push_back(std::move(*bound));
  }
  return out;
}

// The kernel, and behind it, while the probe is on, what its operands say.
Prepared CpuDevice::probed(const Op& op, const KernelCall& call, Prepared bound) {
  const KernelKind kind = call.kernel.kind;
  const bool norm = kind == KernelKind::layernorm_fwd || kind == KernelKind::rmsnorm_fwd;
  if (op.layer < 0 || op.phase != Phase::F) return bound;
  // Of a ring, and of slices, attention_fwd does the own block: no kernel sees a whole row.
  const bool in_blocks = plan_.header.mesh.of(Axis::cp) > 1 || plan_.header.slices > 1;
  if (in_blocks && kind == KernelKind::attention_fwd) return bound;
  // The stream is what the first norm of a layer reads; the second reads it between the halves.
  if (norm && !entered_.insert({op.layer, op.microbatch, op.seq_slice}).second) return bound;
  Prepared look = bind_probe(call, probe_->sums[op.layer]);
  if (!look) return bound;
  return [run = std::move(bound), look = std::move(look), probe = probe_] {
    run();
    if (probe->on) look();
  };
}

// The kernel, and behind it, of a routing, what it chose.
Prepared CpuDevice::logged(const Op& op, const KernelCall& call, Prepared bound) const {
  if (call.kernel.kind != KernelKind::route_fwd) return bound;
  const OpId id{&op - plan_.ops.data()};
  const auto* choice = call.outputs[1].as<std::int64_t>();
  const std::int64_t n = call.outputs[1].shape.elements();
  return [run = std::move(bound), id, choice, n, log = choices_] {
    run();
    log->routed.push_back({id, {choice, choice + n}});
  };
}

// ZeRO: of operands that hold the bucket of a whole group the part of this rank; and which elements
// of it an update decays, or a norm counts.
void CpuDevice::own_parts(const Call& c, KernelCall& call) const {
  const KernelKind kind = call.kernel.kind;
  const bool flat = kind == KernelKind::adamw || kind == KernelKind::sum_squares ||
                    kind == KernelKind::grad_add || kind == KernelKind::grad_scale ||
                    kind == KernelKind::snapshot;
  if (!flat) return;
  const std::int64_t n = call.kernel.dims[0];
  const bool shared = !call.kernel.coords.empty();
  const std::int64_t first = shared ? n * part_of(plan_, rank_, call.kernel.coords) : 0;
  if (shared)
    for (std::vector<View>* list : {&call.inputs, &call.outputs})
      for (View& v : *list)
        if (v.shape.elements() > n) v = part_of_view(v, first, n);
  if (kind == KernelKind::adamw) {  // the parameter's buffer says which tensors lie where
    const std::size_t param = (call.kernel.flags & kCast) ? 3 : 0;
    call.decay = ranges_of(plan_, plan_.operands_of(c.outputs)[param].id, first, first + n, decays);
  }
  if (kind != KernelKind::sum_squares || !shared) return;
  const bool cut = (call.kernel.flags & kTpCut) != 0;
  const View own = call.inputs[0];
  call.inputs.clear();
  for (const auto& [begin, end] :
       ranges_of(plan_, plan_.operands_of(c.inputs)[0].id, first, first + n,
                 [&](const Buffer& tensor) { return is_cut(tensor) == cut; }))
    call.inputs.push_back(part_of_view(own, begin, end - begin));
}

void CpuDevice::begin_step(int step) {
  context_.adamw = adamw_step(config_, step);
  // Also of a step that begins again: what it chose before does not count.
  if (choices_ && !plan_.header.evaluation) choices_->routed.clear();
}

// i64[b, S+1] tokens, or i64[b, S]: the labels among them. Of slice j of k i64[b, S/k+1]: tokens
// j S/k to (j+1) S/k, the last of which is a label only.
void CpuDevice::copy(const View& to, int step, const Op& op) {
  const auto index = static_cast<int>(part_of(plan_, rank_, plan_.header.data_axes));
  const int num = plan_.header.mesh.size_of_group(plan_.header.data_axes);
  const std::int64_t b = plan_.header.micro_batch, s = plan_.header.sequence;
  const bool labels = to.shape.elements() == b * s;
  if (!labels && op.seq_slice < 0)
    return data_.fill(to.as<std::int64_t>(), step, op.microbatch, index, num);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(b * (s + 1)));
  data_.fill(tokens.data(), step, op.microbatch, index, num);
  const std::int64_t width = to.shape[1];
  const std::int64_t first = labels ? 1 : op.seq_slice * (s / plan_.header.slices);
  for (std::int64_t i = 0; i < b; ++i)
    std::copy_n(tokens.data() + i * (s + 1) + first, width, to.as<std::int64_t>() + i * width);
}

Nanoseconds CpuDevice::begin(Nanoseconds) { return now_ns(); }
Nanoseconds CpuDevice::end(OpId, Nanoseconds) { return now_ns(); }

Bytes CpuDevice::scratch_peak() const { return torch_memory().peak; }
void CpuDevice::reset_scratch_peak() { reset_torch_peak(); }

}  // namespace tandem::exec
