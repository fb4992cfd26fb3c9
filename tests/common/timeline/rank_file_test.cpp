// The timeline file of a rank: reads back what was written, and survives any damage.
#include "common/timeline/rank_file.h"

#include <doctest/doctest.h>

#include "common/base/crc32c.h"

namespace tandem {
namespace {

Timeline sample(int rank, std::int64_t start) {
  Timeline t;
  t.clock = Clock::monotonic_ns;
  for (int op = 0; op < 3; ++op)
    t.spans.push_back(
        {OpId{op}, rank, 0, start + op, start + op + 1, start + op + 2, start + op + 3, 5});
  t.calls.push_back({OpId{1}, rank, 0, 0, start + 1, start + 2, 1});
  MemorySample m;
  m.op = OpId{2}, m.rank = rank, m.time = start + 2;
  m.live[3] = 1LL << 40;
  t.memory.push_back(m);
  t.steps.push_back({rank, 0, start, start + 10});
  PeakMemory p;
  p.rank = rank, p.total = 123, p.by_class[0] = 100;
  t.peaks.push_back(p);
  t.meta["kind"] = "measured";
  t.meta["empty"] = "";
  return t;
}

}  // namespace

TEST_CASE("crc32c: golden of RFC 3720 and joining") {
  CHECK(crc32c("123456789") == 0xe3069283u);
  CHECK(crc32c("") == 0u);
  CHECK(crc32c("56789", crc32c("1234")) == 0xe3069283u);
  CHECK(crc32c("x23456789") != 0xe3069283u);
}

TEST_CASE("rank timeline: what is written reads back") {
  const Timeline t = sample(3, 1'000'000'000'000);
  const std::string bytes = encode_rank_timeline(t, 3);
  CHECK(bytes.substr(0, 8) == "TDMRANK1");
  const Result<Timeline> r = decode_rank_timeline(bytes, "3.timeline");
  REQUIRE(r.ok());
  CHECK(r->clock == Clock::monotonic_ns);
  REQUIRE(r->spans.size() == 3);
  CHECK(r->spans[2].op == OpId{2});
  CHECK(r->spans[2].ended == 1'000'000'000'005);
  CHECK(r->spans[2].cpu == 5);
  CHECK(r->calls.size() == 1);
  CHECK(r->memory[0].live[3] == 1LL << 40);
  CHECK(r->steps[0].ended == 1'000'000'000'010);
  CHECK(r->peaks[0].total == 123);
  CHECK(!r->peaks[0].op_at_peak.valid());
  CHECK(r->meta == t.meta);
}

TEST_CASE("rank timeline: the worked bytes of docs/formats/timeline.md") {
  Timeline t;
  t.clock = Clock::monotonic_ns;
  t.steps.push_back({3, 0, 5, 15});
  const std::string bytes = encode_rank_timeline(t, 3);
  // Behind 16 bytes of the head: the headers of spans, calls and memory, 16 bytes each.
  std::string expected;
  for (std::uint64_t word : {4 + (32ULL << 32), 1ULL, 3ULL, 0ULL, 5ULL, 15ULL})
    for (int i = 0; i < 8; ++i) expected.push_back(static_cast<char>(word >> (8 * i) & 0xff));
  CHECK(bytes.substr(16 + 3 * 16, expected.size()) == expected);
}

TEST_CASE("rank timeline: every cut and every changed byte is refused") {
  const std::string bytes = encode_rank_timeline(sample(0, 5), 0);
  for (std::size_t n = 0; n < bytes.size(); ++n)
    CHECK(!decode_rank_timeline(std::string_view(bytes).substr(0, n), "f").ok());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x41);
    CHECK(!decode_rank_timeline(changed, "f").ok());
  }
  // A length that lies, with a right check sum: refused before memory is taken.
  std::string lying = bytes.substr(0, bytes.size() - 4);
  lying[16 + 8 + 6] = '\x7f';
  const std::uint32_t sum = crc32c(lying);
  for (int i = 0; i < 4; ++i) lying.push_back(static_cast<char>((sum >> (8 * i)) & 0xff));
  const Result<Timeline> r = decode_rank_timeline(lying, "f");
  REQUIRE(!r.ok());
  CHECK(r.error().diagnostics[0].code == "E-TIME-010");
  CHECK(r.error().diagnostics[0].found == "lengths that do not fit the file");
}

TEST_CASE("merging ranks: sorted, shifted to start at 0") {
  const Timeline all = merge_rank_timelines({sample(1, 5000), sample(0, 4000)});
  REQUIRE(all.spans.size() == 6);
  CHECK(all.spans[0].rank == 0);
  CHECK(all.spans[0].issued == 0);
  CHECK(all.spans[3].rank == 1);
  CHECK(all.spans[3].issued == 1000);
  CHECK(all.steps[1].ended == 1010);
  CHECK(all.peaks[0].rank == 0);
  CHECK(merge_rank_timelines({}).spans.empty());
}

}  // namespace tandem
