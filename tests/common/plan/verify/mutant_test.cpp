// Goal    the passes accept every legal plan and refuse every illegal one (schedules.md 5.4).
// Method  small plans with every kind of hazard: activations that come and go, messages, gradients
//         that accumulate, slices whose order matters, a check of the step before, collectives.
//         Random mutants: swapped, moved, lost and doubled ops, other buffers, peers, match ids,
//         sizes, slices, waits, allocates, frees. An oracle that shares no code with the passes
//         judges each: transitive closure of the order as a matrix, life of buffers by looking at
//         every pair of ops, and a run that tries every op again and again. O(n^3), so plans have
//         at most 70 ops.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "common/plan/lower/draft.h"
#include "common/plan/verify/verify.h"
#include "common/schedule/registry.h"
#include "tests/common/plan/example.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

// --- a small plan of a schedule ------------------------------------------------------------------

struct SmallOp {
  Op op;  // without ranges
  std::vector<std::pair<int, std::vector<int>>>
      calls;                                 // kernel; inputs, then -1 - out or 1000 + out
  std::vector<int> waits, allocates, frees;  // waits: tokens
  int token = 0;                             // stays with the op when it moves
};
struct Small {
  Plan base;  // tables
  std::vector<std::vector<SmallOp>> programs;
};
constexpr int kFwd = 0, kBwd = 1, kWeight = 2, kNorm = 3, kAccumulate = 100'000;

