#include "exec/checkpoint/held.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "common/base/check.h"
#include "common/base/sha256.h"
#include "exec/train/shard.h"

namespace tandem::exec {
namespace {

// What one optimizer call updates: all of `param`, or the own part of it.
struct Update {
  BufferId param, main, m, v, grad;
  AxisSet axes;  // of the group whose members share it; empty: all
};

std::vector<Update> updates_of(const Plan& plan, ProgramId program) {
  std::vector<Update> out;
  for (const Op& op : plan.ops_of(program))
    for (const Call& c : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(c.kernel);
      if (k.kind != KernelKind::adamw) continue;
      const auto outputs = plan.operands_of(c.outputs);
      out.push_back({outputs[k.flags & kCast ? 3 : 0].id, outputs[0].id, outputs[1].id,
                     outputs[2].id, plan.operands_of(c.inputs)[1].id, k.coords});
    }
  return out;
}

Piece piece_of(const HeldRange& h) {
  const Shard& s = h.shard;
  Piece p;
  p.name = s.name;
  p.dims = h.dims;
  p.shape = {s.full_rows, s.full_columns};
  p.start = {s.row_begin, s.column_begin};
  p.length = {s.rows, s.columns};
  p.flat_begin = h.begin, p.flat_end = h.end;
  return p;
}

// Calls visit(shard, dims, dtype) for every tensor of a program, for all local stacks of experts.
template <class Visit>
void for_each_tensor(const Plan& plan, ProgramId program, Visit&& visit) {
  for (BufferId id : holders(plan, program, BufferClass::param)) {
    const Buffer& holder = plan.buffer(id);
    const BufferId whole = holder.shard_of.valid() ? holder.shard_of : id;
    const std::int64_t all = plan.buffer(whole).shape.elements();
    for (int ep = 0; ep < plan.header.mesh.of(Axis::ep); ++ep) {
      const Rank rank = plan.header.mesh.with(
          plan.header.mesh.with(Rank{0}, Axis::pp, static_cast<int>(program.value)), Axis::ep, ep);
      for (const HeldRange& h : ranges_in(plan, whole, rank, 0, all))
        visit(h.shard, h.dims, holder.dtype);
    }
  }
}

// Names of the parameters that a program before `program` holds too.
std::set<std::string> names_before(const Plan& plan, ProgramId program) {
  std::set<std::string> out;
  for (std::int64_t p = 0; p < program.value; ++p)
    for_each_tensor(plan, ProgramId{p}, [&](const Shard& s, int, DType) { out.insert(s.name); });
  return out;
}

// Whether the rank is the first of those that hold the same elements after the update: coordinate 0
// on the axes that neither cut the tensor nor share the bucket.
bool is_first_copy(const Plan& plan, const std::array<int, kNumAxes>& coordinate,
                   const SliceRule& rule, AxisSet shared) {
  const bool experts = rule.experts > 0 && !plan.header.mesh.expert_order.empty();
  const std::vector<Axis>& grid = experts ? plan.header.mesh.expert_order : plan.header.mesh.order;
  for (Axis axis : grid) {
    const bool cuts =
        (rule.dim >= 0 && axis == rule.axis) || (rule.experts > 0 && axis == Axis::ep);
    if (axis == Axis::pp || cuts || shared.has(axis)) continue;
    if (coordinate[static_cast<std::size_t>(axis)] != 0) return false;
  }
  return true;
}

}  // namespace

std::vector<BufferId> router_biases(const Plan& plan, ProgramId program) {
  std::vector<BufferId> out;
  for (BufferId id : holders(plan, program, BufferClass::optim))
    if (plan.name(plan.buffer(id).name).ends_with(".router_bias")) out.push_back(id);
  return out;
}

std::vector<HeldPiece> held_pieces(const Plan& plan, Rank rank) {
  const ProgramId program = plan.program_of(rank);
  const auto coordinate = coordinates(plan, rank);
  const auto before = names_before(plan, program);
  std::vector<HeldPiece> out;
  for (const Update& u : updates_of(plan, program)) {
    const Buffer& param = plan.buffer(u.param);
    const std::int64_t n = param.shape.elements(), own = plan.buffer(u.m).shape.elements();
    const std::int64_t first = own < n ? own * part_of(plan, rank, u.axes) : 0;
    // A shard of parameters has one window; a whole bucket one for each part.
    const bool is_shard = param.shard_of.valid();
    for (std::int64_t at = 0; at < n; at += own) {
      const bool mine = is_shard || at == first;
      const bool main_is_whole = plan.buffer(u.main).shape.elements() == n;
      for (const HeldRange& h : is_shard ? ranges_in(plan, u.param, rank)
                                         : ranges_in(plan, u.param, rank, at, at + own)) {
        HeldPiece p;
        p.piece = piece_of(h);
        p.param = u.param;
        p.param_element = h.element;
        if (mine) {
          p.m = u.m, p.v = u.v, p.state_element = h.element - (is_shard ? 0 : first);
          // A whole bucket's gradient is whole too (level 1), or a shard like the moments (2).
          const bool grad_is_whole = plan.buffer(u.grad).shape.elements() == n;
          p.grad = u.grad, p.grad_element = grad_is_whole ? h.element : p.state_element;
        }
        if (mine || main_is_whole) {
          p.main = u.main;
          p.main_element = main_is_whole ? h.element : p.state_element;
        }
        p.is_owner = mine && is_first_copy(plan, coordinate, h.slice, u.axes) &&
                     !before.contains(h.shard.name);
        out.push_back(std::move(p));
      }
    }
  }
  for (BufferId id : router_biases(plan, program)) {
    const Buffer& b = plan.buffer(id);
    HeldPiece p;
    p.piece.name = plan.name(b.name);
    p.piece.dims = 1;
    p.piece.shape = p.piece.length = {b.shape.elements(), 1};
    p.piece.flat_end = b.shape.elements();
    p.param = p.main = p.m = p.v = id;
    p.is_owner = is_first_copy(plan, coordinate, {}, {});
    out.push_back(std::move(p));
  }
  return out;
}

TensorShapes tensor_shapes(const Plan& plan) {
  TensorShapes out;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (BufferId id : router_biases(plan, ProgramId{static_cast<std::int64_t>(p)}))
      out[plan.name(plan.buffer(id).name)] = {plan.buffer(id).shape.elements(), 1};
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for_each_tensor(plan, ProgramId{static_cast<std::int64_t>(p)}, [&](const Shard& s, int, DType) {
      out[s.name] = {s.full_rows, s.full_columns};
    });
  return out;
}

std::string model_digest(const Plan& plan) {
  std::map<std::string, std::string> lines;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for_each_tensor(
        plan, ProgramId{static_cast<std::int64_t>(p)}, [&](const Shard& s, int dims, DType dtype) {
          std::string shape = fmt::format("{}", s.full_rows);
          if (dims == 2) shape += fmt::format("x{}", s.full_columns);
          const bool expert = s.name.find(".moe.experts.") != std::string::npos;
          lines[s.name] =
              fmt::format("{} {} {} {}\n", s.name, shape, name_of(dtype), expert ? 1 : 0);
        });
  std::string text;
  for (const auto& [name, line] : lines) text += line;
  return sha256_hex(text);
}

}  // namespace tandem::exec
