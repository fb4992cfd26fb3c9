// Goal    the deadlocks that other systems had (pytorch#172668, nccl#479) are refused at the right
//         level and for the right reason.
// Method  the negative fragments of schedules.md 5.2 as small plans, V2 off: levels (a) to (d), the
//         order pass, and the ops of the printed cycle.
#include <doctest/doctest.h>

#include "common/plan/verify/verify.h"
#include "tests/common/plan/verify/fragment.h"

using namespace tandem;

namespace {

Verification judge(const std::vector<std::string>& rows, const FragmentOptions& f = {},
                   bool serial = false) {
  VerifyOptions o;
  o.completeness = false;
  o.serial_launch = serial;
  return verify_plan(parsed(fragment_text(rows, f)), o);
}

bool has(const Verification& v, const std::string& text) {
  return to_text(v.errors).find(text) != std::string::npos;
}

const std::vector<std::string> kN1 = {"0SEND_F1,2RECV_F0,2F0", "1SEND_F0,1RECV_F1,1F1"};
const std::vector<std::string> kN2 = {"2SEND_F1,0F2,0SEND_F2,2RECV_B0,2B0,2RECV_B1",
                                      "3RECV_F1,3SEND_B0,3F1,3B1,1RECV_F2,3SEND_B1,1F2"};
const FragmentOptions kPair = {"pair", false, false}, kPairRuns = {"pair", true, false};

}  // namespace

TEST_CASE("N0: a cycle through two orders is V4's") {
  const Verification v = judge({"0F0,0SEND_F0,0RECV_B0,0B0,0F1,0SEND_F1,0RECV_B1,0B1",
                                "1RECV_F1,1F1,1RECV_F0,1F0,1B0,1SEND_B0,1B1,1SEND_B1"});
  CHECK_FALSE(v.buffered);
  CHECK_FALSE(v.rendezvous);
  CHECK(has(v, "E-PLAN-024: V4 cycle of "));
  CHECK_FALSE(has(v, "V6"));  // one fault, one message
}

TEST_CASE("N1: both ranks send first on one communicator") {
  Verification v = judge(kN1, kPair);
  CHECK(v.buffered);
  CHECK_FALSE(v.rendezvous);
  CHECK_FALSE(v.blocking_host);
  CHECK_FALSE(v.deadlock_free);
  CHECK(has(v,
            "V6.b stuck. rank 0 op 0 send(pair:0->1) stage 0 mb 1 needs the other end rank 1 "
            "op 4 recv(pair:0->1) stage 1 mb 1; rank 1 op 4 recv(pair:0->1) stage 1 mb 1 comes "
            "after rank 1 op 3 send(pair:0->1) stage 1 mb 0; "));
  v = judge(kN1, kPairRuns);
  CHECK_MESSAGE(v.ok(), to_text(v.errors));
  CHECK(v.rendezvous);
  CHECK(v.blocking_host);
  v = judge(kN1);
  CHECK(v.ok());
  CHECK(v.rendezvous);
  CHECK_FALSE(v.blocking_host);
}

TEST_CASE("N2: stuck with one communicator for a pair, also with sends and receives exchanged") {
  Verification v = judge(kN2, kPair);
  CHECK(v.buffered);
  CHECK_FALSE(v.rendezvous);
  CHECK(has(v,
            "rank 0: op 2 send(pair:0->1) stage 0 mb 2; rank 1: op 7 send(pair:0->1) stage 3 "
            "mb 0"));
  const std::vector<std::string> exchanged = {"2SEND_F1,0F2,2RECV_B0,0SEND_F2,2B0,2RECV_B1",
                                              "3SEND_B0,3RECV_F1,3F1,3B1,3SEND_B1,1RECV_F2,1F2"};
  v = judge(exchanged, kPair);
  CHECK_FALSE(v.rendezvous);
  CHECK(has(v,
            "rank 0: op 0 send(pair:0->1) stage 2 mb 1; rank 1: op 6 send(pair:0->1) stage 3 "
            "mb 0"));
  CHECK(judge(kN2, kPairRuns).rendezvous);
  CHECK(judge(kN2).rendezvous);
}

TEST_CASE("N3: a send and a receive of one run are safe only as a group") {
  const std::vector<std::string> rows = {"0SEND_F0,0RECV_B0", "1SEND_B0,1RECV_F0"};
  CHECK_FALSE(judge(rows, kPair).rendezvous);
  CHECK(judge(rows, kPairRuns).rendezvous);
}

TEST_CASE("N4: different bytes at the two ends") {
  std::string text = fragment_text({"0F0,0SEND_F0", "1RECV_F0,1F0"});
  // The receive's buffer is twice as large, and so is what it expects.
  text = exchanged(text, "buf 3 p1 activation f32[4] x", "buf 3 p1 activation f32[8] x");
  text = exchanged(text, "recv c0 peer=0 match=0 4xf32", "recv c0 peer=0 match=0 8xf32");
  text = exchanged(text, "k0(3 -> 5)", "k0(4 -> 5)");
  VerifyOptions o;
  o.completeness = false;
  const Verification v = verify_plan(parsed(text), o);
  REQUIRE(v.errors.size() == 1);
  CHECK(v.errors[0].code == "E-PLAN-021");
  CHECK(v.errors[0].title.starts_with("V5.4 rank 1 op 2 recv(edge:0->1) stage 1 mb 0"));
  CHECK(v.errors[0].found == "32 bytes f32");
  CHECK(v.errors[0].expected == "16 bytes f32, as sent");
}

