// V1.6 to V1.8: operands fit.
// Proves: a call has as many operands as the kernel catalogue says, of its number of elements and
// type; outputs accumulate and share buffers with inputs only where the kernel allows it; scratch
// is there exactly where an output accumulates (6). A communication moves the whole of a buffer of
// its type, a send and a receive name the other end of their pair (7). A view lies inside a bucket
// of its own program and class, and views do not overlap (8). Not: which of two operands of one
// shape is meant; that a slice rule is right.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/base/limits.h"
#include "common/plan/verify/passes.h"

namespace tandem::verify {
namespace {

constexpr const char* kCatalogueHint = "common/model/kernels.h has the operands of every kernel";

class Operands {
 public:
  Operands(const Plan& plan, Report& report) : plan_(plan), report_(report) {}

  void run() {
    kernels();
    views();
    if (!report_.empty()) return;
    for (std::size_t i = 0; i < plan_.ops.size() && !report_.full(); ++i) {
      const OpId id{static_cast<std::int64_t>(i)};
      const Op& o = plan_.ops[i];
      if (o.kind == OpKind::compute) {
        int index = 0;
        for (const Call& c : plan_.calls_of(o)) call(id, c, index++);
      } else {
        transfer(id, o);
      }
    }
  }

 private:
  void bad(const char* sub, OpId id, const std::string& what, std::string found,
           std::string expected, std::string hint) {
    const std::string who = id.valid() ? text_of(plan_, id) + ": " : "";
    report_.add({kStructure,
                 fmt::format("{} {}{}", sub, who, what),
                 id,
                 std::move(found),
                 std::move(expected),
                 std::move(hint),
                 {}});
  }

  static bool shares_buckets(const Kernel& k) {
    return !k.coords.empty() &&
           (k.kind == KernelKind::adamw || k.kind == KernelKind::sum_squares ||
            k.kind == KernelKind::grad_add || k.kind == KernelKind::grad_scale ||
            k.kind == KernelKind::snapshot);
  }

  // Factors of the largest operand, or more (a fourth of it, for parts of one row): the sequence of
  // attention counts twice, key/value heads are no more than heads; the divisor of a loss, its
  // valid classes and what bounds rows do not count.
  static std::array<std::int64_t, 5> extents(const Kernel& k) {
    const auto& d = k.dims;
    switch (k.kind) {
      case KernelKind::ce_max:
      case KernelKind::ce_grad:
        return {d[0], d[1], 1, 1, 1};
      case KernelKind::attention_fwd:
      case KernelKind::attention_bwd_input:
      case KernelKind::kv_pack:
      case KernelKind::attention_block_fwd:
      case KernelKind::attention_block_bwd_input:
      case KernelKind::kv_unpack:
      case KernelKind::rope_fwd:
      case KernelKind::rope_bwd_input:
        return {d[0], d[1], d[2], d[2], std::max(d[3], v_dim_of(k))};
      case KernelKind::latent_norm_fwd:
      case KernelKind::latent_norm_bwd_input:
      case KernelKind::latent_split_fwd:
      case KernelKind::latent_merge_bwd_input:
        return {d[0], std::max({d[1], d[2], d[3]}), 1, 1, 1};
      case KernelKind::pos_add_fwd:
      case KernelKind::pos_add_bwd_weight:
        return {std::max(d[0], d[3]), d[1], d[2], 1, 1};
      case KernelKind::mla_qkv_fwd:  // five parts in a row
      case KernelKind::mla_qkv_bwd_input:
        return {d[0], d[1], d[2], std::max({d[3], d[4], d[5]}), 2};
      case KernelKind::label_rows_fwd:
        return {d[0], std::max(d[1], d[2]), d[3], 1, 1};
      case KernelKind::balance_fwd:
        return {d[0], d[1], 1, 1, 1};
      case KernelKind::balance_bwd_input:
        return {std::max(d[0], d[6]), d[1], 1, 1, 1};
      case KernelKind::experts_linear_fwd:
      case KernelKind::experts_linear_bwd_input:
      case KernelKind::experts_linear_bwd_weight:
        return {std::max({d[0], d[3], d[4]}), std::max(d[1], d[3]), d[2], 1, 1};
      default:
        return {d[0], d[1], d[2], d[3], 1};
    }
  }

