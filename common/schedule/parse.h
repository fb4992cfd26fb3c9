// L1 text -> order: the inverse of text.h, and the texts of other systems. Strict: a cell is
// understood as a whole or refused, with line, column and cell (schedules.md 3). What the order
// means, and whether it can run, is check.h's question. Pure and thread-safe; O(bytes).
//
//   tandem     the grammar of schedules.md 3.1; the header line is optional
//   torch      the same cells without header, slice and direction: what PyTorch's _dump_csv writes,
//              compute only or with communications
//   torch-old  PyTorch's first artifacts: B is I, BW is B
//   sail       sail-sg/zero-bubble: the same letters, "-j" behind a microbatch is its slice; only
//              computing actions
//   megatron   rows of signed chunks: +c is F, -c is B of chunk c - 1 with the next microbatch;
//              placement loop
//
// A dialect is never guessed: "0B0" means two things. Source: schedules.md 3.1 to 3.3.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/schedule/check.h"
#include "common/schedule/order.h"

namespace tandem {

enum class Dialect : std::uint8_t { tandem, torch, torch_old, sail, megatron };
[[nodiscard]] const std::vector<std::string>& dialect_names();  // in the order of the enum
[[nodiscard]] std::optional<Dialect> find_dialect(std::string_view name);

struct OrderText {
  Order order;
  std::string generator;  // `gen` of the header; may be empty
  bool has_header = false;
  std::vector<std::vector<std::int32_t>> columns;  // of each action's text; by rank, 1-based
};

// Idle cells and rows of different lengths are kept. Without a header the numbers of stages,
// microbatches, slices and directions are 1 + the largest seen, and the first row that has a stage
// is its rank. Errors: E-PLAN-003 and E-PLAN-004 (bad input), at most 100; `file` is for them.
[[nodiscard]] Result<OrderText> parse_order(std::string_view text, const std::string& file,
                                            Dialect dialect = Dialect::tandem);

// The errors of `check` at the lines and columns of `text`, the text that `parsed` was read from.
[[nodiscard]] Diagnostics errors_at(const OrderCheck& check, const OrderText& parsed,
                                    std::string_view text, const std::string& file);

}  // namespace tandem
