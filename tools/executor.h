// libtandem_exec.so, opened with dlopen by `execute`, `run` and `calibrate` only: a program that
// links LibTorch takes 0.4 s to start. Nothing here is called while arguments are parsed.
#pragma once

#include <optional>
#include <string>

#include "common/base/result.h"

namespace tandem::tools {

using ExecutorMain = int (*)(int argc, char** argv);

// A function of the executor (exec/execute.h), such as "tandem_rank_main". Opens the library at the
// first call: beside the program, else in ../lib. E-EXEC-060 (exit 5): this build has no executor,
// the library is not there, or it has no such function.
[[nodiscard]] Result<ExecutorMain> executor_function(const std::string& name);

// Path of the library, without loading it; whether it is there. The same error.
[[nodiscard]] Result<std::string> executor_library();
[[nodiscard]] Status check_executor();

// `tandem __rank`, `__rehearse`, `__verify` and `__calibrate`: the executor's own processes,
// started by `execute`, not for people and not in the command line's parser. Nothing: the arguments
// are of another command.
[[nodiscard]] std::optional<int> run_executor_process(int argc, char** argv);

}  // namespace tandem::tools
