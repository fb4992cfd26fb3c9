#include "exec/transport/transfers.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "common/base/check.h"
#include "exec/device/clock.h"
#include "exec/transport/reduce.h"

namespace tandem::exec {
namespace {

// All pieces together fit the second-level cache of any CPU since 2015 (256 KiB and more).
constexpr std::size_t kPiecesBytes = 256 * 1024, kPieceMost = 64 * 1024, kPieceLeast = 8 * 1024;

std::size_t piece_size(int members) {
  const auto others = static_cast<std::size_t>(std::max(members - 1, 1));
  return std::clamp(kPiecesBytes / others, kPieceLeast, kPieceMost) / 8 * 8;
}

}  // namespace

Transfers::Transfers(int abort_fd, int members, int self)
    : abort_fd_(abort_fd), members_(members), self_(self), piece_bytes_(piece_size(members)) {}

void Transfers::begin_round(DType dtype, Reduction reduction) {
  dtype_ = dtype;
  reduction_ = reduction;
  sends_.clear();
  receives_.clear();
  unfinished_ = 0;
  in_order_ = in_order_ready_ = 0;
  tolerate_closed_sends = false;
  gone.reset();
}

std::size_t Transfers::send(int peer, Channel& channel, std::span<const std::byte> header,
                            std::span<const std::byte> payload) {
  sends_.push_back({peer, &channel, header, payload});
  sends_.back().ended = header.empty() && payload.empty();
  if (!sends_.back().ended) ++unfinished_;
  return sends_.size() - 1;
}

std::size_t Transfers::receive(int peer, Channel& channel, std::span<std::byte> to, Arrival arrival,
                               std::optional<std::size_t> behind) {
  receives_.push_back({peer, &channel, to, arrival, behind});
  if (!to.empty()) ++unfinished_;
  if (arrival == Arrival::in_order) ++in_order_;
  return receives_.size() - 1;
}

bool Transfers::received(std::size_t receive) const {
  return receives_[receive].done == receives_[receive].to.size();
}

std::vector<int> Transfers::missing() const {
  std::vector<int> late, blocked;
  for (const Receive& r : receives_)
    if (r.done + r.piece < r.to.size()) late.push_back(r.peer);
  for (const Send& s : sends_)
    if (!s.ended) blocked.push_back(s.peer);
  std::sort(late.begin(), late.end());
  std::sort(blocked.begin(), blocked.end());
  late.insert(late.end(), blocked.begin(), blocked.end());
  late.erase(std::unique(late.begin(), late.end()), late.end());
  return late;
}

std::optional<Fault> Transfers::advance() {
  // A receive may be what another one of the same round waits for.
  for (bool moved = true; moved && !done();) {
    moved = false;
    for (Send& s : sends_)
      if (auto fault = advance(s, moved)) return fault;
    for (Receive& r : receives_)
      if (auto fault = advance(r, moved)) return fault;
  }
  return {};
}

std::optional<Fault> Transfers::advance(Send& s, bool& moved) {
  while (!s.ended && s.channel->can_write) {
    const std::size_t of_header = std::min(s.done, s.header.size());
    const Moved m =
        s.channel->write(s.header.subspan(of_header), s.payload.subspan(s.done - of_header));
    if (m.closed && tolerate_closed_sends) {
      gone = s.peer;
      s.ended = true;
      --unfinished_;
      return {};
    }
    if (m.closed) return Fault{Fault::Kind::closed, s.peer};
    if (m.error) return Fault{Fault::Kind::io, s.peer, m.error};
    if (!m.bytes) return {};
    moved = true;
    const std::size_t before = std::max(s.done, s.header.size());
    s.done += m.bytes;
    sent += static_cast<Bytes>(std::max(s.done, s.header.size()) - before);
    if (s.done == s.header.size() + s.payload.size()) {
      s.ended = true;
      --unfinished_;
    }
  }
  return {};
}

std::span<std::byte> Transfers::piece_of(const Receive& r) {
  if (pieces_.empty()) pieces_.resize(piece_bytes_ * static_cast<std::size_t>(members_));
  return {pieces_.data() + piece_bytes_ * static_cast<std::size_t>(r.peer),
          std::min(piece_bytes_, r.to.size() - r.done)};
}

std::span<std::byte> Transfers::target(Receive& r) {
  if (r.arrival != Arrival::copy) return piece_of(r).subspan(r.piece);
  std::size_t end = r.to.size();
  if (r.behind) {
    const Send& s = sends_[*r.behind];
    if (!s.ended) end = std::min(end, s.done - std::min(s.done, s.header.size()));
  }
  return r.done < end ? r.to.subspan(r.done, end - r.done) : std::span<std::byte>{};
}

std::optional<Fault> Transfers::advance(Receive& r, bool& moved) {
  while (r.done < r.to.size() && (r.channel->can_read || r.channel->has_buffered())) {
    const std::span<std::byte> to = target(r);
    if (to.empty()) return {};
    const Moved m = r.channel->read(to);
    if (m.closed) return Fault{Fault::Kind::closed, r.peer};
    if (m.error) return Fault{Fault::Kind::io, r.peer, m.error};
    if (!m.bytes) return {};
    moved = true;
    took(r, m.bytes);
  }
  return {};
}

void Transfers::took(Receive& r, std::size_t bytes) {
  received_bytes += static_cast<Bytes>(bytes);
  if (r.arrival == Arrival::copy) {
    r.done += bytes;
  } else {
    r.piece += bytes;
    const std::span<std::byte> piece = piece_of(r);
    if (r.piece < piece.size()) return;
    if (r.arrival == Arrival::in_order) {
      if (++in_order_ready_ == in_order_) add_piece_in_order(piece.size());
      return;
    }
    combine(dtype_, reduction_, r.to.data() + r.done, piece.data(),
            static_cast<std::int64_t>(piece.size()) / size_of(dtype_));
    r.done += piece.size();
    r.piece = 0;
  }
  if (r.done == r.to.size()) --unfinished_;
}

void Transfers::add_piece_in_order(std::size_t bytes) {
  // All receives of this kind have the same target, the member's own chunk, and are equally far.
  values_.assign(static_cast<std::size_t>(members_), nullptr);
  std::byte* own = nullptr;
  for (const Receive& r : receives_) {
    if (r.arrival != Arrival::in_order) continue;
    own = r.to.data() + r.done;
    values_[static_cast<std::size_t>(r.peer)] = piece_of(r).data();
  }
  values_[static_cast<std::size_t>(self_)] = own;
  for (const std::byte* v : values_) TANDEM_CHECK(v, "a member's contribution is missing");
  combine_in_order(dtype_, reduction_, own, values_,
                   static_cast<std::int64_t>(bytes) / size_of(dtype_));
  in_order_ready_ = 0;
  for (Receive& r : receives_) {
    if (r.arrival != Arrival::in_order) continue;
    r.done += bytes;
    r.piece = 0;
    if (r.done == r.to.size()) --unfinished_;
  }
}

std::optional<Fault> Transfers::wait(Nanoseconds deadline) {
  polled_.clear();
  polled_.push_back({abort_fd_, POLLIN, 0});
  for (const Send& s : sends_)
    if (!s.ended) polled_.push_back({s.channel->fd(), POLLOUT, 0});
  const std::size_t first_receive = polled_.size();
  for (Receive& r : receives_)
    if (r.done < r.to.size() && !target(r).empty()) polled_.push_back({r.channel->fd(), POLLIN, 0});
  TANDEM_CHECK(polled_.size() > 1, "nothing to wait for");

  const Nanoseconds left = std::max<Nanoseconds>(deadline - now_ns(), 0);
  const timespec timeout{left / 1'000'000'000, left % 1'000'000'000};
  const int n = ::ppoll(polled_.data(), polled_.size(), &timeout, nullptr);
  if (n < 0 && errno != EINTR) return Fault{Fault::Kind::io, -1, errno};
  if (polled_[0].revents) return Fault{Fault::Kind::aborted};
  if (n == 0) {
    const std::vector<int> late = missing();
    return Fault{Fault::Kind::deadline, late.empty() ? -1 : late[0]};
  }
  if (n < 0) return {};  // a signal: the caller comes back
  std::size_t at = 1;
  for (const Send& s : sends_)
    if (!s.ended && polled_[at++].revents) s.channel->can_write = true;
  TANDEM_CHECK(at == first_receive, "sends changed while waiting");
  for (Receive& r : receives_)
    if (r.done < r.to.size() && !target(r).empty() && polled_[at++].revents)
      r.channel->can_read = true;
  return {};
}

}  // namespace tandem::exec
