// See inputs.h.
#include "tools/inputs.h"

#include <fmt/format.h>

#include <filesystem>

#include "common/scenario/read.h"

namespace tandem::tools {

std::vector<std::string> sets_of(const CommonOptions& options) {
  std::vector<std::string> sets = options.sets;
  if (options.seed) sets.push_back(fmt::format("seed={}", *options.seed));
  return sets;
}

Result<Scenario> load_scenario(Context& context, const std::string& path) {
  Diagnostics warnings;
  auto scenario = read_scenario(path, sets_of(context.options), &warnings);
  context.warn(warnings);
  return scenario;
}

std::string path_of_field(const Scenario& scenario, const std::string& field,
                          const std::string& text) {
  const std::filesystem::path path(text);
  const auto origin = scenario.origins.find(field);
  if (path.is_absolute() || origin == scenario.origins.end() || origin->second.line == 0 ||
      origin->second.file.starts_with("--set "))
    return text;
  return (std::filesystem::path(origin->second.file).parent_path() / path).string();
}

}  // namespace tandem::tools
