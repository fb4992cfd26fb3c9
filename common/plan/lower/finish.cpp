// The draft as a plan: op ids dense over the programs, names, streams and pools in the order in
// which the text of the plan mentions them, so that reading the text gives the same plan back.
#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

class Finish {
 public:
  explicit Finish(Draft&& d) : d_(d), from_(d.plan) {
    names_.assign(from_.names.size(), 0);
    streams_.assign(from_.streams.size(), StreamId{});
  }

  // A plan of a million ops has half a gigabyte: what can be moved is, what has been copied goes.
  Plan run() {
    to_.header = std::move(from_.header);
    to_.communicators = std::move(from_.communicators);
    for (Communicator& c : to_.communicators) c.name = name(c.name);
    to_.buffers = std::move(from_.buffers);
    for (Buffer& b : to_.buffers) {
      b.name = name(b.name);
      b.slice.parts = name(b.slice.parts);
    }
    to_.kernels = std::move(from_.kernels);
    std::size_t num_ops = 0;
    for (const std::vector<Op>& ops : d_.programs) num_ops += ops.size();
    to_.ops.reserve(num_ops);
    to_.calls.reserve(from_.calls.size());
    to_.operands.reserve(from_.operands.size());
    to_.op_refs.reserve(from_.op_refs.size());
    to_.buffer_refs.reserve(from_.buffer_refs.size());
    for (std::vector<Op>& ops : d_.programs) {
      first_op_ = static_cast<std::uint32_t>(to_.ops.size());
      to_.programs.push_back({first_op_, static_cast<std::uint32_t>(ops.size())});
      for (const Op& op : ops) add(op);
      std::vector<Op>().swap(ops);
    }
    return std::move(to_);
  }

 private:
  std::uint32_t name(std::uint32_t old) {
    if (old == 0) return 0;
    std::uint32_t& id = names_[old];
    if (id == 0) {
      id = static_cast<std::uint32_t>(to_.names.size());
      to_.names.push_back(from_.names[old]);
    }
    return id;
  }
  template <class T>
  static Range copy(const std::vector<T>& from, Range r, std::vector<T>& to) {
    const Range out{static_cast<std::uint32_t>(to.size()), r.count};
    to.insert(to.end(), from.begin() + r.begin, from.begin() + r.begin + r.count);
    return out;
  }
  void add(Op op) {
    StreamId& stream = streams_[op.stream.index()];
    if (!stream.valid()) {
      stream = StreamId{static_cast<std::int64_t>(to_.streams.size())};
      to_.streams.push_back(from_.streams[op.stream.index()]);
    }
    op.stream = stream;
    op.tag = name(op.tag);
    const auto calls = from_.calls_of(op);
    op.calls.begin = static_cast<std::uint32_t>(to_.calls.size());
    for (const Call& c : calls) {
      Call out{c.kernel, copy(from_.operands, c.inputs, to_.operands),
               copy(from_.operands, c.outputs, to_.operands),
               copy(from_.operands, c.scratch, to_.operands)};
      to_.calls.push_back(out);
    }
    op.waits = copy(from_.op_refs, op.waits, to_.op_refs);
    for (std::uint32_t i = 0; i < op.waits.count; ++i) {
      OpId& id = to_.op_refs[op.waits.begin + i];
      id = OpId{std::int64_t{id.value} + first_op_};
    }
    op.allocates = copy(from_.buffer_refs, op.allocates, to_.buffer_refs);
    op.frees = copy(from_.buffer_refs, op.frees, to_.buffer_refs);
    to_.ops.push_back(op);
  }

  Draft& d_;
  Plan& from_;
  Plan to_;
  std::vector<std::uint32_t> names_;
  std::vector<StreamId> streams_;
  std::uint32_t first_op_ = 0;
};

}  // namespace

Plan finish(Draft&& draft) { return Finish(std::move(draft)).run(); }

}  // namespace tandem::lower
