// The tables of the four families, and the few keys that need more than a row.
#include "common/scenario/import_hf.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <span>
#include <string_view>

#include "common/base/text.h"

namespace tandem {
namespace {

using Kind = YamlNode::Kind;

// A field, the names of its key (the family's own first), and the configuration class's default;
// "": the field is left to its own default.
struct Take {
  std::string_view field, keys, fallback;
};
// A key that must have one of these values where it is there; what it would mean.
struct Must {
  std::string_view key, values, meaning;
};

constexpr Take kGpt2[] = {
    {"model.layers", "n_layer,num_hidden_layers", "12"},
    {"model.hidden", "n_embd,hidden_size", "768"},
    {"model.heads", "n_head,num_attention_heads", "12"},
    {"model.ffn_hidden", "n_inner,intermediate_size", ""},
    {"model.vocab", "vocab_size", "50257"},
    {"model.max_sequence", "n_positions,max_position_embeddings,n_ctx", "1024"},
    {"model.tied_embeddings", "tie_word_embeddings", "true"},
    {"model.norm_eps", "layer_norm_epsilon", "1e-5"},
};
constexpr Take kLlama[] = {
    {"model.layers", "num_hidden_layers", "32"},
    {"model.hidden", "hidden_size", "4096"},
    {"model.heads", "num_attention_heads", "32"},
    {"model.kv_heads", "num_key_value_heads", ""},
    {"model.head_dim", "head_dim", ""},
    {"model.ffn_hidden", "intermediate_size", "11008"},
    {"model.vocab", "vocab_size", "32000"},
    {"model.max_sequence", "max_position_embeddings", "2048"},
    {"model.tied_embeddings", "tie_word_embeddings", "false"},
    {"model.norm_eps", "rms_norm_eps", "1e-6"},
};
constexpr Take kMixtral[] = {
    {"model.layers", "num_hidden_layers", "32"},
    {"model.hidden", "hidden_size", "4096"},
    {"model.heads", "num_attention_heads", "32"},
    {"model.kv_heads", "num_key_value_heads", "8"},
    {"model.head_dim", "head_dim", ""},
    {"model.vocab", "vocab_size", "32000"},
    {"model.max_sequence", "max_position_embeddings", "131072"},
    {"model.tied_embeddings", "tie_word_embeddings", "false"},
    {"model.norm_eps", "rms_norm_eps", "1e-5"},
    {"model.moe.experts", "num_local_experts,num_experts", "8"},
    {"model.moe.top_k", "num_experts_per_tok", "2"},
    {"model.moe.expert_hidden", "intermediate_size", "14336"},
};
// head_dim is that of the rotary part there, and key/value heads are as many as heads.
constexpr Take kDeepseekV3[] = {
    {"model.layers", "num_hidden_layers", "61"},
    {"model.hidden", "hidden_size", "7168"},
    {"model.heads", "num_attention_heads", "128"},
    {"model.ffn_hidden", "intermediate_size", "18432"},
    {"model.vocab", "vocab_size", "129280"},
    {"model.max_sequence", "max_position_embeddings", "4096"},
    {"model.tied_embeddings", "tie_word_embeddings", "false"},
    {"model.norm_eps", "rms_norm_eps", "1e-6"},
    {"model.moe.experts", "n_routed_experts,num_local_experts", "256"},
    {"model.moe.top_k", "num_experts_per_tok", "8"},
    {"model.moe.expert_hidden", "moe_intermediate_size", "2048"},
    {"model.moe.shared_experts", "n_shared_experts", "1"},
    {"model.moe.groups", "n_group", "8"},
    {"model.moe.groups_kept", "topk_group", "4"},
    {"model.moe.scale", "routed_scaling_factor", "2.5"},
    {"model.moe.dense_first", "first_k_dense_replace", "3"},
    {"model.moe.every", "moe_layer_freq", "1"},
    {"model.mla.q_rank", "q_lora_rank", "1536"},
    {"model.mla.kv_rank", "kv_lora_rank", "512"},
    {"model.mla.nope_dim", "qk_nope_head_dim", "128"},
    {"model.mla.rope_dim", "qk_rope_head_dim", "64"},
    {"model.mla.v_dim", "v_head_dim", "128"},
};

constexpr Must kMustGpt2[] = {
    {"scale_attn_weights", "true", "attention scores that are not divided by sqrt(head_dim)"},
    {"scale_attn_by_inverse_layer_idx", "false", "attention scores divided by the layer's number"},
    {"add_cross_attention", "false", "attention over an encoder"},
};
constexpr Must kMustLlama[] = {
    {"hidden_act", "silu,swish", "another activation"},
    {"attention_bias", "false", "biases in attention"},
    {"mlp_bias", "false", "biases in the feed-forward part"},
    {"sliding_window", "null", "attention over a window of positions"},
    {"partial_rotary_factor", "1,1.0", "rotary positions on a part of a head"},
};
constexpr Must kMustMixtral[] = {
    {"hidden_act", "silu,swish", "another activation"},
    {"attention_bias", "false", "biases in attention"},
    {"sliding_window", "null", "attention over a window of positions"},
    {"partial_rotary_factor", "1,1.0", "rotary positions on a part of a head"},
    {"router_jitter_noise", "0,0.0", "noise on what the router sees"},
};
constexpr Must kMustDeepseekV3[] = {
    {"hidden_act", "silu,swish", "another activation"},
    {"attention_bias", "false", "biases in attention"},
    {"sliding_window", "null", "attention over a window of positions"},
    {"scoring_func", "sigmoid", "another score of the router"},
    {"topk_method", "noaux_tc", "another choice of experts"},
    {"norm_topk_prob", "true", "routing weights that are not normalised"},
};

struct Family {
  std::string_view type, architecture, name;  // name: model.family
  std::span<const Take> takes;
  std::span<const Must> musts;
  std::string_view rope_base;  // default of rope_theta; "": learned positions
};
constexpr Family kFamilies[] = {
    {"gpt2", "GPT2LMHeadModel", "gpt", kGpt2, kMustGpt2, ""},
    {"llama", "LlamaForCausalLM", "llama", kLlama, kMustLlama, "10000"},
    {"mixtral", "MixtralForCausalLM", "mixtral", kMixtral, kMustMixtral, "1000000"},
    {"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek_v3", kDeepseekV3, kMustDeepseekV3, "10000"},
};

// Of no meaning for the model, or said by other keys.
const std::set<std::string_view>& metadata() {
  static const std::set<std::string_view> kKeys = {
      "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
      "dtype", "eos_token_id", "id2label", "is_decoder", "is_encoder_decoder", "label2id",
      "model_type", "n_ctx", "output_attentions", "output_hidden_states", "output_router_logits",
      "pad_token_id", "pretraining_tp", "return_dict", "task_specific_params", "tokenizer_class",
      "torch_dtype", "transformers_version", "use_cache",
      // the rotary part of deepseek_v3 and its derived widths
      "ep_size", "head_dim", "num_key_value_heads", "qk_head_dim", "rope_interleave",
      // read beside the tables
      "activation_function", "rope_parameters", "rope_scaling", "rope_theta"};
  return kKeys;
}

std::string clipped(const std::string& text) {
  constexpr std::size_t kMost = 40;
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

std::string shown(const YamlNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "null";
    case Kind::list:
      return "[...]";
    case Kind::mapping:
      return "{...}";
    case Kind::scalar:
      break;
  }
  return clipped(node.text);
}

class Importer {
 public:
  Importer(const YamlDocument& config, Diagnostics& problems)
      : root_(config.root), source_(config.source), problems_(problems) {}

