// The reader of perfetto.h. Damage of any kind gives a located message, never a crash.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "common/base/limits.h"
#include "common/base/protobuf_writer.h"
#include "common/timeline/check_timeline.h"
#include "common/timeline/perfetto.h"
#include "common/timeline/perfetto_fields.h"

namespace tandem {
namespace {

using namespace perfetto;

// What one TrackEvent says, as far as we wrote it.
struct Event {
  std::uint64_t type = 0, track = 0;
  std::optional<Category> category;
  std::int64_t value = 0;
  std::array<std::optional<std::int64_t>, kKeys.size()> number;
  std::array<std::vector<std::int64_t>, 2> lists;  // by_class, at_peak
  std::string clock;
  std::map<std::string, std::string> meta;
  [[nodiscard]] std::optional<std::int64_t> get(Key k) const {
    return number[static_cast<std::size_t>(k)];
  }
};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  Result<Timeline> run() {
    ProtoReader trace(bytes_);
    ProtoField f;
    std::size_t at = 0;
    for (; trace.next(f); at = trace.offset(), ++packet_number_) {
      packet_at_ = at;
      if (f.number != kTracePacket) continue;
      if (f.wire != 2 || !packet(f.bytes)) {
        damaged(fmt::format("packet {} at byte {}: {}", packet_number_, at,
                            error_.empty() ? "not a message" : error_));
        return Error{Failure::bad_input, std::move(found_)};
      }
      if (static_cast<int>(found_.size()) >= limits::kDiagnosticsKept) break;
    }
    if (trace.failed())
      damaged(fmt::format("packet {} at byte {}: {}", packet_number_, at, trace.error()));
    else if (found_.empty())
      counts();
    if (!found_.empty()) return Error{Failure::bad_input, std::move(found_)};
    sort();
    return std::move(t_);
  }

 private:
  void add(std::string code, std::string title, std::string found, std::string expected,
           std::string hint) {
    found_.push_back(make_diagnostic(std::move(code), std::move(title), std::move(found),
                                     std::move(expected), std::move(hint), Location{file_}));
  }
  void damaged(std::string found) {
    add("E-TIME-002", "the timeline is damaged", std::move(found), "a complete Perfetto trace",
        "copy it again, or simulate or execute again");
  }
  void wrong(const std::string& found) {
    add("E-TIME-003", "a record of the timeline is impossible",
        fmt::format("packet {} at byte {}: {}", packet_number_, packet_at_, found),
        "times in order, within 11.6 days, and no negative numbers",
        "the file was changed, or comes from another program");
  }

  bool fail(const ProtoReader& reader) {
    if (reader.failed() && error_.empty()) error_ = reader.error();
    return !reader.failed();
  }

  bool packet(std::string_view bytes) {
    std::string_view event, interned;
    std::uint64_t flags = 0;
    ProtoReader in(bytes);
    for (ProtoField f; in.next(f);) {
      if (f.number == kTrackEvent && f.wire == 2) event = f.bytes;
      if (f.number == kInternedData && f.wire == 2) interned = f.bytes;
      if (f.number == kSequenceFlags && f.wire == 0) flags = f.value;
    }
    if (!fail(in)) return false;
    if ((flags & kStateCleared) != 0) categories_.clear(), keys_.clear(), strings_.clear();
    if (!interned.empty() && !define(interned)) return false;
    if (event.empty()) return true;
    Event e;
    if (!track_event(event, e)) return false;
    take(e);
    return true;
  }

  bool define(std::string_view bytes) {
    ProtoReader in(bytes);
    for (ProtoField f; in.next(f);) {
      if (f.wire != 2) continue;
      std::uint64_t iid = 0;
      std::string_view text;
      ProtoReader entry(f.bytes);
      for (ProtoField e; entry.next(e);) {
        if (e.number == 1) iid = e.value;
        if (e.number == 2) text = e.bytes;
      }
      if (!fail(entry)) return false;
      const auto position = [&](const auto& words) {
        return static_cast<int>(std::find(words.begin(), words.end(), text) - words.begin());
      };
      if (f.number == kInternedCategories) categories_[iid] = position(kCategories);
      if (f.number == kInternedKeys) keys_[iid] = position(kKeys);
      if (f.number == kInternedStrings) strings_[iid] = text;
    }
    return fail(in);
  }

