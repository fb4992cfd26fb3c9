// The plan while it is being lowered: tables as in Plan, and one growing list of ops a program. The
// steps of lower/ fill it in the order of build.cpp; finish() makes the Plan of it.
// docs/plan_reference.md, "Lowering", says what each step does.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/model/parameters.h"
#include "common/plan/plan.h"
#include "common/scenario/scenario.h"
#include "common/schedule/order.h"

namespace tandem::lower {

// Sizes of the model on one rank (symbols of models.md 1), all from the scenario.
struct Sizes {
  std::int64_t tp = 1, dp = 1, pp = 1;
  std::int64_t micro_batch = 1, sequence = 1, tokens = 1;  // tokens of a microbatch: b * S
  bool sp = false;  // norms and residuals hold a slice of the positions
  std::int64_t own_sequence = 1, own_tokens = 1;  // of that slice; without SP all
  std::int64_t hidden = 1, head_dim = 1;
  std::int64_t heads = 1, kv_heads = 1;         // of this rank: a / t, ak / t
  std::int64_t attention = 1, kv = 1, qkv = 1;  // local widths: a*dh/t, ak*dh/t, their q, k, v
  std::int64_t ffn = 1;                         // local width F/t
  std::int64_t classes = 1, vocab = 1;          // local rows Vp/t; V
  bool vocab_cut = false;                       // embedding and head are split over tp
};
[[nodiscard]] Sizes sizes_of(const Scenario& scenario);

// One tensor of a program: parameter and main gradient.
struct Tensor {
  std::string name;
  Shape shape;  // local
  DType dtype = DType::f32;
  TensorClass cls = TensorClass::whole;
  SliceRule slice;
  BufferId param, grad;
  int bucket = -1;
};

// Parameters that are reduced and updated together (models.md 4.4).
struct Bucket {
  std::string name;  // "main", "tied"
  DType dtype = DType::f32;
  std::int64_t elements = 0;         // padded
  bool tied = false;                 // the embedding's own
  std::string group;                 // communicator that sums it ("dp", "stage")
  std::string tag;                   // of that: "grad.dp"
  std::int64_t members = 1;          // of the group
  BufferId param, grad, main, m, v;  // main: bf16 runs only
};

struct ProgramTensors {
  std::vector<Tensor> tensors;                             // in the order of their buckets
  std::map<std::string, std::size_t, std::less<>> places;  // of a tensor in the list, by name
  std::vector<Bucket> buckets;
  BufferId tied_head;  // main gradient of the head's part where embedding and head share a rank
  BufferId loss;       // on the program that holds the last stage
  [[nodiscard]] const Tensor& at(std::string_view name) const;
};

struct Draft {
  explicit Draft(const Scenario& s) : scenario(s), sizes(sizes_of(s)) {}
  const Scenario& scenario;
  Sizes sizes;
  Order order;  // L1: after p2p it holds messages too
  Plan plan;    // tables and pools; its ops and programs come with finish()
  std::vector<std::vector<Op>> programs;  // by pipeline coordinate, in issue order; waits hold
                                          // positions in the list, not ids
  std::vector<ProgramTensors> tensors;    // by program

  [[nodiscard]] std::uint32_t name(std::string_view text);
  [[nodiscard]] StreamId stream(std::string_view text);
  [[nodiscard]] KernelId kernel(const Kernel& k);
  // Invalid where the communicator would have one member: such an op is left out.
  [[nodiscard]] CommId comm(std::string_view text) const;
  [[nodiscard]] BufferId add(Buffer b);
  [[nodiscard]] Range refs(const std::vector<OpId>& ids);
  [[nodiscard]] Range refs(const std::vector<BufferId>& ids);
  [[nodiscard]] Range operands(const std::vector<OperandRef>& list);

 private:
  std::map<std::string, std::uint32_t, std::less<>> name_ids_;
  std::map<std::string, StreamId, std::less<>> stream_ids_;
};

// Buffers that live for the whole run, whoever uses them.
[[nodiscard]] constexpr bool lives_for_the_run(BufferClass c) {
  return c == BufferClass::param || c == BufferClass::grad || c == BufferClass::optim;
}

// --- L1 to L1 (schedules.md 4) -------------------------------------------------------------------
// Adds REDUCE_GRAD of a stage right behind its last backward.
[[nodiscard]] Order reduce(const Order& order);
// Adds sends and receives by the sender-driven sweep, then places receives by the policy. Fails
// with the grid where the order cannot run (E-PLAN-002).
[[nodiscard]] Result<Order> p2p(const Order& order, Receive policy);

// --- L2, one step a file -------------------------------------------------------------------------
void stages(Draft& draft);     // header, communicators
void segments(Draft& draft);   // compute ops, reductions inside layers, messages, batches
void gradients(Draft& draft);  // reductions of buckets and of the tied embedding
void optimizer(Draft& draft);  // norm, clip, update, metrics
void streams(Draft& draft);    // waits between streams
void buffers(Draft& draft);    // allocates, frees

// Called by segments for each program: tensors in buckets, optimizer state.
void parameters(Draft& draft, int program);

// Ids dense over the programs, pools in the order of the text.
[[nodiscard]] Plan finish(const Draft& draft);

}  // namespace tandem::lower
