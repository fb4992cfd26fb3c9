#include "common/plan/print.h"

#include <fmt/format.h>

#include <algorithm>
#include <concepts>

#include "common/base/sha256.h"

namespace tandem {
namespace {

// Text, characters and whole numbers one after the other: a plan has millions of lines, and reading
// a format string for each part took half of the time.
using Out = std::string;

void put_one(Out& out, std::string_view text) { out.append(text); }
void put_one(Out& out, char c) { out.push_back(c); }
template <std::integral T>
requires(!std::same_as<T, char> && !std::same_as<T, bool>) void put_one(Out& out, T value) {
  const fmt::format_int digits(value);
  out.append(digits.data(), digits.size());
}
template <class... Parts>
void put(Out& out, const Parts&... parts) {
  (put_one(out, parts), ...);
}

std::size_t digits(std::int64_t v) { return fmt::format_int(v).size(); }

template <class Ids>
void put_ids(Out& out, const Ids& ids) {
  const char* comma = "";
  for (const auto id : ids) {
    put(out, comma, id.value);
    comma = ",";
  }
}

void put_axes(Out& out, AxisSet axes) {
  const char* comma = "";
  for (int a = 0; a < kNumAxes; ++a) {
    if (!axes.has(static_cast<Axis>(a))) continue;
    put(out, comma, name_of(static_cast<Axis>(a)));
    comma = ",";
  }
}

void put_header(Out& out, const PlanHeader& h) {
  put(out, "plan 1 digest=", h.digest, " schedule=", h.schedule, " receive=", h.receive,
      " communicators=", h.communicators, " grouping=", h.grouping);
  put(out, " microbatches=", h.microbatches, " micro_batch=", h.micro_batch, " seq=", h.sequence);
  if (h.slices > 1) put(out, " slices=", h.slices);
  put(out, " mesh=");
  const char* comma = "";
  for (Axis a : h.mesh.order) {
    if (a == Axis::cp && h.mesh.of(a) == 1) continue;
    put(out, comma, name_of(a), ':', h.mesh.of(a));
    comma = ",";
  }
  if (!h.mesh.expert_order.empty()) put(out, " experts=");
  comma = "";
  for (Axis a : h.mesh.expert_order) {
    put(out, comma, name_of(a), ':', h.mesh.of(a));
    comma = ",";
  }
  if (!(h.data_axes == PlanHeader{}.data_axes)) {
    put(out, " data=");
    put_axes(out, h.data_axes);
  }
  put(out, " stages=");
  for (std::size_t s = 0; s < h.stage_rank.size(); ++s)
    put(out, s ? "," : "", s, '@', h.stage_rank[s]);
  if (h.copies > 1) put(out, " copies=", h.copies);
  put(out, " dtype=", name_of(h.types.compute), " main_grad=", name_of(h.types.main),
      h.evaluation ? " evaluation" : "", h.settling ? " settling" : "", '\n');
}

void put_communicators(Out& out, const Plan& plan) {
  for (std::size_t i = 0; i < plan.communicators.size(); ++i) {
    const Communicator& c = plan.communicators[i];
    put(out, "comm ", i, ' ', plan.name(c.name), " axes=");
    put_axes(out, c.axes);
    if (c.pair_first >= 0) put(out, " pair=", c.pair_first, ',', c.pair_second);
    put(out, " size=", c.size, '\n');
  }
}

// "3", or "3.s1" of a slice.
void put_microbatch(Out& out, std::int32_t microbatch, std::int32_t seq_slice) {
  put(out, microbatch);
  if (seq_slice >= 0) put(out, ".s", seq_slice);
}

// The one field in which neighbouring buffers of a printed line may differ.
enum class Vary { nothing, microbatch, cls, name };

bool same_but(const Buffer& a, const Buffer& b, Vary vary) {
  if (a.program != b.program || a.dtype != b.dtype || !(a.shape == b.shape) || a.layer != b.layer ||
      !(a.slice == b.slice) || a.bucket != b.bucket || a.window != b.window ||
      a.max_rows != b.max_rows || a.rows_of.valid() != b.rows_of.valid() ||
      a.shard_of != b.shard_of || !(a.shard_axes == b.shard_axes))
    return false;
  if (vary != Vary::microbatch && a.rows_of != b.rows_of) return false;
  const bool views = a.alias_of.valid() && b.alias_of.valid();
  const bool same_alias = a.alias_of == b.alias_of && a.alias_offset == b.alias_offset;
  const bool alias_ok = same_alias || (vary == Vary::cls && views);
  return alias_ok &&
         (vary == Vary::microbatch ||
          (a.microbatch == b.microbatch && a.seq_slice == b.seq_slice)) &&
         (vary == Vary::cls || a.cls == b.cls) && (vary == Vary::name || a.name == b.name) &&
         (vary != Vary::microbatch || (a.microbatch >= 0 && b.microbatch >= 0));
}

// Buffers [begin, end) share one line; what varies inside it.
std::pair<std::size_t, Vary> line_extent(const Plan& plan, std::size_t begin) {
  const std::vector<Buffer>& all = plan.buffers;
  for (Vary vary : {Vary::microbatch, Vary::cls, Vary::name}) {
    std::size_t end = begin + 1;
    while (end < all.size() && same_but(all[begin], all[end], vary)) ++end;
    if (end > begin + 1) return {end, vary};
  }
  return {begin + 1, Vary::nothing};
}

void put_buffers(Out& out, const Plan& plan) {
  for (std::size_t begin = 0; begin < plan.buffers.size();) {
    const auto extent = line_extent(plan, begin);
    const std::size_t end = extent.first;
    const Vary vary = extent.second;
    const Buffer& b = plan.buffers[begin];
    // One value where the line's buffers agree, else a comma list in the order of the ids.
    const auto list = [&](bool varies, auto&& put_item) {
      for (std::size_t i = begin; i < (varies ? end : begin + 1); ++i) {
        if (i > begin) put(out, ',');
        put_item(plan.buffers[i]);
      }
    };
    put(out, "buf ");
    for (std::size_t i = begin; i < end; ++i) put(out, i > begin ? "," : "", i);
    put(out, " p", b.program.value, ' ');
    list(vary == Vary::cls, [&](const Buffer& x) { put(out, name_of(x.cls)); });
    put(out, ' ', name_of(b.dtype), '[');
    for (int d = 0; d < b.shape.rank; ++d) put(out, d ? "," : "", b.shape[d]);
    put(out, ']');
    if (b.microbatch >= 0) {
      put(out, " mb=");
      list(vary == Vary::microbatch,
           [&](const Buffer& x) { put_microbatch(out, x.microbatch, x.seq_slice); });
    }
    if (b.layer >= 0) put(out, " l=", b.layer);
    put(out, ' ');
    list(vary == Vary::name, [&](const Buffer& x) { put(out, plan.name(x.name)); });
    if (b.slice.experts > 0) put(out, " experts=", b.slice.experts);
    if (b.slice.dim >= 0) put(out, " slice=", b.slice.dim, ':', name_of(b.slice.axis));
    if (b.slice.valid > 0) put(out, " valid=", b.slice.valid);
    if (b.slice.parts) put(out, " parts=", plan.name(b.slice.parts));
    if (b.bucket) put(out, " bucket");
    if (b.window) put(out, " window");
    if (b.rows_of.valid()) {
      put(out, " max_rows=", b.max_rows, " rows_of=");
      list(vary == Vary::microbatch, [&](const Buffer& x) { put(out, x.rows_of.value); });
    }
    if (b.shard_of.valid()) {
      put(out, " shard_of=", b.shard_of.value, " over=");
      put_axes(out, b.shard_axes);
    }
    if (b.alias_of.valid()) {
      put(out, " alias=");
      list(vary == Vary::cls,
           [&](const Buffer& x) { put(out, x.alias_of.value, '+', x.alias_offset); });
    }
    put(out, '\n');
    begin = end;
  }
}

void put_calls(Out& out, const Plan& plan, const Op& op) {
  const char* blank = "";
  for (const Call& c : plan.calls_of(op)) {
    put(out, blank, 'k', c.kernel.value, '(');
    blank = " ";
    const auto operands = [&](Range r) {
      const char* comma = "";
      for (const OperandRef& o : plan.operands_of(r)) {
        put(out, comma, o.accumulate ? "+" : "", o.id.value);
        comma = ",";
      }
    };
    operands(c.inputs);
    put(out, " -> ");
    operands(c.outputs);
    if (c.scratch.count) {
      put(out, " using ");
      operands(c.scratch);
    }
    put(out, ')');
  }
}

void put_action(Out& out, const Plan& plan, const Op& op) {
  const auto tail = [&] {
    put(out, ' ', op.count, 'x', name_of(op.dtype), " buf=", op.buffer.value);
    if (op.tag) put(out, " tag=", plan.name(op.tag));
  };
  switch (op.kind) {
    case OpKind::compute:
      put_calls(out, plan, op);
      break;
    case OpKind::all_reduce:
    case OpKind::all_gather:
    case OpKind::reduce_scatter:
    case OpKind::all_to_all:
    case OpKind::broadcast:
    case OpKind::shift:
      put(out, name_of(op.kind), " c", op.comm.value);
      if (op.reduction != Reduction::none) put(out, ' ', name_of(op.reduction));
      tail();
      if (op.source.valid()) put(out, " source=", op.source.value);
      if (op.send_rows.valid()) put(out, " send_rows=", op.send_rows.value);
      if (op.recv_rows.valid()) put(out, " recv_rows=", op.recv_rows.value);
      if (op.match >= 0) put(out, " match=", op.match);
      break;
    case OpKind::send:
    case OpKind::recv:
      put(out, name_of(op.kind), " c", op.comm.value, " peer=", op.peer, " match=", op.match);
      tail();
      break;
    case OpKind::copy:
      put(out, "copy from=data"), tail();
      break;
    case OpKind::host_wait:
      put(out, "host_wait buf=", op.buffer.value,
          " expect=", plan.buffer(op.buffer).dtype == DType::i32 ? "rows" : "finite");
      break;
    case OpKind::post_validate:
      put(out, "post_validate buf=", op.buffer.value);
      break;
  }
  if (op.group >= 0) put(out, " group=", op.group);
  if (op.waits.count) put(out, "  waits="), put_ids(out, plan.waits_of(op));
  if (op.allocates.count) put(out, "  allocates="), put_ids(out, plan.allocates_of(op));
  if (op.frees.count) put(out, "  frees="), put_ids(out, plan.frees_of(op));
}

constexpr char kPhase[] = {'F', 'I', 'W', 'B', 'R', 'O', 'D'};
constexpr char kPart[] = {' ', 'w', 's', 'c'};

// Widths of the columns before the action, so that lines of a plan align.
struct Widths {
  std::size_t id = 1, mb = 0, stage = 0, layer = 0, stream = 0;
};

Widths widths_of(const Plan& plan) {
  Widths w;
  w.id = digits(std::max<std::int64_t>(0, static_cast<std::int64_t>(plan.ops.size()) - 1));
  for (const Op& o : plan.ops) {
    if (o.microbatch >= 0)
      w.mb = std::max(w.mb,
                      4 + digits(o.microbatch) + (o.seq_slice >= 0 ? 2 + digits(o.seq_slice) : 0));
    if (o.stage >= 0) w.stage = std::max(w.stage, 3 + digits(o.stage));
    if (o.layer >= 0) w.layer = std::max(w.layer, 3 + digits(o.layer));
    w.stream = std::max(w.stream, 4 + plan.streams[o.stream.index()].size());
  }
  return w;
}

void put_field(Out& out, std::size_t width, const char* key, std::int32_t value) {
  const std::size_t start = out.size();
  if (value >= 0) put(out, ' ', key, '=', value);
  while (out.size() < start + width) out.push_back(' ');
}

void put_op(Out& out, const Plan& plan, std::size_t id, const Widths& w) {
  const Op& op = plan.ops[id];
  put(out, " op ");
  out.append(w.id - digits(static_cast<std::int64_t>(id)), ' ');
  put(out, id, ' ', kPhase[static_cast<std::size_t>(op.phase)]);
  if (op.part == Part::none)
    put(out, "  ");
  else
    put(out, '/', kPart[static_cast<std::size_t>(op.part)]);
  const std::size_t begin = out.size();
  if (op.microbatch >= 0) {
    put(out, " mb=");
    put_microbatch(out, op.microbatch, op.seq_slice);
  }
  if (out.size() < begin + w.mb) out.append(begin + w.mb - out.size(), ' ');
  put_field(out, w.stage, "s", op.stage);
  put_field(out, w.layer, "l", op.layer);
  const std::size_t start = out.size();
  put(out, " on=", plan.streams[op.stream.index()]);
  while (out.size() < start + w.stream) out.push_back(' ');
  put(out, "  ");
  put_action(out, plan, op);
  put(out, '\n');
}

}  // namespace

std::string print(const Plan& plan) {
  Out out;
  // More than a large plan's text needs, so that it is never copied; what is not used is no memory.
  out.reserve(160 * plan.ops.size() + 10 * (plan.operands.size() + plan.op_refs.size() +
                                            plan.buffer_refs.size() + plan.buffers.size()));
  put_header(out, plan.header);
  put_communicators(out, plan);
  put_buffers(out, plan);
  for (std::size_t i = 0; i < plan.kernels.size(); ++i)
    put(out, "kernel ", i, ' ', to_text(plan.kernels[i]), '\n');
  const Widths widths = widths_of(plan);
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    put(out, "program ", p, '\n');
    const Program& program = plan.programs[p];
    for (std::size_t i = program.first_op; i < program.first_op + program.num_ops; ++i)
      put_op(out, plan, i, widths);
  }
  return out;
}

std::string plan_id_of_text(std::string_view canonical_text) {
  return sha256_hex(canonical_text).substr(0, 16);
}
std::string plan_id(const Plan& plan) { return plan_id_of_text(print(plan)); }

std::string describe(const Plan& plan, OpId id) {
  const Op& op = plan.op(id);
  std::string text = fmt::format("op {} ", id.value);
  if (op.kind == OpKind::compute)
    text += kPhase[static_cast<std::size_t>(op.phase)];
  else
    text += name_of(op.kind);
  if (op.tag) text += fmt::format(".{}", plan.name(op.tag));
  if (op.comm.valid())
    text += fmt::format("({})", plan.name(plan.communicators[op.comm.index()].name));
  if (op.stage >= 0) text += fmt::format(" stage {}", op.stage);
  if (op.layer >= 0) text += fmt::format(" layer {}", op.layer);
  if (op.microbatch >= 0) text += fmt::format(" mb {}", op.microbatch);
  if (op.seq_slice >= 0) text += fmt::format(" slice {}", op.seq_slice);
  return text;
}

}  // namespace tandem
