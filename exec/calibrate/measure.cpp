#include "exec/calibrate/measure.h"

#include <torch/headeronly/version.h>

#include <algorithm>
#include <barrier>
#include <mutex>
#include <optional>
#include <thread>

#include "common/base/text.h"
#include "exec/calibrate/operands.h"
#include "exec/device/clock.h"
#include "exec/device/torch_memory.h"

namespace tandem::exec {
namespace {

constexpr int kRounds =
    4;  // through all kernels: what slows the machine for a while hits all alike
constexpr int kLeastSamples = 2;   // of one thread in a round
constexpr int kMostSamples = 100;  // the same: beyond it the median stands

struct Sample {
  Nanoseconds cpu = 0, wall = 0;
};

double quantile(const std::vector<Nanoseconds>& sorted, double q) {
  return static_cast<double>(
      sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))]);
}

MeasuredPoint summary(const MeasuredKernel& what, int busy, const std::vector<Sample>& samples) {
  MeasuredPoint p;
  p.what = what;
  p.busy = busy;
  p.samples = static_cast<int>(samples.size());
  std::vector<Nanoseconds> cpu, wall;
  for (const Sample& s : samples) {
    cpu.push_back(s.cpu);
    wall.push_back(s.wall);
  }
  std::sort(cpu.begin(), cpu.end());
  std::sort(wall.begin(), wall.end());
  p.cpu_s = quantile(cpu, 0.5) * 1e-9;
  p.wall_s = quantile(wall, 0.5) * 1e-9;
  p.spread = (quantile(cpu, 0.75) - quantile(cpu, 0.25)) / std::max(1.0, quantile(cpu, 0.5));
  return p;
}

// Calls the sets in turn until `deadline`, all threads of the group at the same time.
std::vector<Sample> time_calls(const std::vector<OperandSet>& sets, Nanoseconds budget) {
  for (const OperandSet& set : sets) {  // instructions, branches and pages are warm after this
    refresh(set);
    set.call();
  }
  std::vector<Sample> samples;
  const Nanoseconds deadline = now_ns() + budget;
  for (std::size_t i = 0; static_cast<int>(samples.size()) < kMostSamples; ++i) {
    const OperandSet& set = sets[i % sets.size()];
    refresh(sets[(i + 1) % sets.size()]);
    const Nanoseconds begin = now_ns(), cpu = thread_cpu_ns();
    set.call();
    const Nanoseconds end = now_ns(), cpu_end = thread_cpu_ns();
    samples.push_back({cpu_end - cpu, end - begin});
    if (end >= deadline && static_cast<int>(samples.size()) >= kLeastSamples) break;
  }
  return samples;
}

// What one pair of clock readings costs by the CPU clock itself.
double call_overhead() {
  std::vector<Nanoseconds> cost;
  for (int i = 0; i < 201; ++i) {
    (void)now_ns();
    const Nanoseconds cpu = thread_cpu_ns();
    (void)now_ns();
    cost.push_back(thread_cpu_ns() - cpu);
  }
  std::sort(cost.begin(), cost.end());
  return quantile(cost, 0.5) * 1e-9;
}

// `busy` threads measure one kernel together.
Result<std::vector<Sample>> measure_together(const MeasureRequest& request, const Kernel& kernel,
                                             bool accumulate, Nanoseconds budget,
                                             std::vector<std::unique_ptr<MeasureSlab>>& slabs,
                                             int busy) {
  const KernelContext context;
  std::vector<Sample> all;
  std::optional<Error> error;
  std::mutex mutex;
  std::barrier barrier(busy);
  std::vector<std::thread> threads;
  for (int t = 0; t < busy; ++t)
    threads.emplace_back([&, t] {
      set_up_torch(request.threads_per_rank);
      Result<std::vector<OperandSet>> sets =
          make_operand_sets(kernel, request.types, accumulate, request.footprint,
                            *slabs[static_cast<std::size_t>(t)], context);
      barrier.arrive_and_wait();
      std::vector<Sample> samples;
      try {
        if (sets) samples = time_calls(*sets, budget);
      } catch (const std::exception& e) {
        sets = make_error(Failure::execution, "E-EXEC-032", "a kernel failed",
                          to_text(kernel) + ": " + e.what(), "a kernel that runs",
                          "report it with this line");
      }
      const std::lock_guard lock(mutex);
      if (!sets)
        error = sets.error();
      else
        all.insert(all.end(), samples.begin(), samples.end());
    });
  for (std::thread& t : threads) t.join();
  if (error) return *error;
  return all;
}

}  // namespace

Result<MeasureResult> measure_kernels(const MeasureRequest& request,
                                      const MeasureProgress& progress) {
  MeasureResult out;
  out.libtorch = TORCH_VERSION;
  set_up_torch(request.threads_per_rank);
  out.call_overhead_s = call_overhead();
  Bytes slab_bytes = 0;
  std::vector<Kernel> kernels;
  for (const MeasuredKernel& k : request.kernels) {
    const auto kernel = kernel_from_text(split(k.kernel, ' '));
    TANDEM_CHECK(kernel.has_value(), "a request with an unknown kernel: {}", k.kernel);
    kernels.push_back(*kernel);
    const Bytes one = set_bytes(*kernel, request.types);
    slab_bytes = std::max(slab_bytes, one * num_sets(one, request.footprint) +
                                          scratch_bytes(*kernel, request.types, k.accumulate));
  }
  const int most_busy = request.busy.empty() ? 0 : request.busy.back();
  std::vector<std::unique_ptr<MeasureSlab>> slabs;
  for (int t = 0; t < most_busy; ++t) slabs.push_back(std::make_unique<MeasureSlab>(slab_bytes));
  const int points = static_cast<int>(kernels.size() * request.busy.size()), all = points * kRounds;
  std::vector<std::vector<Sample>> samples(static_cast<std::size_t>(points));
  const Nanoseconds end = now_ns() + static_cast<Nanoseconds>(request.budget_s * 1e9);
  int done = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::size_t point = 0;
    for (std::size_t i = 0; i < kernels.size(); ++i)
      for (int busy : request.busy) {
        // Half of an even share goes to laying out and warming up.
        const Nanoseconds share = std::max<Nanoseconds>(0, end - now_ns()) / (all - done) / 2;
        Result<std::vector<Sample>> more = measure_together(
            request, kernels[i], request.kernels[i].accumulate, share, slabs, busy);
        if (!more) return more.error();
        samples[point].insert(samples[point].end(), more->begin(), more->end());
        ++point;
        ++done;
        if (progress) progress(done, all);
      }
  }
  std::size_t point = 0;
  for (const MeasuredKernel& kernel : request.kernels)
    for (int busy : request.busy) out.points.push_back(summary(kernel, busy, samples[point++]));
  return out;
}

}  // namespace tandem::exec
