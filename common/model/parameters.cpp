// Lists the tensors of each family in forward order; the closed forms stand beside them, written
// independently, so that a test can hold one to the other.
#include "common/model/parameters.h"

#include <fmt/format.h>

#include <array>

#include "common/base/check.h"
#include "common/base/units.h"

namespace tandem {
namespace {

using I = std::int64_t;

class List {
 public:
  explicit List(const ModelShape& model) : m_(model) {}
  std::vector<Tensor> all() {
    const TensorClass embed = m_.tied ? TensorClass::tied : TensorClass::tp_cut;
    add("embed.weight", {m_.vocab, m_.hidden}, embed, Module::embedding, 0);
    if (m_.family == ModelFamily::gpt)
      add("pos_embed.weight", {m_.max_sequence, m_.hidden}, TensorClass::whole, Module::embedding);
    for (layer_ = 0; layer_ < m_.layers; ++layer_) {
      norm("norm1");
      attention();
      norm("norm2");
      ffn();
    }
    layer_ = -1;
    norm("final_norm");
    if (!m_.tied) add("head.weight", {m_.vocab, m_.hidden}, TensorClass::tp_cut, Module::head, 0);
    return std::move(list_);
  }

 private:
  void add(const std::string& name, Shape shape, TensorClass cls, Module module, int cut = -1) {
    Tensor t;
    t.name = layer_ < 0 ? name : fmt::format("layers.{}.{}", layer_, name);
    t.shape = shape;
    t.cls = cls;
    t.module = module;
    t.layer = layer_;
    t.cut_dim = cut;
    list_.push_back(std::move(t));
  }
  // Output rows cut: the bias is cut with them.
  void rows(const std::string& name, I out, I in, Module module, bool bias) {
    add(name + ".weight", {out, in}, TensorClass::tp_cut, module, 0);
    if (bias) add(name + ".bias", {out}, TensorClass::tp_cut, module, 0);
  }
  // Input columns cut: the output is a partial sum, the bias is added once after its reduction.
  void columns(const std::string& name, I out, I in, Module module, bool bias) {
    add(name + ".weight", {out, in}, TensorClass::tp_cut, module, 1);
    if (bias) add(name + ".bias", {out}, TensorClass::whole, module);
  }
  void norm(const std::string& name) {
    add(name + ".weight", {m_.hidden}, TensorClass::whole, Module::norm);
    if (m_.family == ModelFamily::gpt)
      add(name + ".bias", {m_.hidden}, TensorClass::whole, Module::norm);
  }
  void attention() {
    const I h = m_.hidden, a = m_.heads;
    const MlaSpec& x = m_.mla;
    if (x.kv_rank == 0) {
      const bool bias = m_.family == ModelFamily::gpt;
      const I q = a * m_.head_dim, kv = I{m_.kv_heads} * m_.head_dim;
      rows("attn.q", q, h, Module::attention, bias);
      rows("attn.k", kv, h, Module::attention, bias);
      rows("attn.v", kv, h, Module::attention, bias);
      columns("attn.o", h, q, Module::attention, bias);
      return;
    }
    const I qk = a * m_.qk_dim();
    if (x.q_rank > 0) {
      add("attn.q_a.weight", {x.q_rank, h}, TensorClass::whole, Module::attention);
      add("attn.q_norm.weight", {x.q_rank}, TensorClass::whole, Module::norm);
      rows("attn.q_b", qk, x.q_rank, Module::attention, false);
    } else {
      rows("attn.q", qk, h, Module::attention, false);
    }
    add("attn.kv_a.weight", {x.kv_rank + x.rope_dim, h}, TensorClass::whole, Module::attention);
    add("attn.kv_norm.weight", {x.kv_rank}, TensorClass::whole, Module::norm);
    rows("attn.kv_b", a * (x.nope_dim + x.v_dim), x.kv_rank, Module::attention, false);
    columns("attn.o", h, a * x.v_dim, Module::attention, false);
  }
  void ffn() {
    const I h = m_.hidden, f = m_.ffn_hidden;
    if (m_.family == ModelFamily::gpt) {
      rows("mlp.fc1", f, h, Module::mlp, true);
      columns("mlp.fc2", h, f, Module::mlp, true);
    } else if (!m_.is_moe(layer_)) {
      swiglu("mlp", f, Module::mlp);
    } else {
      add("moe.router.weight", {m_.moe.experts, h}, TensorClass::router, Module::router);
      for (int j = 0; j < m_.moe.experts; ++j) expert(j);
      if (m_.moe.shared_experts > 0)
        swiglu("moe.shared", I{m_.moe.shared_experts} * m_.moe.expert_hidden, Module::shared);
    }
  }
  void swiglu(const std::string& name, I width, Module module) {
    rows(name + ".gate", width, m_.hidden, module, false);
    rows(name + ".up", width, m_.hidden, module, false);
    columns(name + ".down", m_.hidden, width, module, false);
  }
  void expert(int j) {
    const I h = m_.hidden, fe = m_.moe.expert_hidden;
    const std::string name = fmt::format("moe.experts.{}", j);
    add(name + ".gate.weight", {fe, h}, TensorClass::routed_expert, Module::experts, 0);
    add(name + ".up.weight", {fe, h}, TensorClass::routed_expert, Module::experts, 0);
    add(name + ".down.weight", {h, fe}, TensorClass::routed_expert, Module::experts, 1);
  }