// One op for each action: a forward, a gradient of the input, one of the weight, or both; messages
// where lowering puts them; a stage hands its output to the next one on its rank. At the end the
// gradients of all stages are summed over all ranks.
class SmallBuilder {
 public:
  SmallBuilder(const Order& order, Small& out, bool late)
      : order_(order), out_(out), plan_(out.base), late_(late) {
    const std::size_t n = order.num_visits();
    input_ = output_ = dy_ = dx_ = forward_ = gradient_ = std::vector<int>(n, -1);
    received_f_ = received_b_ = std::vector<int>(n, -1);
  }
  void program(int rank) {
    rank_ = rank;
    list_ = &out_.programs[static_cast<std::size_t>(rank)];
    data_ = buffer(BufferClass::param, 4);
    scratch_ = buffer(BufferClass::optim, 1);
    grads_.clear();
    if (late_) sum_pending();
    for (const Action& a : order_.ranks[static_cast<std::size_t>(rank)]) act(a);
    finish();
  }
  // The check of the step before, on each rank as late as it may be: before the first gradient that
  // is written, and before every receive of what is sent behind the sender's check.
  void add_checks() {
    const std::size_t p = out_.programs.size();
    std::vector<std::size_t> cut(p);
    std::map<int, std::pair<std::size_t, std::size_t>> sent;  // by match: rank, position
    for (std::size_t r = 0; r < p; ++r) {
      const std::vector<SmallOp>& list = out_.programs[r];
      const auto writes = [&](const SmallOp& o) {
        return o.op.phase == Phase::B || o.op.phase == Phase::W;
      };
      cut[r] = static_cast<std::size_t>(
          std::find_if(list.begin(), list.end(),
                       [&](const auto& o) { return o.op.kind == OpKind::compute && writes(o); }) -
          list.begin());
      for (std::size_t i = 0; i < list.size(); ++i)
        if (list[i].op.kind == OpKind::send) sent[list[i].op.match] = {r, i};
    }
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t r = 0; r < p; ++r)
        for (std::size_t i = 0; i < cut[r]; ++i) {
          const Op& o = out_.programs[r][i].op;
          if (o.kind != OpKind::recv || sent[o.match].second < cut[sent[o.match].first]) continue;
          cut[r] = i, moved = true;
        }
    }
    for (std::size_t r = 0; r < p; ++r) {
      SmallOp check;
      check.op.kind = OpKind::post_validate;
      check.op.phase = Phase::O;
      check.op.stream = StreamId{2};
      check.op.buffer = BufferId{pending_[r].first};
      check.waits = {pending_[r].second};
      check.frees = {pending_[r].first};
      check.token = next_token_++;
      out_.programs[r].insert(out_.programs[r].begin() + static_cast<std::ptrdiff_t>(cut[r]),
                              check);
    }
  }
  // Of messages between two ranks, in one direction.
  static CommId edge_of(const Plan& plan, int from, int to) {
    for (std::size_t c = 1; c < plan.communicators.size(); ++c)
      if (plan.communicators[c].pair_first == from && plan.communicators[c].pair_second == to)
        return CommId{static_cast<int>(c)};
    return {};
  }

 private:
  static std::size_t z(int i) { return static_cast<std::size_t>(i); }
  int buffer(BufferClass cls, std::int64_t n, DType t = DType::f32) {
    Buffer b;
    b.program = ProgramId{rank_};
    b.cls = cls;
    b.dtype = t;
    b.shape = {n};
    plan_.buffers.push_back(b);
    return static_cast<int>(plan_.buffers.size()) - 1;
  }
  SmallOp& put(SmallOp o) {
    o.token = next_token_++;
    list_->push_back(std::move(o));
    return list_->back();
  }
  SmallOp of(const Action& a, Phase phase) {
    SmallOp o;
    o.op.phase = phase;
    o.op.stream = StreamId{0};
    o.op.stage = a.stage;
    o.op.microbatch = a.dir * order_.num_microbatches + a.microbatch;
    if (order_.num_slices > 1) o.op.seq_slice = a.slice;
    return o;
  }
  // At the same place of another stage.
  std::size_t at(const Action& a, int stage) const {
    return order_.visit(a.dir, stage, a.microbatch, a.slice);
  }
  bool here(const Action& a, int stage) const {
    return stage >= 0 && stage < order_.num_stages() && order_.rank_of(a.dir, stage) == rank_;
  }

  SmallOp& message(const Action& a, int b) {
    const bool forth = goes_forth(a.kind), sends = is_send(a.kind);
    const int other = order_.rank_of(a.dir, other_stage(a));
    SmallOp o = of(a, forth ? Phase::F : Phase::B);
    o.op.kind = sends ? OpKind::send : OpKind::recv;
    o.op.comm = sends ? edge_of(plan_, rank_, other) : edge_of(plan_, other, rank_);
    o.op.stream = StreamId{(late_ ? 2 : 1) + o.op.comm.value};
    o.op.peer = other;
    // Of what the receiving visit takes: its input, or its output's gradient.
    o.op.match = 2 * static_cast<int>(sends ? at(a, other_stage(a)) : order_.visit(a)) + !forth;
    o.op.count = 4;
    o.op.buffer = BufferId{b};
    return put(std::move(o));
  }

  void act(const Action& a) {
    const std::size_t v = order_.visit(a);
    switch (a.kind) {
      case ActionKind::recv_f: {
        input_[v] = buffer(BufferClass::saved_input, 4);
        SmallOp& o = message(a, input_[v]);
        o.allocates = {input_[v]};
        received_f_[v] = o.token;
        break;
      }
      case ActionKind::recv_b: {
        dy_[v] = buffer(BufferClass::grad_activation, 4);
        SmallOp& o = message(a, dy_[v]);
        o.allocates = {dy_[v]};
        received_b_[v] = o.token;
        break;
      }
      case ActionKind::send_f: {
        SmallOp& o = message(a, output_[v]);
        o.waits = {forward_[v]};
        o.frees = {output_[v]};
        break;
      }
      case ActionKind::send_b: {
        SmallOp& o = message(a, dx_[v]);
        o.waits = {gradient_[v]};
        o.frees = {dx_[v]};
        break;
      }
      case ActionKind::F: {
        if (a.stage == 0) input_[v] = data_;
        if (here(a, a.stage - 1)) input_[v] = output_[at(a, a.stage - 1)];
        output_[v] = buffer(BufferClass::activation, 4);
        SmallOp o = of(a, Phase::F);
        o.calls = {{kFwd, {input_[v], -1 - output_[v]}}};
        o.allocates = {output_[v]};
        if (received_f_[v] >= 0) o.waits = {received_f_[v]};
        forward_[v] = put(std::move(o)).token;
        break;
      }
      default:
        backward(a, v);
        break;
    }
  }

  void backward(const Action& a, std::size_t v) {
    SmallOp o = of(a, a.kind == ActionKind::I   ? Phase::I
                      : a.kind == ActionKind::W ? Phase::W
                                                : Phase::B);
    if (a.kind != ActionKind::W) {
      if (a.stage + 1 == order_.num_stages()) dy_[v] = output_[v];
      if (here(a, a.stage + 1)) dy_[v] = dx_[at(a, a.stage + 1)];
      dx_[v] = buffer(BufferClass::grad_activation, 4);
      o.calls = {{kBwd, {dy_[v], input_[v], -1 - dx_[v]}}};
      o.allocates = {dx_[v]};
      if (received_b_[v] >= 0) o.waits = {received_b_[v]};
      if (a.stage == 0) o.frees = {dx_[v]};
    }
    if (is_weight(a.kind)) {
      const auto [grad, is_first] = grads_.try_emplace({a.dir, a.stage}, -1);
      if (is_first) grad->second = buffer(BufferClass::grad, 1);
      o.calls.push_back({kWeight, {dy_[v], input_[v]}});
      auto& refs = o.calls.back().second;
      refs.push_back(is_first ? -1 - grad->second : kAccumulate + grad->second);
      if (!is_first) refs.push_back(2 * kAccumulate + scratch_);
      o.frees.push_back(dy_[v]);
      if (a.stage > 0) o.frees.push_back(input_[v]);
    }
    const int token = put(std::move(o)).token;
    if (a.kind != ActionKind::W) gradient_[v] = token;
  }

  // The sum over all ranks of what the step before has left, first of all.
  void sum_pending() {
    const int sum = buffer(BufferClass::comm, 1, DType::f64);
    SmallOp own;
    own.op.phase = Phase::O;
    own.op.stream = StreamId{0};
    own.calls = {{kNorm, {scratch_, -1 - sum}}};
    own.allocates = {sum};
    SmallOp world = world_sum(sum, 2'000'000);
    world.waits = {put(std::move(own)).token};
    pending_.emplace_back(sum, put(std::move(world)).token);
  }
  static SmallOp world_sum(int of, int match) {
    SmallOp world;
    world.op.kind = OpKind::all_reduce;
    world.op.comm = CommId{0};
    world.op.stream = StreamId{1};
    world.op.match = match;
    world.op.count = 1;
    world.op.dtype = DType::f64;
    world.op.reduction = Reduction::sum;
    world.op.buffer = BufferId{of};
    world.op.phase = Phase::O;
    return world;
  }

  void finish() {
    const int norm = buffer(BufferClass::scratch, 1, DType::f64);
    SmallOp sum;
    sum.op.phase = Phase::O;
    sum.op.stream = StreamId{0};
    for (const auto& [of, grad] : grads_)
      sum.calls.push_back({kNorm, {grad, sum.calls.empty() ? -1 - norm : kAccumulate + norm}});
    sum.allocates = {norm};
    SmallOp world = world_sum(norm, 1'000'000);
    world.waits = {put(std::move(sum)).token};
    world.frees = {norm};
    put(std::move(world));
  }

  const Order& order_;
  Small& out_;
  Plan& plan_;
  int rank_ = 0, data_ = 0, scratch_ = 0, next_token_ = 0;
  bool late_;
  std::vector<std::pair<int, int>> pending_;  // by rank: the sum's buffer, its op's token
  std::vector<SmallOp>* list_ = nullptr;
  std::map<std::pair<int, int>, int> grads_;  // by direction and stage
  // By visit: buffers; tokens of ops.
  std::vector<int> input_, output_, dy_, dx_, forward_, gradient_, received_f_, received_b_;
};

