// What two members tell each other before a communication op moves data: "I am here, and this is
// what I am about to do". Each sends one header to each peer of its step program, and sends no
// payload to a peer whose header it has not seen (strict) - so a send ends only once its receive is
// posted. Both check what they get against their own plan before they read payload: an op that
// members see differently is an error with both values on both ends, never a hang or wrong sums.
// Bytes on the wire: 64, the host's byte order; both ends are processes of one host.
#pragma once

#include <cstdint>
#include <string>

#include "common/plan/plan.h"
#include "exec/transport/program.h"

namespace tandem::exec {

struct MessageHeader {
  static constexpr std::uint32_t kMagic = 0x31444d54;  // "TMD1"
  std::uint32_t magic = kMagic;
  std::int32_t comm = -1;
  std::int64_t sequence = 0;  // ops of this communicator that these two have had together
  // Elements of the whole buffer (OpProgram::count); of rows: what goes to this peer, and what is
  // expected from it.
  std::int64_t count = 0, expects = 0;
  Nanoseconds ready = 0;  // CommOperands::ready of the sender
  std::int32_t op = -1;   // the sender's id; must be equal where match is -1
  std::int32_t match = -1;
  std::int32_t step = 0;  // of training
  std::int32_t from = -1, to = -1;
  std::uint8_t kind = 0, dtype = 0, reduction = 0, algorithm = 0;
};
static_assert(sizeof(MessageHeader) == 64);

[[nodiscard]] MessageHeader make_header(const Plan& plan, OpId op, const OpProgram& program,
                                        std::int64_t sequence, int step, Rank from, Rank to);

// The first field in which `theirs` is not what `mine` expects, with both values; empty: they
// agree. `mine` is the header sent to the peer that `theirs` came from. A send expects a recv.
struct Mismatch {
  std::string field;  // "bytes"; empty: none
  std::string mine, theirs;
};
[[nodiscard]] Mismatch compare(const MessageHeader& mine, const MessageHeader& theirs);

}  // namespace tandem::exec