TEST_CASE("N8: receives in another order than the sends") {
  const std::vector<std::string> rows = {"0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1",
                                         "1RECV_F1,1RECV_F0,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1"};
  const Verification v = judge(rows);
  CHECK(has(v, "E-PLAN-026: V7 edge:0->1: send order op 1, op 3; receive order op 8, op 9"));
  CHECK_FALSE(v.rendezvous);
}

TEST_CASE("N9: 1f1b with deferred receives is safe at (b), not at (d)") {
  // p = 2, m = 4; receives just before their use.
  const std::vector<std::string> rows = {
      "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0F2,0SEND_F2,0RECV_B1,0B1,0F3,0SEND_F3,0RECV_B2,0B2,"
      "0RECV_B3,0B3",
      "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1RECV_F2,1F2,1B2,1SEND_B2,1RECV_F3,1F3,"
      "1B3,1SEND_B3"};
  Verification v = judge(rows);
  CHECK_MESSAGE(v.ok(), to_text(v.errors));
  CHECK(v.rendezvous);
  CHECK_FALSE(v.serial_launch);
  v = judge(rows, {}, true);
  CHECK(has(v, "V6.d cycle of "));
  CHECK(has(v, "op 3 send(edge:0->1) stage 0 mb 1"));   // 0SEND_F1 before 0RECV_B0
  CHECK(has(v, "op 19 send(edge:1->0) stage 1 mb 0"));  // 1SEND_B0 before 1RECV_F1
  CHECK_FALSE(v.deadlock_free);
}

TEST_CASE("V5.3: the two ends on different communicators") {
  std::string text = fragment_text({"0SEND_F0,0SEND_F1", "1RECV_F0,1RECV_F1"});
  text = exchanged(text, "buf 0 ", "comm 1 other axes=pp pair=0,1 size=2\nbuf 0 ");
  text = exchanged(text, "on=comm:edge:0->1 recv c0 peer=0 match=1",
                   "on=comm:other recv c1 peer=0 match=1");
  VerifyOptions o;
  o.completeness = false;
  CHECK(to_text(verify_plan(parsed(text), o).errors).find("V5.3 ") != std::string::npos);
}

TEST_CASE("the memory rule: a receive that allocates late waits for the sends before it") {
  // N9 with buffers that are allocated by the receive and freed by the send. The host issues an
  // allocating op only when the frees before it have been carried out (plan.h), so 0RECV_B0 is not
  // issued before 0SEND_F1 has ended, nor 1RECV_F1 before 1SEND_B0: a cycle that (b) does not see.
  const std::string good =
      fragment_text({"0SEND_F0,0SEND_F1,0RECV_B0", "1RECV_F0,1SEND_B0,1RECV_F1"});
  VerifyOptions o;
  o.completeness = false;
  CHECK(verify_plan(parsed(good), o).deadlock_free);
  std::string text = good;
  // Buffers 1 and 4 go with the sends, 2 and 5 come with the receives; all are used once.
  text = exchanged(text, "send c0 peer=1 match=1 4xf32 buf=1",
                   "send c0 peer=1 match=1 4xf32 buf=1 frees=6");
  text = exchanged(text, "send c1 peer=0 match=2 4xf32 buf=4",
                   "send c1 peer=0 match=2 4xf32 buf=4 frees=7");
  text = exchanged(text, "recv c1 peer=1 match=2 4xf32 buf=2",
                   "recv c1 peer=1 match=2 4xf32 buf=2 allocates=8 frees=8");
  text = exchanged(text, "recv c0 peer=0 match=1 4xf32 buf=5",
                   "recv c0 peer=0 match=1 4xf32 buf=5 allocates=9 frees=9");
  text = exchanged(text, "send c0 peer=1 match=0 4xf32 buf=0",
                   "send c0 peer=1 match=0 4xf32 buf=0 allocates=6");
  text = exchanged(text, "recv c0 peer=0 match=0 4xf32 buf=3",
                   "recv c0 peer=0 match=0 4xf32 buf=3 allocates=7");
  text = exchanged(text, "kernel 0",
                   "buf 6 p0 scratch f32[1] s\nbuf 7 p1 scratch f32[1] s\n"
                   "buf 8 p0 scratch f32[1] s\nbuf 9 p1 scratch f32[1] s\nkernel 0");
  const Verification v = verify_plan(parsed(text), o);
  CHECK(v.rendezvous);
  CHECK_FALSE(v.memory_order);
  CHECK_FALSE(v.deadlock_free);
  CHECK(has(v, "V6.m stuck under the memory rule. "));
}