  bool track_event(std::string_view bytes, Event& e) {
    ProtoReader in(bytes);
    for (ProtoField f; in.next(f);) {
      switch (f.number) {
        case kType:
          e.type = f.value;
          break;
        case kTrackUuid:
          e.track = f.value;
          break;
        case kCounterValue:
          e.value = f.as_int();
          break;
        case kCategoryIids:
          if (const auto c = categories_.find(f.value);
              c != categories_.end() && c->second < static_cast<int>(kCategories.size()))
            e.category = static_cast<Category>(c->second);
          break;
        case kAnnotations:
          if (!annotation(f.bytes, e)) return false;
          break;
        default:
          break;
      }
    }
    return fail(in);
  }

  bool annotation(std::string_view bytes, Event& e) {
    int key = -1;
    ProtoReader in(bytes);
    for (ProtoField f; in.next(f);) {
      if (f.number == kAnnotationNameIid) {
        const auto known = keys_.find(f.value);
        if (known == keys_.end() || known->second >= static_cast<int>(kKeys.size())) return true;
        key = known->second;
      } else if (key < 0) {
        return true;  // of another program: names come first in ours
      } else if (f.number == kAnnotationInt) {
        e.number[static_cast<std::size_t>(key)] = f.as_int();
      } else if (f.number == kAnnotationTextIid && key == static_cast<int>(Key::clock)) {
        if (const auto s = strings_.find(f.value); s != strings_.end()) e.clock = s->second;
      } else if (f.number == kDictEntries && key == static_cast<int>(Key::meta)) {
        if (!meta(f.bytes, e)) return false;
      } else if (f.number == kArrayValues) {
        ProtoReader element(f.bytes);
        std::int64_t value = 0;
        for (ProtoField v; element.next(v);)
          if (v.number == kAnnotationInt) value = v.as_int();
        if (!fail(element)) return false;
        e.lists[key == static_cast<int>(Key::at_peak)].push_back(value);
      }
    }
    return fail(in);
  }

  bool meta(std::string_view bytes, Event& e) {
    std::string key, value;
    ProtoReader in(bytes);
    for (ProtoField f; in.next(f);) {
      if (f.number == kAnnotationName) key = f.bytes;
      if (f.number == kAnnotationText) value = f.bytes;
    }
    e.meta[key] = value;
    return fail(in);
  }

  // --- events to records -----------------------------------------------------------------------
  // Fetches annotations; the first that is missing or does not fit is remembered.
  struct Taker {
    const Event& e;
    std::string fault;
    std::int64_t number(Key k) {
      const auto v = e.get(k);
      if (!v && fault.empty())
        fault = fmt::format("annotation \"{}\" is missing", kKeys[static_cast<std::size_t>(k)]);
      return v.value_or(0);
    }
    std::int32_t small(Key k) {
      const std::int64_t v = number(k);
      if ((v < -1 || v > std::numeric_limits<std::int32_t>::max()) && fault.empty())
        fault = fmt::format("{} = {}", kKeys[static_cast<std::size_t>(k)], v);
      return static_cast<std::int32_t>(v);
    }
    OpId op(Key k) { return OpId{small(k)}; }
  };

  template <class Record>
  void keep(std::vector<Record>& list, const Record& record, const std::string& taker_fault) {
    const std::string fault = !taker_fault.empty() ? taker_fault : record_fault(record, t_.clock);
    if (fault.empty()) {
      list.push_back(record);
    } else {
      wrong(fault);
    }
  }

