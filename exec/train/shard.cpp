#include "exec/train/shard.h"

#include <algorithm>

#include "common/base/check.h"

namespace tandem::exec {
namespace {

// layers.0.attn.qkv.weight with part q: layers.0.attn.q.weight.
std::string name_of_part(const std::string& fused, std::string_view part) {
  const std::size_t last = fused.rfind('.');
  const std::size_t before = last == std::string::npos ? last : fused.rfind('.', last - 1);
  TANDEM_CHECK(before != std::string::npos, "fused tensor {} has no component to replace", fused);
  return fused.substr(0, before + 1) + std::string(part) + fused.substr(last);
}

// layers.0.moe.experts.gate.weight of expert 3: layers.0.moe.experts.3.gate.weight.
std::string name_of_expert(const std::string& stack, std::int64_t expert) {
  constexpr std::string_view kWord = ".experts.";
  const std::size_t at = stack.find(kWord);
  TANDEM_CHECK(at != std::string::npos, "stack {} has no component to number", stack);
  const std::size_t behind = at + kWord.size();
  return stack.substr(0, behind) + std::to_string(expert) + "." + stack.substr(behind);
}

}  // namespace

std::vector<Shard> shards_of(const Plan& plan, const Buffer& b,
                             const std::array<int, kNumAxes>& coordinate) {
  const int stacked = b.slice.experts > 0 ? 1 : 0;
  TANDEM_CHECK(b.shape.rank - stacked == 1 || b.shape.rank - stacked == 2,
               "tensor {} has {} dimensions", plan.name(b.name), b.shape.rank);
  const SliceRule& rule = b.slice;
  const std::string& name = plan.name(b.name);
  std::vector<FusedPart> parts = plan.parts_of(b);
  TANDEM_CHECK(!rule.parts || !parts.empty(), "verification let parts {} of {} rows through",
               plan.name(rule.parts), b.shape[0]);
  if (parts.empty()) parts.push_back({"", b.shape[stacked]});
  const int size = rule.dim >= 0 ? plan.header.mesh.of(rule.axis) : 1;
  const int index = rule.dim >= 0 ? coordinate[static_cast<std::size_t>(rule.axis)] : 0;
  const std::int64_t first_expert =
      stacked ? coordinate[static_cast<std::size_t>(Axis::ep)] * b.slice.experts : 0;
  std::vector<Shard> out;
  std::int64_t first = 0;  // element of the buffer
  for (std::int64_t expert = 0; expert < (stacked ? b.slice.experts : 1); ++expert)
    for (const FusedPart& part : parts) {
      Shard s;
      s.name = part.name.empty() ? name : name_of_part(name, part.name);
      if (stacked) s.name = name_of_expert(s.name, first_expert + expert);
      s.rows = part.rows;
      s.columns = s.local_columns = b.shape.rank - stacked == 2 ? b.shape[1 + stacked] : 1;
      s.local_begin = first;
      first += s.rows * s.columns;
      s.full_rows = s.rows;
      s.full_columns = s.columns;
      if (rule.dim == 0) {
        s.row_begin = index * s.rows;
        s.full_rows = rule.valid > 0 ? rule.valid : s.rows * size;
        s.rows = std::clamp<std::int64_t>(s.full_rows - s.row_begin, 0, s.rows);
      } else if (rule.dim == 1) {
        s.column_begin = index * s.columns;
        s.full_columns = s.columns * size;
      }
      out.push_back(std::move(s));
    }
  return out;
}

std::vector<BufferId> holders(const Plan& plan, ProgramId program, BufferClass cls) {
  std::vector<BufferId> out;
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (b.program == program && b.cls == cls && !b.alias_of.valid())
      out.push_back(BufferId{static_cast<std::int64_t>(i)});
  }
  return out;
}

std::int64_t part_of(const Plan& plan, Rank rank, AxisSet axes) {
  const std::vector<Rank> group = plan.header.mesh.group_of(rank, axes);
  return std::find(group.begin(), group.end(), rank) - group.begin();
}

std::vector<HeldRange> ranges_in(const Plan& plan, BufferId buffer, Rank rank, std::int64_t begin,
                                 std::int64_t end) {
  if (const Buffer& asked = plan.buffer(buffer); asked.window) {
    const std::int64_t first = asked.alias_offset / size_of(asked.dtype);
    std::vector<HeldRange> out = ranges_in(plan, asked.alias_of, rank, first + begin, first + end);
    for (HeldRange& h : out) h.element -= first;
    return out;
  }
  const auto coordinate = coordinates(plan, rank);
  std::vector<HeldRange> out;
  const auto add = [&](const Buffer& b, std::int64_t first) {
    for (Shard& s : shards_of(plan, b, coordinate)) {
      TANDEM_CHECK(s.columns == s.local_columns, "{} is not contiguous", s.name);
      const std::int64_t at = first + s.local_begin;  // of the slice in the buffer
      const std::int64_t from = std::max(begin, at), to = std::min(end, at + s.rows * s.columns);
      if (from >= to) continue;
      HeldRange h;
      h.dims = b.shape.rank - (b.slice.experts > 0 ? 1 : 0);
      h.slice = b.slice;
      h.begin = from - at, h.end = to - at;
      h.element = from;
      h.shard = std::move(s);
      out.push_back(std::move(h));
    }
  };
  bool has_views = false;
  for (const Buffer& b : plan.buffers) {
    if (b.alias_of != buffer || !b.alias_of.valid() || b.window) continue;
    has_views = true;
    add(b, b.alias_offset / size_of(b.dtype));
  }
  if (!has_views) add(plan.buffer(buffer), 0);
  return out;
}

std::vector<HeldRange> ranges_in(const Plan& plan, BufferId buffer, Rank rank) {
  const Buffer& b = plan.buffer(buffer);
  const std::int64_t n = b.shape.elements();
  if (!b.shard_of.valid()) return ranges_in(plan, buffer, rank, 0, n);
  const std::int64_t first = n * part_of(plan, rank, b.shard_axes);
  std::vector<HeldRange> out = ranges_in(plan, b.shard_of, rank, first, first + n);
  for (HeldRange& h : out) h.element -= first;
  return out;
}

std::array<int, kNumAxes> coordinates(const Plan& plan, Rank rank) {
  std::array<int, kNumAxes> out{};
  for (int a = 0; a < kNumAxes; ++a)
    out[static_cast<std::size_t>(a)] = plan.header.mesh.coordinate(rank, static_cast<Axis>(a));
  return out;
}

}  // namespace tandem::exec
