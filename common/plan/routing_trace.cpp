#include "common/plan/routing_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

constexpr std::size_t kPlaceColumns = 5;

std::string header_of(std::size_t experts) {
  std::string out = "step,layer,microbatch,slice,rank";
  for (std::size_t e = 0; e < experts; ++e) out += fmt::format(",e{}", e);
  return out;
}

class Parser {
 public:
  explicit Parser(RoutingTrace& out) : out_(out) {}

  Status run(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      ++line_;
      if (line_ == 1) {
        if (Status s = read_header(line); !s) return s;
      } else if (!line.empty()) {
        if (Status s = read_row(line); !s) return s;
      }
    }
    if (out_.records.empty())
      return refuse(1, line_ == 0 ? "an empty file" : "a header alone",
                    "counts of at least a step");
    return Ok{};
  }

 private:
  Status refuse(std::size_t column, std::string found, std::string expected) const {
    return make_error(Failure::bad_input, "E-CAL-009", "not a file of recorded routing",
                      std::move(found), std::move(expected),
                      "`tandem execute` writes routing.csv; docs/formats/routing.md describes it",
                      Location{out_.file, static_cast<int>(std::max<std::int64_t>(1, line_)),
                               static_cast<int>(column)});
  }

  Status read_header(std::string_view line) {
    const auto cells = split(line, ',');
    experts_ = cells.size() > kPlaceColumns ? cells.size() - kPlaceColumns : 0;
    if (experts_ > 0 && line == header_of(experts_)) return Ok{};
    std::string shown(line.substr(0, 60));
    return refuse(1, escape_terminal(shown), "step,layer,microbatch,slice,rank,e0,e1,...");
  }

  Status read_row(std::string_view line) {
    RoutingRecord r;
    r.line = line_;
    r.kept.reserve(experts_);
    std::size_t column = 1, cell = 0;
    for (std::string_view text : split(line, ',')) {
      if (cell == kPlaceColumns + experts_)
        return refuse(column, "more columns than the header has", fmt::format("{} columns", cell));
      const std::optional<std::int64_t> value = parse_int(text);
      if (!value || *value < 0 || *value > INT32_MAX)
        return refuse(column, text.empty() ? "nothing" : escape_terminal(text.substr(0, 40)),
                      "a whole number from 0 to 2147483647");
      place(r, cell++, static_cast<std::int32_t>(*value));
      column += text.size() + 1;
    }
    if (cell < kPlaceColumns + experts_)
      return refuse(1, fmt::format("{} columns", cell),
                    fmt::format("{} columns, as in the header", kPlaceColumns + experts_));
    num_counts_ += static_cast<std::int64_t>(experts_);
    if (num_counts_ > limits::kRoutingCounts)
      return refuse(1, fmt::format("more than {} counts", limits::kRoutingCounts),
                    "a file of fewer steps");
    out_.records.push_back(std::move(r));
    return Ok{};
  }

  static void place(RoutingRecord& r, std::size_t cell, std::int32_t value) {
    switch (cell) {
      case 0:
        r.step = value;
        break;
      case 1:
        r.layer = value;
        break;
      case 2:
        r.microbatch = value;
        break;
      case 3:
        r.slice = value;
        break;
      case 4:
        r.rank = value;
        break;
      default:
        r.kept.push_back(value);
    }
  }

  RoutingTrace& out_;
  std::size_t experts_ = 0;
  std::int64_t line_ = 0, num_counts_ = 0;
};

// What a record must be and is not; empty where it fits.
std::pair<std::string, std::string> misfit(const RoutingRecord& r, const RoutedPlace& place) {
  if (std::ssize(r.kept) != place.experts())
    return {fmt::format("{} experts", r.kept.size()), fmt::format("{} experts", place.experts())};
  const std::int64_t sum = std::accumulate(r.kept.begin(), r.kept.end(), std::int64_t{0});
  const auto most = std::max_element(r.kept.begin(), r.kept.end());
  if (*most > place.most_rows())
    return {fmt::format("{} rows for expert {}", *most, most - r.kept.begin()),
            fmt::format("at most {} rows: {} tokens{}", place.most_rows(), place.tokens(),
                        place.kernel->dims[6] > 0 ? ", and a capacity" : "")};
  const bool drops = place.kernel->dims[6] > 0;
  if (drops ? sum > place.assignments() : sum != place.assignments())
    return {fmt::format("{} rows in all", sum),
            fmt::format("{}{}: {} tokens choose {} experts each", drops ? "at most " : "",
                        place.assignments(), place.tokens(), place.kernel->dims[3])};
  return {};
}

