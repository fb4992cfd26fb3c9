#include "common/timeline/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <tuple>

#include "common/base/limits.h"
#include "common/base/sink.h"
#include "common/base/text.h"
#include "common/plan/labels.h"
#include "common/timeline/check_timeline.h"

namespace tandem {
namespace {

// Columns. kTotal and the classes hold live bytes of a sample, or the peaks of a rank; kPeakClass
// says what a class held at the moment of the total peak.
enum Column : std::size_t {
  kRecord,
  kStep,
  kRank,
  kOp,
  kCall,
  kKind,
  kPhase,
  kPart,
  kStream,
  kStage,
  kLayer,
  kMicrobatch,
  kSlice,
  kCommunicator,
  kBytes,
  kName,
  kIssued,
  kReady,
  kStarted,
  kEnded,
  kCpu,
  kTotal,
  kClass,
  kPeakClass = kClass + kNumBufferClasses,
  kNumColumns = kPeakClass + kNumBufferClasses
};

// Files from before seq1f1b have no column "slice"; they are still read.
std::string header(Clock clock, bool with_slice = true) {
  const std::string unit = clock == Clock::simulated_ps ? "_ps" : "_ns";
  std::string out = fmt::format(
      "record,step,rank,op,call,kind,phase,part,stream,stage,layer,microbatch,{}communicator,bytes,"
      "name",
      with_slice ? "slice," : "");
  for (std::string_view time : {"issued", "ready", "started", "ended", "cpu"})
    out += fmt::format(",{}{}", time, unit);
  out += ",total_bytes";
  for (std::string_view prefix : {"", "at_peak_"})
    for (int c = 0; c < kNumBufferClasses; ++c)
      out += fmt::format(",{}{}_bytes", prefix, name_of(static_cast<BufferClass>(c)));
  return out + "\n";
}

class Row {
 public:
  explicit Row(std::string_view record) { cells_[kRecord] = record; }
  Row& set(std::size_t column, std::int64_t value) {
    cells_[column] = std::to_string(value);
    return *this;
  }
  Row& set(std::size_t column, std::string_view text) {
    cells_[column] = csv_cell(text);
    return *this;
  }
  Row& optional(std::size_t column, std::int64_t value) {
    return value >= 0 ? set(column, value) : *this;
  }
  [[nodiscard]] std::string text() const {
    std::string out;
    for (std::size_t i = 0; i < kNumColumns; ++i) (out += i == 0 ? "" : ",") += cells_[i];
    return out + "\n";
  }

 private:
  std::array<std::string, kNumColumns> cells_;
};

Row place(std::string_view record, int step, int rank, OpId op) {
  Row row(record);
  return row.set(kStep, step).set(kRank, rank).optional(kOp, op.value);
}

std::string span_row(const Span& s, const Plan& plan) {
  const Op& op = plan.op(s.op);
  Row row = place("span", s.step, s.rank, s.op);
  row.set(kKind, name_of(op.kind)).set(kPhase, phase_name(op.phase)).set(kPart, part_name(op.part));
  row.set(kStream, stream_name(plan, op.stream)).optional(kStage, op.stage);
  row.optional(kLayer, op.layer).optional(kMicrobatch, op.microbatch);
  row.optional(kSlice, op.seq_slice);
  row.set(kCommunicator, communicator_name(plan, op.comm)).set(kBytes, op_bytes(op));
  row.set(kName, op_label(plan, s.op)).set(kIssued, s.issued).set(kReady, s.ready);
  return row.set(kStarted, s.started).set(kEnded, s.ended).set(kCpu, s.cpu).text();
}

std::string call_row(const CallSpan& s, const Plan& plan) {
  Row row = place("call", s.step, s.rank, s.op);
  if (s.call < static_cast<int>(plan.op(s.op).calls.count))
    row.set(kName, call_label(plan, s.op, s.call));
  row.set(kCall, s.call).set(kStarted, s.started).set(kEnded, s.ended);
  return row.set(kCpu, s.cpu).text();
}

std::string memory_row(const MemorySample& s) {
  Row row = place("memory", s.step, s.rank, s.op);
  std::int64_t sum = 0;
  for (std::size_t c = 0; c < s.live.size(); ++c) {
    row.set(kClass + c, s.live[c]);
    sum += s.live[c];
  }
  return row.set(kStarted, s.time).set(kTotal, sum).text();
}

std::string peak_row(const PeakMemory& p) {
  Row row("peak");
  row.set(kRank, p.rank).optional(kOp, p.op_at_peak.value).set(kTotal, p.total);
  for (std::size_t c = 0; c < p.by_class.size(); ++c)
    row.set(kClass + c, p.by_class[c]).set(kPeakClass + c, p.at_peak[c]);
  return row.text();
}

Status write(const Timeline& t, const Plan& plan, const Sink& sink) {
  std::string out = header(t.clock);
  Status status = Ok{};
  const auto put = [&](const std::string& row) {
    out += row;
    if (out.size() < 1 << 20) return;
    if (status.ok()) status = sink(out);
    out.clear();
  };
  for (const auto& [key, value] : t.meta) put(Row("meta").set(kKind, key).set(kName, value).text());
  for (const StepMark& s : t.steps)
    put(place("step", s.step, s.rank, OpId{}).set(kStarted, s.started).set(kEnded, s.ended).text());
  for (const PeakMemory& p : t.peaks) put(peak_row(p));
  for (const Span& s : t.spans) put(span_row(s, plan));
  for (const CallSpan& s : t.calls) put(call_row(s, plan));
  for (const MemorySample& s : t.memory) put(memory_row(s));
  put("end\n");
  return status.ok() ? sink(out) : status;
}

// One row of cells; quotes undone. `at` is where each cell begins, 0-based in the line.
struct Cells {
  std::vector<std::string> text;
  std::vector<std::size_t> at;
};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& file) : left_(bytes), file_(file) {}

