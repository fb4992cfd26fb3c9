// Parameters, FLOPs and memory; the roofline and the communications are in model_rates.cpp.
#include "tools/model_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "common/model/flops.h"
#include "common/model/parameters.h"
#include "common/parallel/gathered.h"
#include "common/parallel/held.h"
#include "common/parallel/memory.h"
#include "common/plan/build.h"
#include "common/plan/totals.h"
#include "common/report/numbers.h"
#include "sim/memory/tracker.h"
#include "tools/table.h"

namespace tandem::tools {
namespace {

// Whole numbers below 2^53 print as such.
Json number(double v) {
  if (v == std::floor(v) && std::abs(v) < 9.007199254740992e15) return static_cast<std::int64_t>(v);
  return v;
}

Json work_json(const Work& w) {
  return {{"F", number(w.forward)}, {"I", number(w.input)}, {"W", number(w.weight)}};
}

std::string human(Bytes b) { return text_of_bytes(static_cast<double>(b)); }

int layers_on(const Scenario& s, int pp) {
  int sum = 0;
  for (std::size_t i = 0; i < s.parallel.layer_split.size(); ++i)
    if (static_cast<int>(i) % s.parallel.pp == pp) sum += s.parallel.layer_split[i];
  return sum;
}

// What is whole for a moment above level 1; nullopt: it has no form.
std::optional<WholeBytes> gathered_parameters(const Scenario& s, int pp,
                                              const std::optional<Held>& held) {
  return held ? gathered_parameters(s, pp) : std::nullopt;
}
std::optional<WholeBytes> whole_gradients(const Scenario& s, int pp,
                                          const std::optional<Held>& held) {
  return held ? whole_gradients(s, pp, held->splits) : std::nullopt;
}

// With I and W apart there are gradients between them, which no form has.
bool has_bound(const Scenario& s, int pp, const std::optional<Held>& held) {
  return held && has_transient_form(s) && !held->splits && gathered_parameters(s, pp, held) &&
         whole_gradients(s, pp, held);
}

// Kept bytes if every layer were recomputed before its backward, with the layer that is made again.
std::optional<Bytes> kept_recomputed(Scenario s, const Order& order, int pp) {
  s.training.recompute = Recompute::full;
  const auto held = held_along(s, order, pp);
  if (!held) return std::nullopt;
  return held->peak.sum() + recompute_working_set(s, pp);
}

// Every level of ZeRO, as formulas.
Json zero_json(const Scenario& s, int pp) {
  Json list = Json::array();
  for (int level = 0; level <= 3; ++level) {
    const StaticBytes b = static_bytes(s, pp, level);
    list.push_back({{"zero", level},
                    {"param", b.param},
                    {"grad", b.grad},
                    {"optim", b.optim},
                    {"sum", b.sum()}});
  }
  return list;
}

Json classes_json(const ClassBytes& bytes) {
  Json out = Json::object();
  for (int c = 0; c < kNumBufferClasses; ++c)
    if (const Bytes b = bytes[static_cast<std::size_t>(c)]; b > 0)
      out[std::string(name_of(static_cast<BufferClass>(c)))] = b;
  return out;
}

// `exact` false: at most so much.
Json whole_json(const WholeBytes& whole) { return {{"most", whole.most}, {"exact", whole.exact}}; }

Json rank_json(const Scenario& s, const Order& order, int pp, const sim::ProgramMemory& plan) {
  Json rank = {{"pp", pp}, {"ranks", s.parallel.world() / s.parallel.pp}};
  const StaticBytes fixed = static_bytes(s, pp, s.parallel.zero);
  rank["param"] = fixed.param, rank["grad"] = fixed.grad, rank["optim"] = fixed.optim;
  if (const auto held = held_along(s, order, pp)) {
    const KeptBytes& kept = held->peak;
    rank["in_flight"] = held->visits;
    if (held->splits) rank["in_flight_weight"] = held->visits_weight;
    rank["saved_input"] = kept.saved_input, rank["saved_weight"] = kept.saved_weight;
    rank["logits"] = kept.logits, rank["batch"] = kept.batch;
    if (s.parallel.zero >= 2) {
      if (const auto whole = whole_gradients(s, pp, held)) rank["grad_full"] = whole_json(*whole);
      if (const auto whole = gathered_parameters(s, pp, held); whole && s.parallel.zero == 3)
        rank["param_full"] = whole_json(*whole);
    }
    if (has_bound(s, pp, held)) rank["bound"] = peak_bound(s, pp, kept);
    rank["recompute_full"] = {{"kept", *kept_recomputed(s, order, pp)}, {"kept_now", kept.sum()}};
  }
  rank["plan"] = {{"peak", plan.peak.total},
                  {"by_class", classes_json(plan.peak.by_class)},
                  {"kernel_scratch", plan.kernel_scratch},
                  {"needed", plan.needed}};
  rank["zero"] = zero_json(s, pp);
  return rank;
}

// Why cells of the formulas are empty; "" where none is.
std::string no_formula(const Scenario& s, int pp, const std::optional<Held>& held) {
  std::string out;
  const auto add = [&](const char* what) { (out += out.empty() ? "" : "; ") += what; };
  if (!held) add("visits of cells that run a forward beside a backward");
  if (held && held->splits) add("gradients between I and W, and so the bound");
  if (held && !gathered_parameters(s, pp, held))
    add("parameters gathered with this style (param_full), and so the bound");
  if (held && !whole_gradients(s, pp, held))
    add(held->splits ? "gradients that wait whole from I to W (grad_full)"
                     : "gradients that are whole with this style (grad_full), and so the bound");
  if (!has_transient_form(s))
    add("what lives for a moment with this recomputation, mapping or context parallelism");
  return out.empty() ? out : "No formula for " + out + ": the plan's columns say it.\n";
}

// The rank with the highest peak, class by class, and what other settings would hold.
std::string peak_rank_text(const Scenario& s, const Order& order, int pp,
                           const sim::ProgramMemory& m) {
  std::string out = fmt::format("\nPeak rank: pp {}, bytes\n", pp);
  const auto held = held_along(s, order, pp);
  const StaticBytes fixed = static_bytes(s, pp, s.parallel.zero);
  std::array<std::string, kNumBufferClasses> form;
  const auto set = [&](BufferClass c, Bytes b) { form[static_cast<std::size_t>(c)] = grouped(b); };
  set(BufferClass::param, fixed.param);
  set(BufferClass::grad, fixed.grad);
  set(BufferClass::optim, fixed.optim);
  // At most so much, where the form is no equality.
  const auto set_whole = [&](BufferClass c, const std::optional<WholeBytes>& whole) {
    if (whole)
      form[static_cast<std::size_t>(c)] = (whole->exact ? "" : "<= ") + grouped(whole->most);
  };
  set_whole(BufferClass::param_full, gathered_parameters(s, pp, held));
  set_whole(BufferClass::grad_full, whole_gradients(s, pp, held));
  if (held) {
    const KeptBytes& kept = held->peak;
    const TransientBytes moving = transient_bytes(s, pp);
    set(BufferClass::saved_input, kept.saved_input);
    set(BufferClass::saved_weight, kept.saved_weight);
    set(BufferClass::logits, kept.logits);
    set(BufferClass::batch, kept.batch);
    if (has_transient_form(s) && !held->splits) {
      set(BufferClass::activation, moving.activation);
      set(BufferClass::grad_activation, moving.grad_activation);
      set(BufferClass::scratch, moving.scratch);
      set(BufferClass::comm, kept.comm + moving.comm);
    }
  }
  Table t({"class<", "formula", "plan, peak of the class", "plan, at the peak"});
  for (std::size_t c = 0; c < kNumBufferClasses; ++c)
    if (m.peak.by_class[c] > 0)
      t.row({std::string(name_of(static_cast<BufferClass>(c))), form[c],
             grouped(m.peak.by_class[c]), grouped(m.peak.at_peak[c])});
  t.row({"all together",
         has_bound(s, pp, held) ? "<= " + grouped(peak_bound(s, pp, held->peak)) : "", "",
         grouped(m.peak.total)});
  t.row({"with scratch of kernels", "", "", grouped(m.needed)});
  out += t.text() + no_formula(s, pp, held);

  out += fmt::format("\nWhat other settings would hold on this rank (formulas), bytes\n");
  Table what({"setting<", "param", "grad", "optim", "kept between F and B"});
  const std::string kept = held ? grouped(held->peak.sum()) : "";
  for (int level = 0; level <= 3; ++level) {
    const StaticBytes b = static_bytes(s, pp, level);
    const std::string name = fmt::format("zero {}", level);
    what.row({level == s.parallel.zero ? "as it is (" + name + ")" : name, grouped(b.param),
              grouped(b.grad), grouped(b.optim), kept});
  }
  if (const auto recomputed = kept_recomputed(s, order, pp))
    what.row({"recompute full", grouped(fixed.param), grouped(fixed.grad), grouped(fixed.optim),
              grouped(*recomputed)});
  return out + what.text();
}

}  // namespace

Section parameters_section(const Scenario& s) {
  const ModelShape shape = model_shape(s.model);
  const std::int64_t total = parameter_count(shape);
  std::array<std::int64_t, kNumModules> by_module{};
  std::int64_t tensors = 0;
  for (const Tensor& t : parameter_tensors(shape)) {
    by_module[static_cast<std::size_t>(t.module)] += t.shape.elements();
    ++tensors;
  }
  Section out;
  out.json = {{"total", total},
              {"per_token", parameters_per_token(shape)},
              {"tensors", tensors},
              {"layer", layer_parameters(shape, 0)}};
  out.text = fmt::format("Parameters: {} in {} tensors, {} a layer\n", grouped(total),
                         grouped(tensors), grouped(layer_parameters(shape, 0)));
  Table modules({"module<", "parameters", "share"});
  for (std::size_t i = 0; i < kNumModules; ++i) {
    const std::int64_t n = by_module[i];
    if (n == 0) continue;
    const std::string name(name_of(static_cast<Module>(i)));
    out.json["by_module"][name] = n;
    modules.row({name, grouped(n), percent(static_cast<double>(n) / static_cast<double>(total))});
  }
  out.text += modules.text() + "\n";
  const int ep = s.parallel.nano_train() ? s.parallel.ep : 1;
  Table ranks(
      {"pp", "layers", "parameters of a rank", ep > 1 ? "tp x ep x dp ranks" : "tp x dp ranks"});
  for (int pp = 0; pp < s.parallel.pp; ++pp) {
    const std::int64_t local = local_parameters(s, pp);
    out.json["ranks"].push_back({{"pp", pp}, {"layers", layers_on(s, pp)}, {"parameters", local}});
    ranks.row({std::to_string(pp), std::to_string(layers_on(s, pp)), grouped(local),
               ep > 1 ? fmt::format("{} x {} x {}", s.parallel.tp, ep, s.parallel.dp)
                      : fmt::format("{} x {}", s.parallel.tp, s.parallel.dp)});
  }
  out.text += ranks.text();
  return out;
}

Section flops_section(const Scenario& s, const Plan& plan) {
  Section out;
  const double model = model_flops_of_step(s);
  double executed = 0;
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    executed +=
        executed_flops(plan, ProgramId{static_cast<int>(p)}) * (s.parallel.world() / s.parallel.pp);
  const double estimate =
      six_n_flops(model_shape(s.model), s.training.global_batch, s.training.sequence);
  out.text = "FLOPs of one microbatch on one rank\n";
  Table t({"op<", "F", "I", "W", "executed F", "executed I", "executed W"});
  Json list = Json::array();
  // Kinds of layers: without experts, with experts.
  const ModelShape shape = model_shape(s.model);
  std::array<int, 2> count{}, first{-1, -1};
  for (int layer = 0; layer < s.model.layers; ++layer) {
    const auto kind = static_cast<std::size_t>(shape.is_moe(layer) ? 1 : 0);
    if (count[kind]++ == 0) first[kind] = layer;
  }
  const auto add = [&](const OperationFlops& op, int times, const std::string& of) {
    list.push_back({{"name", op.name},
                    {"times", times},
                    {"model", work_json(op.model)},
                    {"executed", work_json(op.executed)}});
    t.row({fmt::format("{}{}", op.name, of), with_prefix(op.model.forward),
           with_prefix(op.model.input), with_prefix(op.model.weight),
           with_prefix(op.executed.forward), with_prefix(op.executed.input),
           with_prefix(op.executed.weight)});
  };
  for (std::size_t kind = 0; kind < 2; ++kind) {
    const char* which = count[0] == 0 || count[1] == 0 ? "" : kind == 0 ? "dense " : "expert ";
    if (count[kind] > 0)
      for (const OperationFlops& op : layer_flops(s, first[kind]))
        add(op, count[kind], fmt::format(", {} {}layers", count[kind], which));
  }
  add(head_flops(s), 1, "");
  out.text += t.text();
  out.text += fmt::format(
      "\nFLOPs of a step, all ranks\n  model      {:.6g} (causal; what MFU counts)\n  executed   "
      "{:.6g} ({:.4f} of the model's)\n  6 N        {:.6g} (estimate: 6 a token and parameter)\n",
      model, executed, executed / model, estimate);
  out.json = {{"operations", std::move(list)},
              {"model", number(model)},
              {"executed", number(executed)},
              {"executed_over_model", executed / model},
              {"six_n", number(estimate)}};
  return out;
}

Section memory_section(const Scenario& s, const Plan& plan) {
  Section out;
  const std::vector<sim::ProgramMemory> planned = sim::track_memory(plan);
  const Result<Order> order = computing_order(s);
  TANDEM_CHECK(order.ok(), "a plan without an order");
  out.text = "Memory of a rank\n";
  Table t({"pp", "open", "param", "grad", "optim", "saved_input", "saved_weight", "logits", "batch",
           "peak of the plan"});
  out.json = {{"ranks", Json::array()}};
  int most = 0;
  for (int pp = 0; pp < s.parallel.pp; ++pp) {
    const sim::ProgramMemory& m = planned[static_cast<std::size_t>(pp)];
    out.json["ranks"].push_back(rank_json(s, *order, pp, m));
    if (m.needed > planned[static_cast<std::size_t>(most)].needed) most = pp;
    const auto held = held_along(s, *order, pp);
    const KeptBytes kept = held ? held->peak : KeptBytes{};
    const auto cell = [&](Bytes b) { return held ? human(b) : std::string("-"); };
    const std::string open = !held ? "-"
                             : held->visits == held->visits_weight
                                 ? std::to_string(held->visits)
                                 : fmt::format("{}, W {}", held->visits, held->visits_weight);
    const StaticBytes fixed = static_bytes(s, pp, s.parallel.zero);
    t.row({std::to_string(pp), open, human(fixed.param), human(fixed.grad), human(fixed.optim),
           cell(kept.saved_input), cell(kept.saved_weight), cell(kept.logits), cell(kept.batch),
           human(m.peak.total)});
  }
  out.json["peak_pp"] = most;
  out.json["needed"] = planned[static_cast<std::size_t>(most)].needed;
  out.json["capacity"] = s.cluster.device.memory;
  out.text += t.text() + peak_rank_text(s, *order, most, planned[static_cast<std::size_t>(most)]);
  out.text += fmt::format("\nThe device has {}\n", human(s.cluster.device.memory));
  return out;
}

}  // namespace tandem::tools
