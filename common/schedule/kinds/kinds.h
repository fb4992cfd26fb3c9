// One declaration per generator; the rule stands in the file of the same name. Every generator is
// pure and deterministic: p, m, v and options in, an order or an error with the arithmetic out.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/schedule/order.h"
#include "common/schedule/registry.h"

namespace tandem {

#define TANDEM_SCHEDULE(name) \
  [[nodiscard]] Result<Order> name(const PipelineShape& shape, const ScheduleOptions& options)
TANDEM_SCHEDULE(gpipe);
TANDEM_SCHEDULE(one_f_one_b);
TANDEM_SCHEDULE(eager_1f1b);
TANDEM_SCHEDULE(interleaved_1f1b);
TANDEM_SCHEDULE(bfs);
TANDEM_SCHEDULE(zb_h1);
TANDEM_SCHEDULE(interleaved_zb);
TANDEM_SCHEDULE(zb_h2);
TANDEM_SCHEDULE(zbv);
TANDEM_SCHEDULE(v_half);
TANDEM_SCHEDULE(v_min);
TANDEM_SCHEDULE(dualpipe);
TANDEM_SCHEDULE(dualpipev);
TANDEM_SCHEDULE(chimera);
TANDEM_SCHEDULE(hanayo);
TANDEM_SCHEDULE(seq1f1b);
TANDEM_SCHEDULE(zb_greedy);
#undef TANDEM_SCHEDULE

// --- words that the rules share (helpers.cpp) ---
// An order without actions; the number of ranks and of microbatches of `shape`.
[[nodiscard]] Order empty_order(const PipelineShape& shape, std::vector<int> stage_rank);
// Stage s on rank s: the placement of the kinds with one stage a rank.
[[nodiscard]] Order linear_order(const PipelineShape& shape);

// f[0..w-1]; then f[w+x], b[x] in turn; then the last w of b. As many f as b, w <= their number.
void alternate(RankOrder& list, const std::vector<Action>& f, const std::vector<Action>& b, int w);

// The turns of interleaved kinds: for each group of g microbatches (the last may be shorter), chunk
// by chunk, its microbatches.
struct Turn {
  int microbatch = 0, chunk = 0;
};
[[nodiscard]] std::vector<Turn> turns(int num_microbatches, int num_chunks, int group);
// Size of these groups, by option `group` or the rule of schedules.md 2.4.
[[nodiscard]] Result<int> group_size(const std::string& kind, const PipelineShape& shape,
                                     const ScheduleOptions& options);

// Appends actions to a rank's list, each with the next microbatch of its stage and copy: F has one
// counter, I and B share one, W has one.
class Writer {
 public:
  explicit Writer(RankOrder& list) : list_(list) {}
  Action next(ActionKind kind, int stage, int dir = 0);
  Action put(ActionKind kind, int stage, int dir = 0) {
    return list_.emplace_back(next(kind, stage, dir));
  }

 private:
  struct Counters {
    int stage, dir, next[3] = {0, 0, 0};
  };
  RankOrder& list_;
  std::vector<Counters> counters_;  // of the few stages of a rank
};

// --- options ---
[[nodiscard]] std::string option(const ScheduleOptions& options, const char* name,
                                 const char* otherwise);
[[nodiscard]] Result<int> int_option(const std::string& kind, const ScheduleOptions& options,
                                     const char* name, int otherwise);
[[nodiscard]] Result<bool> bool_option(const std::string& kind, const ScheduleOptions& options,
                                       const char* name, bool otherwise);

// Option `backward`: whether the microbatches of a stage's backwards run last in, first out.
[[nodiscard]] Result<bool> backward_lifo(const std::string& kind, const ScheduleOptions& options,
                                         bool otherwise);

// An empty order of two copies of the model, stage s on rank s and on rank p-1-s; an error where
// ranks or microbatches are odd. `instead`: a kind that takes odd ranks; may be empty.
[[nodiscard]] Result<Order> two_way_order(const std::string& kind, const PipelineShape& shape,
                                          const std::string& instead = "");

// The title is schedules.md's `sched/<kind>: ...`.
[[nodiscard]] Error schedule_error(const std::string& kind, const std::string& fact,
                                   const std::string& found, const std::string& expected,
                                   const std::string& hint);
// `m=3 is smaller than p=4; <why>; <how to mend>`
[[nodiscard]] Error too_few_microbatches(const std::string& kind, int m, const std::string& least,
                                         int least_value, const std::string& why);

}  // namespace tandem
