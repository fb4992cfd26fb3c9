// The pre-scan of a YAML text: one pass over the bytes before any parser runs. So simple that it is
// obviously right; it knows nothing about quotes. Gives the line index for later messages.
#pragma once

#include <optional>

#include "common/scenario/yaml_reader.h"

namespace tandem {

// Drops a byte order mark, fills line_starts, and returns the first thing that is refused:
// UTF-16, invalid UTF-8, control characters, lone CR, bidirectional and zero-width marks, lines
// and bracket counts over the limit, lines that start with '%'.
[[nodiscard]] std::optional<Diagnostic> scan_yaml(YamlSource& source);

}  // namespace tandem
