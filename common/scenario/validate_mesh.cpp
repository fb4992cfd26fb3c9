// Rules of the mesh: degrees against the devices, the model and the sequence, and what mapping and
// style nano_train can do. Rows 2 to 11, 18 and 20 of the constraints table of models.md, 3.4.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "common/base/limits.h"
#include "common/scenario/validate_rules.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

class MeshRules : RuleSet {
 public:
  explicit MeshRules(const RuleInputs& inputs) : RuleSet(inputs) {}

  // Returns whether the degrees fit the devices.
  bool run() {
    degrees();
    heads_and_widths();
    experts();
    nano_train();
    nano_train_style();
    shares();
    equal_sequences();
    ring_attention();
    slices();
    return degrees_fit_;
  }

 private:
  // Rows 2 and 3, and the limits on devices. Returns through `degrees_fit_`.
  void degrees() {
    if (!good({"parallel.tp", "parallel.pp", "parallel.cp", "parallel.dp", "parallel.ep",
               "parallel.mapping", "cluster.nodes", "cluster.devices_per_node", "cluster.preset"}))
      return;
    const ParallelSpec& p = s_.parallel;
    const int ep = p.nano_train() ? p.ep : 1;  // a factor of the ranks (models.md 3.2)
    const auto wide = [](auto a, auto b) { return static_cast<__int128>(a) * b; };
    const __int128 ranks = wide(p.tp, p.pp) * p.cp * p.dp * ep;
    const std::int64_t world = std::int64_t{s_.cluster.nodes} * s_.cluster.devices_per_node;
    if (ranks > limits::kDevices || world > limits::kDevices) {
      const std::string title = "more devices than Tandem handles";
      const std::string most = fmt::format("at most {} devices", limits::kDevices);
      if (world > limits::kDevices && !s_.cluster.local)
        return refuse(
            {"cluster.nodes", "cluster.devices_per_node"}, "E-SCEN-038", title,
            fmt::format("{}*{} = {} devices", s_.cluster.nodes, s_.cluster.devices_per_node, world),
            most, "use fewer nodes");
      return refuse(
          {"parallel.dp", "parallel.pp", "parallel.tp"}, "E-SCEN-038", title,
          fmt::format("{}*{}*{}{} = {:.4g} devices", p.tp, p.pp, p.dp,
                      p.nano_train() ? fmt::format("*{}", ep) : "", static_cast<double>(ranks)),
          most, "use smaller degrees");
    }
    if (s_.cluster.local && s_.cluster.nodes > 1)
      return refuse({"cluster.nodes"}, "E-CLUS-010", "cluster local has one node",
                    fmt::format("nodes: {}", s_.cluster.nodes), "nodes: 1",
                    "choose a cluster preset such as dgx-h100, or drop nodes");
    const std::int64_t block = std::int64_t{p.tp} * p.cp * p.pp * ep;
    const char *names = p.nano_train() ? " * parallel.ep" : "", *tail = p.nano_train() ? "*ep" : "";
    const std::string sizes =
        fmt::format("{}*{}*{}{}", p.tp, p.cp, p.pp, p.nano_train() ? fmt::format("*{}", ep) : "");
    if (world % block != 0)
      return refuse(
          {"parallel.tp", "parallel.pp", "parallel.cp", "cluster.preset", "cluster.nodes"},
          "E-SCEN-030",
          fmt::format("parallel.tp * parallel.cp * parallel.pp{} = {} = {} does not "
                      "divide the {} devices",
                      names, sizes, block, world),
          fmt::format("{} / {} = {:.3g}", world, block, double(world) / double(block)),
          "a whole number of data-parallel replicas",
          world < block ? fmt::format("use {} devices or more, or smaller degrees", block)
                        : fmt::format("make the product {}, or use {} devices",
                                      near_divisors(world, block), near_multiples(world, block)));
    degrees_fit_ = block * p.dp == world;
    if (!degrees_fit_)
      refuse({"parallel.dp", "cluster.preset", "cluster.nodes", "parallel.tp", "parallel.pp",
              "parallel.cp"},
             "E-SCEN-031",
             fmt::format("parallel.dp = {}, but {} devices / (tp*cp*pp{} = {}) = {}", p.dp, world,
                         tail, block, world / block),
             fmt::format("{}*{} = {} ranks", block, p.dp, block * p.dp),
             fmt::format("{} ranks", world),
             fmt::format("use dp: {}, dp: auto, or {} devices", world / block, block * p.dp));
  }

