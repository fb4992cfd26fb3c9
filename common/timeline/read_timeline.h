// Any timeline file of ours, recognised by its first bytes: Perfetto (0a) or CSV ("record,").
// The Chrome JSON export is for viewers and is not read back.
#pragma once

#include <string>

#include "common/base/result.h"
#include "common/timeline/timeline.h"

namespace tandem {

[[nodiscard]] Result<Timeline> read_timeline(const std::string& path);

// `file` names the bytes in messages.
[[nodiscard]] Result<Timeline> decode_timeline(std::string_view bytes, const std::string& file);

}  // namespace tandem
