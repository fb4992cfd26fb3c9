// The rules, grouped by the section they belong to. A rule reads: skip if an input failed, compute,
// compare, refuse with arithmetic.
#include "common/scenario/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <numeric>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/locate.h"

namespace tandem {
namespace {

using Paths = std::initializer_list<std::string_view>;

// The divisors of n nearest to x on both sides: values that would work.
std::string near_divisors(std::int64_t n, std::int64_t x) {
  std::int64_t below = 0, above = 0;
  for (std::int64_t d = std::min(x, n); d >= 1 && below == 0; --d)
    if (n % d == 0) below = d;
  for (std::int64_t d = x; d <= n && above == 0; ++d)
    if (n % d == 0) above = d;
  if (below == 0 || above == 0 || below == above) return fmt::format("{}", std::max(below, above));
  return fmt::format("{} or {}", below, above);
}

std::string near_multiples(std::int64_t n, std::int64_t step) {
  const std::int64_t below = n / step * step, above = below + step;
  return below == 0 ? fmt::format("{}", above) : fmt::format("{} or {}", below, above);
}

class Rules {
 public:
  Rules(const Scenario& s, const std::set<std::string>& given, const std::set<std::string>& failed,
        Diagnostics& problems)
      : s_(s), given_(given), failed_(failed), problems_(problems) {}

  void run() {
    model();
    degrees();
    heads_and_widths();
    experts();
    nano_train();
    nano_train_style();
    latents();
    shares();
    training();
    schedule();
    cluster();
    network();
    giants();
    no_effect();
  }

 private:
  [[nodiscard]] bool good(Paths paths) const {
    return std::none_of(paths.begin(), paths.end(),
                        [&](std::string_view path) { return failed_.contains(std::string(path)); });
  }
  [[nodiscard]] bool given(std::string_view path) const {
    return given_.contains(std::string(path));
  }

  void refuse(Paths paths, std::string code, std::string title, std::string found,
              std::string expected, std::string hint) {
    problems_.push_back(at_fields(s_, paths, std::move(code), std::move(title), std::move(found),
                                  std::move(expected), std::move(hint)));
  }

  void model() {
    const ModelSpec& m = s_.model;
    if (!good({"model.heads", "model.hidden", "model.kv_heads", "model.family"})) return;
    if (m.heads > 0 && !given("model.head_dim") && m.hidden % m.heads != 0)
      refuse(
          {"model.heads", "model.hidden"}, "E-MODEL-003",
          fmt::format("model.hidden = {} is not a multiple of model.heads = {}", m.hidden, m.heads),
          fmt::format("{} / {} = {:.2f}", m.hidden, m.heads, double(m.hidden) / m.heads),
          "heads of a whole width",
          fmt::format("use heads: {}, or give model.head_dim", near_divisors(m.hidden, m.heads)));
    if (m.heads > 0 && m.heads % m.kv_heads != 0)
      refuse({"model.kv_heads", "model.heads"}, "E-MODEL-004",
             fmt::format("model.heads = {} is not a multiple of model.kv_heads = {}", m.heads,
                         m.kv_heads),
             fmt::format("{} heads, {} key/value heads", m.heads, m.kv_heads),
             "the same number of query heads for each key/value head",
             "use kv_heads: " + near_divisors(m.heads, m.kv_heads));
    else if (m.heads > 0 && m.family == ModelFamily::gpt && m.kv_heads != m.heads)
      refuse({"model.kv_heads", "model.heads"}, "E-MODEL-006",
             fmt::format("model.kv_heads = {} is not possible with family gpt", m.kv_heads),
             fmt::format("{} heads, {} key/value heads", m.heads, m.kv_heads),
             "as many key/value heads as heads",
             fmt::format("use kv_heads: {}, or delete the key", m.heads));
    const int width = m.head_dim;
    const bool rotates = m.family == ModelFamily::llama || m.family == ModelFamily::mixtral;
    if (rotates && good({"model.head_dim"}) && width % 2 != 0)
      refuse({given("model.head_dim") ? "model.head_dim" : "model.heads", "model.hidden"},
             "E-MODEL-007", fmt::format("rope dimension {} must be even", width),
             fmt::format("head_dim {}", width), "pairs of values to rotate",
             fmt::format("use head_dim: {}", width < 2 ? 2 : width - 1));
  }

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
    const bool has =
        s_.model.family == ModelFamily::mixtral || s_.model.family == ModelFamily::deepseek_v3;
    if (has != (moe.experts > 0)) {
      if (good({"model.moe.experts"}))
        refuse({"model.moe.experts", "model.family"}, "E-MODEL-008",
               has ? "this family needs model.moe.experts" : "this family has no experts",
               fmt::format("experts: {}", moe.experts),
               has ? "the number of routed experts of a layer" : "no model.moe",
               has ? "add moe: {experts: 8, top_k: 2, expert_hidden: ...}"
                   : "use family: mixtral, or delete model.moe");
      return;
    }
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
    expert_shape();
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
    // Shards of single tensors: vectors are as long as these widths.
    const std::int64_t members = std::int64_t{p.dp} * p.tp;
    if (p.zero == 0 || p.dp * p.tp == 1) return;
    for (const auto& [path, width] : {std::pair{"model.hidden", s_.model.hidden},
                                      std::pair{"model.mla.q_rank", s_.model.mla.q_rank},
                                      std::pair{"model.mla.kv_rank", s_.model.mla.kv_rank}})
      if (width % members != 0)
        impossible(path, fmt::format("{}", width),
                   fmt::format("a multiple of dp * tp = {} with zero above 0", members));
  }

