#include "exec/train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/model/flops.h"

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLeastDataWait = 1e-3;
constexpr std::size_t kWindow = 32, kFewestLosses = 5;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

struct Threshold {
  std::string_view name, title, hint;
  double warning, severe;
  bool is_low = false;  // reached from above
};
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr std::array kThresholds = {
    Threshold{"loss_spike", "the loss has jumped", "look at the data of this step, or lower lr", 3,
              10},
    Threshold{"grad_norm", "the gradient norm is large",
              "lower lr or lengthen warmup_steps; clip bounds what one step can do", 1e2, 1e3},
    Threshold{"data_wait", "the step waits for its data", "use a faster disk for the text", 0.3,
              0.5},
    Threshold{"memory", "the device is nearly full",
              "recompute, shard the optimizer (zero) or take smaller microbatches", 0.9, 0.95},
    Threshold{"update_high", "a step changes the parameters by much",
              "lower lr or lengthen warmup_steps", 1e-1, kNever},
    Threshold{"update_low", "a step hardly changes the parameters", "look at lr and min_lr", 1e-7,
              0, /*is_low=*/true}};

// None where the step does not have it.
std::optional<double> value_of(const StepMetrics& m, std::string_view name) {
  if (name == "loss_spike") return m.spike_ratio;
  if (name == "grad_norm") return m.grad_norm;
  if (name == "memory") return m.memory_share;
  if (name.starts_with("update"))
    return m.measures ? std::optional(m.measures->update_ratio) : std::nullopt;
  return m.data_wait_s >= kLeastDataWait ? m.data_wait_s / m.step_s : 0;
}

// Every token chooses top_k experts in each layer that has them.
double choices_of_step(const TrainingConfig& config, double tokens) {
  const ModelShape model = model_shape(config);
  int layers = 0;
  for (int layer = 0; layer < model.layers; ++layer) layers += model.is_moe(layer) ? 1 : 0;
  return tokens * config.moe.top_k * layers;
}

}  // namespace

std::string_view name_of(AlertLevel level) {
  constexpr std::string_view kNames[] = {"none", "warning", "severe"};
  return kNames[static_cast<int>(level)];
}

StepMetrics metrics_of(const StepValues& step, const TrainingState& before,
                       const TrainingConfig& config) {
  StepMetrics m;
  m.step = before.step;
  m.loss = step.loss;
  m.perplexity = std::exp(step.loss);
  if (before.recent_losses.size() >= kFewestLosses)
    m.spike_ratio = step.loss / median(before.recent_losses);
  m.grad_norm = step.norm;
  if (config.clip) m.clip_coef = std::min(1.0, *config.clip / (step.norm + 1e-6));
  if (config.moe.experts > 0) {
    m.balance = step.balance, m.dropped = step.dropped;
    if (const double all = choices_of_step(config, step.tokens); all > 0)
      m.dropped_share = step.dropped / all;
  }
  m.lr = step.lr;
  m.tokens = step.tokens;
  m.tokens_seen = before.tokens + step.tokens;
  m.step_s = static_cast<double>(step.duration) * 1e-9;
  m.data_wait_s = static_cast<double>(step.data_wait) * 1e-9;
  m.non_finite = !std::isfinite(step.loss) || step.non_finite > 0;
  if (!(m.step_s > 0)) return m;
  m.tokens_per_s = m.tokens / m.step_s;
  m.sequences_per_s = config.global_batch / m.step_s;
  m.model_flops_per_s =
      model_flops(model_shape(config), config.global_batch, config.sequence) / m.step_s;
  if (config.peak_flops > 0) m.mfu = m.model_flops_per_s / config.peak_flops;
  return m;
}

double ClippedShare::add(double coef) {
  clipped_.push_back(coef < 1);
  if (clipped_.size() > kWindow) clipped_.pop_front();
  return static_cast<double>(std::count(clipped_.begin(), clipped_.end(), true)) /
         static_cast<double>(clipped_.size());
}

void advance(TrainingState& state, const StepValues& step) {
  ++state.step;
  state.tokens += step.tokens;
  if (!state.best_loss || step.loss < *state.best_loss) {
    state.best_loss = step.loss;
    state.best_step = state.step;
  }
  if (state.recent_losses.size() == kWindow) state.recent_losses.erase(state.recent_losses.begin());
  state.recent_losses.push_back(step.loss);
}

std::vector<Alert> alerts_of(const StepMetrics& metrics) {
  std::vector<Alert> out;
  for (const Threshold& t : kThresholds) {
    const std::optional<double> value = value_of(metrics, t.name);
    if (!value) continue;
    const auto reaches = [&](double limit) { return t.is_low ? *value < limit : *value >= limit; };
    if (reaches(t.severe))
      out.push_back({t.name, AlertLevel::severe, *value, t.severe, t.is_low});
    else if (reaches(t.warning))
      out.push_back({t.name, AlertLevel::warning, *value, t.warning, t.is_low});
  }
  return out;
}

Diagnostic to_diagnostic(const Alert& alert, int step) {
  const auto* t = std::find_if(kThresholds.begin(), kThresholds.end(),
                               [&](const Threshold& x) { return x.name == alert.name; });
  return make_diagnostic("W-EXEC-001", fmt::format("{}: {}", name_of(alert.level), t->title),
                         fmt::format("step {}: {} {:.4g}", step, alert.name, alert.value),
                         fmt::format("{} {:g}", alert.is_low ? "at least" : "below", alert.limit),
                         std::string(t->hint));
}

