// Rules of the model alone: widths, heads, latents and the shape of its experts. Rows 6, 14 and 15
// of the constraints table of models.md, 3.4.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/scenario/validate_rules.h"
#include "common/schedule/registry.h"

namespace tandem {
namespace {

class ModelRules : RuleSet {
 public:
  explicit ModelRules(const RuleInputs& inputs) : RuleSet(inputs) {}

  void run() {
    model();
    experts();
    latents();
  }

 private:
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

  // Row 8 in part: experts where the family has them, and only there.
  void experts() {
    const MoeSpec& moe = s_.model.moe;
    if (!good({"model.family"})) return;
    const bool has = family_has_experts(s_.model.family);
    if (has == (moe.experts > 0)) {
      if (has) expert_shape();
      return;
    }
    if (good({"model.moe.experts"}))
      refuse({"model.moe.experts", "model.family"}, "E-MODEL-008",
             has ? "this family needs model.moe.experts" : "this family has no experts",
             fmt::format("experts: {}", moe.experts),
             has ? "the number of routed experts of a layer" : "no model.moe",
             has ? "add moe: {experts: 8, top_k: 2, expert_hidden: ...}"
                 : "use family: mixtral, or delete model.moe");
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
    // With slices capacity holds in each of them.
    const int k = num_slices(s_.schedule.kind, s_.schedule.options);
    const int cut = s_.parallel.tp * s_.parallel.cp, sequence = s_.training.sequence / k;
    // By default a slice on each of these ranks: whether they can be cut is said by the rows for
    // that.
    if (!given("model.moe.drop_groups")) return;
    if (moe.drop_groups % cut != 0 || sequence % std::max(1, moe.drop_groups) != 0)
      wrong("drop_groups",
            fmt::format("{} slices of {} positions on {} tp and cp ranks", moe.drop_groups,
                        sequence, cut),
            "equal slices, a whole number of them on each rank",
            fmt::format("use drop_groups: {}", cut));
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
      const bool no_latent = field == std::string_view("q_rank") && given(path);  // q_rank: 0
      if (size < 1 && !no_latent && good({path}))
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
};

}  // namespace

void validate_model(const RuleInputs& inputs) { ModelRules(inputs).run(); }

}  // namespace tandem
