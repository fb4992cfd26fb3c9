#include "common/schedule/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "common/base/limits.h"
#include "common/schedule/text.h"

namespace tandem {
namespace {

struct Place {
  int rank = -1, pos = -1;
};
// Where the actions of one (stage, microbatch) stand.
struct Visit {
  Place f, i, w, b;
  int num_f = 0, num_i = 0, num_w = 0, num_b = 0;
};

class Checker {
 public:
  Checker(const Order& order, const std::string& file) : order_(order), file_(file) {}

  OrderCheck run() {
    rows();
    if (out_.errors.empty()) visits();
    if (out_.errors.empty()) cycle();
    if (!out_.errors.empty()) out_.grid = grid(order_, first_row_);
    return std::move(out_);
  }

 private:
  void bad(const char* code, Place at, const std::string& title, std::string found,
           std::string expected, std::string hint) {
    if (out_.errors.size() >= static_cast<std::size_t>(limits::kDiagnosticsPrinted)) return;
    if (out_.errors.empty()) first_row_ = at.pos;
    const int line = at.rank < 0 ? 0 : at.rank + 1;  // row k of the text is rank k
    out_.errors.push_back(make_diagnostic(code, title, std::move(found), std::move(expected),
                                          std::move(hint), {file_, line, 0}));
  }
  [[nodiscard]] const Action& action(Place p) const {
    return order_.ranks[static_cast<std::size_t>(p.rank)][static_cast<std::size_t>(p.pos)];
  }
  [[nodiscard]] std::string at_text(Place p) const {
    return fmt::format("rank {} pos {} op {}", p.rank, p.pos, to_text(action(p)));
  }

  // --- V1
  // ------------------------------------------------------------------------------------------
  void rows() {
    const int stages = order_.num_stages(), ranks = order_.num_ranks();
    if (stages < 1 || order_.num_microbatches < 1 || ranks < 1)
      return bad("E-PLAN-020", {}, "V1.4 the order has no rank, stage or microbatch",
                 fmt::format("{} ranks, {} stages, {} microbatches", ranks, stages,
                             order_.num_microbatches),
                 "1 or more of each", "write one row for each rank");
    for (int s = 0; s < stages; ++s) {
      const int rank = order_.stage_rank[static_cast<std::size_t>(s)];
      if (rank < 0 || rank >= ranks)
        bad("E-PLAN-020", {},
            fmt::format("V1.4 stage {} lives on rank {}, which has no row", s, rank),
            fmt::format("{} rows", ranks), "a row for every rank", "write one row for each rank");
    }
    for (int r = 0; r < ranks; ++r) {
      const RankOrder& list = order_.ranks[static_cast<std::size_t>(r)];
      for (int pos = 0; pos < static_cast<int>(list.size()); ++pos) {
        const Action& a = list[static_cast<std::size_t>(pos)];
        const Place here{r, pos};
        const bool needs_mb = a.kind != ActionKind::reduce_grad;
        if (a.stage < 0 || a.stage >= stages)
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such stage", at_text(here)),
              fmt::format("stage {}", a.stage), fmt::format("0 to {}", stages - 1),
              "correct the cell");
        else if (needs_mb && (a.microbatch < 0 || a.microbatch >= order_.num_microbatches))
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such microbatch", at_text(here)),
              fmt::format("microbatch {}", a.microbatch),
              fmt::format("0 to {}", order_.num_microbatches - 1), "correct the cell");
        else if (const int owner = order_.stage_rank[static_cast<std::size_t>(a.stage)]; owner != r)
          bad("E-PLAN-020", here,
              fmt::format("V1.3 {}: stage {} belongs to rank {}, found on rank {}", at_text(here),
                          a.stage, owner, r),
              fmt::format("rank {}", r), fmt::format("rank {}", owner),
              "move the action to the row of its stage");
      }
    }
  }

