// tandem calibrate: measures this machine and writes a .cal.json (docs/formats/calibration.md).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "common/base/file.h"
#include "common/plan/build.h"
#include "sim/calibrate/kernel_list.h"
#include "sim/compute/compute_cost.h"
#include "tools/calibration_cache.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/inputs.h"
#include "tools/machine.h"
#include "tools/measure_machine.h"

namespace tandem::tools {
namespace {

struct Options {
  int ranks = 2;
  std::vector<std::string> scenarios;
  double budget_s = 60;
  std::string precision = "fp32";
  bool no_grid = false;
};

// 2, 4, 8, ... up to the ranks, and the ranks.
std::vector<int> group_sizes(int ranks) {
  std::set<int> out;
  for (int n = 2; n <= ranks; n *= 2) out.insert(n);
  if (ranks >= 2) out.insert(ranks);
  return {out.begin(), out.end()};
}

std::string to_text(const Calibration& c, double wall_s) {
  std::string out = fmt::format(
      "{}, {} cores, {} ranks, {}: {} kernel timings, {} transport curves in {:.0f} s\n"
      "issue of an op {:.1f} us; wake-up of a thread",
      c.machine.cpu, c.machine.cores, c.machine.ranks, c.precision, c.kernels.size(),
      c.transports.size(), wall_s, c.issue_s * 1e6);
  for (const WakePoint& w : c.wakes)
    out += fmt::format("  {} ranks {:.1f} us", w.ranks, w.seconds * 1e6);
  out += "\n\n";
  for (const TransportCurve& t : c.transports) {
    out += fmt::format("  {:<12} x{:<3} {:>3.0f} % CPU", t.kind, t.members, 100 * t.cpu_share);
    for (const TransportSegment& s : t.segments)
      out += fmt::format("   from {} B: {:.1f} us + {:.2f} GB/s", s.from_bytes, s.alpha_s * 1e6,
                         s.bytes_per_s * 1e-9);
    out += "\n";
  }
  out += "\n  error on points that were held out          points   mean    max\n";
  for (const CalibrationFit& f : c.fits)
    if (f.held_out > 0)
      out += fmt::format("  {:<42} {:>3} of {:<3} {:>5.1f} % {:>5.1f} %\n", f.name, f.held_out,
                         f.points, 100 * f.mean_error, 100 * f.max_error);
  return out;
}

Json fits_json(const Calibration& c) {
  Json out = Json::array();
  for (const CalibrationFit& f : c.fits)
    out.push_back({{"name", f.name},
                   {"points", f.points},
                   {"held_out", f.held_out},
                   {"mean_error", f.mean_error},
                   {"max_error", f.max_error}});
  return out;
}

int calibrate(Context& context, const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  MachineRequest request;
  const Result<CalibrationMachine> machine = this_machine(options.ranks);
  if (!machine) return context.fail(machine.error());
  request.machine = *machine;
  request.precision = options.precision;
  request.types = options.precision == "fp64" ? PlanTypes{DType::f64, DType::f64}
                                              : PlanTypes{DType::f32, DType::f32};
  request.largest_message = 16 << 20;
  if (!options.no_grid) request.kernels = sim::kernel_grid();
  for (const std::string& file : options.scenarios) {
    const auto scenario = load_scenario(context, file);
    if (!scenario) return context.fail(scenario.error());
    const Result<Plan> plan = build_plan(*scenario);
    if (!plan) return context.fail(plan.error());
    const std::string precision(sim::precision_name(plan->header.types.compute));
    if (precision != options.precision)
      return context.fail(make_error(Failure::usage, "E-CAL-006",
                                     "the calibration is of another precision",
                                     file + ": " + precision, options.precision,
                                     "one file for each precision: --precision " + precision));
    request.kernels = sim::merged(request.kernels, sim::kernels_of(*plan));
    for (const Op& op : plan->ops)
      if (is_communication(op.kind))
        request.largest_message = std::max(request.largest_message, Plan::bytes_in(op));
  }
  request.budget_s = options.budget_s;
  request.group_sizes = group_sizes(options.ranks);
  request.world_sizes = worlds_to_measure(options.ranks, machine->cores);
  request.messages = options.ranks > 1;
  const Result<Calibration> calibration = measure_machine(context, request);
  if (!calibration) return context.fail(calibration.error());
  std::string path = context.options.directory;
  const std::string digest = digest_of(calibration->machine, calibration->precision);
  if (path.empty()) {
    path = calibrations_folder() + "/" + digest + ".cal.json";
    if (Status s = make_directories(calibrations_folder()); !s) return context.fail(s.error());
  }
  if (Status s = write_calibration(path, *calibration); !s) return context.fail(s.error());
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  context.result["path"] = path;
  context.result["digest"] = digest;
  context.result["machine"] = {{"cpu", calibration->machine.cpu},
                               {"libtorch", calibration->machine.libtorch},
                               {"cores", calibration->machine.cores},
                               {"ranks", calibration->machine.ranks}};
  context.result["kernels"] = calibration->kernels.size();
  context.result["transports"] = calibration->transports.size();
  context.result["issue_s"] = calibration->issue_s;
  context.result["wakes"] = Json::array();
  for (const WakePoint& w : calibration->wakes)
    context.result["wakes"].push_back({{"ranks", w.ranks}, {"seconds", w.seconds}});
  context.result["fits"] = fits_json(*calibration);
  context.result["wall_s"] = wall.count();
  context.print(to_text(*calibration, wall.count()));
  context.message("wrote " + path);
  return kExitOk;
}

}  // namespace

void add_calibrate(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = add_command(
      app, context,
      {.name = "calibrate",
       .summary = "Measure this machine for the simulator",
       .details =
           "Times kernels of common sizes alone and with the other cores busy, and messages and\n"
           "all-reduces between real rank processes. Writes them with the error on points that\n"
           "were held out: into -o FILE.cal.json, for cluster.calibration of a scenario, else "
           "into\n"
           "the user's cache folder, where `run` finds it.",
       .examples = "  tandem calibrate -o here.cal.json\n"
                   "  tandem calibrate --ranks 8 --budget 120 -o here8.cal.json\n"
                   "  tandem calibrate --scenario scenarios/quickstart.yaml      its kernels too"},
      kUsesSets | kUsesDirectory);
  sub->add_option("--ranks", options->ranks, "Processes that share the cores")
      ->type_name("N")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--scenario", options->scenarios, "Also measure the kernels of this scenario")
      ->type_name("S.yaml");
  sub->add_flag("--no-grid", options->no_grid, "Measure the kernels of --scenario alone");
  sub->add_option("--budget", options->budget_s, "Seconds for the kernels")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  sub->add_option("--precision", options->precision, "Data type of the kernels")
      ->type_name("fp32|fp64")
      ->check(CLI::IsMember({"fp32", "fp64"}))
      ->capture_default_str();
  sub->callback([&context, options] {
    context.action = [&context, options] { return calibrate(context, *options); };
  });
}

}  // namespace tandem::tools
