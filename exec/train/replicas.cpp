#include "exec/train/replicas.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/timeline/rank_file.h"

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFile = "replicas.json", kValues = "replicas.bin";

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
  const bool with_values = plan.replicates_data();
  std::string values;  // the pieces' bytes, one behind the other
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    const int size = size_of(plan.buffer(h.param).dtype);
    const std::string_view bytes(
        reinterpret_cast<const char*>(memory(h.param) + h.param_element * size),
        static_cast<std::size_t>(h.piece.elements() * size));
    Json entry = {key_of(h.piece), sha256_hex(bytes)};
    if (with_values) {
      entry.push_back(values.size());
      entry.push_back(bytes.size());
      entry.push_back(size);
      values += bytes;
    }
    tensors.push_back(std::move(entry));
  }
  if (with_values)
    if (Status s = write_file_atomic(rank_path(run_dir, rank.value, kValues), values); !s) return s;
  const Json root = {{"step", step}, {"tensors", std::move(tensors)}};
  return write_file_atomic(rank_path(run_dir, rank.value, kFile), root.dump() + "\n");
}

namespace {

// Where the values of a part lie in the file of a rank.
struct Values {
  int rank = 0;
  std::size_t begin = 0, bytes = 0;
  int size = 4;
};

double value_at(const std::string& file, const Values& v, std::size_t i) {
  const char* at = file.data() + v.begin + i * static_cast<std::size_t>(v.size);
  if (v.size == 8) {
    double x = 0;
    std::memcpy(&x, at, 8);
    return x;
  }
  float x = 0;
  std::memcpy(&x, at, 4);
  return static_cast<double>(x);
}

// Copies of one part on different ep ranks.
class CloseCopies {
 public:
  CloseCopies(const Plan& plan, const std::string& run_dir) : plan_(plan), run_dir_(run_dir) {}
  // False also where the file of a rank cannot be read: then the bits count.
  bool close(const Values& a, const Values& b) {
    if (a.bytes != b.bytes || a.size != b.size) return false;
    const std::string *x = file(a), *y = file(b);
    if (!x || !y) return false;
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < a.bytes / static_cast<std::size_t>(a.size); ++i) {
      const double p = value_at(*x, a, i), q = value_at(*y, b, i);
      if (std::isnan(p) || std::isnan(q)) return false;
      largest = std::max(largest, std::abs(p));
      difference = std::max(difference, std::abs(p - q));
    }
    return difference <= kReplicaTolerance * largest;
  }
  [[nodiscard]] int ep_of(int rank) const {
    return plan_.header.mesh.coordinate(Rank{rank}, Axis::ep);
  }

 private:
  const std::string* file(const Values& v) {
    const auto [it, is_new] = files_.try_emplace(v.rank);
    if (is_new)
      if (auto text = read_file(rank_path(run_dir_, v.rank, kValues), limits::kTimelineBytes))
        it->second = std::move(*text);
    return v.begin + v.bytes <= it->second.size() ? &it->second : nullptr;
  }
  const Plan& plan_;
  const std::string& run_dir_;
  std::map<int, std::string> files_;
};

// Whether the copies of a part are as equal as they must be: bit by bit on one ep rank, to rounding
// over ep. `copies`: hash and place of each.
bool equal_over_ep(CloseCopies& values, const std::vector<std::pair<std::string, Values>>& copies) {
  std::map<int, const std::string*> hash_of;  // by ep coordinate
  for (const auto& [hash, v] : copies) {
    const auto [it, is_new] = hash_of.try_emplace(values.ep_of(v.rank), &hash);
    if (*it->second != hash || (is_new && !values.close(copies.front().second, v))) return false;
  }
  return true;
}

}  // namespace

Status compare_replicas(const Plan& plan, int step, const std::string& run_dir) {
  // Part of a tensor -> hash -> ranks that hold it. `order`: of first appearance.
  std::map<std::string, std::map<std::string, std::vector<int>>> held;
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::pair<std::string, Values>>> copies;  // where values count
  CloseCopies values(plan, run_dir);
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
        if (plan.replicates_data())
          copies[key].push_back({entry.at(1).get<std::string>(),
                                 {rank, entry.at(2).get<std::size_t>(),
                                  entry.at(3).get<std::size_t>(), entry.at(4).get<int>()}});
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
    if (plan.replicates_data() && equal_over_ep(values, copies.at(key))) continue;
    std::string found =
        fmt::format("after step {}, {}:", step, key.substr(0, key.find(' ', key.find(']'))));
    const char* before = " ";
    for (const auto& [hash, ranks] : by_hash) {
      found += fmt::format("{}{} {} {}", before, list_of(ranks),
                           ranks.size() == 1 ? "holds" : "hold", hash.substr(0, 8));
      before = ", ";
    }
    return make_error(Failure::execution, "E-EXEC-036", "replicas of a parameter differ",
                      std::move(found), "the same bits on all of them",
                      "a rank's memory or a reduction is wrong: run again with --check-replicas 1");
  }
  return Ok{};
}

}  // namespace tandem::exec
