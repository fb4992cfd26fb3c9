#include "exec/train/metrics_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tandem::exec {
namespace {

Scalars scalars_of(const StepMetrics& m) {
  Scalars out = {{"loss/ce", m.loss},
                 {"loss/perplexity", m.perplexity},
                 {"gradient/norm", m.grad_norm},
                 {"gradient/clip_coef", m.clip_coef},
                 {"optimizer/lr", m.lr},
                 {"rate/tokens_per_s", m.tokens_per_s},
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
