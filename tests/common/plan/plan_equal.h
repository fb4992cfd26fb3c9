// Equality of plans by meaning: names by their text, ranges by what they hold. The numbering of
// names and streams and the layout of the pools are not part of a plan's meaning.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>

#include "common/plan/plan.h"

namespace tandem {

inline bool same_header(const PlanHeader& a, const PlanHeader& b) {
  const auto order = [](const Mesh& m) {
    std::vector<Axis> out;  // the place of a cp of 1 is not printed
    for (Axis x : m.order)
      if (x != Axis::cp || m.of(x) > 1) out.push_back(x);
    return out;
  };
  return a.digest == b.digest && a.schedule == b.schedule && a.receive == b.receive &&
         a.communicators == b.communicators && a.grouping == b.grouping &&
         a.microbatches == b.microbatches && a.micro_batch == b.micro_batch &&
         a.sequence == b.sequence && a.mesh.size == b.mesh.size && order(a.mesh) == order(b.mesh) &&
         a.stage_rank == b.stage_rank && a.types == b.types && a.data_axes == b.data_axes &&
         a.evaluation == b.evaluation && a.copies == b.copies && a.slices == b.slices;
}

inline void check_equal(const Plan& a, const Plan& b) {
  CHECK(same_header(a.header, b.header));
  REQUIRE(a.communicators.size() == b.communicators.size());
  for (std::size_t i = 0; i < a.communicators.size(); ++i) {
    const Communicator &x = a.communicators[i], &y = b.communicators[i];
    CHECK(a.name(x.name) == b.name(y.name));
    CHECK((x.axes == y.axes && x.pair_first == y.pair_first && x.pair_second == y.pair_second &&
           x.size == y.size));
  }
  REQUIRE(a.buffers.size() == b.buffers.size());
  for (std::size_t i = 0; i < a.buffers.size(); ++i) {
    CAPTURE(i);
    const Buffer &x = a.buffers[i], &y = b.buffers[i];
    CHECK(a.name(x.name) == b.name(y.name));
    CHECK(a.name(x.slice.parts) == b.name(y.slice.parts));
    CHECK((x.program == y.program && x.cls == y.cls && x.dtype == y.dtype && x.shape == y.shape &&
           x.microbatch == y.microbatch && x.seq_slice == y.seq_slice && x.layer == y.layer &&
           x.slice.dim == y.slice.dim && x.slice.axis == y.slice.axis &&
           x.slice.valid == y.slice.valid && x.alias_of == y.alias_of &&
           x.alias_offset == y.alias_offset && x.bucket == y.bucket && x.rows_of == y.rows_of &&
           x.max_rows == y.max_rows && x.window == y.window));
  }
  CHECK(a.kernels == b.kernels);
  REQUIRE(a.programs.size() == b.programs.size());
  for (std::size_t i = 0; i < a.programs.size(); ++i)
    CHECK((a.programs[i].first_op == b.programs[i].first_op &&
           a.programs[i].num_ops == b.programs[i].num_ops));
  REQUIRE(a.ops.size() == b.ops.size());
  const auto same = [](auto x, auto y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  };
  for (std::size_t i = 0; i < a.ops.size(); ++i) {
    CAPTURE(i);
    const Op &x = a.ops[i], &y = b.ops[i];
    CHECK((x.kind == y.kind && x.phase == y.phase && x.part == y.part &&
           a.streams[x.stream.index()] == b.streams[y.stream.index()] && x.stage == y.stage &&
           x.layer == y.layer && x.microbatch == y.microbatch && x.seq_slice == y.seq_slice));
    CHECK((x.comm == y.comm && x.reduction == y.reduction && x.count == y.count &&
           x.dtype == y.dtype && x.peer == y.peer && x.match == y.match && x.group == y.group &&
           a.name(x.tag) == b.name(y.tag) && x.buffer == y.buffer && x.source == y.source &&
           x.send_rows == y.send_rows && x.recv_rows == y.recv_rows));
    CHECK(same(a.waits_of(x), b.waits_of(y)));
    CHECK(same(a.allocates_of(x), b.allocates_of(y)));
    CHECK(same(a.frees_of(x), b.frees_of(y)));
    REQUIRE(x.calls.count == y.calls.count);
    for (std::size_t c = 0; c < x.calls.count; ++c) {
      const Call &p = a.calls_of(x)[c], &q = b.calls_of(y)[c];
      CHECK(p.kernel == q.kernel);
      CHECK(same(a.operands_of(p.inputs), b.operands_of(q.inputs)));
      CHECK(same(a.operands_of(p.outputs), b.operands_of(q.outputs)));
      CHECK(same(a.operands_of(p.scratch), b.operands_of(q.scratch)));
    }
  }
}

}  // namespace tandem
