// Goal    the bytes of the control plane: worked example, every payload both ways, and readers that
//         take any bytes. The table of states, pair by pair, as robustness.md has it.
#include "exec/rendezvous/protocol.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "common/base/check.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

std::string bytes(std::initializer_list<int> list) {
  std::string out;
  for (int b : list) out.push_back(static_cast<char>(b));
  return out;
}

// Calls every parser of payloads; each must come back.
int parse_all(std::string_view payload) {
  return parse_nonce(payload).has_value() + parse_join(payload).has_value() +
         parse_refuse(payload).has_value() + parse_roster(payload).has_value() +
         parse_heartbeat(payload).has_value() + parse_clock(payload).has_value() +
         parse_comm_id(payload).has_value() + parse_report(payload).has_value() +
         parse_abort(payload).has_value() + parse_barrier(payload).has_value();
}

}  // namespace

TEST_CASE("protocol: the frame of docs/formats/rendezvous.md, byte by byte") {
  CHECK(encode_frame(MessageType::barrier, encode_barrier(7)) ==
        bytes({'1', 'T', 'D', 'M', 1, 0, 11, 0, 4, 0, 0, 0, 7, 0, 0, 0}));
  Heartbeat beat;
  beat.ops_done = 258;
  beat.step = 3;
  CHECK(encode_frame(MessageType::heartbeat, encode(beat)) ==
        bytes({'1', 'T', 'D', 'M', 1, 0, 9, 0, 16, 0, 0,   0,   2,   1,
               0,   0,   0,   0,   0, 0, 3, 0, 0,  0, 255, 255, 255, 255}));
}

TEST_CASE("protocol: the table of states, every pair") {
  using enum MessageType;
  const std::map<PeerState, std::set<MessageType>> table = {
      {PeerState::fresh, {hello}},
      {PeerState::challenged, {proof}},
      {PeerState::authed, {join}},
      {PeerState::joined, {heartbeat, abort, bye}},
      {PeerState::running, {heartbeat, clock, barrier, comm_id, report, abort, bye}},
      {PeerState::draining, {report, bye}},
      {PeerState::closed, {}},
  };
  CHECK(table.size() == kNumPeerStates);
  for (const auto& row : table)
    for (int type = 1; type <= kNumMessageTypes; ++type) {
      const auto& state = row.first;
      const auto& allowed = row.second;
      const auto message = static_cast<MessageType>(type);
      CAPTURE(name_of(state));
      CAPTURE(name_of(message));
      CHECK(may_send(state, message) == allowed.contains(message));
    }
}

TEST_CASE("protocol: every payload comes back; one byte less or more gives nothing") {
  Join join{"0.1.0", "0123456789abcdef", 8, 3, "local", "10.0.0.1:7"};
  Roster roster{3, 1, {"a", ""}};
  Report progress;
  progress.step = 4;
  progress.loss = 2.25;
  progress.tokens_per_s = 1e5;
  progress.step_ns = 12;
  Report fault;
  fault.kind = ReportKind::fault;
  fault.fault = FaultKind::late;
  fault.exit_class = 6;
  fault.step = 1;
  fault.op = 117;
  fault.code = "E-EXEC-007";
  fault.text = "runs for 9 s";
  CHECK(parse_join(encode(join)) == join);
  CHECK(parse_roster(encode(roster))->addresses == roster.addresses);
  Report evaluated = progress;
  evaluated.evaluation_loss = 2.75;
  CHECK(parse_report(encode(progress))->loss == 2.25);
  CHECK_FALSE(parse_report(encode(progress))->evaluation_loss);
  CHECK(parse_report(encode(evaluated))->evaluation_loss == 2.75);
  CHECK(parse_report(encode(fault))->text == fault.text);
  CHECK(parse_refuse(encode(Refuse{RefuseCode::taken, "x"}))->code == RefuseCode::taken);
  CHECK(parse_abort(encode(Abort{2, "y"}))->rank == 2);
  CHECK(parse_clock(encode(ClockSample{5, 6}))->server_ns == 6);
  CHECK(parse_comm_id(encode(CommIdMessage{1, 2, "id"}))->bytes == "id");
  for (const std::string& whole :
       {encode(join), encode(roster), encode(progress), encode(evaluated), encode(fault),
        encode(Refuse{RefuseCode::plan, "x"}), encode(Abort{2, "y"}), encode(Heartbeat{}),
        encode(ClockSample{}), encode(CommIdMessage{1, 2, "id"}), encode_barrier(1)}) {
    CHECK(parse_all(whole) >= 1);
    for (const std::string& other : {whole.substr(0, whole.size() - 1), whole + '\0'}) {
      // Only a payload of another message may have this length.
      CHECK(!parse_join(other));
      CHECK(!parse_roster(other));
      CHECK(!parse_report(other));
    }
  }
}

