// Step `segments`: for each action of the order its ops: batches, compute segments with the
// reductions inside layers, messages. Waits and lifetimes come later.
//   A visit is of a microbatch, or of a slice of its sequences; `unit` counts them: microbatch * k
//   + slice. Ids of messages (`match`): for each boundary between stages the forward messages of
//   all units, then the backward ones.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/base/check.h"
#include "common/model/weight_kernels.h"
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
      for (int dir = 0; dir < d.order.num_dirs; ++dir) {
        if (d.order.rank_of(dir, stage) != program) continue;
        std::vector<Visit> visits;
        for (int slice = 0; slice < d.order.num_slices; ++slice)
          visits.push_back(stage_visit(d, program, stage, first_layer, layers, slice));
        open(stage, dir, std::move(visits));
      }
      first_layer += layers;
    }
  }

  void run() {
    const RankOrder& list = d_.order.ranks[static_cast<std::size_t>(program_)];
    std::size_t first_backward = list.size(), last_forward = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (is_backward(list[i].kind) || list[i].kind == ActionKind::W)
        first_backward = std::min(first_backward, i);
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
      if (s.slots().labels >= 0 && !s.slots().first)
        for (int mb = 0; mb < d_.order.num_microbatches; ++mb) hand_over_labels(s, mb);
    for (std::size_t i = 0; i < list.size(); ++i) {
      std::size_t owner = i;
      if (list[i].kind == ActionKind::unshard)  // the first that needs it
        while (owner + 1 < list.size() &&
               !(is_compute(list[owner].kind) && list[owner].stage == list[i].stage &&
                 list[owner].dir == list[i].dir))
          ++owner;
      if (is_recv(list[i].kind))
        while (owner + 1 < list.size() && !makes_or_takes(list[owner], list[i])) ++owner;
      if (is_send(list[i].kind))
        while (owner > 0 && !makes_or_takes(list[owner], list[i])) --owner;
      part_ = part_at(owner);
      const std::size_t end = end_of_cell(list, i);
      if (end > i + 1)
        cell({list.begin() + static_cast<std::ptrdiff_t>(i),
              list.begin() + static_cast<std::ptrdiff_t>(end)});
      else
        act(list[i], list[owner]);
      i = end - 1;
    }
    if (d_.scenario.schedule.grouping == Grouping::runs) group_runs();
  }

 private:
  struct Stage {
    int stage = -1, dir = 0;
    int first_mb = 0;           // of its direction: microbatch 0 is this one of the plan
    std::vector<Visit> visits;  // by slice; all with the same slots
    [[nodiscard]] const Visit& slots() const { return visits.front(); }
    std::vector<std::vector<BufferId>> buffers;  // by slot and unit; of `once` one
    // Units whose I, and whose W, come first: these write the sums of the step.
    int first_input = 0, first_weight = 0;
    std::vector<char> split;  // by unit: its backward is an I and a W
  };
  // A visit among those of its stage.
  struct Unit {
    int mb = 0, slice = 0;
  };

  [[nodiscard]] int index_of(Unit u) const { return u.mb * d_.order.num_slices + u.slice; }
  static Unit unit_of(const Action& a) { return {a.microbatch, a.slice}; }
  static const Visit& visit_of(const Stage& s, const Action& a) {
    return s.visits[static_cast<std::size_t>(a.slice)];
  }
  // -1 where the sequences are whole.
  [[nodiscard]] std::int32_t slice_of(Unit u) const {
    return d_.order.num_slices > 1 ? u.slice : -1;
  }

  void open(int number, int dir, std::vector<Visit> visits) {
    Stage& s = stages_.emplace_back();
    s.stage = number, s.dir = dir;
    s.first_mb = dir * d_.order.num_microbatches;
    s.visits = std::move(visits);
    for (const Visit& v : s.visits)
      TANDEM_CHECK(v.slots.size() == s.slots().slots.size(), "slices with {} and {} slots",
                   v.slots.size(), s.slots().slots.size());
    const int k = d_.order.num_slices, units = d_.order.num_microbatches * k;
    s.split.assign(static_cast<std::size_t>(units), 0);
    bool has_input = false, has_weight = false;
    for (const Action& a : d_.order.ranks[static_cast<std::size_t>(program_)]) {
      if (a.stage != number || a.dir != dir) continue;
      const int unit = index_of(unit_of(a));
      if (is_backward(a.kind) && !std::exchange(has_input, true)) s.first_input = unit;
      if (is_weight(a.kind) && !std::exchange(has_weight, true)) s.first_weight = unit;
      if (a.kind == ActionKind::W) s.split[static_cast<std::size_t>(unit)] = 1;
    }
    // The stage before, where it is on this rank too, hands its output over as it is.
    const Stage* before = nullptr;
    for (const Stage& other : stages_)
      if (other.stage == number - 1 && other.dir == dir) before = &other;
    for (std::size_t slot_index = 0; slot_index < s.slots().slots.size(); ++slot_index) {
      const Slot& slot = s.slots().slots[slot_index];
      std::vector<BufferId>& ids = s.buffers.emplace_back();
      if (before && hand_over(*before, s, static_cast<int>(slot_index))) continue;
      if (slot.resident) continue;  // unshard() makes them
      for (int unit = 0; unit < (slot.once ? 1 : units); ++unit) {
        const auto z = static_cast<std::size_t>(unit);
        const Unit u{unit / k, unit % k};
        ids.emplace_back();
        if (slot.only_when_accumulating && unit == s.first_weight) continue;
        if (slot.only_in_weight && !s.split[z]) continue;
        if (slot.for_later_slices && u.slice + 1 == k) continue;
        if (slot.all_slices && u.slice > 0) {
          ids[z] = ids[z - 1];
          continue;
        }
        Buffer b = slot.buffer;
        b.program = ProgramId{program_};
        if (!slot.once) b.microbatch = s.first_mb + u.mb;
        if (!slot.once && !slot.all_slices) b.seq_slice = slice_of(u);
        if (slot.rows_of >= 0)  // that slot comes before
          b.rows_of = s.buffers[static_cast<std::size_t>(slot.rows_of)][z];
        if (slot.root >= 0) {
          b.alias_of = s.buffers[static_cast<std::size_t>(slot.root)][z];
          b.alias_offset = slot.offset;
        }
        ids[z] = d_.add(b);
        if (slot.bucket >= 0 && unit == 0) lay_out(slot, ids[z]);
        if (slot.once) d_.tensors[static_cast<std::size_t>(program_)].loss = ids[z];
      }
    }
  }

  // Where two neighbouring stages share a rank, the later one's input is the earlier one's output,
  // and likewise backwards: nothing is copied.
  bool hand_over(const Stage& before, Stage& s, int slot) {
    const auto take = [&](int from) {
      s.buffers[static_cast<std::size_t>(slot)] = before.buffers[static_cast<std::size_t>(from)];
      return true;
    };
    if (slot == s.slots().d_in) return take(before.slots().d_out);
    if (slot != s.slots().in) return false;
    const Buffer& saved = s.slots().slots[static_cast<std::size_t>(slot)].buffer;
    for (BufferId id : before.buffers[static_cast<std::size_t>(before.slots().out)]) {
      Buffer& b = d_.plan.buffers[id.index()];
      b.cls = saved.cls, b.name = saved.name, b.layer = saved.layer;
    }
    return take(before.slots().out);
  }

  // The shards of a bucket name a full one, whose views say which tensors lie where.
  void lay_out(const Slot& slot, BufferId full) {
    const Bucket& b = d_.tensors[static_cast<std::size_t>(program_)]
                          .buckets[static_cast<std::size_t>(slot.bucket)];
    const bool gradients = slot.buffer.cls == BufferClass::grad_full;
    for (BufferId id :
         {gradients ? b.grad : b.param, b.main, b.m, b.v, b.kept_main, b.kept_m, b.kept_v}) {
      if (!id.valid() || (gradients && id != b.grad)) continue;
      Buffer& shard = d_.plan.buffers[id.index()];
      if (!shard.shard_of.valid()) shard.shard_of = full;
    }
  }

  BufferId buffer_of(const Stage& s, const Ref& r, Unit u) const {
    if (r.slot < 0) return r.buffer;
    const std::vector<BufferId>& ids = s.buffers[static_cast<std::size_t>(r.slot)];
    const Slot& slot = s.slots().slots[static_cast<std::size_t>(r.slot)];
    if (slot.once || slot.resident) return ids[0];
    if (r.slice >= 0) u.slice = r.slice;
    return ids[static_cast<std::size_t>(index_of(u))];
  }

  Op& add(Op op) {
    op.part = part_;
    return d_.programs[static_cast<std::size_t>(program_)].emplace_back(op);
  }

  Stage& stage_of(const Action& a) {
    const auto at = std::find_if(stages_.begin(), stages_.end(), [&](const Stage& s) {
      return s.stage == a.stage && s.dir == a.dir;
    });
    TANDEM_CHECK(at != stages_.end(), "stage {} is not on rank {}", a.stage, program_);
    return *at;
  }

  // `owner`: of a message the action that makes or takes it.
  void act(const Action& a, const Action& owner) {
    if (a.kind == ActionKind::unshard) return unshard(stage_of(a), phase_of(owner.kind));
    if (!is_compute(a.kind) && !is_message(a.kind)) return;  // see `gradients`; frees come last
    const Stage& s = stage_of(a);
    switch (a.kind) {
      case ActionKind::F:
      case ActionKind::I:
      case ActionKind::W:
      case ActionKind::B:
        begin(s, a);
        for (const VisitOp& op : ops_of(s, a)) compute(s, a, op);
        break;
      case ActionKind::send_f:
        message(s, a, owner, OpKind::send, s.slots().out);
        break;
      case ActionKind::recv_f:
        message(s, a, owner, OpKind::recv, s.slots().in);
        break;
      case ActionKind::send_b:
        message(s, a, owner, OpKind::send, s.slots().d_in);
        break;
      case ActionKind::recv_b:
        message(s, a, owner, OpKind::recv, s.slots().d_out);
        break;
      case ActionKind::unshard:
      case ActionKind::reshard:
      case ActionKind::reduce_grad:
      case ActionKind::idle:
        break;
    }
  }

  // Full parameters of the stage, for the visits until it is gathered again. RESHARD is the free of
  // each behind its last use.
  void unshard(Stage& s, Phase phase) {
    for (std::size_t i = 0; i < s.slots().slots.size(); ++i) {
      const Slot& slot = s.slots().slots[i];
      if (!slot.resident) continue;
      Buffer b = slot.buffer;
      b.program = ProgramId{program_};
      if (slot.root >= 0) {
        b.alias_of = s.buffers[static_cast<std::size_t>(slot.root)][0];
        b.alias_offset = slot.offset;
      }
      s.buffers[i] = {d_.add(b)};
      if (slot.bucket >= 0) lay_out(slot, s.buffers[i][0]);
    }
    for (const VisitOp& v : s.slots().unshard) {
      Op op;
      op.kind = v.kind;
      op.phase = phase;
      op.stage = s.stage;
      communicate(op, v, s, Unit{});
      add(op);
    }
  }

  // A fused cell: the segments of its parts in turn on the one compute stream, at each index those
  // of the earlier part first; communications run on their own streams beside the other's computing
  // (schedules.md 4.1). A segment is what is computed up to the next communication, and that.
  void cell(const RankOrder& parts) {
    for (const Action& a : parts) begin(stage_of(a), a);
    std::vector<std::size_t> next(parts.size(), 0);  // of each part's ops
    for (bool more = true; more;) {
      more = false;
      for (std::size_t k = 0; k < parts.size(); ++k) {
        const Stage& s = stage_of(parts[k]);
        const std::vector<VisitOp>& ops = ops_of(s, parts[k]);
        std::size_t& i = next[k];
        const auto computes = [&] { return ops[i].kind == OpKind::compute; };
        while (i < ops.size() && computes()) compute(s, parts[k], ops[i++]);
        while (i < ops.size() && !computes()) compute(s, parts[k], ops[i++]);
        more = more || i < ops.size();
      }
    }
  }

  static const std::vector<VisitOp>& ops_of(const Stage& s, const Action& a) {
    const Visit& v = visit_of(s, a);
    switch (a.kind) {
      case ActionKind::F:
        return v.forward;
      case ActionKind::I:
        return v.input;
      case ActionKind::W:
        return v.weight;
      default:
        return v.backward;
    }
  }
  static Phase phase_of(ActionKind kind) {
    switch (kind) {
      case ActionKind::F:
        return Phase::F;
      case ActionKind::I:
        return Phase::I;
      case ActionKind::W:
        return Phase::W;
      default:
        return Phase::B;
    }
  }

  // What a forward needs from outside.
  void begin(const Stage& s, const Action& a) {
    if (a.kind != ActionKind::F) return;
    if (s.slots().batch >= 0) copy_batch(s, unit_of(a), s.slots().batch);
    if (s.slots().labels >= 0 && s.slots().first) hand_over_labels(s, a.microbatch);
  }

  void copy_batch(const Stage& s, Unit u, int slot) {
    Ref r;
    r.slot = slot;
    Op op;
    op.kind = OpKind::copy;
    op.phase = Phase::D;
    op.stream = d_.stream("copy_in");
    op.stage = s.stage, op.microbatch = s.first_mb + u.mb, op.seq_slice = slice_of(u);
    op.buffer = buffer_of(s, r, u);
    op.dtype = DType::i64;
    op.count = d_.plan.buffer(op.buffer).shape.elements();
    add(op);
  }

  // Style nano_train: the last stage does not read its labels, the first one sends them. It posts
  // all its receives first: else the first stage, whose messages wait for them, could wait for a
  // backward that waits for its next forward.
  void hand_over_labels(const Stage& s, int mb) {
    if (s.slots().first) copy_batch(s, {mb, 0}, s.slots().labels);
    Ref r;
    r.slot = s.slots().labels;
    Op op;
    op.kind = s.slots().first ? OpKind::send : OpKind::recv;
    op.phase = Phase::F;
    op.stage = s.stage, op.microbatch = mb;
    op.peer = s.slots().first ? d_.scenario.parallel.pp - 1 : 0;
    op.comm = d_.comm("labels");
    op.stream = d_.stream("comm:labels");
    op.tag = d_.name("labels");
    op.buffer = buffer_of(s, r, {mb, 0});
    op.dtype = DType::i64;
    op.count = d_.plan.buffer(op.buffer).shape.elements();
    // Behind the ids of messages, of the tied embedding and of the sums over all ranks.
    op.match = d_.first_match() + 3 + mb;
    add(op);
  }

  void compute(const Stage& s, const Action& a, const VisitOp& v) {
    const Unit u = unit_of(a);
    const Phase phase = phase_of(a.kind);
    Op op;
    op.phase = v.again ? Phase::R : phase;
    op.stage = s.stage, op.layer = v.layer, op.microbatch = s.first_mb + u.mb;
    op.seq_slice = slice_of(u);
    op.kind = v.kind;
    if (v.kind == OpKind::compute) {
      op.stream = d_.stream("compute");
      op.calls = calls(s, u, v.calls);
    } else {
      communicate(op, v, s, u);
    }
    const bool in_place = v.adds && index_of(u) != s.first_weight;
    if (in_place) op.buffer = op.source, op.source = {};
    add(op);
    if (!in_place) return;
    Op sum;
    sum.phase = phase;
    sum.stage = s.stage, sum.layer = v.layer, sum.microbatch = s.first_mb + u.mb;
    sum.seq_slice = slice_of(u);
    sum.stream = d_.stream("compute");
    sum.calls = calls(s, u, v.calls);
    add(sum);
  }

  void communicate(Op& op, const VisitOp& v, const Stage& s, Unit u) {
    const auto find = [&](const Ref& r) { return r.none() ? BufferId{} : buffer_of(s, r, u); };
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

  Range calls(const Stage& s, Unit u, const std::vector<VisitCall>& list) {
    const Range range{static_cast<std::uint32_t>(d_.plan.calls.size()),
                      static_cast<std::uint32_t>(list.size())};
    const int unit = index_of(u);
    std::vector<OperandRef> operands;
    const auto resolve = [&](const std::vector<Ref>& refs, int first) {
      operands.clear();
      for (const Ref& r : refs) {
        const BufferId id = buffer_of(s, r, u);
        const bool again = r.step_sum && !written_.insert(id).second;
        operands.push_back({id, r.adds || again || (r.sums && unit != first)});
      }
      return d_.operands(operands);
    };
    for (const VisitCall& c : list) {
      Call call;
      call.kernel = c.kernel;
      const bool weight = makes_only_weight_gradients(d_.plan.kernel(c.kernel).kind);
      const int first = weight ? s.first_weight : s.first_input;
      call.inputs = resolve(c.inputs, first);
      call.outputs = resolve(c.outputs, first);
      if (unit != first) call.scratch = resolve(c.scratch, first);
      d_.plan.calls.push_back(call);
    }
    return range;
  }

  void message(const Stage& s, const Action& a, const Action& owner, OpKind kind, int slot) {
    const bool forth = goes_forth(a.kind);
    const int other = other_stage(a);
    Ref r;
    r.slot = slot;
    Op op;
    op.kind = kind;
    op.phase = forth ? Phase::F : phase_of(owner.kind);
    op.stage = s.stage, op.microbatch = s.first_mb + a.microbatch;
    op.seq_slice = slice_of(unit_of(a));
    op.peer = d_.order.rank_of(a.dir, other);
    const std::string name =
        kind == OpKind::send ? edge(program_, op.peer) : edge(op.peer, program_);
    op.comm = d_.comm(name);
    op.stream = d_.stream("comm:" + name);
    op.tag = d_.name(forth ? "act" : "grad");
    op.buffer = buffer_of(s, r, unit_of(a));
    const Buffer& b = d_.plan.buffer(op.buffer);
    op.dtype = b.dtype;
    op.count = b.shape.elements();
    const int boundary = std::min(s.stage, other);
    op.match = (2 * boundary + (forth ? 0 : 1)) * d_.visits_of_stage() +
               index_of({op.microbatch, a.slice});
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
  for (std::size_t p = 0; p < num_programs; ++p) {
    if (d.settling) {
      parameters(d, static_cast<int>(p));
      continue;
    }
    Program(d, static_cast<int>(p)).run();
    if (p > 0) continue;
    // Programs are much alike: no pool is copied on its way to a million ops.
    const auto expect = [&](auto& pool) {
      pool.reserve(num_programs * (pool.size() + pool.size() / 16));
    };
    expect(d.plan.buffers);
    expect(d.plan.calls);
    expect(d.plan.operands);
  }
}

}  // namespace tandem::lower