  Result<Timeline> run() {
    Cells cells;
    if (!row(cells)) return finish();
    for (Clock clock : {Clock::simulated_ps, Clock::monotonic_ns})
      for (bool with_slice : {true, false})
        if (join(cells.text, ",") + "\n" == header(clock, with_slice))
          t_.clock = clock, has_slice_ = with_slice, known_ = true;
    if (!known_)
      add("E-TIME-002", "the timeline is damaged", "another header line",
          "the columns that tandem writes", "do not edit the header", 0);
    bool ended = false;
    while (known_ && found_.size() < limits::kDiagnosticsPrinted && row(cells)) {
      if (ended) {
        add("E-TIME-002", "the timeline is damaged", "a row after the end", "nothing after \"end\"",
            "remove what follows", 0);
        break;
      }
      ended = cells.text.size() == 1 && cells.text[0] == "end";
      if (!ended) record(std::move(cells));
    }
    if (known_ && found_.empty() && !ended)
      add("E-TIME-002", "the timeline is damaged", "no \"end\" row: the file is cut off",
          "a complete file", "copy it again, or simulate or execute again", 0);
    return finish();
  }

 private:
  Result<Timeline> finish() {
    if (!found_.empty()) return Error{Failure::bad_input, std::move(found_)};
    std::sort(t_.spans.begin(), t_.spans.end(), [](const Span& a, const Span& b) {
      return std::tuple(a.step, a.rank, a.op) < std::tuple(b.step, b.rank, b.op);
    });
    return std::move(t_);
  }

  void add(std::string code, std::string title, std::string found, std::string expected,
           std::string hint, std::size_t column) {
    found_.push_back(make_diagnostic(std::move(code), std::move(title), std::move(found),
                                     std::move(expected), std::move(hint),
                                     Location{file_, line_, static_cast<int>(column) + 1}));
  }

  // Meta values may hold line breaks inside quotes; everything else is one line a row.
  bool row(Cells& cells) {
    cells = {};
    if (left_.empty()) return false;
    line_ += 1 + pending_breaks_;
    pending_breaks_ = 0;
    std::string cell;
    bool quoted = false;
    std::size_t i = 0, line_start = 0;
    cells.at.push_back(0);
    for (; i < left_.size(); ++i) {
      const char c = left_[i];
      if (quoted) {
        if (c == '\n') ++pending_breaks_, line_start = i + 1;
        if (c != '"') {
          cell += c;
        } else if (i + 1 < left_.size() && left_[i + 1] == '"') {
          cell += '"', ++i;
        } else {
          quoted = false;
        }
      } else if (c == '"') {
        quoted = true;
      } else if (c == ',' || c == '\n') {
        cells.text.push_back(std::move(cell));
        cell.clear();
        if (c == '\n') break;
        cells.at.push_back(i + 1 - line_start);
      } else if (c != '\r') {
        cell += c;
      }
    }
    if (i == left_.size()) {
      add("E-TIME-002", "the timeline is damaged", "a last line without its end", "a complete file",
          "copy it again, or simulate or execute again", cells.at.back());
      return false;
    }
    left_.remove_prefix(i + 1);
    return true;
  }

