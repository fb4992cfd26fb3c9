// V1.1 to V1.5: the plan is well-formed.
// Proves: ids are dense, every index is inside its table, ops lie in the programs without gap or
// overlap (1); stages, microbatches, layers, peers and sizes of groups are in range (2); every op
// runs where its stage lives (3); there is a program for each pipeline coordinate (4); a group
// holds sends and receives only, side by side (5).
// Not: that the plan can run or computes anything.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "common/base/limits.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

constexpr const char* kRebuild = "build the plan again from its scenario";

class Structure {
 public:
  Structure(const Plan& plan, Report& report) : plan_(plan), report_(report) {}

  void run() {
    tables();
    if (!report_.empty()) return;
    for (std::size_t p = 0; p < plan_.programs.size() && !report_.full(); ++p) {
      const Program& program = plan_.programs[p];
      for (std::uint32_t i = 0; i < program.num_ops && !report_.full(); ++i)
        op(ProgramId{static_cast<std::int64_t>(p)}, OpId{program.first_op + i});
      if (report_.empty()) groups(program);
    }
  }

 private:
  bool whole(std::string title, std::string found, std::string expected) {
    report_.add({kStructure,
                 std::move(title),
                 OpId{},
                 std::move(found),
                 std::move(expected),
                 kRebuild,
                 {}});
    return false;
  }
  bool bad(const char* sub, OpId id, std::string what, std::string found, std::string expected,
           std::string hint = kRebuild) {
    // describe() needs sound indices: this pass names ops by number.
    report_.add({kStructure,
                 fmt::format("{} op {}: {}", sub, id.value, what),
                 id,
                 std::move(found),
                 std::move(expected),
                 std::move(hint),
                 {}});
    return false;
  }

  void tables() {
    const PlanHeader& h = plan_.header;
    const int pp = h.mesh.of(Axis::pp);
    std::int64_t world = 1;
    for (int size : h.mesh.size) {
      if (size < 1) whole("V1.2 an axis of the mesh has no ranks", fmt::format("{}", size), "1");
      world = std::min(world * std::max(size, 1), limits::kDevices + 1);
    }
    if (world > limits::kDevices)
      whole("V1.2 the mesh has too many ranks", "more", fmt::format("{}", limits::kDevices));
    if (!report_.empty()) return;
    if (plan_.programs.size() != static_cast<std::size_t>(pp))
      whole("V1.4 not one program for each pipeline rank",
            fmt::format("{} programs", plan_.programs.size()), fmt::format("pp = {}", pp));
    if (h.copies < 1 || h.copies > 2 || (h.copies == 2 && h.microbatches % 2 != 0))
      whole(
          "V1.2 a plan has one copy of the model, or two that share an even number of microbatches",
          fmt::format("{} copies, {} microbatches", h.copies, h.microbatches), "1 or 2");
    if (h.stage_rank.empty() || h.microbatches < 1)
      whole("V1.2 a plan has a stage and a microbatch or more",
            fmt::format("{} stages, {} microbatches", h.stage_rank.size(), h.microbatches), "1");
    const auto ops = static_cast<std::int64_t>(plan_.ops.size());
    if (h.slices < 1 || (h.slices > 1 && h.slices > ops / std::max(1, h.microbatches)))
      whole("V1.2 a plan has a slice or more of each microbatch",
            fmt::format("{} slices of {} microbatches", h.slices, h.microbatches),
            fmt::format("1, or at most as many in all as the {} ops", ops));
    for (std::size_t s = 0; s < h.stage_rank.size(); ++s)
      if (h.stage_rank[s] < 0 || h.stage_rank[s] >= pp)
        whole(fmt::format("V1.3 stage {} is placed on no pipeline rank", s),
              fmt::format("{}", h.stage_rank[s]), fmt::format("0 to {}", pp - 1));
    std::uint32_t next = 0;
    for (const Program& p : plan_.programs) {
      if (p.first_op != next || p.num_ops > plan_.ops.size() - next) {
        whole("V1.1 the programs do not cover the ops one after the other",
              fmt::format("a program from op {}", p.first_op), fmt::format("from op {}", next));
        return;
      }
      next += p.num_ops;
    }
    if (next != plan_.ops.size())
      whole("V1.1 ops outside every program", fmt::format("{} ops", plan_.ops.size()),
            fmt::format("{}", next));
    if (plan_.names.empty() || !plan_.names[0].empty())
      whole("V1.1 the first name is not the empty one", "another", "\"\"");
    for (std::size_t i = 0; i < plan_.communicators.size() && !report_.full(); ++i) communicator(i);
    for (std::size_t i = 0; i < plan_.buffers.size() && !report_.full(); ++i) buffer(i);
  }

