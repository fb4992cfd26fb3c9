// Collectives as step programs: plain data that the host transport executes and that laws.h counts.
// docs/collectives.md has the pictures. Not here: which algorithm to take (choose.h).
//
//   The buffer of `count` elements is cut into chunks; chunk c of n is [c*count/n, (c+1)*count/n).
//   A member walks its steps in order. Steps of one round may run at the same time; a round begins
//   when the member's own earlier rounds have ended. Sending and receiving of one step always
//   progress together, so no program needs a message to be buffered.
//
//   collective        buffer before                    buffer after
//   all_reduce        own values                       sums (or maxima) of all members
//   reduce_scatter    own values                       chunk `member` holds the sums, the rest is
//                                                      undefined
//   all_gather        chunk `member` holds own values  chunk c holds member c's values
//   broadcast         root: the values                 the root's values
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tandem {

enum class Collective : std::uint8_t { all_reduce, all_gather, reduce_scatter, broadcast };
[[nodiscard]] std::string_view name_of(Collective c);

enum class CollectiveAlgorithm : std::uint8_t { ring, tree, halving_doubling, direct };
[[nodiscard]] std::string_view name_of(CollectiveAlgorithm a);

// What a receiver does with what it gets.
enum class StepAction : std::uint8_t {
  copy,                  // replaces its own
  reduce,                // own = received + own
  reduce_in_rank_order,  // own = sum over members 0, 1, ..., n-1 of their values of this chunk,
                         // once all of the round's contributions to it are known: same bits
                         // everywhere
};

// Chunks [first, first + count) of the program's chunks.
struct ChunkSpan {
  std::int32_t first = 0, count = 0;
  bool operator==(const ChunkSpan&) const = default;
};

// peer -1: this half of the step is empty.
struct Step {
  std::int32_t round = 0;
  std::int32_t send_to = -1;
  ChunkSpan send;
  std::int32_t recv_from = -1;
  ChunkSpan recv;
  StepAction action = StepAction::copy;
};

struct MemberProgram {
  std::int32_t members = 0;
  std::int32_t chunks = 0;  // the buffer is cut into so many
  std::vector<Step> steps;  // by round
};

// Elements [begin, begin + count) of a chunk span.
struct ElementSpan {
  std::int64_t begin = 0, count = 0;
};
[[nodiscard]] constexpr ElementSpan elements_of(ChunkSpan span, int chunks, std::int64_t count) {
  // Neither product overflows for count < 2^63 / chunks; buffers are below 2^44 elements.
  const std::int64_t begin = span.first * count / chunks;
  return {begin, (span.first + span.count) * count / chunks - begin};
}

// What really runs when `wanted` is asked for: halving_doubling needs a power of two (else ring;
// broadcast: tree); tree only has all_reduce and broadcast (else ring).
[[nodiscard]] CollectiveAlgorithm effective_algorithm(Collective collective,
                                                      CollectiveAlgorithm wanted, int members);

// The steps of one member. Takes effective_algorithm() first. members >= 1; `root`: broadcast.
[[nodiscard]] MemberProgram build_steps(Collective collective, CollectiveAlgorithm wanted,
                                        int members, int member, int root = 0);

// Members that `member` exchanges messages with, ascending.
[[nodiscard]] std::vector<int> peers_of(const MemberProgram& program);

}  // namespace tandem
