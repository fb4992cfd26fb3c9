#include "exec/checkpoint/piece.h"

#include <fmt/format.h>

#include <algorithm>

namespace tandem::exec {
namespace {

using Extent = std::array<std::int64_t, 2>;

std::string place_of(const Piece& p) {
  return fmt::format("[{}+{}, {}+{}] of {}", p.start[0], p.length[0], p.start[1], p.length[1],
                     p.name);
}

bool overlap(const Piece& a, const Piece& b) {
  for (std::size_t d = 0; d < 2; ++d)
    if (a.start[d] + a.length[d] <= b.start[d] || b.start[d] + b.length[d] <= a.start[d])
      return false;
  return true;
}

// Pieces of one tensor, sorted by slice and flat range.
std::string tensor_fault(const std::vector<const Piece*>& pieces, const Extent& shape) {
  std::vector<const Piece*> slices;
  std::int64_t held = 0;
  for (std::size_t i = 0; i < pieces.size();) {
    const Piece& first = *pieces[i];
    if (first.shape != shape)
      return fmt::format("{} of shape {}x{} instead of {}x{}", first.name, first.shape[0],
                         first.shape[1], shape[0], shape[1]);
    for (const Piece* other : slices)
      if (overlap(*other, first)) return place_of(first) + " twice";
    slices.push_back(&first);
    std::int64_t next = 0;  // element of the slice that comes next
    for (;
         i < pieces.size() && pieces[i]->start == first.start && pieces[i]->length == first.length;
         ++i) {
      if (pieces[i]->flat_begin != next)
        return fmt::format("{} element {} of {}", pieces[i]->flat_begin < next ? "twice" : "no",
                           std::min(next, pieces[i]->flat_begin), place_of(first));
      next = pieces[i]->flat_end;
    }
    held += next;
  }
  if (held == shape[0] * shape[1]) return "";
  return fmt::format("{} of {} elements of {}", held, shape[0] * shape[1], pieces[0]->name);
}

}  // namespace

bool is_sound(const Piece& p) {
  if (p.name.empty() || (p.dims != 1 && p.dims != 2)) return false;
  for (std::size_t d = 0; d < 2; ++d) {
    constexpr std::int64_t kMost = std::int64_t{1} << 31;  // so that no product overflows
    if (p.shape[d] < 1 || p.shape[d] > kMost || p.start[d] < 0 || p.length[d] < 1 ||
        p.length[d] > p.shape[d] || p.start[d] > p.shape[d] - p.length[d])
      return false;
  }
  return (p.dims == 2 || p.shape[1] == 1) && p.flat_begin >= 0 && p.flat_begin < p.flat_end &&
         p.flat_end <= p.slice_elements();
}

std::vector<Run> shared_runs(const Piece& from, const Piece& to) {
  std::vector<Run> out;
  if (from.name != to.name || from.shape != to.shape || !overlap(from, to)) return out;
  const std::int64_t row_end = std::min(from.start[0] + from.length[0], to.start[0] + to.length[0]);
  const std::int64_t column = std::max(from.start[1], to.start[1]);
  const std::int64_t width =
      std::min(from.start[1] + from.length[1], to.start[1] + to.length[1]) - column;
  const auto flat = [&](const Piece& p, std::int64_t row) {
    return (row - p.start[0]) * p.length[1] + column - p.start[1] - p.flat_begin;
  };
  for (std::int64_t row = std::max(from.start[0], to.start[0]); row < row_end; ++row) {
    Run run{flat(from, row), flat(to, row), width};
    const std::int64_t cut = std::max({std::int64_t{0}, -run.from, -run.to});
    run.from += cut, run.to += cut, run.elements -= cut;
    run.elements = std::min({run.elements, from.elements() - run.from, to.elements() - run.to});
    if (run.elements <= 0) continue;
    if (!out.empty() && out.back().from + out.back().elements == run.from &&
        out.back().to + out.back().elements == run.to)
      out.back().elements += run.elements;
    else
      out.push_back(run);
  }
  return out;
}

std::string coverage_fault(const std::vector<Piece>& pieces, const TensorShapes& tensors) {
  std::map<std::string, std::vector<const Piece*>> by_name;
  for (const Piece& p : pieces) {
    if (!is_sound(p)) return "an impossible piece of " + p.name;
    if (!tensors.contains(p.name)) return p.name + ", which the model does not have";
    by_name[p.name].push_back(&p);
  }
  for (const auto& [name, shape] : tensors) {
    const auto it = by_name.find(name);
    if (it == by_name.end()) return "no " + name;
    std::sort(it->second.begin(), it->second.end(), [](const Piece* a, const Piece* b) {
      return std::tie(a->start, a->length, a->flat_begin) <
             std::tie(b->start, b->length, b->flat_begin);
    });
    if (std::string fault = tensor_fault(it->second, shape); !fault.empty()) return fault;
  }
  return "";
}

}  // namespace tandem::exec
