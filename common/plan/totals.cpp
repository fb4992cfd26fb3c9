// Sums over the ops of a program; totals.h has the formulas.
#include "common/plan/totals.h"

#include <map>
#include <tuple>

#include "common/base/check.h"

namespace tandem {

bool call_accumulates(const Plan& plan, const Call& call) {
  for (const OperandRef& o : plan.operands_of(call.outputs))
    if (o.accumulate) return true;
  return false;
}

double ring_bytes(OpKind kind, int group_size, Bytes bytes_in) {
  const double g = group_size, x = static_cast<double>(bytes_in);
  switch (kind) {
    case OpKind::all_reduce:
      return 2 * (g - 1) / g * x;
    case OpKind::reduce_scatter:
    case OpKind::all_to_all:
      return (g - 1) / g * x;
    case OpKind::all_gather:
      return (g - 1) * x;
    case OpKind::send:
    case OpKind::shift:
      return x;
    default:
      return 0;
  }
}

std::vector<KernelTotal> kernel_totals(const Plan& plan, ProgramId program) {
  // Index of the row in `out`, plus one, by (kernel, accumulates).
  std::vector<std::size_t> row(2 * plan.kernels.size(), 0);
  std::vector<KernelTotal> out;
  for (const Op& op : plan.ops_of(program))
    for (const Call& call : plan.calls_of(op)) {
      const bool adds = call_accumulates(plan, call);
      std::size_t& at = row[2 * call.kernel.index() + (adds ? 1 : 0)];
      if (at == 0) {
        const Kernel& k = plan.kernel(call.kernel);
        out.push_back({call.kernel, adds, 0, cost(k, plan.header.types, adds)});
        at = out.size();
      }
      ++out[at - 1].calls;
    }
  return out;
}

double executed_flops(const Plan& plan, ProgramId program) {
  double sum = 0;
  for (const KernelTotal& k : kernel_totals(plan, program))
    sum += static_cast<double>(k.calls) * k.cost.flops;
  return sum;
}

std::vector<TagTotal> tag_totals(const Plan& plan, ProgramId program) {
  std::map<std::tuple<std::uint32_t, OpKind, std::int64_t, Bytes>, std::size_t> rows;
  std::vector<TagTotal> out;
  for (const Op& op : plan.ops_of(program)) {
    if (!is_communication(op.kind)) continue;
    TANDEM_CHECK(op.comm.valid(), "a communication without communicator");
    const Bytes in = Plan::bytes_in(op);
    const auto [at, fresh] =
        rows.try_emplace({op.tag, op.kind, std::int64_t{op.comm.value}, in}, out.size());
    if (fresh) {
      TagTotal t;
      t.tag = op.tag, t.kind = op.kind, t.comm = op.comm, t.bytes_in = in;
      t.group_size = plan.communicators[op.comm.index()].size;
      out.push_back(t);
    }
    ++out[at->second].calls;
  }
  return out;
}

}  // namespace tandem
