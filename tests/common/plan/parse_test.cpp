// Goal    the parser is the inverse of the printer, reads the freer forms, and says for every fault
//         where it is; no bytes crash it.
// Method  the shipped example; one exchanged piece a fault, with line and column by hand; a
//         million ops against the clock; random flipped, cut and repeated bytes.
#include "common/plan/parse.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <random>

#include "common/base/diagnostic_codes.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/plan/build.h"
#include "tests/common/plan/example.h"
#include "tests/common/plan/plan_equal.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

const std::string kHead =
    "plan 1 digest=0 schedule=1f1b receive=early communicators=edge grouping=none microbatches=1"
    " micro_batch=1 seq=8 mesh=tp:1,dp:1,pp:1 stages=0@0 dtype=f32 main_grad=f32\n";
const std::string kTables =
    "comm 0 tp axes=tp size=1\nbuf 0,1 p0 activation f32[8,4] mb=0,1 x\n"
    "kernel 0 gelu_fwd elements=32 erf\nprogram 0\n";

struct Fault {
  std::string text;
  std::string code;
  int line, column;
  std::string hint;  // a part of the message
};

}  // namespace

TEST_CASE("plan text: print and parse are inverse on the example") {
  const Plan plan = parsed(example_text());
  CHECK(plan.ops.size() == 94);
  CHECK(plan.buffers.size() == 193);
  const std::string canonical = print(plan);
  const Plan again = parsed(canonical);
  check_equal(plan, again);
  CHECK(print(again) == canonical);
}

TEST_CASE("plan text: every optional field survives") {
  const std::string text =
      "plan 1 digest=ab schedule=x receive=deferred communicators=pair grouping=runs"
      " microbatches=2 micro_batch=3 seq=8 mesh=dp:3,tp:2,cp:2,pp:2 stages=0@0,1@1 dtype=bf16"
      " main_grad=f32\n"
      "comm 0 tp axes=tp size=2\ncomm 1 edge:0->1 axes=pp pair=0,1 size=2\n"
      "buf 0,1 p0 param,grad bf16[8,4] w slice=0:tp valid=13 parts=q,k,v bucket\n"
      "buf 2,3 p1 optim f32[] l=4 m,v\n"
      "buf 4 p1 scratch f64[1] s alias=2+0\n"
      "kernel 0 gelu_fwd elements=32 tanh\n"
      "program 0\n"
      " op 0 F/w mb=1 s=0 l=3 on=compute     k0(0 -> +1 using 1)  allocates=0,1\n"
      " op 1 B                on=comm:e      send c1 peer=1 match=7 32xbf16 buf=1 tag=act group=2"
      "  waits=0  frees=1\n"
      "program 1\n"
      " op 2 R/s              on=comm:e      recv c1 peer=0 match=7 32xbf16 buf=2 group=2\n"
      " op 3 W/c              on=comm:tp     all_reduce c0 max 1xf32 buf=2 match=3\n"
      " op 4 D                on=copy_in     copy from=data 8xi64 buf=3\n"
      " op 5 O                on=host        host_wait buf=4 expect=finite  waits=3\n"
      " op 6 I                on=comm:tp     shift c0 4xf32 buf=2\n"
      " op 7 O                on=compute     post_validate buf=4\n";
  const Plan plan = parsed(text);
  CHECK(plan.header.mesh.order == std::vector<Axis>{Axis::dp, Axis::tp, Axis::cp, Axis::pp});
  CHECK(plan.header.mesh.of(Axis::dp) == 3);
  CHECK(plan.header.types.compute == DType::bf16);
  CHECK(plan.buffers[1].slice.valid == 13);
  CHECK(plan.name(plan.buffers[1].slice.parts) == "q,k,v");
  CHECK(plan.buffers[3].layer == 4);
  CHECK(plan.buffers[4].alias_of == BufferId{2});
  CHECK(plan.ops[0].part == Part::warm_up);
  CHECK(plan.operands_of(plan.calls[0].outputs)[0].accumulate);
  CHECK(plan.ops[1].group == 2);
  CHECK(plan.ops[1].match == 7);
  CHECK(plan.ops[3].reduction == Reduction::max);
  CHECK(plan.programs[1].first_op == 2);
  CHECK(plan.programs[1].num_ops == 6);
  const std::string canonical = print(plan);
  check_equal(plan, parsed(canonical));
  CHECK(print(parsed(canonical)) == canonical);
}

