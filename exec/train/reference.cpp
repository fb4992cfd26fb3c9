#include "exec/train/reference.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "common/base/check.h"
#include "common/model/parameters.h"
#include "exec/train/data.h"
#include "exec/train/init.h"
#include "exec/train/reference_models.h"
#include "exec/train/reference_moe.h"

namespace tandem::exec {
namespace {

using at::Tensor;

Parameters initial(const TrainingConfig& config) {
  Parameters out;
  for (const tandem::Tensor& declared : parameter_tensors(model_shape(config))) {
    const std::string& name = declared.name;
    const Shape& shape = declared.shape;
    const std::int64_t rows = shape[0], columns = shape.rank == 2 ? shape[1] : 1;
    Tensor t =
        shape.rank == 2 ? at::empty({rows, columns}, at::kDouble) : at::empty({rows}, at::kDouble);
    double* p = t.mutable_data_ptr<double>();
    const bool rounded = config.precision != "fp64";
    Shard whole{name, rows, columns, 0, rows, 0, columns, 0, columns};
    fill_block(config, whole, 0, rows * columns, [&](std::int64_t i, double x) {
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

Tensor rounded_to_bf16(const Tensor& t) { return t.detach().to(at::kBFloat16).to(at::kDouble); }

// What the model computes with: in a bf16 run the main values rounded, but for norms (models.md
// 2.1), else these themselves.
Parameters used_by_model(const TrainingConfig& config, const Parameters& main) {
  Parameters out = main;
  if (config.precision == "bf16")
    for (auto& [name, t] : out)
      if (name.find("norm") == std::string::npos) t = rounded_to_bf16(t).requires_grad_(true);
  return out;
}

// AdamW by tensors, after the definition (models.md 5).
class Optimizer {
 public:
  explicit Optimizer(const TrainingConfig& config) : c_(config) {}
  // `main`: the values that are updated; those of `parameters` follow them.
  void update(Parameters& main, Parameters& parameters, double coef, double lr) {
    ++k_;
    const c10::AutoGradMode no_grad(false);
    for (auto& [name, used] : parameters) {
      Tensor& theta = main.at(name);
      const Tensor g = used.grad() * coef;
      Tensor &m = m_[name], &v = v_[name];
      if (!m.defined()) m = at::zeros_like(g), v = at::zeros_like(g);
      m = c_.beta1 * m + (1 - c_.beta1) * g;
      v = c_.beta2 * v + (1 - c_.beta2) * g * g;
      if (theta.dim() == 2 || c_.decay_all) theta.mul_(1 - lr * c_.weight_decay);
      const Tensor denominator = v.sqrt() / std::sqrt(1 - std::pow(c_.beta2, k_)) + c_.eps;
      theta.sub_(m * (lr / (1 - std::pow(c_.beta1, k_))) / denominator);
      if (!theta.is_same(used)) used.copy_(rounded_to_bf16(theta));
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

// Hands the counts of a step over; biases of the routers follow them.
void end_step(RouterState& routers, double rate, ReferenceStep& step) {
  for (auto& [layer, counts] : routers.choices) {
    if (rate != 0) update_router_bias(routers.bias.at(layer), counts, rate);
    step.choices[layer] = counts;
    counts.assign(counts.size(), 0);
  }
  step.dropped = std::exchange(routers.dropped, 0);
}

Tensor batch_of(const BatchSource& data, const TrainingConfig& config, int step, int microbatch) {
  Tensor tokens = at::empty({config.micro_batch, config.sequence + 1}, at::kLong);
  data.fill(tokens.mutable_data_ptr<std::int64_t>(), step, microbatch, 0, 1);
  return tokens;
}

// The model, its data, and what its routers keep.
struct Oracle {
  const TrainingConfig& config;
  BatchSource data;
  std::optional<BatchSource> validation;
  Parameters main, parameters;  // that are updated, that the model computes with
  RouterState routers;
  std::optional<ChoiceReplay> replay;
  std::unique_ptr<ReferenceModel> model;

  ReferenceLoss loss(int step, int microbatch) {
    if (replay) replay->at({step, -1, microbatch});
    return model->loss(batch_of(data, config, step, microbatch));
  }
  // Mean over the batches of the evaluation behind a step. What routers count belongs to training:
  // it is put back.
  double evaluate(int step) {
    const c10::AutoGradMode no_grad(false);
    const auto choices = routers.choices;
    const auto dropped = routers.dropped;
    double sum = 0;
    for (int batch = 0; batch < config.evaluation_batches; ++batch)
      for (int i = 0; i < config.global_batch / config.micro_batch; ++i) {
        if (replay) replay->at({step, batch, i});
        sum += model->loss(batch_of(*validation, config, batch, i)).cross_entropy.item<double>();
      }
    routers.choices = choices;
    routers.dropped = dropped;
    return sum / config.evaluation_batches;
  }
};

// `run`: null, or what is judged by `rule`.
Result<std::unique_ptr<Oracle>> make_oracle(const TrainingConfig& config, const RunChoices* run,
                                            ChoiceRule rule) {
  Result<BatchSource> data = BatchSource::open(config);
  if (!data) return data.error();
  std::optional<BatchSource> validation;
  if (config.evaluation_every > 0) {
    Result<BatchSource> source = BatchSource::open(config, DataPart::validation);
    if (!source) return source.error();
    validation = std::move(*source);
  }
  std::unique_ptr<Oracle> out(
      new Oracle{config, std::move(*data), std::move(validation), initial(config), {}, {}, {}, {}});
  out->parameters = used_by_model(config, out->main);
  if (run && config.moe.experts > 0) out->routers.replay = &out->replay.emplace(config, *run, rule);
  out->model = make_reference_model(config, out->parameters, out->routers);
  return out;
}

// Values of a run in place of the model's own.
void take(const TensorMap& from, Oracle& oracle) {
  const c10::AutoGradMode no_grad(false);
  const auto put = [&](Tensor& to, const std::string& name) {
    const std::vector<double>& values = from.at(name).values;
    std::copy(values.begin(), values.end(), to.mutable_data_ptr<double>());
  };
  for (auto& [name, theta] : oracle.parameters) put(theta, name);
  if (oracle.config.moe.router == RouterKind::sigmoid)
    for (auto& [layer, bias] : oracle.routers.bias) put(bias, router_bias_name(layer));
}

}  // namespace

std::string router_bias_name(int layer) { return fmt::format("layers.{}.moe.router_bias", layer); }

Result<ReferenceRun> run_reference(const TrainingConfig& config, int keep_gradients,
                                   const RunChoices* run_choices) {
  const ChoiceRule rule = config.precision == "fp64" ? ChoiceRule::strict : ChoiceRule::replay;
  Result<std::unique_ptr<Oracle>> made = make_oracle(config, run_choices, rule);
  if (!made) return made.error();
  Oracle& oracle = **made;
  Parameters& parameters = oracle.parameters;
  Optimizer optimizer(config);
  ReferenceRun run;
  const int num_microbatches = config.global_batch / config.micro_batch;
  for (int step = 0; step < total_steps(config); ++step) {
    ReferenceStep result;
    for (auto& [name, theta] : parameters) theta.mutable_grad() = Tensor();
    for (int i = 0; i < num_microbatches; ++i) {
      const ReferenceLoss loss = oracle.loss(step, i);
      (loss.cross_entropy + loss.balance).backward();
      result.loss += loss.cross_entropy.item<double>();
      result.balance += loss.balance.item<double>();
    }
    // A sequence shorter than the table leaves the gradient of later positions as zeros.
    result.norm = global_norm(parameters);
    result.lr = learning_rate(config, step);
    if (step < keep_gradients)
      for (const auto& [name, theta] : parameters) result.gradients[name] = copy_of(theta.grad());
    const double coef = config.clip ? std::min(1.0, *config.clip / (result.norm + 1e-6)) : 1.0;
    optimizer.update(oracle.main, parameters, coef, result.lr);
    end_step(oracle.routers, config.moe.bias_update, result);
    if (evaluates_after(config, step)) result.evaluation_loss = oracle.evaluate(step);
    run.steps.push_back(std::move(result));
  }
  for (const auto& [name, theta] : parameters) run.parameters[name] = copy_of(theta);
  for (const auto& [layer, bias] : oracle.routers.bias)
    run.router_bias[layer] = copy_of(bias).values;
  if (oracle.replay) run.choices = oracle.replay->seen();
  return run;
}

Result<ChoiceCheck> judge_choices(const TrainingConfig& config, const RunChoices& run,
                                  const StateBehind& state) {
  Result<std::unique_ptr<Oracle>> made = make_oracle(config, &run, ChoiceRule::near_tie);
  if (!made) return made.error();
  Oracle& oracle = **made;
  TANDEM_CHECK(oracle.replay, "choices of a model without experts");
  const c10::AutoGradMode no_grad(false);
  for (int step = 0; step < total_steps(config); ++step) {
    for (int i = 0; i < config.global_batch / config.micro_batch; ++i) (void)oracle.loss(step, i);
    const bool evaluates = evaluates_after(config, step);
    if (step + 1 == total_steps(config) && !evaluates) break;
    const Result<TensorMap> behind = state(step);
    if (!behind) return behind.error();
    take(*behind, oracle);
    if (evaluates) (void)oracle.evaluate(step);
  }
  return oracle.replay->seen();
}

}  // namespace tandem::exec
