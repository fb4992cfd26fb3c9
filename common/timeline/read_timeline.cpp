#include "common/timeline/read_timeline.h"

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/timeline/csv.h"
#include "common/timeline/perfetto.h"

namespace tandem {

Result<Timeline> decode_timeline(std::string_view bytes, const std::string& file) {
  if (bytes.starts_with('\x0a')) return decode_perfetto(bytes, file);
  if (bytes.starts_with("record,")) return decode_csv_timeline(bytes, file);
  std::string found = "bytes of another format", hint = "give a .pftrace or .csv that tandem wrote";
  if (bytes.empty()) {
    found = "an empty file";
  } else if (bytes.starts_with("\x1f\x8b") || bytes.starts_with("\x28\xb5\x2f\xfd")) {
    found = "a compressed file";
    hint = "unpack it first (gunzip, zstd -d)";
  } else if (bytes.starts_with('{') || bytes.starts_with('[')) {
    found = "JSON: the Chrome export, which is for viewers only";
  }
  return make_error(Failure::bad_input, "E-TIME-001", "this is no timeline that can be read",
                    std::move(found), "a Perfetto trace or CSV written by tandem", std::move(hint),
                    Location{file});
}

Result<Timeline> read_timeline(const std::string& path) {
  Result<std::string> bytes = read_file(path, limits::kTimelineBytes);
  if (!bytes) return bytes.error();
  return decode_timeline(*bytes, path);
}

}  // namespace tandem
