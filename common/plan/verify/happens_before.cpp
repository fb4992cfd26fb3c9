// V9 and V3.5: streams are ordered wherever data goes from one to the other, or to the host.
// Proves: of any two ops of a program that touch the same memory, one of them writing or freeing
// it, the first in issue order ends before the second begins, by the order of a stream, by waits
// (also over several ops) or by a host_wait between them, which all later ops come after. A write
// or a free that a send still in flight may read is V3.5. An op whose rows are counted at run time,
// in a buffer it allocates or in what it sends and receives, is issued when the host knows the
// counts: a host_wait lies between their last write and it (V9.2). Not: that waits are minimal;
// order that comes about through another program is not accepted. Method: vector clocks.
// clock(op)[t] is the last position of stream t that has ended before op begins; of every buffer
// the last read and write on each stream is kept.
#include <fmt/format.h>

#include <algorithm>

#include "common/plan/uses.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

// The last accesses of one stream to one buffer; a list for each buffer.
struct Access {
  std::int32_t stream, next;
  OpId read, write;
};

class HappensBefore {
 public:
  HappensBefore(const Plan& plan, Report& report)
      : plan_(plan), report_(report), head_(plan.buffers.size(), -1), views_(plan.buffers.size()) {
    for (std::size_t i = 0; i < plan.buffers.size(); ++i)
      if (plan.buffers[i].alias_of.valid())
        views_[plan.buffers[i].alias_of.index()].push_back(BufferId{static_cast<std::int64_t>(i)});
    position_.assign(plan.ops.size(), 0);
  }

  void run() {
    for (const Program& p : plan_.programs) {
      program(p);
      if (report_.full()) return;
    }
  }

 private:
  void program(const Program& p) {
    // Streams of this program, numbered from 0.
    local_.assign(plan_.streams.size(), -1);
    width_ = 0;
    for (std::uint32_t i = p.first_op; i < p.first_op + p.num_ops; ++i) {
      std::int32_t& s = local_[plan_.ops[i].stream.index()];
      if (s < 0) s = static_cast<std::int32_t>(width_++);
    }
    first_ = p.first_op;
    clocks_.assign(std::size_t{p.num_ops} * width_, -1);
    std::vector<std::int32_t> last(width_, -1), gate(width_, -1);  // position; host_wait's clock
    std::vector<OpId> last_op(width_);
    for (std::uint32_t i = p.first_op; i < p.first_op + p.num_ops && !report_.full(); ++i) {
      const OpId id{i};
      const Op& o = plan_.op(id);
      std::int32_t* clock = clock_of(id);
      std::copy(gate.begin(), gate.end(), clock);
      const auto s = static_cast<std::size_t>(local_[o.stream.index()]);
      if (last_op[s].valid()) join(clock, last_op[s], s, last[s]);
      for (OpId w : plan_.waits_of(o)) {
        const auto t = static_cast<std::size_t>(local_[plan_.op(w).stream.index()]);
        join(clock, w, t, position_[w.index()]);
      }
      position_[i] = ++last[s];
      last_op[s] = id;
      for_each_counts(o, [&](BufferId b) { known_to_host(id, b, gate); });
      for_each_use(plan_, o, [&](BufferId b, Use use) { access(id, b, use, false); });
      for (BufferId b : plan_.frees_of(o)) access(id, b, Use::write, true);
      if (holds_host(o.kind)) {
        std::copy(clock, clock + width_, gate.begin());
        gate[s] = position_[i];
      }
    }
  }

  std::int32_t* clock_of(OpId id) { return clocks_.data() + (id.index() - first_) * width_; }
  // What ended before `before` began, and `before` itself.
  void join(std::int32_t* clock, OpId before, std::size_t stream, std::int32_t position) {
    const std::int32_t* other = clock_of(before);
    for (std::size_t t = 0; t < width_; ++t) clock[t] = std::max(clock[t], other[t]);
    clock[stream] = std::max(clock[stream], position);
  }

  // Memory that may overlap: the buffer, its bucket, a bucket's views.
  void access(OpId id, BufferId b, Use use, bool frees) {
    check(id, b, use, frees);
    const BufferId root = plan_.buffer(b).alias_of;
    if (root.valid()) check(id, root, use, frees);
    for (BufferId v : views_[b.index()]) check(id, v, use, frees);
    if (!frees) record(id, b, use);  // a use after it is V3.2
  }

