// A rank for chaos_test that runs the messages of a plan and no kernels: the real rank process,
// transport, recorder and watchdog around a tiny interpreter with a thread a stream. The fault of
// the environment variable TANDEM_TEST_FAULT (exec/transport/fault.h) happens in it.
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/device/clock.h"
#include "exec/device/stream.h"
#include "exec/launch/rank_process.h"
#include "exec/transport/fault.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

// FaultyTransport owns what it wraps; the rank process owns the transport.
class Borrowed final : public CommBackend {
 public:
  explicit Borrowed(CommBackend& inner) : inner_(inner) {}
  Result<Nanoseconds> run(OpId op, int step, const CommOperands& operands) override {
    return inner_.run(op, step, operands);
  }
  void abort() override { inner_.abort(); }

 private:
  CommBackend& inner_;
};

class Messages {
 public:
  Messages(const Plan& plan, Rank rank, CommBackend& comm, OpObserver& observer)
      : ops_(plan.ops_of(plan.program_of(rank))),
        first_(static_cast<int>(plan.programs[plan.program_of(rank).index()].first_op)),
        comm_(comm),
        observer_(observer),
        latches_(ops_.size()),
        buffers_(ops_.size()) {
    std::map<std::int32_t, std::vector<std::int32_t>> lists;
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      for (OpId w : plan.waits_of(ops_[i])) waits_[static_cast<int>(i)].push_back(w.value - first_);
      if (is_communication(ops_[i].kind))
        buffers_[i].resize(static_cast<std::size_t>(plan.buffer(ops_[i].buffer).bytes()));
      if (ops_[i].kind != OpKind::host_wait)
        lists[ops_[i].stream.value].push_back(static_cast<int>(i));
    }
    stream_of_.assign(ops_.size(), nullptr);
    for (const auto& [stream, list] : lists) {
      streams_.push_back(
          std::make_unique<Stream>(plan.streams[static_cast<std::size_t>(stream)], list, nullptr,
                                   [this](std::int32_t op, std::int32_t step) { run(op, step); }));
      for (int op : list) stream_of_[static_cast<std::size_t>(op)] = streams_.back().get();
    }
  }
  ~Messages() {
    for (Latch& latch : latches_) latch.abort();
    streams_.clear();
  }

  Status run_step(int step) {
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      const auto op = static_cast<std::int32_t>(i);
      observer_.queued(OpId{first_ + op}, step);
      if (stream_of_[i])
        stream_of_[i]->issue();
      else
        run(op, step);
    }
    for (const Latch& latch : latches_)
      if (!latch.wait_above(step)) break;
    const std::lock_guard lock(mutex_);
    if (failure_) return *failure_;
    return Ok{};
  }

 private:
  void run(std::int32_t op, std::int32_t step) {
    for (int w : waits_[op])
      if (!latches_[static_cast<std::size_t>(w)].wait_above(step)) return;
    const OpId id{first_ + op};
    std::vector<std::byte>& buffer = buffers_[static_cast<std::size_t>(op)];
    observer_.started(id, step);
    if (!buffer.empty()) {
      const Result<Nanoseconds> moved =
          comm_.run(id, step, {buffer.data(), static_cast<Bytes>(buffer.size())});
      if (!moved) return fail(moved.error());
    }
    observer_.done(id, step);
    latches_[static_cast<std::size_t>(op)].set(step + 1);
  }
  void fail(const Error& error) {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = error;
    }
    for (Latch& latch : latches_) latch.abort();
    comm_.abort();
  }

  std::span<const Op> ops_;
  const int first_;
  CommBackend& comm_;
  OpObserver& observer_;
  std::map<std::int32_t, std::vector<int>> waits_;
  std::vector<Latch> latches_;
  std::vector<std::vector<std::byte>> buffers_;
  std::vector<Stream*> stream_of_;
  std::mutex mutex_;
  std::optional<Error> failure_;
  std::vector<std::unique_ptr<Stream>> streams_;  // last: its threads use everything above
};

Status body(const RunInput& in, Rank rank, CommBackend& comm, SideComms, Barrier&,
            OpObserver* observer, const std::string&) {
  std::unique_ptr<CommBackend> wrapped = std::make_unique<Borrowed>(comm);
  if (const char* text = std::getenv("TANDEM_TEST_FAULT")) {
    const Result<PlannedFault> fault = parse_fault(text);
    if (!fault) return fault.error();
    wrapped = std::make_unique<FaultyTransport>(std::move(wrapped), rank, *fault);
  }
  Messages messages(in.plan, rank, *wrapped, *observer);
  for (int step = 0; step < in.config.steps; ++step) {
    const Nanoseconds start = now_ns();
    if (Status s = messages.run_step(step); !s) return s;
    observer->step_ended(step, 0, 0, now_ns() - start, std::nullopt);
  }
  return Ok{};
}

}  // namespace

int main(int argc, char** argv) { return rank_process(argc, argv, body); }
