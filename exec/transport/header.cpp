#include "exec/transport/header.h"

#include <fmt/format.h>

namespace tandem::exec {
namespace {

std::string kind_text(int kind) {
  return kind < kNumOpKinds ? std::string(name_of(static_cast<OpKind>(kind)))
                            : fmt::format("kind {}", kind);
}
std::string dtype_text(int dtype) {
  return dtype <= static_cast<int>(DType::i32) ? std::string(name_of(static_cast<DType>(dtype)))
                                               : fmt::format("dtype {}", dtype);
}
std::string reduction_text(int r) {
  return r <= static_cast<int>(Reduction::max) ? std::string(name_of(static_cast<Reduction>(r)))
                                               : fmt::format("reduction {}", r);
}
std::string algorithm_text(int a) {
  return a <= static_cast<int>(CollectiveAlgorithm::direct)
             ? std::string(name_of(static_cast<CollectiveAlgorithm>(a)))
             : fmt::format("algorithm {}", a);
}
std::string op_text(const MessageHeader& h) {
  return h.match >= 0 ? fmt::format("op {} match {}", h.op, h.match) : fmt::format("op {}", h.op);
}

// The kind that the other end of `kind` has.
std::uint8_t other_end(std::uint8_t kind) {
  if (kind == static_cast<std::uint8_t>(OpKind::send))
    return static_cast<std::uint8_t>(OpKind::recv);
  if (kind == static_cast<std::uint8_t>(OpKind::recv))
    return static_cast<std::uint8_t>(OpKind::send);
  return kind;
}

}  // namespace

MessageHeader make_header(const Plan& plan, OpId op, const OpProgram& program,
                          std::int64_t sequence, int step, Rank from, Rank to) {
  const Op& o = plan.op(op);
  MessageHeader h;
  h.comm = o.comm.value;
  h.sequence = sequence;
  h.count = h.expects = program.count;
  h.op = op.value;
  h.match = o.match;
  h.step = step;
  h.from = from.value;
  h.to = to.value;
  h.kind = static_cast<std::uint8_t>(o.kind);
  h.dtype = static_cast<std::uint8_t>(o.dtype);
  h.reduction = static_cast<std::uint8_t>(o.reduction);
  h.algorithm = static_cast<std::uint8_t>(program.algorithm);
  return h;
}

Mismatch compare(const MessageHeader& mine, const MessageHeader& theirs) {
  if (theirs.magic != mine.magic)
    return {"magic", fmt::format("{:08x}", mine.magic), fmt::format("{:08x}", theirs.magic)};
  if (theirs.from != mine.to || theirs.to != mine.from)
    return {"ranks", fmt::format("{} and {}", mine.from, mine.to),
            fmt::format("{} and {}", theirs.to, theirs.from)};
  if (theirs.comm != mine.comm)
    return {"communicator", std::to_string(mine.comm), std::to_string(theirs.comm)};
  if (theirs.kind != other_end(mine.kind))
    return {"kind", kind_text(mine.kind), kind_text(theirs.kind)};
  const bool same_op =
      mine.match >= 0 || theirs.match >= 0 ? mine.match == theirs.match : mine.op == theirs.op;
  if (!same_op) return {"op", op_text(mine), op_text(theirs)};
  if (theirs.step != mine.step)
    return {"step", std::to_string(mine.step), std::to_string(theirs.step)};
  if (theirs.sequence != mine.sequence)
    return {"sequence", std::to_string(mine.sequence), std::to_string(theirs.sequence)};
  if (theirs.dtype != mine.dtype)
    return {"dtype", dtype_text(mine.dtype), dtype_text(theirs.dtype)};
  if (theirs.reduction != mine.reduction)
    return {"reduction", reduction_text(mine.reduction), reduction_text(theirs.reduction)};
  // Unsigned: whatever the peer says, the product is defined.
  const auto size = static_cast<std::uint64_t>(size_of(static_cast<DType>(mine.dtype)));
  const auto bytes = [&](std::int64_t n) {
    return std::to_string(static_cast<std::uint64_t>(n) * size);
  };
  if (theirs.count != mine.expects) return {"bytes", bytes(mine.expects), bytes(theirs.count)};
  if (theirs.expects != mine.count) return {"bytes", bytes(mine.count), bytes(theirs.expects)};
  if (theirs.algorithm != mine.algorithm)
    return {"algorithm", algorithm_text(mine.algorithm), algorithm_text(theirs.algorithm)};
  return {};
}

}  // namespace tandem::exec
