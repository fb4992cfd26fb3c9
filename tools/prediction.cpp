// See prediction.h.
#include "tools/prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/text.h"
#include "common/model/flops.h"
#include "common/plan/routing_zipf.h"
#include "common/report/numbers.h"
#include "common/timeline/chrome_json.h"
#include "common/timeline/csv.h"
#include "common/timeline/perfetto.h"
#include "tools/degrees.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

double peak_flops(const PlanInput& in, const sim::Cluster& cluster) {
  const DeviceSpec& device = cluster.spec.device;
  const auto peak =
      device.peak.find(std::string(sim::precision_name(in.plan.header.types.compute)));
  if (peak == device.peak.end()) return 0;
  const int world = in.plan.header.mesh.world();
  const int devices = cluster.local ? std::min(world, cluster.cores_per_node) : world;
  return peak->second * devices;
}

// How the scenario says that tokens choose experts; nullopt: evenly.
struct Routed {
  RoutingSource source;
  int steps = 1;
};
Result<std::optional<Routed>> routing_of(PlanInput& in) {
  const RoutingSpec& spec = in.scenario.simulate.routing;
  if (spec.balanced() || routing_counts(in.plan) == 0) return std::optional<Routed>();
  if (spec.zipf) return std::optional(Routed{zipf_routing(*spec.zipf, in.scenario.seed), 1});
  const std::string path = path_of_field(in.scenario, "simulate.routing.trace", spec.trace);
  const auto text = read_file(path, limits::kRoutingBytes);
  if (!text) return text.error();
  const auto trace = parse_routing_trace(*text, path);
  if (!trace) return trace.error();
  in.inputs.emplace_back(path, sha256_hex(*text));
  auto source = traced_routing(*trace, in.plan);
  if (!source) return source.error();
  return std::optional(Routed{std::move(*source), static_cast<int>(trace->steps().size())});
}

// Which plan, which program, which ranks: what a reader of the file alone must know.
void describe_timeline(const PlanInput& in, Timeline& timeline) {
  timeline.meta["plan_id"] = in.id;
  timeline.meta["version"] = fmt::format("tandem {}", kVersion);
  timeline.meta["name"] = in.scenario.name;
  std::set<int> ranks;
  for (const StepMark& mark : timeline.steps) ranks.insert(mark.rank);
  if (static_cast<int>(ranks.size()) == in.plan.header.mesh.world()) return;
  std::vector<std::string> words;
  for (int rank : ranks) words.push_back(std::to_string(rank));
  timeline.meta["ranks"] = join(words, ",");
}

struct TimeRow {
  std::string name;
  double seconds = 0;  // mean over ranks
};

// Where a rank's step goes, mean over all ranks; sums to the mean step.
std::vector<TimeRow> time_rows(const Plan& plan, const sim::SimResult& sim) {
  std::vector<TimeRow> rows;
  double ranks = 0;
  for (const sim::RankSummary& r : sim.ranks) ranks += r.multiplicity;
  const auto add = [&](std::string name, auto&& time_of) {
    double seconds = 0;
    for (const sim::RankSummary& r : sim.ranks)
      seconds += r.multiplicity * ps_to_seconds(time_of(r));
    if (seconds > 0) rows.push_back({std::move(name), seconds / ranks});
  };
  for (std::size_t c = 0; c < kNumCostClasses; ++c)
    add(fmt::format("compute {}", name_of(static_cast<CostClass>(c))),
        [c](const sim::RankSummary& r) { return r.compute[c]; });
  for (std::size_t c = 0; c < plan.communicators.size(); ++c) {
    const std::string& name = plan.name(plan.communicators[c].name);
    add("transfer " + name, [c](const sim::RankSummary& r) { return r.transfer[c]; });
    add("waiting " + name, [c](const sim::RankSummary& r) { return r.waiting[c]; });
  }
  add("idle", [](const sim::RankSummary& r) { return r.idle; });
  return rows;
}

