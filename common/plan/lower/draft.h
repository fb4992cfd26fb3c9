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
  std::int64_t tp = 1, cp = 1, dp = 1, pp = 1;
  std::int64_t micro_batch = 1, full_sequence = 1;  // S
  std::int64_t slices = 1;                          // k that a sequence is cut in, one a visit
  // Where tp cuts the heads a rank holds the positions of its cp coordinate, or of the visit's
  // slice: S / c or S / k; tokens: of a visit, b times that.
  std::int64_t sequence = 1, tokens = 1;
  bool sp = false;  // norms and residuals hold a slice of these positions
  std::int64_t own_sequence = 1, own_tokens = 1;  // of that slice; without SP all
  // Positions and tokens that a rank routes: the own ones; mapping nano_train cuts them out before
  // the router, and router and shared experts are whole on every tensor rank (models.md 4.5).
  std::int64_t moe_sequence = 1, moe_tokens = 1;
  bool nano = false;
  // The calls of style nano_train (models.md 7.1): each reduction covers one tensor, rows of
  // experts travel with labels, the last stage is sent its labels.
  bool nano_style = false;
  [[nodiscard]] bool slices_moe() const { return nano && tp > 1; }
  std::int64_t hidden = 1, head_dim = 1;
  std::int64_t heads = 1, kv_heads = 1;         // of this rank: a / t, ak / t
  std::int64_t attention = 1, kv = 1, qkv = 1;  // local widths: a*dh/t, ak*dh/t, their q, k, v
  std::int64_t ffn = 1;                         // local width F/t
  std::int64_t classes = 1, vocab = 1;          // local rows Vp/t; V
  bool vocab_cut = false;                       // embedding and head are split over tp
  std::int64_t kv_block = 1;  // width of k and v together: what a ring step sends for a token
  // latent attention: kv_rank 0 without it; widths of q_b's and kv_b's output on this rank
  std::int64_t q_rank = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0, v_dim = 0;
  std::int64_t latent_q = 0, latent_kv = 0;
  // routed and shared experts
  std::int64_t ep = 1, etp = 1, local_experts = 0, expert_ffn = 0, shared_ffn = 0;
  // Rows that come over ep, and, of all etp members together, rows of this rank's experts: balanced
  // number and bound. Their sources: (etp, ep) ranks.
  std::int64_t arrived_rows = 0, max_arrived_rows = 0, expert_rows = 0, max_expert_rows = 0;
  std::int64_t row_sources = 1;
  std::int64_t expert_capacity = 0, drop_slices = 1;  // of an expert and slice; 0: none is dropped
};
[[nodiscard]] Sizes sizes_of(const Scenario& scenario);

// One tensor of a program: parameter and main gradient.
struct Tensor {
  std::string name;
  Shape shape;  // local
  DType dtype = DType::f32;
  TensorClass cls = TensorClass::whole;
  SliceRule slice;
  BufferId param, grad;  // none where a gather, or each microbatch, makes its own
  int unit = 0;          // ZeRO-3: what is gathered at once: a layer, the embedding, the head
  int stage = 0;         // that it belongs to
  int bucket = -1;
  int num_buckets = 1;                // with style nano_train one for each tensor that lies in it
  std::int64_t offset = 0;            // of its first element in the bucket
  std::int64_t bucket_elements = 0;   // style nano_train: of its own bucket, where that is padded
  std::vector<BufferId> part_params;  // and windows of the parameter for these
};

// Parameters that are reduced and updated together (models.md 4.4). With ZeRO (models.md 4.6) the
// members of the group share it in equal parts of `elements`, shard i belongs to member i:
//   level 1   m, v and main parameters are shards; gradients are scattered in place
//   level 2   gradients too: `grad` is the shard, `grad_full` lives from the first W to the scatter
//   level 3   parameters too: `param` is the shard, a stage's visit gathers what it needs
struct Bucket {
  std::string name;  // "main", "tied"
  DType dtype = DType::f32;
  std::int64_t elements = 0;  // padded
  bool tied = false;          // the embedding's own
  std::string group;          // communicator that sums it ("dp", "stage")
  std::string tag;            // of that: "grad.dp"
  AxisSet axes;               // of the group
  std::int64_t members = 1;
  int zero = 0;             // level; 0 where the group has one member
  bool every = false;       // each microbatch scatters its own gradients (levels 2, 3)
  bool sums_whole = false;  // level 1 with an all-reduce (style nano_train)
  BufferId grad_full;       // levels 2 and 3 without `every`
  [[nodiscard]] std::int64_t shard() const { return zero > 0 ? elements / members : elements; }
  BufferId param, grad, main, m, v;  // main: bf16 runs only
  // optimizer_barrier post_validated: main parameter, m and v as they were before the last update.
  BufferId kept_main, kept_m, kept_v;
};