  // Latent attention (models.md 2.3), row 15.
  void latents() {
    const MlaSpec& mla = s_.model.mla;
    if (!good({"model.family"})) return;
    const bool has = s_.model.family == ModelFamily::deepseek_v3;
    const bool any = std::max({mla.q_rank, mla.kv_rank, mla.nope_dim, mla.rope_dim, mla.v_dim}) > 0;
    if (has ? mla.kv_rank == 0 : any) {
      if (good({"model.mla.kv_rank"}))
        refuse({"model.mla.kv_rank", "model.family"}, "E-MODEL-010",
               has ? "this family needs model.mla" : "this family has no latent attention",
               fmt::format("kv_rank: {}, q_rank: {}", mla.kv_rank, mla.q_rank),
               has ? "q_rank, kv_rank, nope_dim, rope_dim and v_dim" : "no model.mla",
               has ? "add mla: {q_rank: 32, kv_rank: 16, nope_dim: 8, rope_dim: 4, v_dim: 8}"
                   : "use family: deepseek_v3, or delete model.mla");
      return;
    }
    if (!has) return;
    for (const auto& [field, size] :
         {std::pair{"q_rank", mla.q_rank}, std::pair{"nope_dim", mla.nope_dim},
          std::pair{"rope_dim", mla.rope_dim}, std::pair{"v_dim", mla.v_dim}}) {
      const std::string path = fmt::format("model.mla.{}", field);
      if (size < 1 && good({path}))
        refuse({path, "model.mla.kv_rank"}, "E-MODEL-010",
               fmt::format("{} must be at least 1", path), fmt::format("{}", size), "a width",
               fmt::format("give {}", field));
    }
    const int qk = mla.nope_dim + mla.rope_dim;
    if (s_.training.attention == AttentionKind::flash && mla.v_dim > qk &&
        good({"model.mla.v_dim", "model.mla.nope_dim", "model.mla.rope_dim"}))
      refuse({"model.mla.v_dim", "training.attention"}, "E-MODEL-010",
             fmt::format("model.mla.v_dim = {} is wider than q and k, which attention flash needs",
                         mla.v_dim),
             fmt::format("nope_dim + rope_dim = {}", qk), fmt::format("v_dim of at most {}", qk),
             fmt::format("use v_dim: {}, or attention: materialised", qk));
    if (mla.rope_dim % 2 != 0 && good({"model.mla.rope_dim"}))
      refuse({"model.mla.rope_dim"}, "E-MODEL-007",
             fmt::format("rope dimension {} must be even", mla.rope_dim),
             fmt::format("rope_dim {}", mla.rope_dim), "pairs of values to rotate",
             fmt::format("use rope_dim: {}", mla.rope_dim + 1));
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

  void expert_shape() {
    const MoeSpec& moe = s_.model.moe;
    const auto wrong = [&](const char* field, std::string arithmetic, const char* expected,
                           std::string hint) {
      const std::string path = fmt::format("model.moe.{}", field);
      if (!good({path, "model.moe.experts"})) return;
      refuse({path, "model.moe.experts"}, "E-MODEL-009",
             fmt::format("model.moe.{}: {}", field, arithmetic), arithmetic, expected,
             std::move(hint));
    };
    if (moe.expert_hidden < 1)
      wrong("expert_hidden", "0 values inside an expert", "the width inside an expert",
            "add expert_hidden");
    if (moe.top_k > moe.experts)
      wrong("top_k", fmt::format("{} of {} experts", moe.top_k, moe.experts), "at most all experts",
            fmt::format("use top_k: {}", moe.experts));
    if (moe.experts % moe.groups != 0)
      wrong("groups", fmt::format("{} experts / {} groups", moe.experts, moe.groups),
            "groups of equal size", "use groups: " + near_divisors(moe.experts, moe.groups));
    else if (moe.groups_kept > moe.groups)
      wrong("groups_kept", fmt::format("{} of {} groups", moe.groups_kept, moe.groups),
            "at most all groups", fmt::format("use groups_kept: {}", moe.groups));
    else if (moe.top_k <= moe.experts && moe.groups_kept * (moe.experts / moe.groups) < moe.top_k)
      wrong("groups_kept",
            fmt::format("{} groups of {} experts for {} choices", moe.groups_kept,
                        moe.experts / moe.groups, moe.top_k),
            "as many experts in the kept groups as choices",
            fmt::format("use groups_kept: {} or more",
                        (moe.top_k * moe.groups + moe.experts - 1) / moe.experts));
    if (given("model.moe.balance.device_groups") &&
        (moe.device_groups < 1 || moe.experts % moe.device_groups != 0))
      wrong("balance.device_groups",
            fmt::format("{} experts / {} groups", moe.experts, moe.device_groups),
            "groups of equal size",
            "use device_groups: " + near_divisors(moe.experts, std::max(1, moe.device_groups)));
    const int cut = s_.parallel.tp * s_.parallel.cp;
    // By default a slice on each of these ranks: whether they can be cut is said by the rows for
    // that.
    if (!given("model.moe.drop_groups")) return;
    if (moe.drop_groups % cut != 0 || s_.training.sequence % std::max(1, moe.drop_groups) != 0)
      wrong("drop_groups",
            fmt::format("{} slices of {} positions on {} tp and cp ranks", moe.drop_groups,
                        s_.training.sequence, cut),
            "equal slices, a whole number of them on each rank",
            fmt::format("use drop_groups: {}", cut));
  }

  void training() {
    const TrainingSpec& t = s_.training;
    const ParallelSpec& p = s_.parallel;
    const std::int64_t step = std::int64_t{t.micro_batch} * p.data_ranks();
    const bool split = p.data_ranks() != p.dp;  // ep ranks read their own sequences
    if (degrees_fit_ && good({"training.global_batch", "training.micro_batch"}) &&
        t.global_batch % step != 0)
      refuse({"training.global_batch", "training.micro_batch", "parallel.dp"}, "E-SCEN-034",
             fmt::format("training.global_batch = {} is not a multiple of micro_batch * dp{} = "
                         "{}*{}{} = {}",
                         t.global_batch, split ? " * ep" : "", t.micro_batch, p.dp,
                         split ? fmt::format("*{}", p.ep) : "", step),
             fmt::format("{} / {} = {:.3g}", t.global_batch, step,
                         double(t.global_batch) / double(step)),
             "a whole number of microbatches",
             "use global_batch: " + near_multiples(t.global_batch, step));
    if (good({"training.sequence", "model.max_sequence", "model.family"}) &&
        s_.model.max_sequence > 0 && s_.model.family == ModelFamily::gpt &&
        t.sequence > s_.model.max_sequence)
      refuse(
          {"training.sequence", "model.max_sequence"}, "E-SCEN-037",
          fmt::format("training.sequence = {} exceeds model.max_sequence = {}", t.sequence,
                      s_.model.max_sequence),
          fmt::format("{} tokens", t.sequence),
          fmt::format("at most {} tokens: the model has no more positions", s_.model.max_sequence),
          fmt::format("use sequence: {}, or max_sequence: {}", s_.model.max_sequence, t.sequence));
    sequence_slices();
    ring_attention();
    optimizer();
  }

  // Row 9: two chunks for each cp rank, and a slice of both for each tp rank.
  void sequence_slices() {
    if (!good({"training.sequence", "parallel.tp", "parallel.cp", "parallel.sequence_parallel"}))
      return;
    const int t = s_.parallel.tp, c = s_.parallel.cp, sequence = s_.training.sequence;
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

  void optimizer() {
    const OptimizerSpec& o = s_.training.optimizer;
    if (o.cosine && good({"training.optimizer.decay_steps", "training.optimizer.warmup_steps"}) &&
        o.decay_steps <= o.warmup_steps)
      refuse({"training.optimizer.decay_steps", "training.optimizer.warmup_steps"}, "E-SCEN-046",
             "the learning rate ends its decay before it has warmed up",
             fmt::format("decay_steps {}, warmup_steps {}", o.decay_steps, o.warmup_steps),
             "decay_steps above warmup_steps",
             fmt::format("use decay_steps: {} or more", o.warmup_steps + 1));
    if (good({"training.optimizer.min_lr", "training.optimizer.lr"}) && o.min_lr > o.lr)
      refuse({"training.optimizer.min_lr", "training.optimizer.lr"}, "E-SCEN-047",
             "training.optimizer.min_lr is above training.optimizer.lr",
             fmt::format("{} > {}", format_double(o.min_lr), format_double(o.lr)),
             "a rate that falls", fmt::format("use min_lr: {}", format_double(o.lr / 10)));
  }

  // Row 13, and what a kind takes.
  void schedule() {
    const int v = s_.schedule.stages_per_rank;
    if (good({"schedule.kind", "schedule.stages_per_rank"}) && v != 1)
      refuse({"schedule.stages_per_rank", "schedule.kind"}, "E-SCEN-045",
             fmt::format("sched/{}: stages_per_rank = {}; this kind has one stage per rank",
                         s_.schedule.kind, v),
             fmt::format("{} stages per rank", v), "1",
             "use stages_per_rank: 1, or delete the key");
    else if (good({"schedule.kind", "schedule.stages_per_rank", "parallel.pp"}))
      stages(std::int64_t{s_.parallel.pp} * v);
    option_of("backward", "gpipe");
    option_of("strict", "1f1b");
    if (s_.schedule.grouping == Grouping::runs && s_.schedule.receive == Receive::deferred)
      refuse({"schedule.grouping", "schedule.receive"}, "E-SCEN-048",
             "grouping runs is not possible with receive deferred", "grouping: runs",
             "grouping: none", "use receive: early, or grouping: none");
    few_microbatches();
  }

  void stages(std::int64_t num_stages) {
    const int layers = s_.model.layers;
    if (!good({"model.layers", "parallel.layer_split"}) || layers == 0) return;
    if (num_stages > layers)
      return refuse({"parallel.pp", "model.layers"}, "E-SCEN-035",
                    fmt::format("{} layers cannot fill {} pipeline stages", layers, num_stages),
                    fmt::format("{} layers, {} stages", layers, num_stages),
                    "at least one layer for each stage",
                    fmt::format("use pp: {} or less, or layers: {} or more", layers, num_stages));
    const auto& split = s_.parallel.layer_split;
    std::int64_t sum = 0;
    for (int part : split) sum += part;
    if (static_cast<std::int64_t>(split.size()) == num_stages && sum == layers) return;
    std::vector<std::string> works;
    for (std::int64_t i = 0; i < num_stages && i < 16; ++i)
      works.push_back(fmt::format("{}", layers / num_stages + (i < layers % num_stages ? 1 : 0)));
    refuse({"parallel.layer_split", "parallel.pp", "model.layers"}, "E-SCEN-036",
           fmt::format("parallel.layer_split has {} entries that sum to {}; {} entries and sum {} "
                       "are needed",
                       split.size(), sum, num_stages, layers),
           fmt::format("[{}]",
                       fmt::join(split.begin(),
                                 split.begin() + std::min<std::size_t>(split.size(), 16), ", ")),
           fmt::format("{} positive numbers that sum to {}", num_stages, layers),
           num_stages <= 16 ? "use [" + join(works, ", ") + "], or auto" : "use auto");
  }

  void option_of(const std::string& option, const std::string& kind) {
    const std::string path = "schedule." + option;
    if (!s_.schedule.options.contains(option) || s_.schedule.kind == kind) return;
    if (!good({path, "schedule.kind"})) return;
    refuse({path, "schedule.kind"}, "E-SCEN-021",
           fmt::format("sched/{}: {} is not an option of this kind", s_.schedule.kind, option),
           option + ": " + s_.schedule.options.at(option), "an option of " + s_.schedule.kind,
           fmt::format("only {} takes it; drop it", kind));
  }

  void few_microbatches() {
    if (!degrees_fit_ || !good({"training.global_batch", "training.micro_batch"})) return;
    const std::int64_t step = std::int64_t{s_.training.micro_batch} * s_.parallel.data_ranks();
    const int p = s_.parallel.pp;
    if (s_.training.global_batch % step != 0) return;
    const std::int64_t m = s_.training.global_batch / step;
    const auto strict = s_.schedule.options.find("strict");
    if (m >= p) return;
    if (strict != s_.schedule.options.end() && strict->second == "torch")
      return refuse({"schedule.strict", "training.global_batch", "parallel.pp"}, "E-SCEN-049",
                    fmt::format("sched/1f1b: {} microbatches are fewer than {} stages", m, p),
                    fmt::format("{} / {} = {} microbatches", s_.training.global_batch, step, m),
                    fmt::format("{} microbatches or more", p),
                    fmt::format("use global_batch: {}, or strict: none", p * step));
    refuse({"parallel.pp", "training.global_batch"}, "W-SCEN-002",
           fmt::format("{} microbatches cannot keep {} pipeline stages busy", m, p),
           fmt::format("a bubble of ({0}-1)/({1}+{0}-1) = {2:.0f} % of the step", p, m,
                       100.0 * (p - 1) / double(m + p - 1)),
           "at least as many microbatches as stages",
           fmt::format("use global_batch: {} or more", p * step));
  }

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

  void giants() {
    if (!degrees_fit_ || !good({"training.global_batch", "training.micro_batch", "model.layers"}))
      return;
    const double m = double(s_.training.global_batch) /
                     (double(s_.training.micro_batch) * s_.parallel.data_ranks());
    const double ops = estimated_plan_ops(s_);
    if (m > double(limits::kMicrobatches))
      refuse({"training.global_batch", "training.micro_batch"}, "E-SCEN-039",
             "more microbatches than Tandem handles", fmt::format("{:.3g} microbatches", m),
             fmt::format("at most {}", limits::kMicrobatches), "use a larger micro_batch");
    else if (ops > double(limits::kOps))
      refuse({"training.global_batch", "model.layers", "parallel.pp"}, "E-SCEN-040",
             "the plan would have more operations than Tandem handles",
             fmt::format("about {:.1g} operations: {:.0f} microbatches of {} layers", ops, m,
                         s_.model.layers),
             fmt::format("at most {} operations", limits::kOps),
             "use a larger micro_batch or a smaller global_batch");
  }

  void no_effect(const std::string& path, bool idle, const std::string& why) {
    // Only what the user wrote: a preset may hold fields that one family or mode ignores.
    const auto origin = s_.origins.find(path);
    if (!idle || origin == s_.origins.end() || failed_.contains(path)) return;
    if (origin->second.file != s_.file && !origin->second.file.starts_with("--set ")) return;
    problems_.push_back(at_fields(s_, {path}, "W-SCEN-001", path + " has no effect", "a value",
                                  "nothing: " + why, "delete this key"));
  }

  // A value equal to the default changes nothing and is not worth a warning.
  void no_effect() {
    no_effect("parallel.sequence_parallel", s_.parallel.sequence_parallel && s_.parallel.tp == 1,
              "one tp rank holds all positions");
    no_effect("training.recompute",
              s_.training.recompute == Recompute::selective &&
                  s_.training.attention == AttentionKind::flash,
              "flash attention keeps no probabilities that could be made again");
    const OptimizerSpec& o = s_.training.optimizer;
    const bool gpt = s_.model.family == ModelFamily::gpt;
    const DataSpec& data = s_.training.data;
    const bool random = data.kind == DataKind::random;
    no_effect("training.optimizer.decay_steps", !o.cosine && o.decay_steps != s_.training.steps,
              "the rate does not decay");
    no_effect("training.optimizer.min_lr", !o.cosine && o.min_lr != o.lr / 10,
              "the rate does not decay");
    no_effect("training.data.path", random && data.path != "builtin",
              "random tokens come from no file");
    no_effect("training.data.sampler", random && data.sampler != Sampler::random,
              "random tokens come from no file");
    no_effect("training.checkpoint.every",
              s_.training.checkpoint.every != 0 && s_.training.checkpoint.directory.empty(),
              "there is no training.checkpoint.directory");
    const EvaluationSpec& evaluation = s_.training.evaluation;
    no_effect("training.evaluation.batches", evaluation.every == 0 && evaluation.batches != 1,
              "training.evaluation.every is 0");
    no_effect("training.evaluation.every",
              evaluation.every - s_.execute.warmup_steps > s_.training.steps,
              "the training has fewer steps");
    no_effect("training.metrics.every",
              s_.training.metrics.every - s_.execute.warmup_steps > s_.training.steps,
              "the training has fewer steps");
    no_effect("model.rope_base", gpt && s_.model.rope_base != 10000,
              "family gpt has learned positions");
    no_effect("model.gelu", !gpt && s_.model.gelu != Gelu::erf, "family llama has SwiGLU");
  }

  const Scenario& s_;
  const std::set<std::string>& given_;
  const std::set<std::string>& failed_;
  Diagnostics& problems_;
  bool degrees_fit_ = false;
};

}  // namespace

double estimated_plan_ops(const Scenario& s) {
  const double m =
      double(s.training.global_batch) / (double(s.training.micro_batch) * s.parallel.data_ranks());
  // A layer and microbatch: two segments forward, four backward, with tp as many reductions; of
  // each block that comes round with cp three shifts and two segments.
  const double per_layer = (s.parallel.tp > 1 ? 12 : 6) + 5.0 * (s.parallel.cp - 1);
  const double per_stage = 6;  // embedding or head, send, receive, both ways
  const double stages = double(s.parallel.pp) * s.schedule.stages_per_rank;
  return m * (per_layer * s.model.layers + per_stage * stages);
}

void validate(const Scenario& scenario, const std::set<std::string>& given,
              const std::set<std::string>& failed, Diagnostics& problems) {
  Rules(scenario, given, failed, problems).run();
}

Diagnostics check_executable(const Scenario& s) {
  Diagnostics problems;
  if (s.training.precision == Precision::fp16)
    problems.push_back(at_fields(
        s, {"training.precision"}, "E-SCEN-060", "the executor has no kernels for this precision",
        "fp16", "fp32, fp64 or bf16", "use precision: bf16, or only simulate this scenario"));
  // The transports of this version run one message of a queue after the other. With a queue for
  // each edge that makes no difference; in a shared one a group may hold both directions.
  if (s.parallel.pp > 1 && s.schedule.grouping == Grouping::runs &&
      s.schedule.communicators != P2pCommunicators::edge)
    problems.push_back(at_fields(s, {"schedule.grouping", "schedule.communicators"}, "E-SCEN-062",
                                 "the executor has no grouped messages on shared communicators",
                                 "grouping runs with communicators other than edge",
                                 "communicators: edge, or grouping: none",
                                 "use communicators: edge, or only simulate this scenario"));
  const std::int64_t world = s.parallel.world();
  if (world > limits::kExecutedRanks)
    problems.push_back(at_fields(s, {"parallel.tp", "parallel.pp", "parallel.dp", "cluster.preset"},
                                 "E-SCEN-061", "too many ranks to execute",
                                 fmt::format("{} ranks", world),
                                 fmt::format("at most {} ranks", limits::kExecutedRanks),
                                 "use smaller degrees, or only simulate this scenario"));
  return problems;
}

}  // namespace tandem