  // --- V2
  // ------------------------------------------------------------------------------------------
  void visits() {
    const auto index = [&](const Action& a) {
      return static_cast<std::size_t>(a.stage) * static_cast<std::size_t>(order_.num_microbatches) +
             static_cast<std::size_t>(a.microbatch);
    };
    visits_.resize(static_cast<std::size_t>(order_.num_stages()) *
                   static_cast<std::size_t>(order_.num_microbatches));
    std::vector<Place> reduced(static_cast<std::size_t>(order_.num_stages())),
        last_backward(reduced);
    for (int r = 0; r < order_.num_ranks(); ++r)
      for (int pos = 0; pos < static_cast<int>(order_.ranks[static_cast<std::size_t>(r)].size());
           ++pos) {
        const Place here{r, pos};
        const Action& a = action(here);
        if (a.kind == ActionKind::reduce_grad) reduced[static_cast<std::size_t>(a.stage)] = here;
        if (!is_compute(a.kind)) continue;
        Visit& v = visits_[index(a)];
        const auto once = [&](Place& place, int& count, const char* sub) {
          if (++count > 1)
            bad("E-PLAN-022", here,
                fmt::format("{} {}: a second time (the first is at pos {})", sub, at_text(here),
                            place.pos),
                fmt::format("{} times", count), "once", "remove one of the two");
          place = here;
        };
        if (a.kind == ActionKind::F) once(v.f, v.num_f, "V2.1");
        if (a.kind == ActionKind::I) once(v.i, v.num_i, "V2.2");
        if (a.kind == ActionKind::W) once(v.w, v.num_w, "V2.2");
        if (a.kind == ActionKind::B) once(v.b, v.num_b, "V2.2");
        if (a.kind == ActionKind::W || a.kind == ActionKind::B)
          last_backward[static_cast<std::size_t>(a.stage)] = here;
      }
    for (int s = 0; s < order_.num_stages(); ++s)
      for (int mb = 0; mb < order_.num_microbatches; ++mb)
        visit(s, mb, visits_[index({ActionKind::F, s, mb})]);
    for (int s = 0; s < order_.num_stages(); ++s) {
      const Place r = reduced[static_cast<std::size_t>(s)],
                  last = last_backward[static_cast<std::size_t>(s)];
      if (r.pos >= 0 && last.pos > r.pos)
        bad("E-PLAN-022", r,
            fmt::format("V2.5 {}: before the last backward (at pos {})", at_text(r), last.pos),
            fmt::format("pos {}", r.pos), fmt::format("after pos {}", last.pos),
            "reduce behind the last W or B of the stage");
    }
  }

  void visit(int s, int mb, const Visit& v) {
    const Place row{order_.stage_rank[static_cast<std::size_t>(s)], -1};
    const auto missing = [&](const char* sub, const char* what) {
      bad("E-PLAN-022", row,
          fmt::format("{} rank {}: no {} of stage {} mb {}", sub, row.rank, what, s, mb), "none",
          "one", fmt::format("add {}{}{} to the row", s, what[0], mb));
    };
    if (!v.num_f) missing("V2.1", "F");
    if (!v.num_b && !v.num_i && !v.num_w) missing("V2.2", "B");
    if (v.num_b && (v.num_i || v.num_w))
      bad("E-PLAN-022", v.b, fmt::format("V2.2 {}: a B beside an I or a W", at_text(v.b)), "both",
          "a B, or an I and a W", "remove one of the two forms");
    else if (v.num_i != v.num_w && v.num_i + v.num_w == 1)
      missing("V2.2", v.num_i ? "W" : "I");
    const Place back = v.num_b ? v.b : v.i;
    if (v.num_f && back.pos >= 0 && back.pos < v.f.pos)
      bad("E-PLAN-022", back,
          fmt::format(
              "V2.3 {}: backward before forward of stage {} mb {} (the forward is at pos {})",
              at_text(back), s, mb, v.f.pos),
          fmt::format("pos {}", back.pos), fmt::format("after pos {}", v.f.pos),
          "move it behind the forward");
    if (v.num_i && v.num_w && v.w.pos < v.i.pos)
      bad("E-PLAN-022", v.w, fmt::format("V2.4 {}: W before I (at pos {})", at_text(v.w), v.i.pos),
          fmt::format("pos {}", v.w.pos), fmt::format("after pos {}", v.i.pos),
          "move it behind the I");
  }

