// The data plane between rank processes of one host: runs the communication ops of a plan over the
// socket pairs of wiring.h, by the step programs of common/collective (docs/collectives.md).
//
//   One op   1. a header to each peer of the program, a header from each: all are here, and mean
//               the same op (header.h). This moment is what run() returns.
//            2. the rounds of the program; sends and receives of a round progress together
//   Order    NCCL's strictest reading. A communicator is a FIFO: the k-th op that two members share
//            meets the k-th of the other. Ops of a group (schedule.grouping) run one by one.
//            A send ends only when its receive is posted. With `strict` nothing
//            but a header is written before the peer's header is there; without it a small first
//            message travels with the header, which saves a wake-up and is seen by nobody: the op
//            still ends after the peer's header.
//   Waiting  in poll() only, never spinning, with four ends: data, peer closed, abort, deadline.
//   Sums     `direct`: rank order, the same bits at all members; see exec/transport/reduce.h
//   Errors   E-EXEC-040 members disagree, 041 peer gone, 042 deadline, 043 aborted, 044 wrong
//            descriptors, 045 op that cannot run, 047 system error. After one, the communicator
//            stays failed: bytes of the broken op may be under way.
//   Tried    SO_SNDBUF from 104 KiB to 4 MiB, process_vm_readv: no faster than plain sockets, whose
//            two copies run on two cores (both 8.4 GB/s at best for 1 MiB). So neither is here.
// Threads: one thread a communicator at a time (calls on one are made to queue); abort() and
// traffic() from any thread.
#pragma once

#include <memory>
#include <vector>

#include "common/collective/choose.h"
#include "exec/runtime/comm.h"

namespace tandem::exec {

struct LocalOptions {
  Nanoseconds timeout = 60'000'000'000;  // of each op, from its call
  AlgorithmSetting algorithms;           // equal on all ranks and at the launcher
  bool strict = true;
  // Rehearsals: an op is the exchange of headers and nothing else; it needs no memory. run()
  // returns the latest CommOperands::ready among this member and its peers. Their op is checked as
  // always.
  bool tokens = false;
};

// What ops have moved at this rank, over all steps. Bytes of payload; a header is 64 more.
struct Traffic {
  std::int64_t operations = 0;
  Bytes sent = 0, received = 0;
  Bytes lawful_sent = 0;  // what the algorithms must have sent (common/collective/laws.h)
  Bytes handed_over = 0;  // column "in" of models.md 1
  std::int64_t headers_sent = 0;
  Nanoseconds waiting = 0;       // until all peers were there
  Nanoseconds transferring = 0;  // from then on
};

class LocalTransport final : public CommBackend {
 public:
  // Takes the descriptors, also if it fails: this rank's ends in the order of wires_of_rank(). The
  // plan outlives the transport.
  [[nodiscard]] static Result<std::unique_ptr<LocalTransport>> create(const Plan& plan, Rank rank,
                                                                      std::vector<int> descriptors,
                                                                      const LocalOptions& options);
  ~LocalTransport() override;

  // CommBackend. `data`: all of the op's buffer, as step.h lays it out; `bytes` at least that.
  [[nodiscard]] Result<Nanoseconds> run(OpId op, int step, const CommOperands& operands) override;
  void abort() override;  // also safe in a signal handler
  [[nodiscard]] MovedBytes moved(OpId op) const override;

  // Of ops that have ended well.
  [[nodiscard]] Traffic traffic(CommId comm) const;
  [[nodiscard]] Traffic traffic(OpId op) const;

 private:
  struct State;
  explicit LocalTransport(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tandem::exec
