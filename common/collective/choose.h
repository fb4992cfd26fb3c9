// Which algorithm the host transport runs. A simulated cluster's library chooses in sim/network.
#pragma once

#include <cstdint>
#include <optional>

#include "common/collective/step.h"

namespace tandem {

struct AlgorithmSetting {
  bool deterministic = true;                  // sums in rank order: direct
  std::optional<CollectiveAlgorithm> wanted;  // by name: outranks the rest
  bool operator==(const AlgorithmSetting&) const = default;
};

// `bytes`: the whole buffer. Same arguments, same answer on every member. Without a wish:
// deterministic: direct; else small messages or groups direct (2 latencies), then halving_doubling
// up to 256 KiB (log n latencies), then ring (n-1 messages in flight at a time instead of n^2).
[[nodiscard]] CollectiveAlgorithm choose_collective(Collective collective, std::int64_t bytes,
                                                    int members, const AlgorithmSetting& setting);

}  // namespace tandem
