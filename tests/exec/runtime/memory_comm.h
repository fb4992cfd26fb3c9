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
  Result<Nanoseconds> run(Rank rank, OpId op, std::byte* data, Bytes bytes) {
    const Op& o = plan_.op(op);
    const std::vector<Rank> members = plan_.members(o.comm, rank);
    if (bytes < Plan::bytes_in(o)) return failed("a buffer shorter than the message");
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
    s->data[index] = data;
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
    std::vector<std::byte*> data;
    std::vector<int> present;
    std::size_t sender = 0;
    bool done = false, mismatch = false;
    Nanoseconds complete_at = 0;
  };
  static Error failed(const char* what) {
    return make_error(Failure::peer_lost, "E-EXEC-032", "communication failed", what, "", "");
  }
  template <class T>
  static void reduce(const Op& o, const std::vector<std::byte*>& data) {
    for (std::int64_t i = 0; i < o.count; ++i) {
      T sum = reinterpret_cast<T*>(data[0])[i];
      for (std::size_t r = 1; r < data.size(); ++r) {
        const T x = reinterpret_cast<T*>(data[r])[i];
        sum = o.reduction == Reduction::max ? std::max(sum, x) : sum + x;
      }
      for (std::byte* d : data) reinterpret_cast<T*>(d)[i] = sum;
    }
  }
  void combine(Slot& s) {
    const Op& o = s.first;
    if (is_p2p(o.kind)) {
      std::memcpy(s.data[1 - s.sender], s.data[s.sender],
                  static_cast<std::size_t>(Plan::bytes_in(o)));
    } else if (o.dtype == DType::f64) {
      reduce<double>(o, s.data);
    } else {
      reduce<float>(o, s.data);
    }
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
  Result<Nanoseconds> run(OpId op, int, std::byte* data, Bytes bytes) override {
    return meeting_.run(rank_, op, data, bytes);
  }
  void abort() override { meeting_.abort(); }

 private:
  Meeting& meeting_;
  Rank rank_;
};

}  // namespace tandem::exec