Small small_plan(const std::string& kind, const PipelineShape& shape,
                 const ScheduleOptions& options = {}, bool late = false) {
  Small s;
  const Order order = *lower::p2p(*make_order(kind, shape, options), Receive::early);
  const int p = order.num_ranks();
  std::string edges;
  int id = 1;
  for (int a = 0; a < p; ++a)
    for (int b = 0; b < p; ++b)
      if (a != b)
        edges += fmt::format("comm {} edge:{}->{} axes=pp pair={},{} size=2\n", id++, a, b, a, b);
  std::string stages, programs;
  for (int i = 0; i < order.num_stages(); ++i)
    stages +=
        fmt::format("{}{}@{}", i ? "," : "", i, order.stage_rank[static_cast<std::size_t>(i)]);
  for (int r = 0; r < p; ++r) programs += fmt::format("program {}\n", r);
  s.base = parsed(fmt::format(
      "plan 1 digest=0 schedule=test receive=early communicators=edge grouping=none "
      "microbatches={} micro_batch=1 seq=4 mesh=tp:1,dp:1,pp:{} stages={}{}{} dtype=f32 "
      "main_grad=f32\ncomm 0 world axes=tp,dp,pp size={}\n{}"
      "kernel 0 gelu_fwd elements=4 erf\nkernel 1 gelu_bwd_input elements=4 erf\n"
      "kernel 2 linear_bwd_weight tokens=4 in=1 out=1\nkernel 3 sum_squares elements=1\n{}",
      order.total_microbatches(), p, stages, order.num_dirs == 2 ? " copies=2" : "",
      order.num_slices > 1 ? fmt::format(" slices={}", order.num_slices) : std::string(), p, edges,
      programs));
  s.base.streams = {"compute", "comm:world"};
  if (late) s.base.streams.insert(s.base.streams.begin() + 2, "host");
  for (std::size_t c = 1; c < s.base.communicators.size(); ++c)
    s.base.streams.push_back("comm:" + s.base.name(s.base.communicators[c].name));
  s.programs.resize(static_cast<std::size_t>(p));
  SmallBuilder builder(order, s, late);
  for (int r = 0; r < p; ++r) builder.program(r);
  if (late) builder.add_checks();
  return s;
}

Plan assemble(const Small& s) {
  Plan plan = s.base;
  plan.programs.clear();
  std::map<int, int> id_of;
  int next = 0;
  for (const auto& list : s.programs)
    for (const SmallOp& o : list) id_of[o.token] = next++;
  for (const auto& list : s.programs) {
    plan.programs.push_back(
        {static_cast<std::uint32_t>(plan.ops.size()), static_cast<std::uint32_t>(list.size())});
    for (const SmallOp& o : list) {
      Op op = o.op;
      const auto begin = [](const auto& v) { return static_cast<std::uint32_t>(v.size()); };
      op.calls = {begin(plan.calls), static_cast<std::uint32_t>(o.calls.size())};
      for (const auto& call : o.calls) {
        const auto kernel = call.first;
        const auto& refs = call.second;
        Call c;
        c.kernel = KernelId{kernel};
        const auto put = [&](Range& range, auto&& take) {
          range.begin = begin(plan.operands);
          for (int ref : refs) take(ref);
          range.count = begin(plan.operands) - range.begin;
        };
        put(c.inputs, [&](int ref) {
          if (ref >= 0 && ref < kAccumulate) plan.operands.push_back({BufferId{ref}, false});
        });
        put(c.outputs, [&](int ref) {
          if (ref < 0) plan.operands.push_back({BufferId{-1 - ref}, false});
          if (ref >= kAccumulate && ref < 2 * kAccumulate)
            plan.operands.push_back({BufferId{ref - kAccumulate}, true});
        });
        put(c.scratch, [&](int ref) {
          if (ref >= 2 * kAccumulate)
            plan.operands.push_back({BufferId{ref - 2 * kAccumulate}, false});
        });
        plan.calls.push_back(c);
      }
      op.waits.begin = begin(plan.op_refs);
      for (int w : o.waits)
        if (id_of.count(w)) plan.op_refs.push_back(OpId{id_of[w]});
      op.waits.count = begin(plan.op_refs) - op.waits.begin;
      const auto refs = [&](const std::vector<int>& list) {
        const Range r{begin(plan.buffer_refs), static_cast<std::uint32_t>(list.size())};
        for (int b : list) plan.buffer_refs.push_back(BufferId{b});
        return r;
      };
      op.allocates = refs(o.allocates);
      op.frees = refs(o.frees);
      plan.ops.push_back(op);
    }
  }
  return plan;
}

