// Where metrics of a run go: RUN/metrics.jsonl, a line a step, and RUN/tensorboard/. Written by
// rank 0 as steps end, so that progress can be watched; a run that resumes goes on behind what is
// there. A failure to write never stops training: it is returned at the end.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "exec/train/metrics.h"
#include "exec/train/tensorboard.h"

namespace tandem::exec {

class MetricsFiles {
 public:
  // `first_step` > 0: the run resumes.
  MetricsFiles(const std::string& run_dir, int first_step);
  ~MetricsFiles();
  MetricsFiles(const MetricsFiles&) = delete;
  MetricsFiles& operator=(const MetricsFiles&) = delete;
  void add(const StepMetrics& metrics);
  // Alerts of the step that were not there, or less severe, in the step before: for the log.
  [[nodiscard]] Diagnostics new_alerts(const StepMetrics& metrics);
  [[nodiscard]] Status status() const;

 private:
  std::string path_;
  int fd_ = -1;
  int error_ = 0;
  EventFile events_;
  std::map<std::string_view, AlertLevel> levels_;  // of the step before
};

}  // namespace tandem::exec
