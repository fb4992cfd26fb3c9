// Goal    a Chakra trace says what the plan says, in the bytes of the public schema, and a reader
//         that keeps one communication in flight comes to its end; a Graphviz graph is one that
//         Graphviz draws.
// Method  the worked file byte by byte; a decoder that shares no code with the writer
//         (chakra_decoder.h), and protoc; laws over layouts with every kind of communication; runs
//         in random order (chakra_runner.h).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>

#include "common/base/file.h"
#include "common/plan/export_chakra.h"
#include "common/plan/export_dot.h"
#include "common/plan/totals.h"
#include "tests/common/plan/chakra_decoder.h"
#include "tests/common/plan/chakra_runner.h"
#include "tests/common/plan/example.h"
#include "tests/common/plan/plan_of.h"

namespace tandem {
namespace {

using chakra::Groups;
using chakra::Node;
using chakra::Trace;

struct Layout {
  std::string name, text;
};

const std::string kJob = "training: {global_batch: 8, micro_batch: 1}\n";
const std::string kGpt = "model: gpt-tiny\n" + kJob;
const std::string kLlama = "model: llama-tiny\n" + kJob;

// Together: every kind of communication, several stages a rank, two copies, split backwards, late
// and grouped messages.
const std::vector<Layout>& layouts() {
  static const std::vector<Layout> kLayouts = {
      {"one rank", kGpt},
      {"three axes", kGpt + "parallel: {tp: 2, pp: 2, dp: 2}\nschedule: 1f1b\n"},
      {"sequence parallel, ZeRO 3", kLlama + "parallel: {tp: 2, dp: 2, sequence_parallel: true, "
                                             "zero: 3}\n"},
      {"ZeRO 2 in a pipeline", kLlama + "parallel: {pp: 2, dp: 2, zero: 2}\nschedule: 1f1b\n"},
      {"interleaved", kGpt + "parallel: {pp: 2}\nschedule: {kind: interleaved_1f1b, "
                             "stages_per_rank: 2}\n"},
      {"windows of stages", kLlama + "parallel: {pp: 2, dp: 2, zero: 3, parameter_gather: "
                                     "{residency: window}}\n"
                                     "schedule: {kind: bfs, stages_per_rank: 2}\n"},
      {"slices", kLlama + "parallel: {pp: 2, tp: 2}\nschedule: {kind: seq1f1b, slices: 2}\n"},
      {"a V", kGpt + "parallel: {pp: 2, tp: 2}\nschedule: zbv\n"},
      {"two copies", kGpt + "parallel: {pp: 2, dp: 2}\nschedule: dualpipe\n"},
      {"ring", kLlama + "parallel: {cp: 4, pp: 2}\nschedule: 1f1b\n"},
      {"experts", "model: mixtral-tiny\n" + kJob +
                      "parallel: {dp: 4, ep: 2, pp: 2}\n"
                      "schedule: 1f1b\n"},
      {"grouped", kGpt + "parallel: {pp: 4}\nschedule: {kind: 1f1b, communicators: pair, "
                         "grouping: runs}\n"},
      {"deferred", kGpt + "parallel: {pp: 4}\nschedule: {kind: 1f1b, receive: deferred}\n"},
  };
  return kLayouts;
}

std::string trace_bytes(const ChakraExport& traces, int rank) {
  return write_to_string([&](const Sink& sink) { return traces.write(Rank{rank}, sink); });
}

struct Exported {
  std::vector<Trace> traces;
  Groups groups;
};

Exported exported(const Plan& plan, ChakraOptions options = {}) {
  const ChakraExport writer(plan, std::move(options));
  CHECK(writer.has_launch_order());
  Exported out;
  for (int r = 0; r < plan.header.mesh.world(); ++r)
    out.traces.push_back(chakra::decode(trace_bytes(writer, r)));
  const auto groups = nlohmann::json::parse(writer.groups_json());
  for (const auto& [key, ranks] : groups.items()) {
    out.groups[key] = ranks.get<std::vector<int>>();
    CHECK(std::stoi(key) > 0);  // "0" is all ranks
  }
  return out;
}

std::string hex(std::string_view bytes) {
  std::string out;
  for (char c : bytes) out += fmt::format("{:02x} ", static_cast<unsigned char>(c));
  return out;
}

}  // namespace

// The worked example: metadata "0.0.4", 12 us of computing (1,000,000 FLOPs, 4,096 B), and behind
// it an all-reduce of 1 MiB in group 1. protoc decodes these bytes.
TEST_CASE("chakra: the worked file, byte for byte") {
  CHECK(hex(chakra_metadata("0.0.4")) == "07 0a 05 30 2e 30 2e 34 ");
  ChakraNode forward;
  forward.id = 1;
  forward.name = "F0";
  forward.duration_us = 12;
  forward.num_ops = 1'000'000;
  forward.tensor_size = 4096;
  CHECK(hex(chakra_record(forward)) ==
        "3b 08 01 12 02 46 30 18 04 38 0c 52 0e 0a 09 69 73 5f 63 70 75 5f 6f 70 d8 01 00 52 0d 0a "
        "07 6e 75 6d 5f 6f 70 73 48 c0 84 3d 52 10 0a 0b 74 65 6e 73 6f 72 5f 73 69 7a 65 68 80 "
        "20 ");
  ChakraNode reduce;
  reduce.id = 2;
  reduce.name = "AR";
  reduce.type = ChakraType::collective;
  reduce.data_deps = {1};
  reduce.comm_size = 1 << 20;
  reduce.pg_name = "1";
  CHECK(hex(chakra_record(reduce)) ==
        "4a 08 02 12 02 41 52 18 07 2a 01 01 52 0e 0a 09 69 73 5f 63 70 75 5f 6f 70 d8 01 00 52 0d "
        "0a 09 63 6f 6d 6d 5f 74 79 70 65 48 00 52 0f 0a 09 63 6f 6d 6d 5f 73 69 7a 65 48 80 80 "
        "40 52 0d 0a 07 70 67 5f 6e 61 6d 65 ea 01 01 31 ");
}

// Every op is a node under its id, a shift two; a dependency is on a node that was written before,
// so there is no cycle inside a rank.
TEST_CASE("chakra: ids, names and dependencies of every layout") {
  std::set<OpKind> kinds;
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const Exported e = exported(plan, {.plan_id = "0123456789abcdef"});
    for (int r = 0; r < plan.header.mesh.world(); ++r) {
      CAPTURE(r);
      const Trace& t = e.traces[static_cast<std::size_t>(r)];
      CHECK(t.version == "0.0.4");
      CHECK(t.plan_id == "0123456789abcdef");
      const Program& program = plan.programs[plan.program_of(Rank{r}).index()];
      std::set<std::uint64_t> written;
      std::size_t expected = 0;
      for (std::uint32_t i = 0; i < program.num_ops; ++i) {
        const std::uint64_t id = program.first_op + i;
        kinds.insert(plan.ops[id].kind);
        expected += plan.ops[id].kind == OpKind::shift ? 2 : 1;
      }
      for (const Node& n : t.nodes) {
        for (const auto* deps : {&n.data_deps, &n.ctrl_deps}) {
          CHECK(std::is_sorted(deps->begin(), deps->end()));
          for (std::uint64_t d : *deps) CHECK_MESSAGE(written.count(d) == 1, n.name);
        }
        CHECK(written.insert(n.id).second);
        const std::uint64_t op = n.id % plan.ops.size();
        CHECK(op >= program.first_op);
        CHECK(op < program.first_op + program.num_ops);
        const bool second = n.id >= plan.ops.size();
        CHECK((!second || plan.ops[op].kind == OpKind::shift));
      }
      CHECK(t.nodes.size() == expected);
    }
  }
  for (OpKind kind : {OpKind::compute, OpKind::all_reduce, OpKind::all_gather,
                      OpKind::reduce_scatter, OpKind::all_to_all, OpKind::send, OpKind::recv,
                      OpKind::shift, OpKind::copy, OpKind::host_wait})
    CHECK_MESSAGE(kinds.count(kind) == 1, name_of(kind));
}

