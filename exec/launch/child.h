// Starts one process: own process group, killed when the thread that started it dies, stdin from
// /dev/null, no core files, given descriptors from 3 on and nothing else. Between fork and exec it
// makes only calls that are async-signal-safe.
//
//   descriptor  0 /dev/null   1 out   2 err   3, 4, ... `descriptors` in order
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/base/result.h"

namespace tandem::exec {

struct ChildSpec {
  std::string program;                 // path; no search
  std::vector<std::string> arguments;  // argv, the name first
  int out = -1, err = -1;              // open descriptors
  std::vector<int> descriptors;        // open, close-on-exec in the parent
  std::vector<int> cores;              // cpu affinity; empty: as the parent's
};

// The pid, which is also the process group. Returns when the exec has succeeded. The descriptors
// stay open here. Call it from the main thread before any other thread exists: the death signal
// follows the thread. E-EXEC-001.
[[nodiscard]] Result<pid_t> start_child(const ChildSpec& spec);

}  // namespace tandem::exec
