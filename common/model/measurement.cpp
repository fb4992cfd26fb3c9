#include "common/model/measurement.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kRequestFormat = "tandem-measure-request";
constexpr const char* kResultFormat = "tandem-measure-result";
constexpr int kVersion = 1;
constexpr double kMostSeconds = 1e5;

Error damaged(const std::string& file, std::string found, std::string expected) {
  return make_error(Failure::bad_input, "E-CAL-007", "a file of a measurement is damaged",
                    std::move(found), std::move(expected), "run `tandem calibrate` again",
                    Location{file});
}

// Thrown inside this file only, with what was expected at which place.
struct Fault {
  std::string place, expected;
};

const Json& member(const Json& object, const std::string& key, const char* expected) {
  if (!object.is_object() || !object.contains(key)) throw Fault{key, expected};
  return object[key];
}
double number(const Json& object, const std::string& key, double least, double most) {
  const Json& v = member(object, key, "a number");
  const double d = v.is_number() ? v.get<double>() : std::nan("");
  if (!(d >= least && d <= most)) throw Fault{key, fmt::format("{:g} .. {:g}", least, most)};
  return d;
}
std::int64_t integer(const Json& object, const std::string& key, std::int64_t least,
                     std::int64_t most) {
  const Json& v = member(object, key, "a whole number");
  if (!v.is_number_integer()) throw Fault{key, "a whole number"};
  const auto n = v.get<std::int64_t>();
  if (n < least || n > most) throw Fault{key, fmt::format("{} .. {}", least, most)};
  return n;
}
std::string text_of(const Json& object, const std::string& key) {
  const Json& v = member(object, key, "text");
  if (!v.is_string()) throw Fault{key, "text"};
  return v.get<std::string>();
}
const Json& list(const Json& object, const std::string& key) {
  const Json& v = member(object, key, "a list");
  if (!v.is_array() || v.size() > 200'000) throw Fault{key, "a list of at most 200000 entries"};
  return v;
}

MeasuredKernel kernel_from(const Json& j) {
  MeasuredKernel k;
  k.kernel = text_of(j, "kernel");
  const auto parsed = kernel_from_text(split(k.kernel, ' '));
  if (!parsed || calibration_key(*parsed) != k.kernel)
    throw Fault{"kernel", "a kernel of the catalogue, without coords and owner"};
  const Json& accumulate = member(j, "accumulate", "true or false");
  if (!accumulate.is_boolean()) throw Fault{"accumulate", "true or false"};
  k.accumulate = accumulate.get<bool>();
  return k;
}

DType type_from(const Json& j, const std::string& key) {
  const auto t = dtype_from(text_of(j, key));
  if (!t) throw Fault{key, "a data type"};
  return *t;
}

void check_format(const Json& root, const char* format) {
  if (text_of(root, "format") != format) throw Fault{"format", format};
  (void)integer(root, "version", kVersion, kVersion);
}

// Parses and runs `read(root)`; faults become one error.
template <class T, class Read>
Result<T> reading(const std::string& text, const std::string& file, Read&& read) {
  if (text.size() > static_cast<std::size_t>(limits::kTableBytes))
    return damaged(file, fmt::format("{} bytes", text.size()), "at most 64 MiB");
  const Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return damaged(file, "no JSON object", "a JSON object");
  try {
    return read(root);
  } catch (const Fault& f) {
    return damaged(file, fmt::format("{} is missing or wrong", f.place), f.expected);
  }
}

}  // namespace

std::string to_json(const MeasureRequest& r) {
  Json kernels = Json::array();
  for (const MeasuredKernel& k : r.kernels)
    kernels.push_back({{"kernel", k.kernel}, {"accumulate", k.accumulate}});
  const Json root = {{"format", kRequestFormat},
                     {"version", kVersion},
                     {"compute", name_of(r.types.compute)},
                     {"main", name_of(r.types.main)},
                     {"threads_per_rank", r.threads_per_rank},
                     {"busy", r.busy},
                     {"budget_s", r.budget_s},
                     {"footprint", r.footprint},
                     {"kernels", kernels}};
  return root.dump(1) + "\n";
}

std::string to_json(const MeasureResult& r) {
  Json points = Json::array();
  for (const MeasuredPoint& p : r.points)
    points.push_back({{"kernel", p.what.kernel},
                      {"accumulate", p.what.accumulate},
                      {"busy", p.busy},
                      {"cpu_s", p.cpu_s},
                      {"wall_s", p.wall_s},
                      {"spread", p.spread},
                      {"samples", p.samples}});
  const Json root = {{"format", kResultFormat},
                     {"version", kVersion},
                     {"libtorch", r.libtorch},
                     {"call_overhead_s", r.call_overhead_s},
                     {"points", points}};
  return root.dump(1, ' ', true, Json::error_handler_t::replace) + "\n";
}

Result<MeasureRequest> measure_request_from_json(const std::string& text, const std::string& file) {
  return reading<MeasureRequest>(text, file, [](const Json& root) {
    check_format(root, kRequestFormat);
    MeasureRequest r;
    r.types = {type_from(root, "compute"), type_from(root, "main")};
    r.threads_per_rank = static_cast<int>(integer(root, "threads_per_rank", 1, 1024));
    r.budget_s = number(root, "budget_s", 0, kMostSeconds);
    r.footprint = integer(root, "footprint", 0, Bytes{1} << 40);
    r.busy.clear();
    for (const Json& b : list(root, "busy")) {
      if (!b.is_number_integer()) throw Fault{"busy", "whole numbers"};
      const auto n = b.get<std::int64_t>();
      if (n < (r.busy.empty() ? 1 : r.busy.back() + 1) || n > 1024)
        throw Fault{"busy", "ascending numbers in 1 .. 1024"};
      r.busy.push_back(static_cast<int>(n));
    }
    for (const Json& k : list(root, "kernels")) r.kernels.push_back(kernel_from(k));
    return r;
  });
}

Result<MeasureResult> measure_result_from_json(const std::string& text, const std::string& file) {
  return reading<MeasureResult>(text, file, [](const Json& root) {
    check_format(root, kResultFormat);
    MeasureResult r;
    r.libtorch = text_of(root, "libtorch");
    r.call_overhead_s = number(root, "call_overhead_s", 0, kMostSeconds);
    for (const Json& j : list(root, "points")) {
      MeasuredPoint p;
      p.what = kernel_from(j);
      p.busy = static_cast<int>(integer(j, "busy", 1, 1024));
      p.cpu_s = number(j, "cpu_s", 0, kMostSeconds);
      p.wall_s = number(j, "wall_s", 0, kMostSeconds);
      p.spread = number(j, "spread", 0, 1e9);
      p.samples = static_cast<int>(integer(j, "samples", 1, 1'000'000'000));
      r.points.push_back(p);
    }
    return r;
  });
}

}  // namespace tandem