  Leaves run() {
    if (root_.kind != Kind::mapping) {
      refuse(root_.mark, "E-MODEL-011", "a Hugging Face configuration is a JSON object",
             root_.kind == Kind::list ? "a list" : shown(root_), "an object with a model_type",
             "give the path of a config.json");
      return {};
    }
    const Family* family = family_of();
    if (!family) return {};
    word("model.family", family->name);
    for (const Take& t : family->takes) take(t);
    for (const Must& m : family->musts) must(m);
    for (const char* nested : {"layer_types", "text_config"})
      if (const YamlNode* node = given({nested}))
        unsupported(
            *node, fmt::format("{} is there", nested), "no such key",
            "only models whose layers are all of one kind, and text alone, can be imported");
    if (family->rope_base.empty()) {
      activation();
    } else {
      rotary(family->rope_base);
    }
    if (family->type == "deepseek_v3") deepseek();
    if (family->type == "mixtral") word("model.moe.router", "softmax");
    warn_unused();
    return std::move(leaves_);
  }

 private:
  const YamlNode* find(const YamlNode& in, std::string_view key) const {
    for (const YamlNode& child : in.children)
      if (child.key == key) return &child;
    return nullptr;
  }
  // The first of `keys` that has a value other than null.
  const YamlNode* given(std::initializer_list<std::string_view> keys) {
    for (std::string_view key : keys)
      if (const YamlNode* node = find(root_, key)) {
        used_.insert(std::string(key));
        if (node->kind != Kind::null) return node;
      }
    return nullptr;
  }

