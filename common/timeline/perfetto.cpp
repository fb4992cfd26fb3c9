// The writer; the reader is perfetto_read.cpp.
#include "common/timeline/perfetto.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "common/base/protobuf_writer.h"
#include "common/base/sink.h"
#include "common/plan/labels.h"
#include "common/timeline/perfetto_fields.h"

namespace tandem {
namespace {

using namespace perfetto;

class Writer {
 public:
  Writer(const Timeline& t, const Plan& plan, Sink sink)
      : t_(t), plan_(plan), sink_(std::move(sink)) {}

  Status run() {
    index_records();
    header();
    for (int rank : ranks_) describe(rank);
    for (const PeakMemory& p : t_.peaks) peak(p);
    for (const StepMark& s : t_.steps) step(s);
    streams();
    memory();
    return flush();
  }

 private:
  // --- one packet at a time --------------------------------------------------------------------
  void annotate(Key key, std::int64_t value) {
    inner_.clear();
    inner_.varint(kAnnotationNameIid, static_cast<std::uint64_t>(key) + 1);
    inner_.varint(kAnnotationInt, static_cast<std::uint64_t>(value));
    event_.message(kAnnotations, inner_);
  }
  void annotate(Key key, std::string_view text) {
    inner_.clear();
    inner_.varint(kAnnotationNameIid, static_cast<std::uint64_t>(key) + 1);
    inner_.varint(kAnnotationTextIid, intern(kInternedStrings, strings_, text));
    event_.message(kAnnotations, inner_);
  }
  void annotate(Key key, const ClassBytes& values) {
    ProtoWriter list;
    list.varint(kAnnotationNameIid, static_cast<std::uint64_t>(key) + 1);
    for (std::int64_t v : values) {
      inner_.clear();
      inner_.varint(kAnnotationInt, static_cast<std::uint64_t>(v));
      list.message(kArrayValues, inner_);
    }
    event_.message(kAnnotations, list);
  }
  void place(OpId op, int rank, int step) {
    annotate(Key::op, op.value);
    annotate(Key::rank, rank);
    annotate(Key::step, step);
  }

  std::uint64_t intern(int kind, std::map<std::string, std::uint64_t, std::less<>>& table,
                       std::string_view text) {
    if (const auto known = table.find(text); known != table.end()) return known->second;
    const std::uint64_t iid = table.size() + 1;
    table.emplace(text, iid);
    define(kind, iid, text);
    return iid;
  }
  void define(int kind, std::uint64_t iid, std::string_view text) {
    ProtoWriter entry;
    entry.varint(1, iid);
    entry.text(2, text);
    interned_.message(kind, entry);
  }

  void begin_event(EventType type, std::uint64_t track, Category category) {
    event_.clear();
    event_.varint(kType, type);
    event_.varint(kTrackUuid, track);
    if (type != kSliceEnd) event_.varint(kCategoryIids, static_cast<std::uint64_t>(category) + 1);
  }
  void name(std::string_view text) {
    event_.varint(kNameIid, intern(kInternedNames, names_, text));
  }
  void end_event(std::int64_t ns) {
    packet_.clear();
    packet_.varint(kTimestamp, static_cast<std::uint64_t>(ns));
    if (!interned_.bytes().empty()) packet_.message(kInternedData, interned_);
    interned_.clear();
    packet_.message(kTrackEvent, event_);
    end_packet(kNeedsState);
  }
  void end_packet(std::uint64_t flags) {
    packet_.varint(kSequence, 1);
    packet_.varint(kSequenceFlags, flags);
    file_.message(kTracePacket, packet_);
    if (file_.bytes().size() >= 1 << 20) (void)flush();
  }
  Status flush() {
    if (status_.ok() && !file_.bytes().empty()) status_ = sink_(file_.bytes());
    file_.clear();
    return status_;
  }

  // Perfetto's ns that holds the tick. Negative ones (a sample before the first step) show at 0.
  [[nodiscard]] std::int64_t ns(std::int64_t ticks) const {
    return std::max<std::int64_t>(0, ticks) / t_.ticks_per_ns();
  }

