#include "common/timeline/rank_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>

#include "common/base/crc32c.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/little_endian.h"

namespace tandem {
namespace {

constexpr std::string_view kMagic = "TDMRANK1";
constexpr std::uint32_t kVersion = 1;
enum Section : std::uint32_t { kSpans = 1, kCalls, kMemory, kSteps, kPeaks, kMeta };

void put_i64(std::string& out, std::int64_t v) {
  put_little_endian(out, static_cast<std::uint64_t>(v), 8);
}

// The fields of each record, once for writer and reader.
template <class Visit>
void fields(Span& s, Visit&& v) {
  v(s.op.value), v(s.rank), v(s.step), v(s.issued), v(s.ready), v(s.started), v(s.ended), v(s.cpu);
}
template <class Visit>
void fields(CallSpan& s, Visit&& v) {
  v(s.op.value), v(s.rank), v(s.step), v(s.call), v(s.started), v(s.ended), v(s.cpu);
}
template <class Visit>
void fields(MemorySample& s, Visit&& v) {
  v(s.op.value), v(s.rank), v(s.step), v(s.time);
  for (std::int64_t& x : s.live) v(x);
}
template <class Visit>
void fields(StepMark& s, Visit&& v) {
  v(s.rank), v(s.step), v(s.started), v(s.ended);
}
template <class Visit>
void fields(PeakMemory& s, Visit&& v) {
  v(s.rank);
  for (std::int64_t& x : s.by_class) v(x);
  v(s.total);
  for (std::int64_t& x : s.at_peak) v(x);
  v(s.op_at_peak.value);
}

template <class Record>
std::uint32_t record_bytes() {
  std::uint32_t n = 0;
  Record r;
  fields(r, [&](auto&) { n += 8; });
  return n;
}

template <class Record>
void put_section(std::string& out, Section number, const std::vector<Record>& records) {
  put_little_endian(out, number, 4);
  put_little_endian(out, record_bytes<Record>(), 4);
  put_little_endian(out, records.size(), 8);
  for (Record r : records) fields(r, [&](auto& field) { put_i64(out, field); });
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] bool at_end() const { return left_.empty(); }
  std::uint64_t number(std::size_t bytes) { return from_little_endian(take(bytes)); }
  std::string_view take(std::size_t bytes) {
    if (bytes > left_.size()) {
      failed_ = true;
      return {};
    }
    const std::string_view out = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return out;
  }
  template <class Record>
  void section(Section number, std::vector<Record>& out) {
    const bool header_ok = this->number(4) == number && this->number(4) == record_bytes<Record>();
    const std::uint64_t count = this->number(8);
    if (!header_ok || failed_ || count > left_.size() / record_bytes<Record>()) {
      failed_ = true;
      return;
    }
    out.resize(count);
    for (Record& r : out)
      fields(r, [&](auto& field) {
        using T = std::remove_reference_t<decltype(field)>;
        const auto v = static_cast<std::int64_t>(this->number(8));
        if (v < std::numeric_limits<T>::min() || v > std::numeric_limits<T>::max()) failed_ = true;
        field = static_cast<T>(v);
      });
  }

 private:
  std::string_view left_;
  bool failed_ = false;
};

Error damaged(const std::string& file, std::string found) {
  return make_error(Failure::bad_input, "E-TIME-010", "the timeline of a rank is damaged",
                    std::move(found), "a complete file of version 1",
                    "run again; a rank that was killed leaves no timeline", Location{file});
}

}  // namespace

std::string rank_path(const std::string& run_dir, int rank, std::string_view suffix) {
  return fmt::format("{}/ranks/{}.{}", run_dir, rank, suffix);
}

std::string encode_rank_timeline(const Timeline& t, int rank) {
  std::string out(kMagic);
  put_little_endian(out, kVersion, 4);
  put_little_endian(out, static_cast<std::uint32_t>(rank), 4);
  put_section(out, kSpans, t.spans);
  put_section(out, kCalls, t.calls);
  put_section(out, kMemory, t.memory);
  put_section(out, kSteps, t.steps);
  put_section(out, kPeaks, t.peaks);
  put_little_endian(out, kMeta, 4);
  put_little_endian(out, 0, 4);
  put_little_endian(out, t.meta.size(), 8);
  for (const auto& [key, value] : t.meta)
    for (const std::string* text : {&key, &value}) {
      put_little_endian(out, text->size(), 4);
      out += *text;
    }
  put_little_endian(out, crc32c(out), 4);
  return out;
}