  void refuse(const YamlMark& mark, std::string code, std::string title, std::string found,
              std::string expected, std::string hint) {
    Diagnostic d = make_diagnostic(std::move(code), std::move(title), std::move(found),
                                   std::move(expected), std::move(hint));
    point_at(d, *source_, mark);
    problems_.push_back(std::move(d));
  }
  void unsupported(const YamlNode& node, const std::string& what, std::string expected,
                   std::string hint) {
    refuse(node.key_mark, "E-MODEL-013",
           fmt::format("the Hugging Face configuration cannot be imported: {}", what),
           fmt::format("{}: {}", node.key, shown(node)), std::move(expected), std::move(hint));
  }

  void leaf(std::string_view field, YamlNode node) {
    Leaf leaf;
    leaf.field = find_field(field);
    leaf.node = std::move(node);
    leaf.source = source_;
    leaves_.values.insert_or_assign(std::string(field), std::move(leaf));
  }
  // A value that follows from the model_type: it stands where that does.
  void word(std::string_view field, std::string_view text) {
    YamlNode node;
    node.kind = Kind::scalar;
    node.text = std::string(text);
    node.mark = type_mark_;
    leaf(field, std::move(node));
  }
  void take(const Take& t) {
    const YamlNode* chosen = nullptr;
    for (std::string_view key : split(t.keys, ','))
      if (const YamlNode* node = given({key}); node && !chosen) chosen = node;
    if (chosen)
      leaf(t.field, *chosen);
    else if (!t.fallback.empty())
      word(t.field, t.fallback);
  }
  void must(const Must& m) {
    const YamlNode* node = find(root_, m.key);
    used_.insert(std::string(m.key));
    if (!node || node->kind == Kind::null) return;
    const auto allowed = split(m.values, ',');
    if (node->kind == Kind::scalar &&
        std::find(allowed.begin(), allowed.end(), node->text) != allowed.end())
      return;
    unsupported(*node, std::string(m.meaning), fmt::format("{}: {}", m.key, allowed[0]),
                "describe a model without it in the scenario, or import another one");
  }

  const Family* family_of() {
    const YamlNode* type = given({"model_type"});
    bool by_architecture = false;
    if (!type)
      if (const YamlNode* list = given({"architectures"}); list && !list->children.empty()) {
        type = &list->children[0];
        by_architecture = true;
      }
    if (type) type_mark_ = type->mark;
    std::vector<std::string> types;
    for (const Family& f : kFamilies) {
      types.emplace_back(f.type);
      if (type && type->kind == Kind::scalar &&
          type->text == (by_architecture ? f.architecture : f.type))
        return &f;
    }
    const auto nearest = type ? nearest_name(type->text, types) : std::nullopt;
    refuse(type_mark_, "E-MODEL-011", "a Hugging Face configuration of no known model",
           type ? shown(*type) : "no model_type", "model_type: one of " + join(types, ", "),
           nearest ? fmt::format("did you mean \"{}\"? else describe the model in the scenario",
                                 *nearest)
                   : "describe the model in the scenario");
    return nullptr;
  }

  void activation() {
    const YamlNode* node = given({"activation_function"});
    const std::string name = node ? node->text : "gelu_new";
    if (name == "gelu") return word("model.gelu", "erf");
    if (name == "gelu_new" || name == "gelu_pytorch_tanh") return word("model.gelu", "tanh");
    unsupported(*node, "another activation", "activation_function: gelu_new or gelu",
                "models of family gpt have GELU");
  }

