// See stored_run.h.
#include "tools/stored_run.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/text.h"
#include "common/plan/live_bytes.h"
#include "common/plan/parse.h"
#include "common/report/html.h"
#include "common/report/numbers.h"
#include "common/scenario/read.h"
#include "common/timeline/rank_file.h"
#include "common/timeline/read_timeline.h"
#include "tools/degrees.h"
#include "tools/prediction.h"
#include "tools/rehearsal.h"

namespace tandem::tools {
namespace {

// The bytes that the manifest speaks of.
Result<std::string> read_listed(const StoredRun& run, const std::string& name,
                                std::int64_t max_bytes) {
  const std::string path = run.folder + "/" + name;
  const auto listed = run.manifest.files.find(name);
  auto bytes = read_file(path, max_bytes);
  if (!bytes) return bytes;
  if (listed != run.manifest.files.end() && sha256_hex(*bytes) == listed->second.sha256)
    return bytes;
  return make_error(Failure::bad_input, "E-CLI-010", "a file of the run is damaged",
                    "other bytes than the manifest lists", "the file that the run wrote",
                    "the run was changed or did not end: write it again", Location{path});
}

Result<std::optional<Timeline>> read_listed_timeline(const StoredRun& run,
                                                     const std::string& name) {
  if (!run.manifest.files.contains(name)) return std::optional<Timeline>();
  auto bytes = read_listed(run, name, limits::kTimelineBytes);
  if (!bytes) return bytes.error();
  auto timeline = decode_timeline(*bytes, run.folder + "/" + name);
  if (!timeline) return timeline.error();
  return std::optional<Timeline>(std::move(*timeline));
}

std::vector<std::pair<std::string, std::string>> settings_of(const StoredRun& run) {
  const PlanHeader& h = run.plan.header;
  std::vector<std::pair<std::string, std::string>> out = {
      {"command", run.manifest.command},
      {"plan", run.manifest.plan_id},
      {"seed", std::to_string(run.manifest.seed)},
      {"schedule", fmt::format("{}, {} microbatches of {} sequences of {}", h.schedule,
                               h.microbatches, h.micro_batch, h.sequence)},
      {"ranks", fmt::format("{}: {}", h.mesh.world(), degrees_text(h.mesh))}};
  if (!run.scenario) return out;
  const Scenario& s = *run.scenario;
  out.emplace_back("model",
                   fmt::format("{} layers, hidden {}, {} heads, vocabulary {}", s.model.layers,
                               s.model.hidden, s.model.heads, s.model.vocab));
  out.emplace_back(
      "cluster",
      fmt::format("{} x {} devices, {} each", s.cluster.nodes, s.cluster.devices_per_node,
                  text_of_bytes(static_cast<double>(s.cluster.device.memory))));
  out.emplace_back("calibration", s.cluster.calibration.empty() ? "none" : s.cluster.calibration);
  return out;
}

}  // namespace

Result<StoredRun> read_stored_run(const std::string& folder) {
  StoredRun run;
  run.folder = folder;
  while (run.folder.size() > 1 && run.folder.ends_with('/')) run.folder.pop_back();
  auto manifest = read_manifest(run.folder);
  if (!manifest) return manifest.error();
  run.manifest = std::move(*manifest);
  auto text = read_listed(run, "plan.txt", limits::kPlanTextBytes);
  if (!text) return text.error();
  auto plan = parse_plan(*text, run.folder + "/plan.txt");
  if (!plan) return plan.error();
  run.plan = std::move(*plan);
  if (run.manifest.files.contains("scenario.yaml")) {
    auto yaml = read_listed(run, "scenario.yaml", limits::kScenarioBytes);
    if (!yaml) return yaml.error();
    auto scenario = read_scenario_text(run.folder + "/scenario.yaml", *yaml);
    if (!scenario) return scenario.error();
    run.scenario = std::move(*scenario);
  }
  auto predicted = read_listed_timeline(run, "predicted.pftrace");
  if (!predicted) return predicted.error();
  run.predicted = std::move(*predicted);
  auto measured = read_listed_timeline(run, "measured.pftrace");
  if (!measured) return measured.error();
  run.measured = std::move(*measured);
  return run;
}

namespace {

bool is_rehearsed(const Timeline& t) {
  const auto device = t.meta.find("device");
  return device != t.meta.end() && device->second == "rehearsal";
}

}  // namespace

bool is_of_one_device(const Timeline& predicted, const Timeline& measured) {
  return is_rehearsed(predicted) == is_rehearsed(measured);
}

Error no_timeline(const StoredRun& run, std::string_view what, std::string_view how) {
  return make_error(Failure::bad_input, "E-CLI-011", "the run lacks a timeline",
                    fmt::format("no {}", what), "a run that holds it",
                    fmt::format("`{}` writes it into the folder of the run", how),
                    Location{run.folder});
}

namespace {

// The predicted peaks with the rows that the ranks have recorded: buffers of routed tokens are as
// large as the router made them, which no prediction knows.
Result<std::vector<PeakMemory>> peaks_with_recorded_rows(const StoredRun& run) {
  std::vector<PeakMemory> out;
  const std::vector<ClassBytes> persistent = persistent_bytes(run.plan);
  for (const PeakMemory& predicted : run.predicted->peaks) {
    PeakMemory& peak = out.emplace_back(predicted);
    const std::string path = rank_path(run.folder, predicted.rank, "json");
    const Result<std::string> text = read_file(path, limits::kTableBytes);
    if (!text) continue;  // a run from elsewhere: the balanced prediction stays
    const ProgramId program = run.plan.program_of(Rank{predicted.rank});
    bool first = true;
    try {
      const Json root = Json::parse(*text);
      for (const Json& step : root.value("rows", Json::array())) {
        RunTimeRows rows;
        for (const Json& pair : step)
          rows[BufferId{pair.at(0).get<std::int64_t>()}] = pair.at(1).get<std::int64_t>();
        const PeakBytes p = peak_with_rows(run.plan, program, persistent[program.index()], rows);
        if (first) peak.by_class = p.by_class;
        raise_to(peak.by_class, p.by_class);
        if (first || p.total > peak.total)
          peak.total = p.total, peak.at_peak = p.at_peak, peak.op_at_peak = p.op;
        first = false;
      }
    } catch (const nlohmann::json::exception& e) {
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        e.what(), "the file that the rank wrote", "run again", Location{path});
    }
  }
  return out;
}

// Cluster and calibration of the run's scenario; of a rehearsal its machine.
Result<Prediction> basis_of(const StoredRun& run, bool rehearsed) {
  Prediction base;
  auto cluster = sim::make_cluster(run.scenario->cluster, run.plan.header.mesh.world());
  if (!cluster) return cluster.error();
  base.cluster = std::move(*cluster);
  if (rehearsed) base.cluster = rehearsal_cluster(std::move(base.cluster));
  if (const std::string& name = run.scenario->cluster.calibration; !name.empty() && !rehearsed) {
    auto calibration = read_calibration(path_of_field(*run.scenario, "cluster.calibration", name));
    if (!calibration) return calibration.error();
    base.calibration = std::move(*calibration);
  }
  return base;
}

// The prediction with what the run has recorded of its routing, which no prediction knows: made
// anew where there are cluster and counts of every router, else (and where the prediction had
// routing of its own) its peaks alone. nullopt: nothing to change.
Result<std::optional<Timeline>> with_recorded_routing(Context& context, const StoredRun& run,
                                                      const std::optional<Prediction>& base) {
  std::optional<Timeline> out;
  const bool balanced = !run.scenario || run.scenario->simulate.routing.balanced();
  if (base && balanced && run.manifest.files.contains("routing.csv")) {
    const auto text = read_listed(run, "routing.csv", limits::kRoutingBytes);
    if (!text) return text.error();
    const auto trace = parse_routing_trace(*text, run.folder + "/routing.csv");
    if (!trace) return trace.error();
    context.progress("simulating the recorded routing");
    auto again = predict_with_routing(run.plan, *base, *run.scenario, *trace);
    if (!again) return again.error();
    again->timeline.meta.insert(run.predicted->meta.begin(), run.predicted->meta.end());
    out = std::move(again->timeline);
  }
  if (!has_run_time_rows(run.plan)) return out;
  // Of every step, also those that routing.csv had no room for.
  auto peaks = peaks_with_recorded_rows(run);
  if (!peaks) return peaks.error();
  if (!out) out = *run.predicted;
  out->peaks = std::move(*peaks);
  return out;
}

}  // namespace

