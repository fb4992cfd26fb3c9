#include "exec/checkpoint/save.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/timeline/rank_file.h"
#include "exec/checkpoint/folder.h"

namespace tandem::exec {
namespace {

constexpr std::string_view kReceipt = "shard.json";

Error incomplete(std::string found, const std::string& where) {
  return make_error(Failure::internal, "E-CKPT-011", "a checkpoint could not be completed",
                    std::move(found), "every element of the model once",
                    "please report it; the checkpoints before stay", Location{where});
}

Result<ShardReceipt> read_receipt(const std::string& run_dir, int rank, int step) {
  const std::string path = rank_path(run_dir, rank, kReceipt);
  const Result<std::string> text = read_file(path, limits::kCheckpointManifestBytes);
  if (!text) return text.error();
  Result<ShardReceipt> receipt = receipt_from_json(*text, path);
  if (receipt && (receipt->rank != rank || receipt->step != step))
    return incomplete(fmt::format("a shard of rank {}, step {} instead of rank {}, step {}",
                                  receipt->rank, receipt->step, rank, step),
                      path);
  return receipt;
}

// What the ranks of a group share, by the classes of its shards (models.md 4.6).
int zero_level(const Plan& plan) {
  int level = 0;
  for (const Buffer& b : plan.buffers)
    if (b.shard_of.valid())
      level = std::max(level, b.cls == BufferClass::param ? 3 : b.cls == BufferClass::grad ? 2 : 1);
  return level;
}

}  // namespace

Status save_shard(const Plan& plan, Rank rank, const BufferMemory& memory, const std::string& dir,
                  int step, const std::string& run_dir) {
  const std::string folder = partial_path(dir, step);
  if (Status s = make_directories(folder); !s) return s;
  const int size = size_of(plan.header.types.main);
  Result<ShardWriter> writer = ShardWriter::create(folder, rank.value, step, size);
  if (!writer) return writer.error();
  for (const HeldPiece& h : held_pieces(plan, rank)) {
    if (!h.is_owner) continue;
    const std::int64_t at = h.state_element * size;
    writer->add(h.piece,
                {memory(h.main) + h.main_element * size, memory(h.m) + at, memory(h.v) + at});
  }
  const Result<ShardReceipt> receipt = writer->commit();
  if (!receipt) return receipt.error();
  return write_file_atomic(rank_path(run_dir, rank.value, kReceipt), to_json(*receipt));
}

Status commit_checkpoint(const Plan& plan, const std::string& plan_id, const TrainingConfig& config,
                         const TrainingState& state, const std::string& run_dir) {
  const std::string& dir = config.checkpoint_directory;
  const std::string folder = partial_path(dir, state.step);
  CheckpointManifest m;
  m.state = state;
  m.seed = config.seed;
  m.scenario_digest = plan.header.digest;
  m.plan_id = plan_id;
  m.model_digest = model_digest(plan);
  m.precision = config.precision;
  m.global_batch = config.global_batch;
  m.sequence = config.sequence;
  m.mesh = plan.header.mesh;
  m.zero = zero_level(plan);
  std::vector<Piece> pieces;
  for (int rank = 0; rank < plan.header.mesh.world(); ++rank) {
    Result<ShardReceipt> receipt = read_receipt(run_dir, rank, state.step);
    if (!receipt) return receipt.error();
    for (SavedPiece& s : receipt->pieces) {
      s.file = rank;
      pieces.push_back(s.piece);
      m.pieces.push_back(std::move(s));
    }
    m.files.push_back({receipt->name, receipt->bytes, receipt->sha256});
  }
  if (std::string fault = coverage_fault(pieces, tensor_shapes(plan)); !fault.empty())
    return incomplete(std::move(fault), folder);
  std::sort(m.pieces.begin(), m.pieces.end(), [](const SavedPiece& a, const SavedPiece& b) {
    return std::tie(a.piece.name, a.piece.start, a.piece.flat_begin) <
           std::tie(b.piece.name, b.piece.start, b.piece.flat_begin);
  });
  if (Status s = write_file_atomic(manifest_path(folder), to_json(m)); !s) return s;
  if (Status s = publish_checkpoint(dir, state.step); !s) return s;
  remove_old_checkpoints(dir);
  return Ok{};
}

}  // namespace tandem::exec
