// A shard file: what one rank saves of a checkpoint. docs/formats/checkpoint.md has worked bytes.
// Binary, little-endian:
//   32  header     8 magic "TDMCKPT1"  4 version (1)  4 rank  8 step  4 bytes of an element
//                  4 CRC-32C of the 28 bytes before
//   records        4 bytes of the name  4 dimensions (1, 2)
//                  8 full shape, 8 start, 8 length, for each of two dimensions (a vector: 1, 0, 1)
//                  8, 8 flat range  name  4 CRC-32C of the record so far
//                  main parameter, m, v: their elements, each followed by its CRC-32C
// The manifest says where records begin; a reader takes only those that it needs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/base/sha256.h"
#include "exec/checkpoint/piece.h"

namespace tandem::exec {

// The three values that are kept of every element, in the order of a record.
enum class StatePart { main, m, v };
inline constexpr int kNumParts = 3;

struct SavedPiece {
  Piece piece;
  int file = 0;             // index into the manifest's files
  std::int64_t offset = 0;  // of its record
  bool operator==(const SavedPiece&) const = default;
};

// What a rank says about the file that it has written.
struct ShardReceipt {
  int rank = 0, step = 0;
  std::string name;  // of the file, inside the checkpoint's folder
  std::int64_t bytes = 0;
  std::string sha256;
  std::vector<SavedPiece> pieces;  // `file` is not used
};

[[nodiscard]] std::string shard_name(int rank);  // rank-0003.shard

// Streams to a file that appears when it is complete. Errors are kept and returned by commit().
class ShardWriter {
 public:
  [[nodiscard]] static Result<ShardWriter> create(const std::string& folder, int rank, int step,
                                                  int element_bytes);
  // `parts`: elements of the piece in the order of StatePart.
  void add(const Piece& piece, const std::array<const std::byte*, kNumParts>& parts);
  [[nodiscard]] Result<ShardReceipt> commit();

 private:
  ShardWriter(AtomicFile file, int element_bytes)
      : file_(std::move(file)), element_bytes_(element_bytes) {}
  void put(std::string_view bytes);
  AtomicFile file_;
  int element_bytes_;
  Sha256 hash_;
  ShardReceipt receipt_;
  std::optional<Error> error_;
};

// Reads records where the manifest says they are. Any bytes may be found there: E-CKPT-004 names
// the file and what is wrong with it.
class ShardReader {
 public:
  [[nodiscard]] static Result<ShardReader> open(const std::string& path, int step,
                                                int element_bytes);
  ShardReader(ShardReader&& other) noexcept;
  ShardReader& operator=(ShardReader&&) = delete;
  ~ShardReader();
  // All elements of one part of a piece.
  [[nodiscard]] Result<std::string> read(const SavedPiece& saved, StatePart part) const;

 private:
  ShardReader(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  [[nodiscard]] Result<std::string> bytes_at(std::int64_t offset, std::int64_t bytes) const;
  std::string path_;
  int fd_ = -1;
  int element_bytes_ = 4;
};

// Size and SHA-256 of a regular file, read in blocks. E-CKPT-004.
struct FileHash {
  std::int64_t bytes = 0;
  std::string sha256;
};
[[nodiscard]] Result<FileHash> hash_file(const std::string& path);

}  // namespace tandem::exec