// --- the oracle ----------------------------------------------------------------------------------

struct Touch {
  int buffer;
  bool read, write;
};

std::vector<Touch> touches(const Plan& p, const Op& o) {
  std::vector<Touch> out;
  for (const Call& c : p.calls_of(o)) {
    for (auto r : p.operands_of(c.inputs)) out.push_back({r.id.value, true, false});
    for (auto r : p.operands_of(c.scratch)) out.push_back({r.id.value, false, true});
    for (auto r : p.operands_of(c.outputs)) out.push_back({r.id.value, r.accumulate, true});
  }
  if (o.kind == OpKind::send || o.kind == OpKind::post_validate)
    out.push_back({o.buffer.value, true, false});
  if (o.kind == OpKind::recv) out.push_back({o.buffer.value, false, true});
  if (o.kind == OpKind::all_reduce) out.push_back({o.buffer.value, true, true});
  return out;
}

bool has(std::span<const BufferId> list, int b) {
  for (BufferId id : list)
    if (id.value == b) return true;
  return false;
}

// Operands, by the few kernels of these plans.
bool operands_fit(const Plan& p, const Op& o, int program) {
  const auto is = [&](BufferId b, std::int64_t n, DType t) {
    const Buffer& x = p.buffer(b);
    return x.program.value == program && x.shape.elements() == n && x.dtype == t;
  };
  for (const Call& c : p.calls_of(o)) {
    const auto in = p.operands_of(c.inputs), out = p.operands_of(c.outputs),
               scratch = p.operands_of(c.scratch);
    const int k = c.kernel.value;
    const std::size_t num_in = k == kFwd || k == kNorm ? 1 : 2;
    if (in.size() != num_in || out.size() != 1) return false;
    for (auto r : in)
      if (!is(r.id, k == kNorm ? 1 : 4, DType::f32)) return false;
    const bool small = k == kWeight || k == kNorm;
    if (!is(out[0].id, small ? 1 : 4, k == kNorm ? DType::f64 : DType::f32)) return false;
    if (out[0].accumulate && !small) return false;
    if (scratch.size() != (k == kWeight && out[0].accumulate ? 1u : 0u)) return false;
    for (auto r : scratch)
      if (!(p.buffer(r.id).program.value == program && p.buffer(r.id).dtype == DType::f32) ||
          r.id == out[0].id)
        return false;
    // A gelu backward may write over its dy; nothing else may.
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].id == out[0].id && !(k == kBwd && i == 0)) return false;
      for (auto r : scratch)
        if (r.id == in[i].id) return false;
    }
  }
  if (o.kind == OpKind::post_validate) return is(o.buffer, 1, DType::f64);
  if (o.kind != OpKind::compute && !is(o.buffer, o.count, o.dtype)) return false;
  return true;
}

bool lives_are_right(const Plan& p, int program, std::size_t first, std::size_t end) {
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    if (p.buffers[b].program.value != program) continue;
    const int id = static_cast<int>(b);
    std::vector<std::size_t> allocs, frees, uses;
    bool written = false, any_alloc = false;
    for (const Op& o : p.ops)
      if (has(p.allocates_of(o), id)) any_alloc = true;
    const bool stale = p.buffers[b].cls == BufferClass::grad;
    written = !any_alloc && !stale;
    for (std::size_t i = first; i < end; ++i) {
      for (BufferId x : p.allocates_of(p.ops[i]))
        if (x.value == id) allocs.push_back(i);
      for (BufferId x : p.frees_of(p.ops[i]))
        if (x.value == id) frees.push_back(i);
      for (const Touch& t : touches(p, p.ops[i]))
        if (t.buffer == id) {
          uses.push_back(i);
          if (t.read && !written) return false;
          written = written || t.write;
        }
    }
    if (!any_alloc) {
      if (!frees.empty()) return false;
      continue;
    }
    if (allocs.size() != 1 || frees.size() != 1 || frees[0] < allocs[0]) return false;
    for (std::size_t u : uses)
      if (u < allocs[0] || u > frees[0]) return false;
  }
  return true;
}

