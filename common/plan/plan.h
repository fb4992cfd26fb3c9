// The plan (L2): the scheduling IR that both backends take. Plain data, indices not pointers.
// A plan is SPMD: one program per pipeline coordinate, communicators named by mesh axes; its size
// does not grow with tp or dp. Text form: print.h, parse.h and docs/plan_reference.md.
// What every op and field means: docs/plan_reference.md (and architecture.md section 3).
//
// Life of a buffer: it begins when an op that lists it in `allocates` is *issued* and ceases when
// the op that lists it in `frees` has *ended*. A buffer that no op allocates lives for the run. A
// host issues an allocating op only when all earlier frees have been carried out, in both
// backends, so peak memory does not depend on timing.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/ids.h"
#include "common/base/units.h"
#include "common/model/dtype.h"
#include "common/model/kernels.h"
#include "common/model/shape.h"
#include "common/parallel/mesh.h"

namespace tandem {

enum class BufferClass : std::uint8_t {
  param,
  param_full,
  grad,
  grad_full,
  optim,
  activation,
  saved_input,
  saved_weight,
  grad_activation,
  comm,
  scratch,
  logits,
  batch
};
inline constexpr int kNumBufferClasses = 13;
[[nodiscard]] std::string_view name_of(BufferClass c);
using ClassBytes = std::array<Bytes, kNumBufferClasses>;

enum class OpKind : std::uint8_t {
  compute,
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  broadcast,
  send,
  recv,
  shift,
  copy,
  host_wait,
  post_validate
};
inline constexpr int kNumOpKinds = 12;
[[nodiscard]] std::string_view name_of(OpKind k);
[[nodiscard]] constexpr bool is_collective(OpKind k) {
  return k >= OpKind::all_reduce && k <= OpKind::broadcast;
}
[[nodiscard]] constexpr bool is_p2p(OpKind k) { return k == OpKind::send || k == OpKind::recv; }
// The host itself does it, and issues no later op before it has ended.
[[nodiscard]] constexpr bool holds_host(OpKind k) {
  return k == OpKind::host_wait || k == OpKind::post_validate;
}
[[nodiscard]] constexpr bool is_communication(OpKind k) {
  return k >= OpKind::all_reduce && k <= OpKind::shift;
}

enum class Phase : std::uint8_t { F, I, W, B, R, O, D };  // R recompute, O optimizer, D data
enum class Part : std::uint8_t { none, warm_up, steady, cool_down };  // printed /w /s /c
enum class Reduction : std::uint8_t { none, sum, max };
[[nodiscard]] std::string_view name_of(Reduction r);

// Offset and count into one of the pools of a Plan.
struct Range {
  std::uint32_t begin = 0, count = 0;
};

// How a local tensor is cut from the full one: dimension `dim` is split over `axis`, equal parts,
// the part's start = coordinate * local extent. `valid`: full extent where it is padded.
struct SliceRule {
  std::int8_t dim = -1;  // -1: whole
  Axis axis = Axis::tp;
  std::int64_t valid = 0;    // 0: local extent * axis size
  std::uint32_t parts = 0;   // name index of "q,k,v" (equal rows) or "q:64,k:16,v:16" (local rows
                             // of each); 0: one tensor. Parts follow each other, each cut alone:
                             // Plan::parts_of
  std::int32_t experts = 0;  // above 0: a stack [experts, rows, columns] of the local routed
                             // experts, the first of them coordinate(ep) * experts; dim, axis and
                             // parts are of each one
  bool operator==(const SliceRule&) const = default;
};

// One of the tensors that lie in a buffer, one after the other along its rows.
struct FusedPart {
  std::string_view name;  // "q"
  std::int64_t rows = 0;  // local
};

struct Buffer {
  ProgramId program;
  BufferClass cls = BufferClass::activation;
  DType dtype = DType::f32;
  Shape shape;             // local
  std::uint32_t name = 0;  // Plan::name
  std::int32_t microbatch = -1, layer = -1;
  std::int32_t seq_slice = -1;  // of its sequences, where they are cut ("mb=2.s1")
  SliceRule slice;
  BufferId alias_of;  // a view of this bucket, adds no bytes
  Bytes alias_offset = 0;
  bool bucket = false;  // a parameter or gradient that is a bucket by itself ("bucket")
  bool window = false;  // a view of one of the tensors in a buffer, for ops that take it alone;
                        // whose elements they are is said by the buffer ("window")
  // Rows known only at run time (first dimension): as many as the i32 values of this buffer sum
  // to, at most `max_rows`. `shape` has the balanced number.
  BufferId rows_of;
  std::int64_t max_rows = 0;
  // ZeRO: the own part of that buffer's elements, which are cut in equal parts over the group of
  // these axes: part i belongs to member i. That buffer has the views that say whose they are.
  BufferId shard_of;
  AxisSet shard_axes;
  [[nodiscard]] Bytes bytes() const { return shape.elements() * size_of(dtype); }
  // Of one entry of the first dimension.
  [[nodiscard]] Bytes row_bytes() const { return bytes() / shape[0]; }
  // Memory it must have: more than bytes() where the rows are known only at run time.
  [[nodiscard]] Bytes capacity() const {
    return rows_of.valid() ? max_rows * row_bytes() : bytes();
  }
};

struct Communicator {
  std::uint32_t name = 0;  // "tp", "dp", "emb", "world", "edge:0->1"
  AxisSet axes;
  // `pair`: of the pp axis only these two coordinates, in this order (edges and emb).
  std::int32_t pair_first = -1, pair_second = -1;
  std::int32_t size = 0;  // members of each group
};

struct OperandRef {  // one operand of a call
  BufferId id;
  bool accumulate = false;  // "+id"
  bool operator==(const OperandRef&) const = default;
};

// One kernel invocation of a compute op.
struct Call {
  KernelId kernel;
  Range inputs, outputs, scratch;  // into Plan::operands
};

struct Op {
  OpKind kind = OpKind::compute;
  Phase phase = Phase::F;
  Part part = Part::none;
  StreamId stream;
  std::int32_t stage = -1, layer = -1, microbatch = -1;
  std::int32_t seq_slice = -1;  // as Buffer's
  Range calls;                  // compute: into Plan::calls
  // communication, copy, host_wait:
  CommId comm;
  Reduction reduction = Reduction::none;
  std::int64_t count = 0;  // elements handed over by one member
  DType dtype = DType::f32;
  std::int32_t peer = -1;   // send, recv: pipeline coordinate of the other end
  std::int32_t match = -1;  // equal on all ends where members run different programs
  std::int32_t group = -1;  // grouped calls (schedule.grouping: runs)
  std::uint32_t tag = 0;    // name index of models.md 4.1: "attn.out", "grad.dp"
  BufferId buffer;          // in place; copy: destination; host_wait: value
  // all_gather, reduce_scatter (sums are made in it), all_to_all, shift: what is handed over
  BufferId source;
  BufferId send_rows, recv_rows;  // of rows: i32 counts, members * k of them; the first k sum to
                                  // the rows of member 0, and so on. all_to_all both, all_gather
                                  // recv_rows, reduce_scatter send_rows
  Range waits;                    // into Plan::op_refs: ops on other streams of this program
  Range allocates, frees;         // into Plan::buffer_refs
};

struct Program {
  std::uint32_t first_op = 0, num_ops = 0;  // ids are dense over the programs, in issue order
};

struct PlanHeader {
  std::string digest;    // 16 hex digits of model, shapes, parallel, schedule
  std::string schedule;  // "1f1b"
  std::string receive = "early", communicators = "edge", grouping = "none";
  std::int32_t microbatches = 0, micro_batch = 0, sequence = 0;
  Mesh mesh;
  std::vector<std::int32_t> stage_rank;  // pipeline coordinate of each stage ("stages=0@0,1@1")
  // Two copies of the model in opposite directions ("copies=2"): the first does the lower half of
  // the microbatches; stage s of the second lies on coordinate pp - 1 - stage_rank[s].
  std::int32_t copies = 1;
  // Equal slices that the sequences of a microbatch are cut in ("slices=4"); forwards of a stage
  // take them in order, backwards the other way.
  std::int32_t slices = 1;
  [[nodiscard]] std::int32_t rank_of(std::int32_t stage, std::int32_t microbatch) const {
    const std::int32_t rank = stage_rank[static_cast<std::size_t>(stage)];
    return copies == 2 && microbatch >= microbatches / 2 ? mesh.of(Axis::pp) - 1 - rank : rank;
  }
  // Whether a copy of the stage lies there.
  [[nodiscard]] bool holds(std::int32_t program, std::int32_t stage) const {
    const std::int32_t rank = stage_rank[static_cast<std::size_t>(stage)];
    return rank == program || (copies == 2 && mesh.of(Axis::pp) - 1 - rank == program);
  }
  // Ranks that differ on these axes read different sequences ("data=dp,ep"; left out: dp). A rank's
  // data index is its place in the group of these axes (models.md 8.2).
  AxisSet data_axes = AxisSet{}.add(Axis::dp);
  PlanTypes types;
  bool evaluation = false;  // forward visits only: nothing that lives for the run is written
  // No visits: the last update once more, with the true norm (optimizer_barrier: post_validated).
  bool settling = false;
};

struct Plan {
  PlanHeader header;
  std::vector<std::string> names = {""};  // 0 is empty; every name of the plan, once
  std::vector<std::string> streams;       // "compute", "copy_in", "host", "comm:tp", ...
  std::vector<Communicator> communicators;
  std::vector<Buffer> buffers;    // by BufferId
  std::vector<Kernel> kernels;    // by KernelId
  std::vector<Op> ops;            // by OpId
  std::vector<Program> programs;  // by pipeline coordinate
  // pools
  std::vector<Call> calls;
  std::vector<OperandRef> operands;
  std::vector<OpId> op_refs;
  std::vector<BufferId> buffer_refs;

