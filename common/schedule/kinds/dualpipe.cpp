// DualPipe and DualPipeV: forward of one microbatch and backward of another in one cell, so that
// the exchanges of experts of one run beside the computing of the other.
//
//   dualpipe    two copies of the model, one in each direction: h = p/2, q = min(r, p-1-r), M =
//   m/2;
//               X = stage q of direction d0, Y = stage p-1-q of the other one; d0 = 0 if r < h
//   dualpipev   one copy on a V: h = p, q = r, M = m; X = stage r, Y = stage 2p-1-r
//   1  2(h-q-1)    F(X)                        5  (h-q-1)  B(Y), cell(F(Y); B(X))
//   2  (q+1)       F(X) F(Y)                   6  (q+1)    B or I of Y, of X (half way: split)
//   3  (h-q-1)     I(Y) W F(Y)                 7  (h-q-1)  W, I(X)
//   4  (M-2h+q+1)  cell(F(X); B(Y)), cell(F(Y); B(X)); the mid rank's very first cell is two plain
//                  ops                         8  (q+1)    W
//   Option  fuse=false writes F then B instead of a cell
//   Laws    makespan 2MT - (2(M-h)-1)(F+B-FB) + idle(mid), T = F+I+W; idle(mid) =
//   max((h-1)(FB+F-2W),
//           (h-1)(FB+I-2W)-F, (h-1)(FB+F-I-W), (h-1)(FB-W)-F), 0 for h = 1 (the README's bubble
//           holds for F = I >= W)    live p+1, dualpipev 2p+1 visits
//   Source  deepseek-ai/DualPipe; torch ScheduleDualPipeV; schedules.md 2.12.
#include <algorithm>
#include <deque>

#include "common/base/check.h"
#include "common/schedule/kinds/kinds.h"

namespace tandem {
namespace {

struct Half {  // X or Y: a stage of a copy
  int stage, dir;
};

class Rank {
 public:
  Rank(RankOrder& list, Half x, Half y, bool fuse)
      : list_(list), writer_(list), x_(x), y_(y), fuse_(fuse) {}

  void run(int h, int q, int num) {
    for (int k = 0; k < 2 * (h - q - 1); ++k) f(x_);
    for (int k = 0; k < q + 1; ++k) f(x_), f(y_);
    for (int k = 0; k < h - q - 1; ++k) i(y_), w(), f(y_);
    for (int k = 0; k < num - 2 * h + q + 1; ++k) {
      cell(x_, y_, k == 0 && q == h - 1);
      cell(y_, x_, false);
    }
    for (int k = 0; k < h - q - 1; ++k) b(y_), cell(y_, x_, false);
    bool split = false;
    for (int j = 0; j < q + 1; ++j) {
      const bool half_way = j == (q + 1) / 2;
      if (half_way && q % 2 == 1) split = true;
      split ? i(y_) : b(y_);
      if (half_way && q % 2 == 0) split = true;
      split ? i(x_) : b(x_);
    }
    for (int k = 0; k < h - q - 1; ++k) w(), i(x_);
    for (int k = 0; k < q + 1; ++k) w();
    TANDEM_CHECK(issued_.empty(), "{} W are left", issued_.size());
  }

 private:
  void f(Half at) { writer_.put(ActionKind::F, at.stage, at.dir); }
  void b(Half at) { writer_.put(ActionKind::B, at.stage, at.dir); }
  void i(Half at) { issued_.push_back(writer_.put(ActionKind::I, at.stage, at.dir)); }
  void w() {
    Action a = issued_.front();
    issued_.pop_front();
    a.kind = ActionKind::W;
    list_.push_back(a);
  }
  void cell(Half forward, Half backward, bool plain) {
    f(forward);
    b(backward);
    list_.back().fused = fuse_ && !plain;
  }

  RankOrder& list_;
  Writer writer_;
  Half x_, y_;
  bool fuse_;
  std::deque<Action> issued_;  // I whose W is to come
};

}  // namespace

Result<Order> dualpipe(const PipelineShape& shape, const ScheduleOptions& options) {
  const std::string kind = "dualpipe";
  const int p = shape.num_ranks, m = shape.num_microbatches;
  Result<Order> order = two_way_order(kind, shape, "dualpipev");
  if (!order) return order;
  if (m < 2 * p)
    return too_few_microbatches(kind, m, "2p", 2 * p,
                                "each direction fills p ranks with p microbatches");
  const Result<bool> fuse = bool_option(kind, options, "fuse", true);
  if (!fuse) return fuse.error();
  const int h = p / 2;
  for (int r = 0; r < p; ++r) {
    const int q = std::min(r, p - 1 - r), d0 = r < h ? 0 : 1;
    Rank(order->ranks[static_cast<std::size_t>(r)], {q, d0}, {p - 1 - q, 1 - d0}, *fuse)
        .run(h, q, m / 2);
  }
  return order;
}

Result<Order> dualpipev(const PipelineShape& shape, const ScheduleOptions& options) {
  const std::string kind = "dualpipev";
  const int p = shape.num_ranks, m = shape.num_microbatches;
  if (m < 2 * p) return too_few_microbatches(kind, m, "2p", 2 * p, "its two halves fill 2p stages");
  const Result<bool> fuse = bool_option(kind, options, "fuse", true);
  if (!fuse) return fuse.error();
  Order order = empty_order(shape, v_placement(p, 2));
  for (int r = 0; r < p; ++r)
    Rank(order.ranks[static_cast<std::size_t>(r)], {r, 0}, {2 * p - 1 - r, 0}, *fuse).run(p, r, m);
  return order;
}

}  // namespace tandem
