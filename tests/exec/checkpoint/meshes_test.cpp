// Goal    what is saved on one mesh is there on another, bit by bit: parameter, m, v on every rank.
// Method  ranks are memory filled by an oracle that knows names and full indices (fake_ranks.h);
//         every pair of meshes, tied and untied, padded vocabulary, two families, three types.
#include <fmt/format.h>

#include "common/plan/build.h"
#include "common/scenario/read.h"
#include "exec/checkpoint/folder.h"
#include "exec/checkpoint/held.h"
#include "tests/exec/checkpoint/fake_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

std::vector<FakeLayout> meshes(FakeLayout base) {
  std::vector<FakeLayout> out;
  for (const auto& [tp, pp, dp] :
       {std::array{1, 1, 1}, {2, 2, 1}, {1, 1, 2}, {1, 4, 1}, {4, 1, 1}, {2, 2, 2}, {2, 1, 4}}) {
    base.tp = tp, base.pp = pp, base.dp = dp;
    out.push_back(base);
  }
  for (const auto& [tp, cp] : {std::pair{1, 4}, std::pair{2, 2}}) {  // copies over cp
    base.tp = tp, base.pp = base.dp = 1, base.cp = cp;
    out.push_back(base);
  }
  return out;
}

void check_all_pairs(const std::vector<FakeLayout>& layouts) {
  for (const FakeLayout& from : layouts) {
    const TestFolder folder;
    FakeRanks saved(from);
    saved.fill(10);
    REQUIRE(saved.difference(10) == "");
    REQUIRE(saved.difference(11) != "");
    REQUIRE(message_of(saved.save(folder, 10)) == "");
    const std::string checkpoint = checkpoint_path(folder.dir(), 10);
    const auto manifest = read_manifest(checkpoint);
    REQUIRE(manifest.ok());
    CHECK(message_of(check_files(*manifest, checkpoint)) == "");
    CHECK(manifest->files.size() == static_cast<std::size_t>(saved.world()));
    for (const FakeLayout& to : layouts) {
      const std::string pair =
          fmt::format("tp {} cp {} pp {} dp {} ep {} -> tp {} cp {} pp {} dp {} ep {}", from.tp,
                      from.cp, from.pp, from.dp, from.ep, to.tp, to.cp, to.pp, to.dp, to.ep);
      CAPTURE(pair);
      FakeRanks loaded(to);
      CHECK(model_digest(loaded.plan()) == manifest->model_digest);
      Diagnostics warnings;
      CHECK(message_of(check_continues(*manifest, checkpoint, loaded.plan(),
                                       config_of(to, folder.dir()), warnings)) == "");
      CHECK(warnings.empty());
      CHECK(message_of(loaded.load(checkpoint)) == "");
      CHECK(loaded.difference(10) == "");
    }
  }
}

void check_all_pairs(const FakeLayout& base) { check_all_pairs(meshes(base)); }

}  // namespace

TEST_CASE("every mesh to every mesh: gpt, tied, padded vocabulary") {
  check_all_pairs(FakeLayout{});
}
TEST_CASE("every mesh to every mesh: gpt, untied, fp64, no padding") {
  check_all_pairs(FakeLayout{.tied = false, .vocab = 256, .precision = Precision::fp64});
}
TEST_CASE("every mesh to every mesh: llama, untied") {
  check_all_pairs(FakeLayout{.tied = false, .family = ModelFamily::llama});
}
TEST_CASE("every mesh to every mesh: bf16 parameters are cast from their main copies") {
  check_all_pairs(FakeLayout{.precision = Precision::bf16});
}
// In mapping nano_train ep is a factor of the ranks, and tensor ranks hold copies of experts: lane
// 0 saves them (models.md 8a).
TEST_CASE("every mesh to every mesh: experts, mapping megatron and nano_train") {
  const FakeLayout base{.tied = false, .family = ModelFamily::mixtral};
  std::vector<FakeLayout> layouts(6, base);
  layouts[1].dp = 2, layouts[1].ep = 2;
  layouts[2].tp = 2, layouts[2].pp = 2;
  for (std::size_t i = 3; i < layouts.size(); ++i) layouts[i].mapping = Mapping::nano_train;
  layouts[3].tp = 2, layouts[3].ep = 2, layouts[3].pp = 2;
  layouts[4].ep = 4, layouts[4].dp = 2;  // the fake ranks hold whole states: no ZeRO
  layouts[5].ep = 2, layouts[5].dp = 2, layouts[5].ep_data = ExpertData::replicate;
  check_all_pairs(layouts);
}
TEST_CASE("every expert mesh to every expert mesh: whole experts, and slices of their width") {
  std::vector<FakeLayout> layouts;
  for (const auto& [tp, pp, dp, ep, etp] : {std::array{1, 1, 1, 1, 1},
                                            {2, 1, 2, 2, 2},
                                            {1, 1, 4, 4, 1},
                                            {2, 2, 1, 1, 2},
                                            {1, 1, 4, 1, 4}})
    layouts.push_back({.tp = tp,
                       .pp = pp,
                       .dp = dp,
                       .tied = false,
                       .vocab = 256,
                       .family = ModelFamily::mixtral,
                       .ep = ep,
                       .etp = etp});
  for (const FakeLayout& from : layouts) {
    const TestFolder folder;
    FakeRanks saved(from);
    saved.fill(10);
    REQUIRE(message_of(saved.save(folder, 10)) == "");
    const std::string checkpoint = checkpoint_path(folder.dir(), 10);
    const auto manifest = read_manifest(checkpoint);
    REQUIRE(manifest.ok());
    for (const FakeLayout& to : layouts) {
      const std::string pair =
          fmt::format("tp {} pp {} ep {} etp {} -> tp {} pp {} ep {} etp {}", from.tp, from.pp,
                      from.ep, from.etp, to.tp, to.pp, to.ep, to.etp);
      CAPTURE(pair);
      FakeRanks loaded(to);
      CHECK(model_digest(loaded.plan()) == manifest->model_digest);
      CHECK(message_of(loaded.load(checkpoint)) == "");
      CHECK(loaded.difference(10) == "");
    }
  }
}

