#include "exec/runtime/recorder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/base/file.h"
#include "exec/device/clock.h"

namespace tandem::exec {
namespace {

constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kFileBytes = kHeaderBytes + kRingRecords * sizeof(RingRecord);

// A field that another thread, or after our death another process, reads.
template <class T>
void store(T& field, T value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref<T>(field).store(value, order);
}
template <class T>
T load(const T& field, std::memory_order order = std::memory_order_relaxed) {
  return std::atomic_ref<T>(const_cast<T&>(field)).load(order);  // no write: no const atomic_ref
}

bool runs(const RingRecord& r) { return r.started_ns != 0 && r.done_ns == 0; }

}  // namespace

std::string_view name_of(OpState state) {
  switch (state) {
    case OpState::queued:
      return "queued";
    case OpState::started:
      return "started";
    case OpState::done:
      return "done";
  }
  return "?";
}

Result<std::unique_ptr<Recorder>> Recorder::create(const std::string& path, const Plan& plan,
                                                   Rank rank, const std::string& plan_id,
                                                   std::span<const Plan* const> beside) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  void* mapping = MAP_FAILED;
  // Blocks are taken now: a full disk would be a SIGBUS later.
  const int error = fd < 0 ? errno : ::posix_fallocate(fd, 0, kFileBytes);
  if (error == 0) mapping = ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int cause = error != 0 ? error : errno;
  if (fd >= 0) ::close(fd);
  if (mapping == MAP_FAILED)
    return make_error(Failure::output, "E-IO-010", "cannot write the file", std::strerror(cause),
                      "room and permission for the run directory", "choose another -o",
                      Location{path});
  return std::unique_ptr<Recorder>(new Recorder(mapping, plan, rank, plan_id, beside));
}

Recorder::Recorder(void* mapping, const Plan& plan, Rank rank, const std::string& plan_id,
                   std::span<const Plan* const> beside)
    : mapping_(mapping),
      header_(new (mapping) RingHeader),
      records_(new (static_cast<char*>(mapping) + kHeaderBytes) RingRecord[kRingRecords]) {
  header_->rank = rank.value;
  header_->world = plan.header.mesh.world();
  std::copy_n(plan_id.begin(), std::min(plan_id.size(), sizeof header_->plan_id), header_->plan_id);
  header_->opened_ns = now_ns();
  add(plan, rank, 0, 0);
  std::size_t num_communicators = plan.communicators.size();
  auto num_ops = static_cast<std::int32_t>(plan.ops.size());
  for (const Plan* p : beside) {
    add(*p, rank, num_ops, static_cast<std::int32_t>(num_communicators));
    num_ops += static_cast<std::int32_t>(p->ops.size());
    num_communicators += p->communicators.size();
  }
  numbers_.assign(statics_.size(), 0);
  sequences_.assign(num_communicators, 0);
}

void Recorder::add(const Plan& plan, Rank rank, std::int32_t op_offset, std::int32_t comm_offset) {
  const ProgramId program = plan.program_of(rank);
  parts_.push_back({op_offset,
                    op_offset + static_cast<std::int32_t>(plan.programs[program.index()].first_op),
                    static_cast<std::int32_t>(statics_.size())});
  for (const Op& op : plan.ops_of(program)) {
    Static s;
    s.kind = static_cast<std::uint8_t>(op.kind);
    if (is_communication(op.kind)) {
      s.communicator = static_cast<std::int16_t>(comm_offset + op.comm.value);
      s.bytes = Plan::bytes_in(op);
      if (is_p2p(op.kind)) {
        const std::vector<Rank> members = plan.members(op.comm, rank);
        for (Rank m : members)
          if (m != rank && members.size() == 2) s.peer = m.value;
      }
    }
    statics_.push_back(s);
  }
}

Recorder::~Recorder() { ::munmap(mapping_, kFileBytes); }

void Recorder::queued(OpId op, int step) {
  const std::size_t at = local(op);
  const Static& s = statics_[at];
  const std::uint64_t number = next_++;
  numbers_[at] = number;
  RingRecord& r = records_[number % kRingRecords];
  store(r.number_first, number);
  std::atomic_thread_fence(std::memory_order_release);
  store(r.started_ns, std::int64_t{0});
  store(r.done_ns, std::int64_t{0});
  store(r.op, op.value);
  store(r.step, static_cast<std::int32_t>(step));
  store(r.kind, s.kind);
  store(r.state, static_cast<std::uint8_t>(OpState::queued));
  store(r.communicator, s.communicator);
  store(r.sequence, s.communicator < 0 ? std::int32_t{-1}
                                       : sequences_[static_cast<std::size_t>(s.communicator)]++);
  store(r.peer, s.peer);
  store(r.bytes, s.bytes);
  store(r.queued_ns, std::int64_t{now_ns()});
  store(r.number_last, number, std::memory_order_release);
  store(header_->next_number, next_);
}

