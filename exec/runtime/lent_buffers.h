// Which buffers of a training plan another plan of the run uses, of evaluation or settling: its
// persistent ones, found again by class and name. So parameters exist once, wherever the two plans
// have them in their tables.
#pragma once

#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"

namespace tandem::exec {

// By BufferId of `other`: the buffer of `training`; invalid for views and for what lives
// within a batch or a step. E-EXEC-035: a buffer, or a view of one, that the training plan does not
// have with the same type, shape and place. Pure, safe from any thread.
[[nodiscard]] Result<std::vector<BufferId>> lent_buffers(const Plan& other, const Plan& training,
                                                         ProgramId program);

}  // namespace tandem::exec
