#include "tools/execute_run.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/plan/print.h"
#include "common/plan/routing_trace.h"
#include "common/timeline/perfetto.h"
#include "common/timeline/rank_file.h"
#include "exec/launch/launcher.h"
#include "exec/launch/run_child.h"
#include "exec/launch/signals.h"
#include "exec/transport/wiring.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// Of the parity section of models.md; bf16: docs/decisions.md D-028, with experts D-041.
struct Limits {
  double gradient, norm, loss;
  double bias;  // of routers: a wrong sum of choices is at least one rate
};
Limits limits_of(const TrainingConfig& config) {
  const double bias = config.moe.bias_update / 2;
  if (config.precision == "fp64") return {1e-10, 1e-10, 1e-10, bias};
  if (config.precision == "fp32") return {1e-5, 1e-5, 1e-4, bias};
  // Experts that few tokens visit: gradients of few rounded rows.
  return {config.moe.experts > 0 ? 0.3 : 0.1, 0.01, 0.01, bias};
}

// The program itself: ranks are processes of it.
Result<std::string> own_program() {
  std::error_code failed;
  const fs::path path = fs::read_symlink("/proc/self/exe", failed);
  if (!failed) return path.string();
  return make_error(Failure::peer_lost, "E-EXEC-001", "a rank cannot be started", failed.message(),
                    "the program at /proc/self/exe", "mount /proc");
}

// In the order of exec/execute.h, with what messages call their ops.
std::vector<const Plan*> side_plans(const ExecuteRequest& request) {
  std::vector<const Plan*> out;
  for (const Plan* p : {request.evaluation, request.settling})
    if (p) out.push_back(p);
  return out;
}

// One socket pair a wire, an end to each of its two ranks; those of the steps come first.
Result<std::vector<std::vector<int>>> make_wires(const ExecuteRequest& request) {
  AlgorithmSetting setting;
  setting.deterministic = request.config.deterministic;
  std::vector<exec::Wire> wires = exec::wires_of(*request.plan, setting);
  for (const Plan* p : side_plans(request))
    for (const exec::Wire& w : exec::wires_of(*p, setting)) wires.push_back(w);
  const int world = request.plan->header.mesh.world();
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  // The launcher holds four descriptors a rank: two pipes, two logs; and a connection.
  if (Status s = exec::check_descriptors(wires, static_cast<std::int64_t>(limit.rlim_max),
                                         5 * std::int64_t{world});
      !s)
    return s.error();
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  std::vector<std::vector<int>> by_rank(static_cast<std::size_t>(world));
  for (const exec::Wire& wire : wires) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      const int error = errno;
      for (const auto& list : by_rank)
        for (int fd : list) ::close(fd);
      return make_error(Failure::peer_lost, "E-EXEC-001", "a rank cannot be started",
                        std::string("socketpair: ") + std::strerror(error),
                        "a socket pair for every pair of ranks that exchanges messages",
                        "check the limit on open files (ulimit -n)");
    }
    by_rank[wire.a.index()].push_back(ends[0]);
    by_rank[wire.b.index()].push_back(ends[1]);
  }
  return by_rank;
}

// Cores of their own for every rank's compute threads, or nothing where there are too few.
std::vector<std::vector<int>> share_cores(int world, int threads) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return {};
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(static_cast<std::size_t>(core), &set)) cores.push_back(core);
  if (std::int64_t{world} * threads > std::ssize(cores)) return {};
  std::vector<std::vector<int>> out;
  for (int rank = 0; rank < world; ++rank)
    out.emplace_back(cores.begin() + rank * threads, cores.begin() + (rank + 1) * threads);
  return out;
}

Error damaged(const std::string& path, const std::string& found) {
  return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                    found, "the file that the rank wrote", "run again", Location{path});
}

