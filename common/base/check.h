// TANDEM_CHECK: broken invariants of ours, never wrong input (that is a Diagnostic). On in release.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace tandem {

// Thrown by TANDEM_CHECK and caught by main only: exit 70. `what()` names file, line and condition.
struct InternalError : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] inline void fail_check(const char* file, int line, const char* condition,
                                    const std::string& text) {
  throw InternalError(fmt::format("{}:{}: {} does not hold: {}", file, line, condition, text));
}

}  // namespace tandem

#define TANDEM_CHECK(condition, ...)                                                    \
  do {                                                                                  \
    if (!(condition)) [[unlikely]]                                                      \
      ::tandem::fail_check(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)
