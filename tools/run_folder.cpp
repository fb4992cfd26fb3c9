// See run_folder.h.
#include "tools/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/plan/print.h"
#include "common/scenario/explain.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

namespace fs = std::filesystem;

// A JSON object of ours, or an empty one.
Json read_object(const std::string& path) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) return Json::object();
  const Result<std::string> text = read_file(path, limits::kTableBytes);
  if (!text) return Json::object();
  Json root = Json::parse(*text, nullptr, false);
  return root.is_object() ? root : Json::object();
}

std::string string_of(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

// The id of the plan that the folder belongs to; empty: no folder of ours.
std::string plan_of_folder(const std::string& folder) {
  std::error_code failed;
  const std::string manifest = string_of(read_object(folder + "/manifest.json"), "plan_id");
  if (!manifest.empty() || !fs::is_regular_file(folder + "/plan.txt", failed)) return manifest;
  const Result<std::string> text = read_file(folder + "/plan.txt", limits::kPlanTextBytes);
  return text ? plan_id_of_text(*text) : std::string();
}

}  // namespace

Status open_run_folder(const std::string& folder, const Scenario& scenario, const Plan& plan,
                       bool force) {
  std::error_code failed;
  const bool used = fs::exists(folder, failed) && !fs::is_empty(folder, failed);
  if (used && !force) {
    const std::string other = plan_of_folder(folder), mine = plan_id(plan);
    if (other != mine)
      return make_error(Failure::usage, "E-EXEC-019", "the folder holds something else",
                        other.empty() ? "files that are not of a run" : "a run of plan " + other,
                        "an empty folder, or a run of plan " + mine,
                        "choose another -o, or --force to write there all the same",
                        Location{folder});
  }
  if (Status s = make_directories(folder); !s) return s;
  // An update is incomplete until it is closed again.
  fs::remove(folder + "/manifest.json", failed);
  if (Status s = write_file_atomic(folder + "/scenario.yaml", explain(scenario)); !s) return s;
  return write_file_atomic(folder + "/plan.txt", print(plan));
}

Status write_summary(const std::string& folder, const Plan& plan, const std::string& section,
                     const Json& value) {
  const std::string path = folder + "/summary.json", id = plan_id(plan);
  Json root = read_object(path);
  if (string_of(root, "plan_id") != id)
    root = {{"format", "tandem-summary"}, {"version", kRunFormat}, {"plan_id", id}};
  root[section] = value;
  return write_file_atomic(path, root.dump(1) + "\n");
}

Status close_run_folder(const std::string& folder, const Scenario& scenario, const Plan& plan,
                        const std::string& command) {
  Json files = Json::object();
  std::vector<std::string> names;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(folder, failed))
    if (entry.is_regular_file(failed) && entry.path().filename() != "manifest.json")
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const Result<std::string> text = read_file(folder + "/" + name, limits::kTimelineBytes);
    if (!text) return text.error();
    files[name] = {{"bytes", text->size()}, {"sha256", sha256_hex(*text)}};
  }
  const Json root = {{"format", "tandem-run"},   {"version", kRunFormat},
                     {"tandem", kVersion},       {"command", command},
                     {"plan_id", plan_id(plan)}, {"name", scenario.name},
                     {"seed", scenario.seed},    {"files", files}};
  return write_file_atomic(folder + "/manifest.json", root.dump(1) + "\n");
}

}  // namespace tandem::tools
