// What a rank holds of the parameters and their optimizer state, and which of it the rank saves:
// read off the plan's slice rules, its optimizer calls and the mesh. Pure; no LibTorch.
//
//   An element is saved once, by the rank with coordinate 0 on every axis over which it is
//   replicated (models.md 4.9): those that do not cut it, and of several programs that hold a
//   tensor (a tied embedding) the first one.
#pragma once

#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "exec/checkpoint/piece.h"

namespace tandem::exec {

struct HeldPiece {
  Piece piece;
  // Main parameter and moments; `param` is the copy in the compute type, or `main` itself. With
  // ZeRO 1 and 2 a rank holds all parameters, but moments only of its own part: no m, v (and no
  // main copy) elsewhere.
  BufferId param, main, m, v;
  BufferId grad;                   // with m and v: the reduced gradient, between steps
  std::int64_t grad_element = 0;   // in it
  std::int64_t param_element = 0;  // of the piece's first element in param
  std::int64_t main_element = 0;   // in main
  std::int64_t state_element = 0;  // in m and v
  bool is_owner = false;
};

// The biases of sigmoid routers: no parameters, but state of training. They are saved as a piece
// whose moments are the bias again.
[[nodiscard]] std::vector<BufferId> router_biases(const Plan& plan, ProgramId program);

// In the order of the plan's buffers.
[[nodiscard]] std::vector<HeldPiece> held_pieces(const Plan& plan, Rank rank);

// All parameters of the model that the plan trains.
[[nodiscard]] TensorShapes tensor_shapes(const Plan& plan);

// SHA-256 over the lines "NAME SHAPE DTYPE EXPERT\n" of all parameters, sorted by name: equal for
// every mesh and schedule of a model (docs/formats/checkpoint.md).
[[nodiscard]] std::string model_digest(const Plan& plan);

}  // namespace tandem::exec
