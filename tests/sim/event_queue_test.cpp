// Order of events: by time, equal times in the order they went in.
#include "sim/engine/event_queue.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <queue>
#include <random>

#include "tests/sim/scale.h"

namespace tandem::sim {
namespace {

TEST_CASE("event queue: time first, then the order of insertion") {
  EventQueue q;
  q.push({50, 0, 0});
  q.push({10, 1, 0});
  q.push({50, 2, 0});
  q.push({10, 3, 0});
  CHECK(q.pop().what == 1);
  CHECK(q.more_now());
  q.push({10, 4, 0});  // at the present moment: after what is there
  CHECK(q.pop().what == 3);
  CHECK(q.pop().what == 4);
  CHECK_FALSE(q.more_now());
  q.push({50, 5, 0});
  CHECK(q.pop().what == 0);
  CHECK(q.pop().what == 2);
  CHECK(q.pop().what == 5);
  CHECK(q.empty());
  CHECK_THROWS_AS(q.push({49, 0, 0}), InternalError);  // the past
}

// Against a plain heap with sequence numbers, on mixes of near, far and equal times.
TEST_CASE("event queue: the same order as a heap with sequence numbers") {
  struct Reference {
    Picoseconds time;
    std::uint32_t sequence;
    bool operator<(const Reference& o) const {
      return time != o.time ? time > o.time : sequence > o.sequence;
    }
  };
  std::mt19937_64 random(11);
  for (int n = 0; n < scaled(50); ++n) {
    EventQueue q;
    std::priority_queue<Reference> heap;
    std::uint32_t sequence = 0;
    for (int step = 0; step < 2000; ++step) {
      if (heap.empty() || random() % 5 < 3) {
        const std::uint64_t span = 1ULL << (random() % 40);
        const auto time = q.now() + static_cast<Picoseconds>(random() % 3 ? random() % span : 0);
        q.push({time, sequence, 0});
        heap.push({time, sequence++});
      } else {
        const Event e = q.pop();
        REQUIRE(e.time == heap.top().time);
        REQUIRE(e.what == heap.top().sequence);
        heap.pop();
      }
      REQUIRE(q.size() == heap.size());
    }
  }
}

}  // namespace
}  // namespace tandem::sim