// before[i][j]: op first+i ends before op first+j begins.
bool races(const Plan& p, std::size_t first, std::size_t end) {
  const std::size_t n = end - first;
  std::vector<std::vector<char>> before(n, std::vector<char>(n, 0));
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t i = 0; i < j; ++i)
      if (p.ops[first + i].stream == p.ops[first + j].stream) before[i][j] = 1;
    for (OpId w : p.waits_of(p.ops[first + j])) before[w.index() - first][j] = 1;
    for (std::size_t i = 0; i < j; ++i)  // nothing is issued before the host has its value
      if (p.ops[first + i].kind == OpKind::post_validate) before[i][j] = 1;
  }
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        if (before[i][k] && before[k][j]) before[i][j] = 1;
  const auto writes = [&](std::size_t i, int b) {
    if (has(p.frees_of(p.ops[first + i]), b)) return true;
    for (const Touch& t : touches(p, p.ops[first + i]))
      if (t.buffer == b && t.write) return true;
    return false;
  };
  for (std::size_t j = 0; j < n; ++j) {
    std::vector<Touch> later = touches(p, p.ops[first + j]);
    for (BufferId f : p.frees_of(p.ops[first + j])) later.push_back({f.value, false, true});
    for (std::size_t i = 0; i < j; ++i)
      for (const Touch& t : later)
        for (const Touch& e : touches(p, p.ops[first + i]))
          if (e.buffer == t.buffer && (e.write || writes(j, t.buffer)) && !before[i][j])
            return true;
  }
  return false;
}

// Of a plan without slices each visit is slice 0 of one.
int slice_of(const Op& o) { return std::max(o.seq_slice, 0); }

bool complete(const Plan& p) {
  using Visit = std::tuple<int, int, int, char>;  // stage, microbatch, slice, F or B
  std::map<Visit, std::multiset<int>> kernels;
  std::map<Visit, std::vector<std::size_t>> places;
  for (std::size_t i = 0; i < p.ops.size(); ++i) {
    const Op& o = p.ops[i];
    const bool sliced = p.header.slices > 1;
    if (o.seq_slice >= 0 && !(sliced && o.microbatch >= 0 && o.seq_slice < p.header.slices))
      return false;
    if (o.kind != OpKind::compute || o.stage < 0 || o.microbatch < 0) continue;
    if (sliced && o.seq_slice < 0) return false;
    const char what = o.phase == Phase::F ? 'F' : 'B';
    for (const Call& c : p.calls_of(o))
      kernels[{o.stage, o.microbatch, slice_of(o), what}].insert(c.kernel.value);
    places[{o.stage, o.microbatch, slice_of(o), what}].push_back(i);
  }
  for (int s = 0; s < static_cast<int>(p.header.stage_rank.size()); ++s)
    for (int mb = 0; mb < p.header.microbatches; ++mb)
      for (int k = 0; k < p.header.slices; ++k) {
        // The input's gradient comes before the weight's, whose kernels are the last of a backward.
        const std::vector<std::size_t>& back = places[{s, mb, k, 'B'}];
        for (std::size_t i = 1; i < back.size(); ++i)
          if (p.ops[back[i]].phase != Phase::W) return false;
        if (!back.empty() && p.ops[back[0]].phase == Phase::W) return false;
        for (char what : {'F', 'B'})
          if (kernels[{s, mb, k, what}].empty() ||
              kernels[{s, mb, k, what}] != kernels[{s, 0, k, what}])
            return false;
        const std::vector<std::size_t>& forth = places[{s, mb, k, 'F'}];
        if (forth.back() > back.front()) return false;
        // Of every two slices of the microbatch, not of neighbours alone: the earlier one's forward
        // comes first, its backward last.
        for (int earlier = 0; earlier < k; ++earlier) {
          for (std::size_t i : places[{s, mb, earlier, 'F'}])
            if (i > forth.front()) return false;
          for (std::size_t i : places[{s, mb, earlier, 'B'}])
            if (p.ops[i].phase != Phase::W && i < back.front()) return false;
        }
      }
  // No gradient after the optimizer took it.
  for (std::size_t i = 0; i < p.ops.size(); ++i)
    for (std::size_t j = i + 1; j < p.ops.size(); ++j)
      for (const Touch& a : touches(p, p.ops[i]))
        for (const Touch& b : touches(p, p.ops[j]))
          if (a.buffer == b.buffer &&
              p.buffers[static_cast<std::size_t>(a.buffer)].cls == BufferClass::grad &&
              p.ops[i].phase == Phase::O && a.read && p.ops[j].phase != Phase::O && b.write)
            return false;
  return true;
}

