// The shape of a model preset straight from its YAML tree, for families that no scenario may name
// yet. Knows only the fields that fix tensors; throws (a failed test) on anything else that is odd.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "common/model/parameters.h"
#include "common/scenario/presets.h"
#include "common/scenario/yaml_reader.h"

namespace tandem {

inline const YamlNode* child(const YamlNode* node, std::string_view key) {
  if (node == nullptr) return nullptr;
  for (const YamlNode& c : node->children)
    if (c.key == key) return &c;
  return nullptr;
}

inline int number(const YamlNode* node, std::string_view key, int otherwise) {
  const YamlNode* c = child(node, key);
  return c == nullptr ? otherwise : std::stoi(c->text);
}

inline ModelShape preset_shape(std::string_view name) {
  const EmbeddedPreset* preset = find_preset("models", name);
  if (preset == nullptr) throw std::runtime_error("no preset " + std::string(name));
  const auto document = parse_yaml(std::string(preset->path), std::string(preset->text));
  if (!document) throw std::runtime_error(document.error().diagnostics[0].title);
  const YamlNode* model = child(&document->root, "model");
  const std::string family = child(model, "family")->text;
  ModelShape m;
  m.family = family == "gpt"       ? ModelFamily::gpt
             : family == "llama"   ? ModelFamily::llama
             : family == "mixtral" ? ModelFamily::mixtral
                                   : ModelFamily::deepseek_v3;
  m.layers = number(model, "layers", 0);
  m.hidden = number(model, "hidden", 0);
  m.heads = number(model, "heads", 0);
  m.kv_heads = number(model, "kv_heads", m.heads);
  m.head_dim = number(model, "head_dim", m.hidden / m.heads);
  m.ffn_hidden = number(model, "ffn_hidden", 0);
  m.vocab = number(model, "vocab", 0);
  m.max_sequence = number(model, "max_sequence", 0);
  m.tied = child(model, "tied_embeddings")->text == "true";
  const YamlNode* moe = child(model, "moe");
  m.moe.experts = number(moe, "experts", 0);
  m.moe.top_k = number(moe, "top_k", 0);
  m.moe.expert_hidden = number(moe, "expert_hidden", 0);
  m.moe.shared_experts = number(moe, "shared_experts", 0);
  m.moe.dense_first = number(moe, "dense_first", 0);
  m.moe.every = number(moe, "every", 1);
  const YamlNode* mla = child(model, "mla");
  m.mla.q_rank = number(mla, "q_rank", 0);
  m.mla.kv_rank = number(mla, "kv_rank", 0);
  m.mla.nope_dim = number(mla, "nope_dim", 0);
  m.mla.rope_dim = number(mla, "rope_dim", 0);
  m.mla.v_dim = number(mla, "v_dim", 0);
  return m;
}

}  // namespace tandem
