#include "exec/train/rank_tensors.h"

#include <cstring>

#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/little_endian.h"

namespace tandem::exec {
namespace {

constexpr std::string_view kMagic = "TDMGRAD1";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kRecordBytes = 24;

Error damaged(const std::string& path, std::string found) {
  return make_error(Failure::bad_input, "E-EXEC-034", "a file of a rank is missing or damaged",
                    std::move(found), "gradients of a complete run",
                    "run `tandem execute --verify` again", Location{path});
}

}  // namespace

Result<RankTensorWriter> RankTensorWriter::create(const std::string& path, Rank rank) {
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file) return file.error();
  RankTensorWriter out(std::move(*file));
  out.put(kMagic);
  out.put(little_endian(kVersion, 4) + little_endian(static_cast<std::uint32_t>(rank.value), 4));
  return out;
}

void RankTensorWriter::put(std::string_view bytes) {
  if (error_) return;
  sum_ = crc32c(bytes, sum_);
  if (Status s = file_.write(bytes); !s) error_ = s.error();
}

void RankTensorWriter::add(TensorKind kind, int step, BufferId buffer, const View& view) {
  const auto bytes = static_cast<std::size_t>(view.shape.elements() * size_of(view.dtype));
  put(little_endian(static_cast<std::uint32_t>(kind), 4) +
      little_endian(static_cast<std::uint32_t>(step), 4) +
      little_endian(static_cast<std::uint32_t>(buffer.value), 4) +
      little_endian(static_cast<std::uint32_t>(size_of(view.dtype)), 4) + little_endian(bytes, 8));
  put({reinterpret_cast<const char*>(view.data), bytes});
}

Status RankTensorWriter::commit() {
  put(little_endian(sum_, 4));
  if (error_) return *error_;
  return file_.commit();
}

Result<RankTensors> read_rank_tensors(const std::string& path) {
  Result<std::string> bytes = read_file(path, limits::kTimelineBytes);
  if (!bytes) return damaged(path, "the file cannot be read");
  RankTensors out;
  out.bytes = std::move(*bytes);
  const std::string_view all = out.bytes;
  if (all.size() < kMagic.size() + 12 || all.substr(0, kMagic.size()) != kMagic ||
      from_little_endian(all.substr(8, 4)) != kVersion)
    return damaged(path, "no gradients of version 1");
  std::string_view left = all.substr(16, all.size() - 20);
  if (crc32c(all.substr(0, all.size() - 4)) != from_little_endian(all.substr(all.size() - 4)))
    return damaged(path, "a wrong check sum");
  out.rank = Rank{static_cast<std::int64_t>(from_little_endian(all.substr(12, 4)))};
  while (!left.empty()) {
    if (left.size() < kRecordBytes) return damaged(path, "a record that is cut");
    RankTensor t;
    const std::uint64_t kind = from_little_endian(left.substr(0, 4)),
                        size = from_little_endian(left.substr(16, 8));
    t.kind = static_cast<TensorKind>(kind);
    t.step = static_cast<int>(from_little_endian(left.substr(4, 4)));
    t.buffer = BufferId{static_cast<std::int64_t>(from_little_endian(left.substr(8, 4)))};
    t.element_bytes = static_cast<int>(from_little_endian(left.substr(12, 4)));
    left.remove_prefix(kRecordBytes);
    const int e = t.element_bytes;
    const bool fits =
        (kind == 1 || kind == 2) && (e == 2 || e == 4 || e == 8) && size <= left.size();
    if (!fits) return damaged(path, "a record that does not fit");
    t.data = left.substr(0, size);
    left.remove_prefix(size);
    out.tensors.push_back(t);
  }
  return out;
}

}  // namespace tandem::exec
