// Goal    the example plan passes every pass with the figures that were worked out by hand, and
// each
//         rule refuses the plan that breaks it, by its sub-code and at the op at fault.
// Method  one piece of the example's text exchanged for each rule; small plans for what the example
//         has no place for.
#include "common/plan/verify/verify.h"

#include <doctest/doctest.h>

#include "common/base/diagnostic_codes.h"
#include "tests/common/plan/example.h"
#include "tests/common/plan/verify/fragment.h"

using namespace tandem;

namespace {

VerifyOptions options_for(const std::string& text) {
  VerifyOptions o;
  o.file = "plan.txt";
  o.text = text;
  return o;
}

// The line of the text that holds op `id`.
int line_of(const std::string& text, int id) {
  int line = 1;
  for (std::string_view row : split(text, '\n')) {
    std::string_view t = trim(row);
    if (t.starts_with("op ") && std::atoi(t.data() + 3) == id) return line;
    ++line;
  }
  return 0;
}

struct Broken {
  std::string from, to, sub;
  int op;  // -1: no op
};

const Diagnostic* find_sub(const Diagnostics& list, const std::string& sub) {
  for (const Diagnostic& d : list)
    if (d.title.starts_with(sub + " ") || d.title.starts_with(sub + ":")) return &d;
  return nullptr;
}

void check_refused(const std::string& text, const std::string& sub, int op, VerifyOptions o = {}) {
  CAPTURE(sub);
  o.file = "plan.txt";
  o.text = text;
  const Verification v = verify_plan(parsed(text), o);
  const std::string shown = to_text(v.errors);
  CAPTURE(shown);
  REQUIRE_FALSE(v.ok());
  const Diagnostic* d = find_sub(v.errors, sub);
  REQUIRE(d != nullptr);
  CHECK(d->where.file == "plan.txt");
  CHECK(d->where.line == (op < 0 ? 0 : line_of(text, op)));
  CHECK_FALSE(d->found.empty());
  CHECK_FALSE(d->expected.empty());
  CHECK_FALSE(d->hint.empty());
  CHECK(find_code(d->code) != nullptr);
}

// A program of one rank: gelu forward (F), its backward (I), a weight gradient (W), a norm (O).
std::string one_rank(const std::string& ops) {
  return "plan 1 digest=0 schedule=test receive=early communicators=edge grouping=none "
         "microbatches=1 micro_batch=1 seq=4 mesh=tp:1,dp:1,pp:1 stages=0@0 dtype=f32 "
         "main_grad=f32\n"
         "buf 0,1,2,3 p0 activation f32[4] x,y,dy,dx\nbuf 4 p0 grad f32[1] g\n"
         "buf 5 p0 scratch f64[1] norm\nbuf 6 p0 scratch f32[1] s\n"
         "kernel 0 gelu_fwd elements=4 erf\nkernel 1 gelu_bwd_input elements=4 erf\n"
         "kernel 2 linear_bwd_weight tokens=4 in=1 out=1\nkernel 3 sum_squares elements=1\n"
         "program 0\n" +
         ops;
}

}  // namespace

TEST_CASE("verify: the example plan passes, with the peaks worked out by hand") {
  const std::string text = example_text();
  const Verification v = verify_plan(parsed(text), options_for(text));
  CHECK_MESSAGE(v.ok(), to_text(v.errors));
  CHECK(v.buffered);
  CHECK(v.rendezvous);
  CHECK(v.blocking_host);
  CHECK(v.serial_launch);
  CHECK(v.memory_order);
  CHECK(v.deadlock_free);
  REQUIRE(v.programs.size() == 2);
  const auto at = [&](int p, BufferClass c) {
    return v.programs[static_cast<std::size_t>(p)].at_peak[static_cast<std::size_t>(c)];
  };
  CHECK(v.programs[0].persistent == 567296);
  CHECK(v.programs[0].peak == 997408);
  CHECK(v.programs[0].op_at_peak == OpId{19});
  CHECK(at(0, BufferClass::batch) == 1056);
  CHECK(at(0, BufferClass::grad_activation) == 98304);
  CHECK(at(0, BufferClass::saved_input) == 183296);
  CHECK(at(0, BufferClass::saved_weight) == 147456);
  CHECK(v.programs[1].persistent == 536576);
  CHECK(v.programs[1].peak == 849928);
  CHECK(v.programs[1].op_at_peak == OpId{57});
  CHECK(at(1, BufferClass::grad_activation) == 114688);
  CHECK(at(1, BufferClass::saved_input) == 124928);
  CHECK(at(1, BufferClass::saved_weight) == 73728);
  CHECK(at(1, BufferClass::scratch) == 8);
  // 1f1b, p 2, m 2: min(p - r, m) visits in flight.
  CHECK(v.programs[0].peak_w == 2);
  CHECK(v.programs[0].peak_i == 2);
  CHECK(v.programs[1].peak_w == 1);
}

