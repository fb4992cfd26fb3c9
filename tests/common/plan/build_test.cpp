// Goal    the builder makes the plan that the design works out by hand, and obeys the laws of its
// steps. Method  the worked example (2 layers, tp 2, pp 2, dp 2, two microbatches) op by op, up to
// the
//         numbering of buffers and kernels; then worked orders and laws that hold for every layout.
#include "common/plan/build.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "common/plan/lower/draft.h"
#include "common/scenario/read.h"
#include "common/schedule/text.h"
#include "tests/common/plan/example.h"
#include "tests/common/plan/plan_equal.h"

namespace tandem {
namespace {

Scenario scenario(const std::string& fields) {
  Result<Scenario> s = read_scenario_text("test.yaml", "tandem: 1\nname: test\n" + fields);
  if (!s) FAIL(to_text(s.error().diagnostics));
  return std::move(*s);
}

Plan built(const Scenario& s) {
  Result<Plan> plan = build_plan(s);
  if (!plan) FAIL(to_text(plan.error().diagnostics));
  return std::move(*plan);
}

// A numbering of one plan against that of another: each id has one partner.
class Pairing {
 public:
  bool pair(std::int64_t a, std::int64_t b) {
    const auto [it, fresh] = forth_.emplace(a, b);
    const auto [back, new_back] = back_.emplace(b, a);
    return it->second == b && back->second == a && fresh == new_back;
  }

 private:
  std::map<std::int64_t, std::int64_t> forth_, back_;
};

// The text of a kernel without the owner of metrics: the example leaves out cp, which has size 1.
std::string kernel_text(const Plan& plan, KernelId id) {
  Kernel k = plan.kernel(id);
  if (k.kind == KernelKind::metrics_pack) k.owner = {};
  return to_text(k);
}

class SamePlan {
 public:
  SamePlan(const Plan& a, const Plan& b) : a_(a), b_(b) {}
  void check() {
    REQUIRE(a_.programs.size() == b_.programs.size());
    REQUIRE(a_.ops.size() == b_.ops.size());
    REQUIRE(a_.buffers.size() == b_.buffers.size());
    for (std::size_t i = 0; i < a_.ops.size(); ++i) op(i);
  }

