// Small plans by hand for tests of the simulator: ops in issue order, one program after the other.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "common/plan/plan.h"
#include "common/scenario/scenario.h"
#include "sim/cluster/cluster.h"

namespace tandem::sim {

class PlanMaker {
 public:
  PlanMaker(int tp, int dp, int pp) {
    plan.header.mesh.size = {tp, 1, dp, pp};
    plan.header.schedule = "test";
    for (int p = 0; p < pp; ++p) plan.header.stage_rank.push_back(p);
    plan.streams = {"compute", "copy_in", "host"};
  }

  std::uint32_t name(const std::string& text) {
    const auto it = std::find(plan.names.begin(), plan.names.end(), text);
    if (it != plan.names.end()) return static_cast<std::uint32_t>(it - plan.names.begin());
    plan.names.push_back(text);
    return static_cast<std::uint32_t>(plan.names.size() - 1);
  }
  StreamId stream(const std::string& text) {
    const auto it = std::find(plan.streams.begin(), plan.streams.end(), text);
    if (it != plan.streams.end()) return StreamId{it - plan.streams.begin()};
    plan.streams.push_back(text);
    return StreamId{static_cast<std::int64_t>(plan.streams.size()) - 1};
  }
  // "tp", "dp", "world", or "edge:A->B".
  CommId comm(const std::string& text) {
    for (std::size_t i = 0; i < plan.communicators.size(); ++i)
      if (plan.name(plan.communicators[i].name) == text) return CommId{static_cast<int>(i)};
    Communicator c;
    c.name = name(text);
    const Mesh& mesh = plan.header.mesh;
    if (text == "tp") c.axes.add(Axis::tp), c.size = mesh.of(Axis::tp);
    if (text == "dp") c.axes.add(Axis::dp), c.size = mesh.of(Axis::dp);
    if (text == "world") c.axes.add(Axis::tp).add(Axis::dp).add(Axis::pp), c.size = mesh.world();
    if (text.rfind("edge:", 0) == 0) {
      c.axes.add(Axis::pp);
      c.size = 2;
      c.pair_first = std::stoi(text.substr(5));
      c.pair_second = std::stoi(text.substr(text.find("->") + 2));
    }
    plan.communicators.push_back(c);
    return CommId{static_cast<int>(plan.communicators.size()) - 1};
  }
  KernelId kernel(Kernel k) {
    for (std::size_t i = 0; i < plan.kernels.size(); ++i)
      if (plan.kernels[i] == k) return KernelId{static_cast<int>(i)};
    plan.kernels.push_back(k);
    return KernelId{static_cast<int>(plan.kernels.size()) - 1};
  }
  // Moves 8 * elements bytes in fp32 and computes nothing.
  KernelId gelu(std::int64_t elements) {
    return kernel({KernelKind::gelu_fwd, {elements, 0, 0, 0}, kErf, {}, {}, {}});
  }
  BufferId buffer(int program, BufferClass cls, std::int64_t bytes) {
    Buffer b;
    b.program = ProgramId{program};
    b.cls = cls;
    b.shape = {bytes / 4};
    plan.buffers.push_back(b);
    return BufferId{static_cast<int>(plan.buffers.size()) - 1};
  }

  void begin_program() {
    plan.programs.push_back({static_cast<std::uint32_t>(plan.ops.size()), 0});
  }
  OpId compute(const std::vector<KernelId>& kernels, const std::vector<OpId>& waits = {}) {
    Op op;
    op.kind = OpKind::compute;
    op.stream = stream("compute");
    op.calls.begin = static_cast<std::uint32_t>(plan.calls.size());
    op.calls.count = static_cast<std::uint32_t>(kernels.size());
    for (KernelId k : kernels) plan.calls.push_back({k, {}, {}, {}});
    return add(op, waits);
  }
  OpId communicate(OpKind kind, const std::string& on, std::int64_t elements,
                   const std::vector<OpId>& waits = {}, int peer = -1) {
    Op op;
    op.kind = kind;
    op.comm = comm(on);
    op.stream = stream("comm:" + on);
    op.count = elements;
    op.reduction = kind == OpKind::all_reduce ? Reduction::sum : Reduction::none;
    op.peer = peer;
    return add(op, waits);
  }
  OpId copy(std::int64_t elements, const std::vector<OpId>& waits = {}) {
    Op op;
    op.kind = OpKind::copy;
    op.stream = stream("copy_in");
    op.count = elements;
    op.dtype = DType::i64;
    return add(op, waits);
  }
  OpId host_wait(const std::vector<OpId>& waits) {
    Op op;
    op.kind = OpKind::host_wait;
    op.stream = stream("host");
    return add(op, waits);
  }
  // Of the last op.
  PlanMaker& allocates(const std::vector<BufferId>& list) { return refs(list, &Op::allocates); }
  PlanMaker& frees(const std::vector<BufferId>& list) { return refs(list, &Op::frees); }

  Plan plan;

