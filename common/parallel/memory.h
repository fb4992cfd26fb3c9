// Memory of one rank in closed form: parameters, gradients and optimizer state in padded buckets;
// what a layer keeps between forward and backward; how many microbatches are open at once. The
// plan's allocations are the truth; tests/common/plan/goldens_test.cpp holds these forms to it.
//
//   symbols (models.md 1): n = b S tokens, X = n H, t tensor ranks, w bytes of an activation, s of
//   a statistic (8 in fp64, else 4); N = n s times 2 (LayerNorm: mean, rstd) or 1 (RMSNorm: rstd);
//   Q = n (a + 2 ak) dh/t w, G = n F/t w; bytes for one layer and one microbatch:
//     op      for I (saved_input)              for W (saved_weight)    I to W (grad_activation)
//     norm    X w + N, twice
//     qkv                                      X w                     Q
//     core    Q + flash  s b a/t S
//               else     w b a/t S S
//     o                                        n a dh/t w              X w
//     gpt     fc1 G                            X w                     G
//             fc2                              G                       X w
//     others  gate_up 2G                       X w                     2G
//             down                             G                       X w
//     MLA, instead of qkv and core (z = rq + rkv, Q = z + dr; P = n a/t (2(dn+dr) + dv) w):
//             latents                          X w                     n Q w
//             norms   n z w + 2 s n
//             q_b, kv_b                        n z w                   n a/t (2dn+dr+dv) w
//             core    P + stash
//     MoE, instead of gate_up and down (R rows of the rank's experts, A = n K, w rows of H):
//             router  s n E + 8 n K            X w                     s n E
//             experts 2 R Fe w                 (R H + R Fe) w          R (H + 2 Fe) w
//             combine A H w
//             shared  2 n Es Fe/t w            n Es Fe/t w             X w + 2 n Es Fe/t w
//   n is b S/c with context parallelism; flash then keeps s b a/t S/c. With slices of the sequence
//   n is b S/k, and all of it is of one slice: q, k and v of earlier slices stay as they are saved.
//   A layer that is computed again keeps k and v, n 2 ak dh/t w (MLA n a/t (dn+dr+dv) w), for them.
//   With sequence parallelism X becomes X/t in norm, qkv, latents, router and fc1, and n n/t in the
//   statistics, latents and router.
//   buckets      tensors in reverse order of use, one list for each type, each starting at a
//   multiple
//                of 64 elements; a bucket closes when its main gradients reach the limit, and is
//                padded to 64 g, g = size of the reducing group (models.md 4.4)
//   Source  models.md 2.7, 4.4 and 6. Zero 0; balanced routing. Pure and thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/base/units.h"
#include "common/model/dtype.h"
#include "common/model/parameters.h"
#include "common/scenario/scenario.h"

