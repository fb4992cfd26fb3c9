#include "exec/device/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace tandem::exec {
namespace {

constexpr std::int64_t kAlignment = 64;
std::int64_t aligned(std::int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

struct Life {
  BufferId id;
  std::int64_t bytes = 0;
  std::uint32_t first = 0, last = 0;  // ops of the program
};

}  // namespace

ArenaLayout pack_buffers(const Plan& plan, ProgramId program, bool persistent) {
  ArenaLayout layout;
  layout.offset.assign(plan.buffers.size(), -1);
  for (BufferId id : plan.persistent(program)) {
    const Buffer& b = plan.buffer(id);
    if (b.alias_of.valid() || !persistent) continue;
    layout.offset[id.index()] = layout.bytes;
    layout.bytes += aligned(b.capacity());
  }
  const auto ops = plan.ops_of(program);
  std::vector<Life> lives;
  std::vector<std::int64_t> place(plan.buffers.size(), -1);  // into `lives`
  for (std::uint32_t i = 0; i < ops.size(); ++i) {
    for (BufferId id : plan.allocates_of(ops[i])) {
      place[id.index()] = static_cast<std::int64_t>(lives.size());
      lives.push_back(
          {id, aligned(plan.buffer(id).capacity()), i, static_cast<std::uint32_t>(ops.size())});
    }
    for (BufferId id : plan.frees_of(ops[i]))
      if (place[id.index()] >= 0) lives[static_cast<std::size_t>(place[id.index()])].last = i;
  }
  std::stable_sort(lives.begin(), lives.end(),
                   [](const Life& a, const Life& b) { return a.bytes > b.bytes; });
  const std::int64_t base = layout.bytes;
  std::vector<const Life*> placed;  // by offset
  for (const Life& life : lives) {
    std::int64_t at = base;
    auto where = placed.end();
    for (auto it = placed.begin(); it != placed.end(); ++it) {
      const Life& other = **it;
      if (other.last < life.first || life.last < other.first) continue;
      const std::int64_t begin = layout.offset[other.id.index()];
      if (begin >= at + life.bytes) break;
      at = std::max(at, begin + other.bytes);
    }
    layout.offset[life.id.index()] = at;
    where = std::lower_bound(placed.begin(), placed.end(), at, [&](const Life* p, std::int64_t o) {
      return layout.offset[p->id.index()] < o;
    });
    placed.insert(where, &life);
    layout.bytes = std::max(layout.bytes, at + life.bytes);
  }
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (b.program == program && b.alias_of.valid() && layout.offset[b.alias_of.index()] >= 0)
      layout.offset[i] = layout.offset[b.alias_of.index()] + b.alias_offset;
  }
  return layout;
}

Result<Arena> Arena::create(const Plan& plan, ProgramId program) {
  return map(Arena(pack_buffers(plan, program), {}));
}

Result<Arena> Arena::create(const Plan& plan, ProgramId program, std::vector<std::byte*> lent) {
  return map(Arena(pack_buffers(plan, program, /*persistent=*/false), std::move(lent)));
}

Result<Arena> Arena::map(Arena arena) {
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(arena.layout_.bytes, 1));
  void* slab = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (slab == MAP_FAILED)
    return make_error(Failure::execution, "E-EXEC-032", "no memory for the plan's buffers",
                      fmt::format("{} bytes refused by the system", bytes), "memory for the plan",
                      "use more ranks, a smaller micro_batch or recompute");
  arena.slab_ = static_cast<std::byte*>(slab);
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : layout_(std::move(other.layout_)),
      lent_(std::move(other.lent_)),
      slab_(std::exchange(other.slab_, nullptr)) {}
Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(layout_, other.layout_);
  std::swap(lent_, other.lent_);
  std::swap(slab_, other.slab_);
  return *this;
}
Arena::~Arena() {
  if (slab_) ::munmap(slab_, static_cast<std::size_t>(std::max<std::int64_t>(layout_.bytes, 1)));
}

void Arena::drop_pages() {
  ::madvise(slab_, static_cast<std::size_t>(std::max<std::int64_t>(layout_.bytes, 1)),
            MADV_DONTNEED);
}

View Arena::view(const Plan& plan, BufferId id) const {
  const Buffer& b = plan.buffer(id);
  const BufferId root = b.alias_of.valid() ? b.alias_of : id;
  if (!lent_.empty() && lent_[root.index()])
    return {lent_[root.index()] + b.alias_offset, b.dtype, b.shape};
  const std::int64_t offset = layout_.offset[id.index()];
  TANDEM_CHECK(offset >= 0, "buffer {} is of another program", id.value);
  return {slab_ + offset, b.dtype, b.shape};
}

}  // namespace tandem::exec
