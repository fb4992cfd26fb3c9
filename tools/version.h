// Versions of the program and of the files it writes. TANDEM_VERSION comes from CMakeLists.txt.
#pragma once

#include <string_view>

namespace tandem::tools {

inline constexpr std::string_view kVersion = TANDEM_VERSION;
inline constexpr int kScenarioFormat = 1;  // "tandem: 1"
inline constexpr int kPlanFormat = 1;      // "plan 1"
inline constexpr int kRunFormat = 1;       // manifest.json and summary.json
#ifdef TANDEM_EXEC
inline constexpr bool kHasExecutor = true;
#else
inline constexpr bool kHasExecutor = false;
#endif
#ifdef TANDEM_FAULTS
inline constexpr bool kHasFaults = true;
#else
inline constexpr bool kHasFaults = false;
#endif

}  // namespace tandem::tools