  void check(OpId id, BufferId b, Use use, bool frees) {
    const std::int32_t* clock = clock_of(id);
    const std::int32_t own = local_[plan_.op(id).stream.index()];
    for (std::int32_t a = head_[b.index()]; a >= 0;
         a = accesses_[static_cast<std::size_t>(a)].next) {
      Access& x = accesses_[static_cast<std::size_t>(a)];
      if (x.stream == own) continue;
      const auto ordered = [&](OpId before) {
        return !before.valid() || position_[before.index()] <= clock[x.stream];
      };
      if (!ordered(x.write))
        race(id, b, use, x.write, true, frees);
      else if (writes(use) && !ordered(x.read))
        race(id, b, use, x.read, false, frees);
    }
  }

  void race(OpId id, BufferId b, Use use, OpId before, bool wrote, bool frees) {
    const auto stream = [&](OpId op) { return plan_.streams[plan_.op(op).stream.index()]; };
    const char* verb = frees ? "frees" : use == Use::read ? "reads" : writes(use) ? "writes" : "";
    const bool in_flight = !wrote && plan_.op(before).kind == OpKind::send;
    const std::string facts =
        fmt::format("{} on stream {} {} {}, {} on stream {} {} it, no wait edge between them",
                    text_of(plan_, before), stream(before), wrote ? "writes" : "reads",
                    text_of(plan_, b), text_of(plan_, id), stream(id), verb);
    report_.add(
        {in_flight ? kLifetime : kHappensBefore,
         fmt::format("{} rank {} {}", in_flight ? "V3.5" : "V9", program_of(plan_, id).value,
                     facts),
         id,
         fmt::format("op {} does not wait for op {}", id.value, before.value),
         fmt::format("waits={} on op {}, or on an op that it comes after", before.value, id.value),
         in_flight ? "the send still reads it: free or write it when the send has ended"
                   : "add the wait",
         {before}});
  }

  // The counts that the host reads when it issues this op.
  template <class F>
  void for_each_counts(const Op& o, F&& f) const {
    for (BufferId b : plan_.allocates_of(o))
      if (plan_.buffer(b).rows_of.valid()) f(plan_.buffer(b).rows_of);
    for (BufferId b : {o.send_rows, o.recv_rows})
      if (b.valid()) f(b);
  }

  // `gate`: what of each stream had ended at the last host_wait.
  void known_to_host(OpId id, BufferId counts, const std::vector<std::int32_t>& gate) {
    for (std::int32_t a = head_[counts.index()]; a >= 0;
         a = accesses_[static_cast<std::size_t>(a)].next) {
      const Access& x = accesses_[static_cast<std::size_t>(a)];
      if (!x.write.valid() ||
          position_[x.write.index()] <= gate[static_cast<std::size_t>(x.stream)])
        continue;
      report_.add({kHappensBefore,
                   fmt::format("V9.2 rank {} {} has rows that {} counts, and the host does not "
                               "wait for what {} writes",
                               program_of(plan_, id).value, text_of(plan_, id),
                               text_of(plan_, counts), text_of(plan_, x.write)),
                   id,
                   "rows known only at run time, without a host_wait before the op",
                   fmt::format("a host_wait for buffer {} between op {} and op {}", counts.value,
                               x.write.value, id.value),
                   "wait for the counts on the host before ops of these rows are issued",
                   {x.write}});
      return;
    }
  }

  void record(OpId id, BufferId b, Use use) {
    const std::int32_t own = local_[plan_.op(id).stream.index()];
    std::int32_t a = head_[b.index()];
    while (a >= 0 && accesses_[static_cast<std::size_t>(a)].stream != own)
      a = accesses_[static_cast<std::size_t>(a)].next;
    if (a < 0) {
      a = static_cast<std::int32_t>(accesses_.size());
      accesses_.push_back({own, head_[b.index()], {}, {}});
      head_[b.index()] = a;
    }
    Access& x = accesses_[static_cast<std::size_t>(a)];
    if (reads(use)) x.read = id;
    if (writes(use)) x.write = id;
  }

  const Plan& plan_;
  Report& report_;
  std::vector<std::int32_t> head_;  // of a buffer's list in accesses_
  std::vector<std::vector<BufferId>> views_;
  std::vector<Access> accesses_;
  std::vector<std::int32_t> position_;  // of an op on its stream
  std::vector<std::int32_t> local_, clocks_;
  std::size_t width_ = 0, first_ = 0;
};

}  // namespace

void check_happens_before(const Plan& plan, Report& report) { HappensBefore(plan, report).run(); }

}  // namespace tandem::verify
