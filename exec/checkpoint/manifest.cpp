#include "exec/checkpoint/manifest.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace tandem::exec {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kShardRule = "coordinate 0 on every axis that does not cut the tensor";

Error damaged(const std::string& file, std::string found) {
  return make_error(Failure::bad_input, "E-CKPT-003", "the manifest of a checkpoint is damaged",
                    std::move(found), "the manifest.json that a run of this version wrote",
                    "resume from another checkpoint: --resume PATH", Location{file});
}

// Dimensions of a tensor: a vector has one.
Json extent(const std::array<std::int64_t, 2>& x, int dims) {
  Json out = {x[0]};
  if (dims == 2) out.push_back(x[1]);
  return out;
}
std::array<std::int64_t, 2> extent_from(const Json& json, int dims, std::int64_t other) {
  const auto x = json.get<std::vector<std::int64_t>>();
  if (static_cast<int>(x.size()) != dims) throw std::runtime_error("another number of dimensions");
  return {x[0], dims == 2 ? x[1] : other};
}

Json to_object(const SavedPiece& s) {
  const Piece& p = s.piece;
  return {{"file", s.file},
          {"offset", s.offset},
          {"start", extent(p.start, p.dims)},
          {"length", extent(p.length, p.dims)},
          {"flat", {p.flat_begin, p.flat_end}}};
}
SavedPiece saved_from(const Json& json, Piece p) {
  SavedPiece out;
  p.start = extent_from(json.at("start"), p.dims, 0);
  p.length = extent_from(json.at("length"), p.dims, 1);
  const auto flat = json.at("flat").get<std::array<std::int64_t, 2>>();
  p.flat_begin = flat[0], p.flat_end = flat[1];
  if (!is_sound(p)) throw std::runtime_error("an impossible piece of " + p.name);
  out.piece = std::move(p);
  out.file = json.at("file").get<int>();
  out.offset = json.at("offset").get<std::int64_t>();
  if (out.offset < 0) throw std::runtime_error("a negative offset");
  return out;
}

// {"layers.0.attn.q.weight": {"shape": [64, 64], "pieces": [...]}}; pieces of a name are
// neighbours.
Json to_object(const std::vector<SavedPiece>& pieces) {
  Json out = Json::object();
  for (const SavedPiece& s : pieces) {
    Json& tensor = out[s.piece.name];
    if (tensor.is_null())
      tensor = {{"shape", extent(s.piece.shape, s.piece.dims)}, {"pieces", Json::array()}};
    tensor["pieces"].push_back(to_object(s));
  }
  return out;
}
std::vector<SavedPiece> pieces_from(const Json& json) {
  std::vector<SavedPiece> out;
  for (const auto& [name, tensor] : json.items()) {
    Piece p;
    p.name = name;
    p.dims = static_cast<int>(tensor.at("shape").size());
    if (p.dims != 1 && p.dims != 2) throw std::runtime_error("a tensor of other dimensions");
    p.shape = extent_from(tensor.at("shape"), p.dims, 1);
    for (const Json& piece : tensor.at("pieces")) out.push_back(saved_from(piece, p));
  }
  return out;
}

Json to_object(const TrainingState& s) {
  return {{"step", s.step},
          {"tokens", s.tokens},
          {"best_loss", s.best_loss ? Json(*s.best_loss) : Json()},
          {"best_step", s.best_step},
          {"recent_losses", s.recent_losses}};
}
TrainingState state_from(const Json& json) {
  TrainingState s;
  s.step = json.at("step").get<int>();
  if (s.step < 0) throw std::runtime_error("a negative step");
  s.tokens = json.at("tokens").get<double>();
  if (!json.at("best_loss").is_null()) s.best_loss = json.at("best_loss").get<double>();
  s.best_step = json.at("best_step").get<int>();
  s.recent_losses = json.at("recent_losses").get<std::vector<double>>();
  return s;
}

Json to_object(const Mesh& mesh, const std::vector<Axis>& order) {
  Json out = Json::object();
  for (Axis a : order) out[std::string(name_of(a))] = mesh.of(a);
  return out;
}
void take_axes(const Json& json, Mesh& mesh, std::vector<Axis>& order) {
  order.clear();
  for (const auto& [name, size] : json.items()) {
    const auto axis = axis_from(name);
    if (!axis || size.get<int>() < 1) throw std::runtime_error("no mesh");
    order.push_back(*axis);
    mesh.size[static_cast<std::size_t>(*axis)] = size.get<int>();
  }
}
Mesh mesh_from(const Json& json) {
  Mesh mesh;
  take_axes(json.at("dense"), mesh, mesh.order);
  take_axes(json.at("experts"), mesh, mesh.expert_order);
  return mesh;
}

