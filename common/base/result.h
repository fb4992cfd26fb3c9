// Result<T>: a value, or the diagnostics that say why there is none. Libraries return it; only
// main turns it into an exit code (tools/exit_codes.h).
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "common/base/check.h"
#include "common/base/diagnostic.h"

namespace tandem {

// What kind of failure this is: the exit class of robustness.md section 5.
enum class Failure {
  usage = 2,       // flags, arguments
  bad_input = 3,   // a file that is wrong
  infeasible = 4,  // well-formed but impossible
  execution = 5,   // a rank failed by itself
  peer_lost = 6,   // killed, stopped, silent, deadline
  output = 7,      // disk full, closed pipe
  internal = 70,   // broken invariant
  interrupted = 130,
  terminated = 143,
};

struct Error {
  Failure failure = Failure::internal;
  Diagnostics diagnostics;  // at least one
};

// A one-diagnostic error. `code` must stand in the table of diagnostic_codes.
[[nodiscard]] inline Error make_error(Failure failure, std::string code, std::string title,
                                      std::string found, std::string expected, std::string hint,
                                      Location where = {}) {
  return Error{failure,
               {make_diagnostic(std::move(code), std::move(title), std::move(found),
                                std::move(expected), std::move(hint), std::move(where))}};
}

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose
  [[nodiscard]] bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  T& value() & { return check(), *value_; }
  const T& value() const& { return check(), *value_; }
  T&& value() && { return check(), std::move(*value_); }
  T* operator->() { return check(), &*value_; }
  const T* operator->() const { return check(), &*value_; }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  [[nodiscard]] const Error& error() const {
    TANDEM_CHECK(!ok(), "error() of a Result that holds a value");
    return error_;
  }

 private:
  void check() const {
    TANDEM_CHECK(ok(), "value() of a failed Result: {}",
                 error_.diagnostics.empty() ? "" : error_.diagnostics[0].title);
  }
  std::optional<T> value_;
  Error error_;
};

// Success carries nothing.
struct Ok {};
using Status = Result<Ok>;

}  // namespace tandem
