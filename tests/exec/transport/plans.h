// Small plans with nothing but communication, made by hand for tests of the transport.
#pragma once

#include <string>
#include <vector>

#include "common/plan/plan.h"

namespace tandem::exec {

// One op of a plan; on an edge `kind` send stands for the sender's end and the receiver's.
struct PlanOp {
  OpKind kind = OpKind::all_reduce;
  std::int64_t count = 0;
  DType dtype = DType::f32;
  Reduction reduction = Reduction::sum;
};

inline std::uint32_t add_name(Plan& plan, const std::string& name) {
  plan.names.push_back(name);
  return static_cast<std::uint32_t>(plan.names.size() - 1);
}

inline Op make_op(const PlanOp& o, CommId comm) {
  Op op;
  op.kind = o.kind;
  op.comm = comm;
  op.count = o.count;
  op.dtype = o.dtype;
  const bool sums = o.kind == OpKind::all_reduce || o.kind == OpKind::reduce_scatter;
  op.reduction = sums ? o.reduction : Reduction::none;
  return op;
}

// n ranks on the axis dp with one communicator "dp"; one program that runs `ops` in this order.
inline Plan group_plan(int n, const std::vector<PlanOp>& ops) {
  Plan plan;
  plan.header.mesh.size = {1, 1, n, 1};
  plan.header.stage_rank = {0};
  plan.streams = {"comm:dp"};
  Communicator c;
  c.name = add_name(plan, "dp");
  c.axes.add(Axis::dp);
  c.size = n;
  plan.communicators.push_back(c);
  for (const PlanOp& o : ops) plan.ops.push_back(make_op(o, CommId{0}));
  for (Op& op : plan.ops) op.stream = StreamId{0};
  plan.programs.push_back({0, static_cast<std::uint32_t>(plan.ops.size())});
  return plan;
}

// Two pipeline ranks and the edge 0->1: program 0 sends, program 1 receives. Op k of program 0
// matches op ops.size() + k of program 1.
inline Plan edge_plan(const std::vector<PlanOp>& ops) {
  Plan plan;
  plan.header.mesh.size = {1, 1, 1, 2};
  plan.header.stage_rank = {0, 1};
  plan.streams = {"comm:edge:0->1"};
  Communicator c;
  c.name = add_name(plan, "edge:0->1");
  c.axes.add(Axis::pp);
  c.size = 2;
  c.pair_first = 0, c.pair_second = 1;
  plan.communicators.push_back(c);
  for (int p = 0; p < 2; ++p) {
    plan.programs.push_back(
        {static_cast<std::uint32_t>(plan.ops.size()), static_cast<std::uint32_t>(ops.size())});
    for (std::size_t k = 0; k < ops.size(); ++k) {
      Op op = make_op(ops[k], CommId{0});
      op.kind = p == 0 ? OpKind::send : OpKind::recv;
      op.stream = StreamId{0};
      op.peer = 1 - p;
      op.match = static_cast<std::int32_t>(k);
      plan.ops.push_back(op);
    }
  }
  return plan;
}

}  // namespace tandem::exec