// For people: the pipeline's edges are one row, there are two for each pair of neighbours.
std::vector<TimeRow> merged_rows(const std::vector<TimeRow>& rows) {
  std::vector<TimeRow> out;
  for (const TimeRow& row : rows) {
    const auto edge = row.name.find(" edge:");
    const std::string name =
        edge == std::string::npos ? row.name : row.name.substr(0, edge) + " pipeline";
    const auto same =
        std::find_if(out.begin(), out.end(), [&](const TimeRow& r) { return r.name == name; });
    if (same == out.end())
      out.push_back({name, row.seconds});
    else
      same->seconds += row.seconds;
  }
  return out;
}

// Of the rank itself where it was simulated, else of one like it.
const PeakMemory& peak_of(const PlanInput& in, const Prediction& p, Rank rank) {
  const ProgramId program = in.plan.program_of(rank);
  if (p.routed_steps > 0)
    for (const PeakMemory& peak : p.sim.peaks)
      if (peak.rank == rank.value) return peak;
  for (const PeakMemory& peak : p.sim.peaks)
    if (in.plan.program_of(Rank{peak.rank}) == program) return peak;
  TANDEM_CHECK(false, "no peak of the program of rank {}", rank.value);
}

// The lowest rank that holds most.
Rank fullest_rank(const PlanInput& in, const Prediction& p) {
  Rank best{0};
  for (const PeakMemory& peak : p.sim.peaks)
    if (peak.total > peak_of(in, p, best).total) best = Rank{peak.rank};
  return best;
}

std::optional<double> mfu(const Prediction& p) {
  const double seconds = ps_to_seconds(p.sim.iteration_ps);
  if (p.model_flops <= 0 || p.peak_flops <= 0 || seconds <= 0) return std::nullopt;
  return p.model_flops / (seconds * p.peak_flops);
}

double tokens_per_s(const Prediction& p) {
  const double seconds = ps_to_seconds(p.sim.iteration_ps);
  return seconds > 0 ? p.tokens / seconds : 0;
}

// "  ####", or nothing.
std::string bar(double share) {
  const std::string marks(static_cast<std::size_t>(32 * share), '#');
  return marks.empty() ? marks : "  " + marks;
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

}  // namespace

sim::SimOptions sim_options(const Scenario& s, const Prediction& p) {
  sim::SimOptions options;
  options.fidelity = s.simulate.fidelity;
  options.fold = s.simulate.folding;
  options.calibration = p.calibration ? &*p.calibration : nullptr;
  options.ranks = s.output.ranks;
  options.rank_list = s.output.rank_list;
  return options;
}

Result<std::optional<Calibration>> calibration_of(PlanInput& in) {
  const std::string& name = in.scenario.cluster.calibration;
  if (name.empty()) return std::optional<Calibration>();
  const std::string path = path_of_field(in.scenario, "cluster.calibration", name);
  auto text = read_file(path, limits::kTableBytes);
  if (!text) return text.error();
  auto calibration = calibration_from_json(*text, path);
  if (!calibration) return calibration.error();
  in.inputs.emplace_back(path, sha256_hex(*text));
  return std::optional<Calibration>(std::move(*calibration));
}

Result<Prediction> open_prediction(PlanInput& in) {
  Prediction p;
  const auto begin = std::chrono::steady_clock::now();
  const ClusterSpec& spec = in.scenario.cluster;
  auto calibration = calibration_of(in);
  if (!calibration) return calibration.error();
  p.calibration = std::move(*calibration);
  auto cluster = sim::make_cluster(spec, in.plan.header.mesh.world());
  if (!cluster) return cluster.error();
  p.cluster = std::move(*cluster);
  p.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return p;
}

Status simulate_step(Context& context, const PlanInput& in, const sim::SimOptions& options,
                     Prediction& p) {
  const auto begin = std::chrono::steady_clock::now();
  context.progress("simulating");
  auto result = sim::simulate(in.plan, p.cluster, options);
  if (!result) return result.error();
  p.sim = std::move(*result);
  describe_timeline(in, p.sim.timeline);
  if (p.calibration)
    p.sim.timeline.meta["calibration"] =
        digest_of(p.calibration->machine, p.calibration->precision);
  p.wall_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  const PlanHeader& h = in.plan.header;
  p.tokens = 1.0 * h.microbatches * h.micro_batch * h.sequence * h.mesh.size_of_group(h.data_axes);
  if (!in.from_plan_file) p.model_flops = model_flops_of_step(in.scenario);
  p.peak_flops = peak_flops(in, p.cluster);
  return Ok{};
}

