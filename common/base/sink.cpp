#include "common/base/sink.h"

#include "common/base/file.h"

namespace tandem {

Status write_to_file(const std::string& path, const SinkWriter& write) {
  Result<AtomicFile> file = AtomicFile::create(path);
  if (!file) return file.error();
  const Status written = write([&](std::string_view bytes) { return file->write(bytes); });
  if (!written) return written;
  return file->commit();
}

std::string write_to_string(const SinkWriter& write) {
  std::string out;
  (void)write([&](std::string_view bytes) -> Status {
    out += bytes;
    return Ok{};
  });
  return out;
}

}  // namespace tandem
