// The backward of a visit in two: `input` (I) makes what the stage before waits for, `weight` (W)
// the gradients of weights, any time later (schedules.md 1.2, 4.1; arXiv 2401.10241).
//
//   W        every call that makes gradients of weights and nothing else; gathers that only such
//            calls read; scatters of a microbatch's gradients (ZeRO, `every`). All else is I, also
//            the norms, whose kernel makes both, and what is computed again: it lives until W
//   Stash    W reads the output gradient of each block at all positions. weight_stash full keeps
//   what
//            I has gathered; shard (the default with sequence parallelism) keeps the own rows and
//            gathers again: one more all-gather a block output (models.md 4.2)
//   Lives    a buffer is freed behind its last reader, so what W reads lives until W by itself.
#include <algorithm>
#include <set>

#include "common/base/check.h"
#include "common/model/weight_kernels.h"
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {
namespace {

// It brings the output gradient of a block at all positions.
bool is_block_output(const VisitOp& op) {
  return op.kind == OpKind::all_gather &&
         (op.tag == "attn.out" || op.tag == "mlp.out" || op.tag == "shared.out");
}

}  // namespace

void VisitBuilder::split_backward() {
  const auto is_weight = [&](const VisitCall& c) {
    return makes_only_weight_gradients(d_.plan.kernel(c.kernel).kind);
  };
  // Slots that calls of I, and of W, read.
  std::set<int> read_by_i, read_by_w;
  for (const VisitOp& op : v_.backward)
    if (op.kind == OpKind::compute)
      for (const VisitCall& c : op.calls)
        for (const Ref& r : c.inputs)
          if (r.slot >= 0) (is_weight(c) ? read_by_w : read_by_i).insert(r.slot);

  const bool gathers_again = z_.sp && d_.scenario.parallel.weight_stash != WeightStash::full;
  std::map<int, int> again;  // slot of I's gather: slot of W's
  std::set<int> kept_for_w;  // what W reads of what has been read: nothing of I may write it later
  for (const VisitOp& op : v_.backward) {
    if (op.kind != OpKind::compute) {
      const bool scatters = op.kind == OpKind::reduce_scatter && op.adds;
      const bool for_w_alone = op.kind == OpKind::all_gather && !op.again &&
                               read_by_w.contains(op.buffer.slot) &&
                               !read_by_i.contains(op.buffer.slot);
      if (scatters || for_w_alone) {
        v_.weight.push_back(op);
        continue;
      }
      v_.input.push_back(op);
      TANDEM_CHECK(op.buffer.slot < 0 || !kept_for_w.contains(op.buffer.slot),
                   "{} writes what W reads", op.tag);
      if (gathers_again && !op.again && is_block_output(op) && read_by_w.contains(op.buffer.slot)) {
        Slot copy = v_.slots[static_cast<std::size_t>(op.buffer.slot)];
        copy.only_in_weight = true;
        v_.slots.push_back(copy);
        VisitOp gather = op;
        gather.buffer.slot = again[op.buffer.slot] = static_cast<int>(v_.slots.size()) - 1;
        v_.weight.push_back(gather);
      }
      continue;
    }
    VisitOp input = op, weight = op;
    input.calls.clear(), weight.calls.clear();
    for (VisitCall c : op.calls) {
      if (!is_weight(c)) {
        for (const Ref& r : c.outputs)
          TANDEM_CHECK(r.slot < 0 || !kept_for_w.contains(r.slot),
                       "a call of I writes what W reads");
        input.calls.push_back(c);
        continue;
      }
      for (Ref& r : c.inputs) {
        if (const auto at = again.find(r.slot); at != again.end()) r.slot = at->second;
        if (r.slot >= 0) kept_for_w.insert(r.slot);
      }
      weight.calls.push_back(std::move(c));
    }
    if (!input.calls.empty()) v_.input.push_back(std::move(input));
    if (!weight.calls.empty()) v_.weight.push_back(std::move(weight));
  }
}

}  // namespace tandem::lower
