// Processor sharing by hand.
#include "sim/engine/cores.h"

#include <doctest/doctest.h>

namespace tandem::sim {
namespace {

// Runs to the next end and returns who ended.
std::vector<std::uint32_t> next(Cores& cores, Picoseconds& now) {
  (void)cores.settle(now);
  now = cores.next_end();
  const auto done = cores.take_finished(now);
  return {done.begin(), done.end()};
}

// 4 jobs of 100 on 2 cores: each has half a core, all end at 200. A fifth of 50 from the start:
// rate 2/5 for all until it ends at 125 (50 done each), then 50 left at 1/2: 225.
TEST_CASE("cores: four jobs on two cores take twice as long") {
  const std::vector<Picoseconds> work = {100}, shorter = {50};
  Cores cores(2);
  for (std::uint32_t i = 0; i < 4; ++i) cores.start(0, i, work, 1, 1);
  Picoseconds now = 0;
  CHECK(next(cores, now) == std::vector<std::uint32_t>{0, 1, 2, 3});
  CHECK(now == 200);

  Cores five(2);
  for (std::uint32_t i = 0; i < 4; ++i) five.start(0, i, work, 1, 1);
  five.start(0, 4, shorter, 1, 1);
  now = 0;
  CHECK(next(five, now) == std::vector<std::uint32_t>{4});
  CHECK(now == 125);
  CHECK(next(five, now) == std::vector<std::uint32_t>{0, 1, 2, 3});
  CHECK(now == 225);
  CHECK(five.idle());
}

// Two cores. Job 0 (100) alone at first, job 1 (60) and 2 (60) join at 40: three on two cores,
// 2/3 each: job 0 has 60 left like the others, all end at 40 + 90 = 130.
TEST_CASE("cores: late jobs slow down the first") {
  const std::vector<Picoseconds> a = {100}, b = {60};
  Cores cores(2);
  cores.start(0, 0, a, 1, 1);
  CHECK(cores.settle(0));
  CHECK(cores.next_end() == 100);
  cores.start(40, 1, b, 1, 1);
  cores.start(40, 2, b, 1, 1);
  Picoseconds now = 40;
  CHECK(next(cores, now).size() == 3);
  CHECK(now == 130);
}

// Work by busy cores: 100 alone, 150 beside another. Alone for 50 (half done), then half of 150.
TEST_CASE("cores: work depends on how many cores are busy") {
  const std::vector<Picoseconds> work = {100, 150}, other = {1000, 1000};
  Cores cores(2);
  cores.start(0, 0, work, 1, 1);
  CHECK(cores.settle(0));
  cores.start(50, 1, other, 1, 1);
  Picoseconds now = 50;
  CHECK(next(cores, now) == std::vector<std::uint32_t>{0});
  CHECK(now == 50 + 75);
}

// A folded job of multiplicity 4 fills the cores like four jobs; a slow rank's work is stretched.
TEST_CASE("cores: multiplicity and slow ranks") {
  const std::vector<Picoseconds> work = {100};
  Cores cores(2);
  cores.start(0, 7, work, 4, 1);
  Picoseconds now = 0;
  CHECK(next(cores, now) == std::vector<std::uint32_t>{7});
  CHECK(now == 200);
  Cores slow(1);
  slow.start(0, 1, work, 1, 1.5);
  now = 0;
  (void)next(slow, now);
  CHECK(now == 150);
}

}  // namespace
}  // namespace tandem::sim