 private:
  void buffer(BufferId a, BufferId b) {
    CHECK(buffers_.pair(a.value, b.value));
    const Buffer &x = a_.buffer(a), &y = b_.buffer(b);
    CHECK(x.cls == y.cls);
    CHECK(x.dtype == y.dtype);
    CHECK(x.shape == y.shape);
    CHECK(x.microbatch == y.microbatch);
    CHECK(x.layer == y.layer);
    CHECK(x.alias_offset == y.alias_offset);
    CHECK(a_.name(x.name) == b_.name(y.name));
  }
  void operands(Range a, Range b) {
    const auto x = a_.operands_of(a), y = b_.operands_of(b);
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      buffer(x[i].id, y[i].id);
      CHECK(x[i].accumulate == y[i].accumulate);
    }
  }
  static std::set<std::int64_t> ids(std::span<const OpId> list) {
    std::set<std::int64_t> out;
    for (OpId id : list) out.insert(id.value);
    return out;
  }
  void lifetimes(std::span<const BufferId> x, std::span<const BufferId> y) {
    REQUIRE(x.size() == y.size());
    std::multiset<std::string> mine, theirs;
    const auto text = [](const Plan& p, BufferId id) {
      const Buffer& b = p.buffer(id);
      return p.name(b.name) + " " + std::to_string(b.microbatch) + " " + std::to_string(b.layer);
    };
    for (BufferId id : x) mine.insert(text(a_, id));
    for (BufferId id : y) theirs.insert(text(b_, id));
    CHECK(mine == theirs);
  }
  void op(std::size_t i) {
    CAPTURE(i);
    const Op &x = a_.ops[i], &y = b_.ops[i];
    CHECK(x.kind == y.kind);
    CHECK(x.phase == y.phase);
    CHECK(x.part == y.part);
    CHECK(x.stage == y.stage);
    CHECK(x.layer == y.layer);
    CHECK(x.microbatch == y.microbatch);
    CHECK(a_.streams[x.stream.index()] == b_.streams[y.stream.index()]);
    CHECK(x.comm.valid() == y.comm.valid());
    if (x.comm.valid() && y.comm.valid())
      CHECK(a_.name(a_.communicators[x.comm.index()].name) ==
            b_.name(b_.communicators[y.comm.index()].name));
    CHECK(x.reduction == y.reduction);
    if (x.kind != OpKind::compute && x.kind != OpKind::host_wait) {
      CHECK(x.count == y.count);
      CHECK(x.dtype == y.dtype);
    }
    CHECK(x.peer == y.peer);
    CHECK(x.match == y.match);
    CHECK(a_.name(x.tag) == b_.name(y.tag));
    if (x.buffer.valid()) buffer(x.buffer, y.buffer);
    const auto calls = a_.calls_of(x), expected = b_.calls_of(y);
    REQUIRE(calls.size() == expected.size());
    for (std::size_t c = 0; c < calls.size(); ++c) {
      CHECK(kernel_text(a_, calls[c].kernel) == kernel_text(b_, expected[c].kernel));
      operands(calls[c].inputs, expected[c].inputs);
      operands(calls[c].outputs, expected[c].outputs);
      operands(calls[c].scratch, expected[c].scratch);
    }
    CHECK(ids(a_.waits_of(x)) == ids(b_.waits_of(y)));
    lifetimes(a_.allocates_of(x), b_.allocates_of(y));
    lifetimes(a_.frees_of(x), b_.frees_of(y));
  }
  const Plan &a_, &b_;
  Pairing buffers_;
};

int count(const Plan& plan, OpKind kind, const std::string& tag) {
  int n = 0;
  for (const Op& o : plan.ops) n += o.kind == kind && plan.name(o.tag) == tag ? 1 : 0;
  return n;
}

const char* const kExample =
    "model: {preset: gpt-tiny, layers: 2}\n"
    "training: {micro_batch: 2, global_batch: 8}\n"
    "parallel: {tp: 2, pp: 2, dp: 2}\n";

}  // namespace

TEST_CASE("build: the worked example, op by op") {
  const Plan mine = built(scenario(kExample)), example = parsed(example_text());
  SamePlan(mine, example).check();
}

TEST_CASE("build: the text of a built plan reads back as the same plan") {
  for (const char* fields :
       {"model: gpt-tiny\n", "model: gpt-tiny\nparallel: {tp: 2, pp: 4}\nschedule: gpipe\n",
        "model: gpt-tiny\nparallel: {pp: 2, dp: 2, gradient_reduce: {bucket: 64 KiB}}\n",
        "model: gpt-tiny\nparallel: {pp: 4}\nschedule: {kind: 1f1b, communicators: pair, grouping: "
        "runs}\n"}) {
    const Plan plan = built(scenario(fields));
    const std::string text = print(plan);
    const Plan again = parsed(text);
    check_equal(plan, again);
    CHECK(print(again) == text);
    CHECK(print(built(scenario(fields))) == text);
  }
}

TEST_CASE("build: a plan does not grow with tp or dp") {
  const auto ops = [](const char* fields) { return built(scenario(fields)).ops.size(); };
  CHECK(ops("model: gpt-tiny\nparallel: {tp: 2, pp: 2, dp: 2}\n") ==
        ops("model: gpt-tiny\nparallel: {tp: 4, pp: 2, dp: 64}\n"));
}