 private:
  OpId add(Op op, const std::vector<OpId>& waits) {
    op.waits = {static_cast<std::uint32_t>(plan.op_refs.size()),
                static_cast<std::uint32_t>(waits.size())};
    plan.op_refs.insert(plan.op_refs.end(), waits.begin(), waits.end());
    plan.ops.push_back(op);
    ++plan.programs.back().num_ops;
    return OpId{static_cast<int>(plan.ops.size()) - 1};
  }
  PlanMaker& refs(const std::vector<BufferId>& list, Range Op::*field) {
    plan.ops.back().*field = {static_cast<std::uint32_t>(plan.buffer_refs.size()),
                              static_cast<std::uint32_t>(list.size())};
    plan.buffer_refs.insert(plan.buffer_refs.end(), list.begin(), list.end());
    return *this;
  }
};

// Devices whose gelu of n elements takes 8 n bytes / (1 GB/s) = 8 n ns; no launch overhead.
inline ClusterSpec device_spec(int nodes, int devices_per_node, double latency = 0) {
  ClusterSpec s;
  s.local = false;
  s.nodes = nodes;
  s.devices_per_node = devices_per_node;
  s.device.memory = 1'000'000'000;
  s.device.memory_bandwidth = 1e9;
  s.device.peak = {{"fp32", 1e12}, {"bf16", 1e12}};
  s.network = {{"nvlink", "switch", "node", 100e9, latency, 1, 1, true},
               {"fabric", "fat_tree", "cluster", 10e9, latency, devices_per_node, 1, true}};
  return s;
}
inline ClusterSpec local_spec(int cores) {
  ClusterSpec s;
  s.local = true;
  s.cores_per_node = cores;
  s.device.memory = 1'000'000'000;
  s.device.memory_bandwidth = 1e9;
  s.device.peak = {{"fp32", 1e12}};
  s.network = {{"host", "switch", "node", 1e9, 0, 1, 1, true}};
  return s;
}
inline Cluster cluster_of(const ClusterSpec& spec, int world) {
  return std::move(make_cluster(spec, world).value());
}

// A cell of an order: forward or backward of a microbatch.
struct Cell {
  bool forward;
  int microbatch;
};
inline std::vector<Cell> gpipe_order(int m) {
  std::vector<Cell> out;
  for (int k = 0; k < m; ++k) out.push_back({true, k});
  for (int k = 0; k < m; ++k) out.push_back({false, k});
  return out;
}
inline std::vector<Cell> one_f_one_b_order(int p, int rank, int m) {
  std::vector<Cell> out;
  const int warm_up = std::min(p - 1 - rank, m);
  for (int k = 0; k < warm_up; ++k) out.push_back({true, k});
  for (int k = warm_up; k < m; ++k) {
    out.push_back({true, k});
    out.push_back({false, k - warm_up});
  }
  for (int k = m - warm_up; k < m; ++k) out.push_back({false, k});
  return out;
}

struct PipelineShape {
  int tp = 1, dp = 1, pp = 4, microbatches = 8;
  int layers = 1;                                // of a stage; with tp > 1 each has two all-reduces
  std::int64_t forward = 1000, backward = 2000;  // elements of the gelu of a layer
  std::int64_t message = 0, tp_elements = 0, gradient = 0;
  bool gpipe = false;
  bool metrics = false;  // an all-reduce over the world ends the step, as in real plans
};

// A pipeline with the usual communications; every op also has a small buffer in memory.
inline Plan make_pipeline(const PipelineShape& s, bool buffers = false) {
  PlanMaker make(s.tp, s.dp, s.pp);
  const auto edge = [](int a, int b) {
    return "edge:" + std::to_string(a) + "->" + std::to_string(b);
  };
  for (int rank = 0; rank < s.pp; ++rank) {
    make.begin_program();
    OpId last;
    for (const Cell& cell :
         s.gpipe ? gpipe_order(s.microbatches) : one_f_one_b_order(s.pp, rank, s.microbatches)) {
      const int before = cell.forward ? rank - 1 : rank + 1,
                after = cell.forward ? rank + 1 : rank - 1;
      std::vector<OpId> waits;
      if (before >= 0 && before < s.pp)
        waits = {make.communicate(OpKind::recv, edge(before, rank), s.message, {}, before)};
      for (int layer = 0; layer < s.layers; ++layer) {
        for (int half = 0; half < (s.tp > 1 ? 2 : 1); ++half) {
          last = make.compute({make.gelu(cell.forward ? s.forward : s.backward)}, waits);
          waits.clear();
          if (buffers) {
            const BufferId b = make.buffer(rank, BufferClass::activation, 4096);
            make.allocates({b}).frees({b});
          }
          if (s.tp > 1) waits = {make.communicate(OpKind::all_reduce, "tp", s.tp_elements, {last})};
        }
      }
      if (after >= 0 && after < s.pp)
        make.communicate(OpKind::send, edge(rank, after), s.message,
                         waits.empty() ? std::vector{last} : waits, after);
      if (!waits.empty()) last = waits[0];
    }
    if (s.dp > 1) last = make.communicate(OpKind::all_reduce, "dp", s.gradient, {last});
    if (s.metrics) make.communicate(OpKind::all_reduce, "world", 16, {last});
  }
  return std::move(make.plan);
}

}  // namespace tandem::sim