bool ends_meet(const Plan& p, const std::vector<int>& program) {
  std::map<int, std::vector<std::size_t>> by_match;
  for (std::size_t i = 0; i < p.ops.size(); ++i) {
    if (!is_communication(p.ops[i].kind)) continue;
    if (p.ops[i].match < 0) return false;
    by_match[p.ops[i].match].push_back(i);
  }
  for (const auto& [match, ids] : by_match) {
    const Op& a = p.ops[ids[0]];
    if (a.kind == OpKind::all_reduce) {
      std::set<int> seen;
      for (std::size_t i : ids) {
        const Op& o = p.ops[i];
        if (o.kind != a.kind || o.comm != a.comm || o.count != a.count) return false;
        seen.insert(program[i]);
      }
      if (ids.size() != p.programs.size() || seen.size() != ids.size()) return false;
      continue;
    }
    if (ids.size() != 2) return false;
    const bool first_sends = a.kind == OpKind::send;
    const std::size_t si = ids[first_sends ? 0 : 1], ri = ids[first_sends ? 1 : 0];
    const Op &s = p.ops[si], &r = p.ops[ri];
    if (s.kind != OpKind::send || r.kind != OpKind::recv || s.comm != r.comm ||
        s.count != r.count || s.peer != program[ri] || r.peer != program[si] ||
        program[si] == program[ri])
      return false;
  }
  // First in, first out, on each communicator.
  for (std::size_t c = 0; c < p.communicators.size(); ++c)
    for (std::size_t from = 0; from < p.programs.size(); ++from)
      for (std::size_t to = 0; to < p.programs.size(); ++to) {
        std::vector<int> sends, recvs;
        for (std::size_t i = 0; i < p.ops.size(); ++i) {
          const Op& o = p.ops[i];
          if (o.comm.value != static_cast<int>(c)) continue;
          if (o.kind == OpKind::send && program[i] == static_cast<int>(from) &&
              o.peer == static_cast<int>(to))
            sends.push_back(o.match);
          if (o.kind == OpKind::recv && program[i] == static_cast<int>(to) &&
              o.peer == static_cast<int>(from))
            recvs.push_back(o.match);
        }
        if (sends != recvs) return false;
      }
  return true;
}

// Issues in order (an op that allocates: when all frees before it are carried out), starts heads of
// streams whose waits are done, ends both ends of a match together.
bool runs_to_the_end(const Plan& p, const std::vector<int>& program) {
  const std::size_t n = p.ops.size();
  std::vector<char> issued(n, 0), started(n, 0), done(n, 0);
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t i = 0; i < n; ++i) {
      if (!issued[i]) {
        bool may = true;
        for (std::size_t j = 0; j < i; ++j) {
          if (program[j] != program[i]) continue;
          may = may && issued[j];
          if (p.ops[j].kind == OpKind::post_validate) may = may && done[j];
          if (p.ops[i].allocates.count && p.ops[j].frees.count) may = may && done[j];
        }
        if (may) issued[i] = 1, moved = true;
      }
      if (issued[i] && !started[i]) {
        bool may = true;
        for (std::size_t j = 0; j < i; ++j)
          if (program[j] == program[i] && p.ops[j].stream == p.ops[i].stream) may = may && done[j];
        for (OpId w : p.waits_of(p.ops[i])) may = may && done[w.index()];
        if (may) started[i] = 1, moved = true;
      }
      if (started[i] && !done[i]) {
        bool may = true;
        if (is_communication(p.ops[i].kind))
          for (std::size_t j = 0; j < n; ++j)
            if (is_communication(p.ops[j].kind) && p.ops[j].match == p.ops[i].match)
              may = may && started[j];
        if (may) done[i] = 1, moved = true;
      }
    }
  }
  for (char d : done)
    if (!d) return false;
  return true;
}

// A step can be given up at its checks: one on each rank or none at all, nothing that lives for the
// run is written before it, and what is before one check is not met by what lies behind another;
// only what is sent may be under way.
bool can_be_given_up(const Plan& p, const std::vector<int>& program) {
  const std::size_t n = p.ops.size();
  std::vector<int> checks(p.programs.size(), 0);
  for (std::size_t i = 0; i < n; ++i)
    checks[static_cast<std::size_t>(program[i])] += p.ops[i].kind == OpKind::post_validate;
  if (std::count(checks.begin(), checks.end(), 0) == static_cast<std::ptrdiff_t>(checks.size()))
    return true;
  if (std::count(checks.begin(), checks.end(), 1) != static_cast<std::ptrdiff_t>(checks.size()))
    return false;
  const auto inside = [&](std::size_t i) {
    for (std::size_t j = i; j < n; ++j)
      if (program[j] == program[i] && p.ops[j].kind == OpKind::post_validate) return j != i;
    return false;
  };
  for (std::size_t i = 0; i < n; ++i) {
    if (!inside(i)) continue;
    for (const Touch& t : touches(p, p.ops[i])) {
      bool comes_and_goes = false;
      for (const Op& o : p.ops) comes_and_goes = comes_and_goes || has(p.allocates_of(o), t.buffer);
      if (t.write && !comes_and_goes) return false;
    }
    if (!is_communication(p.ops[i].kind) || p.ops[i].kind == OpKind::send) continue;
    for (std::size_t j = 0; j < n; ++j)
      if (is_communication(p.ops[j].kind) && p.ops[j].match == p.ops[i].match && !inside(j))
        return false;
  }
  return true;
}

