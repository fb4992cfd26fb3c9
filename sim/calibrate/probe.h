// Plans that are executed only to be measured: communications of many sizes, back to back, and ops
// that can only be issued one after the other. They run as any plan does (same processes,
// interpreter and transport), so what is measured is what a run pays. Pure.
//
//   Seconds of a communication   from the end of the one before it on the same stream to its own
//                                end: its handshake, its bytes, and the bookkeeping of an op. The
//                                first of each sequence only starts the clock.
//   CPU share                    CPU seconds of one member / seconds
//   Wake                         from the end of a compute op to the start of the one that waits
//   for
//                                it on another stream, whose thread sleeps. For at most as many
//                                ranks as cores: with more it is mostly the wait for a core, which
//                                the simulator has already
//   Issue                        from one issued op to the next while nothing holds the host
// Medians over ranks, steps and repeats.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "common/timeline/timeline.h"
#include "sim/calibrate/fit.h"

namespace tandem::sim {

struct Probe {
  OpKind kind = OpKind::all_reduce;  // send stands for a send and its receive
  int members = 2;
  Bytes bytes = 0;                         // handed over by one member
  std::vector<std::vector<OpId>> streams;  // ops back to back, one list a stream
};

struct ProbePlan {
  Plan plan;
  std::vector<Probe> probes;
  std::vector<std::pair<OpId, OpId>> turns;  // the second waits for the first, on another stream
};

// `members` ranks on the dp axis; each kind of `kinds` (collectives) at each size. Sizes: whole
// elements of 4 bytes, at least one for every member (rounded up). repeats >= 2.
[[nodiscard]] ProbePlan collective_probe(std::span<const OpKind> kinds, int members,
                                         std::span<const Bytes> sizes, int repeats);
// Two ranks on the pp axis that send to each other in turn.
[[nodiscard]] ProbePlan message_probe(std::span<const Bytes> sizes, int repeats);

// `ranks` ranks that compute and do not communicate: ops of about half a millisecond on two streams
// in turn, each of which waits for the one before it.
[[nodiscard]] ProbePlan host_probe(int ranks, int turns);

struct ProbeFigures {
  struct Curve {
    OpKind kind = OpKind::all_reduce;
    int members = 2;
    std::vector<TransportSample> samples;  // by size
    std::vector<double> cpu_shares;        // of each sample
  };
  std::vector<Curve> curves;                   // by (kind, members)
  std::map<int, std::vector<double>> turns_s;  // by number of ranks
  std::vector<double> issues_s;
};
// Adds what a measured timeline of the plan shows. Spans of unknown ops are passed over.
void add_figures(const ProbePlan& probe, const Timeline& measured, ProbeFigures& figures);

}  // namespace tandem::sim
