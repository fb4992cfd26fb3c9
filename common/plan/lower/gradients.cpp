// Step `gradients`: where each bucket is reduced (models.md 4.4, 4.8).
//   overlap    issued right behind the last op that writes the bucket, where only computing
//   follows;
//              where messages or reductions of layers follow, behind the last of these. It waits
//              for that writer only. (NCCL starts the communications of a device in issue order: a
//              queue of buckets before the last messages would hold up the stages below.)
//   otherwise  issued behind the last op of the program
//   ZeRO       levels 1 to 3 scatter where level 0 reduces: level 1 in place, 2 and 3 into the
//   shard.
//              Where each microbatch scatters (visit_zero.cpp), nothing is left to do here
//   tied       the two parts of a tied embedding on one rank are added first; on two ranks they are
//              summed over `emb`, then each copy over dp. Always at the end.
#include <algorithm>

#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

Op all_reduce(Draft& d, const std::string& comm, const std::string& tag, BufferId buffer,
              int stage) {
  Op op;
  op.kind = OpKind::all_reduce;
  op.phase = Phase::O;
  op.stage = stage;
  op.comm = d.comm(comm);
  op.stream = d.stream("comm:" + comm);
  op.reduction = Reduction::sum;
  op.tag = d.name(tag);
  op.buffer = buffer;
  const Buffer& b = d.plan.buffer(buffer);
  op.dtype = b.dtype;
  op.count = b.shape.elements();
  return op;
}

// What sums a bucket over its group.
Op reduced(Draft& d, const Bucket& b, int stage) {
  Op op = all_reduce(d, b.group, b.tag, b.zero >= 2 ? b.grad_full : b.grad, stage);
  if (b.zero == 0 || b.sums_whole) return op;
  op.kind = OpKind::reduce_scatter;
  if (b.zero >= 2) op.source = op.buffer, op.buffer = b.grad;
  return op;
}

// For each bucket the position of the last op that writes it.
std::vector<std::size_t> last_writers(const Draft& d, const std::vector<Op>& ops,
                                      const ProgramTensors& t) {
  std::vector<int> bucket_of(d.plan.buffers.size(), -1);
  for (const Tensor& x : t.tensors)
    if (x.grad.valid()) bucket_of[x.grad.index()] = x.bucket;
  std::vector<std::size_t> last(t.buckets.size(), 0);
  for (std::size_t i = 0; i < ops.size(); ++i)
    for (const Call& c : d.plan.calls_of(ops[i]))
      for (const OperandRef& o : d.plan.operands_of(c.outputs))
        if (const int b = bucket_of[o.id.index()]; b >= 0) last[static_cast<std::size_t>(b)] = i;
  return last;
}

void reduce_program(Draft& d, std::size_t program) {
  std::vector<Op>& ops = d.programs[program];
  const ProgramTensors& t = d.tensors[program];
  const bool reduces = std::any_of(t.buckets.begin(), t.buckets.end(),
                                   [](const Bucket& b) { return b.members > 1; });
  // Style nano_train: all at the end, in module order.
  const bool overlap = d.scenario.parallel.gradient_overlap && !d.sizes.nano_style;
  const int stage = ops.empty() ? -1 : ops.back().stage;
  std::vector<Op> next, at_end;
  if (reduces) {
    std::vector<std::size_t> place = last_writers(d, ops, t);  // the op it goes behind
    std::size_t last_message = 0;
    for (std::size_t i = 0; i < ops.size(); ++i)
      if (is_communication(ops[i].kind)) last_message = i;
    for (std::size_t& p : place)
      p = d.sizes.nano_style ? ops.size() - 1 : std::max(p, last_message);
    next.reserve(ops.size() + t.buckets.size());
    for (std::size_t i = 0; i < ops.size(); ++i) {
      next.push_back(ops[i]);
      for (std::size_t b = 0; b < t.buckets.size(); ++b) {
        const Bucket& bucket = t.buckets[b];
        if (bucket.tied || bucket.every || place[b] != i || bucket.members == 1) continue;
        Op op = reduced(d, bucket, ops[i].stage);
        (overlap ? next : at_end).push_back(op);
      }
    }
    ops = std::move(next);
    ops.insert(ops.end(), at_end.begin(), at_end.end());
  }
  for (const Bucket& b : t.buckets) {
    if (!b.tied) continue;
    if (t.tied_head.valid()) {
      Op op;
      op.phase = Phase::O;
      op.stage = stage;
      op.stream = d.stream("compute");
      Kernel k;
      k.kind = KernelKind::grad_add;
      k.dims = {d.plan.buffer(t.tied_head).shape.elements()};
      const BufferId part = t.at("embed.weight").grad;
      op.calls = {static_cast<std::uint32_t>(d.plan.calls.size()), 1};
      Call call{d.kernel(k),
                d.operands({{part, false}, {t.tied_head, false}}),
                d.operands({{part, false}}),
                {}};
      d.plan.calls.push_back(call);
      ops.push_back(op);
    }
    if (d.comm("emb").valid()) {
      const BufferId full = b.zero >= 2 ? b.grad_full : b.grad;
      ops.push_back(all_reduce(d, "emb", "grad.emb", full, stage));
      ops.back().match = 2 * (d.order.num_stages() - 1) * d.order.num_microbatches;
    }
    if (b.members > 1) ops.push_back(reduced(d, b, stage));
  }
}

}  // namespace

void gradients(Draft& d) {
  for (std::size_t p = 0; p < d.programs.size(); ++p) reduce_program(d, p);
}

}  // namespace tandem::lower