Result<Comparison> compare_run(Context& context, const StoredRun& run) {
  if (!run.predicted) return no_timeline(run, "predicted.pftrace", "tandem simulate -o DIR");
  if (!run.measured) return no_timeline(run, "measured.pftrace", "tandem execute -o DIR");
  const bool rehearsed = is_rehearsed(*run.measured);
  if (!is_of_one_device(*run.predicted, *run.measured))
    return no_timeline(
        run, rehearsed ? "prediction of the rehearsal" : "prediction of the run",
        rehearsed ? "tandem execute --device rehearsal -o DIR" : "tandem simulate -o DIR");
  std::optional<Prediction> base;
  if (run.scenario) {
    auto basis = basis_of(run, rehearsed);
    if (!basis) return basis.error();
    base = std::move(*basis);
  }
  auto adjusted = with_recorded_routing(context, run, base);
  if (!adjusted) return adjusted.error();
  auto comparison = compare(run.plan, *adjusted ? **adjusted : *run.predicted, *run.measured,
                            {.predicted_name = run.folder + "/predicted.pftrace",
                             .measured_name = run.folder + "/measured.pftrace"});
  if (!comparison || !base) return comparison;
  context.progress("replaying the measured durations");
  comparison->replay_error_rel =
      replay_error(run.plan, *base, run.scenario->simulate, *run.measured, comparison->measured_ns);
  return comparison;
}

Result<std::string> report_of(Context& context, const StoredRun& run) {
  ReportInput in;
  if (!run.predicted) return no_timeline(run, "predicted.pftrace", "tandem simulate -o DIR");
  in.title = run.scenario ? run.scenario->name : "plan " + run.manifest.plan_id;
  in.plan = &run.plan;
  in.predicted = &*run.predicted;
  in.settings = settings_of(run);
  std::optional<Comparison> comparison;
  if (run.measured && is_of_one_device(*run.predicted, *run.measured)) {
    auto compared = compare_run(context, run);
    if (!compared) return compared.error();
    comparison = std::move(*compared);
    context.warn(comparison->warnings);
    in.comparison = &*comparison;
    in.measured = &*run.measured;
  }
  return html_report(in);
}

}  // namespace tandem::tools
