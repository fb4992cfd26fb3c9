// Which checkpoint a run goes on from, and whether it may save: settled before anything is written.
#pragma once

#include <optional>
#include <string>

#include "common/base/result.h"
#include "exec/checkpoint/folder.h"
#include "tools/context.h"
#include "tools/inputs.h"

namespace tandem::tools {

struct ResumeRequest {
  bool resume = false;
  // The folder of a checkpoint, or of several: then the newest. Empty: of the scenario's folder.
  std::string path;
};

struct Checkpoints {
  std::string resume_from;  // the folder of one checkpoint, from the working folder; empty: none
  int first_step = 0;       // the steps that it has done
  std::optional<exec::FolderLock> lock;  // of the folder that the run saves into
};

// Finds the checkpoint, reads all of it, and compares it with the scenario; warnings go to the
// context. Refuses what would be overwritten: E-CKPT-001 to -010. What a killed run left half
// saved in the folder is removed.
[[nodiscard]] Result<Checkpoints> open_checkpoints(Context& context, const PlanInput& in,
                                                   const ResumeRequest& request);

}  // namespace tandem::tools
