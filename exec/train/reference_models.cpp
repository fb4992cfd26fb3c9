// A family has its embedding, norm, attention and feed-forward; block, loss and softmax attention
// are written once. Mixtral is Llama with experts, DeepSeek-V3 that with latent attention.
#include "exec/train/reference_models.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "exec/train/reference_moe.h"

namespace tandem::exec {
namespace {

using at::Tensor;

class Model : public ReferenceModel {
 public:
  Model(const TrainingConfig& config, Parameters& parameters) : c_(config), p_(parameters) {}

  ReferenceLoss loss(const Tensor& tokens) override {
    balance_ = at::zeros({}, at::kDouble);
    const Tensor inputs = tokens.slice(1, 0, c_.sequence);
    const Tensor labels = tokens.slice(1, 1, c_.sequence + 1).reshape({-1});
    Tensor h = embed(inputs);
    for (int i = 0; i < c_.layers; ++i) {
      const std::string name = fmt::format("layers.{}.", i);
      h = h + attention(norm(h, name + "norm1"), name + "attn.");
      h = h + feed_forward(norm(h, name + "norm2"), name, i);
    }
    h = norm(h, "final_norm");
    const Tensor logits = at::linear(h, w(c_.tied_embeddings ? "embed" : "head"));
    const Tensor log_p = at::log_softmax(logits.reshape({-1, c_.vocab}), -1);
    const double divisor = static_cast<double>(c_.global_batch) * c_.sequence;
    return {-log_p.gather(1, labels.unsqueeze(1)).sum() / divisor, balance_};
  }

 protected:
  virtual Tensor embed(const Tensor& inputs) = 0;
  virtual Tensor norm(const Tensor& x, const std::string& name) = 0;
  virtual Tensor attention(const Tensor& x, const std::string& name) = 0;
  virtual Tensor feed_forward(const Tensor& x, const std::string& layer_name, int layer) = 0;

  Tensor& w(const std::string& name) { return p_.at(name + ".weight"); }
  Tensor& b(const std::string& name) { return p_.at(name + ".bias"); }
  // [b, S, heads * width] as [b, heads, S, width].
  static Tensor heads(const Tensor& x, int count) {
    return x.view({x.size(0), x.size(1), count, -1}).transpose(1, 2);
  }
  // Causal softmax(q k^T / sqrt(width of q)) v; equal numbers of heads. To [b, S, heads * width].
  static Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) {
    const std::int64_t sequence = q.size(2);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    const Tensor hidden =
        at::ones({sequence, sequence}, at::TensorOptions().dtype(at::kBool)).triu(1);
    const Tensor scores = at::matmul(q, k.transpose(-2, -1)) * scale;
    const Tensor probs =
        at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
    return at::matmul(probs, v).transpose(1, 2).flatten(2);
  }

  const TrainingConfig& c_;
  Parameters& p_;
  Tensor balance_;  // of the microbatch so far
};

class Gpt final : public Model {
 public:
  using Model::Model;

 private:
  Tensor embed(const Tensor& inputs) override {
    return at::embedding(w("embed"), inputs) + w("pos_embed").slice(0, 0, c_.sequence);
  }
  Tensor linear(const Tensor& x, const std::string& name) {
    return at::linear(x, w(name), b(name));
  }
  Tensor norm(const Tensor& x, const std::string& name) override {
    return at::layer_norm(x, {c_.hidden}, w(name), b(name), c_.norm_eps);
  }
  Tensor attention(const Tensor& x, const std::string& name) override {
    const Tensor q = heads(linear(x, name + "q"), c_.heads),
                 k = heads(linear(x, name + "k"), c_.heads),
                 v = heads(linear(x, name + "v"), c_.heads);
    return linear(attend(q, k, v), name + "o");
  }
  Tensor feed_forward(const Tensor& x, const std::string& name, int) override {
    const Tensor inner = at::gelu(linear(x, name + "mlp.fc1"), c_.gelu_tanh ? "tanh" : "none");
    return linear(inner, name + "mlp.fc2");
  }
};

class Llama : public Model {
 public:
  using Model::Model;

 protected:
  Tensor embed(const Tensor& inputs) override { return at::embedding(w("embed"), inputs); }
  Tensor norm(const Tensor& x, const std::string& name) override {
    return x * (x.pow(2).mean(-1, true) + c_.norm_eps).rsqrt() * w(name);
  }
  // [b, heads, S, width]: pairs (i, i + width/2) turn by position * base^(-2i/width).
  Tensor rotated(const Tensor& x) {
    const std::int64_t half = x.size(-1) / 2;
    const auto real = at::TensorOptions().dtype(at::kDouble);
    const Tensor rate = at::pow(c_.rope_base, at::arange(half, real) / -static_cast<double>(half));
    const Tensor angle = at::outer(at::arange(x.size(2), real), rate);  // [S, width/2]
    const Tensor cos = angle.cos(), sin = angle.sin();
    const Tensor first = x.slice(-1, 0, half), second = x.slice(-1, half);
    return at::cat({first * cos - second * sin, second * cos + first * sin}, -1);
  }
  // Every key/value head as often as heads share it.
  Tensor shared(const Tensor& x) { return x.repeat_interleave(c_.heads / kv_heads_of(c_), 1); }
  Tensor attention(const Tensor& x, const std::string& name) override {
    const int kv = kv_heads_of(c_);
    const Tensor q = rotated(heads(at::linear(x, w(name + "q")), c_.heads)),
                 k = rotated(heads(at::linear(x, w(name + "k")), kv)),
                 v = heads(at::linear(x, w(name + "v")), kv);
    return at::linear(attend(q, shared(k), shared(v)), w(name + "o"));
  }
  Tensor swiglu(const Tensor& x, const std::string& name) {
    const Tensor gate = at::linear(x, w(name + "gate")), up = at::linear(x, w(name + "up"));
    return at::linear(gate * at::sigmoid(gate) * up, w(name + "down"));
  }
  Tensor feed_forward(const Tensor& x, const std::string& name, int) override {
    return swiglu(x, name + "mlp.");
  }
};

class Mixtral : public Llama {
 public:
  Mixtral(const TrainingConfig& config, Parameters& parameters, RouterState& routers)
      : Llama(config, parameters), shape_(model_shape(config)), routers_(routers) {
    for (int i = 0; i < config.layers; ++i) {
      if (!shape_.is_moe(i)) continue;
      routers_.bias[i] = at::zeros({config.moe.experts}, at::kDouble);
      routers_.choices[i].assign(static_cast<std::size_t>(config.moe.experts), 0);
    }
  }

