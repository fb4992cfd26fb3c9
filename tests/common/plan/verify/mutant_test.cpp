// Goal    the passes accept every legal plan and refuse every illegal one (schedules.md 5.4).
// Method  small plans with every kind of hazard: activations that are allocated and freed,
// messages,
//         gradients that accumulate, a collective over all ranks. Random mutants: swapped, moved,
//         lost and doubled ops, other buffers, peers, match ids, sizes, waits, allocates, frees. An
//         oracle that shares no code with the passes judges each: transitive closure of the order
//         as a matrix, life of buffers by looking at every pair of ops, and a run that tries every
//         op again and again. O(n^3), so plans have at most 60 ops.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <random>
#include <set>

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

Small small_plan(const std::string& kind, int p, int m) {
  Small s;
  Order order = std::move(*make_order(kind, {p, m, 1}, {}));
  std::string edges;
  int id = 1;
  for (int r = 0; r + 1 < p; ++r)
    for (const auto& [a, b] : {std::pair(r, r + 1), std::pair(r + 1, r)})
      edges += fmt::format("comm {} edge:{}->{} axes=pp pair={},{} size=2\n", id++, a, b, a, b);
  std::string stages, programs;
  for (int r = 0; r < p; ++r) stages += fmt::format("{}{}@{}", r ? "," : "", r, r);
  for (int r = 0; r < p; ++r) programs += fmt::format("program {}\n", r);
  s.base = parsed(fmt::format(
      "plan 1 digest=0 schedule=test receive=early communicators=edge grouping=none "
      "microbatches={} micro_batch=1 seq=4 mesh=tp:1,dp:1,pp:{} stages={} dtype=f32 "
      "main_grad=f32\ncomm 0 world axes=tp,dp,pp size={}\n{}"
      "kernel 0 gelu_fwd elements=4 erf\nkernel 1 gelu_bwd_input elements=4 erf\n"
      "kernel 2 linear_bwd_weight tokens=4 in=1 out=1\nkernel 3 sum_squares elements=1\n{}",
      m, p, stages, p, edges, programs));
  Plan& plan = s.base;
  plan.streams = {"compute", "comm:world"};
  for (std::size_t c = 1; c < plan.communicators.size(); ++c)
    plan.streams.push_back("comm:" + plan.name(plan.communicators[c].name));
  const auto buffer = [&](int program, BufferClass cls, std::int64_t n, DType t = DType::f32) {
    Buffer b;
    b.program = ProgramId{program};
    b.cls = cls;
    b.dtype = t;
    b.shape = {n};
    plan.buffers.push_back(b);
    return static_cast<int>(plan.buffers.size()) - 1;
  };
  // Edge r -> r+1 is communicator 1 + 2r, back 2 + 2r.
  int token = 0;
  s.programs.resize(static_cast<std::size_t>(p));
  for (int r = 0; r < p; ++r) {
    std::vector<SmallOp>& out = s.programs[static_cast<std::size_t>(r)];
    const int data = buffer(r, BufferClass::param, 4), grad = buffer(r, BufferClass::grad, 1),
              scratch = buffer(r, BufferClass::optim, 1),
              norm = buffer(r, BufferClass::scratch, 1, DType::f64);
    std::map<int, int> input, output;  // by microbatch
    bool first_w = true;
    const auto message = [&](OpKind k, int comm, int peer, int match, int b, int mb) -> SmallOp& {
      SmallOp o;
      o.op.kind = k;
      o.op.comm = CommId{comm};
      o.op.stream = StreamId{1 + comm};
      o.op.peer = peer;
      o.op.match = match;
      o.op.count = 4;
      o.op.buffer = BufferId{b};
      o.op.stage = r;
      o.op.microbatch = mb;
      o.token = token++;
      out.push_back(o);
      return out.back();
    };
    for (const Action& a : order.ranks[static_cast<std::size_t>(r)]) {
      const int mb = a.microbatch, fwd_match = 2 * (r * m + mb), back_match = 2 * (r * m + mb) + 1;
      SmallOp o;
      o.op.stage = r;
      o.op.microbatch = mb;
      o.op.stream = StreamId{0};
      if (a.kind == ActionKind::F) {
        input[mb] = data;
        if (r > 0) {
          input[mb] = buffer(r, BufferClass::saved_input, 4);
          SmallOp& recv = message(OpKind::recv, 2 * r - 1, r - 1, fwd_match - 2 * m, input[mb], mb);
          recv.allocates = {input[mb]};
          o.waits = {recv.token};
        }
        output[mb] = buffer(r, BufferClass::activation, 4);
        o.op.phase = Phase::F;
        o.calls = {{kFwd, {input[mb], -1 - output[mb]}}};
        o.allocates = {output[mb]};
        o.token = token++;
        out.push_back(o);
        if (r + 1 < p) {
          SmallOp& send = message(OpKind::send, 2 * r + 1, r + 1, fwd_match, output[mb], mb);
          send.waits = {o.token};
          send.frees = {output[mb]};
        }
        continue;
      }
      int dy = output[mb];
      o.op.phase = Phase::B;
      if (r + 1 < p) {
        dy = buffer(r, BufferClass::grad_activation, 4);
        SmallOp& recv = message(OpKind::recv, 2 * r + 2, r + 1, back_match, dy, mb);
        recv.op.phase = Phase::B;
        recv.allocates = {dy};
        o.waits = {recv.token};
      }
      const int dx = buffer(r, BufferClass::grad_activation, 4);
      o.calls = {{kBwd, {dy, input[mb], -1 - dx}},
                 {kWeight, {dy, input[mb], first_w ? -1 - grad : kAccumulate + grad}}};
      if (!first_w) o.calls[1].second.push_back(2 * kAccumulate + scratch);
      first_w = false;
      o.allocates = {dx};
      o.frees = {dy};
      if (r > 0) o.frees.push_back(input[mb]);
      if (r == 0) o.frees.push_back(dx);
      o.token = token++;
      out.push_back(o);
      if (r > 0) {
        SmallOp& send = message(OpKind::send, 2 * r, r - 1, back_match - 2 * m, dx, mb);
        send.op.phase = Phase::B;
        send.waits = {o.token};
        send.frees = {dx};
      }
    }
    SmallOp sum;
    sum.op.phase = Phase::O;
    sum.op.stream = StreamId{0};
    sum.calls = {{kNorm, {grad, -1 - norm}}};
    sum.allocates = {norm};
    sum.token = token++;
    out.push_back(sum);
    SmallOp& world = message(OpKind::all_reduce, 0, -1, 1'000'000, norm, -1);
    world.op.stage = -1;
    world.op.count = 1;
    world.op.dtype = DType::f64;
    world.op.reduction = Reduction::sum;
    world.op.phase = Phase::O;
    world.waits = {sum.token};
    world.frees = {norm};
  }
  return s;
}

