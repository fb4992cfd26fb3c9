// RUN/ranks/K.grads: reduced gradients of each step, what routers chose in it, and parameters at
// the end, written by a rank for --verify, read by the verifier. Binary, little-endian:
//   8 magic "TDMGRAD1"   4 version (2)   4 rank
//   records: 4 kind (1 gradient, 2 parameter, 3 choices, 4 choices of an evaluation)   4 step
//            4 buffer id, of choices op id   4 bytes of an element
//            8 bytes of data, then the data: in the plan's type; choices i32[n,K] (choice_log.h)
//   4 CRC-32C of everything before
// Choices of a step come in the order in which they were made: those of an evaluation by batch.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/plan/plan.h"
#include "exec/kernels/kernel.h"
#include "exec/train/choice_log.h"

namespace tandem::exec {

enum class TensorKind : std::uint32_t { gradient = 1, parameter = 2 };

// Streams to a file that appears when it is complete. Errors are kept and returned by commit().
class RankTensorWriter {
 public:
  [[nodiscard]] static Result<RankTensorWriter> create(const std::string& path, Rank rank);
  void add(TensorKind kind, int step, BufferId buffer, const View& view);
  void add(int step, bool evaluation, const RoutedTokens& routed);
  [[nodiscard]] Status commit();

 private:
  explicit RankTensorWriter(AtomicFile file) : file_(std::move(file)) {}
  void put_record(std::uint32_t kind, int step, std::int64_t id, int element_bytes,
                  std::string_view data);
  void put(std::string_view bytes);
  AtomicFile file_;
  std::uint32_t sum_ = 0;
  std::optional<Error> error_;
};

struct RankTensor {
  TensorKind kind = TensorKind::gradient;
  int step = 0;
  BufferId buffer;
  int element_bytes = 4;
  std::string_view data;  // into RankTensors::bytes
};

struct RankChoices {
  int step = 0;
  bool evaluation = false;  // made after the step, by an op of the evaluation's plan
  RoutedTokens routed;
};

struct RankTensors {
  Rank rank;
  std::string bytes;  // the file
  std::vector<RankTensor> tensors;
  std::vector<RankChoices> choices;  // in the order of the file
};
// Any bytes; E-EXEC-034.
[[nodiscard]] Result<RankTensors> read_rank_tensors(const std::string& path);

}  // namespace tandem::exec
