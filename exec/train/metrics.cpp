#include "exec/train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

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
};
constexpr std::array kThresholds = {
    Threshold{"loss_spike", "the loss has jumped", "look at the data of this step, or lower lr", 3,
              10},
    Threshold{"grad_norm", "the gradient norm is large",
              "lower lr or lengthen warmup_steps; clip bounds what one step can do", 1e2, 1e3},
    Threshold{"data_wait", "the step waits for its data", "use a faster disk for the text", 0.3,
              0.5}};

double value_of(const StepMetrics& m, std::string_view name) {
  if (name == "loss_spike") return m.spike_ratio.value_or(0);
  if (name == "grad_norm") return m.grad_norm;
  return m.data_wait_s >= kLeastDataWait ? m.data_wait_s / m.step_s : 0;
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
  if (config.moe.experts > 0) m.balance = step.balance, m.dropped = step.dropped;
  m.lr = step.lr;
  m.tokens = step.tokens;
  m.tokens_seen = before.tokens + step.tokens;
  m.step_s = static_cast<double>(step.duration) * 1e-9;
  m.data_wait_s = static_cast<double>(step.data_wait) * 1e-9;
  m.tokens_per_s = m.step_s > 0 ? m.tokens / m.step_s : 0;
  return m;
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
    const double value = value_of(metrics, t.name);
    if (value >= t.severe)
      out.push_back({t.name, AlertLevel::severe, value, t.severe});
    else if (value >= t.warning)
      out.push_back({t.name, AlertLevel::warning, value, t.warning});
  }
  return out;
}

Diagnostic to_diagnostic(const Alert& alert, int step) {
  const auto* t = std::find_if(kThresholds.begin(), kThresholds.end(),
                               [&](const Threshold& x) { return x.name == alert.name; });
  return make_diagnostic("W-EXEC-001", fmt::format("{}: {}", name_of(alert.level), t->title),
                         fmt::format("step {}: {} {:.4g}", step, alert.name, alert.value),
                         fmt::format("below {:g}", alert.limit), std::string(t->hint));
}

std::string to_json_line(const StepMetrics& m) {
  const auto number = [](double x) { return std::isfinite(x) ? Json(x) : Json(); };
  Json alerts = Json::array();
  for (const Alert& a : alerts_of(m))
    alerts.push_back({{"name", a.name},
                      {"level", name_of(a.level)},
                      {"value", number(a.value)},
                      {"limit", a.limit}});
  Json line = {{"step", m.step},
               {"loss", number(m.loss)},
               {"perplexity", number(m.perplexity)},
               {"spike_ratio", m.spike_ratio ? number(*m.spike_ratio) : Json()},
               {"grad_norm", number(m.grad_norm)},
               {"clip_coef", m.clip_coef},
               {"lr", m.lr},
               {"tokens", m.tokens},
               {"tokens_seen", m.tokens_seen},
               {"step_s", m.step_s},
               {"data_wait_s", m.data_wait_s},
               {"checkpoint_s", m.checkpoint_s},
               {"tokens_per_s", m.tokens_per_s},
               {"peak_bytes", m.peak_bytes},
               {"timed", m.timed}};
  if (m.balance) line["balance_loss"] = number(*m.balance);
  if (m.dropped) line["dropped"] = *m.dropped;
  if (m.evaluation) {
    line["evaluation_loss"] = number(m.evaluation->loss);
    line["evaluation_perplexity"] = number(m.evaluation->perplexity);
    line["evaluation_s"] = m.evaluation->seconds;
  }
  if (!alerts.empty()) line["alerts"] = std::move(alerts);
  return line.dump() + "\n";
}

}  // namespace tandem::exec
