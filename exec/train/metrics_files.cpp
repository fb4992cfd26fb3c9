#include "exec/train/metrics_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

namespace tandem::exec {
namespace {

void add_measures(const Measures& m, Scalars& out) {
  const auto put = [&](std::string name, double value) {
    out.emplace_back(std::move(name), value);
  };
  for (std::size_t i = 0; i < m.norm_by_layer.size(); ++i) {
    put(fmt::format("gradient/layer_{}", i), m.norm_by_layer[i]);
    put(fmt::format("update/layer_{}", i), m.update_by_layer[i]);
  }
  for (const auto& [name, norm] : m.norm_outside) put("gradient/" + name, norm);
  if (m.first_over_last) put("gradient/first_over_last", *m.first_over_last);
  put("gradient/zero_share", m.zero_share);
  put("update/ratio", m.update_ratio);
  put("update/p50", m.update_p50);
  put("update/p95", m.update_p95);
  put("update/max", m.update_max);
  put("optimizer/parameter_norm", m.parameter_norm);
  for (const ExpertLoad& load : m.experts) {
    put(fmt::format("experts/max_over_mean/layer_{}", load.layer), load.max_over_mean);
    put(fmt::format("experts/entropy/layer_{}", load.layer), load.entropy);
  }
  for (const auto& [layer, spread] : m.bias_spread)
    put(fmt::format("experts/bias_spread/layer_{}", layer), spread);
  for (const auto& [layer, a] : m.activations) {
    if (a.attention_rows > 0) {
      put(fmt::format("attention/max_logit/layer_{}", layer), a.max_logit);
      put(fmt::format("attention/entropy/layer_{}", layer), a.attention_entropy / a.attention_rows);
    }
    if (a.residual_elements > 0)
      put(fmt::format("residual/rms/layer_{}", layer),
          std::sqrt(a.residual_squares / a.residual_elements));
    if (a.routed_tokens > 0)
      put(fmt::format("experts/router_entropy/layer_{}", layer),
          a.router_entropy / a.routed_tokens);
  }
  put("time/compute_s", m.compute_s);
  put("time/pipeline_idle_s", m.pipeline_idle_s);
  for (const auto& [name, seconds] : m.exposed_s) put("time/exposed_s/" + name, seconds);
  put("time/measure_s", m.seconds);
  for (std::size_t c = 0; c < m.peak_by_class.size(); ++c) {
    const std::string name(name_of(static_cast<BufferClass>(c)));
    if (m.peak_by_class[c] != 0)
      put("memory/peak/" + name, static_cast<double>(m.peak_by_class[c]));
    if (m.predicted_by_class[c] != 0)
      put("memory/predicted/" + name, static_cast<double>(m.predicted_by_class[c]));
  }
}

Scalars scalars_of(const StepMetrics& m) {
  Scalars out = {{"loss/ce", m.loss},
                 {"loss/perplexity", m.perplexity},
                 {"gradient/norm", m.grad_norm},
                 {"gradient/clip_coef", m.clip_coef},
                 {"optimizer/lr", m.lr},
                 {"rate/tokens_per_s", m.tokens_per_s},
                 {"rate/sequences_per_s", m.sequences_per_s},
                 {"rate/model_tflops_per_s", m.model_flops_per_s * 1e-12},
                 {"time/step_s", m.step_s},
                 {"time/data_wait_s", m.data_wait_s},
                 {"time/checkpoint_s", m.checkpoint_s},
                 {"memory/peak_bytes", static_cast<double>(m.peak_bytes)}};
  if (m.evaluation) {
    out.emplace_back("loss/evaluation", m.evaluation->loss);
    out.emplace_back("loss/evaluation_perplexity", m.evaluation->perplexity);
    out.emplace_back("time/evaluation_s", m.evaluation->seconds);
  }
  if (m.spike_ratio) out.emplace_back("loss/spike_ratio", *m.spike_ratio);
  if (m.balance) out.emplace_back("loss/balance", *m.balance);
  if (m.dropped) out.emplace_back("experts/dropped", *m.dropped);
  if (m.dropped_share) out.emplace_back("experts/dropped_share", *m.dropped_share);
  if (m.clipped_share) out.emplace_back("gradient/clipped_share", *m.clipped_share);
  if (m.mfu) out.emplace_back("rate/mfu", *m.mfu);
  if (m.memory_share) out.emplace_back("memory/share", *m.memory_share);
  if (m.replicas_equal) out.emplace_back("replicas/equal", *m.replicas_equal ? 1 : 0);
  if (m.measures) add_measures(*m.measures, out);
  return out;
}

}  // namespace

MetricsFiles::MetricsFiles(const std::string& run_dir, int first_step)
    : path_(run_dir + "/metrics.jsonl"), events_(run_dir + "/tensorboard", first_step) {
  const int how = first_step > 0 ? O_APPEND : O_TRUNC;
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | how | O_CLOEXEC, 0644);
  if (fd_ < 0) error_ = errno;
}

MetricsFiles::~MetricsFiles() {
  if (fd_ >= 0) ::close(fd_);
}

void MetricsFiles::add(const StepMetrics& m) {
  events_.add(m.step, scalars_of(m));
  if (fd_ < 0) return;
  const std::string text = to_json_line(m);
  if (::write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size())) return;
  error_ = errno != 0 ? errno : ENOSPC;
  ::close(fd_);
  fd_ = -1;
}

Diagnostics MetricsFiles::new_alerts(const StepMetrics& m) {
  Diagnostics out;
  std::map<std::string_view, AlertLevel> levels;
  if (!m.measures)  // what is only known of measured steps stands until the next one
    for (const auto& [name, level] : levels_)
      if (name.starts_with("update")) levels[name] = level;
  for (const Alert& a : alerts_of(m)) {
    levels[a.name] = a.level;
    if (a.level > levels_[a.name]) out.push_back(to_diagnostic(a, m.step));
  }
  levels_ = std::move(levels);
  return out;
}

Status MetricsFiles::status() const {
  if (error_ == 0) return events_.status();
  return make_error(Failure::output, "E-IO-010", "cannot write the file", std::strerror(error_),
                    "room and permission for the run directory", "choose another -o",
                    Location{path_});
}

}  // namespace tandem::exec