// Key/value heads are a dimension that is only written where it differs from the heads; parts of a
// fused tensor have rows of their own where they are not equal.
TEST_CASE("plan text: key/value heads and parts of unequal rows") {
  const std::string text =
      kHead +
      "buf 0 p0 param f32[8,4] layers.0.attn.qkv.weight slice=0:tp parts=q:4,k:2,v:2\n"
      "buf 1 p0 param f32[6,4] layers.0.mlp.gate_up.weight slice=0:tp parts=gate,up\n"
      "kernel 0 attention_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=2 causal flash\n"
      "kernel 1 attention_fwd batch=1 heads=4 seq=8 head_dim=2 causal flash\n"
      "kernel 2 rope_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=1 base=10000\n"
      "program 0\n";
  const Plan plan = parsed(text);
  CHECK(print(parsed(print(plan))) == print(plan));
  CHECK(kv_heads_of(plan.kernels[0]) == 2);
  CHECK(kv_heads_of(plan.kernels[1]) == 4);
  CHECK(plan.kernels[2].real == 10000);
  CHECK(to_text(plan.kernels[0]) ==
        "attention_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=2 causal flash");
  CHECK(to_text(plan.kernels[1]) == "attention_fwd batch=1 heads=4 seq=8 head_dim=2 causal flash");
  // As many key/value heads as heads is the same kernel.
  const auto same = kernel_from_text(
      split("attention_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=4 causal flash", ' '));
  REQUIRE(same.has_value());
  CHECK(*same == plan.kernels[1]);
  CHECK_FALSE(kernel_from_text(split("rope_fwd batch=1 heads=4 seq=8 head_dim=2 kv_heads=0", ' '))
                  .has_value());
  CHECK_FALSE(kernel_from_text(split("gelu_fwd elements=8 kv_heads=2", ' ')).has_value());

  const auto qkv = plan.parts_of(plan.buffers[0]), both = plan.parts_of(plan.buffers[1]);
  REQUIRE(qkv.size() == 3);
  CHECK(qkv[0].name == "q");
  CHECK(qkv[0].rows == 4);
  CHECK(qkv[2].name == "v");
  CHECK(qkv[2].rows == 2);
  REQUIRE(both.size() == 2);
  CHECK(both[1].name == "up");
  CHECK(both[1].rows == 3);
  for (const char* wrong : {"q:4,k:2,v:3", "q:4,k:2", "q:8,k:0", "q:4,k:x,v:2", "q,k,v", "q:4,k"}) {
    CAPTURE(wrong);
    Plan other = plan;
    other.names.emplace_back(wrong);
    other.buffers[0].slice.parts = static_cast<std::uint32_t>(other.names.size() - 1);
    CHECK(other.parts_of(other.buffers[0]).empty() == (std::string_view(wrong) != "q:4,k"));
  }
}

TEST_CASE("plan text: comments, tabs, CR and blank lines mean nothing") {
  const std::string text = kHead + kTables + " op 0 F on=compute k0(0 -> 1)\n";
  std::string free = "# first\n\r\n\t\n";
  for (char c : text) {
    if (c == '\n') free += " \t# comment \xff\r";
    free += c == ' ' ? std::string(" \t").substr(0, 1 + free.size() % 2) : std::string(1, c);
  }
  // Blanks inside a call are single spaces in this text; tabs there are not part of the grammar.
  const std::size_t call = free.find("k0(");
  free.replace(call, free.find(')', call) + 1 - call, "k0(0  ->  1)");
  check_equal(parsed(text), parsed(free));
  CHECK(print(parsed(free)) == print(parsed(text)));
}

