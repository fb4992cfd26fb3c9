#include "exec/checkpoint/load.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "common/base/bf16.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "exec/checkpoint/folder.h"

namespace tandem::exec {
namespace {

Error refuse(const char* code, const char* title, std::string found, std::string expected,
             std::string hint, const std::string& checkpoint) {
  return make_error(Failure::bad_input, code, title, std::move(found), std::move(expected),
                    std::move(hint), Location{manifest_path(checkpoint)});
}

// The parameter in the compute type, from its main values.
Status cast_parameter(const Plan& plan, const HeldPiece& h, const std::string& values,
                      const BufferMemory& memory) {
  const DType from = plan.header.types.main, to = plan.buffer(h.param).dtype;
  const std::int64_t n = h.piece.elements();
  std::byte* out = memory(h.param) + h.param_element * size_of(to);
  if (from == to) {
    std::memcpy(out, values.data(), values.size());
    return Ok{};
  }
  if (from != DType::f32 || to != DType::bf16)
    return make_error(Failure::infeasible, "E-EXEC-035", "the executor cannot run this plan",
                      fmt::format("parameters of type {} with main copies of type {}", name_of(to),
                                  name_of(from)),
                      "bf16 and f32", "use another training.precision");
  for (std::int64_t i = 0; i < n; ++i) {
    float value = 0;
    std::memcpy(&value, values.data() + 4 * i, 4);
    const std::uint16_t word = to_bf16(value);
    std::memcpy(out + 2 * i, &word, 2);
  }
  return Ok{};
}

// Main values, m and v of a piece go where the rank holds them.
Status store(const Plan& plan, const HeldPiece& h, const std::array<std::string, kNumParts>& values,
             const BufferMemory& memory) {
  const int size = size_of(plan.header.types.main);
  const auto put = [&](BufferId id, std::int64_t element, const std::string& bytes) {
    if (id.valid()) std::memcpy(memory(id) + element * size, bytes.data(), bytes.size());
  };
  put(h.main, h.main_element, values[0]);
  put(h.m, h.state_element, values[1]);
  put(h.v, h.state_element, values[2]);
  return h.param == h.main ? Status(Ok{}) : cast_parameter(plan, h, values[0], memory);
}

}  // namespace

Result<CheckpointManifest> read_manifest(const std::string& checkpoint) {
  const std::string path = manifest_path(checkpoint);
  std::error_code failed;
  if (!std::filesystem::exists(path, failed))
    return make_error(Failure::bad_input, "E-CKPT-002", "there is no checkpoint to resume from",
                      path + " is not there", "the folder of a complete checkpoint",
                      "give the folder of one: --resume DIR/step-N", Location{checkpoint});
  const Result<std::string> text = read_file(path, limits::kCheckpointManifestBytes);
  if (!text) return text.error();
  return manifest_from_json(*text, path);
}

Status check_files(const CheckpointManifest& manifest, const std::string& checkpoint) {
  for (const ShardEntry& f : manifest.files) {
    const std::string path = checkpoint + "/" + f.name;
    const Result<FileHash> hash = hash_file(path);
    if (!hash) return hash.error();
    std::string found;
    if (hash->bytes != f.bytes)
      found = fmt::format("{} bytes instead of {}", hash->bytes, f.bytes);
    else if (hash->sha256 != f.sha256)
      found = "another SHA-256: its bytes were changed";
    if (!found.empty())
      return make_error(Failure::bad_input, "E-CKPT-004",
                        "a shard of the checkpoint is missing or damaged", found,
                        "the file that the manifest lists",
                        "resume from another checkpoint: --resume PATH", Location{path});
  }
  TensorShapes shapes;
  std::vector<Piece> pieces;
  for (const SavedPiece& s : manifest.pieces) {
    shapes.emplace(s.piece.name, s.piece.shape);
    pieces.push_back(s.piece);
  }
  const std::string fault = coverage_fault(pieces, shapes);
  if (fault.empty()) return Ok{};
  return refuse("E-CKPT-003", "the manifest of a checkpoint is damaged", fault,
                "every element of the model once", "resume from another checkpoint: --resume PATH",
                checkpoint);
}

Status check_continues(const CheckpointManifest& m, const std::string& checkpoint, const Plan& plan,
                       const TrainingConfig& config, Diagnostics& warnings) {
  if (m.precision != config.precision || m.optimizer != "adamw")
    return refuse("E-CKPT-006", "the checkpoint is of another optimizer or precision",
                  m.optimizer + ", " + m.precision, "adamw, " + config.precision,
                  "use the training.precision of the checkpoint", checkpoint);
  if (m.model_digest != model_digest(plan)) {
    std::string found = "parameters with other names, shapes or types";
    std::map<std::string, std::array<std::int64_t, 2>> saved;
    for (const SavedPiece& s : m.pieces) saved.emplace(s.piece.name, s.piece.shape);
    const TensorShapes here = tensor_shapes(plan);
    for (const auto& [name, shape] : here) {
      const auto it = saved.find(name);
      if (it != saved.end() && it->second == shape) continue;
      found = it == saved.end() ? "no " + name
                                : fmt::format("{} of shape {}x{}, here {}x{}", name, it->second[0],
                                              it->second[1], shape[0], shape[1]);
      break;
    }
    for (const auto& [name, shape] : saved)
      if (!here.contains(name)) found = name + ", which the model does not have";
    return refuse("E-CKPT-005", "the checkpoint is of another model", found,
                  "the parameters of this scenario's model",
                  "use the scenario that wrote it, on any mesh", checkpoint);
  }
  const auto warn = [&](const char* code, const char* title, std::string found,
                        std::string expected, const char* hint) {
    warnings.push_back(make_diagnostic(code, title, std::move(found), std::move(expected), hint,
                                       Location{manifest_path(checkpoint)}));
  };
  if (m.seed != config.seed) {
    const std::string found = fmt::format("seed {}", m.seed);
    const std::string here = fmt::format("seed {}", config.seed);
    if (m.state.step > 0)
      return refuse("E-CKPT-007", "the checkpoint is of another seed", found, here,
                    "use --seed of the checkpoint: it also orders the data", checkpoint);
    warn("W-CKPT-001", "the checkpoint is of another seed", found, here,
         "its initial values are used, with the data of this seed");
  }
  if (m.global_batch != config.global_batch || m.sequence != config.sequence)
    warn("W-CKPT-002", "the data goes on at another place",
         fmt::format("global_batch {}, sequence {}", m.global_batch, m.sequence),
         fmt::format("global_batch {}, sequence {}", config.global_batch, config.sequence),
         "step k reads the sequences from k * global_batch on");
  return Ok{};
}

Status load_rank(const CheckpointManifest& manifest, const std::string& checkpoint,
                 const Plan& plan, Rank rank, const BufferMemory& memory) {
  std::map<std::string_view, std::vector<const SavedPiece*>> by_name;
  for (const SavedPiece& s : manifest.pieces) by_name[s.piece.name].push_back(&s);
  const int size = size_of(plan.header.types.main);
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    std::array<std::string, kNumParts> values;
    for (std::string& v : values) v.resize(static_cast<std::size_t>(h.piece.elements() * size));
    std::int64_t found = 0;
    for (const SavedPiece* s : by_name[h.piece.name]) {
      const std::vector<Run> runs = shared_runs(s->piece, h.piece);
      if (runs.empty()) continue;
      const std::string path =
          checkpoint + "/" + manifest.files[static_cast<std::size_t>(s->file)].name;
      const Result<ShardReader> file = ShardReader::open(path, manifest.state.step, size);
      if (!file) return file.error();
      for (int part = 0; part < (h.m.valid() ? kNumParts : 1); ++part) {
        const Result<std::string> bytes = file->read(*s, static_cast<StatePart>(part));
        if (!bytes) return bytes.error();
        char* out = values[static_cast<std::size_t>(part)].data();
        for (const Run& r : runs)
          std::memcpy(out + r.to * size, bytes->data() + r.from * size,
                      static_cast<std::size_t>(r.elements * size));
      }
      for (const Run& r : runs) found += r.elements;
    }
    if (found != h.piece.elements())
      return refuse("E-CKPT-003", "the manifest of a checkpoint is damaged",
                    fmt::format("{} of {} elements that rank {} needs of {}", found,
                                h.piece.elements(), rank.value, h.piece.name),
                    "every element of the model once",
                    "resume from another checkpoint: --resume PATH", checkpoint);
    if (Status s = store(plan, h, values, memory); !s) return s;
  }
  return Ok{};
}

}  // namespace tandem::exec
