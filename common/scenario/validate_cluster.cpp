// Rules of the cluster: peak rates, slow devices, the levels of the network.
#include <fmt/format.h>

#include <map>
#include <vector>

#include "common/base/text.h"
#include "common/scenario/validate_rules.h"

namespace tandem {
namespace {

class ClusterRules : RuleSet {
 public:
  ClusterRules(const RuleInputs& inputs, bool degrees_fit)
      : RuleSet(inputs), degrees_fit_(degrees_fit) {}

  void run() {
    cluster();
    network();
  }

 private:
  void cluster() {
    const ClusterSpec& c = s_.cluster;
    const std::string precision = precision_name();
    if (good({"training.precision", "cluster.preset", "cluster.device.preset",
              "cluster.device.peak." + precision}) &&
        !c.device.peak.contains(precision)) {
      std::vector<std::string> known;
      for (const char* name : {"fp32", "bf16", "fp64"})
        if (c.device.peak.contains(name)) known.emplace_back(name);
      refuse({"training.precision", "cluster.device.preset", "cluster.preset"}, "E-CLUS-006",
             fmt::format("the device has no peak rate for {}", precision),
             known.empty() ? "no peak rate at all" : "peak rates of " + join(known, ", "),
             fmt::format("cluster.device.peak.{}", precision),
             known.empty() ? fmt::format("add peak: {{{}: 10 Tflop/s}}", precision)
                           : fmt::format("use precision: {}, or add peak.{}", known[0], precision));
    }
    if (degrees_fit_) {
      std::map<int, std::size_t> seen;
      for (std::size_t i = 0; i < c.slow_devices.size(); ++i) slow_device(i, seen);
      for (int rank : s_.output.rank_list)
        if (good({"output.ranks"}) && rank >= s_.parallel.world())
          refuse({"output.ranks"}, "E-SCEN-044",
                 fmt::format("output.ranks names rank {}, but there are {} ranks", rank,
                             s_.parallel.world()),
                 fmt::format("{}", rank), fmt::format("ranks 0 to {}", s_.parallel.world() - 1),
                 "use representatives, all, or ranks of the run");
    }
  }

  void slow_device(std::size_t i, std::map<int, std::size_t>& seen) {
    const std::string path = fmt::format("cluster.slow_devices[{}].rank", i);
    const int rank = s_.cluster.slow_devices[i].first, world = s_.parallel.world();
    if (!good({path})) return;
    if (rank >= world)
      refuse({path}, "E-CLUS-011",
             fmt::format("slow device {} is not one of the {} ranks", rank, world),
             fmt::format("{}", rank), fmt::format("a rank from 0 to {}", world - 1),
             fmt::format("use rank: {}", world - 1));
    const auto [first, is_new] = seen.emplace(rank, i);
    if (!is_new)
      refuse({path, fmt::format("cluster.slow_devices[{}].rank", first->second)}, "E-CLUS-012",
             fmt::format("slow device {} is listed twice", rank), fmt::format("{}", rank),
             "each rank once", "delete one of the two");
  }

  [[nodiscard]] std::string precision_name() const {
    constexpr std::string_view kNames[] = {"fp64", "fp32", "bf16", "fp16", "fp8"};
    return std::string(kNames[static_cast<int>(s_.training.precision)]);
  }

  void network() {
    const auto& levels = s_.cluster.network;
    bool outside = false, node_level = false;
    std::map<std::string, std::size_t> names;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const std::string path = fmt::format("cluster.network[{}]", i);
      const std::string name_path = path + ".name", scope_path = path + ".scope";
      const auto [first, is_new] = names.emplace(levels[i].name, i);
      if (!is_new && good({name_path}))
        refuse({name_path, fmt::format("cluster.network[{}].name", first->second)}, "E-CLUS-005",
               fmt::format("two levels of the network are named \"{}\"", levels[i].name),
               levels[i].name, "a name of its own for each level", "rename one of the two");
      const bool inside = levels[i].scope == "node";
      if (outside && inside)
        refuse({scope_path, path + ".kind", name_path}, "E-CLUS-008",
               fmt::format("network level \"{}\" lies inside the one before it", levels[i].name),
               "scope node after scope cluster", "levels from the inside out",
               "list the levels of a node first");
      outside = outside || !inside;
      node_level = node_level || inside;
      level_without_effect(i, inside);
      if (levels[i].latency == 0 && good({path + ".latency"}))
        refuse({path + ".latency"}, "W-CLUS-001",
               fmt::format("network level \"{}\" has no latency", levels[i].name), "0",
               "the time of one crossing", "use a measured one, such as 2 us");
    }
    if (!good({"cluster.network", "cluster.preset", "cluster.nodes", "cluster.devices_per_node"}))
      return;
    if (s_.cluster.nodes > 1 && !outside && !s_.cluster.local)
      refuse({"cluster.nodes", "cluster.preset"}, "E-CLUS-004",
             "no network level connects the nodes", fmt::format("{} nodes", s_.cluster.nodes),
             "a level with scope: cluster",
             "add {name: ib, kind: fat_tree, bandwidth: 50 GB/s, latency: 3 us}");
    if (s_.cluster.devices_per_node > 1 && !node_level && !outside)
      refuse({"cluster.devices_per_node", "cluster.preset"}, "E-CLUS-004",
             "no network level connects the devices of a node",
             fmt::format("{} devices a node", s_.cluster.devices_per_node),
             "a level with scope: node",
             "add {name: link, kind: switch, bandwidth: 50 GB/s, latency: 1 us}");
  }

  void level_without_effect(std::size_t i, bool inside) {
    const NetworkLevel& level = s_.cluster.network[i];
    const std::string path = fmt::format("cluster.network[{}].", i);
    const std::string why = "levels with scope: cluster have network cards";
    no_effect(path + "nics_per_node", inside && level.nics_per_node != 1, why);
    no_effect(path + "rail_optimised", inside && !level.rail_optimised, why);
  }

  bool degrees_fit_;
};

}  // namespace

void validate_cluster(const RuleInputs& inputs, bool degrees_fit) {
  ClusterRules(inputs, degrees_fit).run();
}

}  // namespace tandem
