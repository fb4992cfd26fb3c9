// Distinct index types: a Rank is no BufferId, and mixing them does not compile.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace tandem {

// A dense index with a tag. -1 means "none". Converts to an index only by asking: id.index().
template <class Tag>
struct Id {
  std::int32_t value = -1;
  constexpr Id() = default;
  constexpr explicit Id(std::int64_t v) : value(static_cast<std::int32_t>(v)) {}
  [[nodiscard]] constexpr bool valid() const { return value >= 0; }
  [[nodiscard]] constexpr std::size_t index() const { return static_cast<std::size_t>(value); }
  constexpr auto operator<=>(const Id&) const = default;
};

using Rank = Id<struct RankTag>;          // global, 0..world-1
using StageId = Id<struct StageTag>;      // contiguous piece of the model, 0..stages-1
using OpId = Id<struct OpTag>;            // dense over the plan: the join key of timelines
using BufferId = Id<struct BufferTag>;    // dense over the plan
using KernelId = Id<struct KernelTag>;    // entry of Plan::kernels
using CommId = Id<struct CommTag>;        // entry of Plan::communicators
using ProgramId = Id<struct ProgramTag>;  // = pipeline coordinate
using StreamId = Id<struct StreamTag>;    // entry of Plan::streams
using LinkId = Id<struct LinkTag>;        // entry of a cluster's link table

}  // namespace tandem

template <class Tag>
struct std::hash<tandem::Id<Tag>> {
  std::size_t operator()(tandem::Id<Tag> id) const noexcept {
    return std::hash<std::int32_t>{}(id.value);
  }
};
