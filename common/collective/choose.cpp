#include "common/collective/choose.h"

namespace tandem {
namespace {
constexpr int kDirectMembers = 8;                   // all pairs: 28 sockets
constexpr std::int64_t kHalvingBytes = 256 * 1024;  // above, bandwidth counts and not latency
}  // namespace

CollectiveAlgorithm choose_collective(Collective collective, std::int64_t bytes, int members,
                                      const AlgorithmSetting& setting) {
  CollectiveAlgorithm a = CollectiveAlgorithm::ring;
  if (setting.wanted) {
    a = *setting.wanted;
  } else if (setting.deterministic || members <= kDirectMembers) {
    a = CollectiveAlgorithm::direct;
  } else if (collective == Collective::broadcast) {
    a = CollectiveAlgorithm::tree;
  } else if (bytes <= kHalvingBytes) {
    a = CollectiveAlgorithm::halving_doubling;
  }
  return effective_algorithm(collective, a, members);
}

}  // namespace tandem