  // --- parts of the file -----------------------------------------------------------------------
  void index_records() {
    for (const Span& s : t_.spans) ranks_.push_back(s.rank);
    for (const MemorySample& s : t_.memory) ranks_.push_back(s.rank);
    for (const StepMark& s : t_.steps) ranks_.push_back(s.rank);
    for (const PeakMemory& s : t_.peaks) ranks_.push_back(s.rank);
    std::sort(ranks_.begin(), ranks_.end());
    ranks_.erase(std::unique(ranks_.begin(), ranks_.end()), ranks_.end());
    for (const MemorySample& s : t_.memory)
      for (std::size_t c = 0; c < s.live.size(); ++c) class_used_[c] |= s.live[c] != 0;
  }

  void header() {
    for (std::size_t i = 0; i < kCategories.size(); ++i)
      define(kInternedCategories, i + 1, kCategories[i]);
    // The last key only where an op can have it: other files keep the bytes that they always had.
    const std::size_t keys = kKeys.size() - (plan_.header.slices > 1 ? 0 : 1);
    for (std::size_t i = 0; i < keys; ++i) define(kInternedKeys, i + 1, kKeys[i]);
    packet_.clear();
    packet_.varint(kTimestamp, 0);
    packet_.message(kInternedData, interned_);
    interned_.clear();
    ProtoWriter track;
    track.varint(kUuid, kFileTrack);
    track.text(kTrackName, "tandem");
    packet_.message(kTrackDescriptor, track);
    end_packet(kStateCleared);

    begin_event(kInstant, kFileTrack, Category::tandem);
    name("timeline");
    annotate(Key::format, kFormat);
    annotate(Key::clock, t_.clock == Clock::simulated_ps ? "simulated_ps" : "monotonic_ns");
    annotate(Key::spans, static_cast<std::int64_t>(t_.spans.size()));
    annotate(Key::calls, static_cast<std::int64_t>(t_.calls.size()));
    annotate(Key::samples, static_cast<std::int64_t>(t_.memory.size()));
    annotate(Key::steps, static_cast<std::int64_t>(t_.steps.size()));
    annotate(Key::peaks, static_cast<std::int64_t>(t_.peaks.size()));
    ProtoWriter meta;
    meta.varint(kAnnotationNameIid, static_cast<std::uint64_t>(Key::meta) + 1);
    for (const auto& [key, value] : t_.meta) {
      inner_.clear();
      inner_.text(kAnnotationName, key);
      inner_.text(kAnnotationText, value);
      meta.message(kDictEntries, inner_);
    }
    event_.message(kAnnotations, meta);
    end_event(0);
  }

  static std::uint64_t uuid(int rank, std::uint64_t under) {
    return (static_cast<std::uint64_t>(rank) + 1) << kRankShift | under;
  }

  void descriptor(const ProtoWriter& track) {
    packet_.clear();
    packet_.varint(kTimestamp, 0);
    packet_.message(kTrackDescriptor, track);
    end_packet(kNeedsState);
  }

  void describe(int rank) {
    const auto pid = static_cast<std::uint64_t>(rank) + 1;
    ProtoWriter track, inner;
    track.varint(kUuid, uuid(rank, 0));
    inner.varint(kPid, pid);
    inner.text(kProcessName, "rank " + std::to_string(rank));
    track.message(kProcess, inner);
    descriptor(track);
    const std::uint64_t stride = std::max<std::uint64_t>(1000, plan_.streams.size() + 1);
    for (std::size_t s = 0; s < plan_.streams.size(); ++s) {
      track.clear(), inner.clear();
      track.varint(kUuid, uuid(rank, kFirstStream + s));
      inner.varint(kPid, pid);
      inner.varint(kTid, pid * stride + 1 + s);
      inner.text(kThreadName, plan_.streams[s]);
      track.message(kThread, inner);
      descriptor(track);
    }
    child(rank, kStepTrack, "steps", false);
    child(rank, kTotalTrack, "live bytes: total", true);
    for (std::size_t c = 0; c < class_used_.size(); ++c)
      if (class_used_[c])
        child(rank, kFirstClassTrack + c,
              "live bytes: " + std::string(name_of(static_cast<BufferClass>(c))), true);
  }

