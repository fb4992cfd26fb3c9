// Runs the lists of all ranks in O(actions): a rank goes on until an input is missing, then sleeps
// under that input's key, and is woken when the key is done. Keys are dense numbers chosen by the
// caller. Used by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace tandem {

class WaitingRanks {
 public:
  WaitingRanks(std::size_t num_ranks, std::size_t num_keys)
      : first_(num_keys, kNone), next_(num_ranks, kNone) {
    for (std::size_t r = num_ranks; r-- > 0;) awake_.push_back(static_cast<std::int32_t>(r));
  }
  // A rank that can be tried; none: all have ended, or wait for what nobody will do.
  [[nodiscard]] std::optional<std::size_t> take() {
    if (awake_.empty()) return {};
    const auto rank = static_cast<std::size_t>(awake_.back());
    awake_.pop_back();
    return rank;
  }
  void sleep(std::size_t rank, std::size_t key) {
    next_[rank] = first_[key];
    first_[key] = static_cast<std::int32_t>(rank);
  }
  void done(std::size_t key) {
    for (std::int32_t r = first_[key]; r != kNone; r = next_[static_cast<std::size_t>(r)])
      awake_.push_back(r);
    first_[key] = kNone;
  }

 private:
  static constexpr std::int32_t kNone = -1;
  std::vector<std::int32_t> first_, next_;  // sleepers of a key, as lists through the ranks
  std::vector<std::int32_t> awake_;
};

}  // namespace tandem