  // Before signature() multiplies dimensions: the products must fit 64 bits.
  void kernels() {
    for (std::size_t i = 0; i < plan_.kernels.size() && !report_.full(); ++i) {
      const Kernel& k = plan_.kernels[i];
      const CatalogueEntry& entry = catalogue(k.kind);
      std::int64_t product = 4;
      bool good = true;
      for (std::int64_t d : extents(k))
        good = good && d >= 0 &&
               !__builtin_mul_overflow(product, std::max<std::int64_t>(d, 1), &product);
      for (std::size_t d = 0; d < k.dims.size(); ++d)
        if (!entry.dims[d].empty() && k.dims[d] < least_of(entry, d)) good = false;
      const std::string_view broken = good ? broken_rule(k) : std::string_view{};
      if (!good || !broken.empty())
        bad("V1.6", {}, fmt::format("kernel {} {} has impossible dimensions", i, to_text(k)),
            to_text(k),
            good ? std::string(broken) : "positive dimensions whose product fits 62 bits",
            "check the model's sizes");
    }
  }

  void views() {
    std::vector<std::pair<BufferId, std::pair<Bytes, BufferId>>> all;  // root, offset, view
    Bytes total = 0;
    for (std::size_t i = 0; i < plan_.buffers.size() && !report_.full(); ++i) {
      const Buffer& b = plan_.buffers[i];
      const BufferId id{static_cast<std::int64_t>(i)};
      if (__builtin_add_overflow(total, Plan::own_bytes(b), &total)) {
        bad("V1.8", {}, "the buffers together are too large", text_of(plan_, id),
            "below 2^63 bytes", "check the model's sizes");
        return;
      }
      if (!b.alias_of.valid()) continue;
      const Buffer& root = plan_.buffer(b.alias_of);
      if (root.alias_of.valid())
        bad("V1.8", {}, text_of(plan_, id) + " is a view of a view", text_of(plan_, b.alias_of),
            "a bucket", "name the bucket itself and add the offsets");
      else if (root.program != b.program || root.cls != b.cls)
        bad("V1.8", {}, text_of(plan_, id) + " is a view of another program's or class's buffer",
            text_of(plan_, b.alias_of),
            fmt::format("a {} of program {}", name_of(b.cls), b.program.value),
            "a bucket holds one class");
      else if (b.alias_offset < 0 || b.alias_offset % size_of(b.dtype) != 0 ||
               b.alias_offset > root.bytes() - b.bytes())
        bad("V1.8", {}, text_of(plan_, id) + " does not lie in its bucket",
            fmt::format("bytes {} to {}", b.alias_offset, b.alias_offset + b.bytes()),
            fmt::format("inside 0 to {}, aligned to {}", root.bytes(), size_of(b.dtype)),
            "enlarge the bucket or correct the offset");
      else
        all.push_back({b.alias_of, {b.alias_offset, id}});
    }
    std::sort(all.begin(), all.end());
    for (std::size_t i = 1; i < all.size() && !report_.full(); ++i) {
      if (all[i].first != all[i - 1].first) continue;
      const BufferId a = all[i - 1].second.second, b = all[i].second.second;
      if (plan_.buffer(a).alias_offset + plan_.buffer(a).bytes() > plan_.buffer(b).alias_offset)
        bad("V1.8", {}, fmt::format("{} and {} overlap", text_of(plan_, a), text_of(plan_, b)),
            fmt::format("byte {}", plan_.buffer(b).alias_offset),
            fmt::format("at or after byte {}",
                        plan_.buffer(a).alias_offset + plan_.buffer(a).bytes()),
            "entries of a bucket are disjoint");
    }
  }