  void communicator(std::size_t i) {
    const Communicator& c = plan_.communicators[i];
    const Mesh& mesh = plan_.header.mesh;
    const int pp = mesh.of(Axis::pp);
    const std::string who = fmt::format("communicator {}", i);
    if (c.name >= plan_.names.size()) {
      whole("V1.1 " + who + " has no name", fmt::format("{}", c.name), "an index of the names");
      return;
    }
    std::int64_t size = 1;
    for (int a = 0; a < kNumAxes; ++a)
      if (c.axes.has(static_cast<Axis>(a))) size *= mesh.of(static_cast<Axis>(a));
    if (c.axes.empty()) whole("V1.2 " + who + " names no axis", "none", "axes=tp");
    const auto in_grid = [&](const std::vector<Axis>& grid) {
      AxisSet all;
      for (Axis a : grid) all.add(a);
      return (all.bits & c.axes.bits) == c.axes.bits;
    };
    if (!in_grid(mesh.order) && !in_grid(mesh.expert_order))
      whole("V1.2 " + who + " names axes of two grids", plan_.name(c.name),
            "axes of mesh=, or axes of experts=");
    const bool pair = c.pair_first >= 0 || c.pair_second >= 0;
    if (pair) {
      AxisSet only_pp;
      only_pp.add(Axis::pp);
      if (!(c.axes == only_pp) || c.pair_first < 0 || c.pair_first >= pp || c.pair_second < 0 ||
          c.pair_second >= pp || c.pair_first == c.pair_second)
        whole("V1.2 " + who + " is no pair of pipeline ranks",
              fmt::format("pair {},{}", c.pair_first, c.pair_second),
              fmt::format("two different of 0 to {}, axes=pp", pp - 1));
      size = 2;
    }
    if (c.size != size)
      whole("V1.2 " + who + " has a wrong size", fmt::format("{}", c.size),
            fmt::format("{} by its axes", size));
  }

