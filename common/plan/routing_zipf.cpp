#include "common/plan/routing_zipf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/base/powers.h"
#include "common/base/rng.h"

namespace tandem {
namespace {

constexpr std::uint64_t kPlaces = fnv1a64("routing.zipf.places");
constexpr std::uint64_t kOffsets = fnv1a64("routing.zipf.offsets");

std::array<std::uint32_t, 2> key_of(std::uint64_t seed, std::uint64_t stream) {
  const std::uint64_t key = seed ^ stream;
  return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

// Place 0.. of each expert in the order of popularity: a shuffle (Fisher, Yates).
std::vector<std::size_t> places_of(std::size_t experts, int layer, std::uint64_t seed) {
  std::vector<std::size_t> place(experts);
  std::iota(place.begin(), place.end(), std::size_t{0});
  for (std::size_t i = experts; i-- > 1;) {
    const std::uint32_t word =
        philox4x32({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(layer), 0, 0},
                   key_of(seed, kPlaces))[0];
    std::swap(place[i], place[static_cast<std::size_t>(std::uint64_t{word} * (i + 1) >> 32)]);
  }
  return place;
}

// pi by place, descending: the first ones are 1, the rest in proportion to their weights.
std::vector<double> inclusions(std::size_t experts, std::int64_t top_k, double exponent) {
  std::vector<double> pi(experts);
  double rest = 0;  // of the weights that are not sure
  for (std::size_t k = experts; k-- > 0;)
    rest += pi[k] = power(static_cast<double>(k + 1), -exponent);
  double left = static_cast<double>(top_k);
  for (std::size_t k = 0; k < experts; ++k) {
    if (left > 0 && pi[k] * left >= rest) {
      rest -= pi[k];
      pi[k] = 1;
      left -= 1;
      continue;
    }
    // All that follow have less weight. Summed anew: differences have lost the small ones.
    rest = 0;
    for (std::size_t i = experts; i-- > k;) rest += pi[i];
    for (std::size_t i = k; i < experts; ++i) pi[i] = left * pi[i] / rest;
    break;
  }
  return pi;
}

// Means of the counts by place, in units of 2^-kFraction rows, so that sums are exact: they sum to
// tokens * top_k, and none is above tokens.
constexpr int kFraction = 24;
std::vector<std::int64_t> means(const RoutedPlace& place, double exponent) {
  const std::int64_t top_k = place.kernel->dims[3];
  const std::vector<double> pi =
      inclusions(static_cast<std::size_t>(place.experts()), top_k, exponent);
  std::vector<std::int64_t> out;
  std::int64_t missing = place.assignments() << kFraction;
  for (const double p : pi) {
    const double mean = static_cast<double>(place.tokens()) * p * (1 << kFraction);
    out.push_back(static_cast<std::int64_t>(std::floor(mean + 0.5)));
    missing -= out.back();
  }
  // What rounding has left, less than a thousandth of a row: the least popular take it, or the most
  // popular of those that are not sure give it.
  if (missing > 0) out.back() += missing;
  if (missing < 0)
    *std::find_if(out.begin(), out.end(),
                  [&](std::int64_t mean) { return mean < place.tokens() << kFraction; }) += missing;
  return out;
}

class Zipf {
 public:
  Zipf(double exponent, std::uint64_t seed) : exponent_(exponent), seed_(seed) {}

  void draw(const RoutedPlace& place, std::span<std::int32_t> kept) {
    const std::size_t experts = kept.size();
    auto [mean, fresh] =
        means_.try_emplace({place.tokens(), place.experts(), place.kernel->dims[3]});
    if (fresh) mean->second = means(place, exponent_);
    auto [order, fresh_layer] = places_.try_emplace({place.layer, experts});
    if (fresh_layer) order->second = places_of(experts, place.layer, seed_);
    // At most 2^20 microbatches (limits.h): the slice stands above them.
    const std::uint32_t visit = static_cast<std::uint32_t>(place.microbatch) |
                                static_cast<std::uint32_t>(place.slice) << 20;
    const PhiloxWords words =
        philox4x32({static_cast<std::uint32_t>(place.step), static_cast<std::uint32_t>(place.layer),
                    visit, static_cast<std::uint32_t>(place.rank.value)},
                   key_of(seed_, kOffsets));
    std::int64_t sum = words[0] >> (32 - kFraction), before = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      sum += mean->second[order->second[e]];
      const std::int64_t end = sum >> kFraction;
      kept[e] = static_cast<std::int32_t>(std::min(end - before, place.most_rows()));
      before = end;
    }
  }

 private:
  double exponent_;
  std::uint64_t seed_;
  std::map<std::array<std::int64_t, 3>, std::vector<std::int64_t>>
      means_;  // tokens, experts, top_k
  std::map<std::pair<int, std::size_t>, std::vector<std::size_t>> places_;  // by layer, experts
};

}  // namespace

RoutingSource zipf_routing(double exponent, std::uint64_t seed) {
  return [zipf = std::make_shared<Zipf>(exponent, seed)](
             const RoutedPlace& place, std::span<std::int32_t> kept) { zipf->draw(place, kept); };
}

}  // namespace tandem