  // Rows 6 and 7.
  void heads_and_widths() {
    const ModelSpec& m = s_.model;
    const int tp = s_.parallel.tp;
    multiple_of_tp("model.heads", "E-SCEN-032", m.heads, tp, m.heads);
    if (m.kv_heads != m.heads)
      multiple_of_tp("model.kv_heads", "E-SCEN-032", m.kv_heads, tp, m.kv_heads);
    multiple_of_tp("model.ffn_hidden", "E-SCEN-033", m.ffn_hidden, tp, m.ffn_hidden);
  }
  void multiple_of_tp(std::string_view path, std::string code, int x, int tp, int whole) {
    if (!good({path, "parallel.tp", "model.hidden", "model.heads"}) || x <= 0 || x % tp == 0)
      return;
    refuse({"parallel.tp", path}, std::move(code),
           fmt::format("{} = {} is not a multiple of parallel.tp = {}", path, x, tp),
           fmt::format("{} / {} = {:.3g}", x, tp, double(x) / tp),
           "an equal share for each tp rank",
           fmt::format("use tp: {}, or {}: {}", near_divisors(whole, tp),
                       path.substr(path.find('.') + 1), near_multiples(x, tp)));
  }

  // Rows 4, 7, 8, 10 and 14: what experts ask of the model and of the mesh.
  void experts() {
    const MoeSpec& moe = s_.model.moe;
    const ParallelSpec& p = s_.parallel;
    if (!good({"model.family"})) return;
    const bool has = family_has_experts(s_.model.family);
    if (has != (moe.experts > 0)) return;
    if (!has) {
      for (const auto& [path, size] :
           {std::pair{"parallel.ep", p.ep}, std::pair{"parallel.etp", p.etp}})
        if (size > 1 && good({path}))
          refuse({path, "model.family"}, "E-SCEN-050",
                 fmt::format("{} = {} needs a model with experts", path, size),
                 fmt::format("{} ranks for experts that do not exist", size), "1",
                 "use 1, or a mixtral or deepseek_v3 model");
      return;
    }
    if (good({"model.moe.experts", "parallel.ep"}) && moe.experts % p.ep != 0)
      refuse({"model.moe.experts", "parallel.ep"}, "E-SCEN-043",
             fmt::format("model.moe.experts = {} is not a multiple of parallel.ep = {}",
                         moe.experts, p.ep),
             fmt::format("{} / {} = {:.3g}", moe.experts, p.ep, double(moe.experts) / p.ep),
             "the same number of experts on each ep rank",
             fmt::format("use ep: {}, or experts: {}", near_divisors(moe.experts, p.ep),
                         near_multiples(moe.experts, p.ep)));
    const std::int64_t ranks = std::int64_t{p.tp} * p.cp * p.dp, grid = std::int64_t{p.etp} * p.ep;
    const bool megatron = !p.nano_train();
    if (megatron && degrees_fit_ && good({"parallel.ep", "parallel.etp"}) && ranks % grid != 0)
      refuse(
          {"parallel.ep", "parallel.etp"}, "E-SCEN-042",
          fmt::format("parallel.etp * parallel.ep = {}*{} = {} does not divide the {} ranks of a "
                      "pipeline stage",
                      p.etp, p.ep, grid, ranks),
          fmt::format("tp*cp*dp = {}*{}*{} = {}; {} / {} = {:.3g}", p.tp, p.cp, p.dp, ranks, ranks,
                      grid, double(ranks) / double(grid)),
          "a whole number of expert replicas",
          fmt::format("make the product {}, or use more data parallelism",
                      near_divisors(ranks, grid)));
    else if (megatron)
      pipeline_groups();
    if (megatron && p.tp > 1 && !p.sequence_parallel && moe.dense_first < s_.model.layers &&
        good({"parallel.tp", "parallel.sequence_parallel"}))
      refuse({"parallel.sequence_parallel", "parallel.tp"}, "E-SCEN-051",
             "experts with parallel.tp > 1 need parallel.sequence_parallel: true",
             "sequence_parallel: false", "each tp rank routes its own positions",
             "use sequence_parallel: true, or delete the key");
    if (good({"model.moe.expert_hidden", "parallel.etp"}) && moe.expert_hidden % p.etp != 0)
      refuse(
          {"parallel.etp", "model.moe.expert_hidden"}, "E-SCEN-033",
          fmt::format("model.moe.expert_hidden = {} is not a multiple of parallel.etp = {}",
                      moe.expert_hidden, p.etp),
          fmt::format("{} / {} = {:.3g}", moe.expert_hidden, p.etp,
                      double(moe.expert_hidden) / p.etp),
          "an equal share of each expert for each etp rank",
          fmt::format("use etp: {}, or expert_hidden: {}", near_divisors(moe.expert_hidden, p.etp),
                      near_multiples(moe.expert_hidden, p.etp)));
    if (megatron && good({"model.moe.shared_experts", "model.moe.expert_hidden", "parallel.tp"}))
      multiple_of_tp("model.moe.expert_hidden", "E-SCEN-033",
                     moe.shared_experts * moe.expert_hidden, p.tp,
                     std::max(1, moe.shared_experts) * moe.expert_hidden);
  }

