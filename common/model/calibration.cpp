#include "common/model/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/text.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::size_t kEntries = 200'000;  // of one table; a row is about 100 bytes of kTableBytes
constexpr double kMostSeconds = 1e5;
constexpr double kMostRate = 1e18;

// --- writing -----------------------------------------------------------------------------------

auto order_of(const KernelPoint& p) { return std::tie(p.kernel, p.accumulate, p.busy); }
auto order_of(const WakePoint& w) { return std::tie(w.ranks); }
auto order_of(const TransportCurve& c) { return std::tie(c.kind, c.members); }

template <class T>
std::vector<const T*> sorted(const std::vector<T>& list) {
  std::vector<const T*> out;
  for (const T& t : list) out.push_back(&t);
  std::stable_sort(out.begin(), out.end(),
                   [](const T* a, const T* b) { return order_of(*a) < order_of(*b); });
  return out;
}

// --- reading -----------------------------------------------------------------------------------

// Reads members of JSON objects and remembers the first fault, with the path to it.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}
  [[nodiscard]] bool failed() const { return error_.has_value(); }
  [[nodiscard]] Error error() const { return *error_; }

  void fail(const char* code, const char* title, const std::string& path, std::string found,
            std::string expected) {
    if (error_) return;
    error_ = make_error(Failure::bad_input, code, title, path.empty() ? found : path + ": " + found,
                        std::move(expected), "make the file again with `tandem calibrate`",
                        Location{file_});
  }
  const Json* member(const Json& object, const std::string& path, const char* key) {
    if (error_) return nullptr;
    if (!object.is_object() || !object.contains(key)) {
      fail("E-CAL-002", "the calibration lacks a value", path, fmt::format("no \"{}\"", key),
           "the fields of docs/formats/calibration.md");
      return nullptr;
    }
    return &object[key];
  }
  void number(const Json& object, const std::string& path, const char* key, double least,
              double most, double& out) {
    const Json* v = member(object, path, key);
    if (!v) return;
    const double d = v->is_number() ? v->get<double>() : std::nan("");
    if (!(d >= least && d <= most))
      return fail("E-CAL-003", "a value of the calibration is out of range", path + "." + key,
                  shown(*v), fmt::format("a number in {:g} .. {:g}", least, most));
    out = d;
  }
  template <class Integer>
  void integer(const Json& object, const std::string& path, const char* key, std::int64_t least,
               std::int64_t most, Integer& out) {
    const Json* v = member(object, path, key);
    if (!v) return;
    const bool whole =
        v->is_number_integer() && !(v->is_number_unsigned() && v->get<std::uint64_t>() > INT64_MAX);
    if (!whole || v->get<std::int64_t>() < least || v->get<std::int64_t>() > most)
      return fail("E-CAL-003", "a value of the calibration is out of range", path + "." + key,
                  shown(*v), fmt::format("a whole number in {} .. {}", least, most));
    out = static_cast<Integer>(v->get<std::int64_t>());
  }
  void boolean(const Json& object, const std::string& path, const char* key, bool& out) {
    const Json* v = member(object, path, key);
    if (!v) return;
    if (!v->is_boolean())
      return fail("E-CAL-002", "a value of the calibration has the wrong type", path + "." + key,
                  shown(*v), "true or false");
    out = v->get<bool>();
  }
  void text(const Json& object, const std::string& path, const char* key, std::size_t most,
            std::string& out) {
    const Json* v = member(object, path, key);
    if (!v) return;
    if (!v->is_string() || v->get_ref<const std::string&>().size() > most)
      return fail("E-CAL-002", "a value of the calibration has the wrong type", path + "." + key,
                  shown(*v), fmt::format("a text of at most {} bytes", most));
    out = v->get<std::string>();
  }
  // The array `key`, or nullptr after a fault.
  const Json* list(const Json& object, const std::string& path, const char* key) {
    const Json* v = member(object, path, key);
    if (!v) return nullptr;
    if (!v->is_array()) {
      fail("E-CAL-002", "a value of the calibration has the wrong type", path + "." + key,
           shown(*v), "a list");
      return nullptr;
    }
    if (v->size() > kEntries) {
      fail("E-CAL-004", "too many entries in the calibration", path + "." + key,
           fmt::format("{} entries", v->size()), fmt::format("at most {}", kEntries));
      return nullptr;
    }
    return v;
  }

 private:
  static std::string shown(const Json& v) {
    std::string text = v.is_structured() ? std::string(v.type_name())
                                         : v.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (text.size() > 40) text = text.substr(0, 37) + "...";
    return text;
  }
  std::string file_;
  std::optional<Error> error_;
};

