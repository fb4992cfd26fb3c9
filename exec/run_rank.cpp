// Steps and files of one rank; see execute.h. No LibTorch header, no host layer.
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/timeline/rank_file.h"
#include "exec/device/loaded_pages.h"
#include "exec/device/torch_memory.h"
#include "exec/execute.h"
#include "exec/runtime/interpreter.h"
#include "exec/train/rank_tensors.h"
#include "exec/train/shard.h"
#include "exec/train/verify.h"

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

Json by_class(const std::array<std::int64_t, kNumBufferClasses>& bytes) {
  Json out = Json::object();
  for (int c = 0; c < kNumBufferClasses; ++c)
    if (bytes[static_cast<std::size_t>(c)] != 0)
      out[std::string(name_of(static_cast<BufferClass>(c)))] = bytes[static_cast<std::size_t>(c)];
  return out;
}

// By communicator, tag and kind, over all steps: calls; bytes handed over by the plan; bytes that
// the transport counted as sent and received, and what the algorithm must send in closed form.
Json communication(const Plan& plan, Rank rank, const std::vector<std::int64_t>& calls,
                   const CommBackend& comm) {
  struct Sum {
    std::int64_t calls = 0, bytes_in = 0;
    MovedBytes moved;
  };
  std::map<std::tuple<std::string, std::string, std::string>, Sum> sums;
  const auto ops = plan.ops_of(plan.program_of(rank));
  const std::int64_t first = plan.programs[plan.program_of(rank).index()].first_op;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    if (!is_communication(ops[i].kind)) continue;
    const Communicator& c = plan.communicators[ops[i].comm.index()];
    Sum& s = sums[{plan.name(c.name), plan.name(ops[i].tag), std::string(name_of(ops[i].kind))}];
    s.calls += calls[i];
    const MovedBytes moved = comm.moved(OpId{first + static_cast<std::int64_t>(i)});
    s.bytes_in += moved.handed_over;
    s.moved.sent += moved.sent;
    s.moved.received += moved.received;
    s.moved.lawful_sent += moved.lawful_sent;
  }
  Json out = Json::array();
  for (const auto& [key, s] : sums)
    out.push_back({{"communicator", std::get<0>(key)},
                   {"tag", std::get<1>(key)},
                   {"kind", std::get<2>(key)},
                   {"calls", s.calls},
                   {"bytes_in", s.bytes_in},
                   {"bytes_sent", s.moved.sent},
                   {"bytes_received", s.moved.received},
                   {"bytes_sent_by_law", s.moved.lawful_sent}});
  return out;
}

// RUN/metrics.jsonl: a line a step, flushed as it ends, so that progress can be watched. A failure
// to write never stops training: it is returned at the end.
class MetricsFile {
 public:
  MetricsFile(const std::string& run_dir, bool wanted) : path_(run_dir + "/metrics.jsonl") {
    if (!wanted) return;
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) error_ = errno;
  }
  ~MetricsFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void add(int step, const StepResult& r, bool timed) {
    if (fd_ < 0) return;
    const double seconds = static_cast<double>(r.ended - r.started) * 1e-9;
    const Json line = {{"step", step},
                       {"loss", r.loss},
                       {"grad_norm", r.norm},
                       {"lr", r.lr},
                       {"tokens", r.tokens},
                       {"step_s", seconds},
                       {"tokens_per_s", seconds > 0 ? r.tokens / seconds : 0.0},
                       {"timed", timed}};
    const std::string text = line.dump() + "\n";
    if (::write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size())) return;
    error_ = errno;
    ::close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] Status status() const {
    if (error_ == 0) return Ok{};
    return make_error(Failure::output, "E-IO-010", "cannot write the file", std::strerror(error_),
                      "room and permission for the run directory", "choose another -o",
                      Location{path_});
  }

 private:
  std::string path_;
  int fd_ = -1;
  int error_ = 0;
};

// What becomes K.json.
struct Outcome {
  std::vector<StepResult> steps;
  std::optional<Error> error;
};

Json describe_error(const Error& error) {
  const Diagnostic& d = error.diagnostics.front();
  return {{"code", d.code}, {"title", d.title}, {"found", d.found}};
}

Status write_outcome(const RunInput& in, Rank rank, const Outcome& outcome,
                     const Interpreter* interpreter, const CommBackend& comm,
                     const Timeline& timeline, const std::string& run_dir) {
  Json root = {{"format", "tandem-rank"},
               {"version", 1},
               {"rank", rank.value},
               {"plan_id", in.plan_id},
               {"ok", !outcome.error}};
  if (outcome.error) root["error"] = describe_error(*outcome.error);
  root["warmup_steps"] = in.config.warmup_steps;
  for (const char* key : {"losses", "norms", "lr", "tokens", "step_ns"}) root[key] = Json::array();
  for (const StepResult& s : outcome.steps) {
    root["losses"].push_back(s.loss);
    root["norms"].push_back(s.norm);
    root["lr"].push_back(s.lr);
    root["tokens"].push_back(s.tokens);
    root["step_ns"].push_back(s.ended - s.started);
  }
  if (!timeline.peaks.empty()) {
    const PeakMemory& p = timeline.peaks[0];
    root["peak_bytes"] = p.total;
    root["peak_by_class"] = by_class(p.by_class);
    root["at_peak"] = by_class(p.at_peak);
    root["op_at_peak"] = p.op_at_peak.value;
  }
  if (interpreter) {
    root["kernel_scratch_bytes"] = interpreter->kernel_scratch_peak();
    root["slab_bytes"] = interpreter->slab_bytes();
    root["communication"] = communication(in.plan, rank, interpreter->communication_calls(), comm);
  }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  root["max_rss_bytes"] = std::int64_t{usage.ru_maxrss} * 1024;
  return write_file_atomic(rank_path(run_dir, rank.value, "json"), root.dump(1) + "\n");
}

