// Checks of an order (L1): can it be lowered at all? Messages in it (SEND, RECV) are not looked at;
// common/plan/verify judges them on the plan. Pure and thread-safe; O(actions).
//
//   V1  (2) stage and microbatch in range; (3) every action on the rank of its stage; (4) every
//   rank
//       has a row
//   V2  per stage and microbatch (1) one F, (2) one B, or one I and one W; in the list of the rank
//       (3) I or B after F, (4) W after I; (5) REDUCE_GRAD after the last W or B of its stage
//   V4  F(s,i) needs F(s-1,i); I or B(s,i) needs F(s,i) and I or B(s+1,i); W(s,i) needs I(s,i); a
//   rank
//       runs its list in order: these have no cycle
//
// Does not prove that the plan is free of deadlock when sends wait for their receivers.
// Source: schedules.md 1.2, 5 and 3.5 (the grid).
#pragma once

#include <string>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/schedule/order.h"

namespace tandem {

struct OrderCheck {
  struct Place {
    int rank = -1, pos = -1;  // -1: of the order, or of the row, as a whole
  };
  Diagnostics
      errors;  // at most 100; titles open with the sub-code: "V2.3 rank 1 pos 2 op 1B0: ..."
  std::vector<Place> places;  // of each error
  std::string grid;  // the order as a table, the row of the first error marked; empty if none
  [[nodiscard]] bool ok() const { return errors.empty(); }
};

// `file` is for messages: the origin of the order.
[[nodiscard]] OrderCheck check_order(const Order& order, const std::string& file = "order");

}  // namespace tandem
