// Looking presets up; the table itself is generated into presets_table.cpp.
#include "common/scenario/presets.h"

namespace tandem {

const EmbeddedPreset* find_preset(std::string_view kind, std::string_view name) {
  for (const EmbeddedPreset& preset : embedded_presets())
    if (preset.kind == kind && preset.name == name) return &preset;
  return nullptr;
}

std::vector<std::string> preset_names(std::string_view kind) {
  std::vector<std::string> names;
  for (const EmbeddedPreset& preset : embedded_presets())
    if (preset.kind == kind) names.emplace_back(preset.name);
  return names;
}

}  // namespace tandem
