// RUN/ranks/K.measures.json: what a rank tells rank 0 of a step (measure.h). One JSON object; a
// file of this run's own, so nobody else reads it and its form may change with the program.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/timeline/rank_file.h"
#include "exec/train/measure.h"

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFile = "measures.json";

Json layers_json(const auto& by_layer) {
  Json out = Json::object();
  for (const auto& [layer, value] : by_layer) out[std::to_string(layer)] = value;
  return out;
}

RankMeasures from_json(const Json& root, int rank) {
  RankMeasures out;
  out.rank = rank;
  out.step = root.at("step").get<int>();
  for (const auto& [name, s] : root.at("tensors").items())
    out.tensors[name] = {s.at(0).get<double>(), s.at(1).get<double>(), s.at(2).get<double>(),
                         s.at(3).get<double>(), s.at(4).get<double>()};
  out.seconds = root.at("seconds").get<std::map<std::string, double>>();
  for (const auto& [layer, list] : root.at("choices").items())
    out.choices[std::stoi(layer)] = list.get<std::vector<std::int64_t>>();
  for (const auto& [layer, spread] : root.at("bias_spread").items())
    out.bias_spread[std::stoi(layer)] = spread.get<double>();
  for (const auto& [layer, a] : root.at("activations").items())
    out.activations[std::stoi(layer)] = {
        a.at(0).is_null() ? ActivationSums{}.max_logit : a.at(0).get<double>(),
        a.at(1).get<double>(),
        a.at(2).get<double>(),
        a.at(3).get<double>(),
        a.at(4).get<double>(),
        a.at(5).get<double>(),
        a.at(6).get<double>()};
  out.peak_bytes = root.at("peak_bytes").get<Bytes>();
  out.live = root.at("live").get<ClassBytes>();
  out.peak_by_class = root.at("peak_by_class").get<ClassBytes>();
  out.kernel_scratch_bytes = root.at("kernel_scratch_bytes").get<Bytes>();
  out.slab_bytes = root.at("slab_bytes").get<Bytes>();
  return out;
}

}  // namespace

Status write_measures(const RankMeasures& m, const std::string& run_dir) {
  Json tensors = Json::object();
  for (const auto& [name, s] : m.tensors)
    tensors[name] = {s.elements, s.zeros, s.gradient, s.step, s.parameter};
  Json activations = Json::object();
  for (const auto& [layer, a] : m.activations)  // -inf, of a layer without rows, becomes null
    activations[std::to_string(layer)] = {
        a.max_logit,        a.attention_rows, a.attention_entropy, a.residual_elements,
        a.residual_squares, a.routed_tokens,  a.router_entropy};
  const Json root = {{"step", m.step},
                     {"tensors", std::move(tensors)},
                     {"seconds", m.seconds},
                     {"choices", layers_json(m.choices)},
                     {"bias_spread", layers_json(m.bias_spread)},
                     {"activations", std::move(activations)},
                     {"peak_bytes", m.peak_bytes},
                     {"live", m.live},
                     {"peak_by_class", m.peak_by_class},
                     {"kernel_scratch_bytes", m.kernel_scratch_bytes},
                     {"slab_bytes", m.slab_bytes}};
  return write_file_atomic(rank_path(run_dir, m.rank, kFile), root.dump() + "\n");
}

Result<std::vector<RankMeasures>> read_measures(int world, int step, const std::string& run_dir) {
  std::vector<RankMeasures> out;
  for (int rank = 0; rank < world; ++rank) {
    const std::string path = rank_path(run_dir, rank, kFile);
    const Result<std::string> text = read_file(path, limits::kTableBytes);
    if (!text) return text.error();
    try {
      out.push_back(from_json(Json::parse(*text), rank));
      if (out.back().step != step) throw std::runtime_error("measures of another step");
    } catch (const std::exception& e) {
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        e.what(), fmt::format("measures of step {}", step), "run again",
                        Location{path});
    }
  }
  return out;
}

}  // namespace tandem::exec
