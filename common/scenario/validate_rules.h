// What every file of rules works with (validate.h): the scenario, which of its fields may be looked
// at, and how a rule refuses. Only for validate*.cpp.
//
//   validate.cpp           training, schedule, size of the plan, fields without effect
//   validate_model.cpp     the model alone
//   validate_mesh.cpp      degrees against devices, model, batch and sequence; mapping and style
//   validate_cluster.cpp   devices and network
//
// A rule reads: skip if an input failed, compute, compare, refuse with arithmetic.
#pragma once

#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "common/scenario/scenario.h"

namespace tandem {

struct RuleInputs {
  const Scenario& scenario;
  const std::set<std::string>& given;   // paths with a value other than auto
  const std::set<std::string>& failed;  // paths whose value could not be read
  Diagnostics& problems;
};

// Each adds to `problems`.
void validate_model(const RuleInputs& inputs);
// Whether tp * cp * pp * dp is the number of devices: most rules that count ranks need it.
[[nodiscard]] bool validate_mesh(const RuleInputs& inputs);
void validate_cluster(const RuleInputs& inputs, bool degrees_fit);

// A family whose layers may have routed experts.
[[nodiscard]] inline bool family_has_experts(ModelFamily family) {
  return family == ModelFamily::mixtral || family == ModelFamily::deepseek_v3;
}

// Values that would work: the divisors of n nearest to x on both sides, the multiples of `step`
// nearest to n.
[[nodiscard]] std::string near_divisors(std::int64_t n, std::int64_t x);
[[nodiscard]] std::string near_multiples(std::int64_t n, std::int64_t step);

// The base of every class of rules. Holds references: of the lifetime of one validate().
class RuleSet {
 protected:
  using Paths = std::initializer_list<std::string_view>;

  explicit RuleSet(const RuleInputs& in)
      : s_(in.scenario), given_(in.given), failed_(in.failed), problems_(in.problems) {}

  // Whether all of these could be read.
  [[nodiscard]] bool good(Paths paths) const;
  [[nodiscard]] bool given(std::string_view path) const;
  void refuse(Paths paths, std::string code, std::string title, std::string found,
              std::string expected, std::string hint);
  // A warning, where the user wrote the field and it is idle.
  void no_effect(const std::string& path, bool idle, const std::string& why);

  const Scenario& s_;
  const std::set<std::string>& given_;
  const std::set<std::string>& failed_;
  Diagnostics& problems_;
};

}  // namespace tandem
