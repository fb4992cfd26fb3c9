// Streams, latches, the packing of buffers, and pages of program files.
#include <doctest/doctest.h>

#include <cstdlib>
#include <random>

#include "common/base/file.h"
#include "exec/device/arena.h"
#include "exec/device/loaded_pages.h"
#include "exec/device/stream.h"

namespace tandem::exec {
namespace {

// A program of `lives.size()` buffers: buffer i is allocated by op first and freed by op last.
struct Life {
  int first, last;
  std::int64_t elements;
};
Plan plan_of(const std::vector<Life>& lives, int num_ops) {
  Plan p;
  p.streams = {"compute"};
  p.programs = {{0, static_cast<std::uint32_t>(num_ops)}};
  p.ops.resize(static_cast<std::size_t>(num_ops));
  for (const Life& l : lives) {
    Buffer b;
    b.program = ProgramId{0};
    b.shape = {l.elements};
    p.buffers.push_back(b);
  }
  for (int op = 0; op < num_ops; ++op)
    for (const bool frees : {false, true}) {
      Range r{static_cast<std::uint32_t>(p.buffer_refs.size()), 0};
      for (std::size_t i = 0; i < lives.size(); ++i)
        if ((frees ? lives[i].last : lives[i].first) == op) {
          p.buffer_refs.push_back(BufferId{static_cast<int>(i)});
          ++r.count;
        }
      (frees ? p.ops[static_cast<std::size_t>(op)].frees
             : p.ops[static_cast<std::size_t>(op)].allocates) = r;
    }
  return p;
}

std::int64_t peak(const std::vector<Life>& lives, int num_ops) {
  std::int64_t best = 0;
  for (int op = 0; op < num_ops; ++op) {
    std::int64_t live = 0;
    for (const Life& l : lives)
      if (l.first <= op && op <= l.last) live += (l.elements * 4 + 63) / 64 * 64;
    best = std::max(best, live);
  }
  return best;
}

}  // namespace

TEST_CASE("arena: buffers that live together never overlap, packing stays near the peak") {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    const int num_ops = 40;
    std::vector<Life> lives;
    for (int i = 0; i < 60; ++i) {
      const int first = static_cast<int>(random() % num_ops);
      const int last = std::min<int>(num_ops - 1, first + static_cast<int>(random() % 10));
      lives.push_back({first, last, 1 + static_cast<std::int64_t>(random() % 1000)});
    }
    const Plan plan = plan_of(lives, num_ops);
    const ArenaLayout layout = pack_buffers(plan, ProgramId{0});
    for (std::size_t a = 0; a < lives.size(); ++a) {
      CHECK(layout.offset[a] % 64 == 0);
      CHECK(layout.offset[a] + lives[a].elements * 4 <= layout.bytes);
      for (std::size_t b = 0; b < a; ++b) {
        if (lives[a].last < lives[b].first || lives[b].last < lives[a].first) continue;
        const bool apart = layout.offset[a] + lives[a].elements * 4 <= layout.offset[b] ||
                           layout.offset[b] + lives[b].elements * 4 <= layout.offset[a];
        CHECK(apart);
      }
    }
    CHECK(layout.bytes >= peak(lives, num_ops));
    CHECK(static_cast<double>(layout.bytes) <= 1.25 * static_cast<double>(peak(lives, num_ops)));
  }
}

TEST_CASE("arena: persistent buffers, aliases and zeros") {
  Plan plan = plan_of({{0, 1, 100}, {1, 1, 50}}, 2);
  Buffer bucket;
  bucket.program = ProgramId{0};
  bucket.shape = {256};
  plan.buffers.push_back(bucket);  // 2: no op allocates it
  Buffer alias = bucket;
  alias.shape = {64};
  alias.alias_of = BufferId{2};
  alias.alias_offset = 512;
  plan.buffers.push_back(alias);
  Result<Arena> arena = Arena::create(plan, ProgramId{0});
  REQUIRE(arena.ok());
  CHECK(arena->view(plan, BufferId{3}).data == arena->view(plan, BufferId{2}).data + 512);
  CHECK(reinterpret_cast<std::uintptr_t>(arena->view(plan, BufferId{1}).data) % 64 == 0);
  for (int i = 0; i < 256; ++i) CHECK(arena->view(plan, BufferId{2}).as<float>()[i] == 0);
}

TEST_CASE("stream: runs issued ops in order, step after step") {
  std::vector<std::pair<int, int>> seen;
  Latch done;
  {
    Stream s("test", {4, 7, 9}, {}, [&](std::int32_t op, std::int32_t step) {
      seen.emplace_back(op, step);
      if (op == 9) done.set(step + 1);
    });
    for (int step = 0; step < 3; ++step) {
      for (int i = 0; i < 3; ++i) s.issue();
      CHECK(done.wait_above(step));
    }
  }
  REQUIRE(seen.size() == 9);
  CHECK(seen[0] == std::pair(4, 0));
  CHECK(seen[5] == std::pair(9, 1));
  CHECK(seen[8] == std::pair(9, 2));
}

TEST_CASE("latch: abort releases waiters and stays") {
  Latch latch;
  CHECK(!latch.is_above(0));
  std::thread waiter([&] { CHECK(!latch.wait_above(0)); });
  latch.abort();
  waiter.join();
  latch.set(1);
  CHECK(!latch.wait_above(0));
  CHECK(latch.is_above(1 << 30));
}

// KiB of files that are resident.
static long resident_file_kib() {
  const Result<std::string> status = read_file("/proc/self/status", 1 << 16);
  REQUIRE(status.ok());
  const std::size_t at = status->find("RssFile:");
  REQUIRE(at != std::string::npos);
  return std::strtol(status->c_str() + at + 8, nullptr, 10);
}

// LibTorch alone has touched tens of MiB when main() begins; what runs next needs few of them.
TEST_CASE(
    "loaded pages: dropping them frees most of the resident file pages, and code still runs") {
  const long before = resident_file_kib();
  CHECK(before > 10'000);
  drop_loaded_pages();
  CHECK(resident_file_kib() < before / 2);
  const ArenaLayout layout = pack_buffers(plan_of({{0, 1, 16}}, 2), ProgramId{0});
  CHECK(layout.bytes == 64);
}

}  // namespace tandem::exec