TEST_CASE("protocol: values out of range are refused") {
  Report report;
  report.kind = ReportKind::fault;
  report.exit_class = 0;
  CHECK(!parse_report(encode(report)));
  CHECK(!parse_roster(encode(Roster{2, 1, {"a", "b"}})));
  CHECK(!parse_roster(encode(Roster{5000, 0, {}})));
  CHECK(!parse_refuse(encode(Refuse{static_cast<RefuseCode>(9), ""})));
  CHECK(!parse_heartbeat(encode(Heartbeat{0, -2, 0})));
  // A text longer than its limit is cut when written and refused when read.
  CHECK(parse_abort(encode(Abort{0, std::string(5000, 'x')}))->text.size() == 1024);
}

TEST_CASE("protocol: frames come out whole however the bytes are cut") {
  const std::string stream = encode_frame(MessageType::bye, "") +
                             encode_frame(MessageType::barrier, encode_barrier(1)) +
                             encode_frame(MessageType::abort, encode(Abort{1, "why"}));
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameReader reader(4096);
    std::vector<MessageType> seen;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      std::string_view part = std::string_view(stream).substr(at, piece);
      while (!part.empty())
        if (auto frame = reader.take(part)) seen.push_back(frame->type);
    }
    CHECK(seen == std::vector{MessageType::bye, MessageType::barrier, MessageType::abort});
    CHECK(!reader.in_frame());
    CHECK(reader.fault().empty());
  }
}

TEST_CASE("protocol: what is no frame is refused at its header, before memory is taken") {
  struct Case {
    std::string bytes;
    const char* fault;
  };
  std::string longest = encode_frame(MessageType::hello, std::string(4096, 'x'));
  std::string too_long = encode_frame(MessageType::hello, std::string(4097, 'x'));
  const Case cases[] = {
      {"GET / HTTP/1.1\r\n\r\n", "the bytes are no frame"},
      {bytes({0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0}), "the bytes are no frame"},
      {bytes({'1', 'T', 'D', 'M', 2, 0, 1, 0, 0, 0, 0, 0}), "another version of the protocol"},
      {bytes({'1', 'T', 'D', 'M', 1, 0, 0, 0, 0, 0, 0, 0}), "an unknown message"},
      {bytes({'1', 'T', 'D', 'M', 1, 0, 16, 0, 0, 0, 0, 0}), "an unknown message"},
      {bytes({'1', 'T', 'D', 'M', 1, 0, 1, 0, 255, 255, 255, 255}), "the frame is too long"},
      {too_long, "the frame is too long"},
  };
  for (const Case& c : cases) {
    FrameReader reader(4096);
    std::string_view left = c.bytes;
    CHECK(!reader.take(left));
    CHECK(reader.fault() == c.fault);
    CHECK(!reader.take(left));  // and stays so
  }
  FrameReader reader(4096);
  std::string_view left = longest;
  CHECK(reader.take(left)->payload.size() == 4096);
  CHECK_THROWS_AS((void)encode_frame(MessageType::hello, std::string(65537, 'x')), InternalError);
}

TEST_CASE("protocol: random and mutated bytes never come through as more than they are") {
  std::mt19937 random(20261125);  // std::mt19937 gives the same numbers everywhere
  const std::string good = encode_frame(MessageType::report, encode(Report{})) +
                           encode_frame(MessageType::join, encode(Join{"v", "p", 2, 1, "b", ""}));
  int frames = 0, faults = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    if (round % 4 == 0) {
      text.resize(random() % 200);
      for (char& c : text) c = static_cast<char>(random());
    } else {
      text = good;
      for (unsigned n = random() % 4; n > 0; --n) text[random() % text.size()] ^= 1 << random() % 8;
      text.resize(random() % (text.size() + 1));
    }
    FrameReader reader(4096);
    std::string_view left = text;
    while (!left.empty() && reader.fault().empty())
      if (auto frame = reader.take(left)) {
        ++frames;
        parse_all(frame->payload);
      }
    faults += !reader.fault().empty();
    parse_all(text);
  }
  CHECK(frames > 1000);
  CHECK(faults > 1000);
}