  // --- calls
  void call(OpId id, const Call& c, int index) {
    const Kernel& k = plan_.kernel(c.kernel);
    const Signature sig = signature(k, plan_.header.types);
    const auto inputs = plan_.operands_of(c.inputs), outputs = plan_.operands_of(c.outputs),
               scratch = plan_.operands_of(c.scratch);
    const auto fail = [&](const std::string& what, std::string found, std::string expected) {
      bad("V1.6", id,
          fmt::format("call {} (k{} {}) {}", index, c.kernel.value, catalogue(k.kind).name, what),
          std::move(found), std::move(expected), kCatalogueHint);
    };
    if (sig.more_inputs ? inputs.empty() : inputs.size() != sig.inputs.size())
      return fail("has a wrong number of inputs", fmt::format("{}", inputs.size()),
                  sig.more_inputs ? "1 or more" : fmt::format("{}", sig.inputs.size()));
    if (outputs.size() != sig.outputs.size())
      return fail("has a wrong number of outputs", fmt::format("{}", outputs.size()),
                  fmt::format("{}", sig.outputs.size()));
    const bool accumulates =
        std::any_of(outputs.begin(), outputs.end(), [](OperandRef o) { return o.accumulate; });
    const std::size_t num_scratch = accumulates ? sig.scratch.size() : 0;
    if (scratch.size() != num_scratch)
      return fail("has a wrong number of scratch buffers", fmt::format("{}", scratch.size()),
                  fmt::format("{}", num_scratch));
    for (std::size_t i = 0; i < sig.inputs.size(); ++i)
      fits(fail, inputs[i], sig.inputs[i], k, /*may_be_larger=*/false);
    for (std::size_t i = 0; i < outputs.size(); ++i)
      fits(fail, outputs[i], sig.outputs[i], k, /*may_be_larger=*/false);
    for (std::size_t i = 0; i < scratch.size(); ++i)  // the calls of an op share the largest
      fits(fail, scratch[i], sig.scratch[i], k, /*may_be_larger=*/true);
    if (sig.more_inputs) sum_of_inputs(fail, inputs, k);
    sharing(fail, sig, inputs, outputs, scratch);
  }

  // How many ranks' rows of `positions` make up the sequence.
  [[nodiscard]] std::int64_t slices(const Kernel& k) const {
    std::int64_t n = 1;
    if ((k.flags & kPositions) == 0) return n;
    if (k.coords.has(Axis::cp)) n *= plan_.header.mesh.of(Axis::cp);
    if (k.coords.has(Axis::tp) && (k.flags & kVocab) == 0) n *= plan_.header.mesh.of(Axis::tp);
    return n;
  }

  template <class Fail>
  void fits(const Fail& fail, OperandRef ref, const Operand& operand, const Kernel& k,
            bool may_be_larger) {
    const Buffer& b = plan_.buffer(ref.id);
    const auto who = [&] { return fmt::format("{} as {}", text_of(plan_, ref.id), operand.role); };
    if (ref.accumulate && !operand.may_accumulate)
      return fail("accumulates where it cannot", "+" + who(), "a write");
    if (b.dtype != operand.dtype)
      return fail("has an operand of a wrong type", fmt::format("{}: {}", who(), name_of(b.dtype)),
                  std::string(name_of(operand.dtype)));
    if (operand.shape.rank > 0) {
      // A step may use the first positions of the table only.
      const bool table = operand.role == "pos" || operand.role == "dpos";
      const std::int64_t before = table ? first_position_of(k) * k.dims[2] : 0;
      const std::int64_t has = (b.shape.elements() - before) / (table ? slices(k) : 1),
                         needs = operand.shape.elements();
      // A bucket whose group shares it (ZeRO): the kernel takes the own part.
      const bool part =
          shares_buckets(k) && has == needs * plan_.header.mesh.size_of_group(k.coords);
      if (may_be_larger || table ? has < needs : has != needs && !part)
        fail("has an operand of a wrong size", fmt::format("{}: {} elements", who(), has),
             fmt::format("{}", needs));
      return;
    }
    // The batch: i64[b, S+1] with b * S tokens on all ranks that share its positions; or labels.
    const std::int64_t more = (k.flags & kLabels) ? 0 : 1;
    const std::int64_t tokens = b.shape.rank == 2 ? b.shape[0] * (b.shape[1] - more) : 0;
    const std::int64_t ranks = slices(k);
    if (operand.role == "batch" && (tokens % ranks != 0 || tokens / ranks != k.dims[0]))
      fail("has a batch of a wrong size", who(),
           fmt::format("[b, {}] with b * S = {}{}", more ? "S+1" : "S", k.dims[0],
                       ranks > 1 ? fmt::format(" * {} ranks", ranks) : ""));
  }

