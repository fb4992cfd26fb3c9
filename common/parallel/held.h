// What a pipeline rank keeps for its visits along the schedule's own order: how many are open at
// once, and the peak of each class. memory.h says what one visit keeps.
//
//   saved_input   from F until I (or B) of the visit
//   saved_weight, logits, batch, comm   until W (or B): the head's W reads the gradient that stands
//                 where the logits were, the embedding's the tokens, those of experts the counts
//   batch         of the last stage, where it is not the first: during F alone
//   Peak of a class = its largest sum at the end of a forward, when all of that visit is there and
//   nothing of a backward has begun. So cells that run a forward beside a backward have none here.
//   Source  schedules.md 1.5; docs/plan_reference.md, "Lowering". Pure and thread-safe.
#pragma once

#include <optional>

#include "common/parallel/memory.h"
#include "common/schedule/order.h"

namespace tandem {

struct Held {
  int visits = 0;         // most that wait for their I
  int visits_weight = 0;  // most that wait for their W
  bool splits = false;    // I and W apart: gradients between them are kept too, which are not here
  KeptBytes peak;
};

// `order`: the one that is lowered (computing_order of common/plan/build.h); of sliced sequences
// each slice is a visit. nullopt: cells of several parts.
[[nodiscard]] std::optional<Held> held_along(const Scenario& scenario, const Order& order, int pp);

}  // namespace tandem