  [[nodiscard]] const std::string& name(std::uint32_t index) const { return names[index]; }
  [[nodiscard]] const Op& op(OpId id) const { return ops[id.index()]; }
  [[nodiscard]] const Buffer& buffer(BufferId id) const { return buffers[id.index()]; }
  [[nodiscard]] const Kernel& kernel(KernelId id) const { return kernels[id.index()]; }
  [[nodiscard]] std::span<const Call> calls_of(const Op& o) const {
    return {calls.data() + o.calls.begin, o.calls.count};
  }
  [[nodiscard]] std::span<const OperandRef> operands_of(Range r) const {
    return {operands.data() + r.begin, r.count};
  }
  [[nodiscard]] std::span<const OpId> waits_of(const Op& o) const {
    return {op_refs.data() + o.waits.begin, o.waits.count};
  }
  [[nodiscard]] std::span<const BufferId> allocates_of(const Op& o) const {
    return {buffer_refs.data() + o.allocates.begin, o.allocates.count};
  }
  [[nodiscard]] std::span<const BufferId> frees_of(const Op& o) const {
    return {buffer_refs.data() + o.frees.begin, o.frees.count};
  }
  [[nodiscard]] std::span<const Op> ops_of(ProgramId p) const {
    const Program& program = programs[p.index()];
    return {ops.data() + program.first_op, program.num_ops};
  }
  // The same batches reach every rank of an ep group, and with them equal sums (ep_data:
  // replicate). Replicas over ep are equal up to rounding: their rows lie elsewhere in a product.
  [[nodiscard]] bool replicates_data() const {
    const std::vector<Axis>& grid = header.mesh.order;
    return header.mesh.of(Axis::ep) > 1 && !header.data_axes.has(Axis::ep) &&
           std::find(grid.begin(), grid.end(), Axis::ep) != grid.end();
  }
  [[nodiscard]] ProgramId program_of(Rank rank) const {
    return ProgramId{header.mesh.coordinate(rank, Axis::pp)};
  }
  // Members of the group of `comm` that holds `rank`, ordered; empty if the rank is in none
  // (a pair it does not belong to). pair order: pair_first's member first.
  [[nodiscard]] std::vector<Rank> members(CommId comm, Rank rank) const;
  // Bytes one member hands over in a communication op (models.md 1, column "in").
  [[nodiscard]] static Bytes bytes_in(const Op& o) { return o.count * size_of(o.dtype); }
  // Real bytes of a buffer: 0 for an alias.
  [[nodiscard]] static Bytes own_bytes(const Buffer& b) {
    return b.alias_of.valid() ? 0 : b.bytes();
  }
  // The tensors that lie in the buffer; empty where it has no `parts`, or they do not fill it.
  [[nodiscard]] std::vector<FusedPart> parts_of(const Buffer& b) const;
  // Buffers of each program that no op allocates: they live for the run.
  [[nodiscard]] std::vector<BufferId> persistent(ProgramId p) const;
};

}  // namespace tandem
