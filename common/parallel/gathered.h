// What ZeRO 2 and 3 hold whole for a moment: parameters that are gathered (class param_full) and
// gradients that are not scattered yet (grad_full), of one rank of pipeline coordinate `pp`. Beside
// the shards of memory.h, static_bytes().
//
//   unit      embedding, a layer, final norm with head; with its buckets of every type and group
//   gathered  residency visit: at the start of a unit its own buckets and those of the `prefetch`
//             units behind it in the visit are there: the greatest sum of prefetch + 1 neighbours.
//             Units with nothing to gather do not count. The backward of the final norm is one op
//             with the beginning of the last layer's: the norm's bucket is there beside those of
//             the layer and ahead of it, unless a communication or a recomputation comes between.
//             So are the positions of gpt beside the first layer in the forward, and with nothing
//             ahead the last layer beside final norm and head
//             Without overlap (parameter_gather) nothing is ahead, and a bucket is there for its
//             own uses alone: exact with one bucket a unit
//             residency window: the units of the `window` largest stages of the rank; exact where
//             all its stages fit, as they are then gathered before anything else
//   gradients scattered every microbatch: each bucket from its first W to its last one. While a
//             unit goes backward only buckets that reach into it or across it are there; those of
//             the embedding begin where the first layer ends, and that of the final norm ends where
//             a last layer with experts begins. What certainly meets: the buckets of
//             a dense layer at level 3 (at its second norm each has begun and none is complete);
//             the embedding and the first norm of its stage. Exact where this, or one bucket, is
//             all that can meet
//             scattered in the last microbatch: all buckets at the end of any other one
//             a tied embedding: whole from its first W to the end of the step, in either case, and
//             the head's part of it, where both are on the rank
//   Source  models.md 4.6 and 6; docs/plan_reference.md, "Lowering". Held to plans by
//           tests/common/plan/gathered_test.cpp. Pure and thread-safe.
#pragma once

#include <optional>

#include "common/base/units.h"
#include "common/scenario/scenario.h"

namespace tandem {

struct WholeBytes {
  Bytes most = 0;
  bool exact = true;  // else the plan's peak of the class may lie below
};

// Both for schedules whose cells hold one visit (held_along() has a value). nullopt: style
// nano_train above level 1, and levels 2 and 3 with I and W apart (`splits`): a bucket of norms and
// matrices then lives from the one to the other.
[[nodiscard]] std::optional<WholeBytes> gathered_parameters(const Scenario& scenario, int pp);
[[nodiscard]] std::optional<WholeBytes> whole_gradients(const Scenario& scenario, int pp,
                                                        bool splits);

}  // namespace tandem
