#include "exec/train/near_tie.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace tandem::exec {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a group brings to the comparison.
struct Group {
  double sum = 0;                    // of its c best
  double best_refused = -kInfinity;  // of its experts that were not chosen
  bool has_chosen = false;
};

std::vector<Group> groups_of(std::span<const double> scores, const std::vector<char>& is_chosen,
                             const MoeSpec& moe) {
  const auto width = static_cast<std::size_t>(moe.experts / moe.groups);
  const std::size_t counted = moe.group_max ? 1 : std::min<std::size_t>(2, width);
  std::vector<Group> out(static_cast<std::size_t>(moe.groups));
  for (std::size_t g = 0; g < out.size(); ++g) {
    std::vector<double> own(scores.begin() + static_cast<std::ptrdiff_t>(g * width),
                            scores.begin() + static_cast<std::ptrdiff_t>((g + 1) * width));
    for (std::size_t e = 0; e < width; ++e)
      if (is_chosen[g * width + e])
        out[g].has_chosen = true;
      else
        out[g].best_refused = std::max(out[g].best_refused, own[e]);
    std::partial_sort(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(counted), own.end(),
                      std::greater<>());
    for (std::size_t i = 0; i < counted; ++i) out[g].sum += own[i] / static_cast<double>(counted);
  }
  return out;
}

}  // namespace

double choice_gap(std::span<const double> scores, std::span<const std::int32_t> chosen,
                  const MoeSpec& moe) {
  std::vector<char> is_chosen(scores.size(), 0);
  double worst_chosen = kInfinity;
  for (std::int32_t e : chosen) {
    if (e < 0 || e >= std::ssize(scores) || is_chosen[static_cast<std::size_t>(e)])
      return kInfinity;
    is_chosen[static_cast<std::size_t>(e)] = 1;
    worst_chosen = std::min(worst_chosen, scores[static_cast<std::size_t>(e)]);
  }
  const std::vector<Group> groups = groups_of(scores, is_chosen, moe);
  // Kept for certain: groups of chosen experts. `others` by sum, largest first.
  std::vector<Group> others;
  double refused = -kInfinity, least_kept = kInfinity;
  int kept = 0;
  for (const Group& g : groups) {
    if (!g.has_chosen) {
      others.push_back(g);
      continue;
    }
    ++kept;
    refused = std::max(refused, g.best_refused);
    least_kept = std::min(least_kept, g.sum);
  }
  const int more = moe.groups_kept - kept;  // kept groups of which nothing was chosen
  if (more < 0 || more > std::ssize(others)) return kInfinity;
  std::stable_sort(others.begin(), others.end(),
                   [](const Group& a, const Group& b) { return a.sum > b.sum; });
  // Each of them adds its best expert to the refused ones. For every bound on these, the best
  // groups below it are the ones to take.
  std::vector<double> bounds = {-kInfinity};
  if (more > 0) {
    bounds.clear();
    for (const Group& g : others) bounds.push_back(g.best_refused);
  }
  double least = kInfinity;
  for (double bound : bounds) {
    double refused_here = refused, kept_here = least_kept, out_here = -kInfinity;
    int left = more;
    for (const Group& g : others)
      if (left > 0 && g.best_refused <= bound) {
        --left;
        refused_here = std::max(refused_here, g.best_refused);
        kept_here = std::min(kept_here, g.sum);
      } else {
        out_here = std::max(out_here, g.sum);
      }
    if (left == 0)
      least = std::min(least, std::max(refused_here - worst_chosen, out_here - kept_here));
  }
  return least;
}

}  // namespace tandem::exec