TEST_CASE("vocabulary split or whole: the same tensors") {
  FakeLayout split{.tp = 2}, whole{.tp = 2, .vocab_parallel = false};
  for (const auto& [from, to] : {std::pair(split, whole), std::pair(whole, split)}) {
    const TestFolder folder;
    FakeRanks saved(from), loaded(to);
    saved.fill(3);
    REQUIRE(message_of(saved.save(folder, 3)) == "");
    CHECK(message_of(loaded.load(checkpoint_path(folder.dir(), 3))) == "");
    CHECK(loaded.difference(3) == "");
  }
}

TEST_CASE("owners: an element is saved once, by coordinate 0 of what does not cut it") {
  const FakeRanks ranks({.tp = 2, .pp = 2, .dp = 2, .cp = 2});
  std::int64_t elements = 0;
  for (int r = 0; r < ranks.world(); ++r) {
    const Mesh& mesh = ranks.plan().header.mesh;
    for (const HeldPiece& h : held_pieces(ranks.plan(), Rank{r})) {
      const bool cut = h.piece.length != h.piece.shape;
      const bool first =
          mesh.coordinate(Rank{r}, Axis::dp) == 0 && mesh.coordinate(Rank{r}, Axis::cp) == 0 &&
          (cut || mesh.coordinate(Rank{r}, Axis::tp) == 0) &&
          (h.piece.name != "embed.weight" || mesh.coordinate(Rank{r}, Axis::pp) == 0);
      CAPTURE(h.piece.name);
      CHECK(h.is_owner == first);
      if (h.is_owner) elements += h.piece.elements();
    }
  }
  // gpt: L (4H^2 + 2HF + 9H + F) + VH + Smax H + 2H   (models.md 2.2)
  CHECK(elements == 4 * (4 * 16 * 16 + 2 * 16 * 32 + 9 * 16 + 32) + 251 * 16 + 8 * 16 + 2 * 16);
}

TEST_CASE("a manifest keeps both grids of a mesh") {
  CheckpointManifest m;
  m.mesh.size[static_cast<std::size_t>(Axis::tp)] = 2;
  m.mesh.size[static_cast<std::size_t>(Axis::dp)] = 4;
  m.mesh.expert_order = {Axis::etp, Axis::ep, Axis::edp, Axis::pp};
  m.mesh.size[static_cast<std::size_t>(Axis::ep)] = 8;
  const auto read = manifest_from_json(to_json(m), "m");
  REQUIRE(read.ok());
  CHECK(read->mesh == m.mesh);
}

TEST_CASE("where checkpoints go is no part of a plan") {
  Scenario s;
  s.model.layers = 2, s.model.hidden = 16, s.model.heads = s.model.kv_heads = 4;
  s.model.head_dim = 4, s.model.ffn_hidden = 32, s.model.vocab = 256, s.model.max_sequence = 8;
  s.training.sequence = 8, s.training.global_batch = 8;
  s.parallel.layer_split = {2};
  const Result<Plan> without = build_plan(s);
  s.training.checkpoint = {"somewhere", 5};
  const Result<Plan> with = build_plan(s);
  REQUIRE(without.ok());
  REQUIRE(with.ok());
  CHECK(with->header.digest == without->header.digest);
}

// models.md 4.6, style nano_train: k = ceil(N / g), rank i owns [min(i k, N), min((i+1) k, N)).
TEST_CASE("shards of single tensors that the ranks do not divide: 11 and 5 elements over 4") {
  const auto scenario = read_scenario_text(
      "t.yaml",
      "tandem: 1\nmodel: {preset: deepseek-tiny, mla: {q_rank: 5, kv_rank: 11}}\n"
      "training: {micro_batch: 1, global_batch: 8}\nparallel: {style: nano_train, dp: 4, zero: "
      "1}\n");
  REQUIRE_MESSAGE(scenario.ok(), (scenario.ok() ? "" : to_text(scenario.error().diagnostics)));
  const Result<Plan> plan = build_plan(*scenario);
  REQUIRE_MESSAGE(plan.ok(), (plan.ok() ? "" : to_text(plan.error().diagnostics)));
  using Ranges = std::vector<std::pair<std::int64_t, std::int64_t>>;
  const auto owned = [&](const std::string& name) {
    Ranges out;
    for (int rank = 0; rank < 4; ++rank) {
      out.emplace_back(-1, -1);
      for (const HeldPiece& h : held_pieces(*plan, Rank{rank}))
        if (h.piece.name == name && h.m.valid()) {
          out.back() = {h.piece.flat_begin, h.piece.flat_end};
          CHECK(h.is_owner);
        }
    }
    return out;
  };
  CHECK(owned("layers.0.attn.kv_norm.weight") == Ranges{{0, 3}, {3, 6}, {6, 9}, {9, 11}});
  CHECK(owned("layers.0.attn.q_norm.weight") == Ranges{{0, 2}, {2, 4}, {4, 5}, {-1, -1}});
  CHECK(owned("layers.0.norm1.weight") == Ranges{{0, 16}, {16, 32}, {32, 48}, {48, 64}});
  for (const Buffer& b : plan->buffers)
    if (plan->name(b.name) == "layers.0.attn.kv_norm.weight.m") CHECK(b.shape.elements() == 3);
}