Json content_of(const CheckpointManifest& m) {
  Json files = Json::array();
  for (const ShardEntry& f : m.files)
    files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"sha256", f.sha256}});
  return {{"state", to_object(m.state)},
          {"seed", m.seed},
          {"scenario_digest", m.scenario_digest},
          {"plan_id", m.plan_id},
          {"model_digest", m.model_digest},
          {"optimizer", m.optimizer},
          {"precision", m.precision},
          {"global_batch", m.global_batch},
          {"sequence", m.sequence},
          {"mesh",
           {{"dense", to_object(m.mesh, m.mesh.order)},
            {"experts", to_object(m.mesh, m.mesh.expert_order)}}},
          {"zero", m.zero},
          {"shard_rule", kShardRule},
          {"files", std::move(files)},
          {"tensors", to_object(m.pieces)}};
}

// A name that stays inside the folder.
bool is_file_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name.front() != '.' &&
         name.find('\0') == std::string::npos;
}

CheckpointManifest manifest_from(const Json& c) {
  CheckpointManifest m;
  m.state = state_from(c.at("state"));
  m.seed = c.at("seed").get<std::uint64_t>();
  m.scenario_digest = c.at("scenario_digest").get<std::string>();
  m.plan_id = c.at("plan_id").get<std::string>();
  m.model_digest = c.at("model_digest").get<std::string>();
  m.optimizer = c.at("optimizer").get<std::string>();
  m.precision = c.at("precision").get<std::string>();
  m.global_batch = c.at("global_batch").get<int>();
  m.sequence = c.at("sequence").get<int>();
  m.mesh = mesh_from(c.at("mesh"));
  m.zero = c.at("zero").get<int>();
  for (const Json& f : c.at("files")) {
    m.files.push_back({f.at("name").get<std::string>(), f.at("bytes").get<std::int64_t>(),
                       f.at("sha256").get<std::string>()});
    if (!is_file_name(m.files.back().name)) throw std::runtime_error("no name of a file");
  }
  m.pieces = pieces_from(c.at("tensors"));
  for (const SavedPiece& p : m.pieces)
    if (p.file < 0 || p.file >= std::ssize(m.files))
      throw std::runtime_error("a piece in a file that is not listed");
  return m;
}

}  // namespace

std::string to_json(const CheckpointManifest& manifest) {
  Json content = content_of(manifest);
  const std::string digest = sha256_hex(content.dump());
  const Json root = {{"format", "tandem-checkpoint"},
                     {"version", kVersion},
                     {"sha256", digest},
                     {"content", std::move(content)}};
  return root.dump(1) + "\n";
}

Result<CheckpointManifest> manifest_from_json(const std::string& text, const std::string& file) {
  try {
    const Json root = Json::parse(text);
    if (root.at("format") != "tandem-checkpoint") return damaged(file, "another kind of file");
    if (root.at("version") != kVersion)
      return damaged(file, "version " + root.at("version").dump());
    const Json& content = root.at("content");
    if (sha256_hex(content.dump()) != root.at("sha256")) return damaged(file, "a wrong check sum");
    return manifest_from(content);
  } catch (const std::exception& e) {  // of nlohmann::json, and ours above
    const std::string_view what = e.what();
    return damaged(file, std::string(what.substr(0, 200)));
  }
}

std::string to_json(const ShardReceipt& r) {
  Json pieces = Json::array();
  for (const SavedPiece& s : r.pieces) {
    Json piece = to_object(s);
    piece["name"] = s.piece.name;
    piece["shape"] = extent(s.piece.shape, s.piece.dims);
    pieces.push_back(std::move(piece));
  }
  const Json root = {{"format", "tandem-shard"}, {"version", kVersion}, {"rank", r.rank},
                     {"step", r.step},           {"name", r.name},      {"bytes", r.bytes},
                     {"sha256", r.sha256},       {"pieces", pieces}};
  return root.dump() + "\n";
}

Result<ShardReceipt> receipt_from_json(const std::string& text, const std::string& file) {
  std::string found;
  try {
    const Json root = Json::parse(text);
    ShardReceipt r;
    r.rank = root.at("rank").get<int>();
    r.step = root.at("step").get<int>();
    r.name = root.at("name").get<std::string>();
    r.bytes = root.at("bytes").get<std::int64_t>();
    r.sha256 = root.at("sha256").get<std::string>();
    for (const Json& piece : root.at("pieces")) {
      Piece p;
      p.name = piece.at("name").get<std::string>();
      p.dims = static_cast<int>(piece.at("shape").size());
      if (p.dims != 1 && p.dims != 2) throw std::runtime_error("a tensor of other dimensions");
      p.shape = extent_from(piece.at("shape"), p.dims, 1);
      r.pieces.push_back(saved_from(piece, std::move(p)));
    }
    return r;
  } catch (const std::exception& e) {
    found = std::string_view(e.what()).substr(0, 200);
  }
  return make_error(Failure::internal, "E-CKPT-011", "a checkpoint could not be completed", found,
                    "what a rank says about its shard", "run again; the checkpoints before stay",
                    Location{file});
}

}  // namespace tandem::exec
