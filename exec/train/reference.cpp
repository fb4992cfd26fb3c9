#include "exec/train/reference.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <memory>

#include "exec/train/data.h"
#include "exec/train/init.h"

namespace tandem::exec {
namespace {

using Parameters = std::map<std::string, at::Tensor>;
using at::Tensor;

// The models of models.md 2.2, batch first, as a textbook writes them. A family has its embedding,
// norm and block; loss and attention are written once.
class Model {
 public:
  Model(const TrainingConfig& config, Parameters& parameters) : c_(config), p_(parameters) {}
  virtual ~Model() = default;

  // Sum of cross-entropies over the tokens i64[b, S+1], divided by `divisor`.
  Tensor loss(const Tensor& tokens, double divisor) {
    const Tensor inputs = tokens.slice(1, 0, c_.sequence);
    const Tensor labels = tokens.slice(1, 1, c_.sequence + 1).reshape({-1});
    Tensor h = embed(inputs);
    for (int i = 0; i < c_.layers; ++i) h = block(h, fmt::format("layers.{}", i));
    h = norm(h, "final_norm");
    const Tensor logits = at::linear(h, w(c_.tied_embeddings ? "embed" : "head"));
    const Tensor log_p = at::log_softmax(logits.reshape({-1, c_.vocab}), -1);
    return -log_p.gather(1, labels.unsqueeze(1)).sum() / divisor;
  }

 protected:
  virtual Tensor embed(const Tensor& inputs) = 0;
  virtual Tensor norm(const Tensor& x, const std::string& name) = 0;
  virtual Tensor block(const Tensor& h, const std::string& name) = 0;

  Tensor& w(const std::string& name) { return p_.at(name + ".weight"); }
  Tensor& b(const std::string& name) { return p_.at(name + ".bias"); }
  // [b, S, heads * dh] as [b, heads, S, dh].
  Tensor heads(const Tensor& x, int count) {
    return x.view({x.size(0), x.size(1), count, head_dim_of(c_)}).transpose(1, 2);
  }
  // Causal; equal numbers of heads. Back to [b, S, heads * dh].
  Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim_of(c_)));
    const Tensor hidden =
        at::ones({c_.sequence, c_.sequence}, at::TensorOptions().dtype(at::kBool)).triu(1);
    const Tensor scores = at::matmul(q, k.transpose(-2, -1)) * scale;
    const Tensor probs =
        at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
    return at::matmul(probs, v).transpose(1, 2).reshape(
        {q.size(0), q.size(2), q.size(1) * q.size(3)});
  }

  const TrainingConfig& c_;
  Parameters& p_;
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
  Tensor block(const Tensor& h, const std::string& name) override {
    const Tensor x = norm(h, name + ".norm1");
    const Tensor q = heads(linear(x, name + ".attn.q"), c_.heads),
                 k = heads(linear(x, name + ".attn.k"), c_.heads),
                 v = heads(linear(x, name + ".attn.v"), c_.heads);
    const Tensor mid = h + linear(attention(q, k, v), name + ".attn.o");
    const Tensor inner = at::gelu(linear(norm(mid, name + ".norm2"), name + ".mlp.fc1"),
                                  c_.gelu_tanh ? "tanh" : "none");
    return mid + linear(inner, name + ".mlp.fc2");
  }
};

class Llama final : public Model {
 public:
  using Model::Model;

 private:
  Tensor embed(const Tensor& inputs) override { return at::embedding(w("embed"), inputs); }
  Tensor norm(const Tensor& x, const std::string& name) override {
    return x * (x.pow(2).mean(-1, true) + c_.norm_eps).rsqrt() * w(name);
  }
  // [b, heads, S, dh]: pairs (i, i + dh/2) turn by position * base^(-2i/dh).
  Tensor rotated(const Tensor& x) {
    const std::int64_t half = x.size(-1) / 2;
    const auto real = at::TensorOptions().dtype(at::kDouble);
    const Tensor rate = at::pow(c_.rope_base, at::arange(half, real) / -static_cast<double>(half));
    const Tensor angle = at::outer(at::arange(c_.sequence, real), rate);  // [S, dh/2]
    const Tensor cos = angle.cos(), sin = angle.sin();
    const Tensor first = x.slice(-1, 0, half), second = x.slice(-1, half);
    return at::cat({first * cos - second * sin, second * cos + first * sin}, -1);
  }
  // Every key/value head as often as heads share it.
  Tensor shared(const Tensor& x) { return x.repeat_interleave(c_.heads / kv_heads_of(c_), 1); }
  Tensor block(const Tensor& h, const std::string& name) override {
    const int kv = kv_heads_of(c_);
    const Tensor x = norm(h, name + ".norm1");
    const Tensor q = rotated(heads(at::linear(x, w(name + ".attn.q")), c_.heads)),
                 k = rotated(heads(at::linear(x, w(name + ".attn.k")), kv)),
                 v = heads(at::linear(x, w(name + ".attn.v")), kv);
    const Tensor mid = h + at::linear(attention(q, shared(k), shared(v)), w(name + ".attn.o"));
    const Tensor y = norm(mid, name + ".norm2");
    const Tensor gate = at::linear(y, w(name + ".mlp.gate")),
                 up = at::linear(y, w(name + ".mlp.up"));
    return mid + at::linear(gate * at::sigmoid(gate) * up, w(name + ".mlp.down"));
  }
};

std::unique_ptr<Model> model_of(const TrainingConfig& config, Parameters& parameters) {
  if (config.family == "llama") return std::make_unique<Llama>(config, parameters);
  return std::make_unique<Gpt>(config, parameters);
}