// Receives as early as the sender-driven sweep puts them would need the sweep; a receive right
// before its use is legal too at (b), but not under the memory rule: so some bases are illegal
// themselves.
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
  if (o.kind == OpKind::send) out.push_back({o.buffer.value, true, false});
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

bool complete(const Plan& p) {
  std::map<std::tuple<int, int, char>, std::multiset<int>> kernels;
  std::map<std::tuple<int, int, char>, std::vector<std::size_t>> places;
  for (std::size_t i = 0; i < p.ops.size(); ++i) {
    const Op& o = p.ops[i];
    if (o.kind != OpKind::compute || o.stage < 0 || o.microbatch < 0) continue;
    const char what = o.phase == Phase::F ? 'F' : 'B';
    for (const Call& c : p.calls_of(o))
      kernels[{o.stage, o.microbatch, what}].insert(c.kernel.value);
    places[{o.stage, o.microbatch, what}].push_back(i);
  }
  for (int s = 0; s < static_cast<int>(p.header.stage_rank.size()); ++s)
    for (int mb = 0; mb < p.header.microbatches; ++mb) {
      for (char what : {'F', 'B'})
        if (kernels[{s, mb, what}].empty() || kernels[{s, mb, what}] != kernels[{s, 0, what}])
          return false;
      if (places[{s, mb, 'F'}].back() > places[{s, mb, 'B'}].front()) return false;
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
    if (p.ops[i].kind == OpKind::compute) continue;
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
        if (p.ops[i].kind != OpKind::compute)
          for (std::size_t j = 0; j < n; ++j)
            if (p.ops[j].kind != OpKind::compute && p.ops[j].match == p.ops[i].match)
              may = may && started[j];
        if (may) done[i] = 1, moved = true;
      }
    }
  }
  for (char d : done)
    if (!d) return false;
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
  if (!complete(p) || !ends_meet(p, program)) return false;
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
  std::vector<Small> bases;
  for (const char* kind : {"gpipe", "1f1b"})
    for (int p : {1, 2, 3})
      for (int m : {1, 2, 3}) bases.push_back(small_plan(kind, p, m));
  int bases_legal = 0;
  for (const Small& b : bases) bases_legal += legal(assemble(b));
  CHECK(bases_legal >= 10);
  const auto index_of = [](const Small& small, int token) {
    std::size_t at = 0;
    for (const auto& program : small.programs)
      for (const SmallOp& op : program) {
        if (op.token == token) return at;
        ++at;
      }
    return at;
  };
  int num_legal = 0, num_illegal = 0, num_named = 0;
  std::map<std::string, int> codes;
  const int wanted = sim::scaled(2000);
  for (int n = 0; n < 100 * wanted && (num_legal < wanted || num_illegal < wanted); ++n) {
    Small s = bases[below(bases.size())];
    auto& list = s.programs[below(s.programs.size())];
    const std::size_t at = below(list.size());
    SmallOp& o = list[at];
    const int token = o.token;
    const Plan before = assemble(s);
    const int kind = static_cast<int>(below(num_legal < wanted && n % 2 ? 5 : 16));
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
        if (o.op.kind != OpKind::compute) o.op.count += 1 - static_cast<int>(below(3));
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
    // Of an op that is still there and was changed alone: the messages name it, or who shares its
    // memory or its match (before or after the change).
    if (expected || kind < 7 || !legal(before)) continue;
    const std::size_t id = index_of(s, token);
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
  CHECK(num_legal >= wanted);
  CHECK(num_illegal >= wanted);
}
