// The presets of scenarios/{models,clusters,devices}, put into the program when it is built
// (embed_presets.cmake), so that no file is needed at run time.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

struct EmbeddedPreset {
  std::string_view kind;  // "models", "clusters", "devices"
  std::string_view name;  // "gpt-tiny"
  std::string_view path;  // "scenarios/models/gpt-tiny.yaml": the place messages show
  std::string_view text;
};

// Sorted by kind and name.
[[nodiscard]] std::span<const EmbeddedPreset> embedded_presets();
[[nodiscard]] const EmbeddedPreset* find_preset(std::string_view kind, std::string_view name);
[[nodiscard]] std::vector<std::string> preset_names(std::string_view kind);

}  // namespace tandem
