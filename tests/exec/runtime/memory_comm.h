// A transport for tests: ranks are threads of one process, members meet at a barrier. NCCL's
// meaning: per communicator FIFO, rendezvous sends, sizes checked. All-reduce adds in rank order.
#pragma once

#include <fmt/format.h>

#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "exec/device/clock.h"
#include "exec/runtime/comm.h"

namespace tandem::exec {

// What the ranks of one run share.
class Meeting {
 public:
  explicit Meeting(const Plan& plan) : plan_(plan) {}
  void abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }
  Result<Nanoseconds> run(Rank rank, OpId op, const CommOperands& operands) {
    const Op& o = plan_.op(op);
    const std::vector<Rank> members = plan_.members(o.comm, rank);
    const Bytes bytes = operands.source ? operands.source_bytes : operands.bytes;
    const bool rows = !operands.send_rows.empty() || !operands.recv_rows.empty();
    if (!rows && bytes < Plan::bytes_in(o)) return failed("a buffer shorter than the message");
    // The group is known by its first member; the nth operation of a member is the nth of all.
    const auto group = std::pair(o.comm.value, members.at(0).value);
    std::unique_lock lock(mutex_);
    if (aborted_) return failed("aborted");  // buffers of earlier members may be gone
    const int sequence = sequence_[{group.first, group.second, rank.value}]++;
    auto& slot = slots_[{group.first, group.second, sequence}];
    if (!slot) slot = std::make_shared<Slot>();
    const std::shared_ptr<Slot> s = slot;
    if (s->present.empty()) s->first = o, s->data.resize(members.size());
    const bool mine_fits = o.count == s->first.count && o.dtype == s->first.dtype &&
                           o.match == s->first.match &&
                           (o.kind == s->first.kind || (is_p2p(o.kind) && is_p2p(s->first.kind)));
    if (!mine_fits) s->mismatch = true;
    std::size_t index = 0;
    while (members[index] != rank) ++index;
    s->data[index] = operands;
    s->present.push_back(rank.value);
    if (o.kind == OpKind::send) s->sender = index;
    if (s->present.size() == members.size()) {
      s->complete_at = now_ns();
      if (!s->mismatch) combine(*s);
      s->done = true;
      slots_.erase({group.first, group.second, sequence});
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return s->done || aborted_; });
    if (!s->done) return failed("aborted");
    if (s->mismatch) return failed("members disagree about the operation");
    return s->complete_at;
  }

 private:
  struct Slot {
    Op first;
    std::vector<CommOperands> data;
    std::vector<int> present;
    std::size_t sender = 0;
    bool done = false, mismatch = false;
    Nanoseconds complete_at = 0;
  };
  static Error failed(const char* what) {
    return make_error(Failure::peer_lost, "E-EXEC-032", "communication failed", what, "", "");
  }
  // Sums or maxima in rank order, of elements [begin, end) of what the members hand over.
  template <class T>
  static std::vector<T> reduced(const Op& o, const std::vector<CommOperands>& data,
                                std::int64_t begin, std::int64_t end) {
    std::vector<T> out;
    for (std::int64_t i = begin; i < end; ++i) {
      const auto value = [&](const CommOperands& m) {
        return reinterpret_cast<const T*>(m.source ? m.source : m.data)[i];
      };
      T sum = value(data[0]);
      for (std::size_t r = 1; r < data.size(); ++r)
        sum = o.reduction == Reduction::max ? std::max(sum, value(data[r])) : sum + value(data[r]);
      out.push_back(sum);
    }
    return out;
  }
  template <class T>
  static void reduce(const Op& o, const std::vector<CommOperands>& data) {
    const auto n = static_cast<std::int64_t>(data.size());
    const bool scatters = o.kind == OpKind::reduce_scatter;
    // Where the part of member m begins; that of n: the end.
    const auto begin = [&](std::int64_t m) -> std::int64_t {
      if (!scatters) return m == n ? o.count : 0;
      if (data[0].send_rows.empty()) return m * (o.count / n);
      return offsets(data[0].send_rows, data.size())[static_cast<std::size_t>(m)] *
             data[0].row_bytes / static_cast<Bytes>(sizeof(T));
    };
    std::vector<std::vector<T>> results;
    for (std::int64_t m = 0; m < n; ++m)
      results.push_back(reduced<T>(o, data, begin(m), begin(scatters ? m + 1 : n)));
    for (std::int64_t m = 0; m < n; ++m) {
      const CommOperands& d = data[static_cast<std::size_t>(m)];
      const std::vector<T>& result = results[static_cast<std::size_t>(m)];
      const std::int64_t at = scatters && !d.source ? begin(m) : 0;  // own chunk of the buffer
      if (!result.empty())
        std::memcpy(d.data + at * static_cast<std::int64_t>(sizeof(T)), result.data(),
                    result.size() * sizeof(T));
    }
  }
  // Offsets in rows of what belongs to each member.
  static std::vector<std::int64_t> offsets(std::span<const std::int32_t> rows, std::size_t n) {
    std::vector<std::int64_t> at(n + 1, 0);
    for (std::size_t i = 0; i < rows.size(); ++i) at[i / (rows.size() / n) + 1] += rows[i];
    for (std::size_t i = 1; i <= n; ++i) at[i] += at[i - 1];
    return at;
  }
  static void move(const Op& o, const std::vector<CommOperands>& data) {
    const std::size_t n = data.size();
    const Bytes whole = Plan::bytes_in(o);
    const auto copy = [](std::byte* to, const std::byte* from, Bytes bytes) {
      std::memcpy(to, from, static_cast<std::size_t>(bytes));
    };
    std::vector<std::vector<std::byte>> sent;  // before anything is overwritten
    for (const CommOperands& d : data) {
      const std::byte* from = d.source ? d.source : d.data;
      const Bytes bytes = d.recv_rows.empty() ? whole : d.source_bytes;
      sent.emplace_back(from, from + bytes);
    }
    for (std::size_t m = 0; m < n; ++m)
      for (std::size_t k = 0; k < n; ++k) {  // what k has for m
        const auto at = [&](std::size_t i, Bytes part) { return static_cast<Bytes>(i) * part; };
        if (!data[m].recv_rows.empty()) {
          const auto in = offsets(data[m].recv_rows, n);
          const std::int64_t first =  // a gather's rows are the same for all
              data[k].send_rows.empty() ? 0 : offsets(data[k].send_rows, n)[m];
          copy(data[m].data + in[k] * data[m].row_bytes, sent[k].data() + first * data[m].row_bytes,
               (in[k + 1] - in[k]) * data[m].row_bytes);
        } else if (o.kind == OpKind::all_gather) {
          const bool in_place = data[k].source == nullptr;
          copy(data[m].data + at(k, whole),
               (in_place ? data[k].data + at(k, whole) : sent[k].data()), whole);
        } else if (o.kind == OpKind::all_to_all) {
          const Bytes part = whole / static_cast<Bytes>(n);
          copy(data[m].data + at(k, part), sent[k].data() + at(m, part), part);
        } else if (o.kind == OpKind::shift && (k + 1) % n == m) {
          copy(data[m].data, sent[k].data(), whole);
        }
      }
  }
  void combine(Slot& s) {
    const Op& o = s.first;
    if (is_p2p(o.kind))
      std::memcpy(s.data[1 - s.sender].data, s.data[s.sender].data,
                  static_cast<std::size_t>(Plan::bytes_in(o)));
    else if (o.reduction == Reduction::none)
      move(o, s.data);
    else if (o.dtype == DType::f64)
      reduce<double>(o, s.data);
    else if (o.dtype == DType::i32)
      reduce<std::int32_t>(o, s.data);
    else
      reduce<float>(o, s.data);
  }
  const Plan& plan_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool aborted_ = false;
  std::map<std::tuple<int, int, int>, int> sequence_;
  std::map<std::tuple<int, int, int>, std::shared_ptr<Slot>> slots_;
};

class MemoryComm final : public CommBackend {
 public:
  MemoryComm(Meeting& meeting, Rank rank) : meeting_(meeting), rank_(rank) {}
  Result<Nanoseconds> run(OpId op, int, const CommOperands& operands) override {
    return meeting_.run(rank_, op, operands);
  }
  void abort() override { meeting_.abort(); }

 private:
  Meeting& meeting_;
  Rank rank_;
};

}  // namespace tandem::exec