 private:
  Tensor feed_forward(const Tensor& x, const std::string& name, int layer) override {
    if (!shape_.is_moe(layer)) return swiglu(x, name + "mlp.");
    const std::string moe = name + "moe.";
    const Tensor y = routed(x, moe, layer);
    return c_.moe.shared_experts > 0 ? y + swiglu(x, moe + "shared.") : y;
  }
  // Every expert takes the tokens whose assignment was kept, times their weight.
  Tensor routed(const Tensor& x, const std::string& name, int layer) {
    const MoeSpec& moe = c_.moe;
    const Tensor scores = router_scores(at::linear(x, w(name + "router")), moe);  // [b, S, E]
    const Tensor& bias = routers_.bias.at(layer);
    Tensor choice = choose_experts(scores, bias, moe);
    if (routers_.replay) choice = routers_.replay->choice(layer, scores.detach() + bias, choice);
    const Tensor weights = routing_weights(scores, choice, moe);
    Tensor kept = kept_assignments(choice, weights, moe, c_.cp);
    if (routers_.replay) kept = routers_.replay->kept(layer, choice, weights, kept);
    record(choice, kept, layer);
    const bool by_sequence = moe.scope == BalanceScope::sequence;
    const int scopes = by_sequence ? c_.global_batch : c_.global_batch / c_.micro_batch;
    balance_ = balance_ + balance_loss(scores, choice, moe) / scopes;
    const Tensor rows = x.flatten(0, 1);
    Tensor out = at::zeros_like(rows);
    for (int j = 0; j < moe.experts; ++j) {
      const Tensor taken = at::logical_and(choice.eq(j), kept);           // [b, S, K]
      const Tensor weight = (weights * taken).sum(-1).flatten();          // [b*S]
      const Tensor index = taken.any(-1).flatten().nonzero().squeeze(1);  // of its tokens
      const Tensor y = swiglu(rows.index_select(0, index), fmt::format("{}experts.{}.", name, j));
      out = out.index_add(0, index, y * weight.index_select(0, index).unsqueeze(1));
    }
    return out.view(x.sizes());
  }
  void record(const Tensor& choice, const Tensor& kept, int layer) {
    const Tensor counts = choice_counts(choice, c_.moe);
    std::vector<std::int64_t>& sum = routers_.choices.at(layer);
    for (std::size_t i = 0; i < sum.size(); ++i)
      sum[i] += counts[static_cast<std::int64_t>(i)].item<std::int64_t>();
    routers_.dropped += kept.numel() - kept.sum().item<std::int64_t>();
  }

  const ModelShape shape_;
  RouterState& routers_;
};

class DeepseekV3 final : public Mixtral {
 public:
  using Mixtral::Mixtral;

 private:
  // models.md 2.3: queries, keys and values from narrow latents; one rope key for all heads.
  Tensor attention(const Tensor& x, const std::string& name) override {
    const MlaSpec& m = c_.mla;
    const Tensor query =
        m.q_rank == 0
            ? at::linear(x, w(name + "q"))
            : at::linear(norm(at::linear(x, w(name + "q_a")), name + "q_norm"), w(name + "q_b"));
    const Tensor z = at::linear(x, w(name + "kv_a"));
    const Tensor kv_latent = norm(z.slice(-1, 0, m.kv_rank), name + "kv_norm");
    const Tensor key_rope = rotated(z.slice(-1, m.kv_rank).unsqueeze(1));  // [b, 1, S, dr]
    const Tensor kv = heads(at::linear(kv_latent, w(name + "kv_b")), c_.heads);
    const Tensor q = heads(query, c_.heads);  // nope before rope
    const Tensor q_all =
        at::cat({q.slice(-1, 0, m.nope_dim), rotated(q.slice(-1, m.nope_dim))}, -1);
    const Tensor k_all =
        at::cat({kv.slice(-1, 0, m.nope_dim), key_rope.expand({-1, c_.heads, -1, -1})}, -1);
    return at::linear(attend(q_all, k_all, kv.slice(-1, m.nope_dim)), w(name + "o"));
  }
};

}  // namespace

std::unique_ptr<ReferenceModel> make_reference_model(const TrainingConfig& config,
                                                     Parameters& parameters, RouterState& routers) {
  switch (model_shape(config).family) {
    case ModelFamily::gpt:
      return std::make_unique<Gpt>(config, parameters);
    case ModelFamily::llama:
      return std::make_unique<Llama>(config, parameters);
    case ModelFamily::mixtral:
      return std::make_unique<Mixtral>(config, parameters, routers);
    case ModelFamily::deepseek_v3:
      return std::make_unique<DeepseekV3>(config, parameters, routers);
  }
  return nullptr;
}

}  // namespace tandem::exec