void Recorder::started(OpId op, int) {
  const std::uint64_t number = numbers_[local(op)];
  RingRecord& r = records_[number % kRingRecords];
  if (load(r.number_first) != number) return;  // 4,096 more were queued meanwhile
  store(r.started_ns, std::int64_t{now_ns()});
  store(r.state, static_cast<std::uint8_t>(OpState::started));
}

void Recorder::done(OpId op, int) {
  const std::uint64_t number = numbers_[local(op)];
  RingRecord& r = records_[number % kRingRecords];
  if (load(r.number_first) == number) {
    store(r.done_ns, std::int64_t{now_ns()});
    store(r.state, static_cast<std::uint8_t>(OpState::done));
  }
  store(header_->ops_done, ops_done_.fetch_add(1, std::memory_order_relaxed) + 1);
}

std::optional<Recorder::Unfinished> Recorder::unfinished(bool newest) const {
  std::optional<Unfinished> found;
  for (std::uint32_t i = 0; i < kRingRecords; ++i) {
    const RingRecord& r = records_[i];
    const std::uint64_t number = load(r.number_last, std::memory_order_acquire);
    if (number == 0) continue;
    const Unfinished seen{load(r.op), load(r.step), load(r.kind), load(r.started_ns)};
    const bool done = load(r.done_ns) != 0;
    std::atomic_thread_fence(std::memory_order_acquire);
    if (load(r.number_first) != number || seen.started_ns == 0 || done) continue;
    if (!found || (seen.started_ns < found->started_ns) != newest) found = seen;
  }
  return found;
}

const RingRecord* Ring::unfinished(bool newest) const {
  const RingRecord* found = nullptr;
  for (const RingRecord& r : records)
    if (runs(r) && (!found || (r.started_ns < found->started_ns) != newest)) found = &r;
  return found;
}

const RingRecord* Ring::last_done() const {
  const RingRecord* last = nullptr;
  for (const RingRecord& r : records)
    if (r.done_ns != 0 && (!last || r.done_ns > last->done_ns)) last = &r;
  return last;
}

Result<Ring> read_ring(const std::string& path) {
  Result<std::string> bytes = read_file(path, kFileBytes);
  if (!bytes) return bytes.error();
  return decode_ring(*bytes, path);
}

Result<Ring> decode_ring(std::string_view bytes, const std::string& file) {
  Ring ring;
  const RingHeader expected;
  const bool whole = bytes.size() == kFileBytes;
  if (whole) std::memcpy(&ring.header, bytes.data(), sizeof ring.header);
  if (!whole || std::memcmp(ring.header.magic, expected.magic, sizeof expected.magic) != 0 ||
      ring.header.version != expected.version ||
      ring.header.header_bytes != expected.header_bytes ||
      ring.header.record_bytes != expected.record_bytes || ring.header.records != kRingRecords)
    return make_error(Failure::bad_input, "E-EXEC-012", "this is no ring of a rank",
                      std::to_string(bytes.size()) + " bytes",
                      std::to_string(kFileBytes) + " bytes of version 1",
                      "give the folder of a run of this version", Location{file});
  for (std::uint32_t i = 0; i < kRingRecords; ++i) {
    RingRecord r;
    std::memcpy(&r, bytes.data() + kHeaderBytes + i * sizeof r, sizeof r);
    if (r.number_first == 0 && r.number_last == 0) continue;
    if (r.number_first != r.number_last || r.number_first % kRingRecords != i || r.state < 1 ||
        r.state > static_cast<int>(OpState::done) || r.kind >= kNumOpKinds)
      ++ring.num_torn;
    else
      ring.records.push_back(r);
  }
  std::sort(ring.records.begin(), ring.records.end(), [](const RingRecord& a, const RingRecord& b) {
    return a.number_first < b.number_first;
  });
  return ring;
}

}  // namespace tandem::exec
