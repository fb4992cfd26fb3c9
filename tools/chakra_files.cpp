#include "tools/chakra_files.h"

#include <fmt/format.h>

#include <filesystem>

#include "common/base/file.h"
#include "common/plan/export_chakra.h"
#include "common/plan/totals.h"
#include "sim/cluster/cluster.h"
#include "sim/compute/compute_cost.h"
#include "sim/network/alpha_beta.h"
#include "tools/prediction.h"

namespace tandem::tools {
namespace {

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}

std::string trace_path(const std::string& prefix, int rank) {
  return fmt::format("{}.{}.et", prefix, rank);
}

// Work of an op with a core (a device) for itself, by op id.
Result<std::vector<Picoseconds>> durations_of(PlanInput& in) {
  const auto calibration = calibration_of(in);
  if (!calibration) return calibration.error();
  const auto cluster = sim::make_cluster(in.scenario.cluster, in.plan.header.mesh.world());
  if (!cluster) return cluster.error();
  const auto costs = sim::ComputeCost::create(in.plan, cluster->spec.device,
                                              *calibration ? &**calibration : nullptr);
  if (!costs) return costs.error();
  std::vector<Picoseconds> out(in.plan.ops.size(), 0);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const Op& op = in.plan.ops[i];
    for (const Call& call : in.plan.calls_of(op))
      out[i] += costs->work(call.kernel, call_accumulates(in.plan, call))[0];
    if (op.kind == OpKind::copy) out[i] = costs->copy(Plan::bytes_in(op));
    if (op.kind != OpKind::broadcast) continue;
    // Readers only replay broadcasts. One time for all groups: that of rank 0's.
    const auto members = in.plan.members(op.comm, Rank{0});
    const Bytes bytes = Plan::bytes_in(op);
    out[i] =
        sim::closed_form(*cluster, op.kind,
                         sim::choose_algorithm(*cluster, op.kind, bytes, members), bytes, members);
  }
  return out;
}

Status refuse_existing(const std::string& prefix, const std::string& groups, int ranks) {
  const auto there = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::exists(std::filesystem::symlink_status(path, error));
  };
  std::string found = there(groups) ? groups : "";
  for (int r = 0; r < ranks && found.empty(); ++r)
    if (there(trace_path(prefix, r))) found = trace_path(prefix, r);
  if (found.empty()) return Ok{};
  return usage("E-CLI-006", "a file of that name is there already", found, "names that are free",
               "choose another prefix for -o, or add --force to replace the files");
}

}  // namespace

Status check_chakra_prefix(const std::string& prefix) {
  if (prefix.empty())
    return usage("E-CLI-003", "an argument is missing", "--format chakra without -o",
                 "-o PREFIX: a file for each rank, PREFIX.0.et and so on",
                 "add for example -o traces/step");
  std::error_code error;
  if (prefix.ends_with('/') || std::filesystem::is_directory(prefix, error))
    return usage("E-CLI-004", "an option has a wrong value", "-o " + prefix + ", a folder",
                 "the beginning of file names, to which .0.et is added",
                 fmt::format("write -o {}{}step", prefix, prefix.ends_with('/') ? "" : "/"));
  if (prefix.find("empty") != std::string::npos)
    return usage("E-CLI-004", "an option has a wrong value", "-o " + prefix,
                 "a path without the word \"empty\"",
                 "ASTRA-sim takes a group file whose path holds that word for no file");
  return Ok{};
}

Result<ChakraFiles> write_chakra_files(Context& context, PlanInput& in) {
  const std::string& prefix = context.options.directory;
  ChakraFiles out;
  out.ranks = in.plan.header.mesh.world();
  out.groups_path = prefix + ".groups.json";
  if (!context.options.force)
    if (const Status s = refuse_existing(prefix, out.groups_path, out.ranks); !s) return s.error();
  ChakraOptions options;
  options.plan_id = in.id;
  if (!in.from_plan_file) {
    auto durations = durations_of(in);
    if (!durations) return durations.error();
    options.durations = std::move(*durations);
    out.has_durations = true;
  }
  const std::string folder = std::filesystem::path(prefix).parent_path().string();
  if (!folder.empty())
    if (const Status s = make_directories(folder); !s) return s.error();
  const ChakraExport traces(in.plan, std::move(options));
  out.has_launch_order = traces.has_launch_order();
  for (int r = 0; r < out.ranks; ++r) {
    context.progress(fmt::format("writing rank {} of {}", r, out.ranks));
    const Status written = write_to_file(trace_path(prefix, r), [&](const Sink& sink) {
      return traces.write(Rank{r}, [&](std::string_view bytes) {
        out.bytes += static_cast<std::int64_t>(bytes.size());
        return sink(bytes);
      });
    });
    if (!written) return written.error();
  }
  if (const Status s = write_file_atomic(out.groups_path, traces.groups_json()); !s)
    return s.error();
  return out;
}

}  // namespace tandem::tools
