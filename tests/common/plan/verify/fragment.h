// Small L2 plans from lists of L1 cells ("0SEND_F1,2RECV_F0,2F0", schedules.md 5.2), for tests of
// matching, order and deadlock. Stage s lives on rank s mod p; every cell has a buffer of its own
// that lives for the run; a send waits for the compute whose result it takes, a compute for its
// receive, where those stand in the list.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "tests/common/plan/example.h"

namespace tandem {

struct FragmentOptions {
  std::string communicators = "edge";  // edge, pair
  bool grouped = false;                // runs of sends and receives are groups
  bool allocate = false;               // receives allocate, sends free
};

inline std::string fragment_text(const std::vector<std::string>& rows,
                                 const FragmentOptions& o = {}, int microbatches = 8) {
  const int p = static_cast<int>(rows.size());
  const auto rank_of = [&](int stage) { return stage % p; };
  std::string stages, comms, buffers, programs;
  for (int s = 0; s < 2 * p; ++s) stages += fmt::format("{}{}@{}", s ? "," : "", s, rank_of(s));
  std::map<std::string, int> comm_ids, match_ids;
  int num_buffers = 0, num_ops = 0, num_groups = 0;
  const auto comm = [&](int from, int to) {
    const bool edge = o.communicators == "edge";
    const int a = edge ? from : std::min(from, to), b = edge ? to : std::max(from, to);
    const std::string name = fmt::format("{}:{}->{}", o.communicators, a, b);
    const auto [it, added] = comm_ids.try_emplace(name, static_cast<int>(comm_ids.size()));
    if (added)
      comms += fmt::format("comm {} {} axes=pp pair={},{} size=2\n", it->second, name, a, b);
    return std::pair(it->second, name);
  };
  for (int r = 0; r < p; ++r) {
    programs += fmt::format("program {}\n", r);
    std::map<std::string, int> producer, received;  // "F0.1" -> op: stage 0, microbatch 1
    bool in_group = false;
    for (std::string_view cell : split(rows[static_cast<std::size_t>(r)], ',')) {
      const std::size_t letter = cell.find_first_not_of("0123456789");
      const int stage = std::stoi(std::string(cell.substr(0, letter)));
      const std::size_t digit = cell.find_first_of("0123456789", letter);
      const std::string kind(cell.substr(letter, digit - letter));
      const std::string mb(cell.substr(digit));
      const auto key = [&](char what, int s) { return fmt::format("{}{}.{}", what, s, mb); };
      const int id = num_ops++, buffer = num_buffers++;
      buffers += fmt::format("buf {} p{} activation f32[4] x\n", buffer, r);
      if (kind.size() == 1) {
        in_group = false;
        const int second = num_buffers++;
        buffers += fmt::format("buf {} p{} activation f32[4] x\n", second, r);
        const int out = second;
        const auto from = received.find(key(kind[0], stage));
        programs += fmt::format(" op {} {} mb={} s={} on=compute k0({} -> {})", id, kind, mb, stage,
                                from == received.end() ? buffer : from->second >> 16, out);
        if (from != received.end()) programs += fmt::format(" waits={}", from->second & 0xffff);
        programs += "\n";
        producer[key(kind[0], stage)] = out << 16 | id;
        continue;
      }
      const bool send = kind.starts_with("SEND");
      const char what = kind.back();
      const int other =
          what == 'F' ? (send ? stage + 1 : stage - 1) : (send ? stage - 1 : stage + 1);
      const int peer = rank_of(other), source = send ? stage : other;
      const auto [c, name] = send ? comm(r, peer) : comm(peer, r);
      const int match = match_ids.try_emplace(key(what, source), static_cast<int>(match_ids.size()))
                            .first->second;
      if (!in_group) ++num_groups;
      in_group = true;
      const auto from = producer.find(key(what, stage));
      const int used = send && from != producer.end() ? from->second >> 16 : buffer;
      programs +=
          fmt::format(" op {} {} mb={} s={} on=comm:{} {} c{} peer={} match={} 4xf32 buf={}", id,
                      what, mb, stage, name, send ? "send" : "recv", c, peer, match, used);
      if (o.grouped) programs += fmt::format(" group={}", num_groups);
      if (send && from != producer.end())
        programs += fmt::format(" waits={}", from->second & 0xffff);
      programs += "\n";
      if (!send) received[key(what, stage)] = buffer << 16 | id;
    }
  }
  return fmt::format(
             "plan 1 digest=0 schedule=test receive=early communicators={} grouping={} "
             "microbatches={} micro_batch=1 seq=4 mesh=tp:1,dp:1,pp:{} stages={} dtype=f32 "
             "main_grad=f32\n",
             o.communicators, o.grouped ? "runs" : "none", microbatches, p, stages) +
         comms + buffers + "kernel 0 gelu_fwd elements=4 erf\n" + programs;
}

}  // namespace tandem
