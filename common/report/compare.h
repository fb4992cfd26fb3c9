// Predicted against measured: one plan, two timelines, joined by (op, rank, step).
//
//   Step   T = the longest own step of any rank, in ns (what `iteration_s` counts). Of several
//          measured steps the median one by T is compared (of two middle ones the shorter, so that
//          it is a step that happened). A prediction of several steps is treated the same way.
//   Error  error_rel = T predicted / T measured - 1.
//   Waterfall  every rank's step is cut into parts (parts.h) and filled up with idle to T, so the
//          parts of every rank sum to T, their mean over ranks is T, and the differences of the
//          means sum to T predicted - T measured, exactly. Sums over ranks are kept as integers;
//          the division by the number of ranks happens when a number is printed.
//   Ops    the duration of an op is ended - started (transfer time of a communication). Measured:
//          the median over all measured steps. error = predicted / measured - 1.
// docs/learn/ch08_compare.md reads them in an example.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/plan/plan.h"
#include "common/report/parts.h"
#include "common/timeline/timeline.h"

namespace tandem {

// One bar of the waterfall. Sums over all compared ranks, in ns.
struct WaterfallPart {
  PartKey key;
  std::string name;  // "waiting edge:0->1"
  std::int64_t predicted_sum_ns = 0, measured_sum_ns = 0;
  [[nodiscard]] std::int64_t difference_sum_ns() const {
    return predicted_sum_ns - measured_sum_ns;
  }
};

struct OpError {
  OpId op;
  std::int32_t rank = 0;
  std::string name;
  std::int64_t predicted_ns = 0, measured_ns = 0;
  double error = 0;  // predicted / measured - 1; measured is > 0
};

// Starts of ops of one rank over all its streams, predicted order against measured order.
struct RankOrder {
  std::int32_t rank = 0;
  double correlation = 1;       // Spearman's, equal times share a place
  std::int64_t inversions = 0;  // pairs of ops that start in the other order
};
// Two ops that follow each other in the prediction and start the other way round in reality.
struct Inversion {
  std::int32_t rank = 0;
  OpId first, second;  // by predicted start
  std::string first_name, second_name;
  std::int64_t predicted_gap_ns = 0, measured_gap_ns = 0;  // start of second - start of first
};

struct RankMemory {
  std::int32_t rank = 0;
  Bytes predicted = 0, measured = 0;  // peak of the sum
  ClassBytes predicted_by_class{}, measured_by_class{};
  [[nodiscard]] double error() const;
};

struct CommTotals {  // of one communicator, over all compared ranks, in the compared step
  std::string name;
  std::int64_t ops = 0, bytes = 0;
  std::int64_t predicted_transfer_ns = 0, measured_transfer_ns = 0;
  std::int64_t predicted_waiting_ns = 0, measured_waiting_ns = 0;
};

struct Comparison {
  std::vector<int> ranks;  // that both timelines hold
  std::int32_t predicted_step = 0, measured_step = 0;
  std::int64_t predicted_ns = 0, measured_ns = 0;  // T
  std::vector<std::int64_t> measured_steps_ns;     // T of every measured step, in order
  double error_rel = 0;
  std::vector<WaterfallPart> waterfall;  // by kind, then by index; no part that is 0 on both sides
  // Over all joined ops that take time; the same over compute ops and over communications.
  double median_op_error = 0, median_compute_error = 0, median_communication_error = 0;
  std::int64_t joined_ops = 0, untimed_ops = 0;  // untimed: measured as 0 ns
  // Median of |start measured - start predicted| over the joined ops, each from the earliest start
  // of the step on any rank: in ns, and in units of the mean predicted time of a stage visit (the
  // compute ops of one F, I, W or B of one stage and microbatch, or slice of it; 0 without any).
  std::int64_t median_start_error_ns = 0;
  double median_start_error_visits = 0;
  std::vector<OpError> worst_ops;  // by |predicted - measured|, largest first
  std::vector<RankOrder> order;
  std::vector<Inversion> inversions;  // by measured gap, largest first
  double order_correlation = 1;       // the smallest of `order`
  std::vector<RankMemory> memory;
  std::optional<double> peak_memory_error;  // of the rank where it is largest, signed
  std::vector<CommTotals> communicators;
  std::int64_t clock_skew_ns = 0;          // 0: none seen; see W-TIME-001
  std::optional<double> replay_error_rel;  // filled by the caller, who runs the simulator
  std::map<std::string, std::string> predicted_meta, measured_meta;
  Diagnostics warnings;

  [[nodiscard]] double mean_ns(std::int64_t sum_over_ranks) const {
    return static_cast<double>(sum_over_ranks) / static_cast<double>(ranks.size());
  }
};

struct CompareOptions {
  int num_worst_ops = 20, num_inversions = 20;
  std::string predicted_name = "predicted", measured_name = "measured";  // for messages
};

// Checks both timelines against the plan first. E-TIME-003 to -007.
[[nodiscard]] Result<Comparison> compare(const Plan& plan, const Timeline& predicted,
                                         const Timeline& measured,
                                         const CompareOptions& options = {});

// For replay: what each op really took, the median over steps. Simulate with these durations; the
// step error that is left is the scheduling model's, the rest of error_rel the cost model's.
struct MeasuredDurations {
  // Compute ops: one duration per call, ns (the time between calls goes to the call after it, so
  // that they sum to the op). Other ops: one number, ended - started.
  std::map<std::pair<OpId, int>, std::vector<std::int64_t>> by_op_and_rank;
};
[[nodiscard]] MeasuredDurations measured_durations(const Plan& plan, const Timeline& measured);

// For the terminal: the summary in words, the waterfall with bars, worst ops, order, memory.
[[nodiscard]] std::string to_text(const Comparison& c);
// The summary alone: "predicted 123 ms, measured 131 ms, -6.1 %; the largest part ...".
[[nodiscard]] std::string summary_line(const Comparison& c);
// Differences by kind of part, largest first: "waiting -1.54 ms, compute -374 us, host -44 us".
[[nodiscard]] std::string kinds_line(const Comparison& c);
// Keys of cli.md: error_rel, waterfall{name: seconds}, replay_error_rel, median_op_error,
// peak_memory_error; and predicted_s, measured_s, parts[], worst_ops[], order[], memory[], ...
[[nodiscard]] nlohmann::json to_json(const Comparison& c);

}  // namespace tandem