bool legal(const Plan& p) {
  std::vector<int> program(p.ops.size());
  for (std::size_t k = 0; k < p.programs.size(); ++k)
    for (std::uint32_t i = 0; i < p.programs[k].num_ops; ++i)
      program[p.programs[k].first_op + i] = static_cast<int>(k);
  for (std::size_t i = 0; i < p.ops.size(); ++i) {
    const Op& o = p.ops[i];
    if (!operands_fit(p, o, program[i])) return false;
    if (is_p2p(o.kind)) {
      const Communicator& c = p.communicators[o.comm.index()];
      if (o.peer < 0 || o.peer >= static_cast<int>(p.programs.size())) return false;
      if (c.pair_first != program[i] && c.pair_second != program[i]) return false;
    }
    for (OpId w : p.waits_of(o))
      if (w.index() >= i || program[w.index()] != program[i]) return false;
    for (BufferId b : p.allocates_of(o))
      if (p.buffer(b).program.value != program[i]) return false;
    for (BufferId b : p.frees_of(o))
      if (p.buffer(b).program.value != program[i]) return false;
    if (o.microbatch >= p.header.microbatches) return false;
  }
  if (!complete(p) || !ends_meet(p, program) || !can_be_given_up(p, program)) return false;
  for (std::size_t k = 0; k < p.programs.size(); ++k) {
    const std::size_t first = p.programs[k].first_op, end = first + p.programs[k].num_ops;
    if (!lives_are_right(p, static_cast<int>(k), first, end) || races(p, first, end)) return false;
  }
  return runs_to_the_end(p, program);
}

// Ops that a message about a mutant may name: the mutated one, its other ends, and those that
// touch, allocate or free one of its buffers.
std::set<int> at_fault(const Plan& p, std::size_t mutated) {
  const auto buffers = [&](const Op& o) {
    std::set<int> out;
    for (const Touch& t : touches(p, o)) out.insert(t.buffer);
    for (BufferId b : p.allocates_of(o)) out.insert(b.value);
    for (BufferId b : p.frees_of(o)) out.insert(b.value);
    return out;
  };
  std::set<int> out = {static_cast<int>(mutated)};
  const std::set<int> mine = buffers(p.ops[mutated]);
  for (std::size_t i = 0; i < p.ops.size(); ++i) {
    if (p.ops[i].match >= 0 && p.ops[i].match == p.ops[mutated].match)
      out.insert(static_cast<int>(i));
    for (int b : buffers(p.ops[i]))
      if (mine.contains(b)) out.insert(static_cast<int>(i));
  }
  return out;
}

// "op 12" in a text.
std::set<int> ops_named(const std::string& text) {
  std::set<int> out;
  for (std::size_t at = text.find("op "); at != std::string::npos; at = text.find("op ", at + 1))
    if (text[at + 3] >= '0' && text[at + 3] <= '9') out.insert(std::atoi(text.c_str() + at + 3));
  return out;
}

// As messages name the slice of a microbatch in a stage.
std::string visit_of(const Op& o) {
  return fmt::format("stage {} mb {} slice {}:", o.stage, o.microbatch, o.seq_slice);
}
constexpr int kOtherSlice = 15;  // this kind of mutation

bool meet(const std::set<int>& a, const std::set<int>& b) {
  for (int x : a)
    if (b.contains(x)) return true;
  return false;
}

}  // namespace

