// The words of plan text by name, for the parser: the inverse of name_of().
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/plan/plan.h"

namespace tandem {

[[nodiscard]] std::optional<BufferClass> buffer_class_from(std::string_view name);
[[nodiscard]] std::optional<OpKind> op_kind_from(std::string_view name);
[[nodiscard]] std::optional<Phase> phase_from(char letter);
[[nodiscard]] std::optional<Part> part_from(char letter);

// "name: did you mean ...", for hints: the nearest of `known`, else all of them.
[[nodiscard]] std::string suggest(std::string_view given, std::span<const std::string> known);
[[nodiscard]] std::span<const std::string> buffer_class_names();
[[nodiscard]] std::span<const std::string> op_kind_names();

}  // namespace tandem
