// See rehearsal.h.
#include "tools/rehearsal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/report/numbers.h"
#include "common/timeline/rank_file.h"
#include "sim/durations.h"

namespace tandem::tools {
namespace {

Error no_values(std::string found, std::string hint) {
  return make_error(Failure::infeasible, "E-EXEC-062", "a rehearsal has no values",
                    std::move(found), "timing alone: kernels are timed waits", std::move(hint));
}

// Whole ns, at least the simulator's time.
Result<Nanoseconds> scaled(Picoseconds d, double time_scale) {
  const double ns = std::ceil(static_cast<double>(d) / kPsPerNs * time_scale);
  if (ns <= static_cast<double>(kLongestRehearsedOp)) return static_cast<Nanoseconds>(ns);
  return make_error(Failure::bad_input, "E-EXEC-061", "the durations of a rehearsal cannot be used",
                    fmt::format("an op of {:.3g} s", ns * 1e-9),
                    fmt::format("at most {:.3g} s", kLongestRehearsedOp * 1e-9),
                    "give a smaller --time-scale", Location{"--time-scale"});
}

}  // namespace

Status check_rehearsal(const Scenario& s, const RehearsalFlags& flags) {
  if (flags.verify) return no_values("--verify", "verify with --device cpu");
  if (flags.resume) return no_values("--resume", "resume with --device cpu");
  if (flags.check_replicas) return no_values("--check-replicas", "check with --device cpu");
  if (s.training.checkpoint.every > 0 || !s.training.checkpoint.directory.empty())
    return no_values("training.checkpoint",
                     "--set training.checkpoint=null, or train with --device cpu");
  if (s.training.metrics.every > 0)
    return no_values(fmt::format("training.metrics.every = {}", s.training.metrics.every),
                     "--set training.metrics.every=0, or train with --device cpu");
  if (s.training.evaluation.every > 0)
    return no_values(fmt::format("training.evaluation.every = {}", s.training.evaluation.every),
                     "--set training.evaluation.every=0, or train with --device cpu");
  return Ok{};
}

sim::Cluster rehearsal_cluster(sim::Cluster cluster) {
  cluster.local = true;  // the host waits for frees, and queues run apart: exec/runtime/interpreter
  cluster.spec.device.launch_overhead = 0;
  return cluster;
}

Result<Rehearsal> predict_rehearsal(Context& context, PlanInput& in, double time_scale) {
  Result<Prediction> opened = open_prediction(in);
  if (!opened) return opened.error();
  Rehearsal out;
  out.prediction = std::move(*opened);
  Prediction& p = out.prediction;
  Result<sim::ReplayDurations> alone =
      sim::durations_alone(in.plan, p.cluster, sim_options(in.scenario, p));
  if (!alone) return alone.error();
  std::vector<std::vector<Nanoseconds>> by_rank;
  for (std::vector<Picoseconds>& table : alone->by_rank) {
    std::vector<Nanoseconds>& own = by_rank.emplace_back();
    for (Picoseconds& d : table) {
      const Result<Nanoseconds> ns = scaled(d, time_scale);
      if (!ns) return ns.error();
      own.push_back(*ns);
      d = *ns * kPsPerNs;
    }
  }
  out.table = rehearsal_table(in.id, time_scale, std::move(by_rank));

  p.cluster = rehearsal_cluster(std::move(p.cluster));
  if (p.calibration) p.calibration->issue_s = 0, p.calibration->wakes.clear();
  sim::SimOptions options = sim_options(in.scenario, p);
  options.replay = &*alone;
  options.record_calls = false;    // the measured side has ops only
  options.check_capacity = false;  // nothing is allocated
  if (Status s = simulate_step(context, in, options, p); !s) return s.error();
  p.sim.timeline.meta["device"] = "rehearsal";
  p.sim.timeline.meta["time_scale"] = fmt::format("{}", time_scale);
  return out;
}

Status write_table(RunDir& dir, const RehearsalTable& table) {
  return dir.write("rehearsal.json", to_json(table));
}

Result<RehearsalSummary> summarise_rehearsal(const std::string& folder, const Comparison& c,
                                             double time_scale) {
  RehearsalSummary out;
  out.time_scale = time_scale;
  out.predicted_s = static_cast<double>(c.predicted_ns) * 1e-9;
  out.measured_s = static_cast<double>(c.measured_ns) * 1e-9;
  out.error_rel = c.error_rel;
  out.median_start_error_s = static_cast<double>(c.median_start_error_ns) * 1e-9;
  out.median_start_error_visits = c.median_start_error_visits;
  out.order_correlation = c.order_correlation;
  for (int rank : c.ranks) {
    const std::string path = rank_path(folder, rank, "json");
    const Result<std::string> text = read_file(path, limits::kTableBytes);
    if (!text) return text.error();
    try {
      const Json clock = Json::parse(*text).at("rehearsal");
      out.late_mean_s +=
          clock.at("late_mean_ns").get<double>() * 1e-9 / static_cast<double>(c.ranks.size());
      out.late_worst_s = std::max(out.late_worst_s, clock.at("late_worst_ns").get<double>() * 1e-9);
      out.slipped_s = std::max(out.slipped_s, clock.at("slipped_ns").get<double>() * 1e-9);
      out.real_time = out.real_time && clock.at("real_time").get<bool>();
      out.slips += clock.at("slips").get<std::int64_t>();
    } catch (const nlohmann::json::exception& e) {
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        e.what(), "the file that the rank wrote", "run again", Location{path});
    }
  }
  return out;
}

Json to_json(const RehearsalSummary& s) {
  return {{"time_scale", s.time_scale},
          {"predicted_s", s.predicted_s},
          {"measured_s", s.measured_s},
          {"error_rel", s.error_rel},
          {"median_start_error_s", s.median_start_error_s},
          {"median_start_error_visits", s.median_start_error_visits},
          {"order_correlation", s.order_correlation},
          {"late_mean_s", s.late_mean_s},
          {"late_worst_s", s.late_worst_s},
          {"real_time", s.real_time},
          {"slips", s.slips},
          {"slipped_s", s.slipped_s}};
}

std::string to_text(const RehearsalSummary& s) {
  std::string out = fmt::format(
      "rehearsal against its prediction: {} measured, {} predicted, {:+.2f} %\n"
      "starts of ops: off by {} in the median, {:.3f} of a mean stage visit\n"
      "threads {}woke up {} late in the mean, {} at most\n",
      text_of_time(s.measured_s * 1e9), text_of_time(s.predicted_s * 1e9), 100 * s.error_rel,
      text_of_time(s.median_start_error_s * 1e9), s.median_start_error_visits,
      s.real_time ? "of real-time priority " : "", text_of_time(s.late_mean_s * 1e9),
      text_of_time(s.late_worst_s * 1e9));
  if (s.slips > 0)
    out +=
        fmt::format("{} of them too late to make up for: {} of a rank's time are this machine's\n",
                    s.slips, text_of_time(s.slipped_s * 1e9));
  return out;
}

}  // namespace tandem::tools
