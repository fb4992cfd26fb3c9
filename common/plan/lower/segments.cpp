// Step `segments`: for each action of the order its ops: batches, compute segments with the
// reductions inside layers, messages. Waits and lifetimes come later.
//   Ids of messages (`match`): for each boundary between stages the forward messages of all
//   microbatches, then the backward ones.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/base/check.h"
#include "common/plan/lower/visit.h"

namespace tandem::lower {
namespace {

class Program {
 public:
  Program(Draft& d, int program) : d_(d), program_(program) {
    parameters(d, program);
    int first_layer = 0;
    for (int stage = 0; stage < d.order.num_stages(); ++stage) {
      const int layers = d.scenario.parallel.layer_split[static_cast<std::size_t>(stage)];
      if (d.order.stage_rank[static_cast<std::size_t>(stage)] == program)
        open(stage, stage_visit(d, program, stage, first_layer, layers));
      first_layer += layers;
    }
  }

  void run() {
    const RankOrder& list = d_.order.ranks[static_cast<std::size_t>(program_)];
    std::size_t first_backward = list.size(), last_forward = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (is_backward(list[i].kind)) first_backward = std::min(first_backward, i);
      if (list[i].kind == ActionKind::F) last_forward = i;
    }
    // A message belongs to the part of the action that makes or takes it. Without backwards there
    // is one part.
    const auto part_at = [&](std::size_t i) {
      if (d_.evaluation) return Part::none;
      return i < first_backward ? Part::warm_up : i > last_forward ? Part::cool_down : Part::steady;
    };
    part_ = d_.evaluation ? Part::none : Part::warm_up;
    for (const Stage& s : stages_)
      if (s.visit.labels >= 0 && !s.visit.first)
        for (int mb = 0; mb < d_.order.num_microbatches; ++mb) hand_over_labels(s, mb);
    for (std::size_t i = 0; i < list.size(); ++i) {
      std::size_t owner = i;
      if (is_recv(list[i].kind))
        while (owner + 1 < list.size() && !makes_or_takes(list[owner], list[i])) ++owner;
      if (is_send(list[i].kind))
        while (owner > 0 && !makes_or_takes(list[owner], list[i])) --owner;
      part_ = part_at(owner);
      act(list[i]);
    }
    if (d_.scenario.schedule.grouping == Grouping::runs) group_runs();
  }

 private:
  struct Stage {
    int stage = -1;
    Visit visit;
    std::vector<BufferId> first;  // by slot: buffer of microbatch 0
    int first_backward = 0;       // microbatch whose backward comes first: its W writes
  };

  void open(int number, Visit visit) {
    Stage& s = stages_.emplace_back();
    s.stage = number;
    s.visit = std::move(visit);
    for (const Action& a : d_.order.ranks[static_cast<std::size_t>(program_)])
      if (a.stage == number && (a.kind == ActionKind::B || a.kind == ActionKind::W)) {
        s.first_backward = a.microbatch;
        break;
      }
    const int m = d_.order.num_microbatches;
    for (const Slot& slot : s.visit.slots) {
      s.first.push_back(BufferId{static_cast<std::int64_t>(d_.plan.buffers.size())});
      for (int mb = 0; mb < (slot.once ? 1 : m); ++mb) {
        if (slot.only_when_accumulating && mb == s.first_backward) continue;
        Buffer b = slot.buffer;
        b.program = ProgramId{program_};
        if (!slot.once) b.microbatch = mb;
        if (slot.rows_of >= 0)  // that slot comes before
          b.rows_of =
              BufferId{std::int64_t{s.first[static_cast<std::size_t>(slot.rows_of)].value} + mb};
        if (slot.root >= 0) {
          b.alias_of =
              BufferId{std::int64_t{s.first[static_cast<std::size_t>(slot.root)].value} + mb};
          b.alias_offset = slot.offset;
        }
        const BufferId id = d_.add(b);
        if (slot.bucket >= 0 && mb == 0) lay_out(slot, id);
        if (slot.once) d_.tensors[static_cast<std::size_t>(program_)].loss = id;
      }
    }
  }

  // The shards of a bucket name a full one, whose views say which tensors lie where.
  void lay_out(const Slot& slot, BufferId full) {
    const Bucket& b = d_.tensors[static_cast<std::size_t>(program_)]
                          .buckets[static_cast<std::size_t>(slot.bucket)];
    const bool gradients = slot.buffer.cls == BufferClass::grad_full;
    for (BufferId id : {gradients ? b.grad : b.param, b.main, b.m, b.v}) {
      if (!id.valid() || (gradients && id != b.grad)) continue;
      Buffer& shard = d_.plan.buffers[id.index()];
      if (!shard.shard_of.valid()) shard.shard_of = full;
    }
  }

