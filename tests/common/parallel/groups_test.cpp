// Goal    a scenario's groups of ranks are the tables of models.md 3.1 and 3.2, and each class of
//         parameters is summed over the group of 4.8.
// Method  the rows of those tables, written out.
#include "common/parallel/groups.h"

#include <doctest/doctest.h>

#include <string>

namespace tandem {
namespace {

struct Sizes {
  int world, tp = 1, cp = 1, pp = 1, ep = 1, etp = 1;
};

Scenario scenario(Mapping mapping, Sizes z) {
  Scenario s;
  s.model.moe.experts = 8;
  s.parallel.mapping = mapping;
  s.parallel.tp = z.tp, s.parallel.cp = z.cp, s.parallel.pp = z.pp;
  s.parallel.ep = z.ep, s.parallel.etp = z.etp;
  s.parallel.dp = z.world / (z.tp * z.cp * z.pp * (mapping == Mapping::nano_train ? z.ep : 1));
  return s;
}

// "01 23": the groups of that name; "-" where they have one member.
std::string groups(const Scenario& s, std::string_view name) {
  const Mesh mesh = mesh_of(s);
  AxisSet axes;
  if (name == "pp") axes.add(Axis::pp);
  for (const NamedGroup& g : named_groups(s))
    if (g.name == name) axes = g.axes;
  if (mesh.size_of_group(axes) == 1) return "-";
  std::string out;
  for (const auto& group : mesh.groups(axes)) {
    if (!out.empty()) out += ' ';
    for (Rank r : group) {
      if (mesh.world() > 10 && r != group.front()) out += ',';
      out += std::to_string(r.value);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("megatron: experts fold into the ranks of a stage") {
  const auto of = [](Sizes z) { return scenario(Mapping::megatron, z); };
  Scenario s = of({8, 2, 1, 2, 2});
  CHECK(mesh_of(s).of(Axis::edp) == 2);
  CHECK(groups(s, "tp") == "01 23 45 67");
  CHECK(groups(s, "dp") == "02 13 46 57");
  CHECK(groups(s, "pp") == "04 15 26 37");
  CHECK(groups(s, "ep") == "01 23 45 67");
  CHECK(groups(s, "edp") == "02 13 46 57");
  s = of({8, 2, 1, 2, 4});
  CHECK(groups(s, "ep") == "0123 4567");
  CHECK(groups(s, "edp") == "-");
  s = of({8, 2, 2, 2, 2});
  CHECK(groups(s, "cp") == "02 13 46 57");
  CHECK(groups(s, "dp_cp") == "02 13 46 57");
  CHECK(groups(s, "ep") == "01 23 45 67");
  CHECK(groups(s, "edp") == "02 13 46 57");
  s = of({8, 2, 1, 1, 4, 2});
  CHECK(groups(s, "dp") == "0246 1357");
  CHECK(groups(s, "ep") == "0246 1357");
  CHECK(groups(s, "etp") == "01 23 45 67");
  CHECK(groups(s, "edp") == "-");
  s = of({16, 2, 1, 2, 4});
  CHECK(groups(s, "dp") == "0,2,4,6 1,3,5,7 8,10,12,14 9,11,13,15");
  CHECK(groups(s, "ep") == "0,1,2,3 4,5,6,7 8,9,10,11 12,13,14,15");
  CHECK(groups(s, "edp") == "0,4 1,5 2,6 3,7 8,12 9,13 10,14 11,15");
  s = of({16, 2, 2, 2, 2, 2});
  CHECK(groups(s, "dp_cp") == "0,2,4,6 1,3,5,7 8,10,12,14 9,11,13,15");
  CHECK(groups(s, "etp") == "0,1 2,3 4,5 6,7 8,9 10,11 12,13 14,15");
  CHECK(groups(s, "ep") == "0,2 1,3 4,6 5,7 8,10 9,11 12,14 13,15");
  CHECK(groups(s, "edp") == "0,4 1,5 2,6 3,7 8,12 9,13 10,14 11,15");
  s = of({16, 4, 1, 1, 8});
  CHECK(groups(s, "dp") == "0,4,8,12 1,5,9,13 2,6,10,14 3,7,11,15");
  CHECK(groups(s, "ep") == "0,1,2,3,4,5,6,7 8,9,10,11,12,13,14,15");
  CHECK(groups(s, "edp") == "0,8 1,9 2,10 3,11 4,12 5,13 6,14 7,15");
}

TEST_CASE("nano_train: experts are a fifth factor") {
  const auto of = [](Sizes z) { return scenario(Mapping::nano_train, z); };
  Scenario s = of({8, 2, 1, 2, 2});
  CHECK(groups(s, "tp") == "02 13 46 57");
  CHECK(groups(s, "ep") == "01 23 45 67");
  CHECK(groups(s, "pp") == "04 15 26 37");
  CHECK(groups(s, "dp") == "-");
  CHECK(groups(s, "edp") == "02 13 46 57");
  s = of({4, 1, 1, 2, 2});
  CHECK(groups(s, "tp") == "-");
  CHECK(groups(s, "ep") == "01 23");
  CHECK(groups(s, "pp") == "02 13");
  CHECK(groups(s, "edp") == "-");
  s = of({4, 2});
  CHECK(groups(s, "tp") == "01 23");
  CHECK(groups(s, "dp") == "02 13");
  CHECK(groups(s, "edp") == "0123");
  s = of({8, 2, 1, 1, 2});
  CHECK(groups(s, "tp") == "02 13 46 57");
  CHECK(groups(s, "dp") == "04 15 26 37");
  CHECK(groups(s, "edp") == "0246 1357");
  s = of({8, 1, 1, 2, 2});
  CHECK(groups(s, "dp") == "04 15 26 37");
  CHECK(groups(s, "edp") == "04 15 26 37");
  s = of({16, 2, 1, 2, 2});
  CHECK(groups(s, "tp") == "0,2 1,3 4,6 5,7 8,10 9,11 12,14 13,15");
  CHECK(groups(s, "pp") == "0,4 1,5 2,6 3,7 8,12 9,13 10,14 11,15");
  CHECK(groups(s, "dp") == "0,8 1,9 2,10 3,11 4,12 5,13 6,14 7,15");
  CHECK(groups(s, "edp") == "0,2,8,10 1,3,9,11 4,6,12,14 5,7,13,15");
}

TEST_CASE("each class of parameters has one reducing group") {
  const auto name = [](const Scenario& s, TensorClass c) {
    const ReducingGroup r = reducing_group(s, c);
    return std::string(r.group.name) + " " + std::string(r.tag);
  };
  using enum TensorClass;
  Scenario s = scenario(Mapping::megatron, {16, 2, 2, 2, 2});
  CHECK(name(s, tp_cut) == "dp_cp grad.dp");
  CHECK(name(s, whole) == "dp_cp grad.dp");  // tp ranks compute the same
  CHECK(name(s, routed_expert) == "edp grad.exp");
  s.parallel.sequence_parallel = true;  // each tp rank sees its own tokens
  CHECK(name(s, tp_cut) == "dp_cp grad.dp");
  CHECK(name(s, whole) == "stage grad.stage");
  CHECK(name(s, router) == "stage grad.stage");
  s = scenario(Mapping::nano_train, {8, 2, 1, 1, 2});
  CHECK(name(s, tp_cut) == "dp_ep grad.dp");
  CHECK(name(s, router) == "stage grad.stage");
  CHECK(name(s, routed_expert) == "edp grad.exp");
  s.parallel.ep_data = ExpertData::replicate;
  CHECK(name(s, whole) == "dp grad.dp");
  CHECK(name(s, router) == "edp grad.stage");
}

}  // namespace tandem