  template <class Fail>
  void sum_of_inputs(const Fail& fail, std::span<const OperandRef> inputs, const Kernel& k) {
    std::int64_t sum = 0;
    if (shares_buckets(k) && inputs.size() == 1 &&
        plan_.buffer(inputs[0].id).shape.elements() ==
            k.dims[0] * plan_.header.mesh.size_of_group(k.coords))
      return;
    for (const OperandRef& ref : inputs) {
      const Buffer& b = plan_.buffer(ref.id);
      if (b.dtype != plan_.header.types.main)
        return fail("has an operand of a wrong type",
                    fmt::format("{}: {}", text_of(plan_, ref.id), name_of(b.dtype)),
                    std::string(name_of(plan_.header.types.main)));
      sum = std::min(sum + b.shape.elements(), 2 * limits::kTensorElements);
    }
    if (sum != k.dims[0])
      fail("has inputs of a wrong size", fmt::format("{} elements together", sum),
           fmt::format("{}", k.dims[0]));
  }

  // An output is an input's buffer only where the catalogue says "in place".
  template <class Fail>
  void sharing(const Fail& fail, const Signature& sig, std::span<const OperandRef> inputs,
               std::span<const OperandRef> outputs, std::span<const OperandRef> scratch) {
    std::vector<std::pair<OperandRef, int>> written;  // and the input it may be
    for (std::size_t i = 0; i < outputs.size(); ++i)
      written.push_back({outputs[i], sig.outputs[i].in_place_of});
    for (const OperandRef& s : scratch) written.push_back({s, -1});
    for (std::size_t i = 0; i < written.size(); ++i) {
      const auto [out, allowed] = written[i];
      beside_inputs(fail, inputs, out, out.accumulate ? -1 : allowed);
      for (std::size_t j = 0; j < i; ++j)
        if (touches(written[j].first.id, out.id))
          fail("writes one buffer twice", text_of(plan_, out.id), "different outputs and scratch");
    }
  }
  template <class Fail>
  void beside_inputs(const Fail& fail, std::span<const OperandRef> inputs, OperandRef out,
                     int allowed) {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (touches(inputs[i].id, out.id) &&
          !(static_cast<int>(i) == allowed && inputs[i].id == out.id))
        fail("writes one of its inputs", text_of(plan_, out.id),
             allowed < 0 ? "a buffer of its own"
                         : fmt::format("in place of input {} only", allowed));
  }
  // Same memory: the same buffer, or a bucket and its view. Views of one bucket are disjoint.
  [[nodiscard]] bool touches(BufferId a, BufferId b) const {
    return a == b || plan_.buffer(a).alias_of == b || plan_.buffer(b).alias_of == a;
  }

