// How long each op of a plan takes by itself on a cluster: what a rehearsal waits for instead of
// computing, and what its prediction is replayed with.
//
//   compute        the work of its calls on a device, or a core, that nobody else uses
//   copy           its bytes at the rate of the device's copies
//   communication  from the moment when all members are there: latencies and bytes of its phases,
//                  at the rate that its links give when all groups of its communicator use them at
//                  once (fidelity closed_form: its own alone), without any other traffic
//   host_wait      0
// Not here, because it is the engine's: waiting, issue, shared cores, other traffic on a link.
#pragma once

#include "common/base/result.h"
#include "sim/simulate.h"

namespace tandem::sim {

// Of every rank and op. Reads calibration and fidelity of the options. Codes of simulate().
[[nodiscard]] Result<ReplayDurations> durations_alone(const Plan& plan, const Cluster& cluster,
                                                      const SimOptions& options);

}  // namespace tandem::sim
