// A run's folder: who may write it, its files, and manifest.json, which is written last. Reading it
// back: stored_run.h. What it holds: docs/cli.md, "The folder of a run".
//
//   Rule  a folder that is not there is made; an empty one is taken; one with a manifest of the
//   same
//         plan id is updated file by file. Anything else only with --force. A link is not followed.
//   File  complete or absent (AtomicFile). The manifest has size and SHA-256 of every file, so that
//         a folder that was half updated is noticed.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"
#include "tools/context.h"

namespace tandem::tools {

struct RunFile {
  std::int64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::string command;  // command_text()
  std::string plan_id;
  std::uint64_t seed = 1;
  std::vector<std::pair<std::string, std::string>> inputs;  // path as given, SHA-256
  std::map<std::string, RunFile> files;                     // by name inside the folder
};
inline constexpr std::string_view kManifestName = "manifest.json";

[[nodiscard]] std::string to_json(const Manifest& manifest);
// E-CLI-009: none there, so the folder is no run or one that did not end. E-CLI-010: damaged.
[[nodiscard]] Result<Manifest> read_manifest(const std::string& folder);

// Writes one run's folder. One object per folder at a time; used by one thread.
class RunDir {
 public:
  // Checks the rule above and makes the folder. E-CLI-006: something else is there. E-CLI-007: a
  // link. E-IO-011: it cannot be made.
  [[nodiscard]] static Result<RunDir> open(const std::string& folder, const std::string& plan_id,
                                           bool force);
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] std::string path_of(const std::string& name) const { return folder_ + "/" + name; }
  // A file that is there: listed by the old manifest or written since.
  [[nodiscard]] bool has(const std::string& name) const { return manifest_.files.contains(name); }

  // Takes the old manifest away: until finish() the folder is no complete run.
  [[nodiscard]] Status begin();
  [[nodiscard]] Status write(const std::string& name, std::string_view bytes);
  // A file that somebody else wrote into the folder (the ranks): into the manifest as it is now.
  [[nodiscard]] Status adopt(const std::string& name);
  // Takes a file out of the manifest; what is on the disk stays.
  void forget(const std::string& name) { manifest_.files.erase(name); }
  // manifest.json, last. Files that an earlier command wrote stay listed. `files` is not used.
  [[nodiscard]] Status finish(Manifest manifest);

 private:
  RunDir(std::string folder, Manifest manifest)
      : folder_(std::move(folder)), manifest_(std::move(manifest)) {}
  std::string folder_;
  Manifest manifest_;
};

// summary.json: {"format", "version", "plan_id", "predicted": {...}, "measured": {...},
// "comparison": {...}}. Puts `section` in place of the one that is there, keeps the others of the
// same plan. The first form leaves the manifest to the caller.
[[nodiscard]] Status write_summary(const std::string& folder, const std::string& plan_id,
                                   const std::string& section, const Json& value);
[[nodiscard]] Status write_summary(RunDir& dir, const std::string& plan_id,
                                   const std::string& section, const Json& value);

}  // namespace tandem::tools