namespace tandem {

[[nodiscard]] PlanTypes plan_types(const Scenario& scenario);

struct SavedBytes {
  std::string_view name;
  Bytes for_input = 0, for_weight = 0, input_to_weight = 0;
};
// One layer, one microbatch, one rank; in forward order.
[[nodiscard]] std::vector<SavedBytes> layer_saved(const Scenario& scenario, int layer = 0);
[[nodiscard]] SavedBytes sum(const std::vector<SavedBytes>& ops);

// What stays of a layer at `place` (0, 1, ...) of its stage until its backward: all of that, or
// with recomputation its input and the choice of experts (full), or all but materialised
// probabilities (selective).
[[nodiscard]] SavedBytes layer_kept(const Scenario& scenario, int layer, int place);

// A parameter of one rank of pipeline coordinate `pp`: q, k and v are one (gate and up too), as
// they lie in one buffer.
struct LocalTensor {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;  // of the parameter
  bool tied = false;
  TensorClass cls = TensorClass::whole;
  int stage = 0, unit = 0;  // unit of ZeRO-3: embedding 0, layer l 1 + l, final norm with head
};
// In forward order. A stage's first layer is the sum of the stages before it.
[[nodiscard]] std::vector<LocalTensor> local_tensors(const Scenario& scenario, int pp);
// Elements of parameters of the rank, without padding; the tied embedding counts on both its ranks.
[[nodiscard]] std::int64_t local_parameters(const Scenario& scenario, int pp);

struct BucketSize {
  std::int64_t elements = 0;  // padded
  DType dtype = DType::f32;   // of the parameters in it
  bool tied = false;
  int members = 1;  // of the group that sums it
  int stage = 0;    // of its first tensor in forward order
  int first_unit = 0, last_unit = 0;
  std::vector<std::string> tensors;  // their names, in reverse order of use
};
// `zero` 0 to 2: what these levels have in common. 3: no bucket holds tensors of two units, and
// none is closed by its size.
[[nodiscard]] std::vector<BucketSize> bucket_sizes(const Scenario& scenario, int pp, int zero = 0);

struct StaticBytes {
  // optim: m, v, the main parameters of bf16 runs, and the biases of sigmoid routers; with
  // optimizer_barrier post_validated also main parameter, m and v of before, 12 B a parameter (24
  // in fp64 runs), and 64 B
  Bytes param = 0, grad = 0, optim = 0;
  [[nodiscard]] Bytes sum() const { return param + grad + optim; }
};
// What level `zero` holds, or would hold (models.md 6), without what is whole for a moment at
// levels 2 and 3 (gathered.h); g of each bucket's group.
[[nodiscard]] StaticBytes static_bytes(const Scenario& scenario, int pp, int zero = 0);

// Visits that are open on a rank (forward begun, backward not ended): gpipe m, 1f1b min(p-r, m),
// seq1f1b min(p-1-r+k, m k) slices. Nothing for other kinds of schedule:
// held.h follows their order.
[[nodiscard]] std::optional<int> open_visits(const Scenario& scenario, int pp);

// What is kept for visits, microbatches or slices of them, between forward and backward, `visits`
// of them open. With slices and recomputation at most: the last slice keeps no k and v.
struct KeptBytes {
  Bytes saved_input = 0, saved_weight = 0, logits = 0, batch = 0;
  Bytes comm = 0;  // of layers with experts: counts of rows, statistics of a balance loss
  // Of saved_weight what is gathered in I where it stands apart from W: latents of ql and kl with
  // SP.
  Bytes gone_with_input = 0;
  [[nodiscard]] Bytes sum() const { return saved_input + saved_weight + logits + batch + comm; }
};
[[nodiscard]] KeptBytes kept_bytes(const Scenario& scenario, int pp, int visits);
// Of one visit of a stage. The batch that the last of several stages reads during F is not in it.
[[nodiscard]] KeptBytes kept_of_visit(const Scenario& scenario, int stage);
// Tokens of a microbatch.
[[nodiscard]] Bytes batch_bytes(const Scenario& scenario);

// The greatest bytes of each class that lives only for a moment, for the cuts of a stage visit
// (plan_reference.md, "Lowering"); transient.cpp has the sums segment by segment. A receive posted
// ahead of its consumer adds X w to saved_input (act) or grad_activation (grad). A = n a dh/t w, Q
// and G as above, M = 2 G (gpt) or 3 G (llama), L = n Q w of latents, P = n a/t (2dn+dr+dv) w, D =
// 3 n Es Fe/t w + X w, U = R H w, V = R Fe w; SP: X1 = X/t:
//   activation       2 X w: the partial sum of attention beside that of the MLP; with SP the
//                    gathered input of a half beside its partial sum. MLA 2 L + P + X w (and kr
//                    without SP); experts U; shared 3 X w, with SP X1 w + 2 X w
//   grad_activation  max(2 X w + M, 4 X w + A + Q); in the last layer also 3 X w + M, with the
//                    gradient of the final norm. With SP (I = G or 2 G):
//                    2 X w + X1 w + max(M, I + X1 w, A + Q, Q + X1 w). MLA 3 X w + A + Q + P + 2 L,
//                    with SP X w + X1 w for 3 X w. Experts that receive rows: X1 w + s n E + 2 U +
//                    3 V, or X1 w for one U and V, with D; else A H w for one U, and 2 X w + D.
//                    Slices: beside that the gradients of k and v that wait for their slice, n 2 ak
//                    dh/t main for each layer and each slice but one
//   scratch          of the last stage: 3 s n and the loss; where gradients accumulate (m > 1,
//                    and not with ZeRO 2 and 3 that reduce every microbatch) the largest product
//                    of a W: in out main bytes; norm and clip coefficient; 8 each for the balance
//                    loss and the dropped assignments
//   comm             the 8 values of `metrics`; with context parallelism two blocks of k and v and
//                    two of their gradients: 2 n (2 ak dh/t) (w + main), MLA 2 n a/t (dn+dr+dv) ...
//                    Experts: 2 U, and 4 E for the choices of each layer, beside KeptBytes::comm
//   Recomputed layers add to `activation` what they keep otherwise, as long as a segment needs it.
// With ZeRO 2 and 3 the classes param_full and grad_full come and go too: gathered.h.
struct TransientBytes {
  Bytes activation = 0, grad_activation = 0, scratch = 0, comm = 0;
  Bytes carried = 0;  // slices: the part of grad_activation that outlives a backward
};
[[nodiscard]] TransientBytes transient_bytes(const Scenario& scenario, int pp);
// Whether the forms are this scenario's: not selective recomputation of materialised attention;
// with experts, latents or recomputation neither context parallelism nor mapping nano_train; with
// layers of experts no slices.
[[nodiscard]] bool has_transient_form(const Scenario& scenario);

// What recomputation makes again at once: the layer of the rank that has most (models.md 6).
[[nodiscard]] Bytes recompute_working_set(const Scenario& scenario, int pp);

// An upper bound of the bytes of the plan at any time: static, kept, and the transients of a
// forward or of a backward, whichever is more, with a recomputed layer's working set; and messages
// that are received ahead of their visit, of a pipeline two for each stage of the rank. The plan
// frees a layer's saved bytes while it goes backward, so the true peak lies below by less than the
// transients. Where has_transient_form() holds, I and W are one, and gathered.h has forms.
[[nodiscard]] Bytes peak_bound(const Scenario& scenario, int pp, int visits);
[[nodiscard]] Bytes peak_bound(const Scenario& scenario, int pp, const KeptBytes& kept);

}  // namespace tandem
