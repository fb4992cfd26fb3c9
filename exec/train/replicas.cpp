#include "exec/train/replicas.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/timeline/rank_file.h"

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFile = "replicas.json";

// "layers.0.attn.q.weight[0+32, 0+64]": replicas hold the same elements of the same tensor.
std::string key_of(const Piece& p) {
  return fmt::format("{}[{}+{}, {}+{}] {}-{}", p.name, p.start[0], p.length[0], p.start[1],
                     p.length[1], p.flat_begin, p.flat_end);
}

// "rank 1", "ranks 0, 2, 3 and 5 more".
std::string list_of(const std::vector<int>& ranks) {
  constexpr std::size_t kShown = 8;
  std::string out = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size() && i < kShown; ++i)
    out += fmt::format("{}{}", i > 0 ? ", " : "", ranks[i]);
  if (ranks.size() > kShown) out += fmt::format(" and {} more", ranks.size() - kShown);
  return out;
}

}  // namespace

Status write_replica_hashes(const Plan& plan, Rank rank, const BufferMemory& memory, int step,
                            const std::string& run_dir) {
  Json tensors = Json::array();
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    const int size = size_of(plan.buffer(h.param).dtype);
    const std::string_view bytes(
        reinterpret_cast<const char*>(memory(h.param) + h.param_element * size),
        static_cast<std::size_t>(h.piece.elements() * size));
    tensors.push_back({key_of(h.piece), sha256_hex(bytes)});
  }
  const Json root = {{"step", step}, {"tensors", std::move(tensors)}};
  return write_file_atomic(rank_path(run_dir, rank.value, kFile), root.dump() + "\n");
}

Status compare_replicas(const Plan& plan, int step, const std::string& run_dir) {
  // Part of a tensor -> hash -> ranks that hold it. `order`: of first appearance.
  std::map<std::string, std::map<std::string, std::vector<int>>> held;
  std::vector<std::string> order;
  for (int rank = 0; rank < plan.header.mesh.world(); ++rank) {
    const std::string path = rank_path(run_dir, rank, kFile);
    const Result<std::string> text = read_file(path, limits::kCheckpointManifestBytes);
    if (!text) return text.error();
    try {
      const Json root = Json::parse(*text);
      if (root.at("step") != step) throw std::runtime_error("hashes of another step");
      for (const Json& entry : root.at("tensors")) {
        const auto key = entry.at(0).get<std::string>();
        if (!held.contains(key)) order.push_back(key);
        held[key][entry.at(1).get<std::string>()].push_back(rank);
      }
    } catch (const std::exception& e) {
      return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                        e.what(), fmt::format("hashes of step {}", step), "run again",
                        Location{path});
    }
  }
  for (const std::string& key : order) {
    const auto& by_hash = held.at(key);
    if (by_hash.size() == 1) continue;
    std::string found =
        fmt::format("after step {}, {}:", step, key.substr(0, key.find(' ', key.find(']'))));
    const char* before = " ";
    for (const auto& [hash, ranks] : by_hash) {
      found += fmt::format("{}{} {} {}", before, list_of(ranks),
                           ranks.size() == 1 ? "holds" : "hold", hash.substr(0, 8));
      before = ", ";
    }
    return make_error(Failure::execution, "E-EXEC-037", "replicas of a parameter differ",
                      std::move(found), "the same bits on all of them",
                      "a rank's memory or a reduction is wrong: run again with --check-replicas 1");
  }
  return Ok{};
}

}  // namespace tandem::exec