namespace {

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(); }
Json number(const std::optional<double>& x) { return x ? number(*x) : Json(); }

Json by_class(const ClassBytes& bytes) {
  Json out = Json::object();
  for (std::size_t c = 0; c < bytes.size(); ++c)
    if (bytes[c] != 0) out[std::string(name_of(static_cast<BufferClass>(c)))] = bytes[c];
  return out;
}

Json experts_json(const Measures& m) {
  Json out = Json::array();
  for (const ExpertLoad& load : m.experts) {
    Json layer = {{"layer", load.layer},
                  {"choices", load.choices},
                  {"max_over_mean", load.max_over_mean},
                  {"rank_max_over_mean", load.rank_max_over_mean},
                  {"entropy", load.entropy}};
    if (const auto it = m.bias_spread.find(load.layer); it != m.bias_spread.end())
      layer["bias_spread"] = number(it->second);
    out.push_back(std::move(layer));
  }
  return out;
}

// What a layer has: one without a router has no entropy of one.
Json activations_json(const Activations& by_layer) {
  Json out = Json::array();
  for (const auto& [index, a] : by_layer) {
    Json layer = {{"layer", index}};
    if (a.attention_rows > 0) {
      layer["max_logit"] = number(a.max_logit);
      layer["attention_entropy"] = number(a.attention_entropy / a.attention_rows);
    }
    if (a.residual_elements > 0)
      layer["residual_rms"] = number(std::sqrt(a.residual_squares / a.residual_elements));
    if (a.routed_tokens > 0) layer["router_entropy"] = number(a.router_entropy / a.routed_tokens);
    out.push_back(std::move(layer));
  }
  return out;
}

void add_measures(const Measures& m, Json& line) {
  line["gradients"] = {{"norm_by_layer", m.norm_by_layer},
                       {"norm_outside", m.norm_outside},
                       {"first_over_last", number(m.first_over_last)},
                       {"zero_share", m.zero_share}};
  line["updates"] = {{"ratio", m.update_ratio},
                     {"ratio_p50", m.update_p50},
                     {"ratio_p95", m.update_p95},
                     {"ratio_max", m.update_max},
                     {"ratio_max_tensor", m.update_max_tensor},
                     {"ratio_by_layer", m.update_by_layer}};
  line["parameter_norm"] = m.parameter_norm;
  if (!m.experts.empty()) line["experts"] = experts_json(m);
  if (!m.activations.empty()) line["activations"] = activations_json(m.activations);
  line["time"] = {{"compute_s", m.compute_s}, {"exposed_s", m.exposed_s},
                  {"waiting_s", m.waiting_s}, {"pipeline_idle_s", m.pipeline_idle_s},
                  {"host_s", m.host_s},       {"idle_s", m.idle_s}};
  line["memory"] = {{"rank", m.fullest_rank},
                    {"live_by_class", by_class(m.live)},
                    {"peak_bytes", m.peak_bytes},
                    {"peak_by_class", by_class(m.peak_by_class)},
                    {"predicted_peak_bytes", m.predicted_peak_bytes},
                    {"predicted_by_class", by_class(m.predicted_by_class)},
                    {"kernel_scratch_bytes", m.kernel_scratch_bytes},
                    {"slab_bytes", m.slab_bytes}};
  line["measure_s"] = m.seconds;
}

}  // namespace

std::string to_json_line(const StepMetrics& m) {
  Json alerts = Json::array();
  for (const Alert& a : alerts_of(m))
    alerts.push_back({{"name", a.name},
                      {"level", name_of(a.level)},
                      {"value", number(a.value)},
                      {"limit", a.limit}});
  Json line = {{"step", m.step},
               {"loss", number(m.loss)},
               {"perplexity", number(m.perplexity)},
               {"spike_ratio", number(m.spike_ratio)},
               {"non_finite", m.non_finite},
               {"grad_norm", number(m.grad_norm)},
               {"clip_coef", number(m.clip_coef)},
               {"clipped_share", number(m.clipped_share)},
               {"lr", m.lr},
               {"tokens", m.tokens},
               {"tokens_seen", m.tokens_seen},
               {"step_s", m.step_s},
               {"data_wait_s", m.data_wait_s},
               {"checkpoint_s", m.checkpoint_s},
               {"tokens_per_s", m.tokens_per_s},
               {"sequences_per_s", m.sequences_per_s},
               {"model_tflops_per_s", m.model_flops_per_s * 1e-12},
               {"mfu", number(m.mfu)},
               {"peak_bytes", m.peak_bytes},
               {"memory_share", number(m.memory_share)},
               {"timed", m.timed}};
  if (m.balance) line["balance_loss"] = number(*m.balance);
  if (m.dropped) {
    line["dropped"] = *m.dropped;
    line["dropped_share"] = number(m.dropped_share);
  }
  if (m.evaluation) {
    line["evaluation_loss"] = number(m.evaluation->loss);
    line["evaluation_perplexity"] = number(m.evaluation->perplexity);
    line["evaluation_s"] = m.evaluation->seconds;
  }
  if (m.replicas_equal) line["replicas_equal"] = *m.replicas_equal;
  if (m.measures) add_measures(*m.measures, line);
  if (!alerts.empty()) line["alerts"] = std::move(alerts);
  return line.dump() + "\n";
}

}  // namespace tandem::exec
