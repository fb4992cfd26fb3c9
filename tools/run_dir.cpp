// See run_dir.h.
#include "tools/run_dir.h"

#include <fmt/format.h>

#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/plan/print.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "tandem-run", kSummaryFormat = "tandem-summary";

Error damaged(const std::string& path, std::string found, std::string expected) {
  return make_error(Failure::bad_input, "E-CLI-010", "a file of the run is damaged",
                    std::move(found), std::move(expected), "write the run again", Location{path});
}

Error refused(std::string code, std::string title, const std::string& folder, std::string found) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    "a folder that is not there, an empty one, or a run of the same plan",
                    "give another folder with -o, or --force to write into this one",
                    Location{folder});
}

// The plan of a run that did not end: it has no manifest yet. Empty: no run of ours.
std::string plan_of_broken_run(const std::string& folder) {
  const std::string path = folder + "/plan.txt";
  if (fs::exists(fs::symlink_status(folder + "/" + std::string(kManifestName)))) return "";
  if (!fs::is_regular_file(fs::symlink_status(path))) return "";
  const auto text = read_file(path, limits::kPlanTextBytes);
  return text.ok() && text->starts_with("plan ") ? plan_id_of_text(*text) : "";
}

}  // namespace

std::string to_json(const Manifest& m) {
  Json inputs = Json::object(), files = Json::object();
  for (const auto& [path, hash] : m.inputs) inputs[path] = hash;
  for (const auto& [name, file] : m.files)
    files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  const Json root = {
      {"format", kFormat},
      {"version", kRunFormat},
      {"command", m.command},
      {"plan_id", m.plan_id},
      {"seed", m.seed},
      {"versions", {{"tandem", kVersion}, {"scenario", kScenarioFormat}, {"plan", kPlanFormat}}},
      {"inputs", inputs},
      {"files", files}};
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Manifest> read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + std::string(kManifestName);
  if (!fs::exists(fs::symlink_status(path)))
    return make_error(Failure::bad_input, "E-CLI-009", "this is no complete run",
                      fmt::format("no {} in it", kManifestName),
                      "the folder of a run, which ends with writing that file",
                      "give the folder that `tandem simulate` or `tandem run` wrote; if it is, "
                      "that command did not end: run it again",
                      Location{folder});
  const auto text = read_file(path, limits::kTableBytes);
  if (!text) return text.error();
  const Json root = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object() || root.value("format", Json()) != kFormat)
    return damaged(path, "other text", "the manifest of a run");
  if (root.value("version", Json()) != kRunFormat)
    return damaged(path, "version " + root.value("version", Json()).dump(),
                   fmt::format("version {}", kRunFormat));
  Manifest m;
  try {
    m.command = root.at("command").get<std::string>();
    m.plan_id = root.at("plan_id").get<std::string>();
    m.seed = root.at("seed").get<std::uint64_t>();
    for (const auto& [input, hash] : root.at("inputs").items())
      m.inputs.emplace_back(input, hash.get<std::string>());
    for (const auto& [name, file] : root.at("files").items())
      m.files[name] = {file.at("bytes").get<std::int64_t>(), file.at("sha256").get<std::string>()};
  } catch (const Json::exception& e) {
    return damaged(path, e.what(), "every key of a manifest, with its type");
  }
  return m;
}

Result<RunDir> RunDir::open(const std::string& folder, const std::string& plan_id, bool force) {
  std::string name = folder;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  std::error_code error;
  const auto status = fs::symlink_status(name, error);
  if (fs::is_symlink(status))
    return refused("E-CLI-007", "the output folder is a link", name, "a symbolic link");
  Manifest manifest;
  if (fs::exists(status)) {
    if (!fs::is_directory(status))
      return refused("E-CLI-006", "the output folder holds something else", name, "a file");
    const bool empty = fs::is_empty(name, error);
    auto old = read_manifest(name);
    const std::string other = old.ok() ? old->plan_id : plan_of_broken_run(name);
    if (!empty && other != plan_id && !force)
      return refused("E-CLI-006", "the output folder holds something else", name,
                     other.empty() ? "files that are no run"
                                   : fmt::format("a run of plan {}, not of {}", other, plan_id));
    if (old.ok() && other == plan_id) manifest = std::move(*old);
  }
  if (Status made = make_directories(name); !made) return made.error();
  return RunDir(name, std::move(manifest));
}

Status RunDir::begin() {
  std::error_code error;
  fs::remove(path_of(std::string(kManifestName)), error);
  if (!error) return Ok{};
  return make_error(Failure::output, "E-IO-010", "cannot write the file", error.message(),
                    "a folder that may be written to", "give another folder with -o",
                    Location{path_of(std::string(kManifestName))});
}

Status RunDir::write(const std::string& name, std::string_view bytes) {
  if (Status written = write_file_atomic(path_of(name), bytes); !written) return written;
  manifest_.files[name] = {static_cast<std::int64_t>(bytes.size()), sha256_hex(bytes)};
  return Ok{};
}

Status RunDir::adopt(const std::string& name) {
  const auto bytes = read_file(path_of(name), limits::kTimelineBytes);
  if (!bytes) return bytes.error();
  manifest_.files[name] = {static_cast<std::int64_t>(bytes->size()), sha256_hex(*bytes)};
  return Ok{};
}

Status RunDir::finish(Manifest manifest) {
  manifest.files = manifest_.files;
  return write_file_atomic(path_of(std::string(kManifestName)), to_json(manifest));
}

Status write_summary(const std::string& folder, const std::string& plan_id,
                     const std::string& section, const Json& value) {
  const std::string path = folder + "/summary.json";
  Json old;
  if (const auto text = read_file(path, limits::kTableBytes); text.ok())
    old = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const bool same = old.is_object() && old.value("plan_id", Json()) == plan_id;
  Json root = {{"format", kSummaryFormat}, {"version", kRunFormat}, {"plan_id", plan_id}};
  for (const char* key : {"predicted", "measured", "comparison"}) {
    if (key == section)
      root[key] = value;
    else if (same && old.contains(key))
      root[key] = old[key];
  }
  return write_file_atomic(path, root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Status write_summary(RunDir& dir, const std::string& plan_id, const std::string& section,
                     const Json& value) {
  if (Status s = write_summary(dir.folder(), plan_id, section, value); !s) return s;
  return dir.adopt("summary.json");
}

}  // namespace tandem::tools
