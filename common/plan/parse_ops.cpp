// Programs and ops of plan text. Grammar: docs/plan_reference.md.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/base/limits.h"
#include "common/plan/parse_tables.h"
#include "common/plan/plan_words.h"

namespace tandem {
namespace {

// What may stand behind the kind of an op, one bit each.
enum : unsigned {
  kMb = 1u << 0,
  kStage = 1u << 1,
  kLayer = 1u << 2,
  kComm = 1u << 3,
  kReduction = 1u << 4,
  kPeer = 1u << 5,
  kMatch = 1u << 6,
  kCount = 1u << 7,
  kBuf = 1u << 8,
  kTag = 1u << 9,
  kFrom = 1u << 10,
  kExpect = 1u << 11,
  kGroup = 1u << 12,
  kWaits = 1u << 13,
  kAllocates = 1u << 14,
  kFrees = 1u << 15,
  kSource = 1u << 16,
  kSendRows = 1u << 17,
  kRecvRows = 1u << 18,
};
constexpr unsigned kAlways = kGroup | kWaits | kAllocates | kFrees;

constexpr unsigned required_of(OpKind kind) {
  if (is_p2p(kind)) return kComm | kPeer | kMatch | kCount | kBuf;
  if (is_communication(kind)) return kComm | kCount | kBuf;
  if (kind == OpKind::copy) return kFrom | kCount | kBuf;
  if (kind == OpKind::host_wait) return kBuf | kExpect;
  return kind == OpKind::post_validate ? unsigned{kBuf} : 0;
}
constexpr unsigned optional_of(OpKind kind) {
  if (is_p2p(kind)) return kTag;
  if (kind == OpKind::all_to_all) return kTag | kMatch | kSource | kSendRows | kRecvRows;
  const unsigned rows = kind == OpKind::all_gather       ? unsigned{kRecvRows}
                        : kind == OpKind::reduce_scatter ? unsigned{kSendRows}
                                                         : 0;
  if (is_communication(kind)) return kReduction | kTag | kMatch | kSource | rows;
  return kind == OpKind::copy ? unsigned{kTag} : 0;
}

struct Key {
  const char* name;
  unsigned bit;
};
constexpr std::array<Key, 13> kKeys = {{{"peer", kPeer},
                                        {"match", kMatch},
                                        {"buf", kBuf},
                                        {"tag", kTag},
                                        {"from", kFrom},
                                        {"expect", kExpect},
                                        {"group", kGroup},
                                        {"waits", kWaits},
                                        {"allocates", kAllocates},
                                        {"frees", kFrees},
                                        {"source", kSource},
                                        {"send_rows", kSendRows},
                                        {"recv_rows", kRecvRows}}};

std::vector<std::string> key_names(unsigned allowed) {
  std::vector<std::string> out;
  for (const Key& k : kKeys)
    if (k.bit & allowed) out.emplace_back(k.name);
  return out;
}

const char* name_of_bit(unsigned bit) {
  for (const Key& k : kKeys)
    if (k.bit == bit) return k.name;
  if (bit == kComm) return "communicator";
  return bit == kCount ? "number of elements" : "?";
}

bool is_kernel_call(std::string_view word) {
  return word.size() > 1 && word[0] == 'k' && word[1] >= '0' && word[1] <= '9';
}

}  // namespace

template <class IdType>
bool PlanParser::reference(Word word, Table table, std::size_t size, const char* what,
                           IdType& out) {
  std::int64_t value = 0;
  if (!in_.number(word, 0, INT32_MAX, what, value)) return false;
  out = IdType{value};
  if (static_cast<std::size_t>(value) < size) return true;
  if (broken_[static_cast<int>(table)]) return true;  // its table has a message already
  return in_.fail("E-PLAN-015", word, fmt::format("{} does not exist", what), "",
                  fmt::format("an id below {}", size), "add it to its table, or correct the id");
}

StreamId PlanParser::stream(std::string_view text) {
  const auto it = streams_.find(text);
  if (it != streams_.end()) return it->second;
  const StreamId id{static_cast<std::int64_t>(plan.streams.size())};
  plan.streams.emplace_back(text);
  streams_.emplace(std::string(text), id);
  return id;
}

bool PlanParser::program() {
  plan.programs.push_back({static_cast<std::uint32_t>(plan.ops.size()), 0});
  return next_id(in_.word(), plan.programs.size() - 1, "program");
}

bool PlanParser::op() {
  const Word id = in_.word();
  if (plan.programs.empty()) {
    plan.programs.push_back({0, 0});
    return in_.fail("E-PLAN-014", id, "an op before the first program", "", "program 0",
                    "write a line with `program 0` above it");
  }
  if (static_cast<std::int64_t>(plan.ops.size()) >= limits::kOps)
    return in_.fail("E-PLAN-017", id, "too many ops", "", fmt::format("at most {}", limits::kOps),
                    "use fewer microbatches");
  plan.ops.emplace_back();  // kept also when it is wrong: later ids stay in step
  op_lines_.push_back(in_.line_number());
  ++plan.programs.back().num_ops;
  if (!next_id(id, plan.ops.size() - 1, "op id")) return false;
  Op op;
  const Word phase = in_.word();
  const auto letter = phase.empty() ? std::nullopt : phase_from(phase.text[0]);
  const bool has_part = phase.text.size() == 3 && phase.text[1] == '/';
  const auto part = has_part ? part_from(phase.text[2]) : std::nullopt;
  if (!letter || (phase.text.size() != 1 && !part))
    return in_.fail("E-PLAN-011", phase, "not a phase", "",
                    "F, I, W, B, R, O or D, then nothing, /w, /s or /c", "F/w: forward, warm-up");
  op.phase = *letter;
  op.part = part.value_or(Part::none);
  unsigned seen = 0;
  for (;;) {
    const Word word = in_.word();
    const FieldWord field = LineReader::split(word);
    const std::string_view key = field.key.text;
    if (key == "mb") {
      if (!first(seen, kMb, field.key) || !microbatch(field.value, op.microbatch, op.seq_slice))
        return false;
    } else if (key == "s") {
      if (!first(seen, kStage, field.key) || !int32(field.value, "stage", op.stage)) return false;
    } else if (key == "l") {
      if (!first(seen, kLayer, field.key) || !int32(field.value, "layer", op.layer)) return false;
    } else if (key == "on") {
      std::string text;
      if (!name(field.value, "stream", text)) return false;
      op.stream = stream(text);
      break;
    } else {
      return in_.fail("E-PLAN-016", word, "the op has no stream", "", "on=STREAM before the action",
                      "on=compute, on=comm:tp, on=copy_in or on=host");
    }
  }
  if (!action(op)) return false;
  plan.ops.back() = op;
  return true;
}

bool PlanParser::action(Op& op) {
  const Word kind = in_.peek();
  unsigned seen = 0;
  if (is_kernel_call(kind.text)) {
    op.kind = OpKind::compute;
    if (!calls(op)) return false;
  } else {
    (void)in_.word();
    const auto value = op_kind_from(kind.text);
    if (!value || *value == OpKind::compute)
      return in_.fail("E-PLAN-012", kind, "unknown kind of op", "",
                      "kernel calls as k2(7,1 -> 12), or a kind of op",
                      suggest(kind.text, op_kind_names()));
    op.kind = *value;
  }
  for (FieldWord f = in_.field(); !f.key.empty(); f = in_.field())
    if (!op_field(f, op, seen)) return false;
  return complete(op, seen, kind);
}

bool PlanParser::complete(const Op& op, unsigned seen, Word kind) {
  const unsigned missing = required_of(op.kind) & ~seen;
  if (!missing) return true;
  const char* what = name_of_bit(missing & (~missing + 1));
  return in_.fail("E-PLAN-016", kind, fmt::format("the op has no {}", what), "",
                  fmt::format("{} with its {}", name_of(op.kind), what),
                  "docs/plan_reference.md lists the fields of each kind of op");
}

// "k2(7,1 -> 12,20) k4(12,3 -> 21)"
bool PlanParser::calls(Op& op) {
  op.calls.begin = static_cast<std::uint32_t>(plan.calls.size());
  while (is_kernel_call(in_.peek().text)) {
    const Word word = in_.peek(), text = in_.through(')');
    if (text.empty())
      return in_.fail("E-PLAN-011", word, "the call has no end", "", ")", "k2(7,1 -> 12)");
    if (!call(text)) return false;
  }
  op.calls.count = static_cast<std::uint32_t>(plan.calls.size()) - op.calls.begin;
  return true;
}

bool PlanParser::call(Word text) {
  constexpr std::size_t npos = std::string_view::npos;
  const std::size_t open = text.text.find('('), arrow = text.text.find("->");
  if (open == npos || arrow == npos || arrow < open)
    return in_.fail("E-PLAN-011", text, "not a kernel call", "", "k2(inputs -> outputs)",
                    "k2(7,1 -> 12,+20 using 33)");
  Call c;
  if (!reference(text.from(1, open - 1), Table::kernel, plan.kernels.size(), "kernel", c.kernel))
    return false;
  const std::size_t end = text.text.size() - 1, keyword = text.text.find(" using ", arrow);
  const auto trimmed = [&](std::size_t begin, std::size_t stop) {
    while (begin < stop && text.text[begin] == ' ') ++begin;
    while (stop > begin && text.text[stop - 1] == ' ') --stop;
    return text.from(begin, stop - begin);
  };
  if (!operands(trimmed(open + 1, arrow), c.inputs)) return false;
  if (!operands(trimmed(arrow + 2, std::min(end, keyword)), c.outputs)) return false;
  if (keyword != npos && !operands(trimmed(keyword + 7, end), c.scratch)) return false;
  plan.calls.push_back(c);
  return true;
}

bool PlanParser::operands(Word list, Range& range) {
  range.begin = static_cast<std::uint32_t>(plan.operands.size());
  if (list.empty()) return true;
  const bool good = in_.list(list, [&](Word part) {
    OperandRef ref;
    ref.accumulate = part.text.starts_with('+');
    if (!reference(ref.accumulate ? part.from(1) : part, Table::buffer, plan.buffers.size(),
                   "buffer", ref.id))
      return false;
    plan.operands.push_back(ref);
    return true;
  });
  range.count = static_cast<std::uint32_t>(plan.operands.size()) - range.begin;
  return good;
}

bool PlanParser::op_field(const FieldWord& field, Op& op, unsigned& seen) {
  const unsigned allowed = required_of(op.kind) | optional_of(op.kind) | kAlways;
  const std::string_view key = field.key.text;
  unsigned bit = 0;
  if (field.has_value) {
    for (const Key& k : kKeys)
      if (key == k.name) bit = k.bit;
  } else if (key == "sum" || key == "max") {
    bit = kReduction;
  } else if (key.size() > 1 && key[0] == 'c' && key[1] >= '0' && key[1] <= '9') {
    bit = kComm;
  } else if (key[0] >= '0' && key[0] <= '9') {
    bit = kCount;
  }
  if (!(bit & allowed))
    return in_.fail("E-PLAN-012", field.key, fmt::format("not a field of {}", name_of(op.kind)), "",
                    "a field of the op", suggest(key, key_names(allowed)));
  if (!first(seen, bit, field.key)) return false;
  const Word value = field.value;
  const auto ids = [&](Range& range) {
    range.begin = static_cast<std::uint32_t>(plan.buffer_refs.size());
    const bool good = in_.list(value, [&](Word part) {
      BufferId b;
      if (!reference(part, Table::buffer, plan.buffers.size(), "buffer", b)) return false;
      plan.buffer_refs.push_back(b);
      return true;
    });
    range.count = static_cast<std::uint32_t>(plan.buffer_refs.size()) - range.begin;
    return good;
  };
  switch (bit) {
    case kComm:
      return reference(field.key.from(1), Table::comm, plan.communicators.size(), "communicator",
                       op.comm);
    case kReduction:
      op.reduction = key == "sum" ? Reduction::sum : Reduction::max;
      return true;
    case kCount: {
      const std::size_t x = std::min(key.find('x'), key.size());
      return in_.number(field.key.from(0, x), 0, limits::kTensorElements, "number of elements",
                        op.count) &&
             dtype(field.key.from(std::min(x + 1, key.size())), op.dtype);
    }
    case kPeer:
      return int32(value, "pipeline coordinate", op.peer);
    case kMatch:
      return int32(value, "match id", op.match);
    case kGroup:
      return int32(value, "group id", op.group);
    case kBuf:
      return reference(value, Table::buffer, plan.buffers.size(), "buffer", op.buffer);
    case kSource:
      return reference(value, Table::buffer, plan.buffers.size(), "buffer", op.source);
    case kSendRows:
      return reference(value, Table::buffer, plan.buffers.size(), "buffer", op.send_rows);
    case kRecvRows:
      return reference(value, Table::buffer, plan.buffers.size(), "buffer", op.recv_rows);
    case kTag: {
      std::string text;
      if (!name(value, "tag", text)) return false;
      op.tag = intern(text);
      return true;
    }
    case kFrom:
      return value.text == "data" || in_.fail("E-PLAN-012", value, "unknown source of a copy", "",
                                              "data", "write from=data");
    case kExpect:
      return value.text == "finite" || value.text == "rows" ||
             in_.fail("E-PLAN-012", value, "unknown expectation", "", "finite, or rows",
                      "write expect=finite for a value, expect=rows for counts");
    case kAllocates:
      return ids(op.allocates);
    case kFrees:
      return ids(op.frees);
    default:
      break;
  }
  op.waits.begin = static_cast<std::uint32_t>(plan.op_refs.size());
  const bool good = in_.list(value, [&](Word part) {
    std::int64_t w = 0;
    if (!in_.number(part, 0, INT32_MAX, "op id", w)) return false;
    plan.op_refs.push_back(OpId{w});  // may come later: see finish()
    return true;
  });
  op.waits.count = static_cast<std::uint32_t>(plan.op_refs.size()) - op.waits.begin;
  return good;
}

}  // namespace tandem
