// Perfetto files: the wire format against worked bytes, an exact round trip, an independent
// decoder, and damage of every kind.
#include "common/timeline/perfetto.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "common/base/protobuf_writer.h"
#include "common/base/sha256.h"
#include "common/timeline/check_timeline.h"
#include "common/timeline/perfetto_fields.h"
#include "common/timeline/read_timeline.h"
#include "tests/common/report/synthetic.h"
#include "tests/common/timeline/equal.h"

namespace tandem {
namespace {

std::string hex(std::string_view bytes) {
  std::string out;
  for (char c : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += two;
  }
  return out;
}

synthetic::Speed odd_ps() {
  synthetic::Speed s;
  s.steps = 2, s.jitter = 0.3, s.launch_ns = 7;  // ticks that are no whole ns
  return s;
}

}  // namespace

// Goal    the encoder writes what Perfetto's own generated code reads (formats.md 1.4).
// Method  the tiny trace of one process, thread, counter and slice, byte by byte, 151 bytes.
TEST_CASE("protobuf writer: the tiny trace, byte for byte") {
  using namespace perfetto;
  ProtoWriter trace;
  const auto packet = [&](const ProtoWriter& p) { trace.message(kTracePacket, p); };
  {
    ProtoWriter p, track, process, interned, name, key;
    process.varint(kPid, 1), process.text(kProcessName, "rank 0");
    track.varint(kUuid, 1), track.message(kProcess, process);
    p.varint(kTimestamp, 0), p.message(kTrackDescriptor, track);
    p.varint(kSequence, 1), p.varint(kSequenceFlags, kStateCleared | kNeedsState);
    name.varint(1, 1), name.text(2, "F");
    key.varint(1, 1), key.text(2, "op");
    interned.message(kInternedNames, name), interned.message(kInternedKeys, key);
    p.message(kInternedData, interned);
    packet(p);
  }
  {
    ProtoWriter p, track, thread;
    thread.varint(kPid, 1), thread.varint(kTid, 11), thread.text(kThreadName, "compute");
    track.varint(kUuid, 2), track.message(kThread, thread);
    p.varint(kTimestamp, 0), p.message(kTrackDescriptor, track), p.varint(kSequence, 1);
    packet(p);
  }
  {
    ProtoWriter p, track, counter;
    counter.varint(kCounterUnit, kUnitBytes);
    track.varint(kUuid, 3), track.varint(kParentUuid, 1), track.text(kTrackName, "mem");
    track.message(kCounter, counter);
    p.message(kTrackDescriptor, track), p.varint(kSequence, 1);
    packet(p);
  }
  {
    ProtoWriter p, event, annotation;
    annotation.varint(kAnnotationNameIid, 1), annotation.varint(kAnnotationInt, 7);
    event.varint(kType, kSliceBegin), event.varint(kTrackUuid, 2), event.varint(kNameIid, 1);
    event.message(kAnnotations, annotation), event.fixed64(kFlowIds, 5);
    p.varint(kTimestamp, 1000), p.message(kTrackEvent, event);
    p.varint(kSequence, 1), p.varint(kSequenceFlags, kNeedsState);
    packet(p);
  }
  {
    ProtoWriter p, event;
    event.varint(kType, kCounterEvent), event.varint(kTrackUuid, 3),
        event.varint(kCounterValue, 4096);
    p.varint(kTimestamp, 1000), p.message(kTrackEvent, event), p.varint(kSequence, 1);
    packet(p);
  }
  {
    ProtoWriter p, event;
    event.varint(kType, kSliceEnd), event.varint(kTrackUuid, 2);
    p.varint(kTimestamp, 3000), p.message(kTrackEvent, event), p.varint(kSequence, 1);
    packet(p);
  }
  CHECK(trace.bytes().size() == 151);
  CHECK(hex(trace.bytes()).substr(0, 24) == "0a284000e2030e08011a0a08");
  CHECK(sha256_hex(trace.bytes()) ==
        "69f148e8c8c8f664b7beec15a8f719e607d47d5311b2192d54ca390b6d22a49b");
}

TEST_CASE("protobuf: numbers by hand, and a reader that never leaves its input") {
  ProtoWriter w;
  w.varint(1, 150);                             // the classic: 08 96 01
  w.varint(2, static_cast<std::uint64_t>(-1));  // ten bytes
  w.real(44, 1.0);
  CHECK(hex(w.bytes()) == "08960110ffffffffffffffffff01e102000000000000f03f");
  ProtoReader r(w.bytes());
  ProtoField f;
  REQUIRE(r.next(f));
  CHECK(f.value == 150);
  REQUIRE(r.next(f));
  CHECK(f.as_int() == -1);
  REQUIRE(r.next(f));
  CHECK(f.wire == 1);
  CHECK(!r.next(f));
  CHECK(!r.failed());
  for (std::string_view bad :
       {std::string_view("\x0a\x05"
                         "abc",
                         5),
        std::string_view("\x08", 1), std::string_view("\x0b", 1), std::string_view("\x00\x01", 2),
        std::string_view("\x09\x01\x02", 3),
        std::string_view("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11)}) {
    ProtoReader damaged(bad);
    while (damaged.next(f)) {
    }
    CHECK(damaged.failed());
  }
}

TEST_CASE("perfetto: a timeline reads back exactly, to the picosecond") {
  const Plan plan = synthetic::make_plan({2, 2, 4, 2});
  Timeline t = synthetic::run(plan, odd_ps());
  t.meta["machine"] = "a \"quoted\" name\nof two lines, \xc3\xa9";
  t.meta["empty"] = "";
  bool odd = false;
  for (const Span& s : t.spans) odd |= s.ended % 1000 != 0;
  CHECK(odd);  // otherwise this test would not see a loss of picoseconds
  const Result<Timeline> r = decode_timeline(encode_perfetto(t, plan), "t.pftrace");
  REQUIRE(r.ok());
  check_equal(*r, t);

  synthetic::Speed ns;
  ns.clock = Clock::monotonic_ns, ns.jitter = 0.2;
  Timeline measured = synthetic::run(plan, ns);
  measured.memory.front().time = -5;  // before the first step
  const Result<Timeline> back = decode_timeline(encode_perfetto(measured, plan), "m.pftrace");
  REQUIRE(back.ok());
  check_equal(*back, measured);
  CHECK(check_timeline(*back, plan, "m.pftrace").ok());
  CHECK(encode_perfetto(t, plan) == encode_perfetto(t, plan));
}

TEST_CASE("perfetto: an empty timeline is a valid file") {
  const Result<Timeline> r = decode_timeline(encode_perfetto({}, synthetic::make_plan({})), "e");
  REQUIRE(r.ok());
  CHECK(r->spans.empty());
}

// Goal    slices of a track nest and never share an end, whatever the times: Perfetto pairs ends
//         with the innermost open slice.
TEST_CASE("perfetto: slices of a track nest even where measured times overlap") {
  const Plan plan = synthetic::make_plan({2, 1, 2, 1});
  synthetic::Speed speed;
  speed.clock = Clock::monotonic_ns;
  Timeline t = synthetic::run(plan, speed);
  for (CallSpan& c : t.calls) c.ended += 3;  // a kernel seems to end after its op
  for (Span& s : t.spans) s.ended += 5;      // and an op after the next one began
  const std::string bytes = encode_perfetto(t, plan);
  using namespace perfetto;
  std::map<std::uint64_t, std::vector<std::uint64_t>> open;  // track -> begin times
  std::map<std::uint64_t, std::uint64_t> last;
  ProtoReader trace(bytes);
  int slices = 0;
  for (ProtoField p; trace.next(p);) {
    std::uint64_t time = 0, type = 0, track = 0;
    ProtoReader packet(p.bytes);
    for (ProtoField f; packet.next(f);) {
      if (f.number == kTimestamp) time = f.value;
      if (f.number != kTrackEvent) continue;
      ProtoReader event(f.bytes);
      for (ProtoField e; event.next(e);) {
        if (e.number == kType) type = e.value;
        if (e.number == kTrackUuid) track = e.value;
      }
    }
    if (type != kSliceBegin && type != kSliceEnd) continue;
    CHECK(time >= last[track]);  // in the file's order, which breaks ties
    last[track] = time;
    if (type == kSliceBegin) {
      open[track].push_back(time);
      CHECK(open[track].size() <= 2);
      ++slices;
    } else {
      REQUIRE(!open[track].empty());
      open[track].pop_back();
    }
  }
  for (const auto& [track, stack] : open) CHECK(stack.empty());
  CHECK(slices > static_cast<int>(t.spans.size()));
  const Result<Timeline> back = decode_timeline(bytes, "f");
  REQUIRE(back.ok());
  check_equal(*back, t);
}

TEST_CASE("perfetto: every cut is refused with its place, no changed byte crashes") {
  const Plan plan = synthetic::make_plan({2, 1, 1, 1});
  const std::string bytes = encode_perfetto(synthetic::run(plan, {}), plan);
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const Result<Timeline> r = decode_timeline(std::string_view(bytes).substr(0, n), "cut.pftrace");
    REQUIRE(!r.ok());
    CHECK(r.error().failure == Failure::bad_input);
    CHECK(r.error().diagnostics[0].where.file == "cut.pftrace");
    CHECK(!r.error().diagnostics[0].hint.empty());
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (char flip : {'\x01', '\x80', '\x41'}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      const Result<Timeline> r = decode_timeline(changed, "f");  // no crash; it may still be sound
      if (r.ok()) (void)check_timeline(*r, plan, "f");
    }
  }
  const Result<Timeline> half =
      decode_timeline(std::string_view(bytes).substr(0, bytes.size() / 2), "half.pftrace");
  REQUIRE(!half.ok());
  CHECK(half.error().diagnostics[0].code == "E-TIME-002");
  CHECK(half.error().diagnostics[0].found.find("byte") != std::string::npos);
}

TEST_CASE("perfetto: impossible records are refused with packet and byte") {
  const Plan plan = synthetic::make_plan({2, 1, 1, 1});
  const Timeline good = synthetic::run(plan, {});
  const auto first = [&](const Timeline& t) {
    const Result<Timeline> r = decode_timeline(encode_perfetto(t, plan), "bad.pftrace");
    REQUIRE(!r.ok());
    CHECK(r.error().failure == Failure::bad_input);
    CHECK(r.error().diagnostics[0].code == "E-TIME-003");
    return r.error().diagnostics[0].found;
  };
  Timeline t = good;
  t.spans[3].ended = t.spans[3].started - 1;
  CHECK(first(t).find("a negative duration") != std::string::npos);
  CHECK(first(t).find("packet ") == 0);
  t = good;
  t.spans[3].ended = 1'000'000'000'000'000'000;
  CHECK(first(t).find("ended = 1000000000000000000 ps is beyond 11.6 days") != std::string::npos);
  t = good;
  t.memory[0].live[2] = -1;
  CHECK(first(t).find("grad has -1 live bytes") != std::string::npos);
  t = good;
  t.spans[3].step = -1;
  CHECK(first(t).find("step = -1") != std::string::npos);
}

TEST_CASE("check_timeline: what does not fit the plan is named") {
  const Plan plan = synthetic::make_plan({2, 1, 1, 1});
  const Timeline good = synthetic::run(plan, {});
  CHECK(check_timeline(good, plan, "f").ok());
  const auto first = [&](const Timeline& t) {
    const Status s = check_timeline(t, plan, "f.pftrace");
    REQUIRE(!s.ok());
    CHECK(s.error().failure == Failure::bad_input);
    const Diagnostic& d = s.error().diagnostics[0];
    CHECK(d.where.file == "f.pftrace");
    return d.code + " " + d.found;
  };
  Timeline t = good;
  t.spans.back().op = OpId{9999};
  CHECK(first(t) == "E-TIME-004 span of rank 1, step 0: op 9999");
  t = good;
  t.spans[0].op = t.spans.back().op;  // op of rank 1 on rank 0
  CHECK(first(t).find("E-TIME-004 span of rank 0") == 0);
  t = good;
  std::erase_if(t.spans, [](const Span& s) { return s.rank == 1; });
  CHECK(first(t) == "E-TIME-005 no spans of rank 1");
  t.meta["ranks"] = "0";
  std::erase_if(t.calls, [](const CallSpan& s) { return s.rank == 1; });
  CHECK(check_timeline(t, plan, "f").ok());  // it says that it holds rank 0 only
  t = good;
  t.spans.erase(t.spans.begin() + 1);
  CHECK(first(t) == "E-TIME-003 rank 0, step 0, op 1");
  t = good;
  t.spans.insert(t.spans.begin() + 1, t.spans[0]);
  CHECK(first(t) == "E-TIME-003 rank 0, step 0, op 0");
  t = good;
  t.calls[0].call = 2;
  CHECK(first(t) == "E-TIME-004 rank 0, step 0, op 0: call 2");
  t = good;
  t.spans[0].rank = 7;
  CHECK(first(t) == "E-TIME-004 span of rank 7");
}

TEST_CASE("read_timeline: other files are refused with what they are") {
  const auto found = [](std::string_view bytes) {
    const Result<Timeline> r = decode_timeline(bytes, "x");
    REQUIRE(!r.ok());
    CHECK(r.error().diagnostics[0].code == "E-TIME-001");
    return r.error().diagnostics[0].found;
  };
  CHECK(found("") == "an empty file");
  CHECK(found("\x1f\x8b\x08") == "a compressed file");
  CHECK(found("{\"traceEvents\":[]}").find("JSON") == 0);
  CHECK(found("GIF89a") == "bytes of another format");
  // A trace of another program: sound protobuf, but nothing of ours in it.
  CHECK(found(std::string_view("\x0a\x02\x40\x00", 4)) == "a trace without tandem's header");
}

// Goal    an independent decoder reads the file and sees the same numbers.
// Method  protoc with a hand-written schema of the fields in formats.md.
TEST_CASE("perfetto: protoc decodes a file") {
  if (std::system("protoc --version > protoc_version.tmp 2>&1") != 0) {
    MESSAGE("skipped: protoc is not installed (Debian: protobuf-compiler)");
    std::remove("protoc_version.tmp");
    return;
  }
  std::remove("protoc_version.tmp");
  const Plan plan = synthetic::make_plan({2, 2, 2, 1});
  const Timeline t = synthetic::run(plan, odd_ps());
  const std::string base = TANDEM_TEST_DIR "/protoc_test";
  REQUIRE(write_perfetto(t, plan, base + ".pftrace").ok());
  const std::string command = "protoc --proto_path=" TANDEM_SOURCE_DIR
                              "/tests/common/timeline --decode=Trace mini_perfetto.proto < " +
                              base + ".pftrace > " + base + ".txt 2> " + base + ".err";
  REQUIRE(std::system(command.c_str()) == 0);
  std::ifstream in(base + ".txt");
  std::stringstream text;
  text << in.rdbuf();
  const std::string decoded = text.str();
  const auto count = [&](const std::string& word) {
    int n = 0;
    for (std::size_t at = decoded.find(word); at != std::string::npos;
         at = decoded.find(word, at + 1))
      ++n;
    return n;
  };
  CHECK(count("process_name: \"rank ") == 4);
  CHECK(count("thread_name: \"compute\"") == 4);
  CHECK(count("type: SLICE_BEGIN") == count("type: SLICE_END"));
  int sends = 0;
  for (const Span& s : t.spans) sends += plan.op(s.op).kind == OpKind::send;
  CHECK(count(" flow_ids: ") == sends);
  CHECK(count("terminating_flow_ids: ") == sends);
  CHECK(count("unit: BYTES") >= 4);
  // No field that the schema does not know: protoc prints those by number.
  CHECK(decoded.find("\n    1") == std::string::npos);
  for (int n = 1; n < 200; ++n)
    CHECK(decoded.find("  " + std::to_string(n) + ": ") == std::string::npos);
  for (const char* end : {".pftrace", ".txt", ".err"}) std::remove((base + end).c_str());
}

}  // namespace tandem