TEST_CASE("verify: every rule refuses the example with one piece exchanged") {
  const std::string text = example_text();
  const std::vector<Broken> all = {
      {"9 D/w mb=1 s=0 ", "9 D/w mb=2 s=0 ", "V1.2", 9},
      {"9 D/w mb=1 s=0 ", "9 D/w mb=1 s=1 ", "V1.3", 9},
      {"9 D/w mb=1 s=0 ", "9 D/w mb=1 s=7 ", "V1.2", 9},
      {"size=8", "size=4", "V1.2", -1},
      {"edge:0->1    axes=pp pair=0,1", "edge:0->1    axes=pp pair=0,2", "V1.2", -1},
      {"sum 4096xf32 buf=36 tag=embed", "sum 4096xf32 buf=36 tag=embed group=0", "V1.5", 2},
      {"on=comm:tp          all_reduce c0 sum 4096xf32 buf=36",
       "on=comm:dp          all_reduce c0 sum 4096xf32 buf=36", "V1.2", 4},
      {"on=copy_in          copy from=data 66xi64 buf=35",
       "on=compute          copy from=data 66xi64 buf=35", "V1.2", 9},
      {"peer=1 match=0", "peer=2 match=0", "V1.2", 8},
      {"op  19 B/c mb=0 s=0 l=0 on=compute          k15(66,4 -> 68)",
       "op  19 B/c mb=0 s=0 l=0 on=compute          k15(128,4 -> 68)", "V1.2", 19},
      {"k16(68,58 -> 70) k14(70,8 -> 72)  waits=18",
       "k16(68,58 -> 70) k14(70,8 -> 72)  waits=18,64", "V1.2", 19},
      {"k2(38,24,22 -> 42,40)", "k2(38,24 -> 42,40)", "V1.6", 3},
      {"k2(38,24,22 -> 42,40)", "k2(38,24,22 -> 42)", "V1.6", 3},
      {"k3(42,20,18 -> 44)", "k3(42,16,18 -> 44)", "V1.6", 3},
      {"k0(34,28 -> 36)", "k0(38,28 -> 36)", "V1.6", 1},
      {"k8(58 -> 60)", "k8(58 -> +60)", "V1.6", 5},
      {"k22(67,61 -> +5 using 84)", "k22(67,61 -> +5)", "V1.6", 29},
      {"k22(66,60 -> 5)", "k22(66,60 -> 5 using 85)", "V1.6", 21},
      {"k18(74,66 -> 74)", "k18(74,66 -> 66)", "V1.6", 22},
      {"k17(72,52,54,12 -> 74,13,11)", "k17(72,52,54,12 -> 74,13,13)", "V1.6", 22},
      {"kernel 30 sum_squares elements=32992 class", "kernel 30 sum_squares elements=32991 class",
       "V1.6", 37},
      {"kernel  8 gelu_fwd elements=8192", "kernel  8 gelu_fwd elements=0", "V1.6", -1},
      {"kernel  8 gelu_fwd elements=8192 erf",
       "kernel  8 route_fwd batch=1 seq=1 experts=4 top_k=3 groups=2 groups_kept=1 softmax "
       "scope=sequence",
       "V1.6", -1},
      {"kernel  8 gelu_fwd elements=8192 erf",
       "kernel  8 experts_linear_fwd rows=1 in=4194304 out=4194304 experts=4194304 sources=1",
       "V1.6", -1},
      {"seq=32 head_dim=16 causal flash\nkernel  5",
       "seq=32 head_dim=16 kv_heads=7 causal flash\nkernel  5", "V1.6", -1},
      {"seq=32 head_dim=16 causal flash\nkernel  5",
       "seq=32 head_dim=16 kv_heads=1 causal flash\nkernel  5", "V1.6", 3},
      {"seq=32 head_dim=16 causal flash\nkernel  5",
       "seq=32 head_dim=16 v_dim=17 causal flash\nkernel  5", "V1.6", -1},
      {"seq=32 head_dim=16 causal flash\nkernel  5",
       "seq=32 head_dim=16 v_dim=8 causal flash\nkernel  5", "V1.6", 3},
      {"kernel  8 gelu_fwd elements=8192 erf",
       "kernel  8 mla_qkv_fwd batch=1 heads=1 seq=8 nope_dim=4 rope_dim=3 v_dim=4", "V1.6", -1},
      {"kernel  8 gelu_fwd elements=8192 erf",
       "kernel  8 latent_split_fwd tokens=8 q_rank=0 kv_rank=0 rope_dim=2", "V1.6", -1},
      {"parts=q,k,v alias=0+75264", "parts=q:31,k:32,v:32 alias=0+75264", "V1.2", -1},
      {"sum 4096xf32 buf=36", "sum 4095xf32 buf=36", "V1.7", 2},
      {"sum 4096xf32 buf=36", "sum 4096xbf16 buf=36", "V1.7", 2},
      {"max 64xf32 buf=162", "64xf32 buf=162", "V1.7", 49},
      {"host_wait buf=87", "host_wait buf=88", "V1.7", 39},
      {"alias=0+256,1+256", "alias=0+128,1+128", "V1.8", -1},
      {"alias=0+100864,1+100864", "alias=0+100868,1+100868", "V1.8", -1},
      {"alias=0+256,1+256", "alias=2+0,3+0", "V1.8", -1},
      {"alias=0+256,1+256", "alias=1+256,0+256", "V1.8", -1},
      {"10 F/w mb=1 s=0 ", "10 F/w mb=0 s=0 ", "V2.1", 16},
      {"27 B/c mb=1 s=0 l=0", "27 B/c mb=0 s=0 l=0", "V2.2", 33},
      {"k27(66 -> 3)", "k27(66 -> +3)", "V3.1", 21},
      {"k23(70,56 -> 9,7)  frees=56,60,70", "k23(70,56 -> 9,7)  frees=56,60,70,58", "V3.3", 21},
      {"k23(70,56 -> 9,7)  frees=56,60,70", "k23(70,56 -> 9,7)  frees=56,60", "V3.4", 19},
      {"k23(70,56 -> 9,7)  frees=56,60,70", "k23(70,56 -> 9,7)  frees=52,56,60,70", "V3.2", 22},
      {"k23(70,56 -> 9,7)  frees=56,60,70", "k23(70,56 -> 9,7)  allocates=52  frees=56,60,70",
       "V3.3", 21},
      {"k23(70,56 -> 9,7)  frees=56,60,70", "k23(70,56 -> 9,7)  frees=56,60,70,5", "V3.3", 21},
      {"op  44 F/w mb=0 s=1 l=1 on=compute          k2(128,118,116 -> 132,130) k3(132,114,112 -> "
       "134) k4(134 -> 138,136) k5(138,110 -> 140)  waits=42",
       "op  44 F/w mb=0 s=1 l=1 on=compute          k2(128,118,116 -> 132,130) k3(132,114,112 -> "
       "134) k4(134 -> 138,136) k5(138,110 -> 140)  waits=42,46",
       "V4", 44},
      {"peer=1 match=0", "peer=1 match=9", "V5.1", 42},
      {"peer=0 match=0", "peer=1 match=0", "V5.2", 42},
      {"buf=121 tag=grad.emb match=4", "buf=121 tag=grad.emb match=14", "V5.5", 35},
      {"buf=121 tag=grad.emb match=4", "buf=121 tag=grad.emb", "V5.5", 87},
      {"c3 sum 1xf64 buf=190", "c3 max 1xf64 buf=190", "V5.6", 90},
      {"k0(34,28 -> 36)  waits=0", "k0(34,28 -> 36)", "V9", 1},
      {"buf=64 tag=act  waits=7", "buf=64 tag=act", "V9", 8},
      {"k37(166 -> 192)", "k37(190,166 -> 192)", "V1.6", 92},
  };
  for (const Broken& b : all) {
    CAPTURE(b.to);
    check_refused(exchanged(text, b.from, b.to), b.sub, b.op);
  }
}