Result<Prediction> predict(Context& context, PlanInput& in) {
  Result<Prediction> p = open_prediction(in);
  if (!p) return p;
  const auto routed = routing_of(in);
  if (!routed) return routed.error();
  sim::SimOptions options = sim_options(in.scenario, *p);
  if (*routed) {
    options.routing = &(*routed)->source;
    options.steps = p->routed_steps = (*routed)->steps;
  }
  if (Status s = simulate_step(context, in, options, *p); !s) return s.error();
  return p;
}

Result<sim::SimResult> predict_with_routing(const Plan& plan, const Prediction& base,
                                            const Scenario& scenario, const RoutingTrace& trace) {
  const auto source = traced_routing(trace, plan);
  if (!source) return source.error();
  sim::SimOptions options = sim_options(scenario, base);
  options.routing = &*source;
  options.steps = static_cast<int>(trace.steps().size());
  options.check_capacity = false;  // it has run
  auto result = sim::simulate(plan, base.cluster, options);
  if (result) result->timeline.meta["routing"] = "recorded";
  return result;
}

std::optional<double> replay_error(const Plan& plan, const Prediction& p, const SimulateSpec& spec,
                                   const Timeline& measured, std::int64_t measured_ns) {
  if (measured_ns <= 0) return std::nullopt;
  const sim::ReplayDurations durations = sim::replay_of(plan, measured);
  sim::SimOptions options;
  options.fidelity = spec.fidelity;
  options.calibration = p.calibration ? &*p.calibration : nullptr;
  options.replay = &durations;
  options.record_calls = options.record_memory = options.check_capacity = false;
  const auto replayed = sim::simulate(plan, p.cluster, options);
  if (!replayed) return std::nullopt;
  return static_cast<double>(replayed->iteration_ps) / kPsPerNs / static_cast<double>(measured_ns) -
         1;
}

Json to_json(const PlanInput& in, const Prediction& p) {
  const auto utilisation = mfu(p);
  Json out = {{"plan_id", in.id},
              {"iteration_s", ps_to_seconds(p.sim.iteration_ps)},
              {"tokens_per_s", tokens_per_s(p)},
              {"mfu", utilisation ? Json(*utilisation) : Json()},
              {"bubble", p.sim.bubble},
              {"exposed_comm_s", p.sim.exposed_comm_s}};
  Json peaks = Json::array();
  for (int r = 0; r < in.plan.header.mesh.world(); ++r)
    peaks.push_back(peak_of(in, p, Rank{r}).total);
  out["peak_bytes"] = std::move(peaks);
  const PeakMemory& most = peak_of(in, p, fullest_rank(in, p));
  Json by_class = Json::object();
  for (std::size_t c = 0; c < kNumBufferClasses; ++c)
    if (most.at_peak[c] > 0)
      by_class[std::string(name_of(static_cast<BufferClass>(c)))] = most.at_peak[c];
  out["by_class"] = std::move(by_class);
  out["kernel_scratch_bytes"] = p.sim.kernel_scratch;
  Json time = Json::object();
  for (const TimeRow& row : time_rows(in.plan, p.sim)) time[row.name] = row.seconds;
  out["time_s"] = std::move(time);
  Json sources = Json::object();
  for (std::size_t s = 0; s < sim::kNumCostSources; ++s)
    sources[std::string(name_of(static_cast<sim::CostSource>(s)))] = p.sim.source_share[s];
  out["cost_sources"] = std::move(sources);
  out["calibration_digest"] =
      p.calibration ? Json(digest_of(p.calibration->machine, p.calibration->precision)) : Json();
  if (p.routed_steps > 0)
    out["routing"] = {{"steps", p.routed_steps},
                      {"rank_max_over_mean", p.sim.routed_rows_max_over_mean}};
  out["ranks"] = in.plan.header.mesh.world();
  out["simulated_ranks"] = p.sim.simulated_ranks;
  out["simulated_events"] = p.sim.simulated_events;
  return out;
}