  static BufferId buffer_of(const Stage& s, const Ref& r, int mb) {
    if (r.slot < 0) return r.buffer;
    const Slot& slot = s.visit.slots[static_cast<std::size_t>(r.slot)];
    const BufferId first = s.first[static_cast<std::size_t>(r.slot)];
    if (slot.once) return first;
    const bool skipped = slot.only_when_accumulating && mb > s.first_backward;
    return BufferId{std::int64_t{first.value} + mb - (skipped ? 1 : 0)};
  }

  Op& add(Op op) {
    op.part = part_;
    return d_.programs[static_cast<std::size_t>(program_)].emplace_back(op);
  }

  void act(const Action& a) {
    if (!is_compute(a.kind) && !is_message(a.kind)) return;  // placed by `gradients` and zero
    const auto at = std::find_if(stages_.begin(), stages_.end(),
                                 [&](const Stage& s) { return s.stage == a.stage; });
    TANDEM_CHECK(at != stages_.end(), "stage {} is not on rank {}", a.stage, program_);
    const Visit& v = at->visit;
    switch (a.kind) {
      case ActionKind::F:
        if (v.batch >= 0) copy_batch(*at, a.microbatch, v.batch);
        if (v.labels >= 0 && v.first) hand_over_labels(*at, a.microbatch);
        compute(*at, a.microbatch, v.forward, Phase::F);
        break;
      case ActionKind::B:
        compute(*at, a.microbatch, v.backward, Phase::B);
        break;
      case ActionKind::send_f:
        message(*at, a, OpKind::send, v.output);
        break;
      case ActionKind::recv_f:
        message(*at, a, OpKind::recv, v.input);
        break;
      case ActionKind::send_b:
        message(*at, a, OpKind::send, v.d_input);
        break;
      case ActionKind::recv_b:
        message(*at, a, OpKind::recv, v.d_output);
        break;
      case ActionKind::I:
      case ActionKind::W:
        TANDEM_CHECK(false, "no kind of this version splits backwards");
        break;
      case ActionKind::unshard:
      case ActionKind::reshard:
      case ActionKind::reduce_grad:
      case ActionKind::idle:
        break;
    }
  }

  void copy_batch(const Stage& s, int mb, int slot) {
    Ref r;
    r.slot = slot;
    Op op;
    op.kind = OpKind::copy;
    op.phase = Phase::D;
    op.stream = d_.stream("copy_in");
    op.stage = s.stage, op.microbatch = mb;
    op.buffer = buffer_of(s, r, mb);
    op.dtype = DType::i64;
    op.count = d_.plan.buffer(op.buffer).shape.elements();
    add(op);
  }

  // Style nano_train: the last stage does not read its labels, the first one sends them. It posts
  // all its receives first: else the first stage, whose messages wait for them, could wait for a
  // backward that waits for its next forward.
  void hand_over_labels(const Stage& s, int mb) {
    if (s.visit.first) copy_batch(s, mb, s.visit.labels);
    Ref r;
    r.slot = s.visit.labels;
    Op op;
    op.kind = s.visit.first ? OpKind::send : OpKind::recv;
    op.phase = Phase::F;
    op.stage = s.stage, op.microbatch = mb;
    op.peer = s.visit.first ? d_.scenario.parallel.pp - 1 : 0;
    op.comm = d_.comm("labels");
    op.stream = d_.stream("comm:labels");
    op.tag = d_.name("labels");
    op.buffer = buffer_of(s, r, mb);
    op.dtype = DType::i64;
    op.count = d_.plan.buffer(op.buffer).shape.elements();
    // Behind the ids of messages, of the tied embedding and of the sums over all ranks.
    op.match = 2 * (d_.order.num_stages() - 1) * d_.order.num_microbatches + 3 + mb;
    add(op);
  }

  void compute(const Stage& s, int mb, const std::vector<VisitOp>& ops, Phase phase) {
    for (const VisitOp& v : ops) {
      Op op;
      op.phase = v.again ? Phase::R : phase;
      op.stage = s.stage, op.layer = v.layer, op.microbatch = mb;
      op.kind = v.kind;
      if (v.kind == OpKind::compute) {
        op.stream = d_.stream("compute");
        op.calls = calls(s, mb, v.calls);
      } else {
        communicate(op, v, s, mb);
      }
      const bool in_place = v.adds && mb != s.first_backward;
      if (in_place) op.buffer = op.source, op.source = {};
      add(op);
      if (!in_place) continue;
      Op sum;
      sum.phase = phase;
      sum.stage = s.stage, sum.layer = v.layer, sum.microbatch = mb;
      sum.stream = d_.stream("compute");
      sum.calls = calls(s, mb, v.calls);
      add(sum);
    }
  }