// RUN/ranks/launch.json: how every rank ended and what was seen, also of a run that failed.
Status write_launch_report(const ExecuteRequest& request, const exec::LaunchOutcome& outcome) {
  const auto fault_json = [](const exec::Fault& f) {
    Json out = {{"cause", exec::name_of(f.cause)},
                {"rank", f.rank},
                {"time_s", static_cast<double>(f.time) * 1e-9},
                {"step", f.step},
                {"op", f.op},
                {"phase", f.phase}};
    if (f.signal != 0) out["signal"] = exec::signal_name(f.signal);
    if (!f.code.empty()) out["code"] = f.code;
    if (!f.text.empty()) out["text"] = f.text;
    return out;
  };
  Json ranks = Json::array(), faults = Json::array();
  for (const exec::RankEnd& end : outcome.ranks) {
    Json rank = {{"reaped", end.reaped}, {"joined", end.joined}, {"said_bye", end.said_bye}};
    if (end.signal != 0)
      rank["signal"] = exec::signal_name(end.signal);
    else
      rank["exit_code"] = end.exit_code;
    ranks.push_back(std::move(rank));
  }
  for (const exec::Fault& fault : outcome.faults) faults.push_back(fault_json(fault));
  const Json root = {{"format", "tandem-launch"},
                     {"version", 1},
                     {"exit_class", outcome.failure ? static_cast<int>(*outcome.failure) : 0},
                     {"culprit", outcome.culprit ? fault_json(*outcome.culprit) : Json()},
                     {"faults", faults},
                     {"ranks", ranks},
                     {"wall_s", outcome.wall_s},
                     {"stop_s", outcome.stop_s}};
  return write_file_atomic(request.run_dir + "/ranks/launch.json",
                           root.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void read_evaluations(const Json& evaluation, ExecuteSummary& out) {
  const auto steps = evaluation.at("steps").get<std::vector<int>>();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    out.evaluations.push_back({steps[i], evaluation.at("losses").at(i).get<double>()});
    out.evaluation_s += evaluation.at("seconds").at(i).get<double>();
  }
}

// K.json of every rank: losses, steps, peaks.
Status read_rank_files(const ExecuteRequest& request, ExecuteSummary& out) {
  std::vector<double> slowest;
  std::int64_t largest = -1;
  ExpertChoices experts(*request.plan);
  double dropped = 0;
  for (int rank = 0; rank < out.ranks; ++rank) {
    const std::string path = rank_path(request.run_dir, rank, "json");
    const Result<std::string> text = read_file(path, limits::kTableBytes);
    if (!text) return text.error();
    const Json root = Json::parse(*text, nullptr, false);
    try {
      const auto steps = root.at("step_ns").get<std::vector<double>>();
      if (rank == 0) {
        out.losses = root.at("losses").get<std::vector<double>>();
        for (const Json& x : root.at("dropped")) dropped += x.get<double>();
        out.checkpoint_s = root.at("checkpoint_s").get<double>();
        if (request.evaluation) read_evaluations(root.at("evaluation"), out);
        if (root.contains("roll_backs")) out.roll_backs = root.at("roll_backs").get<int>();
        slowest.assign(steps.size(), 0);
        const auto tokens = root.at("tokens").get<std::vector<double>>();
        out.tokens_per_s = tokens.empty() ? 0 : tokens.back();  // divided below
      }
      if (steps.size() != slowest.size()) return damaged(path, "another number of steps");
      for (std::size_t i = 0; i < steps.size(); ++i)
        slowest[i] = std::max(slowest[i], steps[i] * 1e-9);
      out.peak_bytes.push_back(root.at("peak_bytes").get<std::int64_t>());
      out.kernel_scratch_bytes.push_back(root.at("kernel_scratch_bytes").get<std::int64_t>());
      for (const Json& row : root.at("communication")) {
        CommunicationTotal& sum = out.communication[row.at("communicator").get<std::string>() +
                                                    " " + row.at("tag").get<std::string>()];
        sum.calls += row.at("calls").get<std::int64_t>();
        sum.bytes_in += row.at("bytes_in").get<std::int64_t>();
        sum.bytes_sent += row.at("bytes_sent").get<std::int64_t>();
        sum.bytes_sent_by_law += row.at("bytes_sent_by_law").get<std::int64_t>();
      }
      if (root.contains("expert_choices"))
        for (const auto& [layer, list] : root.at("expert_choices").items())
          experts.add(Rank{rank}, std::stoi(layer), list.get<std::vector<std::int64_t>>());
      if (out.peak_bytes.back() > largest) {
        largest = out.peak_bytes.back();
        out.peak_by_class = root.at("peak_by_class").get<std::map<std::string, std::int64_t>>();
      }
    } catch (const nlohmann::json::exception& e) {
      return damaged(path, e.what());
    }
  }
  out.experts = experts.loads();
  if (experts.total() > 0) out.dropped_share = dropped / static_cast<double>(experts.total());
  const auto warmup = static_cast<std::size_t>(untimed_steps(request.config));
  if (slowest.size() <= warmup) return damaged(rank_path(request.run_dir, 0, "json"), "no steps");
  out.step_s.assign(slowest.begin() + static_cast<std::ptrdiff_t>(warmup), slowest.end());
  std::vector<double> sorted = out.step_s;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  out.iteration_s = sorted.size() % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  out.tokens_per_s = out.iteration_s > 0 ? out.tokens_per_s / out.iteration_s : 0;
  return Ok{};
}

Status merge_timelines(const ExecuteRequest& request, int ranks) {
  Result<Timeline> merged = read_run_timeline(request.run_dir, ranks);
  if (!merged) return merged.error();
  merged->meta["version"] = kVersion;
  return write_perfetto(*merged, *request.plan, request.run_dir + "/measured.pftrace");
}

// RUN/routing.csv: what the routers of all ranks chose. Nothing where the plan has no experts.
Status merge_routing(const ExecuteRequest& request, int ranks, ExecuteSummary& out) {
  if (routing_counts(*request.plan) == 0) return Ok{};
  RoutingTrace all;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::string path = rank_path(request.run_dir, rank, "routing.csv");
    // Stages without experts have nothing to say; a run too large for a record has none.
    std::error_code failed;
    if (!fs::is_regular_file(path, failed)) continue;
    Result<RoutingTrace> own = read_routing_trace(path);
    if (!own) return own.error();
    std::move(own->records.begin(), own->records.end(), std::back_inserter(all.records));
  }
  out.routing_steps = static_cast<int>(all.steps().size());
  if (all.records.empty()) return Ok{};
  return write_file_atomic(request.run_dir + "/routing.csv", to_text(std::move(all)));
}