  // Row 5: the stage of a rank is its rank divided by the product of the sizes of the axes faster
  // than pp, modulo pp. One program runs the dense layers and the experts of a stage, so both grids
  // must give a rank the same stage.
  void pipeline_groups() {
    const ParallelSpec& p = s_.parallel;
    if (!degrees_fit_ || p.pp < 2 || !good({"parallel.order", "parallel.ep", "parallel.etp"}))
      return;
    const std::int64_t edp = std::int64_t{p.tp} * p.cp * p.dp / (std::int64_t{p.etp} * p.ep);
    const std::map<std::string, std::array<std::int64_t, 2>> sizes = {// dense grid, expert grid
                                                                      {"tp", {p.tp, p.etp}},
                                                                      {"cp", {p.cp, 1}},
                                                                      {"ep", {1, p.ep}},
                                                                      {"dp", {p.dp, edp}}};
    std::int64_t dense = 1, experts = 1;  // ranks between neighbouring stages
    for (const std::string& axis : p.order) {
      if (axis == "pp") break;
      dense *= sizes.at(axis)[0], experts *= sizes.at(axis)[1];
    }
    if (dense == experts) return;
    const std::int64_t rank = std::min(dense, experts);  // on stage 1 of the one, 0 of the other
    refuse(
        {"parallel.order", "parallel.ep", "parallel.tp"}, "E-SCEN-055",
        fmt::format("parallel.order [{}] puts rank {} in different pipeline groups for dense and "
                    "expert layers",
                    fmt::join(p.order, ", "), rank),
        fmt::format("the axes faster than pp have {} ranks for dense layers, {} for experts", dense,
                    experts),
        "the same product of sizes in both, so that each rank has one stage",
        "put pp last or first, or delete the key");
  }