  void buffer(std::size_t i) {
    const Buffer& b = plan_.buffers[i];
    const std::string who = fmt::format("buffer {}", i);
    if (!b.program.valid() || b.program.index() >= plan_.programs.size())
      whole("V1.2 " + who + " belongs to no program", fmt::format("{}", b.program.value),
            fmt::format("0 to {}", plan_.programs.size() - 1));
    if (b.name >= plan_.names.size() || b.slice.parts >= plan_.names.size())
      whole("V1.1 " + who + " has no name", fmt::format("{}", b.name), "an index of the names");
    if (b.microbatch >= plan_.header.microbatches)
      whole("V1.2 " + who + " is of a microbatch that does not exist",
            fmt::format("{}", b.microbatch), fmt::format("below {}", plan_.header.microbatches));
    if (!slice_exists(b.microbatch, b.seq_slice))
      whole("V1.2 " + who + " is of a slice that does not exist", fmt::format("{}", b.seq_slice),
            fmt::format("below {}, of a microbatch", slices()));
    std::int64_t elements = 1;
    for (int d = 0; d < b.shape.rank; ++d)
      if (b.shape[d] < 1 || b.shape[d] > limits::kTensorElements / elements)
        return (void)whole("V1.2 " + who + " has an impossible shape",
                           fmt::format("{}", b.shape[d]),
                           "positive extents, at most 2^47 elements");
      else
        elements *= b.shape[d];
    if (b.slice.parts > 0 && b.slice.parts < plan_.names.size() && plan_.parts_of(b).empty())
      whole("V1.2 " + who + " has parts that do not fill it", plan_.name(b.slice.parts),
            fmt::format("parts of {} rows together", b.shape[0]));
    if (b.slice.experts > 0 && (b.shape.rank != 3 || b.shape[0] != b.slice.experts))
      whole("V1.2 " + who + " is no stack of experts", fmt::format("{} experts", b.slice.experts),
            "the first of three dimensions");
    if (b.shard_of.valid() || !b.shard_axes.empty()) shard(b, who);
    if (b.rows_of.valid() != (b.max_rows > 0) ||
        (b.rows_of.valid() &&
         (b.rows_of.index() >= plan_.buffers.size() || b.shape.rank < 1 || b.alias_of.valid() ||
          b.shape[0] > b.max_rows || plan_.buffer(b.rows_of).dtype != DType::i32)))
      whole("V1.2 " + who + " has rows of no counts", fmt::format("{} rows", b.max_rows),
            "max_rows= at least its rows, and rows_of= an i32 buffer");
    if (b.slice.dim >= b.shape.rank && b.slice.dim >= 0)
      whole("V1.2 " + who + " is cut along a dimension it does not have",
            fmt::format("{}", b.slice.dim), fmt::format("below {}", b.shape.rank));
    if (b.alias_of.valid() && b.alias_of.index() >= plan_.buffers.size())
      whole("V1.1 " + who + " is a view of nothing", fmt::format("{}", b.alias_of.value),
            fmt::format("below {}", plan_.buffers.size()));
  }

  void shard(const Buffer& b, const std::string& who) {
    const bool exists = b.shard_of.valid() && b.shard_of.index() < plan_.buffers.size();
    const std::int64_t members = plan_.header.mesh.size_of_group(b.shard_axes);
    if (!exists || b.shard_axes.empty() || plan_.buffer(b.shard_of).shard_of.valid() ||
        plan_.buffer(b.shard_of).program != b.program ||
        plan_.buffer(b.shard_of).shape.elements() != b.shape.elements() * members)
      whole("V1.2 " + who + " is no shard", fmt::format("shard_of {}", b.shard_of.value),
            fmt::format("one of {} equal parts of a buffer of its program", members));
  }

  static bool inside(Range r, std::size_t size) { return std::uint64_t{r.begin} + r.count <= size; }
  bool operand(OpId id, BufferId b, ProgramId program) {
    if (!b.valid() || b.index() >= plan_.buffers.size())
      return bad("V1.1", id, "names a buffer that does not exist", fmt::format("{}", b.value),
                 fmt::format("below {}", plan_.buffers.size()));
    if (plan_.buffer(b).program != program)
      return bad("V1.2", id, fmt::format("uses buffer {} of another program", b.value),
                 fmt::format("program {}", plan_.buffer(b).program.value),
                 fmt::format("program {}", program.value),
                 "data crosses programs by a send and a receive");
    return true;
  }

