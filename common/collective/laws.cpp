#include "common/collective/laws.h"

#include <algorithm>
#include <bit>

#include "common/base/check.h"

namespace tandem {
namespace {

// The chunks of a buffer: equal parts of `count`, or those of `starts`.
struct Chunks {
  int n = 0;
  std::int64_t count = 0;
  std::span<const std::int64_t> starts;
  [[nodiscard]] std::int64_t elements(int first, int num) const {
    if (starts.empty()) return elements_of({first, num}, n, count).count;
    return starts[static_cast<std::size_t>(first + num)] - starts[static_cast<std::size_t>(first)];
  }
  [[nodiscard]] std::int64_t of(int c) const { return elements(c % n, 1); }
};

std::int64_t doubling_elements(const Chunks& chunks, int i) {
  std::int64_t sum = 0;
  for (int d = 1; d < chunks.n; d *= 2) sum += chunks.elements(i & ~(d - 1), d);
  return sum;
}

// How many of 2p+1, 2p+2 are below n.
int children(int place, int n) { return std::clamp(n - 1 - 2 * place, 0, 2); }

std::int64_t gather_elements(CollectiveAlgorithm a, const Chunks& chunks, int i) {
  switch (a) {
    case CollectiveAlgorithm::direct:
      return (chunks.n - 1) * chunks.of(i);
    case CollectiveAlgorithm::halving_doubling:
      return doubling_elements(chunks, i);
    case CollectiveAlgorithm::ring:
    case CollectiveAlgorithm::tree:
      break;
  }
  return chunks.count - chunks.of(i + 1);
}

std::int64_t broadcast_elements(CollectiveAlgorithm a, int n, int place, std::int64_t count) {
  switch (a) {
    case CollectiveAlgorithm::direct:
      return place == 0 ? (n - 1) * count : 0;
    case CollectiveAlgorithm::ring:
      return place == n - 1 ? 0 : count;
    case CollectiveAlgorithm::tree:
    case CollectiveAlgorithm::halving_doubling:
      break;
  }
  return children(place, n) * count;
}

std::int64_t sent(Collective collective, CollectiveAlgorithm wanted, const Chunks& chunks, int i,
                  int root) {
  const int n = chunks.n;
  if (n == 1) return 0;
  const CollectiveAlgorithm a = effective_algorithm(collective, wanted, n);
  const int place = (i - root + n) % n;
  switch (collective) {
    case Collective::broadcast:
      return broadcast_elements(a, n, place, chunks.count);
    case Collective::all_gather:
      return gather_elements(a, chunks, i);
    case Collective::reduce_scatter:
      return chunks.count - chunks.of(i);
    case Collective::all_reduce:
      break;
  }
  if (a == CollectiveAlgorithm::tree)
    return chunks.count * (children(place, n) + (place == 0 ? 0 : 1));
  return chunks.count - chunks.of(i) + gather_elements(a, chunks, i);
}

int log2_floor(int n) { return std::bit_width(static_cast<unsigned>(n)) - 1; }

}  // namespace

std::int64_t elements_sent(Collective collective, CollectiveAlgorithm wanted, int n, int i,
                           std::int64_t count, int root) {
  return sent(collective, wanted, {n, count, {}}, i, root);
}

std::int64_t elements_sent(Collective collective, CollectiveAlgorithm wanted,
                           std::span<const std::int64_t> starts, int i) {
  TANDEM_CHECK(collective != Collective::broadcast && starts.size() > 1 && starts[0] == 0,
               "{} of parts that it does not have", name_of(collective));
  return sent(collective, wanted, {static_cast<int>(starts.size()) - 1, starts.back(), starts}, i,
              0);
}

int latency_steps(Collective collective, CollectiveAlgorithm wanted, int n) {
  if (n == 1) return 0;
  const int halves = collective == Collective::all_reduce ? 2 : 1;
  switch (effective_algorithm(collective, wanted, n)) {
    case CollectiveAlgorithm::ring:
      return halves * (n - 1);
    case CollectiveAlgorithm::direct:
      return halves;
    case CollectiveAlgorithm::halving_doubling:
    case CollectiveAlgorithm::tree:
      return halves * log2_floor(n);
  }
  return 0;
}

double bus_factor(Collective collective, int n) {
  const double share = static_cast<double>(n - 1) / n;
  switch (collective) {
    case Collective::all_reduce:
      return 2 * share;
    case Collective::all_gather:
    case Collective::reduce_scatter:
      return share;
    case Collective::broadcast:
      break;
  }
  return 1;
}

}  // namespace tandem
