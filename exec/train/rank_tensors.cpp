#include "exec/train/rank_tensors.h"

#include <cstring>

#include "common/base/crc32c.h"
#include "common/base/limits.h"
#include "common/base/little_endian.h"

namespace tandem::exec {
namespace {

constexpr std::string_view kMagic = "TDMGRAD1";
constexpr std::uint32_t kVersion = 2;
constexpr std::size_t kRecordBytes = 24;
constexpr std::uint32_t kChoices = 3, kEvaluationChoices = 4;

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

void RankTensorWriter::put_record(std::uint32_t kind, int step, std::int64_t id, int element_bytes,
                                  std::string_view data) {
  put(little_endian(kind, 4) + little_endian(static_cast<std::uint32_t>(step), 4) +
      little_endian(static_cast<std::uint32_t>(id), 4) +
      little_endian(static_cast<std::uint32_t>(element_bytes), 4) + little_endian(data.size(), 8));
  put(data);
}

void RankTensorWriter::add(TensorKind kind, int step, BufferId buffer, const View& view) {
  const auto bytes = static_cast<std::size_t>(view.shape.elements() * size_of(view.dtype));
  put_record(static_cast<std::uint32_t>(kind), step, buffer.value, size_of(view.dtype),
             {reinterpret_cast<const char*>(view.data), bytes});
}

void RankTensorWriter::add(int step, bool evaluation, const RoutedTokens& routed) {
  put_record(evaluation ? kEvaluationChoices : kChoices, step, routed.op.value, 4,
             {reinterpret_cast<const char*>(routed.choice.data()), 4 * routed.choice.size()});
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
    return damaged(path, "no gradients of version 2");
  std::string_view left = all.substr(16, all.size() - 20);
  if (crc32c(all.substr(0, all.size() - 4)) != from_little_endian(all.substr(all.size() - 4)))
    return damaged(path, "a wrong check sum");
  out.rank = Rank{static_cast<std::int64_t>(from_little_endian(all.substr(12, 4)))};
  while (!left.empty()) {
    if (left.size() < kRecordBytes) return damaged(path, "a record that is cut");
    const std::uint64_t kind = from_little_endian(left.substr(0, 4)),
                        size = from_little_endian(left.substr(16, 8));
    const int step = static_cast<int>(from_little_endian(left.substr(4, 4)));
    const auto id = static_cast<std::int64_t>(from_little_endian(left.substr(8, 4)));
    const int e = static_cast<int>(from_little_endian(left.substr(12, 4)));
    left.remove_prefix(kRecordBytes);
    const bool is_tensor = kind == 1 || kind == 2,
               is_choice = kind == kChoices || kind == kEvaluationChoices;
    const bool fits =
        (is_tensor && (e == 2 || e == 4 || e == 8)) || (is_choice && e == 4 && size % 4 == 0);
    if (!fits || size > left.size()) return damaged(path, "a record that does not fit");
    const std::string_view data = left.substr(0, size);
    left.remove_prefix(size);
    if (is_tensor) {
      out.tensors.push_back({static_cast<TensorKind>(kind), step, BufferId{id}, e, data});
    } else {
      RankChoices c{step, kind == kEvaluationChoices, {OpId{id}, {}}};
      c.routed.choice.resize(size / 4);
      std::memcpy(c.routed.choice.data(), data.data(), size);
      out.choices.push_back(std::move(c));
    }
  }
  return out;
}

}  // namespace tandem::exec