KernelPoint kernel_from(Reader& r, const Json& j, const std::string& path) {
  KernelPoint p;
  r.text(j, path, "kernel", 256, p.kernel);
  r.boolean(j, path, "accumulate", p.accumulate);
  r.integer(j, path, "busy", 1, 65'536, p.busy);
  r.number(j, path, "seconds", 0, kMostSeconds, p.seconds);
  r.integer(j, path, "samples", 1, 1'000'000'000, p.samples);
  if (r.failed()) return p;
  const auto words = split(p.kernel, ' ');
  const auto kernel = kernel_from_text(words);
  if (!kernel || calibration_key(*kernel) != p.kernel)
    r.fail("E-CAL-003", "a value of the calibration is out of range", path + ".kernel", p.kernel,
           "a kernel of the catalogue as a plan prints it, without coords and owner");
  return p;
}

TransportCurve transport_from(Reader& r, const Json& j, const std::string& path) {
  TransportCurve c;
  r.text(j, path, "kind", 32, c.kind);
  r.integer(j, path, "members", 2, 1'048'576, c.members);
  r.number(j, path, "cpu_share", 0, 1, c.cpu_share);
  const Json* list = r.list(j, path, "segments");
  for (std::size_t i = 0; list && i < list->size() && !r.failed(); ++i) {
    const std::string at = fmt::format("{}.segments[{}]", path, i);
    TransportSegment s;
    r.integer((*list)[i], at, "from_bytes", 0, INT64_MAX, s.from_bytes);
    r.number((*list)[i], at, "alpha_s", 0, kMostSeconds, s.alpha_s);
    r.number((*list)[i], at, "bytes_per_s", 1e-3, kMostRate, s.bytes_per_s);
    const bool ordered = i == 0 ? s.from_bytes == 0 : s.from_bytes > c.segments.back().from_bytes;
    if (!r.failed() && !ordered)
      r.fail("E-CAL-003", "a value of the calibration is out of range", at + ".from_bytes",
             std::to_string(s.from_bytes), "segments in ascending order, the first from 0");
    c.segments.push_back(s);
  }
  if (!r.failed() && c.segments.empty())
    r.fail("E-CAL-002", "the calibration lacks a value", path + ".segments", "no segment",
           "at least one");
  return c;
}

WakePoint wake_from(Reader& r, const Json& j, const std::string& path) {
  WakePoint w;
  r.integer(j, path, "ranks", 1, 1'048'576, w.ranks);
  r.number(j, path, "seconds", 0, 1, w.seconds);
  return w;
}

CalibrationFit fit_from(Reader& r, const Json& j, const std::string& path) {
  CalibrationFit f;
  r.text(j, path, "name", 256, f.name);
  r.integer(j, path, "points", 0, 1'000'000'000, f.points);
  r.integer(j, path, "held_out", 0, 1'000'000'000, f.held_out);
  r.number(j, path, "mean_error", 0, 1e6, f.mean_error);
  r.number(j, path, "max_error", 0, 1e6, f.max_error);
  return f;
}

template <class T>
void refuse_twice(Reader& r, const std::vector<T>& list, const char* key,
                  std::string (*name)(const T&)) {
  const auto all = sorted(list);
  for (std::size_t i = 1; i < all.size(); ++i)
    if (order_of(*all[i - 1]) == order_of(*all[i]))
      return r.fail("E-CAL-005", "an entry of the calibration is given twice", key, name(*all[i]),
                    "each entry once");
}

// nlohmann's own limit is the stack; a callback counts the depth instead.
bool too_deep(const std::string& text) {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest > limits::kJsonDepth;
}

}  // namespace

const TransportCurve* Calibration::transport(std::string_view kind, int members) const {
  const TransportCurve* best = nullptr;
  for (const TransportCurve& c : transports) {
    if (c.kind != kind) continue;
    const int d = std::abs(c.members - members);
    const int best_d = best ? std::abs(best->members - members) : INT32_MAX;
    if (d < best_d || (d == best_d && c.members > best->members)) best = &c;
  }
  return best;
}

double wake_seconds(const Calibration& c, int ranks) {
  const WakePoint *below = nullptr, *above = nullptr;  // nearest on either side
  for (const WakePoint& w : c.wakes) {
    if (w.ranks <= ranks && (!below || w.ranks > below->ranks)) below = &w;
    if (w.ranks >= ranks && (!above || w.ranks < above->ranks)) above = &w;
  }
  if (!below || !above) return below ? below->seconds : above ? above->seconds : 0;
  if (below->ranks == above->ranks) return below->seconds;
  const double part = static_cast<double>(ranks - below->ranks) / (above->ranks - below->ranks);
  return below->seconds + part * (above->seconds - below->seconds);
}

double seconds_of(const TransportCurve& curve, Bytes bytes) {
  const TransportSegment* segment = &curve.segments.front();
  for (const TransportSegment& s : curve.segments)
    if (s.from_bytes <= bytes) segment = &s;
  return segment->alpha_s + static_cast<double>(bytes) / segment->bytes_per_s;
}

std::string calibration_key(const Kernel& kernel) {
  Kernel k = kernel;
  k.coords = {};
  k.owner = {};
  k.flags &= ~kCostless;
  if (const std::size_t first = first_dim_of(k.kind); first < kNumDims) k.dims[first] = 0;
  return to_text(k);
}

std::string digest_of(const CalibrationMachine& m, const std::string& precision) {
  return sha256_hex(
             fmt::format("{}\n{}\n{}\n{}\n{}", m.cpu, m.libtorch, m.cores, m.ranks, precision))
      .substr(0, 16);
}

std::string to_json(const Calibration& c) {
  Json j;
  j["tandem_calibration"] = kVersion;
  j["machine"] = {{"cpu", c.machine.cpu},
                  {"libtorch", c.machine.libtorch},
                  {"cores", c.machine.cores},
                  {"ranks", c.machine.ranks}};
  j["precision"] = c.precision;
  Json wakes = Json::array();
  for (const WakePoint* w : sorted(c.wakes))
    wakes.push_back({{"ranks", w->ranks}, {"seconds", w->seconds}});
  j["overheads"] = {
      {"issue_s", c.issue_s}, {"wakes", wakes}, {"copy_bytes_per_s", c.copy_bytes_per_s}};
  j["kernels"] = Json::array();
  for (const KernelPoint* p : sorted(c.kernels))
    j["kernels"].push_back({{"kernel", p->kernel},
                            {"accumulate", p->accumulate},
                            {"busy", p->busy},
                            {"seconds", p->seconds},
                            {"samples", p->samples}});
  j["transports"] = Json::array();
  for (const TransportCurve* t : sorted(c.transports)) {
    Json segments = Json::array();
    for (const TransportSegment& s : t->segments)
      segments.push_back(
          {{"from_bytes", s.from_bytes}, {"alpha_s", s.alpha_s}, {"bytes_per_s", s.bytes_per_s}});
    j["transports"].push_back({{"kind", t->kind},
                               {"members", t->members},
                               {"cpu_share", t->cpu_share},
                               {"segments", segments}});
  }
  j["fits"] = Json::array();
  for (const CalibrationFit& f : c.fits)
    j["fits"].push_back({{"name", f.name},
                         {"points", f.points},
                         {"held_out", f.held_out},
                         {"mean_error", f.mean_error},
                         {"max_error", f.max_error}});
  return j.dump(1, ' ', true, Json::error_handler_t::replace) + "\n";
}

Result<Calibration> calibration_from_json(const std::string& text, const std::string& file) {
  Reader r(file);
  if (too_deep(text)) {
    r.fail("E-CAL-004", "too many entries in the calibration", "",
           "lists and objects nested too deeply", fmt::format("at most {}", limits::kJsonDepth));
    return r.error();
  }
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (j.is_discarded() || !j.is_object()) {
    r.fail("E-CAL-001", "the calibration is not a JSON object", "",
           fmt::format("{} bytes that do not parse as one", text.size()), "a .cal.json file");
    return r.error();
  }
  Calibration c;
  int version = 0;
  r.integer(j, "", "tandem_calibration", kVersion, kVersion, version);
  if (const Json* m = r.member(j, "", "machine")) {
    r.text(*m, "machine", "cpu", 256, c.machine.cpu);
    r.text(*m, "machine", "libtorch", 256, c.machine.libtorch);
    r.integer(*m, "machine", "cores", 1, 65'536, c.machine.cores);
    r.integer(*m, "machine", "ranks", 1, 65'536, c.machine.ranks);
  }
  r.text(j, "", "precision", 16, c.precision);
  if (const Json* o = r.member(j, "", "overheads")) {
    r.number(*o, "overheads", "issue_s", 0, 1, c.issue_s);
    const Json* list = r.list(*o, "overheads", "wakes");
    for (std::size_t i = 0; list && i < list->size() && !r.failed(); ++i)
      c.wakes.push_back(wake_from(r, (*list)[i], fmt::format("overheads.wakes[{}]", i)));
    r.number(*o, "overheads", "copy_bytes_per_s", 0, kMostRate, c.copy_bytes_per_s);
  }
  if (const Json* list = r.list(j, "", "kernels"))
    for (std::size_t i = 0; i < list->size() && !r.failed(); ++i)
      c.kernels.push_back(kernel_from(r, (*list)[i], fmt::format("kernels[{}]", i)));
  if (const Json* list = r.list(j, "", "transports"))
    for (std::size_t i = 0; i < list->size() && !r.failed(); ++i)
      c.transports.push_back(transport_from(r, (*list)[i], fmt::format("transports[{}]", i)));
  if (const Json* list = r.list(j, "", "fits"))
    for (std::size_t i = 0; i < list->size() && !r.failed(); ++i)
      c.fits.push_back(fit_from(r, (*list)[i], fmt::format("fits[{}]", i)));
  if (!r.failed()) {
    refuse_twice<KernelPoint>(r, c.kernels, "kernels", [](const KernelPoint& p) {
      return fmt::format("{}{}, busy {}", p.kernel, p.accumulate ? " accumulating" : "", p.busy);
    });
    refuse_twice<WakePoint>(r, c.wakes, "overheads.wakes", [](const WakePoint& w) {
      return fmt::format("wake-up of {} ranks", w.ranks);
    });
    refuse_twice<TransportCurve>(r, c.transports, "transports", [](const TransportCurve& t) {
      return fmt::format("{} of {} members", t.kind, t.members);
    });
  }
  if (r.failed()) return r.error();
  return c;
}

Result<Calibration> read_calibration(const std::string& path) {
  Result<std::string> text = read_file(path, limits::kTableBytes);
  if (!text) return text.error();
  return calibration_from_json(*text, path);
}

Status write_calibration(const std::string& path, const Calibration& calibration) {
  return write_file_atomic(path, to_json(calibration));
}

}  // namespace tandem