  // Rows 11 and 20.
  void nano_train() {
    const ParallelSpec& p = s_.parallel;
    if (!good({"parallel.mapping"})) return;
    if (!p.nano_train()) {
      no_effect("parallel.ep_data", p.ep_data != ExpertData::split,
                "in mapping megatron every data-parallel rank reads its own sequences");
      return;
    }
    const auto impossible = [&](const char* field, const std::string& value, const char* only,
                                const char* why) {
      const std::string path = fmt::format("parallel.{}", field);
      if (good({path}))
        refuse({path, "parallel.mapping"}, "E-SCEN-056",
               fmt::format("{} = {} is not possible with mapping nano_train", path, value),
               fmt::format("{}: {}", field, value), fmt::format("{}: {}", field, only),
               fmt::format("{}; use {}: {}, or mapping: megatron", why, field, only));
    };
    if (p.etp > 1)
      impossible("etp", fmt::format("{}", p.etp), "1", "tensor ranks hold whole copies of experts");
    if (p.cp > 1) impossible("cp", fmt::format("{}", p.cp), "1", "it has no context parallelism");
    if (p.sequence_parallel && p.tp > 1)
      impossible("sequence_parallel", "true", "false", "it cuts the sequence around experts only");
    no_effect("parallel.order", true, "the mapping has an order of its own");
    if (s_.model.moe.experts == 0 || p.tp < 2) return;
    const int sequence = s_.training.sequence;
    if (good({"training.sequence", "parallel.tp"}) && sequence % p.tp != 0)
      refuse(
          {"training.sequence", "parallel.tp", "parallel.mapping"}, "E-SCEN-041",
          fmt::format("training.sequence = {} cannot be cut into {} equal parts", sequence, p.tp),
          fmt::format("{} / {} = {:.3g} positions for the experts of each tp rank", sequence, p.tp,
                      double(sequence) / p.tp),
          "a whole number of positions",
          fmt::format("use sequence: {}", near_multiples(sequence, p.tp)));
    if (p.ep > 1 && good({"parallel.tp", "parallel.ep"}))
      refuse({"parallel.mapping", "parallel.tp", "parallel.ep"}, "W-SCEN-006",
             fmt::format("experts are stored {} times; mapping megatron stores them once", p.tp),
             fmt::format("tp {}, ep {}: each tensor rank holds copies", p.tp, p.ep),
             "experts on one rank of each tensor-parallel group",
             "use mapping: megatron, unless the layout of nano_train is what you study");
  }

  // The style makes the calls of one program: what that does not have is refused (models.md 7.1).
  void nano_train_style() {
    const ParallelSpec& p = s_.parallel;
    if (p.style != Style::nano_train || !good({"parallel.style"})) return;
    const auto impossible = [&](std::string_view path, const std::string& value, std::string only) {
      if (good({path}))
        refuse({path, "parallel.style"}, "E-SCEN-057",
               fmt::format("{} = {} is not possible with style nano_train", path, value), value,
               only, fmt::format("use {}, or style: tandem", only));
    };
    constexpr std::string_view kFamilies[] = {"gpt", "llama", "mixtral"};
    if (s_.model.family != ModelFamily::deepseek_v3)
      return impossible("model.family",
                        std::string(kFamilies[static_cast<std::size_t>(s_.model.family)]),
                        "family: deepseek_v3");
    if (!p.nano_train()) impossible("parallel.mapping", "megatron", "mapping: nano_train");
    if (p.ep_data != ExpertData::replicate)
      impossible("parallel.ep_data", "split", "ep_data: replicate");
    if (p.vocab_parallel) impossible("parallel.vocab_parallel", "true", "vocab_parallel: false");
    if (p.zero == 3) impossible("parallel.zero", "3", "zero: 2");
    if (p.zero_reduce == ZeroReduce::every)
      impossible("parallel.zero_reduce", "every", "zero_reduce: last");
    if (s_.model.tied_embeddings)
      impossible("model.tied_embeddings", "true", "tied_embeddings: false");
    // It averages them; of one the average is the sum.
    if (s_.model.moe.shared_experts > 1)
      impossible("model.moe.shared_experts", fmt::format("{}", s_.model.moe.shared_experts),
                 "shared_experts: 1");
    if (s_.model.mla.q_rank == 0) impossible("model.mla.q_rank", "0", "a latent of q");
    if (s_.schedule.grouping == Grouping::runs)
      impossible("schedule.grouping", "runs", "grouping: none");
    if (s_.schedule.optimizer_barrier == OptimizerBarrier::post_validated)
      impossible("schedule.optimizer_barrier", "post_validated", "optimizer_barrier: synchronous");
    equal_parts();
  }

