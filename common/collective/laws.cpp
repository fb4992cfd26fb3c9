#include "common/collective/laws.h"

#include <algorithm>
#include <bit>

namespace tandem {
namespace {

std::int64_t chunk(int c, int n, std::int64_t count) {
  return elements_of({c % n, 1}, n, count).count;
}

std::int64_t doubling_elements(int n, int i, std::int64_t count) {
  std::int64_t sum = 0;
  for (int d = 1; d < n; d *= 2) sum += elements_of({i & ~(d - 1), d}, n, count).count;
  return sum;
}

// How many of 2p+1, 2p+2 are below n.
int children(int place, int n) { return std::clamp(n - 1 - 2 * place, 0, 2); }

std::int64_t gather_elements(CollectiveAlgorithm a, int n, int i, std::int64_t count) {
  switch (a) {
    case CollectiveAlgorithm::direct:
      return (n - 1) * chunk(i, n, count);
    case CollectiveAlgorithm::halving_doubling:
      return doubling_elements(n, i, count);
    case CollectiveAlgorithm::ring:
    case CollectiveAlgorithm::tree:
      break;
  }
  return count - chunk(i + 1, n, count);
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

int log2_floor(int n) { return std::bit_width(static_cast<unsigned>(n)) - 1; }

}  // namespace

std::int64_t elements_sent(Collective collective, CollectiveAlgorithm wanted, int n, int i,
                           std::int64_t count, int root) {
  if (n == 1) return 0;
  const CollectiveAlgorithm a = effective_algorithm(collective, wanted, n);
  const int place = (i - root + n) % n;
  switch (collective) {
    case Collective::broadcast:
      return broadcast_elements(a, n, place, count);
    case Collective::all_gather:
      return gather_elements(a, n, i, count);
    case Collective::reduce_scatter:
      return count - chunk(i, n, count);
    case Collective::all_reduce:
      break;
  }
  if (a == CollectiveAlgorithm::tree) return count * (children(place, n) + (place == 0 ? 0 : 1));
  return count - chunk(i, n, count) + gather_elements(a, n, i, count);
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