  std::int64_t number(const Cells& cells, std::size_t column, std::int64_t absent = 0) {
    const std::string& text = cells.text[column];
    if (text.empty()) return absent;
    const auto value = parse_int(text);
    if (!value && !bad_cell_) {
      bad_cell_ = true;
      add("E-TIME-002", "the timeline is damaged", "\"" + text.substr(0, 40) + "\"",
          "a whole number", "do not edit the numbers", cells.at[column]);
    }
    return value.value_or(absent);
  }
  std::int32_t small(const Cells& cells, std::size_t column, std::int32_t absent = 0) {
    const std::int64_t v = number(cells, column, absent);
    constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
    return v > kMax || v < -1 ? -2 : static_cast<std::int32_t>(v);
  }

  template <class Record>
  void keep(std::vector<Record>& list, const Record& record) {
    if (bad_cell_) return;
    const std::string fault = record_fault(record, t_.clock);
    if (fault.empty()) {
      list.push_back(record);
    } else {
      add("E-TIME-003", "a record of the timeline is impossible", fault,
          "times in order, within 11.6 days, and no negative numbers",
          "the file was changed, or comes from another program", 0);
    }
  }

  void record(Cells c) {
    const std::size_t wanted = has_slice_ ? kNumColumns : kNumColumns - 1;
    if (c.text.size() != wanted) {
      add("E-TIME-002", "the timeline is damaged", fmt::format("{} cells", c.text.size()),
          fmt::format("{} cells in every row", wanted),
          "copy it again, or simulate or execute again", 0);
      return;
    }
    if (!has_slice_) {  // an empty cell where it would stand: columns have one number from here
      c.text.emplace(c.text.begin() + kSlice);
      c.at.insert(c.at.begin() + kSlice, c.at[kSlice]);
    }
    bad_cell_ = false;
    const std::string& what = c.text[kRecord];
    const std::int32_t step = small(c, kStep), rank = small(c, kRank);
    const OpId op{small(c, kOp, -1)};
    const std::int64_t started = number(c, kStarted), ended = number(c, kEnded),
                       cpu = number(c, kCpu);
    if (what == "span") {
      keep(t_.spans,
           Span{op, rank, step, number(c, kIssued), number(c, kReady), started, ended, cpu});
    } else if (what == "call") {
      keep(t_.calls, CallSpan{op, rank, step, small(c, kCall), started, ended, cpu});
    } else if (what == "memory") {
      MemorySample s{op, rank, step, started};
      for (std::size_t i = 0; i < s.live.size(); ++i) s.live[i] = number(c, kClass + i);
      keep(t_.memory, s);
    } else if (what == "step") {
      keep(t_.steps, StepMark{rank, step, started, ended});
    } else if (what == "peak") {
      PeakMemory p;
      p.rank = rank, p.total = number(c, kTotal), p.op_at_peak = op;
      for (std::size_t i = 0; i < p.by_class.size(); ++i)
        p.by_class[i] = number(c, kClass + i), p.at_peak[i] = number(c, kPeakClass + i);
      keep(t_.peaks, p);
    } else if (what == "meta") {
      t_.meta[undo(c.text[kKind])] = undo(c.text[kName]);
    } else {
      add("E-TIME-002", "the timeline is damaged", "\"" + what.substr(0, 40) + "\"",
          "span, call, memory, step, peak, meta or end", "remove the row", 0);
    }
  }

  // csv_cell puts an apostrophe before what a spreadsheet would take for a formula.
  static std::string undo(const std::string& text) {
    const bool guarded = text.size() > 1 && text[0] == '\'' &&
                         std::string_view("=+-@\t\r").find(text[1]) != std::string_view::npos;
    return guarded ? text.substr(1) : text;
  }

  std::string_view left_;
  const std::string& file_;
  Timeline t_;
  Diagnostics found_;
  int line_ = 0, pending_breaks_ = 0;
  bool known_ = false, has_slice_ = true, bad_cell_ = false;
};

}  // namespace

Status write_csv_timeline(const Timeline& timeline, const Plan& plan, const std::string& path) {
  return write_to_file(path, [&](const Sink& sink) { return write(timeline, plan, sink); });
}

std::string encode_csv_timeline(const Timeline& timeline, const Plan& plan) {
  return write_to_string([&](const Sink& sink) { return write(timeline, plan, sink); });
}

Result<Timeline> decode_csv_timeline(std::string_view bytes, const std::string& file) {
  return Reader(bytes, file).run();
}

}  // namespace tandem
