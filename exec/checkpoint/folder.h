// The folder of checkpoints. A checkpoint is a folder in it that appears when it is complete:
//
//   DIR/step-0000000010.partial/   while ranks write their shards, then the manifest
//   DIR/step-0000000010/           renamed when everything is on the disk: a checkpoint
//   The newest two are kept. What goes is renamed to .partial first and then removed, so a kill at
//   any point leaves whole checkpoints and perhaps a .partial folder, which the next run removes.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"

namespace tandem::exec {

inline constexpr int kCheckpointsKept = 2;

[[nodiscard]] std::string checkpoint_path(const std::string& dir, int step);
[[nodiscard]] std::string partial_path(const std::string& dir, int step);
[[nodiscard]] std::string manifest_path(const std::string& checkpoint);

// Steps of the checkpoints in `dir`, ascending; none where there is no such folder.
[[nodiscard]] std::vector<int> list_checkpoints(const std::string& dir);

// .partial becomes a checkpoint. Its files are synced already. E-IO-010; E-CKPT-001 where there is
// one of that step.
[[nodiscard]] Status publish_checkpoint(const std::string& dir, int step);

// Removes all but the newest `kept`. What cannot be removed stays: no failure of a run.
void remove_old_checkpoints(const std::string& dir, int kept = kCheckpointsKept);
// What killed runs left. Only while no run saves there.
void remove_partial_checkpoints(const std::string& dir);

// Held by the one run that saves into a folder; the system lets go of it whatever ends the process.
class FolderLock {
 public:
  // Makes the folder. E-CKPT-010: another run holds it. E-IO-011.
  [[nodiscard]] static Result<FolderLock> take(const std::string& dir);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  ~FolderLock();

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace tandem::exec
