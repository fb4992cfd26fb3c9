// One more child process, without a control plane: started, its output passed on in whole lines,
// ended at a deadline, reaped. For work of the executor that is no rank, such as verification.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace tandem::exec {

struct ChildEnd {
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  bool timed_out = false;
  std::string own_words;  // rank_log.h
};

// Blocks, for at most `timeout_s` + 1 s. Logs go to `log_prefix`.out and .err. E-EXEC-001,
// E-IO-010.
[[nodiscard]] Result<ChildEnd> run_child(
    const std::string& program, const std::vector<std::string>& arguments,
    const std::string& log_prefix, double timeout_s,
    const std::function<void(bool error, std::string_view line)>& line);

}  // namespace tandem::exec