using Place = std::array<std::int32_t, 5>;  // step, layer, microbatch, slice, rank
Place place_of(const RoutingRecord& r) { return {r.step, r.layer, r.microbatch, r.slice, r.rank}; }
std::string words_of(const Place& p) {
  return fmt::format("step {}, layer {}, microbatch {}{}, rank {}", p[0], p[1], p[2],
                     p[3] > 0 ? fmt::format(", slice {}", p[3]) : "", p[4]);
}

Error does_not_fit(const RoutingTrace& trace, std::int64_t line, std::string found,
                   std::string expected) {
  return make_error(
      Failure::bad_input, "E-CAL-010", "recorded routing does not fit the plan", std::move(found),
      std::move(expected), "use the routing.csv of a run of this scenario, or routing: {zipf: 1}",
      line > 0 ? Location{trace.file, static_cast<int>(line), 1} : Location{trace.file});
}

}  // namespace

std::vector<int> RoutingTrace::steps() const {
  std::vector<int> out;
  for (const RoutingRecord& r : records)
    if (out.empty() || out.back() != r.step) out.push_back(r.step);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::string to_text(RoutingTrace trace) {
  std::vector<RoutingRecord>& records = trace.records;
  std::sort(records.begin(), records.end(), [](const RoutingRecord& a, const RoutingRecord& b) {
    return place_of(a) < place_of(b);
  });
  std::string out = header_of(records.empty() ? 0 : records.front().kept.size()) + "\n";
  for (const RoutingRecord& r : records) {
    out += fmt::format("{},{},{},{},{}", r.step, r.layer, r.microbatch, r.slice, r.rank);
    for (const std::int32_t n : r.kept) out += fmt::format(",{}", n);
    out += '\n';
  }
  return out;
}

Result<RoutingTrace> parse_routing_trace(std::string_view text, std::string file) {
  RoutingTrace out;
  out.file = std::move(file);
  if (Status s = Parser(out).run(text); !s) return s.error();
  return out;
}

Result<RoutingTrace> read_routing_trace(const std::string& path) {
  const Result<std::string> text = read_file(path, limits::kRoutingBytes);
  if (!text) return text.error();
  return parse_routing_trace(*text, path);
}

Result<RoutingSource> traced_routing(const RoutingTrace& trace, const Plan& plan) {
  const std::vector<RoutedPlace> places = routed_places(plan);
  std::map<Place, const RoutedPlace*> known;  // of step 0
  for (const RoutedPlace& p : places) known[{0, p.layer, p.microbatch, p.slice, p.rank.value}] = &p;
  if (places.empty())
    return does_not_fit(trace, 0, "counts of experts", "nothing: the plan has no experts");
  auto counts = std::make_shared<std::map<Place, std::vector<std::int32_t>>>();
  std::map<int, std::size_t> num_places;  // by step
  const std::vector<int> steps = trace.steps();
  for (const RoutingRecord& r : trace.records) {
    const auto place = known.find({0, r.layer, r.microbatch, r.slice, r.rank});
    if (place == known.end())
      return does_not_fit(trace, r.line, words_of(place_of(r)),
                          fmt::format("a layer with experts, microbatch and rank of the plan: {} "
                                      "ranks, {} microbatches",
                                      plan.header.mesh.world(), plan.header.microbatches));
    if (auto [found, expected] = misfit(r, *place->second); !found.empty())
      return does_not_fit(trace, r.line, words_of(place_of(r)) + ": " + found, expected);
    const auto step = static_cast<std::int32_t>(
        std::lower_bound(steps.begin(), steps.end(), r.step) - steps.begin());
    if (!counts->emplace(Place{step, r.layer, r.microbatch, r.slice, r.rank}, r.kept).second)
      return does_not_fit(trace, r.line, words_of(place_of(r)) + " for the second time",
                          "each place once");
    ++num_places[r.step];
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (num_places[steps[i]] == known.size()) continue;
    const auto missing = std::find_if(known.begin(), known.end(), [&](const auto& entry) {
      Place at = entry.first;
      at[0] = static_cast<std::int32_t>(i);
      return !counts->contains(at);
    });
    Place at = missing->first;
    at[0] = steps[i];
    return does_not_fit(trace, 0, "no counts of " + words_of(at),
                        fmt::format("{} lines for each step", known.size()));
  }
  return RoutingSource([counts](const RoutedPlace& p, std::span<std::int32_t> kept) {
    const std::vector<std::int32_t>& given =
        counts->at({p.step, p.layer, p.microbatch, p.slice, p.rank.value});
    std::copy(given.begin(), given.end(), kept.begin());
  });
}

}  // namespace tandem