TEST_CASE("plan text: each fault has its code and its place") {
  const std::string ok = kHead + kTables;
  const std::vector<Fault> faults = {
      {"", "E-PLAN-010", 0, 0, "no line but comments"},
      {"# only\n", "E-PLAN-010", 0, 0, "tandem plan"},
      {"paln 1\n", "E-PLAN-010", 1, 1, "plan 1"},
      {"plan 2 digest=0\n", "E-PLAN-010", 1, 6, "version 1"},
      {"plan 1 digset=0\n", "E-PLAN-012", 1, 8, "did you mean \"digest\"?"},
      {"plan 1 seq=1 seq=2\n", "E-PLAN-016", 1, 14, "twice"},
      {"plan 1 digest=0\n", "E-PLAN-016", 1, 16, "schedule="},
      {"plan 1 mesh=tp:1,dp:1,pp:0\n", "E-PLAN-013", 1, 26, "1 to"},
      {"plan 1 mesh=tp:1,xx:1\n", "E-PLAN-012", 1, 18, "axis"},
      {"plan 1 mesh=tp:1,tp:1\n", "E-PLAN-016", 1, 18, "twice"},
      {"plan 1 mesh=tp:1,pp:1\n", "E-PLAN-016", 1, 13, "lacks an axis"},
      {"plan 1 mesh=tp:1024,dp:1024,pp:2\n", "E-PLAN-013", 1, 13, "too many ranks"},
      {"plan 1 stages=0@0,2@1\n", "E-PLAN-014", 1, 19, "without a gap"},
      {"plan 1 dtype=f31\n", "E-PLAN-012", 1, 14, "did you mean"},
      {kHead + "comm 1 tp axes=tp size=1\n", "E-PLAN-014", 2, 6, "0"},
      {kHead + "comm 0 tp axes=tp\n", "E-PLAN-016", 2, 18, "size"},
      {kHead + "comm 0 a,b axes=tp size=1\n", "E-PLAN-011", 2, 8, "no name"},
      {kHead + "comm 0 tp axis=tp size=1\n", "E-PLAN-012", 2, 11, "did you mean \"axes\"?"},
      {kHead + "buf 0 p1 param f32[1] w\n", "E-PLAN-013", 2, 8, "0 to 0"},
      {kHead + "buf 0 param f32[1] w\n", "E-PLAN-013", 2, 8, "program"},
      {kHead + "buf 07 p0 param f32[1] w\n", "E-PLAN-013", 2, 5, "leading zero"},
      {kHead + "buf 0 p0 parm f32[1] w\n", "E-PLAN-012", 2, 10, "did you mean \"param\"?"},
      {kHead + "buf 0 p0 param f32 w\n", "E-PLAN-011", 2, 16, "f32[32,2,64]"},
      {kHead + "buf 0 p0 param f32[0] w\n", "E-PLAN-013", 2, 20, "extent"},
      {kHead + "buf 0 p0 param f32[9999999,99999999] w\n", "E-PLAN-013", 2, 28, "extent"},
      {kHead + "buf 0 p0 param f32[1,1,1,1,1] w\n", "E-PLAN-013", 2, 16, "at most 4"},
      {kHead + "buf 0 p0 param f32[1]\n", "E-PLAN-016", 2, 22, "no name"},
      {kHead + "buf 0,1,2 p0 param,grad f32[1] w\n", "E-PLAN-011", 2, 14, "fewer classes"},
      {kHead + "buf 0 p0 param f32[1] v,w\n", "E-PLAN-011", 2, 23, "more names"},
      {kHead + "buf 0 p0 param f32[1] w alias=9+0\n", "E-PLAN-015", 2, 1, "buffer below 1"},
      {kHead + "buf 0 p0 param f32[1] w slice=0:xp\n", "E-PLAN-012", 2, 33, "axis"},
      {kHead + "buf 0 p0 param f32[1] w mb=0 mb=1\n", "E-PLAN-016", 2, 30, "twice"},
      {kHead + "kernel 0 gelu_fwd elements=8\nbuf 0 p0 param f32[1] w\n", "E-PLAN-014", 3, 1,
       "wrong place"},
      {kHead + "kernel 0 gelu_fw elements=8\n", "E-PLAN-012", 2, 10, "did you mean"},
      {kHead + "kernel 0 gelu_fwd elemens=8\n", "E-PLAN-011", 2, 10, "elements=N"},
      {kHead + "kernel 0 gelu_fwd elements=999999999999999999\n", "E-PLAN-013", 2, 10, "too large"},
      {kHead + "op 0 F on=compute k0( -> )\n", "E-PLAN-014", 2, 4, "program 0"},
      {ok + "op 1 F on=compute k0(0 -> 1)\n", "E-PLAN-014", 6, 4, "without a gap"},
      {ok + "op 0 X on=compute k0(0 -> 1)\n", "E-PLAN-011", 6, 6, "phase"},
      {ok + "op 0 F/x on=compute k0(0 -> 1)\n", "E-PLAN-011", 6, 6, "phase"},
      {ok + "op 0 F k0(0 -> 1)\n", "E-PLAN-016", 6, 8, "on=STREAM"},
      {ok + "op 0 F on=compute k0(0 -> 1\n", "E-PLAN-011", 6, 19, "k2(7,1 -> 12)"},
      {ok + "op 0 F on=compute k0(0 > 1)\n", "E-PLAN-011", 6, 19, "kernel call"},
      {ok + "op 0 F on=compute k1(0 -> 1)\n", "E-PLAN-015", 6, 20, "kernel does not exist"},
      {ok + "op 0 F on=compute k0(0 -> 2)\n", "E-PLAN-015", 6, 27, "buffer does not exist"},
      {ok + "op 0 F on=compute k0(0 -> 1) waits=4\n", "E-PLAN-015", 6, 1, "op below 1"},
      {ok + "op 0 F on=compute k0(0 -> 1) wait=0\n", "E-PLAN-012", 6, 30,
       "did you mean \"waits\"?"},
      {ok + "op 0 F on=compute k0(0 -> 1) 8xf32\n", "E-PLAN-012", 6, 30, "not a field of compute"},
      {ok + "op 0 F on=tp al_reduce c0 8xf32 buf=0\n", "E-PLAN-012", 6, 14,
       "did you mean \"all_reduce\"?"},
      {ok + "op 0 F on=tp all_reduce c1 8xf32 buf=0\n", "E-PLAN-015", 6, 26, "communicator"},
      {ok + "op 0 F on=tp all_reduce c0 8xf32\n", "E-PLAN-016", 6, 14, "no buf"},
      {ok + "op 0 F on=tp all_reduce c0 8f32 buf=0\n", "E-PLAN-013", 6, 28, "number of elements"},
      {ok + "op 0 F on=tp send c0 peer=0 8xf32 buf=0\n", "E-PLAN-016", 6, 14, "no match"},
      {ok + "op 0 D on=c copy from=disk 8xf32 buf=0\n", "E-PLAN-012", 6, 23, "from=data"},
      {ok + "op 0 O on=h host_wait buf=0 expect=zero\n", "E-PLAN-012", 6, 36, "finite"},
      {ok + "opp 0 F\n", "E-PLAN-012", 6, 1, "did you mean \"op\"?"},
      {ok + "op 0 F on=compute k0(0 -> 1)\nprogram 1\n", "E-PLAN-014", 0, 0, "2 programs"},
      {ok + "program 2\n", "E-PLAN-014", 6, 9, "program"},
      {ok + std::string(static_cast<std::size_t>(limits::kPlanLineBytes) + 1, '#'), "E-PLAN-017", 6,
       1, "too long"},
  };
  for (const Fault& f : faults) {
    CAPTURE(f.text.substr(0, 600));
    const Result<Plan> plan = parse_plan(f.text, "plan.txt");
    REQUIRE_FALSE(plan.ok());
    const Diagnostics& list = plan.error().diagnostics;
    const std::string text = to_text(list);
    CAPTURE(text);
    CHECK(list.size() == 1);
    CHECK(list[0].code == f.code);
    CHECK(list[0].where.file == "plan.txt");
    CHECK(list[0].where.line == f.line);
    if (f.line) CHECK(list[0].where.column == f.column);
    CHECK(text.find(f.hint) != std::string::npos);
    CHECK_FALSE(list[0].found.empty());
    CHECK_FALSE(list[0].expected.empty());
    CHECK_FALSE(list[0].hint.empty());
    CHECK(find_code(list[0].code) != nullptr);
    CHECK(plan.error().failure == Failure::bad_input);
  }
}