  // Tensors that lie in one buffer with others have no room between them: their shards are equal.
  void equal_parts() {
    const ParallelSpec& p = s_.parallel;
    const ModelSpec& m = s_.model;
    if (p.zero == 0 || !degrees_fit_) return;
    const std::int64_t dense = p.dp, sliced = std::int64_t{p.dp} * p.tp;
    const auto divides = [&](const char* path, std::int64_t width, std::int64_t members) {
      if (members < 2 || width * m.hidden % members == 0 || !good({path, "model.hidden"})) return;
      refuse({path, "parallel.style"}, "E-SCEN-057",
             fmt::format("{} = {} is not possible with style nano_train and zero {}", path, width,
                         p.zero),
             fmt::format("{} * {} elements for {} ranks", width, m.hidden, members),
             fmt::format("a multiple of {}", members),
             "use another width or hidden, zero: 0, or style: tandem");
    };
    divides("model.mla.q_rank", m.mla.q_rank, dense);
    divides("model.mla.kv_rank", m.mla.kv_rank + m.mla.rope_dim, dense);
    if (m.ffn_hidden % p.tp == 0) divides("model.ffn_hidden", m.ffn_hidden / p.tp, dense);
    if (m.moe.experts == 0) return;
    divides("model.moe.expert_hidden", m.moe.expert_hidden, sliced);
    if (m.moe.shared_experts > 0)
      divides("model.moe.shared_experts", m.moe.shared_experts * m.moe.expert_hidden, sliced);
  }

  // Row 18: nothing to share, of all parameters or of some.
  void shares() {
    const ParallelSpec& p = s_.parallel;
    if (p.zero == 0 || !degrees_fit_ || !good({"parallel.zero"})) return;
    // The groups that sum gradients (models.md 4.8).
    const std::int64_t stage = std::int64_t{p.tp} * p.cp * p.dp;
    const bool own_tokens = p.sequence_parallel && p.tp > 1;
    const bool has_experts = s_.model.moe.experts > 0;
    const bool dense = p.data_ranks() * p.cp > 1;
    // nano_train: experts, router and shared experts are summed over tp; dense ones over dp and ep.
    const bool experts =
        p.nano_train() ? p.dp * p.tp > 1 : stage / (std::int64_t{p.etp} * p.ep) > 1;
    const auto warn = [&](const std::string& whom, const char* group, const char* hint) {
      refuse({"parallel.zero", "parallel.dp"}, "W-SCEN-003",
             fmt::format("parallel.zero = {} has no effect{}: the {} group has one member, no "
                         "collective will run",
                         p.zero, whom, group),
             "one rank holds all", "two or more data-parallel ranks", hint);
    };
    const char* dp = p.cp > 1 ? "dp_cp" : "dp";
    if (!dense && !own_tokens && !(has_experts && experts))
      return warn("", dp, "raise dp, or use zero: 0");
    if (!dense) warn(own_tokens ? " on what tp cuts" : " on dense layers", dp, "raise dp");
    if (has_experts && !experts) warn(" on experts", "edp", "raise dp, or lower ep");
  }