// What the plan orders, data_deps order by themselves: waits, streams, host_wait. What it does not,
// they do not: ops that are issued as one group do not stand behind each other.
TEST_CASE("chakra: data dependencies are the plan's order, no more and no less") {
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const Exported e = exported(plan);
    const std::uint64_t num_ops = plan.ops.size();
    std::set<std::size_t> seen;
    for (int r = 0; r < plan.header.mesh.world(); ++r) {
      const std::size_t p = plan.program_of(Rank{r}).index();
      if (!seen.insert(p).second) continue;
      const Program& program = plan.programs[p];
      const auto at = [&](std::uint64_t op) { return op - program.first_op; };
      // Ancestors by the trace's data_deps, and by the plan's own rules, as sets of ops.
      std::vector<std::vector<bool>> traced(program.num_ops), planned(program.num_ops);
      const auto join = [](std::vector<bool>& into, const std::vector<bool>& from) {
        for (std::size_t k = 0; k < from.size(); ++k) into[k] = into[k] || from[k];
      };
      for (auto* table : {&traced, &planned})
        for (auto& row : *table) row.assign(program.num_ops, false);
      for (const Node& n : e.traces[static_cast<std::size_t>(r)].nodes)
        for (std::uint64_t d : n.data_deps) {
          std::vector<bool>& row = traced[at(n.id % num_ops)];
          row[at(d % num_ops)] = true;
          join(row, traced[at(d % num_ops)]);
        }
      std::int64_t host = -1;
      for (std::uint32_t i = 0; i < program.num_ops; ++i) {
        const Op& op = plan.ops[program.first_op + i];
        const auto behind = [&](std::uint32_t k) {
          planned[i][k] = true;
          join(planned[i], planned[k]);
        };
        for (OpId wait : plan.waits_of(op)) behind(static_cast<std::uint32_t>(at(wait.index())));
        for (std::uint32_t k = 0; k < i; ++k) {
          const Op& before = plan.ops[program.first_op + k];
          if (before.stream == op.stream && (op.group < 0 || before.group != op.group)) behind(k);
        }
        if (host >= 0) behind(static_cast<std::uint32_t>(host));
        if (op.kind == OpKind::host_wait) host = i;
      }
      CHECK(traced == planned);
    }
  }
}