  void child(int rank, std::uint64_t under, const std::string& text, bool counter) {
    ProtoWriter track, unit;
    track.varint(kUuid, uuid(rank, under));
    track.varint(kParentUuid, uuid(rank, 0));
    track.text(kTrackName, text);
    unit.varint(kCounterUnit, kUnitBytes);
    if (counter) track.message(kCounter, unit);
    descriptor(track);
  }

  void peak(const PeakMemory& p) {
    begin_event(kInstant, uuid(p.rank, kStepTrack), Category::peak);
    name("peak memory");
    annotate(Key::rank, p.rank);
    annotate(Key::total, p.total);
    annotate(Key::by_class, p.by_class);
    annotate(Key::at_peak, p.at_peak);
    annotate(Key::op_at_peak, p.op_at_peak.value);
    end_event(0);
  }

  void step(const StepMark& s) {
    begin_event(kSliceBegin, uuid(s.rank, kStepTrack), Category::step);
    name("step " + std::to_string(s.step));
    annotate(Key::rank, s.rank);
    annotate(Key::step, s.step);
    annotate(Key::started, s.started);
    annotate(Key::ended, s.ended);
    end_event(ns(s.started));
    end_slice(uuid(s.rank, kStepTrack), std::max(ns(s.started), ns(s.ended)));
  }

  void end_slice(std::uint64_t track, std::int64_t at) {
    begin_event(kSliceEnd, track, Category::op);
    end_event(at);
  }