std::string to_text(const PlanInput& in, const Prediction& p) {
  const Mesh& mesh = in.plan.header.mesh;
  const double iteration_ns = static_cast<double>(p.sim.iteration_ps) / kPsPerNs;
  std::string out =
      fmt::format("{}: {} ranks ({}), {}, {} microbatches\n\n", in.file, mesh.world(),
                  degrees_text(mesh), in.plan.header.schedule, in.plan.header.microbatches);
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("  {:<18} {}\n", name, value);
  };
  line("step", text_of_time(iteration_ns));
  line("tokens per second", fmt::format("{:.6g}", tokens_per_s(p)));
  if (const auto utilisation = mfu(p))
    line("model FLOPs used",
         fmt::format("{} of {:.4g} Tflop/s (MFU)", percent(*utilisation), p.peak_flops / 1e12));
  line("bubble", percent(p.sim.bubble) + " of the step, mean of the ranks");
  line("exposed transfer",
       fmt::format("{} ({})", text_of_time(p.sim.exposed_comm_s * 1e9),
                   percent(iteration_ns > 0 ? p.sim.exposed_comm_s * 1e9 / iteration_ns : 0)));
  if (p.routed_steps > 0)
    line("routing", fmt::format("{}; the busiest rank of a layer gets {:.2f} times the mean",
                                in.scenario.simulate.routing.zipf
                                    ? fmt::format("drawn, zipf {}",
                                                  format_double(*in.scenario.simulate.routing.zipf))
                                    : fmt::format("recorded, {} steps", p.routed_steps),
                                p.sim.routed_rows_max_over_mean));
  const Rank fullest = fullest_rank(in, p);
  const PeakMemory& most = peak_of(in, p, fullest);
  line("peak memory", fmt::format("{} on rank {}; the kernels' own scratch: {}",
                                  text_of_bytes(static_cast<double>(most.total)), fullest.value,
                                  text_of_bytes(static_cast<double>(p.sim.kernel_scratch))));

  out += "\n  where a step goes, mean of the ranks\n";
  const auto rows = merged_rows(time_rows(in.plan, p.sim));
  double sum = 0, longest = 0;
  for (const TimeRow& row : rows) sum += row.seconds, longest = std::max(longest, row.seconds);
  for (const TimeRow& row : rows)
    out += fmt::format("    {:<22} {:>9} {:>8}{}\n", row.name, text_of_time(row.seconds * 1e9),
                       percent(row.seconds / sum), bar(row.seconds / longest));
  out += fmt::format("\n  memory of rank {} at its peak\n", fullest.value);
  for (std::size_t c = 0; c < kNumBufferClasses; ++c)
    if (most.at_peak[c] > 0)
      out += fmt::format(
          "    {:<22} {:>9} {:>8}\n", name_of(static_cast<BufferClass>(c)),
          text_of_bytes(static_cast<double>(most.at_peak[c])),
          percent(static_cast<double>(most.at_peak[c]) / static_cast<double>(most.total)));
  out += "\n  costs of computing:";
  for (std::size_t s = 0; s < sim::kNumCostSources; ++s)
    out += fmt::format("{} {} {}", s == 0 ? "" : ",", percent(p.sim.source_share[s]),
                       name_of(static_cast<sim::CostSource>(s)));
  if (!p.calibration && p.cluster.local)
    out +=
        "\n  (figures of `cluster: local` are placeholders until `tandem calibrate` has measured)";
  out += fmt::format("\n  simulated {} of {} ranks, {} events, in {}\n", p.sim.simulated_ranks,
                     mesh.world(), p.sim.simulated_events, text_of_time(p.wall_s * 1e9));
  return out;
}

Status write_prediction(RunDir& dir, const PlanInput& in, const Prediction& p) {
  const Timeline& timeline = p.sim.timeline;
  // The trace is always there: `compare`, `report` and `trace` read it.
  if (Status s = dir.write("predicted.pftrace", encode_perfetto(timeline, in.plan)); !s) return s;
  if (in.scenario.output.timeline == TimelineFormat::chrome)
    if (Status s = dir.write("predicted.json", encode_chrome_json(timeline, in.plan)); !s) return s;
  if (in.scenario.output.timeline == TimelineFormat::csv)
    if (Status s = dir.write("predicted.csv", encode_csv_timeline(timeline, in.plan)); !s) return s;
  return write_summary(dir, in.id, "predicted", to_json(in, p));
}

}  // namespace tandem::tools
