#include "exec/train/data.h"

#include <fmt/format.h>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/rng.h"

namespace tandem::exec {
namespace {

constexpr std::uint32_t kRandomData = 0xbd702378u;  // last counter word of random tokens
constexpr std::uint32_t kValidation = 0x80000000u;  // of the word before it: no step is as large
std::uint32_t low(std::uint64_t v) { return static_cast<std::uint32_t>(v); }
std::uint32_t high(std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); }

}  // namespace

Result<BatchSource> BatchSource::open(const TrainingConfig& config, DataPart part) {
  BatchSource source(config, part);
  if (config.data_kind == "random") return source;
  if (config.vocab < 256)
    return make_error(Failure::infeasible, "E-EXEC-035", "text needs a vocabulary of 256 bytes",
                      fmt::format("vocab {}", config.vocab), "vocab of at least 256",
                      "set model.vocab to 256 or training.data to random");
  Result<std::string> text = read_file(config.data_path, limits::kTrainingTextBytes);
  if (!text) return text.error();
  source.text_ = std::move(*text);
  const bool training = part == DataPart::training;
  const std::size_t trained_on = source.text_.size() - source.text_.size() / 10;
  if (training)
    source.text_.resize(trained_on);
  else
    source.text_.erase(0, trained_on);
  if (source.text_.size() <= static_cast<std::size_t>(config.sequence))
    return make_error(Failure::bad_input, "E-EXEC-033", "the training text is too short",
                      fmt::format("{} bytes to {}", source.text_.size(),
                                  training ? "train on" : "evaluate, the last tenth"),
                      fmt::format("more than sequence = {}", config.sequence),
                      "give a longer file or a shorter training.sequence",
                      Location{config.data_path});
  return source;
}

std::uint64_t BatchSource::offset(const TrainingConfig& config, std::uint64_t gidx,
                                  std::uint64_t bytes, DataPart part) {
  const auto sequence = static_cast<std::uint64_t>(config.sequence);
  if (config.sampler == "sequential") return gidx * sequence % (bytes - sequence);
  const std::uint64_t name = fnv1a64(part == DataPart::training ? "corpus" : "validation");
  const PhiloxWords x = philox4x32({low(gidx), high(gidx), low(name), high(name)},
                                   {low(config.seed), high(config.seed)});
  return (std::uint64_t{x[1]} << 32 | x[0]) % (bytes - sequence);
}

void BatchSource::fill(std::int64_t* batch, int step, int microbatch, int data_index,
                       int num_data) const {
  const std::int64_t b = config_.micro_batch, length = config_.sequence + 1;
  const std::uint32_t of_part = part_ == DataPart::training ? 0 : kValidation;
  for (std::int64_t row = 0; row < b; ++row) {
    const std::int64_t q =
        (static_cast<std::int64_t>(microbatch) * num_data + data_index) * b + row;
    std::int64_t* out = batch + row * length;
    if (config_.data_kind == "random") {
      for (std::int64_t j = 0; j < length; ++j)
        out[j] = philox4x32({low(static_cast<std::uint64_t>(j)), low(static_cast<std::uint64_t>(q)),
                             static_cast<std::uint32_t>(step) | of_part, kRandomData},
                            {low(config_.seed), 0})[0] %
                 static_cast<std::uint32_t>(config_.vocab);
      continue;
    }
    const auto gidx =
        static_cast<std::uint64_t>(static_cast<std::int64_t>(step) * config_.global_batch + q);
    const std::uint64_t begin = offset(config_, gidx, text_.size(), part_);
    for (std::int64_t j = 0; j < length; ++j)
      out[j] = static_cast<unsigned char>(text_[begin + static_cast<std::uint64_t>(j)]);
  }
}

}  // namespace tandem::exec
