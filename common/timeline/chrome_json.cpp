#include "common/timeline/chrome_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>

#include "common/base/text.h"
#include "common/timeline/labels.h"
#include "common/timeline/sink.h"

namespace tandem {
namespace {

class Writer {
 public:
  Writer(const Timeline& t, const Plan& plan, Sink sink)
      : t_(t), plan_(plan), sink_(std::move(sink)) {}

  Status run() {
    put("{{\"displayTimeUnit\":\"ns\",\"metadata\":{{\"clock\":\"{}\"",
        t_.clock == Clock::simulated_ps ? "simulated_ps" : "monotonic_ns");
    for (const auto& [key, value] : t_.meta)
      put(",\"{}\":\"{}\"", escape_json(key), escape_json(value));
    put("}},\"traceEvents\":[");
    std::set<int> ranks;
    for (const Span& s : t_.spans) ranks.insert(s.rank);
    for (int rank : ranks) describe(rank);
    for (const StepMark& s : t_.steps)
      slice(s.rank, 0, fmt::format("step {}", s.step), "step", ns(s.started), ns(s.ended),
            fmt::format("\"step\":{}", s.step));
    for (const Span& s : t_.spans) span(s);
    for (const CallSpan& c : t_.calls) call(c);
    for (const MemorySample& m : t_.memory) memory(m);
    put("\n]}}\n");
    return flush();
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    if (out_.size() >= 1 << 20) (void)flush();
  }
  Status flush() {
    if (status_.ok() && !out_.empty()) status_ = sink_(out_);
    out_.clear();
    return status_;
  }
  void next() {
    put("{}\n", first_ ? "" : ",");
    first_ = false;
  }
  // ts and dur are microseconds; whole ns, so that a child never outlasts its parent by rounding.
  static std::string us(std::int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }
  [[nodiscard]] std::int64_t ns(std::int64_t ticks) const {
    return std::max<std::int64_t>(0, ticks) / t_.ticks_per_ns();
  }
  [[nodiscard]] std::size_t tid(const Op& op) const { return op.stream.index() + 1; }

  void describe(int rank) {
    const auto meta = [&](std::string_view what, std::size_t tid, const std::string& text) {
      next();
      put("{{\"ph\":\"M\",\"name\":\"{}\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":\"{}\"}}}}",
          what, rank, tid, escape_json(text));
    };
    meta("process_name", 0, fmt::format("rank {}", rank));
    meta("thread_name", 0, "steps");
    for (std::size_t s = 0; s < plan_.streams.size(); ++s)
      meta("thread_name", s + 1, plan_.streams[s]);
  }

  void slice(int rank, std::size_t tid, const std::string& name, std::string_view category,
             std::int64_t begin, std::int64_t end, const std::string& args) {
    next();
    put("{{\"ph\":\"X\",\"name\":\"{}\",\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{},\"dur\":{},"
        "\"args\":{{{}}}}}",
        escape_json(name), category, rank, tid, us(begin), us(std::max(begin, end) - begin), args);
  }

  void span(const Span& s) {
    const Op& op = plan_.op(s.op);
    std::string args =
        fmt::format("\"op\":{},\"rank\":{},\"step\":{},\"kind\":\"{}\",\"phase\":\"{}\"",
                    s.op.value, s.rank, s.step, name_of(op.kind), phase_name(op.phase));
    const auto add = [&](std::string_view key, std::int64_t value, bool there) {
      if (there) args += fmt::format(",\"{}\":{}", key, value);
    };
    add("stage", op.stage, op.stage >= 0);
    add("layer", op.layer, op.layer >= 0);
    add("microbatch", op.microbatch, op.microbatch >= 0);
    add("slice", op.seq_slice, op.seq_slice >= 0);
    add("bytes", op_bytes(op), op_bytes(op) > 0);
    if (op.comm.valid())
      args +=
          fmt::format(",\"communicator\":\"{}\"", escape_json(communicator_name(plan_, op.comm)));
    args += fmt::format(",\"issued_us\":{}", us(ns(s.issued)));
    slice(s.rank, tid(op), op_label(plan_, s.op), "op", ns(s.ready), ns(s.ended), args);
    if (!is_communication(op.kind)) return;
    const std::string place = fmt::format("\"op\":{},\"step\":{}", s.op.value, s.step);
    if (ns(s.started) > ns(s.ready))
      slice(s.rank, tid(op), "waiting", "part", ns(s.ready), ns(s.started), place);
    slice(s.rank, tid(op), "transfer", "part", ns(s.started), ns(s.ended), place);
    if (!is_p2p(op.kind)) return;
    next();
    const bool send = op.kind == OpKind::send;
    put("{{\"ph\":\"{}\",{}\"name\":\"message\",\"cat\":\"message\",\"id\":\"{:x}\",\"pid\":{},"
        "\"tid\":{},\"ts\":{}}}",
        send ? "s" : "f", send ? "" : "\"bp\":\"e\",", meetings_.of(s.op, s.rank, s.step), s.rank,
        tid(op), us(send ? ns(s.ready) : ns(s.started)));
  }

  void call(const CallSpan& c) {
    const Op& op = plan_.op(c.op);
    const bool known = c.call < static_cast<int>(op.calls.count);
    const std::string text = known ? call_label(plan_, c.op, c.call) : "call";
    slice(c.rank, tid(op), text.substr(0, text.find(' ')), "call", ns(c.started), ns(c.ended),
          fmt::format("\"op\":{},\"rank\":{},\"step\":{},\"call\":{},\"kernel\":\"{}\"", c.op.value,
                      c.rank, c.step, c.call, escape_json(text)));
  }

  void memory(const MemorySample& m) {
    next();
    put("{{\"ph\":\"C\",\"name\":\"live bytes\",\"pid\":{},\"ts\":{},\"args\":{{", m.rank,
        us(ns(m.time)));
    for (std::size_t c = 0; c < m.live.size(); ++c)
      put("{}\"{}\":{}", c == 0 ? "" : ",", name_of(static_cast<BufferClass>(c)), m.live[c]);
    put("}}}}");
  }

  const Timeline& t_;
  const Plan& plan_;
  Sink sink_;
  Status status_ = Ok{};
  std::string out_;
  bool first_ = true;
  MeetingIds meetings_{plan_};
};

}  // namespace

Status write_chrome_json(const Timeline& timeline, const Plan& plan, const std::string& path) {
  return write_to_file(path, [&](const Sink& sink) { return Writer(timeline, plan, sink).run(); });
}

std::string encode_chrome_json(const Timeline& timeline, const Plan& plan) {
  return write_to_string([&](const Sink& sink) { return Writer(timeline, plan, sink).run(); });
}

}  // namespace tandem
