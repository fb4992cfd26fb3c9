// Runs traces as ASTRA-sim 2 does where it matters for whether they end: a node starts when all its
// dependencies have ended; a rank has one slot for host work, one for computing and one for
// communications, receives take none; a send ends by itself, a receive when its message is there, a
// collective when all members are in it. No times: what starts or ends next is chosen by a random
// number, so every timing that a cluster could show can come up. Include doctest first.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/common/plan/chakra_decoder.h"

namespace tandem::chakra {

using Groups = std::map<std::string, std::vector<int>>;

class Runner {
 public:
  Runner(const std::vector<Trace>& traces, const Groups& groups, bool with_ctrl_deps)
      : traces_(traces), groups_(groups) {
    for (std::size_t r = 0; r < traces.size(); ++r) {
      std::map<std::uint64_t, std::size_t> index;
      for (std::size_t i = 0; i < traces[r].nodes.size(); ++i) index[traces[r].nodes[i].id] = i;
      Rank rank;
      rank.missing.resize(traces[r].nodes.size());
      rank.behind.resize(traces[r].nodes.size());
      for (std::size_t i = 0; i < traces[r].nodes.size(); ++i) {
        std::set<std::uint64_t> deps(traces[r].nodes[i].data_deps.begin(),
                                     traces[r].nodes[i].data_deps.end());
        if (with_ctrl_deps)
          deps.insert(traces[r].nodes[i].ctrl_deps.begin(), traces[r].nodes[i].ctrl_deps.end());
        rank.missing[i] = deps.size();
        for (std::uint64_t d : deps) rank.behind[index.at(d)].push_back(i);
        if (deps.empty()) rank.ready.push_back(i);
      }
      ranks_.push_back(std::move(rank));
    }
  }

  // Nodes that never ended; 0: the run ended.
  std::size_t run(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::size_t left = 0;
    for (const Trace& t : traces_) left += t.nodes.size();
    for (;;) {
      // Everything that could happen now: (rank, position in its ready list), or an end.
      std::vector<std::pair<std::size_t, std::size_t>> starts;
      for (std::size_t r = 0; r < ranks_.size(); ++r)
        for (std::size_t k = 0; k < ranks_[r].ready.size(); ++k)
          if (may_start(r, ranks_[r].ready[k])) starts.emplace_back(r, k);
      const std::vector<std::pair<std::size_t, std::size_t>> ends = can_end();
      if (starts.empty() && ends.empty()) return left;
      const std::size_t choice = random() % (starts.size() + ends.size());
      if (choice < starts.size()) {
        start(starts[choice].first, starts[choice].second);
      } else {
        left -= end(ends[choice - starts.size()]);
      }
    }
  }

 private:
  struct Rank {
    std::vector<std::size_t> missing;  // dependencies that have not ended, by node
    std::vector<std::vector<std::size_t>> behind;
    std::vector<std::size_t> ready, running;
    int host = 0, computing = 0, communicating = 0;
  };

  [[nodiscard]] const Node& node(std::size_t r, std::size_t i) const { return traces_[r].nodes[i]; }
  int* slot(std::size_t r, const Node& n) {
    if (n.type == kRecv) return nullptr;
    if (n.type != kComp) return &ranks_[r].communicating;
    return n.number("is_cpu_op") ? &ranks_[r].host : &ranks_[r].computing;
  }
  bool may_start(std::size_t r, std::size_t i) {
    const int* used = slot(r, node(r, i));
    return used == nullptr || *used == 0;
  }
  void start(std::size_t r, std::size_t k) {
    const std::size_t i = ranks_[r].ready[k];
    ranks_[r].ready.erase(ranks_[r].ready.begin() + static_cast<std::ptrdiff_t>(k));
    ranks_[r].running.push_back(i);
    const Node& n = node(r, i);
    if (int* used = slot(r, n)) ++*used;
  }
  std::vector<std::pair<std::size_t, std::size_t>> can_end() {
    std::vector<std::pair<std::size_t, std::size_t>> out;
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      for (std::size_t i : ranks_[r].running) {
        const Node& n = node(r, i);
        bool ends = true;
        if (n.type == kRecv)
          ends = sent_.count({n.number("comm_src"), static_cast<std::int64_t>(r),
                              n.number("comm_tag")}) != 0;
        if (n.type == kColl) {
          const std::vector<int>& members = groups_.at(n.attr.at("pg_name").text);
          ends = static_cast<int>(r) == members[0];  // it ends for all at once: listed once
          for (int m : members) ends = ends && in_collective(m, n) < traces_[index(m)].nodes.size();
        }
        if (ends) out.emplace_back(r, i);
      }
    return out;
  }
  static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
  // The running collective of that group on rank m; behind the last node: none.
  [[nodiscard]] std::size_t in_collective(int m, const Node& n) const {
    for (std::size_t i : ranks_[index(m)].running)
      if (node(index(m), i).type == kColl &&
          node(index(m), i).attr.at("pg_name").text == n.attr.at("pg_name").text)
        return i;
    return traces_[index(m)].nodes.size();
  }
  std::size_t end(std::pair<std::size_t, std::size_t> at) {
    const auto [r, i] = at;
    const Node& n = node(r, i);
    if (n.type != kColl) {
      if (n.type == kSend)
        sent_.insert({static_cast<std::int64_t>(r), n.number("comm_dst"), n.number("comm_tag")});
      finish(r, i);
      return 1;
    }
    const std::vector<int>& members = groups_.at(n.attr.at("pg_name").text);
    for (int m : members) {
      const std::size_t other = in_collective(m, n);
      CHECK(node(index(m), other).number("comm_type") == n.number("comm_type"));
      CHECK(node(index(m), other).number("comm_size") == n.number("comm_size"));
      finish(index(m), other);
    }
    return members.size();
  }
  void finish(std::size_t r, std::size_t i) {
    std::erase(ranks_[r].running, i);
    if (int* used = slot(r, node(r, i))) --*used;
    for (std::size_t next : ranks_[r].behind[i])
      if (--ranks_[r].missing[next] == 0) ranks_[r].ready.push_back(next);
  }

  const std::vector<Trace>& traces_;
  const Groups& groups_;
  std::vector<Rank> ranks_;
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> sent_;
};

}  // namespace tandem::chakra
