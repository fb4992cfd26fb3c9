// Defaults that depend on other fields; the order of the functions is the order of dependence.
#include "common/scenario/resolve.h"

#include <algorithm>
#include <thread>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/scenario/order_file.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

constexpr std::int64_t kBig = 2'147'483'647;

int bounded(std::int64_t x) { return static_cast<int>(std::min(x, kBig)); }

// a * b for positive values, held at kBig: the rules refuse what reaches it.
std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  return __builtin_mul_overflow(a, b, &r) ? kBig : std::min(r, kBig);
}

std::string stem_of(const std::string& file) {
  const auto slash = file.rfind('/');
  std::string name = slash == std::string::npos ? file : file.substr(slash + 1);
  for (std::string_view ending : {".yaml", ".yml"})
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  return is_plain_name(name) ? name : "scenario";
}

void resolve_model(ModelSpec& m, const std::set<std::string>& given) {
  if (!given.contains("model.kv_heads")) m.kv_heads = m.heads;
  if (!given.contains("model.ffn_hidden")) m.ffn_hidden = bounded(product(4, m.hidden));
  if (!given.contains("model.head_dim")) m.head_dim = m.heads > 0 ? m.hidden / m.heads : 0;
  if (!given.contains("model.norm_eps"))
    m.norm_eps = m.family == ModelFamily::deepseek_v3 ? 1e-6 : 1e-5;
}

// After the degrees.
void resolve_experts(Scenario& s, const std::set<std::string>& given) {
  MoeSpec& moe = s.model.moe;
  // Each tp rank routes its own positions (models.md 3.4, row 10).
  const bool routes = moe.experts > 0 && moe.dense_first < s.model.layers;
  if (routes && s.parallel.tp > 1 && s.parallel.mapping == Mapping::megatron &&
      !given.contains("parallel.sequence_parallel"))
    s.parallel.sequence_parallel = true;
  if (!given.contains("model.moe.drop_groups"))
    moe.drop_groups = bounded(product(s.parallel.tp, s.parallel.cp));
  if (!given.contains("model.moe.balance.device_groups")) moe.device_groups = s.parallel.ep;
}

void resolve_devices(Scenario& s, const std::set<std::string>& given) {
  ClusterSpec& c = s.cluster;
  ParallelSpec& p = s.parallel;
  c.local = c.preset == "local";
  const std::int64_t model_ranks =
      product(product(product(p.tp, p.pp), p.cp), p.nano_train() ? p.ep : 1);
  const bool dp_given = given.contains("parallel.dp");
  if (!given.contains("cluster.devices_per_node"))
    c.devices_per_node = c.local ? bounded(product(model_ranks, dp_given ? p.dp : 1)) : 1;
  if (!given.contains("cluster.cores_per_node"))
    c.cores_per_node =
        c.local ? static_cast<int>(std::max(1U, std::thread::hardware_concurrency())) : 0;
  if (!given.contains("cluster.collectives.library"))
    c.library = c.local ? CollectiveLibrary::host : CollectiveLibrary::nccl;
  if (!given.contains("cluster.device.launch_overhead") && c.device.launch_overhead == 0)
    c.device.launch_overhead = 4e-6;
  const std::int64_t world = product(c.nodes, c.devices_per_node);
  if (!dp_given) p.dp = bounded(std::max<std::int64_t>(1, world / model_ranks));
}

void resolve_training(Scenario& s, const std::set<std::string>& given) {
  TrainingSpec& t = s.training;
  OptimizerSpec& o = t.optimizer;
  const std::int64_t data_ranks = product(
      s.parallel.dp, s.parallel.nano_train() && !s.parallel.replicates() ? s.parallel.ep : 1);
  if (!given.contains("training.sequence")) t.sequence = s.model.max_sequence;
  if (!given.contains("training.global_batch"))
    t.global_batch = bounded(product(8, product(t.micro_batch, data_ranks)));
  if (!given.contains("training.optimizer.decay_steps")) o.decay_steps = t.steps;
  if (!given.contains("training.optimizer.min_lr")) o.min_lr = o.lr / 10;
}

// Defaults of style nano_train (models.md 5 and 7.1).
void resolve_style(Scenario& s, const std::set<std::string>& given) {
  if (s.parallel.style != Style::nano_train) return;
  ParallelSpec& p = s.parallel;
  OptimizerSpec& o = s.training.optimizer;
  MoeSpec& moe = s.model.moe;
  const auto is_free = [&](const char* path) { return !given.contains(path); };
  if (is_free("parallel.mapping")) p.mapping = Mapping::nano_train;
  if (is_free("parallel.ep_data")) p.ep_data = ExpertData::replicate;
  if (is_free("parallel.vocab_parallel")) p.vocab_parallel = false;
  if (is_free("model.moe.balance.scope")) moe.scope = BalanceScope::microbatch;
  if (is_free("model.moe.balance.expert_loss") && moe.experts > 0) moe.expert_loss = 0.01;
  moe.group_max = moe.experts > 0;
  if (is_free("training.optimizer.lr")) o.lr = 1e-3;
  if (is_free("training.optimizer.betas")) o.beta1 = 0.9, o.beta2 = 0.999;
  if (is_free("training.optimizer.weight_decay")) o.weight_decay = 0.01;
  if (is_free("training.optimizer.clip")) o.clip = std::nullopt;
  o.decay_all = true;
}

void resolve_network(ClusterSpec& c, const std::set<std::string>& given) {
  for (std::size_t i = 0; i < c.network.size(); ++i)
    if (!given.contains("cluster.network[" + std::to_string(i) + "].scope"))
      c.network[i].scope = c.network[i].kind == "fat_tree" ? "cluster" : "node";
}

}  // namespace

std::vector<int> split_layers(int layers, int num_stages) {
  std::vector<int> split;
  for (int stage = 0; stage < num_stages; ++stage)
    split.push_back(layers / num_stages + (stage < layers % num_stages ? 1 : 0));
  return split;
}

void resolve(Scenario& s, const std::set<std::string>& given) {
  if (!given.contains("name")) s.name = stem_of(s.file);
  resolve_style(s, given);
  resolve_model(s.model, given);
  resolve_devices(s, given);
  resolve_experts(s, given);
  resolve_training(s, given);
  resolve_network(s.cluster, given);
  if (!given.contains("schedule.stages_per_rank")) {
    const std::optional<Order> order = kept_order(s.schedule);
    s.schedule.stages_per_rank = order
                                     ? stages_per_rank(*order)
                                     : default_stages_per_rank(s.schedule.kind, s.schedule.options);
  }
  const std::int64_t stages = product(s.parallel.pp, s.schedule.stages_per_rank);
  if (!given.contains("parallel.layer_split") && stages <= limits::kLayers)
    s.parallel.layer_split = split_layers(s.model.layers, static_cast<int>(stages));
  if (!given.contains("output.directory")) s.output.directory = "runs/{name}";
  if (const auto at = s.output.directory.find("{name}"); at != std::string::npos)
    s.output.directory.replace(at, 6, s.name);
}

}  // namespace tandem
