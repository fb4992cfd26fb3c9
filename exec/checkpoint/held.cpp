#include "exec/checkpoint/held.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "common/base/check.h"
#include "common/base/sha256.h"
#include "exec/train/shard.h"

namespace tandem::exec {
namespace {

// What one optimizer call updates.
struct State {
  BufferId main, m, v;
};

// By the bucket of parameters that an `adamw` of the program writes.
std::map<BufferId, State> optimizer_states(const Plan& plan, ProgramId program) {
  std::map<BufferId, State> out;
  for (const Op& op : plan.ops_of(program))
    for (const Call& c : plan.calls_of(op)) {
      const Kernel& k = plan.kernel(c.kernel);
      if (k.kind != KernelKind::adamw) continue;
      const auto outputs = plan.operands_of(c.outputs);
      const BufferId bucket = outputs[k.flags & kCast ? 3 : 0].id;
      out[bucket] = {outputs[0].id, outputs[1].id, outputs[2].id};
    }
  return out;
}

Piece piece_of(const Shard& s, int dims) {
  Piece p;
  p.name = s.name;
  p.dims = dims;
  p.shape = {s.full_rows, s.full_columns};
  p.start = {s.row_begin, s.column_begin};
  p.length = {s.rows, s.columns};
  p.flat_end = s.rows * s.columns;
  return p;
}

// Names of the parameters that a program before `program` holds too.
std::set<std::string> names_before(const Plan& plan, ProgramId program) {
  std::set<std::string> out;
  for (std::int64_t p = 0; p < program.value; ++p)
    for (BufferId id : tensors(plan, ProgramId{p}, BufferClass::param))
      out.insert(plan.name(plan.buffer(id).name));
  return out;
}

// Coordinate 0 on every axis of the tensor's grid that does not cut it.
bool is_zero_elsewhere(const Mesh& mesh, const std::array<int, kNumAxes>& coordinate,
                       const SliceRule& rule) {
  const bool experts = rule.experts > 0;  // a stack of routed experts is cut over ep too
  for (Axis axis : experts && !mesh.expert_order.empty() ? mesh.expert_order : mesh.order) {
    const bool cuts = (rule.dim >= 0 && axis == rule.axis) || (experts && axis == Axis::ep);
    if (axis != Axis::pp && !cuts && coordinate[static_cast<std::size_t>(axis)] != 0) return false;
  }
  return true;
}

// Calls visit(buffer, shard) for every parameter of every program, of the ranks with coordinate 0.
template <class Visit>
void for_each_tensor(const Plan& plan, Visit&& visit) {
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const ProgramId program{static_cast<std::int64_t>(p)};
    for (BufferId id : tensors(plan, program, BufferClass::param))
      for (const Shard& s : shards_of(plan, plan.buffer(id), {})) visit(plan.buffer(id), s);
  }
}

}  // namespace

std::vector<HeldPiece> held_pieces(const Plan& plan, Rank rank) {
  const ProgramId program = plan.program_of(rank);
  const auto coordinate = coordinates(plan, rank);
  const auto states = optimizer_states(plan, program);
  const auto before = names_before(plan, program);
  std::vector<HeldPiece> out;
  for (BufferId id : tensors(plan, program, BufferClass::param)) {
    const Buffer& b = plan.buffer(id);
    const BufferId bucket = b.alias_of.valid() ? b.alias_of : id;
    const auto state = states.find(bucket);
    TANDEM_CHECK(state != states.end(), "no optimizer updates {}", plan.name(b.name));
    TANDEM_CHECK(!plan.buffer(state->second.main).shard_of.valid(),
                 "{} is sharded by ZeRO, which this version does not execute", plan.name(b.name));
    const std::int64_t first = b.alias_offset / size_of(b.dtype);
    for (const Shard& s : shards_of(plan, b, coordinate)) {
      if (s.rows * s.columns == 0) continue;  // nothing but padding
      TANDEM_CHECK(s.columns == s.local_columns, "{} is not contiguous", s.name);
      HeldPiece h;
      h.piece = piece_of(s, b.shape.rank);
      h.param = bucket, h.main = state->second.main, h.m = state->second.m, h.v = state->second.v;
      h.element = h.param_element = first + s.local_begin;
      h.is_owner = is_zero_elsewhere(plan.header.mesh, coordinate, b.slice) &&
                   !before.contains(plan.name(b.name));
      out.push_back(std::move(h));
    }
  }
  return out;
}

TensorShapes tensor_shapes(const Plan& plan) {
  TensorShapes out;
  for_each_tensor(plan, [&](const Buffer&, const Shard& s) {
    out[s.name] = {s.full_rows, s.full_columns};
  });
  return out;
}

std::string model_digest(const Plan& plan) {
  std::map<std::string, std::string> lines;
  for_each_tensor(plan, [&](const Buffer& b, const Shard& s) {
    std::string shape = fmt::format("{}", s.full_rows);
    if (b.shape.rank == 2) shape += fmt::format("x{}", s.full_columns);
    const bool expert = s.name.find(".moe.experts.") != std::string::npos;
    lines[s.name] = fmt::format("{} {} {} {}\n", s.name, shape, name_of(b.dtype), expert ? 1 : 0);
  });
  std::string text;
  for (const auto& [name, line] : lines) text += line;
  return sha256_hex(text);
}

}  // namespace tandem::exec