TEST_CASE("plan text: all faults of a text in order, at most 100; one fault is one message") {
  const std::string ok = kHead + kTables;
  Result<Plan> plan = parse_plan(
      ok + "op 0 F on=compute k9(0 -> 1)\nop 1 F on=compute k0(0 -> 1)\nop 2 F on=x foo\n", "p");
  REQUIRE_FALSE(plan.ok());
  REQUIRE(plan.error().diagnostics.size() == 2);
  CHECK(plan.error().diagnostics[0].where.line == 6);
  CHECK(plan.error().diagnostics[1].where.line == 8);
  // A buffer line that cannot be read: its ids are not reported once more where they are used.
  plan = parse_plan(kHead +
                        "buf 0 p0 parm f32[1] w\nkernel 0 gelu_fwd elements=1\nprogram 0\n"
                        "op 0 F on=compute k0(0 -> 1)\n",
                    "p");
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.error().diagnostics.size() == 1);
  std::string many = ok;
  for (int i = 0; i < 1000; ++i) many += "nonsense\n";
  plan = parse_plan(many, "p");
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.error().diagnostics.size() == 100);
}

TEST_CASE("plan text: the message as people see it") {
  const std::string text =
      exchanged(example_text(), "48 F/w mb=0 s=1     on=compute          k6(152",
                "48 F/w mb=0 s=1     on=compute          k6(952");
  const Result<Plan> plan = parse_plan(text, "plan.txt");
  REQUIRE_FALSE(plan.ok());
  const std::string shown = to_text(plan.error().diagnostics);
  CHECK(shown.find("plan.txt:") == 0);
  CHECK(shown.find(": error E-PLAN-015: buffer does not exist\n") != std::string::npos);
  CHECK(shown.find("  found:    952\n  expected: an id below 193\n") != std::string::npos);
}