  // Row 9: two chunks for each cp rank, and a part of both for each tp rank; with slices a part of
  // each of them (models.md 8a).
  void equal_sequences() {
    if (!good({"training.sequence", "parallel.tp", "parallel.cp", "parallel.sequence_parallel",
               "schedule.kind", "schedule.slices"}))
      return;
    const int t = s_.parallel.tp, c = s_.parallel.cp, sequence = s_.training.sequence;
    const int k = num_slices(s_.schedule.kind, s_.schedule.options);
    const bool cuts = (s_.parallel.sequence_parallel || s_.parallel.nano_train()) && t > 1;
    const bool slices = s_.parallel.sequence_parallel && t > 1;
    const auto cannot = [&](Paths paths, std::int64_t parts, const std::string& whose,
                            const std::string& instead) {
      refuse(
          paths, "E-SCEN-041",
          fmt::format("training.sequence = {} cannot be cut into {} equal parts", sequence, parts),
          fmt::format("{} / {} = {:.3g} positions for each {}", sequence, parts,
                      double(sequence) / double(parts), whose),
          "a whole number of positions",
          fmt::format("use sequence: {}, or {}", near_multiples(sequence, parts), instead));
    };
    if (c > 1 && sequence % (2 * std::int64_t{c}) != 0)
      cannot({"training.sequence", "parallel.cp"}, 2 * std::int64_t{c}, "of the 2 * cp chunks",
             "a smaller cp");
    else if (k > 1 && sequence % k != 0)
      cannot({"training.sequence", "schedule.slices", "schedule.file"}, k, "slice",
             "other schedule.slices");
    else if (k > 1 && cuts && sequence / k % t != 0)
      cannot({"training.sequence", "schedule.slices", "schedule.file", "parallel.tp"},
             std::int64_t{k} * t, "slice and tp rank", "other schedule.slices");
    else if (slices && sequence / c % t != 0)
      cannot({"training.sequence", "parallel.tp", "parallel.sequence_parallel"},
             std::lcm(std::int64_t{c} * t, c > 1 ? 2 * std::int64_t{c} : 1),
             c > 1 ? "tp and cp rank" : "tp rank", "sequence_parallel: false");
  }

  // Ring attention merges its blocks by the log-sum-exp that flash keeps.
  void ring_attention() {
    if (s_.parallel.cp < 2 || s_.training.attention == AttentionKind::flash ||
        !good({"parallel.cp", "training.attention"}))
      return;
    refuse({"training.attention", "parallel.cp"}, "E-SCEN-052",
           "context parallelism needs training.attention: flash",
           fmt::format("attention: materialised, cp: {}", s_.parallel.cp),
           "attention: flash, whose blocks are merged by their log-sum-exp",
           "use attention: flash, or cp: 1");
  }

  // What cannot be cut in slices: a ring has its own order of positions; probabilities of several
  // blocks are merged by their log-sum-exp; the style sends labels of whole sequences.
  void slices() {
    const int k = num_slices(s_.schedule.kind, s_.schedule.options);
    if (k < 2 || !good({"schedule.kind", "schedule.slices", "schedule.file"})) return;
    const auto impossible = [&](std::string_view path, const std::string& value, const char* only,
                                const char* why) {
      if (good({path}))
        refuse({path, "schedule.slices", "schedule.file"}, "E-SCEN-065",
               fmt::format("{} = {} is not possible with slices of sequences", path, value),
               fmt::format("{} slices", k), only, why);
    };
    if (s_.parallel.cp > 1)
      impossible("parallel.cp", fmt::format("{}", s_.parallel.cp), "cp: 1",
                 "both cut the sequence: use cp: 1, or another schedule");
    if (s_.training.attention != AttentionKind::flash)
      impossible("training.attention", "materialised",
                 "attention: flash, whose blocks are merged by their log-sum-exp",
                 "use attention: flash, or another schedule");
    if (s_.parallel.style == Style::nano_train)
      impossible(
          "parallel.style", "nano_train", "style: tandem",
          "the style sends labels of whole sequences: use style: tandem, or another schedule");
  }

  bool degrees_fit_ = false;
};

}  // namespace

bool validate_mesh(const RuleInputs& inputs) { return MeshRules(inputs).run(); }

}  // namespace tandem