  void communicate(Op& op, const VisitOp& v, const Stage& s, int mb) {
    const auto find = [&](const Ref& r) { return r.none() ? BufferId{} : buffer_of(s, r, mb); };
    op.buffer = find(v.buffer);
    if (v.kind == OpKind::host_wait) {
      op.stream = d_.stream("host");
      return;
    }
    op.comm = d_.comm(v.comm);
    op.stream = d_.stream("comm:" + v.comm);
    op.reduction = v.reduction;
    op.tag = d_.name(v.tag);
    op.source = find(v.source);
    op.send_rows = find(v.send_rows);
    op.recv_rows = find(v.recv_rows);
    const Buffer& handed_over = d_.plan.buffer(op.source.valid() ? op.source : op.buffer);
    op.dtype = handed_over.dtype;
    op.count = handed_over.shape.elements();
  }

  Range calls(const Stage& s, int mb, const std::vector<VisitCall>& list) {
    const Range range{static_cast<std::uint32_t>(d_.plan.calls.size()),
                      static_cast<std::uint32_t>(list.size())};
    std::vector<OperandRef> operands;
    const auto resolve = [&](const std::vector<Ref>& refs) {
      operands.clear();
      for (const Ref& r : refs) {
        const BufferId id = buffer_of(s, r, mb);
        const bool again = r.step_sum && !written_.insert(id).second;
        operands.push_back({id, r.adds || again || (r.sums && mb != s.first_backward)});
      }
      return d_.operands(operands);
    };
    for (const VisitCall& c : list) {
      Call call;
      call.kernel = c.kernel;
      call.inputs = resolve(c.inputs);
      call.outputs = resolve(c.outputs);
      if (mb != s.first_backward) call.scratch = resolve(c.scratch);
      d_.plan.calls.push_back(call);
    }
    return range;
  }

  void message(const Stage& s, const Action& a, OpKind kind, int slot) {
    const bool forth = goes_forth(a.kind);
    const int other = other_stage(a);
    Ref r;
    r.slot = slot;
    Op op;
    op.kind = kind;
    op.phase = forth ? Phase::F : Phase::B;
    op.stage = s.stage, op.microbatch = a.microbatch;
    op.peer = d_.order.stage_rank[static_cast<std::size_t>(other)];
    const std::string name =
        kind == OpKind::send ? edge(program_, op.peer) : edge(op.peer, program_);
    op.comm = d_.comm(name);
    op.stream = d_.stream("comm:" + name);
    op.tag = d_.name(forth ? "act" : "grad");
    op.buffer = buffer_of(s, r, a.microbatch);
    const Buffer& b = d_.plan.buffer(op.buffer);
    op.dtype = b.dtype;
    op.count = b.shape.elements();
    const int boundary = std::min(s.stage, other), m = d_.order.num_microbatches;
    op.match = (2 * boundary + (forth ? 0 : 1)) * m + a.microbatch;
    add(op);
  }

  [[nodiscard]] std::string edge(int from, int to) const {
    switch (d_.scenario.schedule.communicators) {
      case P2pCommunicators::edge:
        return fmt::format("edge:{}->{}", from, to);
      case P2pCommunicators::pair:
        return fmt::format("pair:{}-{}", std::min(from, to), std::max(from, to));
      case P2pCommunicators::world:
        break;
    }
    return "p2p";
  }

  // Each maximal run of neighbouring messages is one group (schedules.md 4.6).
  void group_runs() {
    std::vector<Op>& ops = d_.programs[static_cast<std::size_t>(program_)];
    for (std::size_t i = 0; i < ops.size();) {
      std::size_t end = i;
      while (end < ops.size() && is_p2p(ops[end].kind)) ++end;
      if (end > i + 1) {
        for (std::size_t k = i; k < end; ++k) ops[k].group = next_group_;
        ++next_group_;
      }
      i = std::max(end, i + 1);
    }
  }

  Draft& d_;
  int program_;
  Part part_ = Part::none;
  std::vector<Stage> stages_;
  std::set<BufferId> written_;  // sums of the step that have a value
  int next_group_ = 0;
};

}  // namespace

void segments(Draft& d) {
  const auto num_programs = d.order.ranks.size();
  d.programs.resize(num_programs);
  d.tensors.resize(num_programs);
  for (std::size_t p = 0; p < num_programs; ++p) Program(d, static_cast<int>(p)).run();
}

}  // namespace tandem::lower
