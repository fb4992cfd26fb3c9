#include "exec/checkpoint/shard_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/crc32c.h"
#include "common/base/little_endian.h"

namespace tandem::exec {
namespace {

constexpr std::string_view kMagic = "TDMCKPT1";
constexpr std::uint32_t kVersion = 1;
constexpr std::int64_t kHeaderBytes = 32, kCrcBytes = 4;
constexpr std::size_t kBlockBytes = 1 << 20;

std::string header(int rank, int step, int element_bytes) {
  std::string out(kMagic);
  out += little_endian(kVersion, 4) + little_endian(static_cast<std::uint32_t>(rank), 4) +
         little_endian(static_cast<std::uint64_t>(step), 8) +
         little_endian(static_cast<std::uint32_t>(element_bytes), 4);
  return out + little_endian(crc32c(out), 4);
}

// A record up to its elements.
std::string record_head(const Piece& p) {
  std::string out =
      little_endian(p.name.size(), 4) + little_endian(static_cast<std::uint32_t>(p.dims), 4);
  for (std::size_t d = 0; d < 2; ++d)
    for (std::int64_t x : {p.shape[d], p.start[d], p.length[d]})
      out += little_endian(static_cast<std::uint64_t>(x), 8);
  out += little_endian(static_cast<std::uint64_t>(p.flat_begin), 8) +
         little_endian(static_cast<std::uint64_t>(p.flat_end), 8) + p.name;
  return out + little_endian(crc32c(out), 4);
}

Error damaged(const std::string& path, std::string found) {
  return make_error(Failure::bad_input, "E-CKPT-004",
                    "a shard of the checkpoint is missing or damaged", std::move(found),
                    "the file that the manifest lists",
                    "resume from another checkpoint: --resume PATH", Location{path});
}

}  // namespace

std::string shard_name(int rank) { return fmt::format("rank-{:04}.shard", rank); }

// --- writing -------------------------------------------------------------------------------------

Result<ShardWriter> ShardWriter::create(const std::string& folder, int rank, int step,
                                        int element_bytes) {
  Result<AtomicFile> file = AtomicFile::create(folder + "/" + shard_name(rank));
  if (!file) return file.error();
  ShardWriter out(std::move(*file), element_bytes);
  out.receipt_.rank = rank;
  out.receipt_.step = step;
  out.receipt_.name = shard_name(rank);
  out.put(header(rank, step, element_bytes));
  return out;
}

void ShardWriter::put(std::string_view bytes) {
  if (error_) return;
  hash_.update(bytes);
  if (Status s = file_.write(bytes); !s) error_ = s.error();
}

void ShardWriter::add(const Piece& piece, const std::array<const std::byte*, kNumParts>& parts) {
  receipt_.pieces.push_back({piece, 0, file_.bytes_written()});
  put(record_head(piece));
  const auto bytes = static_cast<std::size_t>(piece.elements() * element_bytes_);
  for (const std::byte* part : parts) {
    const std::string_view elements(reinterpret_cast<const char*>(part), bytes);
    put(elements);
    put(little_endian(crc32c(elements), 4));
  }
}

Result<ShardReceipt> ShardWriter::commit() {
  if (error_) return *error_;
  if (Status s = file_.commit(); !s) return s.error();
  receipt_.bytes = file_.bytes_written();
  receipt_.sha256 = to_hex(hash_.finish());
  return std::move(receipt_);
}

// --- reading -------------------------------------------------------------------------------------

ShardReader::ShardReader(ShardReader&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      element_bytes_(other.element_bytes_) {}

ShardReader::~ShardReader() {
  if (fd_ >= 0) ::close(fd_);
}

Result<ShardReader> ShardReader::open(const std::string& path, int step, int element_bytes) {
  ShardReader out(path, ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (out.fd_ < 0) return damaged(path, std::strerror(errno));
  out.element_bytes_ = element_bytes;
  const Result<std::string> head = out.bytes_at(0, kHeaderBytes);
  if (!head) return head.error();
  // The rank of the file is its name's; a file of another step or type does not belong here.
  const std::string expected =
      header(static_cast<int>(from_little_endian(std::string_view(*head).substr(12, 4))), step,
             element_bytes);
  if (*head != expected)
    return damaged(
        path, fmt::format("no shard of step {} with elements of {} bytes", step, element_bytes));
  return out;
}

Result<std::string> ShardReader::bytes_at(std::int64_t offset, std::int64_t bytes) const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode))
    return damaged(path_, "not a regular file");
  if (offset < 0 || bytes > info.st_size || offset > info.st_size - bytes)
    return damaged(path_, fmt::format("{} bytes; a record lies at {} to {}", info.st_size, offset,
                                      offset + bytes));
  std::string out(static_cast<std::size_t>(bytes), '\0');
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done,
                              static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return damaged(path_, n < 0 ? std::strerror(errno) : "it became shorter");
    done += static_cast<std::size_t>(n);
  }
  return out;
}

Result<std::string> ShardReader::read(const SavedPiece& saved, StatePart part) const {
  const std::string expected = record_head(saved.piece);
  const auto head = bytes_at(saved.offset, static_cast<std::int64_t>(expected.size()));
  if (!head) return head.error();
  if (*head != expected)
    return damaged(path_, fmt::format("at byte {} another record than that of {}", saved.offset,
                                      saved.piece.name));
  const std::int64_t bytes = saved.piece.elements() * element_bytes_;
  Result<std::string> out = bytes_at(saved.offset + static_cast<std::int64_t>(expected.size()) +
                                         static_cast<std::int64_t>(part) * (bytes + kCrcBytes),
                                     bytes + kCrcBytes);
  if (!out) return out.error();
  const std::string_view all = *out;
  if (crc32c(all.substr(0, static_cast<std::size_t>(bytes))) !=
      from_little_endian(all.substr(static_cast<std::size_t>(bytes))))
    return damaged(path_, "a wrong check sum in the record of " + saved.piece.name);
  out->resize(static_cast<std::size_t>(bytes));
  return out;
}

Result<FileHash> hash_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return damaged(path, std::strerror(errno));
  struct stat info {};
  FileHash out;
  Sha256 hash;
  std::string block(kBlockBytes, '\0');
  int error = ::fstat(fd, &info) != 0 ? errno : 0;
  if (error == 0 && !S_ISREG(info.st_mode)) error = EISDIR;
  while (error == 0) {
    const ssize_t n = ::read(fd, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) error = errno;
    if (n <= 0) break;
    hash.update(std::string_view(block).substr(0, static_cast<std::size_t>(n)));
    out.bytes += n;
  }
  ::close(fd);
  if (error != 0) return damaged(path, std::strerror(error));
  out.sha256 = to_hex(hash.finish());
  return out;
}

}  // namespace tandem::exec
