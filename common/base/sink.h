// Where the writers of timelines put their bytes: into a file that is complete or absent, or into
// a string. Not here: the formats.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace tandem {

// Takes the next bytes; after a failure the writer may stop.
using Sink = std::function<Status(std::string_view)>;

// Writes everything to the sink and returns the sink's first failure.
using SinkWriter = std::function<Status(const Sink&)>;

[[nodiscard]] Status write_to_file(const std::string& path, const SinkWriter& write);
[[nodiscard]] std::string write_to_string(const SinkWriter& write);

}  // namespace tandem
