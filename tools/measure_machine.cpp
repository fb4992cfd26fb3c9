#include "tools/measure_machine.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/plan/print.h"
#include "common/timeline/rank_file.h"
#include "exec/launch/run_child.h"
#include "sim/calibrate/assemble.h"
#include "sim/calibrate/probe.h"
#include "tools/execute_run.h"
#include "tools/training.h"

namespace tandem::tools {
namespace {

namespace fs = std::filesystem;

constexpr int kProbeSteps = 8, kProbeRepeats = 4, kTurns = 24;
constexpr double kStartSeconds = 60;  // of loading LibTorch on a busy machine, and of an answer

// Measurements leave no files behind.
class TemporaryFolder {
 public:
  [[nodiscard]] static Result<TemporaryFolder> create() {
    std::error_code error;
    std::string path = (fs::temp_directory_path(error) / "tandem-calibrate-XXXXXX").string();
    if (error || ::mkdtemp(path.data()) == nullptr)
      return make_error(Failure::output, "E-IO-011", "cannot make the folder", path,
                        "a folder for temporary files", "set TMPDIR to one with room");
    return TemporaryFolder(path);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

Error child_failed(const exec::ChildEnd& end) {
  const std::string what = end.timed_out ? "no answer in time"
                           : end.signal  ? fmt::format("signal {}", end.signal)
                                         : fmt::format("exit code {}", end.exit_code);
  return make_error(end.timed_out ? Failure::peer_lost : Failure::execution, "E-CAL-008",
                    "a measuring process failed",
                    end.own_words.empty() ? what : what + ": " + end.own_words,
                    "a process that times kernels to its end", "run `tandem calibrate` again");
}

// Powers of four up to the largest, from a header's worth of bytes.
std::vector<Bytes> message_sizes(Bytes largest) {
  std::vector<Bytes> out;
  const Bytes most = std::clamp<Bytes>(largest, 64 << 10, 64 << 20);
  for (Bytes b = 64; b < most; b *= 4) out.push_back(b);
  out.push_back(most);
  return out;
}

// A model that says nothing: probe plans read no parameters and no data.
TrainingConfig probe_config(const MachineRequest& request) {
  TrainingConfig c;
  c.layers = c.hidden = c.heads = c.ffn_hidden = c.max_sequence = c.sequence = 1;
  c.global_batch = c.micro_batch = 1;
  c.vocab = 256;
  c.data_kind = "random";
  c.precision = request.precision;
  c.threads_per_rank = request.threads_per_rank;
  c.warmup_steps = 2;
  c.steps = kProbeSteps;
  return c;
}

Status run_probe(Context& context, const MachineRequest& request, const sim::ProbePlan& probe,
                 const std::string& what, sim::ProbeFigures& figures) {
  Result<TemporaryFolder> folder = TemporaryFolder::create();
  if (!folder) return folder.error();
  const std::string& path = folder->path();
  const std::string text = print(probe.plan);
  if (Status s = write_file_atomic(path + "/plan.txt", text); !s) return s;
  ExecuteRequest execute;
  execute.plan = &probe.plan;
  execute.plan_id = plan_id_of_text(text);
  execute.config = probe_config(request);
  execute.run_dir = path;
  if (Status s = remove_old_results(path, 0); !s) return s;
  if (Status s = write_training(path, execute.config); !s) return s;
  context.progress("calibrating: " + what);
  const Result<ExecuteSummary> summary = execute_run(execute, {});
  if (!summary) return summary.error();
  const Result<Timeline> measured = read_run_timeline(path, probe.plan.header.mesh.world());
  if (!measured) return measured.error();
  sim::add_figures(probe, *measured, figures);
  return Ok{};
}

// "12 80" of the measuring process.
void show_progress(Context& context, std::string_view line) {
  const auto words = split(line, ' ');
  if (words.size() != 2) return;
  const auto done = parse_int(words[0]), all = parse_int(words[1]);
  if (done && all && *all > 0)
    context.progress(fmt::format("calibrating: {} of {} kernel timings", *done, *all));
}

}  // namespace

std::vector<int> worlds_to_measure(int ranks, int cores) {
  const int most = std::max(1, std::min(ranks, cores));
  std::vector<int> out;
  for (int n = 1; n < most; n *= 2) out.push_back(n);
  out.push_back(most);
  return out;
}

Status measure_kernels(Context& context, const MachineRequest& request, Calibration& out) {
  if (request.kernels.empty()) return Ok{};
  Result<TemporaryFolder> folder = TemporaryFolder::create();
  if (!folder) return folder.error();
  MeasureRequest ask;
  ask.types = request.types;
  ask.threads_per_rank = request.threads_per_rank;
  ask.busy.clear();
  const int threads = request.threads_per_rank;
  const int most = std::max(1, std::min(request.machine.cores / threads, request.machine.ranks));
  for (int b = 1; b <= most; b *= 2) ask.busy.push_back(b);
  if (ask.busy.back() != most) ask.busy.push_back(most);
  ask.budget_s = request.budget_s;
  ask.footprint = request.footprint;
  ask.kernels = request.kernels;
  const std::string question = folder->path() + "/request.json",
                    answer = folder->path() + "/result.json";
  if (Status s = write_file_atomic(question, to_json(ask)); !s) return s;
  std::error_code error;
  const std::string program = fs::read_symlink("/proc/self/exe", error).string();
  const Result<exec::ChildEnd> end = exec::run_child(
      program, {"tandem", "__calibrate", question, answer}, folder->path() + "/log",
      kStartSeconds + 20 * request.budget_s, [&](bool is_error, std::string_view line) {
        if (!is_error) show_progress(context, line);
      });
  context.progress("");
  if (!end) return end.error();
  if (end->exit_code != 0) return child_failed(*end);
  const Result<std::string> text = read_file(answer, limits::kTableBytes);
  if (!text) return text.error();
  const Result<MeasureResult> result = measure_result_from_json(*text, answer);
  if (!result) return result.error();
  sim::add_kernels(*result, request.types, out);
  return Ok{};
}

Result<Calibration> measure_machine(Context& context, const MachineRequest& request) {
  Calibration out;
  out.machine = request.machine;
  out.precision = request.precision;
  if (Status s = measure_kernels(context, request, out); !s) return s.error();
  sim::ProbeFigures figures;
  const auto probe = [&](const sim::ProbePlan& plan, const std::string& what) {
    return run_probe(context, request, plan, what, figures);
  };
  for (int world : request.world_sizes)
    if (Status s =
            probe(sim::host_probe(world, kTurns), fmt::format("wake-ups of {} ranks", world));
        !s)
      return s.error();
  const std::vector<Bytes> sizes = message_sizes(request.largest_message);
  const std::array<OpKind, 1> kinds = {OpKind::all_reduce};
  for (int members : request.group_sizes)
    if (Status s = probe(sim::collective_probe(kinds, members, sizes, kProbeRepeats),
                         fmt::format("all-reduce of {} ranks", members));
        !s)
      return s.error();
  if (request.messages)
    if (Status s = probe(sim::message_probe(sizes, kProbeRepeats), "messages"); !s)
      return s.error();
  context.progress("");
  sim::add_transports(figures, out);
  return out;
}

}  // namespace tandem::tools
