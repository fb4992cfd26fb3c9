// Step `stages`: the header of the plan and its communicators. A communicator that would have one
// member is not made, and nothing communicates over it.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/base/sha256.h"
#include "common/parallel/groups.h"
#include "common/plan/lower/draft.h"
#include "common/scenario/fields.h"

namespace tandem::lower {
namespace {

PlanTypes types_of(Precision p) {
  switch (p) {
    case Precision::fp64:
      return {DType::f64, DType::f64};
    case Precision::fp32:
      return {DType::f32, DType::f32};
    case Precision::bf16:
      return {DType::bf16, DType::f32};
    case Precision::fp16:
    case Precision::fp8:
      break;  // the reader refuses them
  }
  return {DType::f16, DType::f32};
}

// Fields that change no op and no buffer of the plan. What schedule.file holds does, its name not.
bool outside_the_plan(std::string_view path) {
  return path == "schedule.file" || path == "training.steps" || path == "training.init" ||
         path.starts_with("training.data.") || path.starts_with("training.checkpoint.") ||
         path.starts_with("training.evaluation.") || path.starts_with("training.metrics.") ||
         (path.starts_with("training.optimizer.") && path != "training.optimizer.clip");
}

// Of everything that shapes a step: model, training shapes, parallel, schedule.
std::string digest_of(const Scenario& s) {
  std::string text;
  for (const Field& f : scenario_fields()) {
    const bool shapes = f.path.starts_with("model.") || f.path.starts_with("training.") ||
                        f.path.starts_with("parallel.") || f.path.starts_with("schedule.");
    if (!shapes || !f.get || f.path == "model.preset" || outside_the_plan(f.path)) continue;
    // Plans that wait for the norm have the digest that they had before there was a choice.
    if (f.path == "schedule.optimizer_barrier" &&
        s.schedule.optimizer_barrier == OptimizerBarrier::synchronous)
      continue;
    const FieldValue value = f.get(s, 0);
    if (!value.absent) text += fmt::format("{}={}\n", f.path, value_text(f, value));
  }
  return sha256_hex(text).substr(0, 16);
}

template <class E>
std::string word(const char* path, E value) {
  return words_of(find_field(path)->names)[static_cast<std::size_t>(value)];
}

class Table {
 public:
  explicit Table(Draft& d) : d_(d), mesh_(d.plan.header.mesh) {}
  void axes(std::string_view name, AxisSet axes) {
    Communicator c;
    c.axes = axes;
    c.size = mesh_.size_of_group(axes);
    add(name, c);
  }
  void pair(const std::string& name, int first, int second) {
    Communicator c;
    c.axes.add(Axis::pp);
    c.pair_first = first, c.pair_second = second, c.size = 2;
    add(name, c);
  }

 private:
  void add(std::string_view name, Communicator c) {
    if (c.size < 2) return;
    c.name = d_.name(name);
    d_.plan.communicators.push_back(c);
  }
  Draft& d_;
  const Mesh& mesh_;
};

// What this model and mesh communicate over; the others would be idle. An evaluation reduces no
// gradients: of their groups it uses those that ZeRO-3 gathers parameters over.
bool is_used(const Scenario& s, const NamedGroup& group, bool evaluation) {
  const std::string_view name = group.name;
  const bool experts = s.model.moe.experts > 0 && s.model.moe.dense_first < s.model.layers;
  if (name == "tp" || name == "cp" || name == "world") return true;
  if (name == "ep" || name == "etp") return experts;
  if (name == "tp_cp") return experts && !evaluation && s.parallel.tp * s.parallel.cp > 1;
  if (evaluation && s.parallel.zero < 3) return false;
  using enum TensorClass;
  for (TensorClass c : {tp_cut, whole, router, routed_expert}) {
    if (!experts && (c == router || c == routed_expert)) continue;
    if (reducing_group(s, c).group.name == name) return true;
  }
  return name == "stage" && experts && !evaluation && s.model.moe.bias_update > 0;
}

// One for each neighbourhood of stages on two ranks; lower ranks first, forwards before backwards.
void pipeline_communicators(const Scenario& s, const Order& order, bool evaluation, Table& table) {
  if (order.num_ranks() == 1) return;
  if (s.schedule.communicators == P2pCommunicators::world)
    return table.axes("p2p", AxisSet{}.add(Axis::pp));
  std::set<std::pair<int, int>> directed;
  for (int dir = 0; dir < order.num_dirs; ++dir)
    for (int stage = 0; stage + 1 < order.num_stages(); ++stage) {
      const int from = order.rank_of(dir, stage), to = order.rank_of(dir, stage + 1);
      if (from == to) continue;
      directed.insert({from, to});
      if (!evaluation) directed.insert({to, from});
    }
  std::set<std::pair<int, int>> pairs;
  for (const auto& [from, to] : directed) pairs.insert({std::min(from, to), std::max(from, to)});
  for (const auto& [low, high] : pairs) {
    if (s.schedule.communicators == P2pCommunicators::pair) {
      table.pair(fmt::format("pair:{}-{}", low, high), low, high);
      continue;
    }
    for (const auto& [from, to] : {std::pair{low, high}, std::pair{high, low}})
      if (directed.contains({from, to})) table.pair(fmt::format("edge:{}->{}", from, to), from, to);
  }
}

}  // namespace

void stages(Draft& d) {
  const Scenario& s = d.scenario;
  PlanHeader& h = d.plan.header;
  h.digest = digest_of(s);
  h.schedule = s.schedule.kind;
  h.receive = word("schedule.receive", s.schedule.receive);
  h.communicators = word("schedule.communicators", s.schedule.communicators);
  h.grouping = word("schedule.grouping", s.schedule.grouping);
  h.microbatches = s.num_microbatches();
  h.micro_batch = s.training.micro_batch;
  h.sequence = s.training.sequence;
  h.mesh = mesh_of(s);
  if (s.parallel.nano_train() && !s.parallel.replicates() && s.parallel.ep > 1)
    h.data_axes.add(Axis::ep);
  h.stage_rank.assign(d.order.stage_rank.begin(), d.order.stage_rank.end());
  h.copies = d.order.num_dirs;
  h.slices = d.order.num_slices;
  h.types = types_of(s.training.precision);
  h.evaluation = d.evaluation;
  h.settling = d.settling;

  Table table(d);
  if (h.copies == 2 && !d.evaluation)
    for (int r = 0; 2 * r + 1 < d.order.num_ranks(); ++r)
      table.pair(fmt::format("copy:{}-{}", r, d.order.num_ranks() - 1 - r), r,
                 d.order.num_ranks() - 1 - r);
  for (const NamedGroup& g : named_groups(s)) {
    if (g.name == "world" && s.model.tied_embeddings && !d.ties_on_one_rank() && !d.evaluation)
      table.pair("emb", d.order.stage_rank.front(), d.order.stage_rank.back());
    if (is_used(s, g, d.evaluation)) table.axes(g.name, g.axes);
  }
  pipeline_communicators(s, d.order, d.evaluation, table);
  if (s.parallel.style == Style::nano_train && s.parallel.pp > 1)
    table.pair("labels", 0, s.parallel.pp - 1);
}

}  // namespace tandem::lower
