#include "common/plan/plan.h"

#include <array>

#include "common/base/text.h"

namespace tandem {
namespace {
constexpr std::array<std::string_view, kNumBufferClasses> kClasses = {
    "param",        "param_full",      "grad", "grad_full", "optim",  "activation", "saved_input",
    "saved_weight", "grad_activation", "comm", "scratch",   "logits", "batch"};
constexpr std::array<std::string_view, kNumOpKinds> kKinds = {
    "compute", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast",
    "send",    "recv",       "shift",      "copy",           "host_wait",  "post_validate"};
constexpr std::array<std::string_view, 3> kReductions = {"none", "sum", "max"};
}  // namespace

std::string_view name_of(BufferClass c) { return kClasses[static_cast<std::size_t>(c)]; }
std::string_view name_of(OpKind k) { return kKinds[static_cast<std::size_t>(k)]; }
std::string_view name_of(Reduction r) { return kReductions[static_cast<std::size_t>(r)]; }

std::vector<Rank> Plan::members(CommId comm, Rank rank) const {
  const Communicator& c = communicators[comm.index()];
  if (c.pair_first < 0) return header.mesh.group_of(rank, c.axes);
  const int here = header.mesh.coordinate(rank, Axis::pp);
  if (here != c.pair_first && here != c.pair_second) return {};
  return {header.mesh.with(rank, Axis::pp, c.pair_first),
          header.mesh.with(rank, Axis::pp, c.pair_second)};
}

std::vector<FusedPart> Plan::parts_of(const Buffer& b) const {
  if (!b.slice.parts) return {};
  const auto words = split(name(b.slice.parts), ',');
  const std::int64_t all = b.shape[b.slice.experts > 0 ? 1 : 0];  // rows
  std::vector<FusedPart> out;
  std::int64_t sum = 0;
  for (std::string_view word : words) {
    const std::size_t colon = word.find(':');
    FusedPart part{word.substr(0, colon), all / static_cast<std::int64_t>(words.size())};
    if (colon != std::string_view::npos) {
      const auto rows = parse_int(word.substr(colon + 1));
      if (!rows || *rows > all) return {};
      part.rows = *rows;
    }
    if (part.name.empty() || part.rows < 1) return {};
    sum += part.rows;
    out.push_back(part);
  }
  if (sum != all) return {};
  return out;
}

std::vector<BufferId> Plan::persistent(ProgramId p) const {
  std::vector<bool> allocated(buffers.size(), false);
  for (const Op& o : ops_of(p))
    for (BufferId b : allocates_of(o)) allocated[b.index()] = true;
  std::vector<BufferId> out;
  for (std::size_t i = 0; i < buffers.size(); ++i)
    if (buffers[i].program == p && !allocated[i]) out.push_back(BufferId{static_cast<int>(i)});
  return out;
}

}  // namespace tandem
