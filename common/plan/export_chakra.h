// A plan as Chakra execution traces (MLCommons Chakra, what ASTRA-sim runs): one protobuf file a
// rank, and one JSON file of rank groups. docs/formats/chakra.md has the messages, how each op is
// written and what is lost. Not here: reading such files; where the files lie (tools/chakra_files).
//
//   Node      an op of the rank's program, under the op's id; a shift is a send under its id and a
//             receive under num_ops + id
//   data_deps everything an op must wait for inside the rank: its waits, the op before it on its
//             stream (ops of one group: the op before the group), and the last host_wait, which
//             holds back all that is issued later. Complete without ctrl_deps
//   ctrl_deps launch order: the op before it on its stream, and for what takes the device's one
//             communication slot (collectives and sends) the one before it in issue order. A
//             reader that runs one communication at a time would else start two collectives of
//             different groups in another order than a peer, and both would wait for ever. Left
//             out for what takes the slot where it would close a cycle: has_launch_order()
//   comm_tag  of a message: its match id; of a shift that has none, a number behind all match ids
//   num_ops   FLOPs of the op's kernels; at least 1 where bytes are moved, because a reader's
//             roofline divides by it
//   Source    schema/protobuf/et_def.proto of mlcommons/chakra; attributes as ASTRA-sim 2 reads
//             them (astra-sim/workload/Workload.cc)
//
// Pure; any number of threads may use one ChakraExport.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/base/sink.h"
#include "common/plan/plan.h"

namespace tandem {

// NodeType and CollectiveCommType of the schema: those that are written.
enum class ChakraType : std::uint8_t { compute = 4, send = 5, receive = 6, collective = 7 };
enum class ChakraCollective : std::uint8_t {
  all_reduce = 0,
  all_gather = 2,
  broadcast = 5,
  all_to_all = 6,
  reduce_scatter = 7
};

struct ChakraNode {
  std::uint64_t id = 0;
  std::string name;
  ChakraType type = ChakraType::compute;
  std::vector<std::uint64_t> ctrl_deps, data_deps;
  std::uint64_t duration_us = 0;
  bool is_cpu_op = false;
  // compute
  std::int64_t num_ops = 0;
  std::uint64_t tensor_size = 0;  // bytes
  // communication
  ChakraCollective comm_type = ChakraCollective::all_reduce;
  std::int64_t comm_size = 0;  // bytes that this rank hands over (a receive: that it gets)
  std::int32_t peer = 0;       // comm_src of a receive, comm_dst of a send
  std::int32_t tag = 0;
  std::string pg_name;  // a key of the group file
};

// One record of a file: its length as varint, then the message. A file is a record of metadata,
// then nodes.
[[nodiscard]] std::string chakra_record(const ChakraNode& node);
// `version` must not be empty: readers take a record of no bytes for the end of the file.
[[nodiscard]] std::string chakra_metadata(std::string_view version, std::string_view plan_id = {});

struct ChakraOptions {
  std::string plan_id;
  // By op id: how long its computing takes (a broadcast: how long it takes); empty: not known, and
  // then durations are 0. Written in whole microseconds, rounded so that the sum over a stream is
  // right to half of one.
  std::vector<Picoseconds> durations;
};

class ChakraExport {
 public:
  // The plan has passed verification and outlives this.
  ChakraExport(const Plan& plan, ChakraOptions options);

  // One order of launches on each rank takes all of them to the end, sends ending by themselves.
  // So for every plan that Tandem lowers; a plan file may have none and then may get a reader with
  // one slot stuck.
  [[nodiscard]] bool has_launch_order() const { return launch_order_; }

  // The file of one rank, piece by piece: memory does not grow with the plan. Returns the sink's
  // first failure.
  [[nodiscard]] Status write(Rank rank, const Sink& sink) const;

  // {"1": [0, 1], "2": [2, 3]}: the groups of all communicators that have collectives, numbered
  // from 1 in the order of communicators, then of first members. Equal ones are not merged.
  [[nodiscard]] std::string groups_json() const;

 private:
  class RankWriter;
  const Plan& plan_;
  ChakraOptions options_;
  bool launch_order_ = false;
  std::int64_t first_tag_ = 0;                          // of shifts without a match
  std::vector<std::vector<std::vector<Rank>>> groups_;  // by communicator
  std::vector<std::int64_t> first_group_;               // number of a communicator's first group
  std::vector<KernelCost> costs_;                       // [kernel][accumulates]
};

}  // namespace tandem
