#include "exec/rank_outcome.h"

#include <sys/resource.h>

#include <map>
#include <tuple>

#include "common/base/file.h"
#include "common/timeline/rank_file.h"

namespace tandem::exec {
namespace {

Json describe_error(const Error& error) {
  const Diagnostic& d = error.diagnostics.front();
  return {{"code", d.code}, {"title", d.title}, {"found", d.found}};
}

}  // namespace

Json by_class(const ClassBytes& bytes) {
  Json out = Json::object();
  for (int c = 0; c < kNumBufferClasses; ++c)
    if (bytes[static_cast<std::size_t>(c)] != 0)
      out[std::string(name_of(static_cast<BufferClass>(c)))] = bytes[static_cast<std::size_t>(c)];
  return out;
}

Json rows_json(const std::vector<RunTimeRows>& steps) {
  Json out = Json::array();
  for (const RunTimeRows& rows : steps) {
    Json step = Json::array();
    for (const auto& [counts, n] : rows) step.push_back({counts.value, n});
    out.push_back(std::move(step));
  }
  return out;
}

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

Status write_outcome(const RunInput& in, Rank rank, const Outcome& outcome,
                     const Interpreter* interpreter, const CommBackend& comm,
                     const Timeline& timeline, const std::string& run_dir, Json more) {
  Json root = {{"format", "tandem-rank"},
               {"version", 1},
               {"rank", rank.value},
               {"plan_id", in.plan_id},
               {"ok", !outcome.error}};
  if (outcome.error) root["error"] = describe_error(*outcome.error);
  root["first_step"] = in.config.first_step;
  root["warmup_steps"] = untimed_steps(in.config);
  root["checkpoint_s"] = static_cast<double>(outcome.saving) * 1e-9;
  for (const char* key : {"losses", "balance", "dropped", "norms", "lr", "tokens", "step_ns"})
    root[key] = Json::array();
  for (const StepResult& s : outcome.steps) {
    root["tokens"].push_back(s.tokens);
    root["step_ns"].push_back(s.ended - s.started);
    if (!outcome.has_values) continue;
    root["losses"].push_back(s.loss);
    root["balance"].push_back(s.balance);
    root["dropped"].push_back(s.dropped);
    root["norms"].push_back(s.norm);
    root["lr"].push_back(s.lr);
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
    if (!interpreter->rows_seen().empty()) root["rows"] = rows_json(interpreter->rows_seen());
    for (const auto& [layer, choices] : interpreter->expert_choices())
      root["expert_choices"][std::to_string(layer)] = choices;
    root["slab_bytes"] = interpreter->slab_bytes();
    root["communication"] = communication(in.plan, rank, interpreter->communication_calls(), comm);
  }
  if (more.is_object()) root.update(more);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  root["max_rss_bytes"] = std::int64_t{usage.ru_maxrss} * 1024;
  return write_file_atomic(rank_path(run_dir, rank.value, "json"), root.dump(1) + "\n");
}

}  // namespace tandem::exec