TEST_CASE("chakra: messages pair by source, destination and tag, with one size") {
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const Exported e = exported(plan);
    std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::int64_t> sent, received;
    std::map<std::string, std::map<int, std::vector<std::pair<std::int64_t, std::int64_t>>>> calls;
    for (int r = 0; r < plan.header.mesh.world(); ++r)
      for (const Node& n : e.traces[static_cast<std::size_t>(r)].nodes) {
        if (n.type == chakra::kSend)
          CHECK(
              sent.insert({{r, n.number("comm_dst"), n.number("comm_tag")}, n.number("comm_size")})
                  .second);
        if (n.type == chakra::kRecv)
          CHECK(
              received
                  .insert({{n.number("comm_src"), r, n.number("comm_tag")}, n.number("comm_size")})
                  .second);
        if (n.type == chakra::kColl)
          calls[n.attr.at("pg_name").text][r].emplace_back(n.number("comm_type"),
                                                           n.number("comm_size"));
        CHECK(n.number("is_cpu_op") ==
              (n.name.starts_with("copy") || n.name.starts_with("host_wait")));
      }
    CHECK(sent == received);
    // Every member of a group, and nobody else, does the same collectives in the same order.
    CHECK(calls.size() == e.groups.size());
    for (const auto& group : e.groups) {
      const std::string& key = group.first;
      CAPTURE(key);
      REQUIRE(calls[key].size() == group.second.size());
      for (int r : group.second) CHECK(calls[key].at(r) == calls[key].at(group.second[0]));
    }
  }
}

