// Step `streams`: the waits of each op on ops of other streams of its program.
//
//   Needed   by every buffer an op uses: the last op that wrote it (read after write, write after
//            write); where it writes or is the last user (its free): also all that read it since.
//   Implied  what has ended before an op starts: for each stream a position. An op inherits it from
//            the op before it on its stream and from the ops it waits for. Needed waits that are
//            implied, or by a later one on the same stream, are left out.
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

class Waits {
 public:
  Waits(Draft& d, std::vector<Op>& ops)
      : d_(d),
        ops_(ops),
        num_streams_(d.plan.streams.size()),
        ended_(ops.size() * num_streams_, kNone),
        tail_(num_streams_, kNone),
        last_use_(d.plan.buffers.size(), kNone),
        shifted_(d.plan.buffers.size(), 0),
        writer_(d.plan.buffers.size(), kNone) {}

  void run() {
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      for_each_root_use(d_.plan, ops_[i], [&](BufferId id, Use) {
        last_use_[id.index()] = static_cast<std::int32_t>(i);
      });
      if (ops_[i].kind == OpKind::shift && ops_[i].source.valid())
        shifted_[root_of(d_.plan, ops_[i].source).index()] = 1;
    }
    for (std::size_t i = 0; i < ops_.size(); ++i) place(static_cast<std::int32_t>(i));
    TANDEM_CHECK(unfreed_.empty(), "no op behind the ring of buffer {}", unfreed_[0].buffer.value);
  }

 private:
  static constexpr std::int32_t kNone = -1;

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
    if (!shifted_[id.index()]) return false;
    if (ops_[static_cast<std::size_t>(i)].kind == OpKind::shift) return true;
    const auto readers = readers_.find(id);
    return readers != readers_.end() &&
           std::any_of(readers->second.begin(), readers->second.end(),
                       [&](std::int32_t r) { return stream_of(r) != stream_of(i); });
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

  // The latest op needed on each stream.
  std::vector<std::int32_t> needed(std::int32_t i) {
    std::vector<std::int32_t> need(num_streams_, kNone);
    const auto want = [&](std::int32_t op) {
      if (op != kNone) need[stream_of(op)] = std::max(need[stream_of(op)], op);
    };
    for_each_root_use(d_.plan, ops_[static_cast<std::size_t>(i)], [&](BufferId id, Use use) {
      want(writer_[id.index()]);
      const bool frees = last_use_[id.index()] == i && !lives_for_the_run(d_.plan.buffer(id).cls) &&
                         !leaves_free(i, id);
      const auto readers = readers_.find(id);
      if ((writes(use) || frees) && readers != readers_.end())
        for (std::int32_t r : readers->second) want(r);
    });
    return need;
  }

  void place(std::int32_t i) {
    Op& op = ops_[static_cast<std::size_t>(i)];
    const std::size_t own = op.stream.index();
    if (tail_[own] != kNone) inherit(i, tail_[own]);
    std::vector<std::int32_t> need = needed(i);
    need[own] = kNone;
    std::vector<OpId> waits;
    // From the latest on: a later op often implies an earlier one on another stream.
    std::vector<std::int32_t> candidates;
    for (std::int32_t n : need)
      if (n != kNone) candidates.push_back(n);
    std::sort(candidates.rbegin(), candidates.rend());
    for (std::int32_t n : candidates) {
      if (ended(i, stream_of(n)) >= n) continue;
      inherit(i, n);
      waits.push_back(OpId{n});
    }
    std::sort(waits.begin(), waits.end());
    op.waits = d_.refs(waits);
    tail_[own] = i;
    free_what_is_behind(i);
    for_each_root_use(d_.plan, op, [&](BufferId id, Use use) {
      if (writes(use)) {
        writer_[id.index()] = i;
        readers_.erase(id);
      }
    });
    for_each_root_use(d_.plan, op, [&](BufferId id, Use use) {
      // The host issues later ops only when its wait is over: nobody has to wait for it.
      if (writes(use) || writer_[id.index()] == i || op.kind == OpKind::host_wait) return;
      // Of several readers on one stream the last one stands for all.
      std::vector<std::int32_t>& readers = readers_[id];
      std::erase_if(readers, [&](std::int32_t r) { return stream_of(r) == own; });
      readers.push_back(i);
    });
    for_each_root_use(d_.plan, op, [&](BufferId id, Use) {
      if (last_use_[id.index()] != i) return;
      if (leaves_free(i, id)) {
        Unfreed u{id, {i}};
        for (std::int32_t r : readers_[id])
          if (r != i) u.users.push_back(r);
        unfreed_.push_back(std::move(u));
      }
      readers_.erase(id);
    });
  }

  Draft& d_;
  std::vector<Op>& ops_;
  std::size_t num_streams_;
  std::vector<std::int32_t> ended_;     // [op][stream]: position that has ended before it starts
  std::vector<std::int32_t> tail_;      // by stream
  std::vector<std::int32_t> last_use_;  // by buffer
  std::vector<char> shifted_;           // by buffer: a shift hands it over
  std::vector<std::int32_t> writer_;    // by buffer
  std::map<BufferId, std::vector<std::int32_t>> readers_;  // since the last write
  std::vector<Unfreed> unfreed_;
};

}  // namespace

void streams(Draft& d) {
  for (std::vector<Op>& ops : d.programs) Waits(d, ops).run();
}

}  // namespace tandem::lower