Result<Timeline> decode_rank_timeline(std::string_view bytes, const std::string& file) {
  if (bytes.size() < kMagic.size() + 12 || bytes.substr(0, kMagic.size()) != kMagic)
    return damaged(file, "no timeline of a rank");
  const std::string_view body = bytes.substr(0, bytes.size() - 4);
  if (Reader(bytes.substr(body.size())).number(4) != crc32c(body))
    return damaged(file, "a wrong check sum");
  Reader in(body.substr(kMagic.size()));
  if (in.number(4) != kVersion) return damaged(file, "another version");
  (void)in.number(4);  // the rank stands in every record too
  Timeline t;
  t.clock = Clock::monotonic_ns;
  in.section(kSpans, t.spans);
  in.section(kCalls, t.calls);
  in.section(kMemory, t.memory);
  in.section(kSteps, t.steps);
  in.section(kPeaks, t.peaks);
  if (in.failed()) return damaged(file, "lengths that do not fit the file");
  if (in.number(4) != kMeta || in.number(4) != 0) return damaged(file, "no meta section");
  const std::uint64_t num_meta = in.number(8);
  for (std::uint64_t i = 0; i < num_meta && !in.failed(); ++i) {
    const std::string key(in.take(in.number(4)));
    t.meta[key] = std::string(in.take(in.number(4)));
  }
  if (in.failed() || !in.at_end()) return damaged(file, "lengths that do not fit the file");
  return t;
}

Status write_rank_timeline(const std::string& path, const Timeline& timeline, int rank) {
  return write_file_atomic(path, encode_rank_timeline(timeline, rank));
}

Result<Timeline> read_rank_timeline(const std::string& path) {
  Result<std::string> bytes = read_file(path, limits::kTimelineBytes);
  if (!bytes) return bytes.error();
  return decode_rank_timeline(*bytes, path);
}

Timeline merge_rank_timelines(std::vector<Timeline> ranks) {
  Timeline all;
  all.clock = Clock::monotonic_ns;
  const auto append = [](auto& to, auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (Timeline& t : ranks) {
    append(all.spans, t.spans);
    append(all.calls, t.calls);
    append(all.memory, t.memory);
    append(all.steps, t.steps);
    append(all.peaks, t.peaks);
  }
  if (!ranks.empty()) all.meta = ranks[0].meta;
  const auto by = [](auto key) {
    return [key](const auto& a, const auto& b) { return key(a) < key(b); };
  };
  std::sort(all.spans.begin(), all.spans.end(),
            by([](const Span& s) { return std::tuple(s.step, s.rank, s.op); }));
  std::sort(all.calls.begin(), all.calls.end(),
            by([](const CallSpan& s) { return std::tuple(s.step, s.rank, s.op, s.call); }));
  std::stable_sort(all.memory.begin(), all.memory.end(),
                   by([](const MemorySample& s) { return std::tuple(s.rank, s.time); }));
  std::sort(all.steps.begin(), all.steps.end(),
            by([](const StepMark& s) { return std::tuple(s.step, s.rank); }));
  std::sort(all.peaks.begin(), all.peaks.end(), by([](const PeakMemory& s) { return s.rank; }));
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  for (const StepMark& s : all.steps) first = std::min(first, s.started);
  for (const Span& s : all.spans) first = std::min(first, s.issued);
  if (first == std::numeric_limits<std::int64_t>::max()) return all;
  for (Span& s : all.spans)
    s.issued -= first, s.ready -= first, s.started -= first, s.ended -= first;
  for (CallSpan& s : all.calls) s.started -= first, s.ended -= first;
  for (MemorySample& s : all.memory) s.time -= first;
  for (StepMark& s : all.steps) s.started -= first, s.ended -= first;
  return all;
}

Result<Timeline> read_run_timeline(const std::string& run_dir, int num_ranks) {
  std::vector<Timeline> parts;
  for (int rank = 0; rank < num_ranks; ++rank) {
    Result<Timeline> part = read_rank_timeline(rank_path(run_dir, rank, "timeline"));
    if (!part) return part.error();
    parts.push_back(std::move(*part));
  }
  return merge_rank_timelines(std::move(parts));
}

}  // namespace tandem
