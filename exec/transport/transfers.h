// The messages of one round of one communicator, all in progress at once over non-blocking sockets:
// advance() moves what can be moved, wait() sleeps in poll() until more can. Nothing here spins,
// and a send never waits for a receive of the same round.
//
//   arrival    what a receive does with its bytes
//   copy       to their place
//   combine    through a piece of memory that stays in the cache: own = received (+) own
//   in_order   as combine, but a piece is added when it is there from every other member, in the
//              order of the ranks (common/collective, reduce_in_rank_order)
//   With `behind`, a receive that overwrites what a send of the round still has to read stays
//   behind it (shift, all_to_all). No ring of such exchanges can block: if all members had full
//   sockets and nothing to read, each would have sent more than the one it sends to.
// Used by one thread at a time.
#pragma once

#include <poll.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/base/units.h"
#include "common/plan/plan.h"
#include "exec/transport/channel.h"

namespace tandem::exec {

// Why a wait ended without its data.
struct Fault {
  enum class Kind : std::uint8_t { closed, aborted, deadline, io };
  Kind kind = Kind::closed;
  int peer = -1;  // member index; deadline: the first of those waited for
  int error = 0;  // io: errno
};

enum class Arrival : std::uint8_t { copy, combine, in_order };

class Transfers {
 public:
  // `abort_fd` is readable for ever once the run has been aborted. `members`, `self`: of the
  // communicator.
  Transfers(int abort_fd, int members, int self);

  // Empties the lists. The element type is that of the following receives.
  void begin_round(DType dtype, Reduction reduction);
  // The data must stay until the round has ended. Returns the send's index.
  std::size_t send(int peer, Channel& channel, std::span<const std::byte> header,
                   std::span<const std::byte> payload);
  std::size_t receive(int peer, Channel& channel, std::span<std::byte> to, Arrival arrival,
                      std::optional<std::size_t> behind = {});

  // Moves what can be moved without blocking.
  [[nodiscard]] std::optional<Fault> advance();
  // Sleeps until something can be moved or one of the other three ends: `deadline` on the
  // monotonic clock. Call it after advance(), and only if not done().
  [[nodiscard]] std::optional<Fault> wait(Nanoseconds deadline);
  [[nodiscard]] bool done() const { return unfinished_ == 0; }
  [[nodiscard]] bool received(std::size_t receive) const;
  // Members whose bytes are still missing, ascending, receives before sends.
  [[nodiscard]] std::vector<int> missing() const;

  // While true, a peer that is gone only ends the sends to it: its last words are read first, and
  // `gone` is such a peer.
  bool tolerate_closed_sends = false;
  std::optional<int> gone;
  // Bytes of payload moved since the counters were last reset; a header counts as none.
  Bytes sent = 0, received_bytes = 0;

 private:
  struct Send {
    int peer;
    Channel* channel;
    std::span<const std::byte> header, payload;
    std::size_t done = 0;  // of both together
    bool ended = false;
  };
  struct Receive {
    int peer;
    Channel* channel;
    std::span<std::byte> to;
    Arrival arrival;
    std::optional<std::size_t> behind;
    std::size_t done = 0;   // bytes at their place
    std::size_t piece = 0;  // bytes in the piece
  };
  [[nodiscard]] std::optional<Fault> advance(Send& s, bool& moved);
  [[nodiscard]] std::optional<Fault> advance(Receive& r, bool& moved);
  [[nodiscard]] std::span<std::byte> target(Receive& r);  // empty: it has to wait for others
  void took(Receive& r, std::size_t bytes);
  void add_piece_in_order(std::size_t bytes);
  [[nodiscard]] std::span<std::byte> piece_of(const Receive& r);

  const int abort_fd_, members_, self_;
  const std::size_t piece_bytes_;
  DType dtype_ = DType::f32;
  Reduction reduction_ = Reduction::none;
  std::vector<Send> sends_;
  std::vector<Receive> receives_;
  std::size_t unfinished_ = 0;
  int in_order_ = 0, in_order_ready_ = 0;  // receives of that kind; those with a full piece
  std::vector<std::byte> pieces_;          // by member, taken when first needed
  std::vector<const std::byte*> values_;
  std::vector<pollfd> polled_;
};

}  // namespace tandem::exec
