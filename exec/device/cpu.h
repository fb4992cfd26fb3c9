// The CPU of this host as a device: kernels of LibTorch (exec/kernels) bound once to plan buffers
// whose addresses never change (arena.h), tokens from the training data, the host's clock.
#pragma once

#include <array>
#include <memory>
#include <set>

#include "common/plan/plan.h"
#include "common/plan/training.h"
#include "exec/device/arena.h"
#include "exec/device/device.h"
#include "exec/train/activations.h"
#include "exec/train/choice_log.h"
#include "exec/train/data.h"

namespace tandem::exec {

class CpuDevice final : public Device {
 public:
  // Sets LibTorch up, reads the data of the plan's part (training, or evaluation). `arena` may have
  // failed. `probe`, if not null, is told of forward kernels while it is on, `choices` of every
  // routing. The plan and these two outlive the device.
  [[nodiscard]] static Result<std::unique_ptr<CpuDevice>> create(const Plan& plan, Rank rank,
                                                                 const TrainingConfig& config,
                                                                 Result<Arena> arena,
                                                                 ActivationProbe* probe = nullptr,
                                                                 ChoiceLog* choices = nullptr);
  void begin_thread() override;
  [[nodiscard]] View view(BufferId id) const override { return arena_.view(plan_, id); }
  [[nodiscard]] Result<std::vector<Prepared>> prepare(const Op& op) override;
  void begin_step(int step) override;
  void copy(const View& to, int step, const Op& op) override;
  [[nodiscard]] Nanoseconds begin(Nanoseconds cause) override;
  [[nodiscard]] Nanoseconds meet(Nanoseconds together) override { return together; }
  [[nodiscard]] Nanoseconds end(OpId op, Nanoseconds started) override;
  void abort() override {}  // kernels end by themselves
  [[nodiscard]] Bytes scratch_peak() const override;
  void reset_scratch_peak() override;
  [[nodiscard]] Bytes slab_bytes() const override { return arena_.slab_bytes(); }
  void drop_pages() override { arena_.drop_pages(); }

 private:
  CpuDevice(const Plan& plan, Rank rank, const TrainingConfig& config, BatchSource data,
            Arena arena, ActivationProbe* probe, ChoiceLog* choices);
  void own_parts(const Call& c, KernelCall& call) const;
  [[nodiscard]] Prepared probed(const Op& op, const KernelCall& call, Prepared bound);
  [[nodiscard]] Prepared logged(const Op& op, const KernelCall& call, Prepared bound) const;
  const Plan& plan_;
  const Rank rank_;
  const TrainingConfig config_;
  BatchSource data_;
  Arena arena_;
  KernelContext context_;
  ActivationProbe* probe_;
  ChoiceLog* choices_;
  std::set<std::array<std::int32_t, 3>>
      entered_;  // layer, microbatch, slice whose first norm it saw
};

}  // namespace tandem::exec
