// Field numbers of the Perfetto messages we use, and the words of our own annotations: shared by
// the writer and the reader, nothing else includes it. Source: google/perfetto @ ec5d16b, protos/.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tandem::perfetto {

inline constexpr int kTracePacket = 1;
// TracePacket
inline constexpr int kTimestamp = 8, kSequence = 10, kTrackEvent = 11, kInternedData = 12,
                     kSequenceFlags = 13, kTrackDescriptor = 60;
inline constexpr std::uint64_t kStateCleared = 1, kNeedsState = 2;
// TrackDescriptor
inline constexpr int kUuid = 1, kTrackName = 2, kProcess = 3, kThread = 4, kParentUuid = 5,
                     kCounter = 8;
// ProcessDescriptor, ThreadDescriptor, CounterDescriptor
inline constexpr int kPid = 1, kTid = 2, kThreadName = 5, kProcessName = 6, kCounterUnit = 3;
inline constexpr std::uint64_t kUnitBytes = 3;
// TrackEvent
inline constexpr int kCategoryIids = 3, kAnnotations = 4, kType = 9, kNameIid = 10, kTrackUuid = 11,
                     kCounterValue = 30, kFlowIds = 47, kTerminatingFlowIds = 48,
                     kCorrelationId = 52;
enum EventType : std::uint64_t { kSliceBegin = 1, kSliceEnd = 2, kInstant = 3, kCounterEvent = 4 };
// DebugAnnotation
inline constexpr int kAnnotationNameIid = 1, kAnnotationInt = 4, kAnnotationText = 6,
                     kAnnotationName = 10, kDictEntries = 11, kArrayValues = 12,
                     kAnnotationTextIid = 17;
// InternedData: {iid: 1, name or str: 2}
inline constexpr int kInternedCategories = 1, kInternedNames = 2, kInternedKeys = 3,
                     kInternedStrings = 29;

// What an event of ours is: its category, iid = position + 1.
enum class Category : std::uint8_t { op, part, call, step, memory, memory_class, peak, tandem };
inline constexpr std::array<std::string_view, 8> kCategories = {
    "op", "part", "call", "step", "memory", "memory_class", "peak", "tandem"};

// Annotation keys, iid = position + 1.
enum class Key : std::uint8_t {
  op,
  rank,
  step,
  call,
  kind,
  phase,
  part,
  stage,
  layer,
  microbatch,
  communicator,
  bytes,
  kernel,
  issued,
  ready,
  started,
  ended,
  cpu,
  time,
  total,
  by_class,
  at_peak,
  op_at_peak,
  format,
  clock,
  spans,
  calls,
  samples,
  steps,
  peaks,
  meta,
  slice  // only in plans that cut sequences
};
inline constexpr std::array<std::string_view, 32> kKeys = {
    "op",      "rank",       "step",       "call",         "kind",  "phase",  "part",
    "stage",   "layer",      "microbatch", "communicator", "bytes", "kernel", "issued",
    "ready",   "started",    "ended",      "cpu",          "time",  "total",  "by_class",
    "at_peak", "op_at_peak", "format",     "clock",        "spans", "calls",  "samples",
    "steps",   "peaks",      "meta",       "slice"};
inline constexpr std::int64_t kFormat = 1;

// Track ids: (rank + 1) << 20 names the process; the low bits what lies under it.
inline constexpr std::uint64_t kRankShift = 20, kFirstStream = 1, kTotalTrack = 0x80000,
                               kFirstClassTrack = 0x80001, kStepTrack = 0xf0000;
inline constexpr std::uint64_t kFileTrack = 1;  // of the whole file: the `tandem` event

}  // namespace tandem::perfetto