  // Older files: rope_theta and rope_scaling; newer ones: both in rope_parameters.
  void rotary(std::string_view base) {
    const YamlNode *parameters = given({"rope_parameters"}), *theta = given({"rope_theta"});
    const YamlNode* scaling = given({"rope_scaling"});
    const bool has = parameters && parameters->kind == Kind::mapping;
    if (!theta && has) theta = find(*parameters, "rope_theta");
    if (theta && theta->kind != Kind::null)
      leaf("model.rope_base", *theta);
    else
      word("model.rope_base", base);
    for (const YamlNode* holder : {scaling, parameters}) {
      if (!holder) continue;
      const YamlNode* type = nullptr;
      for (const char* key : {"rope_type", "type"})
        if (!type && holder->kind == Kind::mapping) type = find(*holder, key);
      if (!type && holder == parameters && has) continue;  // theta alone
      if (type && type->text == "default") continue;
      YamlNode named = type ? *type : *holder;
      if (!type || type->kind != Kind::scalar) named.kind = Kind::scalar, named.text = "of no type";
      named.quoted = false;
      return leaf("model.rope_scaling", std::move(named));
    }
  }

  void deepseek() {
    word("model.moe.router", "sigmoid");
    // Absent: the default of the published model; null: one matrix makes the queries.
    if (const YamlNode* rank = find(root_, "q_lora_rank"); rank && rank->kind == Kind::null) {
      YamlNode none = *rank;
      none.kind = Kind::scalar, none.text = "0", none.quoted = false;
      leaf("model.mla.q_rank", std::move(none));
    }
    // Layer i has experts where i % freq = 0; here where (i - dense_first) % every = 0.
    const YamlNode *every = find(root_, "moe_layer_freq"),
                   *first = find(root_, "first_k_dense_replace");
    const auto number = [](const YamlNode* node, std::int64_t fallback) {
      const auto n = node && node->kind == Kind::scalar ? parse_int(node->text) : std::nullopt;
      return n.value_or(fallback);
    };
    const std::int64_t n = number(every, 1), k = number(first, 3);
    if (n > 1 && k % n != 0)
      unsupported(*every, "layers with experts that do not start at the first sparse one",
                  fmt::format("a divisor of first_k_dense_replace = {}", k),
                  "describe the layers with model.moe.dense_first and every in the scenario");
  }

  void warn_unused() {
    std::vector<std::string> keys;
    const YamlNode* first = nullptr;
    for (const YamlNode& node : root_.children) {
      if (used_.contains(node.key) || metadata().contains(node.key)) continue;
      if (node.kind == Kind::null || node.key.starts_with("summary_")) continue;  // gpt2's heads
      const auto is = [&](double x) {
        return node.kind == Kind::scalar && parse_double(node.text) == std::optional(x);
      };
      if (node.key.find("drop") != std::string::npos && is(0)) continue;
      if (node.key == "initializer_range" && is(0.02)) continue;  // training.init: normal
      if (!first) first = &node;
      keys.push_back(fmt::format("{} = {}", clipped(node.key), shown(node)));
    }
    if (!first) return;
    constexpr std::size_t kShown = 12;
    const std::size_t num = keys.size();
    if (num > kShown) {
      keys.resize(kShown);
      keys.push_back(fmt::format("and {} more", num - kShown));
    }
    refuse(first->key_mark, "W-MODEL-001",
           fmt::format("{} {} of the Hugging Face configuration {} not used", num,
                       num == 1 ? "key" : "keys", num == 1 ? "is" : "are"),
           join(keys, ", "), "keys that shape the model",
           "there is no dropout here; losses and precision are fields of the scenario");
  }

  const YamlNode& root_;
  std::shared_ptr<const YamlSource> source_;
  Diagnostics& problems_;
  Leaves leaves_;
  YamlMark type_mark_;
  std::set<std::string> used_;
};

}  // namespace

Leaves import_hf(const YamlDocument& config, Diagnostics& problems) {
  return Importer(config, problems).run();
}

}  // namespace tandem