// A value that is not finite is written as null.
double number_of(const Json& object, const char* key) {
  const Json& value = object.at(key);
  return value.is_null() ? INFINITY : value.get<double>();
}

ChoiceSummary::Differences read_differences(const Json& object) {
  return {object.at("differed").get<std::int64_t>(), number_of(object, "largest_gap"),
          object.at("largest").get<std::string>()};
}

ChoiceSummary read_choices(const Json& choices) {
  const Json& judged = choices.at("judged");
  ChoiceSummary out;
  out.routings = choices.at("routings").get<std::int64_t>();
  out.replayed = choices.at("replayed").get<bool>();
  out.on_its_own = read_differences(choices);
  out.judged = read_differences(judged);
  out.allowed_gap = number_of(judged, "allowed_gap");
  out.num_wrong = judged.at("wrong").get<std::int64_t>();
  return out;
}

Result<VerifySummary> verify(const ExecuteRequest& request, const std::string& program,
                             double run_wall_s, const ExecuteSink& sink) {
  // One process does the work of all ranks, with autograd: a few times the run, and then some.
  const double timeout =
      std::max(request.config.timeout_s,
               20 * run_wall_s * static_cast<double>(request.plan->header.mesh.world()));
  const Result<exec::ChildEnd> end = exec::run_child(
      program, {"tandem", "__verify", request.run_dir}, request.run_dir + "/ranks/verify", timeout,
      [&](bool error, std::string_view line) {
        if (sink.line) sink.line(-1, error, line);
      });
  if (!end) return end.error();
  if (end->exit_code != 0) {
    const std::string what = end->timed_out ? fmt::format("not done after {:.0f} s", timeout)
                             : end->signal  ? exec::signal_name(end->signal)
                                            : fmt::format("exit code {}", end->exit_code);
    Failure failure = end->timed_out ? Failure::peer_lost : Failure::execution;
    if (exec::is_crash(end->signal)) failure = Failure::internal;
    return make_error(failure, "E-EXEC-014", "the verification did not end well",
                      end->own_words.empty() ? what : what + ": " + end->own_words,
                      "a comparison of the run with one process",
                      "its messages are in ranks/verify.err of the run");
  }
  const std::string path = request.run_dir + "/verify.json";
  const Result<std::string> text = read_file(path, limits::kTableBytes);
  if (!text) return text.error();
  const Json root = Json::parse(*text, nullptr, false);
  VerifySummary v;
  try {
    const auto number = [&](const char* key) { return number_of(root, key); };
    v.max_rel_loss = number("max_rel_loss");
    v.max_rel_grad = number("max_rel_grad");
    v.max_rel_evaluation = number("max_rel_evaluation");
    v.max_rel_norm = number("max_rel_norm");
    v.max_abs_parameter = number("max_abs_parameter");
    v.max_abs_bias = number("max_abs_bias");
    v.worst_tensor = root.at("worst_tensor").get<std::string>();
    v.replicas_equal = root.at("replicas_equal").get<bool>();
    v.replica_difference = root.at("replica_difference").get<std::string>();
    if (const Json& choices = root.at("choices"); !choices.is_null())
      v.choices = read_choices(choices);
  } catch (const nlohmann::json::exception& e) {
    return damaged(path, e.what());
  }
  const Limits limit = limits_of(request.config);
  v.passed = v.replicas_equal && v.max_rel_grad <= limit.gradient && v.max_rel_norm <= limit.norm &&
             v.max_rel_loss <= limit.loss && v.max_rel_evaluation <= limit.loss &&
             (request.config.precision != "fp64" || v.max_abs_parameter <= limit.gradient) &&
             (!v.choices || v.choices->num_wrong == 0) && v.max_abs_bias <= limit.bias;
  return v;
}