  // Streams run in order, so their slices follow each other; `cursor` keeps them from overlapping
  // even where measured times do, because Perfetto would then mix up their ends.
  void streams() {
    std::vector<std::uint32_t> order(t_.spans.size());
    std::iota(order.begin(), order.end(), 0u);
    const auto key = [&](std::uint32_t i) {
      const Span& s = t_.spans[i];
      return std::tuple(s.rank, plan_.op(s.op).stream, s.step, s.op);
    };
    std::sort(order.begin(), order.end(),
              [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
    std::int64_t cursor = 0;
    std::uint64_t last_track = 0;
    for (std::uint32_t i : order) {
      const Span& s = t_.spans[i];
      const std::uint64_t track = uuid(s.rank, kFirstStream + plan_.op(s.op).stream.index());
      if (track != last_track) cursor = 0;
      last_track = track;
      cursor = span(s, track, cursor);
    }
  }

  std::int64_t span(const Span& s, std::uint64_t track, std::int64_t from) {
    const Op& op = plan_.op(s.op);
    const std::int64_t begin = std::max(from, ns(s.ready)), end = std::max(begin, ns(s.ended));
    begin_event(kSliceBegin, track, Category::op);
    name(op_label(plan_, s.op));
    place(s.op, s.rank, s.step);
    annotate(Key::kind, name_of(op.kind));
    annotate(Key::phase, phase_name(op.phase));
    if (op.part != Part::none) annotate(Key::part, part_name(op.part));
    if (op.stage >= 0) annotate(Key::stage, op.stage);
    if (op.layer >= 0) annotate(Key::layer, op.layer);
    if (op.microbatch >= 0) annotate(Key::microbatch, op.microbatch);
    if (op.seq_slice >= 0) annotate(Key::slice, op.seq_slice);
    if (op.comm.valid()) annotate(Key::communicator, communicator_name(plan_, op.comm));
    if (op_bytes(op) > 0) annotate(Key::bytes, op_bytes(op));
    annotate(Key::issued, s.issued);
    annotate(Key::ready, s.ready);
    annotate(Key::started, s.started);
    annotate(Key::ended, s.ended);
    if (s.cpu != 0) annotate(Key::cpu, s.cpu);
    const bool communication = is_communication(op.kind);
    if (op.kind == OpKind::send) event_.fixed64(kFlowIds, meetings_.of(s.op, s.rank, s.step));
    if (communication && !is_p2p(op.kind))
      event_.varint(kCorrelationId, meetings_.of(s.op, s.rank, s.step));
    end_event(begin);
    if (communication) {
      const std::int64_t started = std::clamp(ns(s.started), begin, end);
      if (started > begin) part("waiting", track, begin, started, 0);
      part("transfer", track, started, end,
           op.kind == OpKind::recv ? meetings_.of(s.op, s.rank, s.step) : 0);
    } else {
      calls(s, track, begin, end);
    }
    end_slice(track, end);
    return end;
  }

  void part(std::string_view text, std::uint64_t track, std::int64_t begin, std::int64_t end,
            std::uint64_t arrives) {
    begin_event(kSliceBegin, track, Category::part);
    name(text);
    end_event(begin);
    begin_event(kSliceEnd, track, Category::part);
    if (arrives != 0) event_.fixed64(kTerminatingFlowIds, arrives);  // at the end: after the send
    end_event(end);
  }

  void calls(const Span& s, std::uint64_t track, std::int64_t cursor, std::int64_t end) {
    const auto key = [](const CallSpan& c) { return std::tuple(c.step, c.rank, c.op); };
    const auto wanted = std::tuple(s.step, s.rank, s.op);
    auto call = std::lower_bound(t_.calls.begin(), t_.calls.end(), wanted,
                                 [&](const CallSpan& c, const auto& w) { return key(c) < w; });
    for (; call != t_.calls.end() && key(*call) == wanted; ++call) {
      const std::int64_t begin = std::clamp(ns(call->started), cursor, end);
      cursor = std::clamp(ns(call->ended), begin, end);
      begin_event(kSliceBegin, track, Category::call);
      const Op& op = plan_.op(s.op);
      const bool known = call->call < static_cast<int>(op.calls.count);
      const std::string text = known ? call_label(plan_, s.op, call->call) : "call";
      name(std::string_view(text).substr(0, text.find(' ')));
      place(s.op, s.rank, s.step);
      annotate(Key::call, call->call);
      annotate(Key::kernel, text);
      annotate(Key::started, call->started);
      annotate(Key::ended, call->ended);
      if (call->cpu != 0) annotate(Key::cpu, call->cpu);
      end_event(begin);
      end_slice(track, cursor);
    }
  }

  // A counter holds until its next value: a class is written when it changes. The event of the sum
  // comes last and closes the sample.
  void memory() {
    ClassBytes live{};
    int rank = -1;
    for (const MemorySample& s : t_.memory) {
      if (s.rank != rank) live = {};
      rank = s.rank;
      std::int64_t sum = 0;
      for (std::size_t c = 0; c < live.size(); ++c) {
        sum += s.live[c];
        if (s.live[c] == live[c]) continue;
        live[c] = s.live[c];
        begin_event(kCounterEvent, uuid(s.rank, kFirstClassTrack + c), Category::memory_class);
        event_.varint(kCounterValue, static_cast<std::uint64_t>(live[c]));
        end_event(ns(s.time));
      }
      begin_event(kCounterEvent, uuid(s.rank, kTotalTrack), Category::memory);
      event_.varint(kCounterValue, static_cast<std::uint64_t>(sum));
      place(s.op, s.rank, s.step);
      annotate(Key::time, s.time);
      end_event(ns(s.time));
    }
  }

  const Timeline& t_;
  const Plan& plan_;
  Sink sink_;
  Status status_ = Ok{};
  std::vector<int> ranks_;
  std::array<bool, kNumBufferClasses> class_used_{};
  std::map<std::string, std::uint64_t, std::less<>> names_, strings_;
  MeetingIds meetings_{plan_};
  ProtoWriter file_, packet_, event_, inner_, interned_;
};

}  // namespace

Status write_perfetto(const Timeline& timeline, const Plan& plan, const std::string& path) {
  return write_to_file(path, [&](const Sink& sink) { return Writer(timeline, plan, sink).run(); });
}

std::string encode_perfetto(const Timeline& timeline, const Plan& plan) {
  return write_to_string([&](const Sink& sink) { return Writer(timeline, plan, sink).run(); });
}

}  // namespace tandem