TEST_CASE(
    "docs/plan_reference.md names every kind of op, class, phase and pass; its lines are real") {
  const Result<std::string> page =
      read_file(std::string(TANDEM_SOURCE_DIR) + "/docs/plan_reference.md", 1 << 20);
  REQUIRE(page.ok());
  const auto names = [&](const std::string& text) {
    CHECK_MESSAGE(page->find(text) != std::string::npos, text);
  };
  for (int i = 0; i < kNumOpKinds; ++i) names(std::string(name_of(static_cast<OpKind>(i))));
  for (int i = 0; i < kNumBufferClasses; ++i)
    names(std::string(name_of(static_cast<BufferClass>(i))));
  for (const std::string& step : lowering_steps()) names("| " + step + " |");
  for (int pass = 1; pass <= 9; ++pass) names("| V" + std::to_string(pass) + " ");
  // The example block.
  const std::size_t begin = page->find("```\nplan 1") + 4;
  const std::string block = page->substr(begin, page->find("```", begin) - begin);
  const std::string example = example_text();
  for (std::string_view line : split(block, '\n'))
    CHECK_MESSAGE(example.find(line) != std::string::npos, std::string(line));
}

TEST_CASE("plan text: a million ops") {
  std::string text = kHead + kTables;
  const int count = sim::scaled(1'000'000);
  for (int i = 0; i < count; ++i)
    fmt::format_to(std::back_inserter(text),
                   " op {} F/s mb={} s=0 l=7 on=compute k0(0 -> 1) k0(0 -> +1)  waits={}"
                   "  allocates=0,1  frees=0,1\n",
                   i, i % 128, i ? i - 1 : 0);
  const auto start = std::chrono::steady_clock::now();
  const Plan plan = parsed(text);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  MESSAGE(count << " ops, " << text.size() / 1e6 << " MB: " << seconds << " s");
  CHECK(plan.ops.size() == static_cast<std::size_t>(count));
  CHECK(plan.ops.back().waits.count == 1);
}

TEST_CASE("plan text: any bytes give a plan that prints to itself, or messages") {
  const char* given = std::getenv("TANDEM_TEST_SEED");
  const unsigned seed = given ? static_cast<unsigned>(std::atoi(given)) : 20261125u;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const std::string example = print(parsed(example_text()));
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  int plans = 0;
  const int count = sim::scaled(3000);
  for (int i = 0; i < count; ++i) {
    std::string text = example;
    for (std::size_t k = 0; k <= below(3); ++k) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text[at] = "0123456789,=+-> \n#kcpx"[below(22)];
          break;
        case 2:
          text.erase(at, 1 + below(40));
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), 1 + below(200)));
          break;
        default:
          text.resize(at + 1);
          break;
      }
    }
    const Result<Plan> plan = parse_plan(text, "fuzz");
    if (!plan) {
      const Diagnostics& list = plan.error().diagnostics;
      REQUIRE_FALSE(list.empty());
      REQUIRE(list.size() <= 100);
      for (char c : to_text(list)) REQUIRE((c == '\n' || (c >= ' ' && c < 0x7f)));
      continue;
    }
    ++plans;
    const std::string printed = print(*plan);
    const Result<Plan> again = parse_plan(printed, "again");
    if (!again) FAIL(to_text(again.error().diagnostics) << i);
    REQUIRE(print(*again) == printed);
  }
  MESSAGE(plans << " of " << count << " texts are plans");
  CHECK(plans > 0);
  CHECK(plans < count);
}
