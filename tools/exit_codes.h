// Exit codes of the program (robustness.md section 5). Libraries return a Failure; only main exits.
#pragma once

#include "common/base/result.h"

namespace tandem::tools {

inline constexpr int kExitOk = 0;
// A comparison outside its tolerance, or a verification that found a difference. No Failure: the
// command did its work.
inline constexpr int kExitDiffers = 1;

[[nodiscard]] constexpr int exit_code(Failure failure) { return static_cast<int>(failure); }

}  // namespace tandem::tools
