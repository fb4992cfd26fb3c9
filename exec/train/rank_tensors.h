// RUN/ranks/K.grads: reduced gradients of each step and parameters at the end, written by a rank
// for
// --verify, read by the verifier. Binary, little-endian:
//   8 magic "TDMGRAD1"   4 version (1)   4 rank
//   records: 4 kind (1 gradient, 2 parameter)   4 step   4 buffer id   4 bytes of an element
//            8 bytes of data, then the data in the plan's type
//   4 CRC-32C of everything before
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/plan/plan.h"
#include "exec/kernels/kernel.h"

namespace tandem::exec {

enum class TensorKind : std::uint32_t { gradient = 1, parameter = 2 };

// Streams to a file that appears when it is complete. Errors are kept and returned by commit().
class RankTensorWriter {
 public:
  [[nodiscard]] static Result<RankTensorWriter> create(const std::string& path, Rank rank);
  void add(TensorKind kind, int step, BufferId buffer, const View& view);
  [[nodiscard]] Status commit();

 private:
  explicit RankTensorWriter(AtomicFile file) : file_(std::move(file)) {}
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

struct RankTensors {
  Rank rank;
  std::string bytes;  // the file
  std::vector<RankTensor> tensors;
};
// Any bytes; E-EXEC-034.
[[nodiscard]] Result<RankTensors> read_rank_tensors(const std::string& path);

}  // namespace tandem::exec
