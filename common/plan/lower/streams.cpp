// Step `streams`: the waits of each op on ops of other streams of its program.
//
//   Needed   by every buffer an op uses: the last op that wrote it (read after write, write after
//            write); where it writes or is the last user (its free): also all that read it since.
//   Implied  what has ended before an op starts: for each stream a position. An op inherits it from
//            the op before it on its stream and from the ops it waits for. Needed waits that are
//            implied, or by a later one on the same stream, are left out.
//   Gathers  of ZeRO-3 without overlap (parallel.parameter_gather): each needs the last compute op
//            issued before it, and a compute op all gathers before it, whatever they use.
//   Ring     a block that is shifted is used by two ops that run beside each other, the shift and
//   its
//            attention. If the later one freed it, it would have to wait for the other; if the
//            shift freed it, the host would hold back what allocates behind it. So the first op
//            that has both behind it frees it.
#include <algorithm>

#include "common/base/check.h"
#include "common/plan/lower/draft.h"
#include "common/plan/uses.h"

namespace tandem::lower {
namespace {

constexpr std::int32_t kNone = -1;

// By buffer, the ops that have read it since it was written: one list in a pool, as most have one
// or none, and there are millions of buffers.
class Readers {
 public:
  explicit Readers(std::size_t buffers) : first_(buffers, kNone) {}
  [[nodiscard]] bool empty(BufferId id) const { return first_[id.index()] == kNone; }
  template <class F>
  void for_each(BufferId id, F&& f) const {
    for (std::int32_t n = first_[id.index()]; n != kNone;
         n = nodes_[static_cast<std::size_t>(n)].next)
      f(nodes_[static_cast<std::size_t>(n)].op);
  }
  // Instead of the one that `is_replaced` holds of, if there is one.
  template <class F>
  void add(BufferId id, std::int32_t op, F&& is_replaced) {
    for (std::int32_t n = first_[id.index()]; n != kNone;) {
      Node& node = nodes_[static_cast<std::size_t>(n)];
      if (is_replaced(node.op)) {
        node.op = op;
        return;
      }
      n = node.next;
    }
    std::int32_t n = free_;
    if (n != kNone) {
      free_ = nodes_[static_cast<std::size_t>(n)].next;
    } else {
      n = static_cast<std::int32_t>(nodes_.size());
      nodes_.emplace_back();
    }
    nodes_[static_cast<std::size_t>(n)] = {op, first_[id.index()]};
    first_[id.index()] = n;
  }
  void clear(BufferId id) {
    for (std::int32_t n = first_[id.index()]; n != kNone;) {
      const std::int32_t next = nodes_[static_cast<std::size_t>(n)].next;
      nodes_[static_cast<std::size_t>(n)].next = free_;
      free_ = n;
      n = next;
    }
    first_[id.index()] = kNone;
  }

 private:
  struct Node {
    std::int32_t op = kNone, next = kNone;
  };
  std::vector<std::int32_t> first_;  // node, by buffer
  std::vector<Node> nodes_;
  std::int32_t free_ = kNone;
};

// What is known of buffers, which belong to one program each: for all programs.
struct Uses {
  explicit Uses(const Plan& plan)
      : roots(roots_of(plan)),
        last_use(plan.buffers.size(), kNone),
        writer(plan.buffers.size(), kNone),
        shifted(plan.buffers.size(), 0),
        lives(live_for_the_run(plan)),
        readers(plan.buffers.size()) {}
  std::vector<BufferId> roots;
  std::vector<std::int32_t> last_use, writer;  // ops
  std::vector<char> shifted;                   // a shift hands it over
  std::vector<char> lives;                     // for the run
  Readers readers;                             // since the last write
};

class Waits {
 public:
  Waits(Draft& d, std::vector<Op>& ops, Uses& uses)
      : d_(d),
        ops_(ops),
        uses_(uses),
        num_streams_(d.plan.streams.size()),
        ended_(ops.size() * num_streams_, kNone),
        tail_(num_streams_, kNone),
        need_(num_streams_, kNone),
        gathers_overlap_(d.scenario.parallel.gather_overlap),
        last_gather_(num_streams_, kNone) {}

  void run() {
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      for_each_root_use(d_.plan, uses_.roots, ops_[i], [&](BufferId id, Use) {
        uses_.last_use[id.index()] = static_cast<std::int32_t>(i);
      });
      if (ops_[i].kind == OpKind::shift && ops_[i].source.valid())
        uses_.shifted[uses_.roots[ops_[i].source.index()].index()] = 1;
    }
    for (std::size_t i = 0; i < ops_.size(); ++i) place(static_cast<std::int32_t>(i));
    TANDEM_CHECK(unfreed_.empty(), "no op behind the ring of buffer {}", unfreed_[0].buffer.value);
  }

 private:
  std::int32_t& ended(std::int32_t op, std::size_t stream) {
    return ended_[static_cast<std::size_t>(op) * num_streams_ + stream];
  }
  [[nodiscard]] std::size_t stream_of(std::int32_t op) const {
    return ops_[static_cast<std::size_t>(op)].stream.index();
  }
  // Op `on` and all that had ended before it have ended before `op` starts.
  void inherit(std::int32_t op, std::int32_t on) {
    for (std::size_t s = 0; s < num_streams_; ++s)
      ended(op, s) = std::max(ended(op, s), ended(on, s));
    ended(op, stream_of(on)) = std::max(ended(op, stream_of(on)), on);
  }