// Keeps the lines of steps before `first_step`: the training that a resumed run goes on with.
Status cut_metrics(const std::string& path, int first_step) {
  std::string kept;
  if (const Result<std::string> text = read_file(path, limits::kTableBytes); text && first_step > 0)
    for (std::string_view line : split(*text, '\n')) {
      const Json row = Json::parse(line, nullptr, false);
      if (row.is_object() && row.value("step", first_step) < first_step)
        kept += std::string(line) + "\n";
    }
  std::error_code failed;
  fs::remove(path, failed);
  return kept.empty() ? Status(Ok{}) : write_file_atomic(path, kept);
}

}  // namespace

Status remove_old_results(const std::string& run_dir, int first_step) {
  std::error_code failed;
  for (const char* name : {"measured.pftrace", "routing.csv", "verify.json"})
    fs::remove(fs::path(run_dir) / name, failed);
  if (Status s = cut_metrics(run_dir + "/metrics.jsonl", first_step); !s) return s;
  if (first_step == 0) fs::remove_all(fs::path(run_dir) / "tensorboard", failed);
  fs::remove_all(fs::path(run_dir) / "ranks", failed);
  return make_directories(run_dir + "/ranks");
}

Result<ExecuteSummary> execute_run(const ExecuteRequest& request, const ExecuteSink& sink) {
  const auto started = std::chrono::steady_clock::now();
  const Plan& plan = *request.plan;
  ExecuteSummary out;
  out.ranks = plan.header.mesh.world();
  out.first_step = request.config.first_step;
  out.warmup_steps = untimed_steps(request.config);
  const Result<std::string> program = own_program();
  if (!program) return program.error();
  Result<std::vector<std::vector<int>>> wires = make_wires(request);
  if (!wires) return wires.error();

  exec::LaunchOptions options;
  options.program = *program;
  options.arguments = {"tandem", request.rehearsal ? "__rehearse" : "__rank"};
  options.run_dir = request.run_dir;
  options.version = kVersion;
  options.plan_id = request.plan_id;
  options.world = out.ranks;
  options.timeout_s = request.config.timeout_s;
  options.late_s = std::max(options.timeout_s, 20 * request.predicted_step_s);
  options.options = {"--late-s", fmt::format("{}", options.late_s), "--version",
                     std::string(kVersion)};
  options.data = std::move(*wires);
  // Timed waits need no core: whichever is idle wakes up first.
  if (!request.rehearsal) options.cores = share_cores(out.ranks, request.config.threads_per_rank);
  options.listen = request.listen;
  out.pinned = !options.cores.empty();

  const int total = total_steps(request.config);
  std::string evaluated;
  exec::LaunchSink launch_sink;
  launch_sink.line = sink.line;
  launch_sink.note = [&](const std::string& text) {
    if (sink.note) sink.note(text);
  };
  launch_sink.progress = [&](int rank, const exec::Report& r) {
    if (rank != 0) return;
    if (r.evaluation_loss) evaluated = fmt::format("  validation {:.4f}", *r.evaluation_loss);
    if (request.rehearsal && sink.progress)
      return sink.progress(fmt::format("step {}/{}  {:.2f} ms", r.step + 1, total,
                                       static_cast<double>(r.step_ns) * 1e-6));
    if (sink.progress)  // the last one stays on the line until the next
      sink.progress(fmt::format("step {}/{}  loss {:.4f}{}  {:.0f} tokens/s", r.step + 1, total,
                                r.loss, evaluated, r.tokens_per_s));
  };
  Result<exec::LaunchOutcome> outcome = exec::launch(std::move(options), launch_sink);
  if (!outcome) return outcome.error();
  const Status reported = write_launch_report(request, *outcome);
  if (outcome->failure) {
    const auto describe_op = [&](int op) {
      if (op < std::ssize(plan.ops)) return describe(plan, OpId{op});
      std::int64_t behind = op - std::ssize(plan.ops);  // as ranks number them
      for (const Plan* p : side_plans(request)) {
        if (behind < std::ssize(p->ops))
          return fmt::format("of the {}: {}", p->header.settling ? "settling" : "evaluation",
                             describe(*p, OpId{behind}));
        behind -= std::ssize(p->ops);
      }
      return std::string();
    };
    if (outcome->culprit)
      return exec::to_error(*outcome->culprit, request.config.timeout_s, describe_op);
    return make_error(*outcome->failure, "E-EXEC-015", "the run was interrupted",
                      *outcome->failure == Failure::interrupted ? "SIGINT" : "SIGTERM",
                      "a run to its end", "all ranks were stopped; run again");
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - started;
  out.wall_s = wall.count();
  if (!reported) return reported.error();
  if (Status s = read_rank_files(request, out); !s) return s.error();
  if (Status s = merge_timelines(request, out.ranks); !s) return s.error();
  if (Status s = merge_routing(request, out.ranks, out); !s) return s.error();
  if (request.config.verify) {
    Result<VerifySummary> v = verify(request, *program, out.wall_s, sink);
    if (!v) return v.error();
    out.verify = std::move(*v);
  }
  return out;
}

}  // namespace tandem::tools
