// A piece of a full tensor: what one record of a checkpoint holds and what one rank needs. Pure.
//
//   slice   the rows and columns [start, start + length) of the full tensor, in every dimension
//   flat    the elements [flat_begin, flat_end) of that slice, counted row by row. The whole slice,
//           except where data-parallel ranks share one (ZeRO)
// Pieces of one tensor are cut alike when it is saved, and in any other way when it is loaded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tandem::exec {

struct Piece {
  std::string name;                           // of the parameter: layers.0.attn.q.weight
  int dims = 2;                               // 1 or 2; a vector counts as one column
  std::array<std::int64_t, 2> shape{0, 1};    // of the full tensor, without padding
  std::array<std::int64_t, 2> start{0, 0};    // of the slice
  std::array<std::int64_t, 2> length{0, 1};   // of the slice
  std::int64_t flat_begin = 0, flat_end = 0;  // inside the slice
  [[nodiscard]] std::int64_t elements() const { return flat_end - flat_begin; }
  [[nodiscard]] std::int64_t slice_elements() const { return length[0] * length[1]; }
  bool operator==(const Piece&) const = default;
};

// The slice lies in the tensor, the flat range in the slice, and neither is empty.
[[nodiscard]] bool is_sound(const Piece& piece);

// Elements that both pieces hold, as runs that are contiguous in both: `from` and `to` count from
// the first element of each piece. Empty where they share nothing or are of different tensors.
struct Run {
  std::int64_t from = 0, to = 0, elements = 0;
  bool operator==(const Run&) const = default;
};
[[nodiscard]] std::vector<Run> shared_runs(const Piece& from, const Piece& to);

// Names and full shapes of all parameters.
using TensorShapes = std::map<std::string, std::array<std::int64_t, 2>>;

// Empty: the pieces hold every element of every tensor exactly once. Else what is wrong, for
// people: "3072 of 4096 elements of layers.0.attn.q.weight".
[[nodiscard]] std::string coverage_fault(const std::vector<Piece>& pieces,
                                         const TensorShapes& tensors);

}  // namespace tandem::exec