Parameters initial(const TrainingConfig& config) {
  Parameters out;
  for (const auto& [name, shape] : parameter_shapes(config)) {
    const auto [rows, columns] = shape;
    const bool vector =
        columns == 1 && (name.ends_with(".bias") || name.find("norm") != std::string::npos);
    Tensor t = vector ? at::empty({rows}, at::kDouble) : at::empty({rows, columns}, at::kDouble);
    double* p = t.mutable_data_ptr<double>();
    const bool rounded = config.precision != "fp64";
    Shard whole{name, rows, columns, 0, rows, 0, columns, 0, columns};
    fill_block(config, whole, [&](std::int64_t i, double x) {
      p[i] = rounded ? static_cast<double>(static_cast<float>(x)) : x;
    });
    t.requires_grad_(true);
    out[name] = std::move(t);
  }
  return out;
}

FullTensor copy_of(const Tensor& t) {
  const Tensor flat = t.detach().contiguous();
  FullTensor out{t.size(0), t.dim() == 2 ? t.size(1) : 1, {}};
  const double* p = flat.const_data_ptr<double>();
  out.values.assign(p, p + flat.numel());
  return out;
}

// AdamW by tensors, after the definition (models.md 5).
class Optimizer {
 public:
  explicit Optimizer(const TrainingConfig& config) : c_(config) {}
  void update(Parameters& parameters, double coef, double lr) {
    ++k_;
    const c10::AutoGradMode no_grad(false);
    for (auto& [name, theta] : parameters) {
      const Tensor g = theta.grad() * coef;
      Tensor &m = m_[name], &v = v_[name];
      if (!m.defined()) m = at::zeros_like(g), v = at::zeros_like(g);
      m = c_.beta1 * m + (1 - c_.beta1) * g;
      v = c_.beta2 * v + (1 - c_.beta2) * g * g;
      if (theta.dim() == 2) theta.mul_(1 - lr * c_.weight_decay);
      const Tensor denominator = v.sqrt() / std::sqrt(1 - std::pow(c_.beta2, k_)) + c_.eps;
      theta.sub_(m * (lr / (1 - std::pow(c_.beta1, k_))) / denominator);
    }
  }

 private:
  const TrainingConfig& c_;
  Parameters m_, v_;
  int k_ = 0;
};

double global_norm(const Parameters& parameters) {
  double sum = 0;
  for (const auto& [name, theta] : parameters) sum += theta.grad().pow(2).sum().item<double>();
  return std::sqrt(sum);
}

}  // namespace

std::map<std::string, std::pair<std::int64_t, std::int64_t>> parameter_shapes(
    const TrainingConfig& c) {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> out;
  const bool gpt = c.family == "gpt";  // has biases and learned positions
  const auto norm = [&](const std::string& n) {
    out[n + ".weight"] = {c.hidden, 1};
    if (gpt) out[n + ".bias"] = {c.hidden, 1};
  };
  const auto linear = [&](const std::string& n, int rows, int columns) {
    out[n + ".weight"] = {rows, columns};
    if (gpt) out[n + ".bias"] = {rows, 1};
  };
  const int width = c.heads * head_dim_of(c), kv_width = kv_heads_of(c) * head_dim_of(c);
  out["embed.weight"] = {c.vocab, c.hidden};
  if (gpt) out["pos_embed.weight"] = {c.max_sequence, c.hidden};
  if (!c.tied_embeddings) out["head.weight"] = {c.vocab, c.hidden};
  norm("final_norm");
  for (int i = 0; i < c.layers; ++i) {
    const std::string name = fmt::format("layers.{}", i);
    norm(name + ".norm1");
    norm(name + ".norm2");
    linear(name + ".attn.q", width, c.hidden);
    linear(name + ".attn.k", kv_width, c.hidden);
    linear(name + ".attn.v", kv_width, c.hidden);
    linear(name + ".attn.o", c.hidden, width);
    for (const char* part : gpt ? std::vector{".mlp.fc1"} : std::vector{".mlp.gate", ".mlp.up"})
      linear(name + part, c.ffn_hidden, c.hidden);
    linear(name + (gpt ? ".mlp.fc2" : ".mlp.down"), c.hidden, c.ffn_hidden);
  }
  return out;
}

Result<ReferenceRun> run_reference(const TrainingConfig& config, int keep_gradients) {
  Result<BatchSource> data = BatchSource::open(config);
  if (!data) return data.error();
  Parameters parameters = initial(config);
  const std::unique_ptr<Model> model = model_of(config, parameters);
  Optimizer optimizer(config);
  ReferenceRun run;
  const int num_microbatches = config.global_batch / config.micro_batch;
  const double divisor = static_cast<double>(config.global_batch) * config.sequence;
  for (int step = 0; step < config.warmup_steps + config.steps; ++step) {
    ReferenceStep result;
    for (auto& [name, theta] : parameters) theta.mutable_grad() = Tensor();
    for (int i = 0; i < num_microbatches; ++i) {
      Tensor tokens = at::empty({config.micro_batch, config.sequence + 1}, at::kLong);
      data->fill(tokens.mutable_data_ptr<std::int64_t>(), step, i, 0, 1);
      const Tensor loss = model->loss(tokens, divisor);
      loss.backward();
      result.loss += loss.item<double>();
    }
    // A sequence shorter than the table leaves the gradient of later positions as zeros.
    result.norm = global_norm(parameters);
    result.lr = learning_rate(config, step);
    if (step < keep_gradients)
      for (const auto& [name, theta] : parameters) result.gradients[name] = copy_of(theta.grad());
    const double coef = config.clip ? std::min(1.0, *config.clip / (result.norm + 1e-6)) : 1.0;
    optimizer.update(parameters, coef, result.lr);
    run.steps.push_back(std::move(result));
  }
  for (const auto& [name, theta] : parameters) run.parameters[name] = copy_of(theta);
  return run;
}

}  // namespace tandem::exec
