#include "common/report/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <tuple>

#include "common/plan/labels.h"
#include "common/timeline/check_timeline.h"

namespace tandem {
namespace {

// Lower median: an element of the list. The list is not empty.
template <class T>
T median(std::vector<T> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>((v.size() - 1) / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

std::set<int> ranks_of(const Timeline& t) {
  std::set<int> out;
  for (const Span& s : t.spans) out.insert(s.rank);
  return out;
}

std::vector<int> steps_of(const Timeline& t) {
  std::vector<int> out;
  for (const Span& s : t.spans)
    if (out.empty() || out.back() != s.step) out.push_back(s.step);
  return out;
}

std::int64_t step_ns(const Timeline& t, const std::vector<int>& ranks, int step) {
  std::int64_t longest = 0;
  for (int r : ranks) {
    const RankStep rank = rank_step(t, r, step);
    longest = std::max(longest, rank.ended_ns - rank.started_ns);
  }
  return longest;
}

// The median step by its time, of equal ones the first.
int median_step(const Timeline& t, const std::vector<int>& ranks, std::vector<std::int64_t>& all) {
  std::vector<std::pair<std::int64_t, int>> times;
  for (int step : steps_of(t)) {
    times.push_back({step_ns(t, ranks, step), step});
    all.push_back(times.back().first);
  }
  return median(times).second;
}

Parts parts_of_rank(const Plan& plan, const Timeline& t, int rank, int step, std::int64_t fill_to) {
  const RankStep r = rank_step(t, rank, step);
  Parts parts = cut_into_parts(plan, t, r);
  const std::int64_t rest = fill_to - (r.ended_ns - r.started_ns);
  if (rest > 0) parts[{PartKind::idle}] += rest;
  std::int64_t sum = 0;
  for (const auto& [key, ns] : parts) sum += ns;
  TANDEM_CHECK(sum == fill_to, "parts of rank {} sum to {} of {} ns", rank, sum, fill_to);
  return parts;
}

void waterfall(const Plan& plan, const Timeline& predicted, const Timeline& measured,
               Comparison& c) {
  std::map<PartKey, WaterfallPart> bars;
  for (int r : c.ranks) {
    for (const auto& [key, ns] :
         parts_of_rank(plan, predicted, r, c.predicted_step, c.predicted_ns))
      bars[key].predicted_sum_ns += ns;
    for (const auto& [key, ns] : parts_of_rank(plan, measured, r, c.measured_step, c.measured_ns))
      bars[key].measured_sum_ns += ns;
  }
  for (auto& [key, bar] : bars) {
    bar.key = key, bar.name = part_name(plan, key);
    c.waterfall.push_back(std::move(bar));
  }
}

using Durations = std::map<std::pair<OpId, int>, std::vector<std::int64_t>>;

Durations durations(const Timeline& t) {
  Durations out;
  for (const Span& s : t.spans)
    out[{s.op, s.rank}].push_back(to_ns(t, s.ended) - to_ns(t, s.started));
  return out;
}

double median_or_zero(std::vector<double> v) { return v.empty() ? 0 : median(std::move(v)); }

void op_errors(const Plan& plan, const Timeline& predicted, const Timeline& measured,
               std::size_t num_worst, Comparison& c) {
  const Durations real = durations(measured);
  std::vector<double> all, compute, communication;
  std::vector<OpError> errors;
  for (const Span& s : predicted.spans) {
    const Op& op = plan.op(s.op);
    const auto found = real.find({s.op, s.rank});
    if (s.step != c.predicted_step || found == real.end()) continue;
    if (op.kind != OpKind::compute && !is_communication(op.kind)) continue;
    ++c.joined_ops;
    OpError e{s.op,
              s.rank,
              {},
              to_ns(predicted, s.ended) - to_ns(predicted, s.started),
              median(found->second)};
    if (e.measured_ns <= 0) {
      ++c.untimed_ops;
      continue;
    }
    e.error = static_cast<double>(e.predicted_ns) / static_cast<double>(e.measured_ns) - 1;
    all.push_back(std::abs(e.error));
    (op.kind == OpKind::compute ? compute : communication).push_back(std::abs(e.error));
    errors.push_back(std::move(e));
  }
  c.median_op_error = median_or_zero(all);
  c.median_compute_error = median_or_zero(compute);
  c.median_communication_error = median_or_zero(communication);
  const std::size_t n = std::min(num_worst, errors.size());
  const auto key = [](const OpError& e) {
    return std::tuple(-std::abs(e.predicted_ns - e.measured_ns), e.rank, e.op);
  };
  std::partial_sort(errors.begin(), errors.begin() + static_cast<std::ptrdiff_t>(n), errors.end(),
                    [&](const OpError& a, const OpError& b) { return key(a) < key(b); });
  errors.resize(n);
  for (OpError& e : errors) e.name = op_label_with_id(plan, e.op);
  c.worst_ops = std::move(errors);
}

// --- order of starts -------------------------------------------------------------------------

// Places of the values, 1 for the smallest; equal values share the mean of their places.
std::vector<double> places(const std::vector<std::int64_t>& v) {
  std::vector<std::size_t> order(v.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(v[a], a) < std::tuple(v[b], b);
  });
  std::vector<double> out(v.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t j = i;
    while (j < order.size() && v[order[j]] == v[order[i]]) ++j;
    for (std::size_t k = i; k < j; ++k)
      out[order[k]] = static_cast<double>(i + j + 1) / 2;  // mean of places i+1 .. j
    i = j;
  }
  return out;
}

// Pearson's correlation of the places; 1 where one side is all equal.
double spearman(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  const std::vector<double> x = places(a), y = places(b);
  const double mean = static_cast<double>(x.size() + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx == 0 || yy == 0 ? 1 : xy / std::sqrt(xx * yy);
}

// Pairs i < j with v[i] > v[j], by merge sort.
std::int64_t count_inversions(std::vector<std::int64_t> v) {
  std::int64_t n = 0;
  std::vector<std::int64_t> merged(v.size());
  for (std::size_t width = 1; width < v.size(); width *= 2) {
    for (std::size_t begin = 0; begin < v.size(); begin += 2 * width) {
      const std::size_t middle = std::min(begin + width, v.size());
      const std::size_t end = std::min(begin + 2 * width, v.size());
      std::size_t i = begin, j = middle;
      for (std::size_t k = begin; k < end; ++k) {
        const bool right = i == middle || (j < end && v[j] < v[i]);
        if (right && i < middle) n += static_cast<std::int64_t>(middle - i);
        merged[k] = right ? v[j++] : v[i++];
      }
    }
    v.swap(merged);
  }
  return n;
}

void orders(const Plan& plan, const Timeline& predicted, const Timeline& measured,
            std::size_t num_listed, Comparison& c) {
  for (int r : c.ranks) {
    const RankStep p = rank_step(predicted, r, c.predicted_step);
    const RankStep m = rank_step(measured, r, c.measured_step);
    std::vector<std::size_t> order(p.spans.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    // Ops that are predicted to start together may start in any order: sorted as measured.
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::tuple(p.spans[a].started, m.spans[a].started, a) <
             std::tuple(p.spans[b].started, m.spans[b].started, b);
    });
    std::vector<std::int64_t> x, y;
    for (std::size_t i : order) {
      x.push_back(p.spans[i].started), y.push_back(m.spans[i].started);
    }
    c.order.push_back({r, spearman(x, y), count_inversions(y)});
    c.order_correlation = std::min(c.order_correlation, c.order.back().correlation);
    for (std::size_t k = 0; k + 1 < order.size(); ++k) {
      if (y[k + 1] >= y[k]) continue;
      Inversion v;
      v.rank = r, v.first = p.spans[order[k]].op, v.second = p.spans[order[k + 1]].op;
      v.predicted_gap_ns = to_ns(predicted, x[k + 1]) - to_ns(predicted, x[k]);
      v.measured_gap_ns = to_ns(measured, y[k + 1]) - to_ns(measured, y[k]);
      c.inversions.push_back(std::move(v));
    }
  }
  std::sort(c.inversions.begin(), c.inversions.end(), [](const Inversion& a, const Inversion& b) {
    return std::tuple(a.measured_gap_ns, a.rank, a.first) <
           std::tuple(b.measured_gap_ns, b.rank, b.first);
  });
  if (c.inversions.size() > num_listed) c.inversions.resize(num_listed);
  for (Inversion& v : c.inversions) {
    v.first_name = op_label_with_id(plan, v.first);
    v.second_name = op_label_with_id(plan, v.second);
  }
}

void memory(const Timeline& predicted, const Timeline& measured, Comparison& c) {
  const auto peak_of = [](const Timeline& t, int rank) {
    const auto p = std::find_if(t.peaks.begin(), t.peaks.end(),
                                [&](const PeakMemory& x) { return x.rank == rank; });
    return p == t.peaks.end() ? nullptr : &*p;
  };
  for (int r : c.ranks) {
    const PeakMemory *p = peak_of(predicted, r), *m = peak_of(measured, r);
    if (p == nullptr || m == nullptr) continue;
    RankMemory row{r, p->total, m->total, p->by_class, m->by_class};
    if (m->total > 0 &&
        (!c.peak_memory_error || std::abs(row.error()) > std::abs(*c.peak_memory_error)))
      c.peak_memory_error = row.error();
    c.memory.push_back(row);
  }
}

void communicators(const Plan& plan, const Timeline& predicted, const Timeline& measured,
                   Comparison& c) {
  std::map<CommId, CommTotals> totals;
  const auto add = [&](const Timeline& t, int step, bool is_measured) {
    for (int r : c.ranks)
      for (const Span& s : rank_step(t, r, step).spans) {
        const Op& op = plan.op(s.op);
        if (!is_communication(op.kind)) continue;
        CommTotals& row = totals[op.comm];
        row.name = communicator_name(plan, op.comm);
        const std::int64_t waiting = to_ns(t, s.started) - to_ns(t, s.ready);
        const std::int64_t transfer = to_ns(t, s.ended) - to_ns(t, s.started);
        (is_measured ? row.measured_waiting_ns : row.predicted_waiting_ns) += waiting;
        (is_measured ? row.measured_transfer_ns : row.predicted_transfer_ns) += transfer;
        if (is_measured) ++row.ops, row.bytes += op.kind == OpKind::recv ? 0 : Plan::bytes_in(op);
      }
  };
  add(predicted, c.predicted_step, false);
  add(measured, c.measured_step, true);
  for (auto& [id, row] : totals) c.communicators.push_back(std::move(row));
}

// A member of a communication cannot end before the last one is ready, unless clocks differ: the
// largest amount by which one does is a lower bound of the skew.
void clock_skew(const Plan& plan, const Timeline& measured, const std::string& file,
                Comparison& c) {
  struct Meeting {
    std::int64_t last_ready = 0, first_end = 0;
    int late = 0, early = 0;
  };
  std::map<std::uint64_t, Meeting> meetings;
  MeetingIds ids(plan);
  for (int r : c.ranks)
    for (const Span& s : rank_step(measured, r, c.measured_step).spans) {
      if (!is_communication(plan.op(s.op).kind)) continue;
      const auto [at, added] =
          meetings.try_emplace(ids.of(s.op, s.rank, s.step), Meeting{s.ready, s.ended, r, r});
      Meeting& m = at->second;
      if (s.ready > m.last_ready) m.last_ready = s.ready, m.late = r;
      if (s.ended < m.first_end) m.first_end = s.ended, m.early = r;
    }
  const Meeting* worst = nullptr;
  for (const auto& [id, m] : meetings) {
    const std::int64_t skew = to_ns(measured, m.last_ready) - to_ns(measured, m.first_end);
    if (skew > c.clock_skew_ns) c.clock_skew_ns = skew, worst = &m;
  }
  if (worst == nullptr) return;
  Diagnostic d;
  d.code = "W-TIME-001", d.where.file = file;
  d.title = "the clocks of the ranks differ";
  d.found = fmt::format("rank {} ended a communication at least {} ns before rank {} was there",
                        worst->early, c.clock_skew_ns, worst->late);
  d.expected = "members of one communication that meet";
  d.hint = "synchronise the hosts' clocks; waiting and transfer times are off by about that much";
  c.warnings.push_back(std::move(d));
}

Status same_plan(const Timeline& a, const Timeline& b, const CompareOptions& o) {
  const auto x = a.meta.find("plan_id"), y = b.meta.find("plan_id");
  if (x == a.meta.end() || y == b.meta.end() || x->second == y->second) return Ok{};
  return make_error(Failure::bad_input, "E-TIME-006", "the two timelines belong to different plans",
                    fmt::format("plan {} in {}, plan {} in {}", x->second.substr(0, 16),
                                o.predicted_name, y->second.substr(0, 16), o.measured_name),
                    "the same plan id in both",
                    "simulate and execute the same scenario (tandem run does both)",
                    Location{o.measured_name});
}

}  // namespace

double RankMemory::error() const {
  return measured > 0 ? static_cast<double>(predicted) / static_cast<double>(measured) - 1 : 0;
}

Result<Comparison> compare(const Plan& plan, const Timeline& predicted, const Timeline& measured,
                           const CompareOptions& options) {
  for (const auto& [t, name] : {std::pair(&predicted, &options.predicted_name),
                                std::pair(&measured, &options.measured_name)})
    if (const Status sound = check_timeline(*t, plan, *name); !sound) return sound.error();
  if (const Status same = same_plan(predicted, measured, options); !same) return same.error();
  Comparison c;
  const std::set<int> p = ranks_of(predicted), m = ranks_of(measured);
  std::set_intersection(p.begin(), p.end(), m.begin(), m.end(), std::back_inserter(c.ranks));
  if (c.ranks.empty())
    return make_error(Failure::bad_input, "E-TIME-007", "the two timelines have nothing in common",
                      fmt::format("{} ranks in {}, {} in {}, none in both", p.size(),
                                  options.predicted_name, m.size(), options.measured_name),
                      "a rank that both hold", "write both with output.ranks: all",
                      Location{options.measured_name});
  std::vector<std::int64_t> predicted_steps;
  c.predicted_step = median_step(predicted, c.ranks, predicted_steps);
  c.measured_step = median_step(measured, c.ranks, c.measured_steps_ns);
  c.predicted_ns = step_ns(predicted, c.ranks, c.predicted_step);
  c.measured_ns = step_ns(measured, c.ranks, c.measured_step);
  if (c.measured_ns <= 0 || c.predicted_ns <= 0)
    return make_error(
        Failure::bad_input, "E-TIME-003", "a record of the timeline is impossible",
        "a step of 0 ns", "steps that take time", "simulate or execute again",
        Location{c.measured_ns <= 0 ? options.measured_name : options.predicted_name});
  c.error_rel = static_cast<double>(c.predicted_ns) / static_cast<double>(c.measured_ns) - 1;
  waterfall(plan, predicted, measured, c);
  op_errors(plan, predicted, measured, static_cast<std::size_t>(options.num_worst_ops), c);
  orders(plan, predicted, measured, static_cast<std::size_t>(options.num_inversions), c);
  memory(predicted, measured, c);
  communicators(plan, predicted, measured, c);
  if (measured.clock == Clock::monotonic_ns) clock_skew(plan, measured, options.measured_name, c);
  c.predicted_meta = predicted.meta, c.measured_meta = measured.meta;
  return c;
}

MeasuredDurations measured_durations(const Plan& plan, const Timeline& measured) {
  MeasuredDurations out;
  std::map<std::tuple<OpId, int, int>, std::vector<std::int64_t>> by_call;
  auto call = measured.calls.begin();
  const auto place = [](const auto& s) { return std::tuple(s.step, s.rank, s.op); };
  for (const Span& s : measured.spans) {
    const Op& op = plan.op(s.op);
    const std::int64_t begin = to_ns(measured, s.started), end = to_ns(measured, s.ended);
    while (call != measured.calls.end() && place(*call) < place(s)) ++call;
    const int num_calls = op.kind == OpKind::compute ? static_cast<int>(op.calls.count) : 0;
    std::int64_t from = begin;
    int next = 0;
    for (; call != measured.calls.end() && place(*call) == place(s) && next < num_calls; ++call) {
      // The last call takes what is left of the op.
      const std::int64_t until =
          next + 1 == num_calls ? end : std::clamp(to_ns(measured, call->ended), from, end);
      by_call[{s.op, s.rank, next++}].push_back(until - from);
      from = until;
    }
    if (next == 0) by_call[{s.op, s.rank, 0}].push_back(end - begin);
  }
  for (auto& [key, list] : by_call)
    out.by_op_and_rank[{std::get<0>(key), std::get<1>(key)}].push_back(median(std::move(list)));
  return out;
}

}  // namespace tandem
