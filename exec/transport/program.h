// What one member does in one communication op: its step program and the message's size. Point to
// point, shift and all_to_all get programs here; collectives come from common/collective.
// Pure functions, safe from any thread.
#pragma once

#include <cstdint>
#include <span>

#include "common/collective/choose.h"
#include "common/plan/plan.h"

namespace tandem::exec {

struct OpProgram {
  MemberProgram steps;
  std::int64_t count = 0;  // elements of the whole buffer (all_gather: members * op.count)
  CollectiveAlgorithm algorithm = CollectiveAlgorithm::direct;
  // all_to_all, shift: what arrives takes the place of what is sent in the same step, so a byte may
  // be received only after the same byte has been sent.
  bool exchange = false;
};

// Elements of the buffer that the op works on.
[[nodiscard]] std::int64_t buffer_elements(const Op& op, int members);

// The algorithm of a collective op; direct for all other kinds.
[[nodiscard]] CollectiveAlgorithm algorithm_of(const Op& op, int members,
                                               const AlgorithmSetting& setting);

// Elements that member `i` of `members` sends in one call, in closed form
// (common/collective/laws.h): what the transport's counters are held to.
// Of rows `starts` says where the members' parts begin, and the end: laws.h.
[[nodiscard]] std::int64_t lawful_elements_sent(const Op& op, int members, int i,
                                                const AlgorithmSetting& setting,
                                                std::span<const std::int64_t> starts = {});

// Index in Plan::members of the pipeline coordinate `pp`, in the communicator of a send or receive:
// a pair, or all of the axis pp.
[[nodiscard]] int member_of(const Communicator& comm, int pp);

// `member`: index in Plan::members. A broadcast's root is member 0. shift: to the next member.
// all_to_all: chunk j goes to member j, whose chunk takes its place.
[[nodiscard]] OpProgram program_of(const Plan& plan, const Op& op, int member,
                                   const AlgorithmSetting& setting);

}  // namespace tandem::exec
