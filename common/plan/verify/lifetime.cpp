// V3.1 to V3.4: buffers live while they are used. One walk over each program in issue order.
// Proves: nothing is read or added to before it is written (1); nothing is used before it is
// allocated or after it is freed (2); nothing is allocated or freed twice (3); what an op allocates
// is freed in the same step (4). A view is live with its bucket; what is written to a bucket
// defines its views, and a bucket is whole when all of its views are written. Gradients that live
// for the run are stale at the start of a step: their first use must be a write. Other buffers that
// live for the run (parameters, optimizer) hold their values. Not: that accesses on different
// streams are ordered (happens_before.cpp), nor sizes (memory.cpp).
#include <fmt/format.h>

#include "common/plan/uses.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

enum class Life : std::uint8_t { always, unborn, live, freed };

struct State {
  Life life = Life::always;
  bool defined = false;
  OpId changed;  // the op that allocated or freed it
};

class Lifetimes {
 public:
  Lifetimes(const Plan& plan, Report& report)
      : plan_(plan), report_(report), state_(plan.buffers.size()), views_(plan.buffers.size()) {
    for (std::size_t i = 0; i < plan.buffers.size(); ++i)
      if (plan.buffers[i].alias_of.valid())
        views_[plan.buffers[i].alias_of.index()].push_back(BufferId{static_cast<std::int64_t>(i)});
    for (const Op& o : plan.ops)
      for (BufferId b : plan.allocates_of(o)) state_[b.index()].life = Life::unborn;
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const BufferClass cls = plan.buffers[i].cls;
      // Settling takes the gradients that the step has left.
      state_[i].defined =
          state_[i].life == Life::always &&
          (plan.header.settling || (cls != BufferClass::grad && cls != BufferClass::grad_full));
    }
  }

  void run() {
    for (std::size_t i = 0; i < plan_.ops.size() && !report_.full(); ++i)
      op(OpId{static_cast<std::int64_t>(i)});
    for (std::size_t i = 0; i < state_.size() && !report_.full(); ++i)
      if (state_[i].life == Life::live)
        bad("V3.4", state_[i].changed,
            fmt::format("{} is never freed",
                        text_of(plan_, BufferId{static_cast<std::int64_t>(i)})),
            "no frees", "one op that frees it", "free it with its last use");
  }

 private:
  void bad(const char* sub, OpId id, const std::string& what, std::string found,
           std::string expected, std::string hint, OpId other = {}) {
    report_.add({kLifetime,
                 fmt::format("{} rank {} {}: {}", sub, program_of(plan_, id).value,
                             text_of(plan_, id), what),
                 id, std::move(found), std::move(expected), std::move(hint),
                 other.valid() ? std::vector<OpId>{other} : std::vector<OpId>{}});
  }

  void op(OpId id) {
    const Op& o = plan_.op(id);
    for (BufferId b : plan_.allocates_of(o)) allocate(id, b);
    for_each_use(plan_, o, [&](BufferId b, Use use) { touch(id, b, use); });
    for (BufferId b : plan_.frees_of(o)) free(id, b);
  }

  void allocate(OpId id, BufferId b) {
    State& s = state_[b.index()];
    if (plan_.buffer(b).alias_of.valid())
      return bad("V3.3", id, fmt::format("allocates {}, a view", text_of(plan_, b)), "a view",
                 "its bucket", "views have no memory of their own");
    if (s.life != Life::unborn)
      return bad("V3.3", id, fmt::format("allocates {} once more", text_of(plan_, b)),
                 fmt::format("op {} had it", s.changed.value), "one lifetime for each buffer",
                 "give the second use a buffer of its own", s.changed);
    s.life = Life::live;
    s.changed = id;
  }

  void free(OpId id, BufferId b) {
    State& s = state_[b.index()];
    if (s.life == Life::always || s.life == Life::unborn)
      return bad("V3.3", id, fmt::format("frees {}, which no op has allocated", text_of(plan_, b)),
                 "nothing to free", "a buffer that is live", "remove it from frees");
    if (s.life == Life::freed)
      return bad(
          "V3.3", id,
          fmt::format("frees {} after {} freed it", text_of(plan_, b), text_of(plan_, s.changed)),
          "freed twice", "one free", "keep it with the last use only", s.changed);
    s.life = Life::freed;
    s.changed = id;
  }

  void touch(OpId id, BufferId b, Use use) {
    const State& root = state_[root_of(plan_, b).index()];
    const char* verb = use == Use::read ? "reads" : use == Use::write ? "writes" : "adds to";
    if (root.life == Life::unborn)
      return bad("V3.2", id, fmt::format("{} {} before it is allocated", verb, text_of(plan_, b)),
                 "no memory yet", "an allocates before the first use",
                 "allocate it in the op that writes it first");
    if (root.life == Life::freed)
      return bad("V3.2", id,
                 fmt::format("{} {} after {} freed it", verb, text_of(plan_, b),
                             text_of(plan_, root.changed)),
                 fmt::format("freed by op {}", root.changed.value), "a buffer that is live",
                 "free it with its last use", root.changed);
    if (reads(use) && !defined(b)) {
      bad("V3.1", id, fmt::format("{} {} before it is written", verb, text_of(plan_, b)),
          plan_.buffer(b).cls == BufferClass::grad ? "the value of the last step" : "no value yet",
          "a write before it", "the first W of a step writes a gradient, later ones accumulate");
      define(b);  // one message a buffer
    }
    if (writes(use)) define(b);
  }

  // A bucket is defined when it was written as a whole or all of its views were.
  [[nodiscard]] bool defined(BufferId b) const {
    if (state_[b.index()].defined) return true;
    if (views_[b.index()].empty()) return false;
    for (BufferId v : views_[b.index()])
      if (!state_[v.index()].defined) return false;
    return true;
  }
  void define(BufferId b) {
    state_[b.index()].defined = true;
    for (BufferId v : views_[b.index()]) state_[v.index()].defined = true;
  }

  const Plan& plan_;
  Report& report_;
  std::vector<State> state_;
  std::vector<std::vector<BufferId>> views_;
};

}  // namespace

void check_lifetimes(const Plan& plan, Report& report) { Lifetimes(plan, report).run(); }

}  // namespace tandem::verify