TEST_CASE("mutants of small plans: the passes agree with brute force") {
  const char* given = std::getenv("TANDEM_TEST_SEED");
  const unsigned seed = given ? static_cast<unsigned>(std::atoi(given)) : 54u;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  // One stage a rank, and every other placement: loop and V with whole and with split backwards,
  // two copies of the model, slices of sequences.
  std::vector<Small> bases;
  for (const char* kind : {"gpipe", "1f1b"})
    for (int p : {1, 2, 3})
      for (int m : {1, 2, 3}) bases.push_back(small_plan(kind, {p, m, 1}));
  for (const char* kind : {"zb_h1", "zb_h2", "eager_1f1b"})
    for (int p : {2, 3}) bases.push_back(small_plan(kind, {p, 3, 1}));
  for (const char* kind : {"interleaved_1f1b", "bfs", "interleaved_zb"})
    for (int m : {2, 3}) bases.push_back(small_plan(kind, {2, m, 2}));
  for (const char* kind : {"zbv", "v_half", "v_min"}) bases.push_back(small_plan(kind, {2, 2}));
  bases.push_back(small_plan("hanayo", {2, 2}, {{"waves", "1"}}));
  for (int p : {1, 2})
    for (int m : {1, 2}) {
      bases.push_back(small_plan("seq1f1b", {p, m}, {{"slices", "2"}}));
      bases.push_back(small_plan("seq1f1b", {p, m}, {{"slices", "3"}}));
    }
  // Steps that check the update of the step before.
  for (const char* kind : {"1f1b", "zb_h2"})
    for (int p : {1, 2, 3}) bases.push_back(small_plan(kind, {p, 3, 1}, {}, true));
  bases.push_back(small_plan("interleaved_1f1b", {2, 2, 2}, {}, true));
  bases.push_back(small_plan("seq1f1b", {2, 2}, {{"slices", "2"}}, true));
  bases.push_back(small_plan("dualpipe", {2, 4}, {}, true));
  bases.push_back(small_plan("chimera", {2, 2}));
  bases.push_back(small_plan("dualpipe", {2, 4}));
  bases.push_back(small_plan("dualpipev", {2, 4}));
  for (const Small& b : bases) {
    const Plan plan = assemble(b);
    CAPTURE(print(plan));
    REQUIRE(legal(plan));
  }
  const auto index_of = [](const Small& small, int token) {
    std::size_t at = 0;
    for (const auto& program : small.programs)
      for (const SmallOp& op : program) {
        if (op.token == token) return at;
        ++at;
      }
    return at;
  };
  int num_legal = 0, num_illegal = 0, num_named = 0, num_slices = 0;
  // Illegal for nothing else than this: what no other rule would have found.
  std::map<std::string, int> alone = {{"V2.7", 0}, {"V10.2", 0}, {"V10.3", 0}};
  std::map<std::string, int> codes;
  const int wanted = sim::scaled(2000);
  for (int n = 0; n < 100 * wanted && (num_legal < wanted || num_illegal < wanted); ++n) {
    Small s = bases[below(bases.size())];
    auto& list = s.programs[below(s.programs.size())];
    const std::size_t at = below(list.size());
    SmallOp& o = list[at];
    const int token = o.token;
    const Plan before = assemble(s);
    const int kind = static_cast<int>(below(num_legal < wanted && n % 2 ? 5 : 18));
    const auto any_buffer = [&] { return static_cast<int>(below(s.base.buffers.size())); };
    switch (kind) {
      case 0:
      case 1:
      case 2:
        if (at + 1 < list.size()) std::swap(list[at], list[at + 1]);
        break;
      case 3:
      case 4: {  // longer moves
        const SmallOp moved = o;
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(below(list.size() + 1)), moved);
        break;
      }
      case 5:
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 6: {
        SmallOp twice = o;
        twice.token = 500'000;
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(below(list.size() + 1)), twice);
        break;
      }
      case 7:
        if (!o.waits.empty()) o.waits.erase(o.waits.begin());
        break;
      case 8:
        o.waits.push_back(list[below(list.size())].token);
        break;
      case 9:
        if (!o.frees.empty()) o.frees.erase(o.frees.begin());
        break;
      case 10:
        o.frees.push_back(any_buffer());
        break;
      case 11:
        if (!o.allocates.empty()) o.allocates.erase(o.allocates.begin());
        break;
      case 12:
        o.op.match = o.op.match < 0 ? -1 : static_cast<int>(below(20));
        break;
      case 13:
        if (is_p2p(o.op.kind)) o.op.peer = static_cast<int>(below(4));
        break;
      case 14:
        if (is_communication(o.op.kind)) o.op.count += 1 - static_cast<int>(below(3));
        break;
      case kOtherSlice:  // only an op that has one: a slice where there are none is a fault of V1
                         // alone
        if (o.op.seq_slice >= 0) o.op.seq_slice = static_cast<int>(below(5)) - 1;
        break;
      default:
        if (o.calls.empty())
          o.op.buffer = BufferId{any_buffer()};
        else if (int& ref = o.calls[below(o.calls.size())].second[0]; ref >= 0)
          ref = any_buffer();
        break;
    }
    const Plan plan = assemble(s);
    const bool expected = legal(plan);
    const Verification v = verify_plan(plan);
    if (v.ok() != expected) {
      FAIL("mutation " << kind << " case " << n << ": oracle says "
                       << (expected ? "legal" : "illegal") << "\n"
                       << print(plan) << to_text(v.errors));
    }
    ++(expected ? num_legal : num_illegal);
    for (const Diagnostic& d : v.errors) ++codes[d.title.substr(0, d.title.find_first_of(" :"))];
    for (auto& entry : alone)
      entry.second +=
          !v.ok() && std::all_of(v.errors.begin(), v.errors.end(), [&](const Diagnostic& d) {
            return d.title.starts_with(entry.first);
          });
    // Of an op that is still there and was changed alone: the messages name it, or who shares its
    // memory or its match (before or after the change).
    if (expected || kind < 7 || !legal(before)) continue;
    const std::size_t id = index_of(s, token);
    if (kind == kOtherSlice) {  // a visit lacks the op, or has one more: the visits are named
      const std::string text = to_text(v.errors);
      const bool named = text.find(visit_of(plan.ops[id])) != std::string::npos ||
                         text.find(visit_of(before.ops[id])) != std::string::npos ||
                         ops_named(text).contains(static_cast<int>(id));
      if (!named) FAIL("the slice of op " << id << " is not named\n" << print(plan) << text);
      ++num_slices;
      continue;
    }
    std::set<int> fault = at_fault(plan, id);
    fault.merge(at_fault(before, id));
    const std::string text = to_text(v.errors);
    if (!meet(fault, ops_named(text)))
      FAIL("mutation " << kind << " of op " << id << " is not named\n" << print(plan) << text);
    ++num_named;
  }
  std::string seen;
  for (const auto& [code, count] : codes) seen += fmt::format(" {}:{}", code, count);
  MESSAGE(num_legal << " legal, " << num_illegal << " illegal, " << num_named
                    << " of them with the op at fault checked;" << seen);
  CHECK(num_named > wanted / 20);
  CHECK(num_slices >= wanted / 400);
  for (const auto& entry : alone) {
    CAPTURE(entry.first);
    CHECK(entry.second >= wanted / 400);
  }
  CHECK(num_legal >= wanted);
  CHECK(num_illegal >= wanted);
}