  bool op(ProgramId program, OpId id) {
    const Op& o = plan_.op(id);
    const int pp = plan_.header.mesh.of(Axis::pp);
    if (!inside(o.calls, plan_.calls.size()) || !inside(o.waits, plan_.op_refs.size()) ||
        !inside(o.allocates, plan_.buffer_refs.size()) ||
        !inside(o.frees, plan_.buffer_refs.size()))
      return bad("V1.1", id, "points outside the plan's tables", "a range", "inside");
    if (!o.stream.valid() || o.stream.index() >= plan_.streams.size() ||
        o.tag >= plan_.names.size())
      return bad("V1.1", id, "has no stream or tag", fmt::format("{}", o.stream.value), "an index");
    for (const Call& c : plan_.calls_of(o)) {
      if (!c.kernel.valid() || c.kernel.index() >= plan_.kernels.size())
        return bad("V1.1", id, "calls a kernel that does not exist",
                   fmt::format("{}", c.kernel.value),
                   fmt::format("below {}", plan_.kernels.size()));
      for (Range r : {c.inputs, c.outputs, c.scratch}) {
        if (!inside(r, plan_.operands.size()))
          return bad("V1.1", id, "points outside the plan's tables", "a range", "inside");
        for (const OperandRef& ref : plan_.operands_of(r))
          if (!operand(id, ref.id, program)) return false;
      }
    }
    for (BufferId b : plan_.allocates_of(o))
      if (!operand(id, b, program)) return false;
    for (BufferId b : plan_.frees_of(o))
      if (!operand(id, b, program)) return false;
    if (o.kind != OpKind::compute && !operand(id, o.buffer, program)) return false;
    for (BufferId b : {o.source, o.send_rows, o.recv_rows})
      if (b.valid() && !operand(id, b, program)) return false;
    const bool has_source = o.kind == OpKind::all_gather || o.kind == OpKind::reduce_scatter ||
                            o.kind == OpKind::all_to_all || o.kind == OpKind::shift;
    if (o.source.valid() && !has_source)
      return bad("V1.2", id, fmt::format("a {} with a source", name_of(o.kind)),
                 "source=", "no source: the operation is in place");
    if (!row_counts_belong(o))
      return bad(
          "V1.2", id, "has row counts where none belong",
          fmt::format("a {} with {}{}", name_of(o.kind), o.send_rows.valid() ? "send_rows= " : "",
                      o.recv_rows.valid() ? "recv_rows=" : ""),
          "both on an all_to_all, recv_rows on an all_gather, send_rows on a reduce_scatter, "
          "with a source; or none");
    for (OpId w : plan_.waits_of(o)) {
      const Program& p = plan_.programs[program.index()];
      if (!w.valid() || w.index() >= plan_.ops.size() ||
          static_cast<std::uint32_t>(w.value) - p.first_op >= p.num_ops)
        return bad("V1.2", id, "waits for an op of another program", fmt::format("op {}", w.value),
                   fmt::format("op {} to {}", p.first_op, p.first_op + p.num_ops - 1),
                   "only a send and a receive, or a collective, connect programs");
    }
    if (o.microbatch >= plan_.header.microbatches)
      return bad("V1.2", id, "is of a microbatch that does not exist",
                 fmt::format("{}", o.microbatch),
                 fmt::format("below {}", plan_.header.microbatches));
    if (!slice_exists(o.microbatch, o.seq_slice))
      return bad("V1.2", id, "is of a slice that does not exist", fmt::format("{}", o.seq_slice),
                 fmt::format("below {}, of a microbatch", slices()));
    if (o.stage >= static_cast<int>(plan_.header.stage_rank.size()))
      return bad("V1.2", id, "is of a stage that does not exist", fmt::format("{}", o.stage),
                 fmt::format("below {}", plan_.header.stage_rank.size()));
    if (o.stage >= 0) {
      const PlanHeader& h = plan_.header;
      const std::int32_t owner = h.rank_of(o.stage, o.microbatch);
      const bool here = o.microbatch < 0 ? h.holds(program.value, o.stage) : owner == program.value;
      if (!here)
        return bad("V1.3", id,
                   fmt::format("stage {} belongs to rank {}, found on rank {}", o.stage, owner,
                               program.value),
                   fmt::format("program {}", program.value), fmt::format("program {}", owner));
    }
    if (o.kind == OpKind::compute && o.calls.count == 0)
      return bad("V1.1", id, "computes nothing", "no calls", "k0(1 -> 2)");
    if (is_communication(o.kind)) {
      if (!o.comm.valid() || o.comm.index() >= plan_.communicators.size())
        return bad("V1.1", id, "names a communicator that does not exist",
                   fmt::format("{}", o.comm.value),
                   fmt::format("below {}", plan_.communicators.size()));
      if (!member(o.comm, program))
        return bad("V1.2", id, "uses a communicator that its program is not in",
                   plan_.name(plan_.communicators[o.comm.index()].name),
                   "a communicator of this pipeline rank");
    }
    if (is_p2p(o.kind) && (o.peer < 0 || o.peer >= pp))
      return bad("V1.2", id, "names a peer that does not exist", fmt::format("{}", o.peer),
                 fmt::format("0 to {}", pp - 1));
    return queue(program, id, o);
  }