// Steps until the end or the first failure.
void run_steps(const RunInput& in, Rank rank, Interpreter& interpreter, MetricsFile& metrics,
               RankTensorWriter* tensors, OpObserver* observer, Outcome& outcome) {
  const ProgramId program = in.plan.program_of(rank);
  const int total = in.config.warmup_steps + in.config.steps;
  for (int step = 0; step < total; ++step) {
    const bool timed = step >= in.config.warmup_steps;
    Result<StepResult> result = interpreter.run_step(timed);
    if (!result) {
      outcome.error = result.error();
      return;
    }
    outcome.steps.push_back(*result);
    metrics.add(step, *result, timed);
    if (observer)
      observer->step_ended(step, result->loss, result->tokens, result->ended - result->started);
    if (tensors)
      for (BufferId id : reduced_gradients(in.plan, program))
        tensors->add(TensorKind::gradient, step, id, interpreter.view(id));
  }
  if (tensors)
    for (BufferId id : exec::tensors(in.plan, program, BufferClass::param))
      tensors->add(TensorKind::parameter, total - 1, id, interpreter.view(id));
}

}  // namespace

Status run_rank(const RunInput& in, Rank rank, CommBackend& comm, OpObserver* observer,
                const std::string& run_dir) {
  Outcome outcome;
  MetricsFile metrics(run_dir, rank.value == 0);
  std::optional<RankTensorWriter> tensors;
  if (in.config.verify) {
    Result<RankTensorWriter> writer =
        RankTensorWriter::create(rank_path(run_dir, rank.value, "grads"), rank);
    if (!writer) return writer.error();
    tensors = std::move(*writer);
  }
  Result<std::unique_ptr<Interpreter>> interpreter =
      Interpreter::create(in.plan, rank, in.config, comm, observer);
  if (!interpreter) {
    comm.abort();
    outcome.error = interpreter.error();
    (void)write_outcome(in, rank, outcome, nullptr, comm, {}, run_dir);
    return *outcome.error;
  }
  ::malloc_trim(0);  // what parsing the plan left behind
  drop_loaded_pages();
  run_steps(in, rank, **interpreter, metrics, tensors ? &*tensors : nullptr, observer, outcome);
  if (outcome.error) {
    // Workers may still run: nothing of the interpreter is read, and it ends first.
    interpreter->reset();
    (void)write_outcome(in, rank, outcome, nullptr, comm, {}, run_dir);
    return *outcome.error;
  }
  Timeline timeline = (*interpreter)->take_timeline();
  timeline.meta["plan_id"] = in.plan_id;
  timeline.meta["device"] = "cpu";
  timeline.meta["threads_per_rank"] = std::to_string(in.config.threads_per_rank);
  if (Status s = write_outcome(in, rank, outcome, interpreter->get(), comm, timeline, run_dir); !s)
    return s;
  if (Status s =
          write_rank_timeline(rank_path(run_dir, rank.value, "timeline"), timeline, rank.value);
      !s)
    return s;
  if (tensors)
    if (Status s = tensors->commit(); !s) return s;
  return metrics.status();
}

Status verify_files(const std::string& run_dir) {
  Result<RunInput> in = read_run(run_dir);
  if (!in) return in.error();
  // As many as a rank has: idle threads of LibTorch spin, which on busy cores costs ten times more.
  set_up_torch(in->config.threads_per_rank);
  std::vector<RankTensors> ranks;
  for (int r = 0; r < in->plan.header.mesh.world(); ++r) {
    Result<RankTensors> t = read_rank_tensors(rank_path(run_dir, r, "grads"));
    if (!t) return t.error();
    if (t->rank != Rank{r})
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        fmt::format("gradients of rank {}", t->rank.value),
                        fmt::format("gradients of rank {}", r), "run again",
                        Location{rank_path(run_dir, r, "grads")});
    ranks.push_back(std::move(*t));
  }
  const std::string first = rank_path(run_dir, 0, "json");
  Result<std::string> text = read_file(first, limits::kTableBytes);
  if (!text) return text.error();
  const Json root = Json::parse(*text, nullptr, false);
  std::vector<double> losses, norms;
  try {
    losses = root.at("losses").get<std::vector<double>>();
    norms = root.at("norms").get<std::vector<double>>();
  } catch (const nlohmann::json::exception&) {
    return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                      "no losses and norms", "the file that rank 0 wrote", "run again",
                      Location{first});
  }
  Result<VerifyReport> report = verify_run(in->plan, in->config, ranks, losses, norms);
  if (!report) return report.error();
  const Json out = {{"format", "tandem-verify"},
                    {"version", 1},
                    {"plan_id", in->plan_id},
                    {"max_rel_loss", report->max_rel_loss},
                    {"max_rel_norm", report->max_rel_norm},
                    {"max_rel_grad", report->max_rel_grad},
                    {"worst_tensor", report->worst_tensor},
                    {"worst_step", report->worst_step},
                    {"rel_grad_by_step", report->rel_grad_by_step},
                    {"max_abs_parameter", report->max_abs_parameter},
                    {"tensors", report->num_tensors},
                    {"replicas_equal", report->replicas_equal},
                    {"replica_difference", report->replica_difference},
                    {"losses", report->losses},
                    {"reference_losses", report->reference_losses},
                    {"reference_norms", report->reference_norms}};
  return write_file_atomic(run_dir + "/verify.json", out.dump(1) + "\n");
}

}  // namespace tandem::exec
