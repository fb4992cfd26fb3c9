// Any bytes give a timeline or messages, for every format that is read.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/timeline/rank_file.h"
#include "common/timeline/read_timeline.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto timeline = tandem::decode_timeline(bytes, "fuzz");
  if (!timeline && timeline.error().diagnostics.empty()) std::abort();
  const auto rank = tandem::decode_rank_timeline(bytes, "fuzz");
  if (!rank && rank.error().diagnostics.empty()) std::abort();
  return 0;
}
