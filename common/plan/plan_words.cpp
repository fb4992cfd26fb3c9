#include "common/plan/plan_words.h"

#include <vector>

#include "common/base/text.h"

namespace tandem {
namespace {

template <class Kind>
std::vector<std::string> all_names(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) out.emplace_back(name_of(static_cast<Kind>(i)));
  return out;
}

template <class Kind>
std::optional<Kind> find(std::span<const std::string> names, std::string_view name) {
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<Kind>(i);
  return std::nullopt;
}

constexpr std::string_view kPhases = "FIWBROD", kParts = "wsc";

}  // namespace

std::span<const std::string> buffer_class_names() {
  static const std::vector<std::string> names = all_names<BufferClass>(kNumBufferClasses);
  return names;
}
std::span<const std::string> op_kind_names() {
  static const std::vector<std::string> names = all_names<OpKind>(kNumOpKinds);
  return names;
}

std::optional<BufferClass> buffer_class_from(std::string_view name) {
  return find<BufferClass>(buffer_class_names(), name);
}
std::optional<OpKind> op_kind_from(std::string_view name) {
  return find<OpKind>(op_kind_names(), name);
}
std::optional<Phase> phase_from(char letter) {
  const std::size_t at = kPhases.find(letter);
  if (at == std::string_view::npos) return std::nullopt;
  return static_cast<Phase>(at);
}
std::optional<Part> part_from(char letter) {
  const std::size_t at = kParts.find(letter);
  if (at == std::string_view::npos) return std::nullopt;
  return static_cast<Part>(at + 1);
}

std::string suggest(std::string_view given, std::span<const std::string> known) {
  if (const auto near = nearest_name(given, known)) return "did you mean \"" + *near + "\"?";
  return "write one of " + join(known, ", ");
}

}  // namespace tandem
