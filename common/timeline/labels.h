// Names of ops for people, the same in every file and report: "F mb3 l0", "all_reduce tp attn.out".
// And what every format says about an op, as key and value. Pure and thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "common/plan/plan.h"

namespace tandem {

[[nodiscard]] std::string_view phase_name(Phase p);  // "F", "I", ...
[[nodiscard]] std::string_view part_name(Part p);    // "", "warm_up", "steady", "cool_down"

// What stands on a slice of a track. Compute: phase, microbatch (and slice of it), layer;
// communication: kind, communicator, tag, microbatch. Not unique: the op id is.
[[nodiscard]] std::string op_label(const Plan& plan, OpId op);
// The same with the id in front: "op 17: F mb3 l0".
[[nodiscard]] std::string op_label_with_id(const Plan& plan, OpId op);
// "linear_fwd tokens=64 in=64 out=96 bias"
[[nodiscard]] std::string call_label(const Plan& plan, OpId op, int call);

[[nodiscard]] const std::string& stream_name(const Plan& plan, StreamId stream);
[[nodiscard]] const std::string& communicator_name(const Plan& plan, CommId comm);  // "" for none
// Bytes one member hands over; 0 for ops that move none.
[[nodiscard]] Bytes op_bytes(const Op& op);

// One non-zero number for all members of one communication of one step: arrows and groups.
class MeetingIds {
 public:
  explicit MeetingIds(const Plan& plan) : plan_(plan) {}
  [[nodiscard]] std::uint64_t of(OpId op, int rank, int step);

 private:
  const Plan& plan_;
  std::map<std::pair<CommId, int>, int> first_member_;
};

}  // namespace tandem