// A rank's nodes hand over what its program does by tag_totals, communicator by communicator, and
// compute what executed_flops and kernel_totals say.
TEST_CASE("chakra: sums of sizes, FLOPs and bytes are the plan's") {
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const Exported e = exported(plan);
    for (int r = 0; r < plan.header.mesh.world(); ++r) {
      const ProgramId program = plan.program_of(Rank{r});
      std::int64_t collectives = 0, messages = 0, flops = 0, bytes = 0, no_flops = 0;
      std::map<std::vector<int>, std::int64_t> by_members, planned_by_members;
      for (const Node& n : e.traces[static_cast<std::size_t>(r)].nodes) {
        if (n.type == chakra::kColl) {
          collectives += n.number("comm_size");
          by_members[e.groups.at(n.attr.at("pg_name").text)] += n.number("comm_size");
        }
        if (n.type == chakra::kSend) messages += n.number("comm_size");
        if (n.type != chakra::kComp || n.number("is_cpu_op")) continue;
        CHECK(n.number("num_ops") >= 1);  // a roofline divides by it
        CHECK(n.number("tensor_size") >= 1);
        no_flops += n.number("num_ops") == 1;
        flops += n.number("num_ops");
        bytes += n.number("tensor_size");
      }
      std::int64_t planned_collectives = 0, planned_messages = 0;
      for (const TagTotal& t : tag_totals(plan, program)) {
        if (is_collective(t.kind)) {
          planned_collectives += t.total_in();
          std::vector<int> members;
          for (Rank m : plan.members(t.comm, Rank{r})) members.push_back(m.value);
          planned_by_members[members] += t.total_in();
        } else if (t.kind != OpKind::recv) {
          planned_messages += t.total_in();
        }
      }
      CHECK(collectives == planned_collectives);
      CHECK(by_members == planned_by_members);
      CHECK(messages == planned_messages);
      CHECK(flops - no_flops == static_cast<std::int64_t>(executed_flops(plan, program)));
      double moved = 0;
      for (const KernelTotal& k : kernel_totals(plan, program))
        moved += static_cast<double>(k.calls) * k.cost.bytes;
      CHECK(bytes == static_cast<std::int64_t>(moved));
    }
  }
}

// Goal    a reader with one slot for communications ends, whatever the times are; the order in
//         ctrl_deps is what makes it so.
// Method  8 random runs of every layout; the same without ctrl_deps, of which some must get stuck.
TEST_CASE("chakra: traces run to their end, one communication at a time") {
  int stuck = 0;
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const Exported e = exported(plan);
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      CAPTURE(seed);
      CHECK(chakra::Runner(e.traces, e.groups, true).run(seed) == 0);
      stuck += chakra::Runner(e.traces, e.groups, false).run(seed) > 0;
    }
  }
  MESSAGE(stuck << " of the runs without ctrl_deps got stuck");
  CHECK(stuck > 0);
}

// Two programs that launch two reductions in opposite order: legal with a queue for each, a cycle
// with one. The order within streams stays.
TEST_CASE("chakra: a launch order that cannot end is left out") {
  const auto text = [](const std::string& second) {
    return "plan 1 digest=0000000000000000 schedule=1f1b receive=early communicators=edge "
           "grouping=none microbatches=1 micro_batch=1 seq=1 mesh=tp:1,dp:1,pp:2 stages=0@0,1@1 "
           "dtype=f32 main_grad=f32\n"
           "comm 0 a axes=pp size=2\ncomm 1 b axes=pp size=2\n"
           "buf 0,1 p0 comm f32[4] x,y\nbuf 2,3 p1 comm f32[4] x,y\n"
           "program 0\n"
           " op 0 O on=comm:a all_reduce c0 sum 4xf32 buf=0 match=0\n"
           " op 1 O on=comm:b all_reduce c1 sum 4xf32 buf=1 match=1\n"
           "program 1\n" +
           second;
  };
  const std::string a = "O on=comm:a all_reduce c0 sum 4xf32 buf=2 match=0\n",
                    b = "O on=comm:b all_reduce c1 sum 4xf32 buf=3 match=1\n";
  const Plan same = parsed(text(" op 2 " + a + " op 3 " + b));
  CHECK(ChakraExport(same, {}).has_launch_order());
  CHECK(chakra::decode(trace_bytes(ChakraExport(same, {}), 1)).nodes[1].ctrl_deps ==
        std::vector<std::uint64_t>{2});
  const Plan crossed = parsed(text(" op 2 " + b + " op 3 " + a));
  CHECK_FALSE(ChakraExport(crossed, {}).has_launch_order());
  CHECK(chakra::decode(trace_bytes(ChakraExport(crossed, {}), 1)).nodes[1].ctrl_deps.empty());
}