  // --- communications, copies, values
  void transfer(OpId id, const Op& o) {
    const Buffer& b = plan_.buffer(o.buffer);
    if (holds_host(o.kind)) {
      const bool counts = o.kind == OpKind::host_wait && b.dtype == DType::i32;
      if (!counts && (b.shape.elements() != 1 || b.dtype != DType::f64))
        bad("V1.7", id, "does not wait for a value", text_of(plan_, o.buffer), "f64[1]",
            "the squared norm is f64[1]");
      return;
    }
    if (b.dtype != o.dtype)
      bad("V1.7", id, "moves another type than its buffer's", std::string(name_of(o.dtype)),
          std::string(name_of(b.dtype)), "write the type of the buffer");
    sizes(id, o);
    const bool reduces = o.kind == OpKind::all_reduce || o.kind == OpKind::reduce_scatter;
    if (reduces != (o.reduction != Reduction::none))
      bad("V1.7", id, "has a wrong reduction", std::string(name_of(o.reduction)),
          reduces ? "sum or max" : "none", "all_reduce and reduce_scatter reduce, others do not");
  }

  // What a member hands over lies in the source (in place: in the buffer), what it gets in the
  // buffer: a gather holds the parts of all members, a scatter the own part of what the source has.
  void sizes(OpId id, const Op& o) {
    const std::int64_t n =
        is_p2p(o.kind) || !o.comm.valid() ? 1 : plan_.communicators[o.comm.index()].size;
    const bool gathers = o.kind == OpKind::all_gather;
    const bool rows = o.send_rows.valid() || o.recv_rows.valid();
    const bool apart = o.source.valid();
    const Buffer& b = plan_.buffer(o.buffer);
    const std::int64_t in = b.shape.elements();
    const bool fits = o.count >= 0 && o.count <= limits::kTensorElements;
    const bool scatters = apart && o.kind == OpKind::reduce_scatter;
    const bool any_part = rows && o.kind == OpKind::all_to_all;  // else balanced parts are equal
    if (!fits || (!any_part && o.count * (gathers ? n : 1) != in * (scatters ? n : 1)))
      bad("V1.7", id, "does not move its whole buffer", fmt::format("{} elements", o.count),
          fmt::format("{} of {}", in * (scatters ? n : 1) / (gathers ? n : 1),
                      text_of(plan_, o.buffer)),
          "write the number of elements of the buffer");
    const bool equal_parts = !rows && (o.kind == OpKind::all_to_all || scatters);
    if (fits && equal_parts && o.count % n != 0)
      bad("V1.7", id, "does not cut into equal parts", fmt::format("{} elements", o.count),
          fmt::format("a multiple of {} members", n), "pad the buffer, or give row counts");
    if (!apart) return;
    const Buffer& from = plan_.buffer(o.source);
    if (from.dtype != o.dtype || from.shape.elements() != o.count)
      bad("V1.7", id, "does not hand over its whole source",
          fmt::format("{} x {}", o.count, name_of(o.dtype)), text_of(plan_, o.source),
          "write the number of elements and the type of the source");
    if (touches(o.source, o.buffer))
      bad("V1.7", id, "has its source in its buffer", text_of(plan_, o.source),
          "another buffer, or no source", "leave source= out for an operation in place");
    if (rows) row_counts(id, o, n);
  }
  void row_counts(OpId id, const Op& o, std::int64_t n) {
    for (BufferId counts : {o.send_rows, o.recv_rows}) {
      if (!counts.valid()) continue;
      const Buffer& c = plan_.buffer(counts);
      if (c.dtype != DType::i32 || c.shape.elements() % n != 0)
        bad("V1.7", id, "has counts that are none", text_of(plan_, counts),
            fmt::format("i32, a multiple of {} members", n), "the counts come from the router");
    }
    const Buffer &from = plan_.buffer(o.source), &to = plan_.buffer(o.buffer);
    if (from.row_bytes() != to.row_bytes())
      bad("V1.7", id, "changes the width of its rows", text_of(plan_, o.source),
          text_of(plan_, o.buffer), "rows are sent as they are");
  }

  const Plan& plan_;
  Report& report_;
};

}  // namespace

void check_operands(const Plan& plan, Report& report) { Operands(plan, report).run(); }

}  // namespace tandem::verify
