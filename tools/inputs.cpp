// See inputs.h.
#include "tools/inputs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/text.h"
#include "common/plan/build.h"
#include "common/plan/late_validation.h"
#include "common/plan/parse.h"
#include "common/plan/print.h"
#include "common/scenario/read.h"

namespace tandem::tools {
namespace {

// Sections of a scenario that mean something beside a plan file.
constexpr std::string_view kBesidePlan[] = {"cluster.", "simulate.", "output.", "name=", "seed="};

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}

// The scenario that stands beside a plan file: defaults, the cluster, and --set of what is left.
Result<Scenario> scenario_beside_plan(Context& context, const PlanRequest& request) {
  std::vector<std::string> sets = sets_of(context.options);
  for (const std::string& set : sets) {
    bool fits = false;
    for (std::string_view prefix : kBesidePlan) fits |= set.starts_with(prefix);
    if (!fits)
      return usage("E-CLI-005", "a plan file cannot be changed by --set", "--set " + set,
                   "fields of cluster, simulate or output, or name",
                   "give the scenario instead of the plan file");
  }
  if (request.needs_cluster && request.cluster.empty())
    return usage("E-CLI-003", "a plan file needs a cluster", request.file + " without --cluster",
                 "--cluster NAME, a preset such as local or dgx-h100 or the path of one",
                 "add --cluster local, or --cluster \"dgx-h100 x 16\"");
  if (!request.cluster.empty()) sets.insert(sets.begin(), "cluster.preset=" + request.cluster);
  Diagnostics warnings;
  auto scenario = read_scenario_text(request.file, "tandem: 1\nmodel: gpt-tiny\n", sets, &warnings);
  context.warn(warnings);
  return scenario;
}

Result<PlanInput> from_plan_file(Context& context, const PlanRequest& request) {
  auto scenario = scenario_beside_plan(context, request);
  if (!scenario) return scenario.error();
  auto text = read_file(request.file, limits::kPlanTextBytes);
  if (!text) return text.error();
  auto plan = parse_plan(*text, request.file);
  if (!plan) return plan.error();
  PlanInput in;
  in.from_plan_file = true;
  in.scenario = std::move(*scenario);
  in.plan = std::move(*plan);
  in.inputs.emplace_back(request.file, sha256_hex(*text));
  in.text = std::move(*text);  // as it stands: places of messages; canonical after verification
  return in;
}

Result<PlanInput> from_scenario(Context& context, const PlanRequest& request) {
  Diagnostics warnings;
  std::vector<std::string> sets = sets_of(context.options);
  if (!request.cluster.empty()) sets.push_back("cluster.preset=" + request.cluster);
  auto scenario = read_scenario(request.file, sets, &warnings);
  if (!scenario) return scenario.error();
  context.warn(warnings);
  auto bytes = read_file(request.file, limits::kScenarioBytes);
  if (!bytes) return bytes.error();
  context.progress("building the plan");
  if (request.settling && scenario->schedule.optimizer_barrier == OptimizerBarrier::synchronous)
    return usage("E-CLI-005", "these options do not go together",
                 "--settling with updates that wait for the norm",
                 "schedule.optimizer_barrier: post_validated",
                 "add --set schedule.optimizer_barrier=post_validated");
  auto plan = request.evaluation ? build_evaluation_plan(*scenario)
              : request.settling ? build_settling_plan(*scenario)
                                 : build_plan(*scenario);
  if (!plan) return plan.error();
  PlanInput in;
  const TrainingSpec& training = scenario->training;
  const bool looks = training.metrics.every > 0 && training.metrics.activations;
  const bool steps = !request.evaluation && !request.settling;
  if ((training.evaluation.every > 0 || looks) && steps) {
    auto evaluation = build_evaluation_plan(*scenario);
    if (!evaluation) return evaluation.error();
    std::string text = print(*evaluation);
    in.evaluation = {std::move(*evaluation), std::move(text)};
  }
  if (validates_late(*plan)) {
    auto settling = build_settling_plan(*scenario);
    if (!settling) return settling.error();
    std::string text = print(*settling);
    in.settling = {std::move(*settling), std::move(text)};
  }
  in.scenario = std::move(*scenario);
  in.plan = std::move(*plan);
  in.inputs.emplace_back(request.file, sha256_hex(*bytes));
  if (const auto it = in.scenario.schedule.options.find("file");
      it != in.scenario.schedule.options.end()) {
    const std::string order = path_of_field(in.scenario, "schedule.file", it->second);
    const auto text = read_file(order, limits::kTableBytes);
    if (!text) return text.error();
    in.inputs.emplace_back(order, sha256_hex(*text));
  }
  in.text = print(in.plan);
  return in;
}

}  // namespace

std::vector<std::string> sets_of(const CommonOptions& options) {
  std::vector<std::string> sets = options.sets;
  if (options.seed) sets.push_back(fmt::format("seed={}", *options.seed));
  return sets;
}

Result<Scenario> load_scenario(Context& context, const std::string& path) {
  Diagnostics warnings;
  auto scenario = read_scenario(path, sets_of(context.options), &warnings);
  context.warn(warnings);
  return scenario;
}

std::string path_of_field(const Scenario& scenario, const std::string& field,
                          const std::string& text) {
  const std::filesystem::path path(text);
  const auto origin = scenario.origins.find(field);
  if (path.is_absolute() || origin == scenario.origins.end() || origin->second.line == 0 ||
      origin->second.file.starts_with("--set "))
    return text;
  return (std::filesystem::path(origin->second.file).parent_path() / path).string();
}

bool is_plan_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return false;
  struct stat info {};
  std::array<char, 4096> start{};
  ssize_t size = -1;
  if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
    size = ::read(fd, start.data(), start.size());
  ::close(fd);
  if (size <= 0) return false;
  for (std::string_view line : split({start.data(), static_cast<std::size_t>(size)}, '\n')) {
    line = trim(line);
    if (!line.empty() && line[0] != '#') return line.starts_with("plan ");
  }
  return false;
}

Result<PlanInput> load_plan(Context& context, const PlanRequest& request) {
  const bool is_plan = is_plan_file(request.file);
  auto in = is_plan ? from_plan_file(context, request) : from_scenario(context, request);
  if (!in) return in;
  in->file = request.file;
  context.progress("verifying the plan");
  VerifyOptions options;
  options.serial_launch = in->scenario.cluster.library == CollectiveLibrary::nccl;
  options.file = is_plan ? request.file : "plan";
  options.text = in->text;
  in->verification = verify_plan(in->plan, options);
  for (const auto& [side, file] :
       {std::pair{&in->evaluation, "plan_evaluation"}, std::pair{&in->settling, "plan_settling"}}) {
    if (!*side || !in->verification.ok()) continue;
    options.file = file;
    options.text = (*side)->text;
    const Verification v = verify_plan((*side)->plan, options);
    if (!v.ok()) return Error{Failure::bad_input, v.errors};
  }
  if (is_plan) in->text = print(in->plan);
  in->id = plan_id_of_text(in->text);
  if (in->verification.ok()) return in;
  context.result["plan_id"] = in->id;
  context.result["deadlock_free"] = in->verification.deadlock_free;
  return Error{Failure::bad_input, in->verification.errors};
}

std::string command_text(const Context& context, const std::vector<std::string>& arguments) {
  std::string out = "tandem " + context.command;
  for (const std::string& a : arguments) out += " " + a;
  for (const std::string& set : context.options.sets) out += " --set " + set;
  if (context.options.seed) out += fmt::format(" --seed {}", *context.options.seed);
  return out;
}

}  // namespace tandem::tools