// 1f1b, p = 2, m = 2, by hand (schedules.md 4.4: a RECV stands where its SEND was made).
TEST_CASE("p2p: the sweep and the receive policies") {
  const auto dump = [](const std::string& more, const char* step) {
    Result<std::string> text = dump_after(
        scenario("model: gpt-tiny\ntraining: {global_batch: 2}\nparallel: {pp: 2}\n" + more), step);
    REQUIRE(text.ok());
    return *text;
  };
  CHECK(dump("", "order") == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
  CHECK(dump("", "p2p") ==
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
        "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD\n");
  CHECK(dump("schedule: {kind: 1f1b, receive: deferred}\n", "p2p") ==
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
        "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1REDUCE_GRAD\n");
  CHECK(dump("", "stages") == "stage 0 on rank 0\nstage 1 on rank 1\n");
  CHECK_FALSE(dump_after(scenario("model: gpt-tiny\n"), "nothing").ok());
}

// Example L2 of schedules.md 4.7: two stages on each rank in a V, idle cells dropped beforehand.
TEST_CASE("p2p: a V of four stages on two ranks") {
  Order order;
  order.num_microbatches = 2;
  order.stage_rank = {0, 1, 1, 0};
  const auto F = ActionKind::F, I = ActionKind::I, W = ActionKind::W;
  order.ranks = {{{F, 0, 0},
                  {F, 0, 1},
                  {F, 3, 0},
                  {I, 3, 0},
                  {F, 3, 1},
                  {I, 3, 1},
                  {I, 0, 0},
                  {W, 3, 0},
                  {I, 0, 1},
                  {W, 3, 1},
                  {W, 0, 0},
                  {W, 0, 1}},
                 {{F, 1, 0},
                  {F, 2, 0},
                  {F, 1, 1},
                  {F, 2, 1},
                  {I, 2, 0},
                  {I, 1, 0},
                  {I, 2, 1},
                  {I, 1, 1},
                  {W, 2, 0},
                  {W, 2, 1},
                  {W, 1, 0},
                  {W, 1, 1}}};
  const auto actions = [](const Order& o) {
    std::multiset<std::string> out;
    for (const RankOrder& list : o.ranks)
      for (const Action& a : list)
        if (is_compute(a.kind)) out.insert(to_text(a));
    return out;
  };
  for (Receive policy : {Receive::early, Receive::deferred, Receive::deferred_parity}) {
    Result<Order> swept = lower::p2p(order, policy);
    REQUIRE(swept.ok());
    CHECK(actions(*swept) == actions(order));
    int sends = 0, receives = 0;
    for (const RankOrder& list : swept->ranks)
      for (const Action& a : list) {
        sends += is_send(a.kind) ? 1 : 0;
        receives += is_recv(a.kind) ? 1 : 0;
      }
    CHECK(sends == 2 * 4);  // 2 v (p - 1) a microbatch (schedules.md 1.3)
    CHECK(receives == sends);
  }
}

TEST_CASE("p2p: an order that cannot run is refused with its heads") {
  Order order;
  order.num_microbatches = 2;
  order.stage_rank = {0, 1};
  const auto F = ActionKind::F, B = ActionKind::B;
  order.ranks = {{{F, 0, 0}, {B, 0, 0}, {F, 0, 1}, {B, 0, 1}},
                 {{F, 1, 1}, {F, 1, 0}, {B, 1, 0}, {B, 1, 1}}};
  const Result<Order> swept = lower::p2p(order, Receive::early);
  REQUIRE_FALSE(swept.ok());
  CHECK(swept.error().diagnostics[0].code == "E-PLAN-002");
  CHECK(swept.error().diagnostics[0].found == "rank 0 waits at 0B0; rank 1 waits at 1F1");
}

// models.md 4.4: with overlap a bucket is reduced behind the last op that writes it, else behind
// all.
TEST_CASE("gradients: buckets, where they are reduced, and their padding") {
  const std::string base = "model: {preset: gpt-tiny, tied_embeddings: false}\n";
  const auto last_backward = [](const Plan& p) {
    std::size_t last = 0;
    for (std::size_t i = 0; i < p.ops.size(); ++i)
      if (p.ops[i].phase == Phase::B) last = i;
    return last;
  };
  for (const bool overlap : {true, false}) {
    CAPTURE(overlap);
    const Plan plan =
        built(scenario(base + "parallel: {dp: 2, gradient_reduce: {bucket: 100 kB, overlap: " +
                       (overlap ? "true" : "false") + "}}\n"));
    int inside = 0, behind = 0;
    const std::size_t last = last_backward(plan);
    for (std::size_t i = 0; i < plan.ops.size(); ++i) {
      if (plan.ops[i].kind != OpKind::all_reduce || plan.name(plan.ops[i].tag) != "grad.dp")
        continue;
      ++(i < last ? inside : behind);
      CHECK(plan.ops[i].count % (64 * 2) == 0);
    }
    CHECK(inside + behind > 5);
    CHECK((inside > 0) == overlap);
    CHECK(behind >= 1);
  }
  // Messages of the last backward come first, whatever the setting.
  const Plan piped =
      built(scenario(base + "parallel: {dp: 2, pp: 2, gradient_reduce: {bucket: 100 kB}}\n"));
  for (const Program& program : piped.programs) {
    bool reduced = false;
    for (const Op& op : piped.ops_of(ProgramId{&program - piped.programs.data()})) {
      reduced = reduced || piped.name(op.tag) == "grad.dp";
      if (is_p2p(op.kind)) CHECK_FALSE(reduced);
    }
    CHECK(reduced);
  }
}

TEST_CASE("a tied embedding: one sum on one rank, one reduction on two") {
  const Plan one = built(scenario("model: gpt-tiny\n"));
  const Plan two = built(scenario("model: gpt-tiny\nparallel: {pp: 2}\n"));
  const auto adds = [](const Plan& p) {
    int n = 0;
    for (const Call& c : p.calls) n += p.kernel(c.kernel).kind == KernelKind::grad_add ? 1 : 0;
    return n;
  };
  CHECK(adds(one) == 1);
  CHECK(adds(two) == 0);
  CHECK(count(one, OpKind::all_reduce, "grad.emb") == 0);
  CHECK(count(two, OpKind::all_reduce, "grad.emb") == 2);
}

TEST_CASE("a group of one member communicates nothing") {
  for (const Op& o : built(scenario("model: gpt-tiny\n")).ops)
    CHECK_FALSE(is_communication(o.kind));
  const Plan whole = built(scenario("model: gpt-tiny\nparallel: {tp: 2, vocab_parallel: false}\n"));
  for (const char* tag : {"embed", "head", "ce.max", "ce.sum"})
    CHECK(count(whole, OpKind::all_reduce, tag) == 0);
  CHECK(count(whole, OpKind::all_reduce, "mlp.out") == 64);  // 8 layers, 8 microbatches
}

// bf16 runs keep fp32 main copies of all but norms (models.md 5, 6): 18 bytes a parameter,
// norms 16.
TEST_CASE("bf16: main parameters, and what an update writes") {
  const Plan plan = built(scenario("model: gpt-tiny\ntraining: {precision: bf16}\n"));
  std::int64_t param = 0, grad = 0, optim = 0, norms = 0;
  for (const Buffer& b : plan.buffers) {
    if (b.alias_of.valid()) continue;
    if (b.cls == BufferClass::param) param += b.bytes();
    if (b.cls == BufferClass::grad) grad += b.bytes();
    if (b.cls == BufferClass::optim) optim += b.bytes();
    if (b.cls == BufferClass::param && b.dtype == DType::f32) norms += b.shape.elements();
  }
  const std::int64_t all = 418'432;  // gpt-tiny
  CHECK(norms == 17 * 2 * 64);       // two norms in each of 8 layers, and the final one
  CHECK(param == 2 * (all - norms) + 4 * norms);
  CHECK(grad == 4 * (all + 256 * 64));  // and the head's part of the tied embedding
  CHECK(optim == 12 * (all - norms) + 8 * norms);
  int casts = 0;
  for (const Kernel& k : plan.kernels) casts += (k.flags & kCast) ? 1 : 0;
  CHECK(casts == 2);  // the main bucket and the tied embedding
}

}  // namespace tandem