// 1.4 us an op: 1, 1, 2, 1, 1, 2 ... whole microseconds, never more than half of one off.
TEST_CASE("chakra: durations are rounded so that sums stay right") {
  const Plan plan = plan_of(scenario(kGpt + "parallel: {pp: 2}\nschedule: 1f1b\n"));
  const Exported e =
      exported(plan, {.durations = std::vector<Picoseconds>(plan.ops.size(), 1'400'000)});
  for (int r = 0; r < 2; ++r) {
    std::int64_t sum = 0, ops = 0;
    for (const Node& n : e.traces[static_cast<std::size_t>(r)].nodes) {
      if (n.type != chakra::kComp) CHECK(n.duration_micros == 0);
      if (n.type != chakra::kComp || n.number("is_cpu_op")) continue;
      ++ops;
      sum += static_cast<std::int64_t>(n.duration_micros);
      CHECK(std::abs(10 * sum - 14 * ops) <= 5);
    }
    CHECK(ops > 50);
  }
  for (const Trace& t : exported(plan).traces)
    for (const Node& n : t.nodes) CHECK(n.duration_micros == 0);
}

// Width 12,288: gradients of the embedding have more than 2^32 bytes, a product more than 2^40
// FLOPs.
TEST_CASE("chakra: sizes have 64 bits; pieces stay small however long the file is") {
  const Plan plan = plan_of(
      scenario("model: {layers: 2, hidden: 12288, heads: 96, ffn_hidden: 49152, vocab: 100608, "
               "max_sequence: 2048}\n"
               "training: {sequence: 2048, micro_batch: 1, global_batch: 4096, precision: bf16}\n"
               "parallel: {dp: 8}\ncluster: dgx-h100\n"));
  std::size_t largest = 0, total = 0, pieces = 0;
  std::string bytes;
  const ChakraExport traces(plan, {});
  REQUIRE(traces
              .write(Rank{1},
                     [&](std::string_view piece) -> Status {
                       largest = std::max(largest, piece.size());
                       total += piece.size(), ++pieces;
                       bytes += piece;
                       return Ok{};
                     })
              .ok());
  CHECK(pieces > 2);
  CHECK(largest < (1u << 18) + 4096);
  CHECK(total == bytes.size());
  std::int64_t most_comm = 0, most_ops = 0;
  for (const Node& n : chakra::decode(bytes).nodes) {
    if (n.type == chakra::kColl) most_comm = std::max(most_comm, n.number("comm_size"));
    if (n.type == chakra::kComp) most_ops = std::max(most_ops, n.number("num_ops"));
  }
  std::int64_t planned = 0;
  for (const Op& op : plan.ops)
    if (is_collective(op.kind)) planned = std::max(planned, Plan::bytes_in(op));
  CHECK(most_comm == planned);
  CHECK(most_comm > (std::int64_t{1} << 32));
  CHECK(most_ops > (std::int64_t{1} << 40));
}

TEST_CASE("chakra: a sink that fails ends the export with its error") {
  const Plan plan = plan_of(scenario(kGpt));
  const Status s = ChakraExport(plan, {}).write(Rank{0}, [](std::string_view) -> Status {
    return make_error(Failure::output, "E-IO-010", "cannot write the file", "disk full", "room",
                      "free some");
  });
  REQUIRE(!s.ok());
  CHECK(s.error().diagnostics[0].code == "E-IO-010");
}

// Goal    a second independent decoder, Google's own, knows every field.
TEST_CASE("chakra: protoc decodes a trace") {
  if (std::system("protoc --version > /dev/null 2>&1") != 0) {
    MESSAGE("skipped: protoc is not installed (Debian: protobuf-compiler)");
    return;
  }
  const Plan plan = plan_of(scenario(layouts()[9].text));
  const std::string bytes = trace_bytes(ChakraExport(plan, {.plan_id = "0123456789abcdef"}), 0);
  // The metadata by itself; the nodes as elements of a repeated field.
  std::string_view rest = bytes;
  const std::string metadata(chakra::take_bytes(rest));
  std::string nodes;
  std::size_t count = 0;
  while (!rest.empty()) {
    const std::string_view from = rest;
    (void)chakra::take_bytes(rest);
    nodes += '\x0a';
    nodes += from.substr(0, from.size() - rest.size());
    ++count;
  }
  const std::string base = TANDEM_TEST_DIR "/chakra_protoc";
  const auto decoded = [&](const std::string& message, const std::string& input) {
    REQUIRE(write_file_atomic(base + ".bin", input).ok());
    const std::string command =
        "protoc --proto_path=" TANDEM_SOURCE_DIR "/tests/common/plan --decode=" + message +
        " mini_chakra.proto < " + base + ".bin > " + base + ".txt 2> " + base + ".err";
    REQUIRE(std::system(command.c_str()) == 0);
    std::ifstream in(base + ".txt");
    std::stringstream text;
    text << in.rdbuf();
    for (const char* end : {".bin", ".txt", ".err"}) std::remove((base + end).c_str());
    return text.str();
  };
  CHECK(decoded("GlobalMetadata", metadata).starts_with("version: \"0.0.4\"\n"));
  const std::string text = decoded("File", nodes);
  const auto occurrences = [&](const std::string& word) {
    std::size_t n = 0;
    for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
      ++n;
    return n;
  };
  CHECK(occurrences("node {") == count);
  CHECK(occurrences("name: \"is_cpu_op\"") == count);
  CHECK(occurrences("bool_val: ") == count);
  const Program& program = plan.programs[0];
  std::size_t sends = 0;
  for (std::uint32_t i = 0; i < program.num_ops; ++i) {
    const OpKind kind = plan.ops[program.first_op + i].kind;
    sends += kind == OpKind::send || kind == OpKind::shift;
  }
  CHECK(occurrences("type: COMM_SEND_NODE") == sends);
  for (int n = 1; n < 40; ++n)  // protoc prints fields that it does not know by number
    CHECK(text.find(fmt::format(" {}: ", n)) == std::string::npos);
}

