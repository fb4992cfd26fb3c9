// The roofline of the plan's kernels and the communications by tag, with time at the bound.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/parallel/memory.h"
#include "common/plan/totals.h"
#include "common/report/numbers.h"
#include "sim/cluster/cluster.h"
#include "sim/compute/compute_cost.h"
#include "sim/network/alpha_beta.h"
#include "tools/model_report.h"
#include "tools/table.h"

namespace tandem::tools {
namespace {

struct KernelRow {
  KernelTotal total;   // calls of all ranks
  double seconds = 0;  // of one call
  [[nodiscard]] double all() const { return seconds * static_cast<double>(total.calls); }
};

// All programs, each run by the ranks of a stage; the longest first.
std::vector<KernelRow> kernel_rows(const Scenario& s, const Plan& plan) {
  std::map<std::pair<std::int64_t, bool>, KernelRow> rows;
  const std::int64_t ranks = s.parallel.world() / s.parallel.pp;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (const KernelTotal& k : kernel_totals(plan, ProgramId{static_cast<int>(p)})) {
      KernelRow& row = rows[{k.kernel.value, k.accumulates}];
      const std::int64_t before = row.total.calls;
      row.total = k;
      row.total.calls = before + k.calls * ranks;
      row.seconds = sim::roofline_seconds(plan.kernel(k.kernel), plan.header.types, k.accumulates,
                                          s.cluster.device);
    }
  std::vector<KernelRow> out;
  for (const auto& [key, row] : rows) out.push_back(row);
  std::stable_sort(out.begin(), out.end(),
                   [](const KernelRow& a, const KernelRow& b) { return a.all() > b.all(); });
  return out;
}

bool crosses_nodes(const sim::Cluster& cluster, const std::vector<Rank>& members) {
  for (Rank r : members)
    if (cluster.node_of(r) != cluster.node_of(members.front())) return true;
  return false;
}

}  // namespace

Result<Section> roofline_section(const Scenario& s, const Plan& plan) {
  const auto known = sim::ComputeCost::create(plan, s.cluster.device, nullptr);
  if (!known) return known.error();
  const std::string precision(sim::precision_name(plan.header.types.compute));
  const double peak = s.cluster.device.peak.at(precision);
  const double bandwidth = s.cluster.device.memory_bandwidth, ridge = peak / bandwidth;
  const std::vector<KernelRow> rows = kernel_rows(s, plan);
  double total = 0;
  for (const KernelRow& r : rows) total += r.all();

  Section out;
  out.text = fmt::format(
      "Roofline, {}: peak {}FLOP/s, memory {}B/s, ridge {:.4g} FLOP/B; all ranks, with the "
      "device's "
      "efficiencies\n",
      precision, with_prefix(peak), with_prefix(bandwidth), ridge);
  Table t({"kernel<", "calls", "FLOPs", "bytes", "FLOP/B", "bound<", "time", "share"});
  Json list = Json::array();
  for (const KernelRow& r : rows) {
    const Kernel& k = plan.kernel(r.total.kernel);
    const double intensity = r.total.cost.bytes > 0 ? r.total.cost.flops / r.total.cost.bytes : 0;
    const char* bound = intensity > ridge ? "compute" : "memory";
    const std::string text = to_text(k);
    list.push_back({{"kernel", text},
                    {"accumulates", r.total.accumulates},
                    {"calls", r.total.calls},
                    {"flops", r.total.cost.flops},
                    {"bytes", r.total.cost.bytes},
                    {"intensity", intensity},
                    {"bound", bound},
                    {"seconds", r.seconds},
                    {"share", total > 0 ? r.all() / total : 0}});
    t.row({text.substr(0, text.find(' ')) + (r.total.accumulates ? " +" : "") + " " +
               text.substr(std::min(text.size(), text.find(' ') + 1)),
           grouped(r.total.calls), with_prefix(r.total.cost.flops), with_prefix(r.total.cost.bytes),
           fmt::format("{:.3g}", intensity), bound, text_of_time(r.seconds * 1e9),
           percent(total > 0 ? r.all() / total : 0)});
  }
  out.text += t.text() + "  + adds to what is there (gradients after the first microbatch)\n";
  out.json = {{"precision", precision},
              {"peak_flops", peak},
              {"memory_bandwidth", bandwidth},
              {"ridge", ridge},
              {"kernels", std::move(list)}};
  return out;
}

Result<Section> communication_section(const Scenario& s, const Plan& plan) {
  const auto cluster = sim::make_cluster(s.cluster, s.parallel.world());
  if (!cluster) return cluster.error();
  Section out;
  out.text = "Communication of one rank a step\n";
  Table t({"pp", "tag<", "call<", "group<", "size", "calls", "bytes in", "bytes in, step",
           "ring bytes, step", "link<", "time of a call"});
  Json list = Json::array();
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const ProgramId program{static_cast<int>(p)};
    const Rank rank = plan.header.mesh.with(Rank{0}, Axis::pp, static_cast<int>(p));
    for (const TagTotal& c : tag_totals(plan, program)) {
      const std::vector<Rank> members = plan.members(c.comm, rank);
      const bool across = crosses_nodes(*cluster, members);
      const auto& level = across ? cluster->outer.spec : cluster->inner.spec;
      const auto algorithm = sim::choose_algorithm(*cluster, c.kind, c.bytes_in, members);
      const Picoseconds time = sim::closed_form(*cluster, c.kind, algorithm, c.bytes_in, members);
      const std::string tag = plan.name(c.tag), call(name_of(c.kind));
      const std::string group = plan.name(plan.communicators[c.comm.index()].name);
      list.push_back({{"pp", p},
                      {"tag", tag},
                      {"call", call},
                      {"group", group},
                      {"group_size", c.group_size},
                      {"calls", c.calls},
                      {"bytes_in", c.bytes_in},
                      {"total_bytes_in", c.total_in()},
                      {"ring_bytes", c.total_ring()},
                      {"link", level.name},
                      {"seconds", ps_to_seconds(time)}});
      t.row({std::to_string(p), tag, call, group, std::to_string(c.group_size), grouped(c.calls),
             grouped(c.bytes_in), grouped(c.total_in()),
             grouped(static_cast<std::int64_t>(c.total_ring())), level.name,
             text_of_time(static_cast<double>(time) / 1000)});
    }
  }
  out.text += list.empty() ? "  none\n" : t.text() + "  time: one call alone, without contention\n";
  out.json = std::move(list);
  return out;
}

}  // namespace tandem::tools
