// Random requests that a schedule kind must accept, for property tests.
#pragma once

#include <algorithm>
#include <random>
#include <string>

#include "common/schedule/registry.h"

namespace tandem {

struct Draw {
  std::mt19937 random;
  int operator()(int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  }
};

// A legal request of any kind.
struct Request {
  std::string kind;
  PipelineShape shape;
  ScheduleOptions options;
};

// `draw(low, high)`: a whole number of [low, high].
template <class DrawFrom>
Request request_of(DrawFrom&& draw, const std::string& kind) {
  Request r{kind, {draw(1, 16), draw(1, 64), 0, {}, 0}, {}};
  int &p = r.shape.num_ranks, &m = r.shape.num_microbatches, &v = r.shape.stages_per_rank;
  if (kind == "gpipe" || kind == "bfs") r.options["backward"] = draw(0, 1) ? "fifo" : "lifo";
  if (kind == "bfs") v = draw(1, 4);
  if (kind == "interleaved_1f1b" || kind == "interleaved_zb") {
    v = draw(2, 4);
    if (kind == "interleaved_zb") m = std::max(m, p);
    const bool given = m > p && draw(0, 1);
    int g = p;
    do g = draw(p, std::max(p, m));
    while (given && m % g != 0 && m % g < p);
    if (given) r.options["group"] = std::to_string(g);
    if (!given && m >= p) m -= m % (m / p);
    if (kind == "interleaved_1f1b") {
      r.options["overlap"] = draw(0, 1) ? "true" : "false";
      if (r.options["overlap"] == "true") r.options["fuse"] = draw(0, 1) ? "true" : "false";
    }
  }
  if (kind == "zb_h1") m = std::max(m, p);
  if (kind == "dualpipe" || kind == "chimera") p += p % 2, m += m % 2;
  if (kind == "dualpipe" || kind == "dualpipev") {
    m = std::max(m, 2 * p);
    r.options["fuse"] = draw(0, 1) ? "true" : "false";
  }
  if (kind == "v_half" || kind == "v_min") p = draw(1, 6), m = draw(1, 24);
  if (kind == "hanayo") {
    p = draw(1, 6), m = draw(1, 16);
    r.options["waves"] = std::to_string(draw(1, 2));
  }
  if (kind == "seq1f1b") r.options["slices"] = std::to_string(draw(1, 4));
  if (kind == "zb_greedy") {
    p = draw(1, 4), m = draw(1, 6), v = draw(1, 3);
    if (v > 1) r.options["placement"] = draw(0, 1) ? "loop" : "v";
    r.options["memory_limit"] = std::to_string(draw(v, 2 * p * v + 1));
    r.options["objective"] = draw(0, 1) ? "span" : "ms";
    for (int s = 0; s < p * v; ++s) r.shape.costs.push_back({draw(1, 9), draw(1, 9), draw(1, 9)});
  }
  return r;
}

}  // namespace tandem
