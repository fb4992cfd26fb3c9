// Flight recorder of a rank: the last 4,096 ops with their times, in a shared mapping of
// RUN/ranks/K.ring that survives SIGKILL. Bytes: docs/formats/recorder.md. Who reads it: the
// launcher, which names the op at which a rank died, and `tandem diagnose`.
//
//   A record is begun when its op is queued and completed in place: started, done. Its number
//   stands first and last, so that a torn record is recognised. Number n lies in slot n % 4096.
//   Cost: three clock reads an op, about 27 ns each, and as many stores; the budget is 100 ns.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "exec/runtime/comm.h"

namespace tandem::exec {

inline constexpr std::uint32_t kRingRecords = 4096;

enum class OpState : std::uint8_t { queued = 1, started = 2, done = 3 };
[[nodiscard]] std::string_view name_of(OpState state);

// As in the file; little-endian, 72 bytes.
struct RingRecord {
  std::uint64_t number_first = 0;  // from 1; 0: never used
  std::int32_t op = -1, step = -1;
  std::uint8_t kind = 0;           // OpKind
  std::uint8_t state = 0;          // OpState
  std::int16_t communicator = -1;  // -1: none
  std::int32_t sequence = -1;      // of the op in its communicator since the start of the run
  std::int32_t peer = -1;          // send, recv: the other rank; else -1, all members
  std::int32_t reserved = 0;
  std::int64_t bytes = 0;
  std::int64_t queued_ns = 0, started_ns = 0, done_ns = 0;  // CLOCK_MONOTONIC of the host
  std::uint64_t number_last = 0;
};
static_assert(sizeof(RingRecord) == 72);

// At the start of the file, in a page of its own.
struct RingHeader {
  char magic[8] = {'T', 'D', 'M', 'R', 'I', 'N', 'G', '1'};
  std::uint32_t version = 1, header_bytes = 4096;
  std::uint32_t record_bytes = sizeof(RingRecord), records = kRingRecords;
  std::int32_t rank = -1, world = 0;
  char plan_id[16] = {};
  std::uint64_t next_number = 1;  // of the record to come
  std::uint64_t ops_done = 0;
  std::int64_t opened_ns = 0;
};
static_assert(sizeof(RingHeader) == 72);

// queued() is called by one thread at a time, started() and done() of an op by one after its
// queued().
class Recorder : public OpObserver {
 public:
  // Makes the file anew. E-IO-010. The plans are not kept. Ops and communicators of the plans
  // `beside` it are numbered behind those of `plan`, one plan behind the other.
  [[nodiscard]] static Result<std::unique_ptr<Recorder>> create(
      const std::string& path, const Plan& plan, Rank rank, const std::string& plan_id,
      std::span<const Plan* const> beside = {});
  ~Recorder() override;
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void queued(OpId op, int step) override;
  void started(OpId op, int step) override;
  void done(OpId op, int step) override;

  // Any thread, no lock.
  [[nodiscard]] std::uint64_t ops_done() const { return ops_done_.load(std::memory_order_relaxed); }
  struct Unfinished {
    std::int32_t op = -1, step = -1;
    std::uint8_t kind = 0;
    Nanoseconds started_ns = 0;
  };
  // Of the ops that have started and not ended: the one that started first, where a rank that
  // waits has waited longest; or last, where one that fails most probably is.
  [[nodiscard]] std::optional<Unfinished> oldest_unfinished() const { return unfinished(false); }
  [[nodiscard]] std::optional<Unfinished> newest_unfinished() const { return unfinished(true); }

 private:
  [[nodiscard]] std::optional<Unfinished> unfinished(bool newest) const;
  Recorder(void* mapping, const Plan& plan, Rank rank, const std::string& plan_id,
           std::span<const Plan* const> beside);
  struct Static {  // of an op of this rank's program
    std::int64_t bytes = 0;
    std::int32_t peer = -1;
    std::int16_t communicator = -1;
    std::uint8_t kind = 0;
  };
  // Ops of one plan: where its numbers begin, the rank's program, and where its statics begin.
  struct Part {
    std::int32_t from = 0, first_op = 0, first_static = 0;
  };
  void add(const Plan& plan, Rank rank, std::int32_t op_offset, std::int32_t comm_offset);
  [[nodiscard]] std::size_t local(OpId op) const {
    std::size_t at = parts_.size() - 1;
    while (at > 0 && op.value < parts_[at].from) --at;
    const Part& part = parts_[at];
    return static_cast<std::size_t>(op.value - part.first_op + part.first_static);
  }
  void* mapping_;
  RingHeader* header_;
  RingRecord* records_;
  std::vector<Part> parts_;
  std::vector<Static> statics_;
  std::vector<std::uint64_t> numbers_;   // by op: its last record
  std::vector<std::int32_t> sequences_;  // by communicator
  std::uint64_t next_ = 1;
  std::atomic<std::uint64_t> ops_done_{0};
};

// What a ring file holds: whole records by number. Torn ones are counted and left out.
struct Ring {
  RingHeader header;
  std::vector<RingRecord> records;
  int num_torn = 0;
  // As in Recorder; null: none.
  [[nodiscard]] const RingRecord* oldest_unfinished() const { return unfinished(false); }
  [[nodiscard]] const RingRecord* newest_unfinished() const { return unfinished(true); }
  [[nodiscard]] const RingRecord* last_done() const;

 private:
  [[nodiscard]] const RingRecord* unfinished(bool newest) const;
};

// Any bytes. E-EXEC-012.
[[nodiscard]] Result<Ring> read_ring(const std::string& path);
[[nodiscard]] Result<Ring> decode_ring(std::string_view bytes, const std::string& file);

}  // namespace tandem::exec