TEST_CASE("verify: what a send in flight still reads is neither freed nor written") {
  const std::string kept =
      exchanged(example_text(), "buf=64 tag=act  waits=7  frees=64", "buf=64 tag=act  waits=7");
  check_refused(exchanged(kept, "waits=9  allocates=37", "waits=9  allocates=37  frees=64"), "V3.5",
                10);
  // The send ends before op 10 begins: then it may.
  const std::string waited =
      exchanged(kept, "waits=9  allocates=37", "waits=8,9  allocates=37  frees=64");
  const Verification v = verify_plan(parsed(waited), options_for(waited));
  CHECK_MESSAGE(v.ok(), to_text(v.errors));
}

TEST_CASE("verify: rules the example has no place for") {
  const std::string f = " op 0 F mb=0 s=0 on=compute k0(0 -> 1)\n";
  const std::string i = "k1(2,0 -> 3)\n", w = "k2(2,0 -> 4)\n";
  CHECK(verify_plan(parsed(one_rank(f + " op 1 I mb=0 s=0 on=compute " + i +
                                    " op 2 W mb=0 s=0 on=compute " + w +
                                    " op 3 O on=compute k3(4 -> 5)\n")))
            .ok());
  check_refused(one_rank(" op 0 I mb=0 s=0 on=compute " + i), "V2.1", -1);
  check_refused(one_rank(f), "V2.2", 0);
  check_refused(one_rank(f + " op 1 W mb=0 s=0 on=compute " + w), "V2.2", 1);
  check_refused(
      one_rank(" op 0 I mb=0 s=0 on=compute " + i +
               " op 1 F mb=0 s=0 on=compute k0(0 -> 1)\n op 2 W mb=0 s=0 on=compute " + w),
      "V2.3", 0);
  check_refused(
      one_rank(f + " op 1 W mb=0 s=0 on=compute " + w + " op 2 I mb=0 s=0 on=compute " + i), "V2.4",
      1);
  check_refused(one_rank(f + " op 1 B mb=0 s=0 on=compute " + w +
                         " op 2 O on=compute k3(4 -> 5)\n op 3 B mb=0 s=0 on=compute k2(2,0 -> +4 "
                         "using 6)\n"),
                "V2.5", 3);
  // A buffer used before the op that allocates it.
  check_refused(one_rank(f + " op 1 B mb=0 s=0 on=compute " + w +
                         " op 2 O on=compute k3(4 -> 5) allocates=1 frees=1\n"),
                "V3.2", 0);
}