  // 0 where sequences are whole: then nothing is of a slice.
  [[nodiscard]] int slices() const { return plan_.header.slices > 1 ? plan_.header.slices : 0; }
  [[nodiscard]] bool slice_exists(std::int32_t microbatch, std::int32_t slice) const {
    return slice < 0 || (microbatch >= 0 && slice < slices());
  }

  // Each side whose parts are unequal has counts.
  static bool row_counts_belong(const Op& o) {
    const bool send = o.send_rows.valid(), recv = o.recv_rows.valid();
    if (!send && !recv) return true;
    if (!o.source.valid()) return false;
    if (o.kind == OpKind::all_to_all) return send && recv;
    return (o.kind == OpKind::all_gather && !send) || (o.kind == OpKind::reduce_scatter && !recv);
  }

  [[nodiscard]] bool member(CommId comm, ProgramId program) const {
    const Communicator& c = plan_.communicators[comm.index()];
    return c.pair_first < 0 || c.pair_first == program.value || c.pair_second == program.value;
  }

  // One stream holds one kind of work; a communicator's ops are on one stream, so that the order of
  // the stream is the order of the communicator.
  bool queue(ProgramId program, OpId id, const Op& o) {
    const std::string& name = plan_.streams[o.stream.index()];
    const bool is_comm = name.starts_with("comm:");
    const char* expected = is_communication(o.kind) ? "comm:..."
                           : holds_host(o.kind)     ? "host"
                           : o.kind == OpKind::copy ? "copy_in or copy_out"
                                                    : "compute";
    const bool good = is_communication(o.kind) ? is_comm
                      : holds_host(o.kind)     ? name == "host"
                      : o.kind == OpKind::copy ? name == "copy_in" || name == "copy_out"
                                               : name == "compute";
    if (!good)
      return bad("V1.2", id, fmt::format("a {} on stream {}", name_of(o.kind), name), name,
                 expected, "see \"Streams\" in docs/plan_reference.md");
    if (!is_comm) return true;
    const auto [it, added] = stream_of_.try_emplace({program.value, o.comm.value}, o.stream);
    if (it->second != o.stream)
      return bad("V1.2", id, "one communicator on two streams", name,
                 plan_.streams[it->second.index()], "a communicator has one queue on a device");
    return true;
  }

  // Members of a group stand side by side in the issue order; no group comes back.
  void groups(const Program& program) {
    std::set<std::int32_t> closed;
    std::int32_t open = -1;
    for (std::uint32_t i = 0; i < program.num_ops && !report_.full(); ++i) {
      const OpId id{program.first_op + i};
      const Op& o = plan_.op(id);
      if (o.group >= 0 && !is_p2p(o.kind))
        bad("V1.5", id, fmt::format("a {} in group {}", name_of(o.kind), o.group),
            "group=", "sends and receives only");
      if (o.group == open) continue;
      if (open >= 0) closed.insert(open);
      open = o.group;
      if (open >= 0 && closed.contains(open))
        bad("V1.5", id, fmt::format("group {} is torn", open), "another op between its members",
            "members of a group side by side");
    }
  }

  const Plan& plan_;
  Report& report_;
  std::map<std::pair<std::int32_t, std::int32_t>, StreamId> stream_of_;
};

}  // namespace

void check_structure(const Plan& plan, Report& report) { Structure(plan, report).run(); }

}  // namespace tandem::verify
