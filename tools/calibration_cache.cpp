#include "tools/calibration_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <set>

#include "common/base/file.h"
#include "sim/calibrate/kernel_list.h"
#include "tools/machine.h"
#include "tools/measure_machine.h"

namespace tandem::tools {
namespace {

// What one kernel may cost at both numbers of busy cores; 45 kernels of a small model take 9 s.
constexpr double kSecondsPerKernel = 0.2, kMostKernelSeconds = 15;

std::vector<MeasuredKernel> missing_kernels(const Plan& plan, const Calibration& have) {
  std::set<std::pair<std::string, bool>> known;
  for (const KernelPoint& p : have.kernels) known.emplace(p.kernel, p.accumulate);
  std::vector<MeasuredKernel> out;
  for (MeasuredKernel& k : sim::kernels_of(plan))
    if (!known.contains({k.kernel, k.accumulate})) out.push_back(std::move(k));
  return out;
}

struct Messages {
  std::vector<int> group_sizes;  // of collectives, ascending
  Bytes largest = 0;
  bool any = false;
};

Messages messages_of(const Plan& plan) {
  Messages out;
  std::set<int> sizes;
  for (const Op& op : plan.ops) {
    if (!is_communication(op.kind)) continue;
    out.any = true;
    out.largest = std::max(out.largest, Plan::bytes_in(op));
    if (is_collective(op.kind)) sizes.insert(plan.communicators[op.comm.index()].size);
  }
  out.group_sizes.assign(sizes.begin(), sizes.end());
  return out;
}

// Groups of sizes that have no curve yet.
std::vector<int> missing_groups(const Messages& messages, const Calibration& have) {
  std::vector<int> out;
  for (int size : messages.group_sizes) {
    const TransportCurve* curve = have.transport("all_reduce", size);
    if (!curve || curve->members != size) out.push_back(size);
  }
  return out;
}

}  // namespace

std::string calibrations_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = cache && *cache ? cache : std::string(home ? home : ".") + "/.cache";
  return base + "/tandem/calibrations";
}

Result<CachedCalibration> calibration_for(Context& context, const Plan& plan,
                                          const std::string& precision, int threads_per_rank,
                                          Bytes footprint) {
  const auto begin = std::chrono::steady_clock::now();
  const Result<CalibrationMachine> machine = this_machine(plan.header.mesh.world());
  if (!machine) return machine.error();
  CachedCalibration out;
  out.digest = digest_of(*machine, precision);
  out.path = calibrations_folder() + "/" + out.digest + ".cal.json";
  out.calibration.machine = *machine;
  out.calibration.precision = precision;
  // A file of the cache that cannot be read is made anew.
  if (Result<Calibration> old = read_calibration(out.path);
      old && digest_of(old->machine, old->precision) == out.digest)
    out.calibration = std::move(*old);

  MachineRequest request;
  request.machine = *machine;
  request.types = plan.header.types;
  request.precision = precision;
  request.threads_per_rank = threads_per_rank;
  request.kernels = missing_kernels(plan, out.calibration);
  request.footprint = std::clamp<Bytes>(footprint, 1 << 20, 64 << 20);
  request.budget_s =
      std::min(kMostKernelSeconds, kSecondsPerKernel * static_cast<double>(request.kernels.size()));
  const Messages messages = messages_of(plan);
  request.largest_message = messages.largest;
  request.group_sizes = missing_groups(messages, out.calibration);
  request.messages = messages.any && !out.calibration.transport("send", 2);
  for (int world : worlds_to_measure(machine->ranks, machine->cores))
    if (std::none_of(out.calibration.wakes.begin(), out.calibration.wakes.end(),
                     [&](const WakePoint& w) { return w.ranks == world; }))
      request.world_sizes.push_back(world);
  out.kernels_measured = static_cast<int>(request.kernels.size());
  out.transport_measured =
      request.messages || !request.group_sizes.empty() || !request.world_sizes.empty();
  if (out.kernels_measured == 0 && !out.transport_measured) return out;

  Result<Calibration> fresh = measure_machine(context, request);
  if (!fresh) return fresh.error();
  Calibration& c = out.calibration;
  c.kernels.insert(c.kernels.end(), fresh->kernels.begin(), fresh->kernels.end());
  c.fits.insert(c.fits.end(), fresh->fits.begin(), fresh->fits.end());
  c.transports.insert(c.transports.end(), fresh->transports.begin(), fresh->transports.end());
  c.wakes.insert(c.wakes.end(), fresh->wakes.begin(), fresh->wakes.end());
  if (fresh->issue_s > 0) c.issue_s = fresh->issue_s;
  out.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (Status s = make_directories(calibrations_folder()); !s) return s.error();
  if (Status s = write_calibration(out.path, c); !s) return s.error();
  return out;
}

}  // namespace tandem::tools