  // A block of a ring whose last users have been placed.
  struct Unfreed {
    BufferId buffer;
    std::vector<std::int32_t> users;
  };
  // Whether `i`, the last op that uses the buffer, leaves its free to an op behind it.
  [[nodiscard]] bool leaves_free(std::int32_t i, BufferId id) {
    if (!uses_.shifted[id.index()]) return false;
    if (ops_[static_cast<std::size_t>(i)].kind == OpKind::shift) return true;
    bool elsewhere = false;
    uses_.readers.for_each(id, [&](std::int32_t r) { elsewhere |= stream_of(r) != stream_of(i); });
    return elsewhere;
  }
  void free_what_is_behind(std::int32_t i) {
    std::erase_if(unfreed_, [&](const Unfreed& u) {
      if (std::any_of(u.users.begin(), u.users.end(),
                      [&](std::int32_t user) { return ended(i, stream_of(user)) < user; }))
        return false;
      // What waits for the shift at once gains nothing by a longer life.
      if (u.users.size() > 1 || i > u.users[0] + 1) d_.freed_by[u.buffer] = i;
      return true;
    });
  }

  // Leaves in need_ the latest op needed on each stream.
  void find_needed(std::int32_t i) {
    std::fill(need_.begin(), need_.end(), kNone);
    const auto want = [&](std::int32_t op) {
      if (op != kNone) need_[stream_of(op)] = std::max(need_[stream_of(op)], op);
    };
    for_each_root_use(
        d_.plan, uses_.roots, ops_[static_cast<std::size_t>(i)], [&](BufferId id, Use use) {
          want(uses_.writer[id.index()]);
          if (uses_.readers.empty(id)) return;
          const bool frees =
              uses_.last_use[id.index()] == i && !uses_.lives[id.index()] && !leaves_free(i, id);
          if (writes(use) || frees) uses_.readers.for_each(id, want);
        });
    if (gathers_overlap_) return;
    const Op& op = ops_[static_cast<std::size_t>(i)];
    if (op.kind == OpKind::compute) {
      std::for_each(last_gather_.begin(), last_gather_.end(), want);
      last_compute_ = i;
    } else if (op.kind == OpKind::all_gather &&
               d_.plan.buffer(op.buffer).cls == BufferClass::param_full) {
      want(last_compute_);
      last_gather_[op.stream.index()] = i;
    }
  }

  void place(std::int32_t i) {
    Op& op = ops_[static_cast<std::size_t>(i)];
    const std::size_t own = op.stream.index();
    if (tail_[own] != kNone) inherit(i, tail_[own]);
    find_needed(i);
    need_[own] = kNone;
    // From the latest on: a later op often implies an earlier one on another stream.
    candidates_.clear();
    for (std::int32_t n : need_)
      if (n != kNone) candidates_.push_back(n);
    std::sort(candidates_.rbegin(), candidates_.rend());
    waits_.clear();
    for (std::int32_t n : candidates_) {
      if (ended(i, stream_of(n)) >= n) continue;
      inherit(i, n);
      waits_.push_back(OpId{n});
    }
    std::sort(waits_.begin(), waits_.end());
    op.waits = d_.refs(waits_);
    tail_[own] = i;
    free_what_is_behind(i);
    for_each_root_use(d_.plan, uses_.roots, op, [&](BufferId id, Use use) {
      if (writes(use)) {
        uses_.writer[id.index()] = i;
        uses_.readers.clear(id);
      }
    });
    for_each_root_use(d_.plan, uses_.roots, op, [&](BufferId id, Use use) {
      // The host issues later ops only when its wait is over: nobody has to wait for it.
      if (writes(use) || uses_.writer[id.index()] == i || holds_host(op.kind)) return;
      // Of several readers on one stream the last one stands for all.
      uses_.readers.add(id, i, [&](std::int32_t r) { return stream_of(r) == own; });
    });
    for_each_root_use(d_.plan, uses_.roots, op, [&](BufferId id, Use) {
      if (uses_.last_use[id.index()] != i) return;
      if (leaves_free(i, id)) {
        Unfreed u{id, {i}};
        uses_.readers.for_each(id, [&](std::int32_t r) {
          if (r != i) u.users.push_back(r);
        });
        unfreed_.push_back(std::move(u));
      }
      uses_.readers.clear(id);
    });
  }

  Draft& d_;
  std::vector<Op>& ops_;
  Uses& uses_;
  std::size_t num_streams_;
  std::vector<std::int32_t> ended_;  // [op][stream]: position that has ended before it starts
  std::vector<std::int32_t> tail_;   // by stream
  std::vector<std::int32_t> need_, candidates_;  // of the op that is placed
  bool gathers_overlap_;
  std::int32_t last_compute_ = kNone;
  std::vector<std::int32_t> last_gather_;  // by stream
  std::vector<OpId> waits_;
  std::vector<Unfreed> unfreed_;
};

}  // namespace

void streams(Draft& d) {
  Uses uses(d.plan);
  for (std::vector<Op>& ops : d.programs) Waits(d, ops, uses).run();
}

}  // namespace tandem::lower
