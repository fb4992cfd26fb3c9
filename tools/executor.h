// libtandem_exec.so, opened with dlopen by `execute`, `run` and `calibrate` only: a program that
// links LibTorch takes 0.4 s to start. Nothing here is called while arguments are parsed.
#pragma once

#include <string>

#include "common/base/result.h"

namespace tandem::tools {

using ExecutorMain = int (*)(int argc, char** argv);

// A function of the executor (exec/execute.h), such as "tandem_rank_main". Opens the library at the
// first call: beside the program, else in ../lib. E-EXEC-060 (exit 5): this build has no executor,
// the library is not there, or it has no such function.
[[nodiscard]] Result<ExecutorMain> executor_function(const std::string& name);

}  // namespace tandem::tools