struct ProgramTensors {
  std::vector<Tensor> tensors;                             // in the order of their buckets
  std::map<std::string, std::size_t, std::less<>> places;  // of a tensor in the list, by name
  std::vector<Bucket> buckets;
  BufferId tied_head;  // main gradient of the head's part where embedding and head share a rank
  BufferId loss;       // on the program that holds the last stage
  // Of the layers with experts: sums of the step, and the buffer that sigmoid routers add.
  BufferId balance, dropped, all_choices;
  std::map<int, BufferId> choices_of, bias_of;  // by layer; choices: views of all_choices
  [[nodiscard]] BufferId choices(int layer) const { return choices_of.at(layer); }
  [[nodiscard]] BufferId router_bias(int layer) const { return bias_of.at(layer); }
  [[nodiscard]] const Tensor& at(std::string_view name) const;
};

// What a plan is for (build.h).
enum class PlanUse { training, evaluation, settling };

struct Draft {
  explicit Draft(const Scenario& s, PlanUse use = PlanUse::training)
      : scenario(s),
        evaluation(use == PlanUse::evaluation),
        settling(use == PlanUse::settling),
        sizes(sizes_of(s)) {}
  const Scenario& scenario;
  const bool evaluation;  // forward visits and their loss; no gradients, no optimizer state
  const bool settling;    // no visits; what lives for the run, and the update
  Sizes sizes;
  Order order;  // L1: after p2p it holds messages too
  Plan plan;    // tables and pools; its ops and programs come with finish()
  std::vector<std::vector<Op>> programs;  // by pipeline coordinate, in issue order; waits hold
                                          // positions in the list, not ids
  std::vector<ProgramTensors> tensors;    // by program
  // Position of the op that frees a buffer, where that is not the last one that uses it (streams).
  std::map<BufferId, std::int32_t> freed_by;

  // First and last stage share a rank, and with it one tied embedding: on a V, and where a second
  // copy of the model lies the other way round.
  [[nodiscard]] bool ties_on_one_rank() const {
    return scenario.model.tied_embeddings &&
           (order.num_dirs == 2 || order.stage_rank.front() == order.stage_rank.back());
  }
  // Whether a copy of the stage lies on the program's rank.
  [[nodiscard]] bool holds(int program, int stage) const {
    return order.rank_of(0, stage) == program ||
           (order.num_dirs == 2 && order.rank_of(1, stage) == program);
  }
  [[nodiscard]] bool validates_late() const {
    return !evaluation && scenario.schedule.optimizer_barrier == OptimizerBarrier::post_validated;
  }
  // Communicator of a program with the one that holds the same stages; invalid with one copy.
  [[nodiscard]] CommId copies_of(int program) const;
  // Visits of a stage: microbatches times slices.
  [[nodiscard]] int visits_of_stage() const {
    return order.total_microbatches() * order.num_slices;
  }
  // Ids of matches from here on are free: those before are of messages.
  [[nodiscard]] int first_match() const { return 2 * (order.num_stages() - 1) * visits_of_stage(); }
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
// By buffer. Passes over all ops look here, as at roots_of().
[[nodiscard]] inline std::vector<char> live_for_the_run(const Plan& plan) {
  std::vector<char> out(plan.buffers.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = lives_for_the_run(plan.buffers[i].cls);
  return out;
}

// --- L1 to L1 (schedules.md 4) -------------------------------------------------------------------
// Merges each I and the W behind it (option merge), and gives the first stage, whose inputs need no
// gradient, whole backwards at the place of its W (option first_stage: full_at_W).
[[nodiscard]] Order backward(const Order& order, bool merge, bool keep_first_stage);
// Adds UNSHARD and RESHARD of whole stages: those that are among the next `window` (>= 1) which the
// rank works on are there (option residency: window).
[[nodiscard]] Order unshard(const Order& order, int window);
// Adds REDUCE_GRAD of a stage right behind its last backward.
[[nodiscard]] Order reduce(const Order& order);
// Adds sends and receives by the sender-driven sweep, then places receives by the policy. Fails
// with the grid where the order cannot run (E-PLAN-002).
[[nodiscard]] Result<Order> p2p(const Order& order, Receive policy);

// --- L2, one step a file -------------------------------------------------------------------------
void stages(Draft& draft);     // header, communicators
void segments(Draft& draft);   // compute ops, reductions inside layers, messages, batches
void gradients(Draft& draft);  // reductions of buckets and of the tied embedding
void optimizer(Draft& draft);  // norm, clip, update, metrics; of an evaluation the metrics alone
// Optimizer_barrier post_validated, called by optimizer(): puts the ops that check the update of
// the step before into each program, `first` at its start and `check` at its cut
// (late_validation.h).
struct ValidationOps {
  std::vector<Op> first;
  Op check;
};
void validate_late(Draft& draft, std::vector<ValidationOps> ops);
void streams(Draft& draft);  // waits between streams
void buffers(Draft& draft);  // allocates, frees

// Match id of a sum over the two copies of a program's bucket; -1: of its experts' choices.
[[nodiscard]] int copy_match(const Draft& draft, std::size_t program, int bucket);

// Called by segments for each program: tensors in buckets, optimizer state.
void parameters(Draft& draft, int program);
// Instead of buckets, for style nano_train: a bucket for each tensor, in module order.
// `tensors` come in reverse order of use.
void tensor_buckets(Draft& draft, int program, std::vector<Tensor> tensors, ProgramTensors& out);

// Ids dense over the programs, pools in the order of the text. Takes the draft apart.
[[nodiscard]] Plan finish(Draft&& draft);

}  // namespace tandem::lower