namespace {

std::size_t lines_with(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) n += line.find(word) != std::string::npos;
  return n;
}

}  // namespace

// A box an op, and an edge for each wait, each step of a stream, each message and each collective
// that programs share.
TEST_CASE("dot: boxes, frames and edges are the plan's") {
  for (const Layout& l : layouts()) {
    CAPTURE(l.name);
    const Plan plan = plan_of(scenario(l.text));
    const std::string dot = plan_dot(plan);
    CHECK(dot.starts_with("digraph plan {\n"));
    CHECK(lines_with(dot, "[label=") == plan.ops.size());
    std::set<std::pair<std::size_t, std::int32_t>> streams;
    std::map<std::int32_t, std::size_t> ends;
    std::size_t waits = 0, sends = 0, shared = 0;
    for (std::size_t p = 0; p < plan.programs.size(); ++p)
      for (const Op& op : plan.ops_of(ProgramId{static_cast<int>(p)})) {
        streams.insert({p, op.stream.value});
        waits += op.waits.count;
        sends += op.kind == OpKind::send;
        if (is_collective(op.kind) && op.match >= 0) shared += ends[op.match]++ > 0 ? 1 : 0;
      }
    CHECK(lines_with(dot, "subgraph cluster_p") == plan.programs.size() + streams.size());
    CHECK(lines_with(dot, "[style=dotted]") == plan.ops.size() - streams.size());
    CHECK(lines_with(dot, "[style=bold") == sends);
    CHECK(lines_with(dot, "[style=dashed") == shared);
    CHECK(lines_with(dot, " -> ") == waits + plan.ops.size() - streams.size() + sends + shared);
  }
}

TEST_CASE("dot: Graphviz draws every layout, and names with quotes") {
  if (std::system("dot -V > /dev/null 2>&1") != 0) {
    MESSAGE("skipped: dot is not installed (Debian: graphviz)");
    return;
  }
  Plan plan = plan_of(scenario(
      "model: {layers: 2, hidden: 32, heads: 2, ffn_hidden: 64, vocab: 64, max_sequence: 16}\n"
      "training: {sequence: 16, micro_batch: 1, global_batch: 4}\n"
      "parallel: {pp: 2, tp: 2}\nschedule: 1f1b\n"));
  for (std::string& name : plan.names)
    if (name == "tp") name = "a\"b\\c";
  const std::string base = TANDEM_TEST_DIR "/dot_test";
  REQUIRE(write_file_atomic(base + ".dot", plan_dot(plan)).ok());
  CHECK(std::system(
            ("dot -Tsvg " + base + ".dot > " + base + ".svg 2> " + base + ".err").c_str()) == 0);
  std::ifstream in(base + ".svg");
  std::stringstream svg;
  svg << in.rdbuf();
  CHECK(lines_with(svg.str(), "class=\"node\"") == plan.ops.size());
  for (const char* end : {".dot", ".svg", ".err"}) std::remove((base + end).c_str());
}

}  // namespace tandem
