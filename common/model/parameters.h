// The parameters of a model: every tensor by name with its full shape and how tensor parallelism
// cuts it, and the same counts in closed form. Pure functions of the model alone: names, shapes and
// values never depend on the mesh (models.md, rule 2). What a rank holds: common/parallel/memory.h.
//
//   parameters of a layer (models.md 2.2; H hidden, F ffn_hidden, dh head_dim, a and ak heads)
//     gpt          4H^2 + 2HF + 9H + F   (a dh = H)
//     llama        2 H dh (a+ak) + 3HF + 2H
//     mixtral      2 H dh (a+ak) + HE + 3 E H Fe + 2H
//     deepseek_v3  MLA + 2H + (dense 3HF  or  HE + (E+Es) 3 H Fe)
//   outside        gpt VH + Smax H + 2H (untied: + VH);  others 2VH + H (tied: VH + H)
//   per token      of E routed experts only the K chosen ones
//   Source  models.md 2.2 and 2.3. Tests: tests/common/model/parameters_test.cpp.
// Counts are exact in 64 bits (checked). Everything here is pure and thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/shape.h"
#include "common/scenario/scenario.h"

namespace tandem {

// What fixes the tensors of a model, in full numbers.
struct ModelShape {
  ModelFamily family = ModelFamily::gpt;
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int ffn_hidden = 0, vocab = 0, max_sequence = 0;
  bool tied = true;
  MoeSpec moe;
  MlaSpec mla;
  // Width of q and k of one head, and of v.
  [[nodiscard]] int qk_dim() const {
    return mla.kv_rank > 0 ? mla.nope_dim + mla.rope_dim : head_dim;
  }
  [[nodiscard]] int v_dim() const { return mla.kv_rank > 0 ? mla.v_dim : head_dim; }
  [[nodiscard]] bool is_moe(int layer) const {
    return moe.experts > 0 && layer >= moe.dense_first &&
           (layer - moe.dense_first) % moe.every == 0;
  }
};
[[nodiscard]] ModelShape model_shape(const ModelSpec& spec);

// How a tensor is stored over the ranks of a stage (models.md 4.2 and 4.8).
enum class TensorClass : std::uint8_t {
  tp_cut,         // each tensor rank holds a slice of dimension `cut_dim`
  whole,          // equal on all tensor ranks
  tied,           // the tied embedding: tp_cut, and held by the first and the last stage
  router,         // whole, but its gradient is of the router's own class
  routed_expert,  // lies on one expert rank
};
[[nodiscard]] std::string_view name_of(TensorClass c);

enum class Module : std::uint8_t { embedding, attention, mlp, router, experts, shared, norm, head };
inline constexpr int kNumModules = 8;
[[nodiscard]] std::string_view name_of(Module m);

struct Tensor {
  std::string name;  // "layers.0.attn.q.weight": key of initial values, checkpoints, reports
  Shape shape;       // full; weights are [out, in]
  TensorClass cls = TensorClass::whole;
  Module module = Module::embedding;
  int layer = -1;    // -1: outside the layers
  int cut_dim = -1;  // of tp_cut and tied: 0 rows, 1 columns
};

// All tensors, in the order of the forward pass. The router's bias is a buffer, not a parameter.
[[nodiscard]] std::vector<Tensor> parameter_tensors(const ModelShape& model);

// Closed forms of the table above.
[[nodiscard]] std::int64_t layer_parameters(const ModelShape& model, int layer);
[[nodiscard]] std::int64_t parameter_count(const ModelShape& model);
// Parameters one token uses: K routed experts, and everything else.
[[nodiscard]] std::int64_t parameters_per_token(const ModelShape& model);
// Pmm of the model FLOPs (models.md 2.7): matrix parameters one token is multiplied with; router,
// head, K experts and shared experts in; embedding, positions, norms and biases out.
[[nodiscard]] std::int64_t matrix_parameters_per_token(const ModelShape& model);

}  // namespace tandem