  void take(const Event& e) {
    if (!e.category || e.type == kSliceEnd) return;
    Taker in{e, {}};
    switch (*e.category) {
      case Category::op: {
        Span s{in.op(Key::op),         in.small(Key::rank),        in.small(Key::step),
               in.number(Key::issued), in.number(Key::ready),      in.number(Key::started),
               in.number(Key::ended),  e.get(Key::cpu).value_or(0)};
        keep(t_.spans, s, in.fault);
        break;
      }
      case Category::call: {
        CallSpan s{in.op(Key::op),
                   in.small(Key::rank),
                   in.small(Key::step),
                   in.small(Key::call),
                   in.number(Key::started),
                   in.number(Key::ended),
                   e.get(Key::cpu).value_or(0)};
        keep(t_.calls, s, in.fault);
        break;
      }
      case Category::step: {
        StepMark s{in.small(Key::rank), in.small(Key::step), in.number(Key::started),
                   in.number(Key::ended)};
        keep(t_.steps, s, in.fault);
        break;
      }
      case Category::peak: {
        PeakMemory p;
        p.rank = in.small(Key::rank);
        p.total = in.number(Key::total);
        p.op_at_peak = in.op(Key::op_at_peak);
        for (std::size_t i = 0; i < 2; ++i) {
          if (e.lists[i].size() == kNumBufferClasses)
            std::copy(e.lists[i].begin(), e.lists[i].end(), (i ? p.at_peak : p.by_class).begin());
          else if (in.fault.empty())
            in.fault = fmt::format("{} memory classes", e.lists[i].size());
        }
        keep(t_.peaks, p, in.fault);
        break;
      }
      case Category::memory_class: {
        const std::uint64_t under = e.track & ((1u << kRankShift) - 1);
        if (under >= kFirstClassTrack && under < kFirstClassTrack + kNumBufferClasses)
          live_[e.track >> kRankShift][under - kFirstClassTrack] = e.value;
        break;
      }
      case Category::memory: {
        MemorySample s{in.op(Key::op), in.small(Key::rank), in.small(Key::step),
                       in.number(Key::time), live_[e.track >> kRankShift]};
        keep(t_.memory, s, in.fault);
        break;
      }
      case Category::tandem:
        head(e, in);
        break;
      case Category::part:
        break;
    }
  }

  void head(const Event& e, Taker& in) {
    if (in.number(Key::format) != kFormat ||
        (e.clock != "simulated_ps" && e.clock != "monotonic_ns")) {
      wrong(fmt::format("format {}, clock \"{}\"", in.number(Key::format), e.clock));
      return;
    }
    t_.clock = e.clock == "simulated_ps" ? Clock::simulated_ps : Clock::monotonic_ns;
    t_.meta = e.meta;
    promised_ = {in.number(Key::spans), in.number(Key::calls), in.number(Key::samples),
                 in.number(Key::steps), in.number(Key::peaks)};
    has_head_ = true;
  }

  void counts() {
    if (!has_head_) {
      add("E-TIME-001", "this is no timeline that can be read", "a trace without tandem's header",
          "a Perfetto trace or CSV written by tandem", "give a .pftrace that tandem wrote");
      return;
    }
    const std::array<std::size_t, 5> have = {t_.spans.size(), t_.calls.size(), t_.memory.size(),
                                             t_.steps.size(), t_.peaks.size()};
    constexpr std::array<std::string_view, 5> kWhat = {"spans", "calls", "memory samples",
                                                       "step marks", "peaks"};
    for (std::size_t i = 0; i < have.size(); ++i)
      if (static_cast<std::int64_t>(have[i]) != promised_[i])
        damaged(fmt::format("{} of {} {}: the file is cut off", have[i], promised_[i], kWhat[i]));
  }

  void sort() {
    const auto by = [](auto key) {
      return [key](const auto& a, const auto& b) { return key(a) < key(b); };
    };
    std::sort(t_.spans.begin(), t_.spans.end(),
              by([](const Span& s) { return std::tuple(s.step, s.rank, s.op); }));
    std::sort(t_.calls.begin(), t_.calls.end(),
              by([](const CallSpan& s) { return std::tuple(s.step, s.rank, s.op, s.call); }));
    std::sort(t_.steps.begin(), t_.steps.end(),
              by([](const StepMark& s) { return std::tuple(s.step, s.rank); }));
  }

  std::string_view bytes_;
  const std::string& file_;
  Timeline t_;
  Diagnostics found_;
  std::string error_;
  std::size_t packet_at_ = 0;
  std::int64_t packet_number_ = 0;
  std::map<std::uint64_t, int> categories_, keys_;
  std::map<std::uint64_t, std::string_view> strings_;
  std::map<std::uint64_t, ClassBytes> live_;
  std::array<std::int64_t, 5> promised_{};
  bool has_head_ = false;
};

}  // namespace

Result<Timeline> decode_perfetto(std::string_view bytes, const std::string& file) {
  return Reader(bytes, file).run();
}

}  // namespace tandem
