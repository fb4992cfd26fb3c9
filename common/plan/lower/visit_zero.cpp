// ZeRO in a stage's visit (models.md 4.6; arXiv 1910.02054): where parameters are gathered before
// their use and freed behind it, and where each microbatch scatters its gradients.
//
//   gather    before the first op of the unit `prefetch` units ahead, in forward and backward; W
//             needs no parameters. One all_gather a bucket, from the own shard. Without overlap
//             right before the bucket's own first use (streams.cpp lets nothing compute beside it)
//   window    instead of that (residency window): the stage's UNSHARD gathers all units for the
//             visits that follow (unshard.cpp)
//   scatter   behind the last W of the bucket. The first microbatch's sums become the shard, those
//             of later ones are added to it
//   What happens once a step (levels 1 and 2, reduce `last`): gradients.cpp, optimizer.cpp.
#include <algorithm>

#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

Ref VisitBuilder::bucket_view(const Tensor& t, BufferClass cls, DType dtype) {
  const bool gradients = cls == BufferClass::grad_full;
  const Bucket& b = tensors_.buckets[static_cast<std::size_t>(t.bucket)];
  const int unit = gradients || window_ ? 0 : unit_;
  const auto [root, is_new] = roots_.try_emplace({gradients, unit, t.bucket}, -1);
  if (is_new) {
    root->second = slot(("bucket." + b.name).c_str(), cls, dtype, {b.elements}).slot;
    v_.slots.back().bucket = t.bucket;
    v_.slots.back().resident = window_ && !gradients;
  }
  const auto [view, is_new_view] = views_.try_emplace({root->second, t.name});
  if (is_new_view) {
    view->second = slot(t.name.c_str(), cls, dtype, t.shape);
    Slot& s = v_.slots.back();
    s.buffer.slice = t.slice;
    s.root = root->second;
    s.resident = window_ && !gradients;
    s.offset = t.offset * size_of(dtype);
  }
  return view->second;
}

Ref VisitBuilder::param(const std::string& name) {
  const Tensor& t = tensors_.at(name);
  if (t.param.valid()) return whole(t.param);
  return bucket_view(t, BufferClass::param_full, t.dtype);
}

Ref VisitBuilder::grad(const std::string& name) {
  const Tensor& t = tensors_.at(name);
  if (t.grad.valid()) return sum(whole(t.grad));
  return bucket_view(t, BufferClass::grad_full, t_.main);
}

namespace {

using Operands = std::vector<Ref> VisitCall::*;  // inputs or outputs

// Position of the first (last) op of which a call names a view of `root` among its `operands`.
std::ptrdiff_t position(const std::vector<VisitOp>& ops, const std::vector<Slot>& slots, int root,
                        bool last, Operands operands) {
  std::ptrdiff_t found = -1;
  for (std::size_t i = 0; i < ops.size(); ++i)
    for (const VisitCall& c : ops[i].calls)
      for (const Ref& r : c.*operands)
        if (r.slot >= 0 && slots[static_cast<std::size_t>(r.slot)].root == root &&
            (last || found < 0))
          found = static_cast<std::ptrdiff_t>(i);
  return found;
}

}  // namespace

VisitOp VisitBuilder::gather(int root, int bucket) const {
  const Bucket& b = tensors_.buckets[static_cast<std::size_t>(bucket)];
  VisitOp op;
  op.kind = OpKind::all_gather;
  op.comm = b.group;
  op.tag = "param" + b.tag.substr(4);  // grad.dp: param.dp
  op.buffer.slot = root;
  op.source = whole(b.param);
  return op;
}

// In the order in which the forward, then the backward needs them first.
void VisitBuilder::gather_stage() {
  std::vector<std::tuple<int, std::ptrdiff_t, int, int>> order;  // pass, use, root, bucket
  for (const auto& [key, root] : roots_) {
    if (std::get<0>(key)) continue;
    int pass = 0;
    std::ptrdiff_t use = position(v_.forward, v_.slots, root, false, &VisitCall::inputs);
    if (use < 0) pass = 1, use = position(v_.backward, v_.slots, root, false, &VisitCall::inputs);
    order.emplace_back(pass, use, root, std::get<2>(key));
  }
  std::sort(order.begin(), order.end());
  for (const auto& [pass, use, root, bucket] : order) v_.unshard.push_back(gather(root, bucket));
}

void VisitBuilder::place_gathers(std::vector<VisitOp>& ops) {
  struct Gather {
    std::ptrdiff_t before, use;
    int root, unit, bucket;
  };
  std::vector<Gather> gathers;
  std::map<int, std::ptrdiff_t> unit_start;
  for (const auto& [key, root] : roots_) {
    const auto [gradients, unit, bucket] = key;
    if (gradients) continue;
    const std::ptrdiff_t use = position(ops, v_.slots, root, false, &VisitCall::inputs);
    gathers.push_back({0, use, root, unit, bucket});
    const auto it = unit_start.try_emplace(unit, use).first;
    it->second = std::min(it->second, use);
  }
  std::vector<std::ptrdiff_t> starts;  // of units, ascending
  for (const auto& [unit, at] : unit_start) starts.push_back(at);
  std::sort(starts.begin(), starts.end());
  const ParallelSpec& parallel = d_.scenario.parallel;
  const auto ahead = static_cast<std::ptrdiff_t>(parallel.gather_prefetch);
  for (Gather& g : gathers) {
    g.before = g.use;
    if (!parallel.gather_overlap) continue;
    const auto place =
        std::lower_bound(starts.begin(), starts.end(), unit_start[g.unit]) - starts.begin();
    g.before = starts[static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, place - ahead))];
  }
  // Units in the order of their use; behind each other where they go to one place.
  std::stable_sort(gathers.begin(), gathers.end(), [](const Gather& a, const Gather& b) {
    return std::pair(a.before, a.use) < std::pair(b.before, b.use);
  });
  std::vector<VisitOp> out;
  std::size_t next = 0;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    for (; next < gathers.size() && gathers[next].before == static_cast<std::ptrdiff_t>(i); ++next)
      out.push_back(gather(gathers[next].root, gathers[next].bucket));
    out.push_back(std::move(ops[i]));
  }
  ops = std::move(out);
}

void VisitBuilder::place_scatters() {
  std::vector<VisitOp>& ops = v_.backward;
  std::vector<std::pair<std::ptrdiff_t, std::pair<int, int>>> scatters;
  for (const auto& [key, root] : roots_)
    if (std::get<0>(key))
      scatters.push_back(
          {position(ops, v_.slots, root, true, &VisitCall::outputs), {root, std::get<2>(key)}});
  std::sort(scatters.begin(), scatters.end());
  std::vector<VisitOp> out;
  std::size_t next = 0;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    out.push_back(std::move(ops[i]));
    for (; next < scatters.size() && scatters[next].first == static_cast<std::ptrdiff_t>(i);
         ++next) {
      const auto [root, bucket] = scatters[next].second;
      const Bucket& b = tensors_.buckets[static_cast<std::size_t>(bucket)];
      VisitOp op;
      op.kind = OpKind::reduce_scatter;
      op.comm = b.group;
      op.tag = b.tag;
      op.reduction = Reduction::sum;
      op.source.slot = root;
      op.buffer = whole(b.grad);
      op.adds = true;
      Kernel add = kernel(KernelKind::grad_add, {b.shard()});
      add.coords = b.axes;
      op.calls = {{d_.kernel(add), {op.buffer, op.source}, {op.buffer}, {}}};
      out.push_back(std::move(op));
    }
  }
  ops = std::move(out);
}

}  // namespace tandem::lower
