// What one visit of a stage consists of, before it is made for each microbatch: the ops of its
// forward and backward, over slots (one buffer a microbatch) and buffers that live for the run.
// visit_builder.h writes it, segments.cpp makes ops of it.
#pragma once

#include <string>
#include <vector>

#include "common/plan/lower/draft.h"

namespace tandem::lower {

// An operand of a visit: a slot, or a buffer of the program.
struct Ref {
  int slot = -1;
  int slice = -1;         // of the slot: another slice's buffer; -1: the visit's own
  BufferId buffer;        // where slot < 0
  bool sums = false;      // accumulates in every microbatch but the one whose backward comes first
  bool step_sum = false;  // accumulates but where it is first written in the program
  bool adds = false;      // accumulates always
  [[nodiscard]] bool none() const { return slot < 0 && !buffer.valid(); }
};

struct Slot {
  Buffer buffer;                        // microbatch and program are filled in later
  bool only_when_accumulating = false;  // scratch of W
  bool only_in_weight = false;          // gathered again where W is apart from I
  bool once = false;                    // one buffer for all microbatches: the loss
  bool all_slices = false;              // one buffer for all slices of a microbatch
  bool for_later_slices = false;        // the last slice has none
  int rows_of = -1;                     // slot of the counts that its rows are
  int root = -1;  // slot of the bucket that it is a view of, at `offset` bytes
  Bytes offset = 0;
  int bucket = -1;        // a whole bucket: gathered parameters, unscattered gradients
  bool resident = false;  // gathered parameters of residency window: of no microbatch, made anew by
                          // each UNSHARD
};

struct VisitCall {
  KernelId kernel;
  std::vector<Ref> inputs, outputs, scratch;
};

struct VisitOp {
  int layer = -1;
  bool again = false;  // phase R: computed before, and not kept
  OpKind kind = OpKind::compute;
  std::vector<VisitCall> calls;  // compute
  // communication, and host_wait (buffer only):
  std::string comm, tag;  // "tp", "attn.out"
  Reduction reduction = Reduction::none;
  Ref buffer, source;        // source: none where it is in place
  Ref send_rows, recv_rows;  // as Op's
  // reduce_scatter of each microbatch: the first one fills the shard; later ones are in place, and
  // `calls` adds the own part to it.
  bool adds = false;
};

struct Visit {
  std::vector<Slot> slots;
  std::vector<VisitOp> forward, backward;
  std::vector<VisitOp> input, weight;  // the backward in two: I and W (visit_split.cpp)
  std::vector<VisitOp> unshard;        // gathers of the whole stage, with residency window
  bool first = false, last = false;    // stage of the model
  int first_layer = 0, last_layer = 0;
  int batch = -1;   // slot: first and last stage read it
  int labels = -1;  // slot: with style nano_train the first stage sends them to the last one
  int in = -1;      // slot that is received before the forward; -1: first stage
  int out = -1;     // slot that is sent after it; -1: last stage
  int d_out = -1;   // slot that is received before the backward
  int d_in = -1;    // slot that is sent after it
};

// The visit of `stage` of the scenario's model (models.md 2.2, 4.2) with a slice of the sequences.
// In `backward` I and W of a segment stand side by side. `first` reads the tokens, `last` makes the
// loss. The slots of all slices are the same, so that a visit can name those of another slice.
[[nodiscard]] Visit stage_visit(Draft& draft, int program, int stage, int first_layer,
                                int num_layers, int slice);

}  // namespace tandem::lower
