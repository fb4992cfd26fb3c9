#include "common/parallel/groups.h"

#include "common/base/check.h"

namespace tandem {
namespace {

AxisSet axes(std::initializer_list<Axis> list) {
  AxisSet set;
  for (Axis a : list) set.add(a);
  return set;
}

bool nano_train(const Scenario& s) { return s.parallel.mapping == Mapping::nano_train; }

int& size(Mesh& m, Axis a) { return m.size[static_cast<std::size_t>(a)]; }

}  // namespace

Mesh mesh_of(const Scenario& s) {
  const ParallelSpec& p = s.parallel;
  Mesh m;
  size(m, Axis::tp) = p.tp, size(m, Axis::cp) = p.cp;
  size(m, Axis::dp) = p.dp, size(m, Axis::pp) = p.pp;
  if (nano_train(s)) {
    m.order = {Axis::cp, Axis::ep, Axis::tp, Axis::pp, Axis::dp};
    size(m, Axis::ep) = p.ep;
    return m;
  }
  m.order.clear();
  for (const std::string& word : p.order)
    if (const auto a = axis_from(word); a && *a != Axis::ep) m.order.push_back(*a);
  if (s.model.moe.experts == 0) return m;
  // The same ranks by etp (in the place of tp), ep, edp (in the place of dp) and pp.
  for (const std::string& word : p.order) {
    if (word == "tp") m.expert_order.push_back(Axis::etp);
    if (word == "ep") m.expert_order.push_back(Axis::ep);
    if (word == "dp") m.expert_order.push_back(Axis::edp);
    if (word == "pp") m.expert_order.push_back(Axis::pp);
  }
  size(m, Axis::etp) = p.etp, size(m, Axis::ep) = p.ep;
  size(m, Axis::edp) = p.tp * p.cp * p.dp / (p.etp * p.ep);
  return m;
}

std::vector<NamedGroup> named_groups(const Scenario& s) {
  using enum Axis;
  if (nano_train(s))
    return {{"tp", axes({tp})},
            {"ep", axes({ep})},
            {"dp", axes({dp})},
            {"dp_ep", axes({dp, ep})},
            {"edp", axes({tp, dp})},
            {"stage", axes({tp, dp, ep})},
            {"world", axes({tp, dp, pp, ep})}};
  const bool context = s.parallel.cp > 1;  // cp is left out where it has one member
  const auto with_cp = [&](AxisSet set) { return context ? set.add(cp) : set; };
  return {{"tp", axes({tp})},
          {"cp", axes({cp})},
          {"tp_cp", with_cp(axes({tp}))},
          {context ? "dp_cp" : "dp", with_cp(axes({dp}))},
          {"stage", with_cp(axes({tp, dp}))},
          {"etp", axes({etp})},
          {"ep", axes({ep})},
          {"edp", axes({edp})},
          {"world", with_cp(axes({tp, dp, pp}))}};
}

ReducingGroup reducing_group(const Scenario& s, TensorClass cls) {
  const bool nano = nano_train(s), replicate = s.parallel.ep_data == ExpertData::replicate;
  std::string_view name = "dp", tag = "grad.dp";
  switch (cls) {
    case TensorClass::tp_cut:
    case TensorClass::tied:
      if (nano && !replicate) name = "dp_ep";
      break;
    case TensorClass::whole:
      if (nano && !replicate) name = "dp_ep";
      if (!nano && cuts_sequence(s)) name = "stage", tag = "grad.stage";
      break;
    case TensorClass::router:
      if (nano) name = replicate ? "edp" : "stage", tag = "grad.stage";
      if (!nano && cuts_sequence(s)) name = "stage", tag = "grad.stage";
      break;
    case TensorClass::routed_expert:
      name = "edp", tag = "grad.exp";
      break;
  }
  if (name == "dp" && !nano && s.parallel.cp > 1) name = "dp_cp";
  for (const NamedGroup& g : named_groups(s))
    if (g.name == name) return {g, tag};
  TANDEM_CHECK(false, "no group {}", name);
  return {};
}

}  // namespace tandem
