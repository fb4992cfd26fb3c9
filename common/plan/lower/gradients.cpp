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
//   copies     where the model has two (bidirectional schedules), a bucket is summed over them
//   behind
//              its own reduction: the whole, or the shard, with the one rank that holds the same
//              elements. All at the end, in the order of buckets, which is the same on both
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

// The sum over the two copies of the model, behind the bucket's own reduction.
void add_copies(Draft& d, std::size_t program, std::size_t bucket, int stage,
                std::vector<Op>& ops) {
  const CommId copies = d.copies_of(static_cast<int>(program));
  if (!copies.valid()) return;
  const std::string name = d.plan.name(d.plan.communicators[copies.index()].name);
  ops.push_back(all_reduce(d, name, "grad.copy", d.tensors[program].buckets[bucket].grad, stage));
  ops.back().match = copy_match(d, program, static_cast<int>(bucket));
}

void reduce_program(Draft& d, std::size_t program) {
  std::vector<Op>& ops = d.programs[program];
  const ProgramTensors& t = d.tensors[program];
  const bool reduces = std::any_of(t.buckets.begin(), t.buckets.end(),
                                   [](const Bucket& b) { return b.members > 1; });
  // Style nano_train: all at the end, in module order.
  const bool overlap =
      d.scenario.parallel.gradient_overlap && !d.sizes.nano_style && d.order.num_dirs == 1;
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
  for (std::size_t i = 0; i < t.buckets.size(); ++i)
    if (!t.buckets[i].tied) add_copies(d, program, i, stage, ops);
  for (std::size_t i = 0; i < t.buckets.size(); ++i) {
    const Bucket& b = t.buckets[i];
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
      ops.back().match = d.first_match();
    }
    if (b.members > 1) ops.push_back(reduced(d, b, stage));
    add_copies(d, program, i, stage, ops);
  }
}

}  // namespace

// Behind the ids of messages, of the tied embedding, of the sums over all ranks, and of labels.
int copy_match(const Draft& d, std::size_t program, int bucket) {
  const auto low = static_cast<int>(std::min(program, d.programs.size() - 1 - program));
  const auto buckets = static_cast<int>(d.tensors[program].buckets.size());
  return d.first_match() + 3 + d.order.total_microbatches() + low * (buckets + 1) + 1 + bucket;
}

void gradients(Draft& d) {
  for (std::size_t p = 0; p < d.programs.size(); ++p) reduce_program(d, p);
}

}  // namespace tandem::lower