  const ModelShape& m_;
  int layer_ = -1;
  std::vector<Tensor> list_;
};

// One layer by its formula; `experts` of the routed ones are counted.
I layer_formula(const ModelShape& m, int layer, I experts) {
  const I h = m.hidden, f = m.ffn_hidden, a = m.heads, ad = a * m.head_dim;
  if (m.family == ModelFamily::gpt)  // ad = H: 4H^2 + 2HF + 9H + F
    return 4 * h * ad + 3 * ad + 2 * h * f + 6 * h + f;
  const MlaSpec& x = m.mla;
  I attention = 2 * h * m.head_dim * (a + m.kv_heads);
  if (x.kv_rank > 0) {
    const I qk = x.nope_dim + x.rope_dim;
    const I query = x.q_rank > 0 ? h * x.q_rank + x.q_rank + x.q_rank * a * qk : h * a * qk;
    attention = query + h * (x.kv_rank + x.rope_dim) + x.kv_rank +
                x.kv_rank * a * (x.nope_dim + x.v_dim) + a * x.v_dim * h;
  }
  const I moe = h * m.moe.experts + (experts + m.moe.shared_experts) * 3 * h * m.moe.expert_hidden;
  return attention + 2 * h + (m.is_moe(layer) ? moe : 3 * h * f);
}

I total(const ModelShape& m, I experts) {
  const I h = m.hidden, v = m.vocab;
  I sum = m.family == ModelFamily::gpt ? v * h + I{m.max_sequence} * h + 2 * h : v * h + h;
  if (!m.tied) sum += v * h;
  for (int i = 0; i < m.layers; ++i) sum = checked_add(sum, layer_formula(m, i, experts));
  return sum;
}

}  // namespace

ModelShape model_shape(const ModelSpec& spec) {
  ModelShape m;
  m.family = spec.family;
  m.layers = spec.layers;
  m.hidden = spec.hidden;
  m.heads = spec.heads;
  m.kv_heads = spec.kv_heads;
  m.head_dim = spec.head_dim;
  m.ffn_hidden = spec.ffn_hidden;
  m.vocab = spec.vocab;
  m.max_sequence = spec.max_sequence;
  m.tied = spec.tied_embeddings;
  m.moe = spec.moe;
  m.mla = spec.mla;
  return m;
}

std::string_view name_of(TensorClass c) {
  static constexpr std::array<std::string_view, 5> kNames = {"tp_cut", "whole", "tied", "router",
                                                             "routed_expert"};
  return kNames[static_cast<std::size_t>(c)];
}

std::string_view name_of(Module m) {
  static constexpr std::array<std::string_view, kNumModules> kNames = {
      "embedding", "attention", "mlp", "router", "experts", "shared", "norm", "head"};
  return kNames[static_cast<std::size_t>(m)];
}

std::vector<Tensor> parameter_tensors(const ModelShape& model) { return List(model).all(); }

std::int64_t layer_parameters(const ModelShape& model, int layer) {
  TANDEM_CHECK(layer >= 0 && layer < model.layers, "layer {} of {}", layer, model.layers);
  return layer_formula(model, layer, model.moe.experts);
}

std::int64_t parameter_count(const ModelShape& model) { return total(model, model.moe.experts); }

std::int64_t parameters_per_token(const ModelShape& model) { return total(model, model.moe.top_k); }

std::int64_t matrix_parameters_per_token(const ModelShape& m) {
  const I h = m.hidden, f = m.ffn_hidden;
  I sum = I{m.vocab} * h;  // the head, tied or not
  for (int i = 0; i < m.layers; ++i) {
    // A layer less its vectors: norms, and biases where the family has them.
    I vectors = 2 * h;
    if (m.family == ModelFamily::gpt)
      vectors = 3 * I{m.heads} * m.head_dim + 6 * h + f;  // biases of q, k, v; norms, o, fc2; fc1
    else if (m.mla.kv_rank > 0)
      vectors += m.mla.q_rank + m.mla.kv_rank;
    sum = checked_add(sum, layer_formula(m, i, m.moe.top_k) - vectors);
  }
  return sum;
}

}  // namespace tandem
