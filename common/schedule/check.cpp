#include "common/schedule/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "common/base/limits.h"
#include "common/schedule/text.h"
#include "common/schedule/waiting.h"

namespace tandem {
namespace {

using Place = OrderCheck::Place;

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
    if (!out_.errors.empty()) out_.grid = grid(order_, first_.rank, first_.pos);
    return std::move(out_);
  }

 private:
  // No more are printed; the loops that find the most stop here.
  [[nodiscard]] bool full() const {
    return out_.errors.size() >= static_cast<std::size_t>(limits::kDiagnosticsPrinted);
  }
  void bad(const char* code, Place at, const std::string& title, std::string found,
           std::string expected, std::string hint) {
    if (full()) return;
    if (out_.errors.empty()) first_ = at;
    out_.places.push_back(at);
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
    if (order_.num_slices < 1 || order_.num_dirs < 1 || order_.num_dirs > 2)
      return bad("E-PLAN-020", {}, "V1.2 the order has no slice, or not one or two directions",
                 fmt::format("{} slices, {} directions", order_.num_slices, order_.num_dirs),
                 "1 or more slices, 1 or 2 directions", "correct the header");
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
        if (a.kind == ActionKind::idle) continue;
        const bool needs_mb = !is_of_stage(a.kind);
        if (a.fused && (pos == 0 || !is_compute(a.kind) ||
                        !is_compute(list[static_cast<std::size_t>(pos - 1)].kind)))
          bad("E-PLAN-020", here,
              fmt::format("V1.5 {}: only computing actions share a cell", at_text(here)),
              to_text(a), "F, I, W or B", "take it out of the cell");
        if (a.stage < 0 || a.stage >= stages)
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such stage", at_text(here)),
              fmt::format("stage {}", a.stage), fmt::format("0 to {}", stages - 1),
              "correct the cell");
        else if (needs_mb && (a.microbatch < 0 || a.microbatch >= order_.num_microbatches))
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such microbatch", at_text(here)),
              fmt::format("microbatch {}", a.microbatch),
              fmt::format("0 to {}", order_.num_microbatches - 1), "correct the cell");
        else if (a.dir < 0 || a.dir >= order_.num_dirs)
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such direction", at_text(here)),
              fmt::format("direction {}", a.dir), fmt::format("0 to {}", order_.num_dirs - 1),
              "correct the cell");
        else if (a.slice < 0 || a.slice >= order_.num_slices)
          bad("E-PLAN-020", here, fmt::format("V1.2 {}: no such slice", at_text(here)),
              fmt::format("slice {}", a.slice), fmt::format("0 to {}", order_.num_slices - 1),
              "correct the cell");
        else if (const int owner = order_.rank_of(a); owner != r)
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
    visits_.resize(order_.num_visits());
    const auto copy_of = [&](const Action& a) {
      return static_cast<std::size_t>(a.dir * order_.num_stages() + a.stage);
    };
    std::vector<Place> reduced(static_cast<std::size_t>(order_.num_dirs * order_.num_stages())),
        last_backward(reduced);
    for (int r = 0; r < order_.num_ranks(); ++r)
      for (int pos = 0; pos < static_cast<int>(order_.ranks[static_cast<std::size_t>(r)].size());
           ++pos) {
        const Place here{r, pos};
        const Action& a = action(here);
        if (a.kind == ActionKind::reduce_grad) reduced[copy_of(a)] = here;
        if (!is_compute(a.kind)) continue;
        Visit& v = visits_[order_.visit(a)];
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
        if (is_weight(a.kind)) last_backward[copy_of(a)] = here;
      }
    for (int dir = 0; dir < order_.num_dirs; ++dir)
      for (int s = 0; s < order_.num_stages(); ++s)
        for (int mb = 0; mb < order_.num_microbatches; ++mb)
          for (int slice = 0; slice < order_.num_slices; ++slice) {
            if (full()) return;
            Action a{ActionKind::F, s, mb, slice};
            a.dir = static_cast<std::int8_t>(dir);
            visit(a, visits_[order_.visit(a)]);
          }
    for (std::size_t s = 0; s < reduced.size(); ++s) {
      const Place r = reduced[s], last = last_backward[s];
      if (r.pos >= 0 && last.pos > r.pos)
        bad("E-PLAN-022", r,
            fmt::format("V2.5 {}: before the last backward (at pos {})", at_text(r), last.pos),
            fmt::format("pos {}", r.pos), fmt::format("after pos {}", last.pos),
            "reduce behind the last W or B of the stage");
    }
  }

  // " slice 1 direction 1", where there are several.
  [[nodiscard]] std::string which(const Action& a) const {
    std::string out = fmt::format("stage {} mb {}", a.stage, a.microbatch);
    if (order_.num_slices > 1) out += fmt::format(" slice {}", a.slice);
    if (order_.num_dirs > 1) out += fmt::format(" direction {}", a.dir);
    return out;
  }

  // `forward`: the visit's F, as it should be.
  void visit(Action forward, const Visit& v) {
    const Place row{order_.rank_of(forward), -1};
    const auto missing = [&](const char* sub, ActionKind what) {
      Action a = forward;
      a.kind = what;
      const std::string text = to_text(a, order_.num_slices > 1);
      const char letter = text[text.find_first_not_of("0123456789")];
      bad("E-PLAN-022", row,
          fmt::format("{} rank {}: no {} of {}", sub, row.rank, letter, which(a)), "none", "one",
          fmt::format("add {} to the row", text));
    };
    if (!v.num_f) missing("V2.1", ActionKind::F);
    if (!v.num_b && !v.num_i && !v.num_w) missing("V2.2", ActionKind::B);
    if (v.num_b && (v.num_i || v.num_w))
      bad("E-PLAN-022", v.b, fmt::format("V2.2 {}: a B beside an I or a W", at_text(v.b)), "both",
          "a B, or an I and a W", "remove one of the two forms");
    else if (v.num_i != v.num_w && v.num_i + v.num_w == 1)
      missing("V2.2", v.num_i ? ActionKind::W : ActionKind::I);
    const Place back = v.num_b ? v.b : v.i;
    if (v.num_f && back.pos >= 0 && back.pos < v.f.pos)
      bad("E-PLAN-022", back,
          fmt::format("V2.3 {}: backward before forward of {} (the forward is at pos {})",
                      at_text(back), which(forward), v.f.pos),
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
    const auto visit = [&](int stage, int slice) -> const Visit& {
      return visits_[order_.visit(a.dir, stage, a.microbatch, slice)];
    };
    const auto back = [](const Visit& v) { return v.num_b ? v.b : v.i; };
    std::vector<Place> out;
    if (a.kind == ActionKind::F) {
      if (a.stage > 0) out.push_back(visit(a.stage - 1, a.slice).f);
      if (a.slice > 0) out.push_back(visit(a.stage, a.slice - 1).f);
    } else if (a.kind == ActionKind::W) {
      out.push_back(visit(a.stage, a.slice).i);
    } else if (is_backward(a.kind)) {
      out.push_back(visit(a.stage, a.slice).f);
      if (a.stage + 1 < order_.num_stages()) out.push_back(back(visit(a.stage + 1, a.slice)));
      if (a.slice + 1 < order_.num_slices) out.push_back(back(visit(a.stage, a.slice + 1)));
    }
    return out;
  }

  // What a cell needs: all inputs of its parts.
  [[nodiscard]] std::vector<Place> cell_needs(const RankOrder& list, std::size_t begin) const {
    std::vector<Place> out;
    const std::size_t end = end_of_cell(list, begin);
    for (std::size_t i = begin; i < end; ++i)
      for (const Place& p : needs(list[i])) out.push_back(p);
    return out;
  }

  void cycle() {
    std::vector<int> next(order_.ranks.size(), 0);  // all before it is done
    std::vector<std::size_t> first_key;             // of each rank: an action's key is its position
    std::size_t keys = 0;
    for (const RankOrder& list : order_.ranks) first_key.push_back(keys), keys += list.size();
    WaitingRanks ranks(next.size(), keys);
    const auto missing = [&](Place p) { return p.pos >= next[static_cast<std::size_t>(p.rank)]; };
    while (const auto r = ranks.take()) {
      const RankOrder& list = order_.ranks[*r];
      while (next[*r] < static_cast<int>(list.size())) {
        const auto head = static_cast<std::size_t>(next[*r]);
        const std::vector<Place> inputs = cell_needs(list, head);
        const auto input = std::find_if(inputs.begin(), inputs.end(), missing);
        if (input != inputs.end()) {
          ranks.sleep(*r, first_key[static_cast<std::size_t>(input->rank)] +
                              static_cast<std::size_t>(input->pos));
          break;
        }
        const std::size_t end = end_of_cell(list, head);
        next[*r] = static_cast<int>(end);
        for (std::size_t i = head; i < end; ++i) ranks.done(first_key[*r] + i);
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
      for (Place p : cell_needs(order_.ranks[static_cast<std::size_t>(head.rank)],
                                static_cast<std::size_t>(head.pos)))
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
  Place first_;
};

}  // namespace

OrderCheck check_order(const Order& order, const std::string& file) {
  return Checker(order, file).run();
}

}  // namespace tandem