TEST_CASE("verify: indices that no text can hold") {
  const Plan good = parsed(example_text());
  const auto broken = [&](auto&& change, const std::string& sub) {
    Plan plan = good;
    change(plan);
    const Verification v = verify_plan(plan);
    CHECK_MESSAGE(find_sub(v.errors, sub) != nullptr, sub << "\n" << to_text(v.errors));
  };
  broken([](Plan& p) { p.ops[3].stream = StreamId{99}; }, "V1.1");
  broken([](Plan& p) { p.ops[3].calls.count = 1'000'000; }, "V1.1");
  broken([](Plan& p) { p.ops[3].calls.count = 0; }, "V1.1");
  broken([](Plan& p) { p.ops[3].waits.begin = 0xffffffffu; }, "V1.1");
  broken([](Plan& p) { p.calls[0].kernel = KernelId{400}; }, "V1.1");
  broken([](Plan& p) { p.operands[0].id = BufferId{-1}; }, "V1.1");
  broken([](Plan& p) { p.ops[2].comm = CommId{}; }, "V1.1");
  broken([](Plan& p) { p.ops[2].tag = 1'000'000; }, "V1.1");
  broken([](Plan& p) { p.buffers[2].alias_of = BufferId{1000}; }, "V1.1");
  broken([](Plan& p) { p.buffers[2].name = 1'000'000; }, "V1.1");
  broken([](Plan& p) { p.buffers[2].program = ProgramId{2}; }, "V1.2");
  broken([](Plan& p) { p.buffers[2].shape = {0}; }, "V1.2");
  broken([](Plan& p) { p.programs[1].first_op = 41; }, "V1.1");
  broken([](Plan& p) { p.programs[1].num_ops = 51; }, "V1.1");
  broken([](Plan& p) { p.programs.pop_back(); }, "V1.4");
  broken([](Plan& p) { p.header.stage_rank[0] = 5; }, "V1.3");
  broken([](Plan& p) { p.header.stage_rank.clear(); }, "V1.2");
  broken([](Plan& p) { p.header.mesh.size[0] = 0; }, "V1.2");
}

TEST_CASE("verify: V8 against the memory of a device") {
  const std::string text = example_text();
  VerifyOptions o;
  o.capacity = 997408;
  CHECK(verify_plan(parsed(text), o).ok());
  o.capacity = 997407;
  check_refused(text, "V8", 19, o);
}

TEST_CASE("verify: the message as people see it") {
  const std::string text = exchanged(example_text(), "k0(34,28 -> 36)  waits=0", "k0(34,28 -> 36)");
  const Verification v = verify_plan(parsed(text), options_for(text));
  REQUIRE(v.errors.size() == 1);
  const std::string shown = to_text(v.errors);
  CHECK(shown.starts_with(
      "plan.txt:" + std::to_string(line_of(text, 1)) +
      ":2: error E-PLAN-028: "
      "V9 rank 0 op 0 copy stage 0 mb 0 on stream copy_in writes buffer 34 (batch batch), "
      "op 1 F stage 0 mb 0 on stream compute reads it, no wait edge between them\n"));
  CHECK(shown.find("  expected: waits=0 on op 1, or on an op that it comes after\n") !=
        std::string::npos);
  CHECK(shown.find("  hint:     add the wait\n") != std::string::npos);
}
