// The files of `tandem plan --format chakra -o PREFIX`: PREFIX.<rank>.et for every rank, then
// PREFIX.groups.json. docs/formats/chakra.md; what stands in them: common/plan/export_chakra.h.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "tools/inputs.h"

namespace tandem::tools {

// -o of this format, before anything is built. E-CLI-003: not given. E-CLI-004: a folder, or a
// word in it that readers take for "no groups".
[[nodiscard]] Status check_chakra_prefix(const std::string& prefix);

struct ChakraFiles {
  std::string groups_path;
  int ranks = 0;
  std::int64_t bytes = 0;  // of the traces
  bool has_durations = false, has_launch_order = false;
};

// Each file is complete or absent; the group file comes last. E-CLI-006: one is there already and
// --force is not. Durations come from the cluster of a scenario; a plan file has none.
[[nodiscard]] Result<ChakraFiles> write_chakra_files(Context& context, PlanInput& input);

}  // namespace tandem::tools
