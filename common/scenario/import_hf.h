// A Hugging Face config.json -> fields of model.*, as a layer of the scenario: above presets, below
// the scenario file. Families: gpt2, llama, mixtral, deepseek_v3 (`model_type`).
//
//   taken      sizes, norm_eps, head_dim, rope_base, tying, activation, experts, latent attention.
//              A key that is left out has its default of the family's configuration class
//   refused    by name, at its place: what changes the model and does not exist here, such as
//              attention_bias, sliding_window, layer_types, no q_lora_rank. Scaled rotary positions
//              become model.rope_scaling, which refuses all but none (a scenario may say none)
//   not used   dropout, losses, quantization, extra prediction layers, and keys that nobody here
//              knows: one warning that lists them. Metadata: silently
//   Source     docs/formats/huggingface.md; transformers: configuration_*.py of the four families,
//              modeling_rope_utils.py
// Values are converted and checked as those of a scenario (convert.h), which says what is wrong
// with their type or range at their place. Pure and thread-safe.
#pragma once

#include "common/scenario/leaves.h"

namespace tandem {

[[nodiscard]] Leaves import_hf(const YamlDocument& config, Diagnostics& problems);

}  // namespace tandem