  // --- V4
  // ------------------------------------------------------------------------------------------ What
  // an action needs from elsewhere; no place: nothing.
  [[nodiscard]] std::vector<Place> needs(const Action& a) const {
    const auto visit = [&](int stage) -> const Visit& {
      return visits_[static_cast<std::size_t>(stage) *
                         static_cast<std::size_t>(order_.num_microbatches) +
                     static_cast<std::size_t>(a.microbatch)];
    };
    if (a.kind == ActionKind::F)
      return a.stage > 0 ? std::vector<Place>{visit(a.stage - 1).f} : std::vector<Place>{};
    if (a.kind == ActionKind::W) return {visit(a.stage).i};
    if (!is_backward(a.kind)) return {};
    std::vector<Place> out = {visit(a.stage).f};
    if (a.stage + 1 < order_.num_stages()) {
      const Visit& next = visit(a.stage + 1);
      out.push_back(next.num_b ? next.b : next.i);
    }
    return out;
  }

  void cycle() {
    std::vector<int> next(order_.ranks.size(), 0);  // all before it is done
    const auto done = [&](Place p) { return p.pos < next[static_cast<std::size_t>(p.rank)]; };
    for (bool moved = true; moved;) {  // each round ends or moves an action
      moved = false;
      for (std::size_t r = 0; r < next.size(); ++r)
        while (next[r] < static_cast<int>(order_.ranks[r].size())) {
          const std::vector<Place> inputs =
              needs(order_.ranks[r][static_cast<std::size_t>(next[r])]);
          if (!std::all_of(inputs.begin(), inputs.end(), done)) break;
          ++next[r];
          moved = true;
        }
    }
    for (std::size_t r = 0; r < next.size(); ++r)
      if (next[r] < static_cast<int>(order_.ranks[r].size()))
        return report_cycle({static_cast<int>(r), next[r]}, next);
  }

  // From head to head: a head needs an action that stands at or behind its rank's head.
  void report_cycle(Place start, const std::vector<int>& next) {
    std::vector<std::pair<Place, Place>> chain;  // head, what it needs
    std::vector<int> seen(next.size(), -1);
    Place head = start;
    while (seen[static_cast<std::size_t>(head.rank)] < 0) {
      seen[static_cast<std::size_t>(head.rank)] = static_cast<int>(chain.size());
      for (Place p : needs(action(head)))
        if (p.pos >= next[static_cast<std::size_t>(p.rank)]) {
          chain.emplace_back(head, p);
          head = {p.rank, next[static_cast<std::size_t>(p.rank)]};
          break;
        }
    }
    chain.erase(chain.begin(), chain.begin() + seen[static_cast<std::size_t>(head.rank)]);
    std::string text;
    int actions = 0;
    for (const auto& [here, needed] : chain) {
      text += fmt::format("{}rank {} {} needs rank {} {}", text.empty() ? "" : "; ", here.rank,
                          to_text(action(here)), needed.rank, to_text(action(needed)));
      ++actions;
      const Place blocked{needed.rank, next[static_cast<std::size_t>(needed.rank)]};
      if (blocked.pos == needed.pos) continue;
      ++actions;
      text += fmt::format("; {} comes after {} on rank {}", to_text(action(needed)),
                          to_text(action(blocked)), needed.rank);
    }
    bad("E-PLAN-024", chain[0].first, fmt::format("V4 cycle of {}: {}", actions, text),
        at_text(chain[0].first), "an order in which every action can run",
        "put the actions of both ranks in one sequence");
  }

  const Order& order_;
  const std::string& file_;
  std::vector<Visit> visits_;
  OrderCheck out_;
  int first_row_ = -1;
};

}  // namespace

OrderCheck check_order(const Order& order, const std::string& file) {
  return Checker(order, file).run();
}

}  // namespace tandem
