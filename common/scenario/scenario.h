// The scenario as plain structs: what a user asks for, presets applied, units converted, every
// "auto" that depends only on the scenario resolved. No behaviour. The fields and their defaults
// come from the one table in fields.cpp; docs/scenario_reference.md is generated from it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/diagnostic.h"
#include "common/base/units.h"

namespace tandem {

enum class ModelFamily { gpt, llama, mixtral, deepseek_v3 };
enum class Gelu { erf, tanh };
enum class Init { normal, test };
enum class Precision { fp64, fp32, bf16, fp16, fp8 };
enum class Recompute { none, selective, full, layers };
enum class AttentionKind { flash, materialised };
enum class DataKind { text, random };
enum class Sampler { random, sequential };
enum class Receive { early, deferred, deferred_parity };
enum class P2pCommunicators { edge, pair, world };
enum class Grouping { none, runs };
enum class OptimizerBarrier { synchronous, post_validated };
enum class FirstStage { full_at_w, keep };
enum class RouterKind { softmax, sigmoid };
enum class BalanceScope { sequence, microbatch };
enum class Mapping { megatron, nano_train };
enum class Style { tandem, nano_train };
enum class ExpertData { split, replicate };
enum class ZeroReduce { automatic, last, every };
enum class WeightStash { automatic, full, shard };
enum class Residency { visit, window };
enum class Fidelity { automatic, closed_form, flow, message };
enum class DeviceKind { cpu, cuda, rehearsal };
enum class TransportKind { automatic, local, mpi, nccl };
enum class CollectiveLibrary { nccl, host };
enum class TimelineFormat { perfetto, chrome, csv };
enum class RankSelection { representatives, all, listed };

// Mixture of experts (models.md 2.5). experts 0: none.
struct MoeSpec {
  int experts = 0, top_k = 1, expert_hidden = 0, shared_experts = 0;
  RouterKind router = RouterKind::softmax;
  int groups = 1, groups_kept = 1;  // group-limited choice
  double scale = 1.0;               // of the routing weights
  int dense_first = 0, every = 1;   // layers below are dense; of the others every n-th has experts
  std::optional<double> capacity_factor;  // nullopt: nothing is dropped
  int drop_groups = 0;                    // resolved: tp * cp
  double expert_loss = 0, device_loss = 0, bias_update = 0;
  BalanceScope scope = BalanceScope::sequence;
  int device_groups = 0;   // resolved: ep
  bool group_max = false;  // resolved: a group counts by its best expert (style nano_train)
  bool operator==(const MoeSpec&) const = default;
};

// Multi-head latent attention (models.md 2.3). kv_rank 0: ordinary attention; q_rank 0: one q
// matrix.
struct MlaSpec {
  int q_rank = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0, v_dim = 0;
  bool operator==(const MlaSpec&) const = default;
};

struct ModelSpec {
  std::string preset;  // name of the preset it started from; empty: none
  ModelFamily family = ModelFamily::gpt;
  int layers = 0, hidden = 0, heads = 0, kv_heads = 0, ffn_hidden = 0, vocab = 0, max_sequence = 0;
  int head_dim = 0;  // resolved: hidden / heads unless given
  bool tied_embeddings = true;
  Gelu gelu = Gelu::erf;
  double norm_eps = 1e-5;  // resolved
  double rope_base = 10000;
  MoeSpec moe;
  MlaSpec mla;
  std::string from_hf;  // path of the Hugging Face config.json it started from; empty: none
};

struct OptimizerSpec {
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  std::optional<double> clip = 1.0;  // nullopt: none
  int warmup_steps = 0;
  bool cosine = false;
  int decay_steps = 0;     // resolved: steps
  bool decay_all = false;  // resolved: vectors decay too (style nano_train)
  double min_lr = 0;       // resolved: lr / 10
};

struct DataSpec {
  DataKind kind = DataKind::text;
  std::string path = "builtin";  // file of bytes; builtin: the shipped corpus
  Sampler sampler = Sampler::random;
};

struct CheckpointSpec {
  std::string directory;  // empty: none
  int every = 0;          // steps; 0: only at the end
};

// Losses of text that is not trained on (models.md 8.2, 8.3).
struct EvaluationSpec {
  int every = 0;    // steps; 0: never
  int batches = 1;  // global batches of one evaluation
};

// Values of a step that cost a pass over gradients and parameters (models.md 8.3).
struct MetricsSpec {
  int every = 0;             // steps; 0: never
  bool activations = false;  // also of a forward's layers
};

struct TrainingSpec {
  int sequence = 0;  // resolved: max_sequence
  Init init = Init::normal;
  int global_batch = 0;  // sequences a step; resolved: 8 * micro_batch * dp
  int micro_batch = 1;   // sequences a microbatch and DP rank
  int steps = 3;
  Precision precision = Precision::fp32;
  Recompute recompute = Recompute::none;
  int recompute_layers = 0;
  AttentionKind attention = AttentionKind::flash;
  OptimizerSpec optimizer;
  DataSpec data;
  CheckpointSpec checkpoint;
  EvaluationSpec evaluation;
  MetricsSpec metrics;
};

// Whether the layer at this place of its stage (0, 1, ...) is computed again in the backward.
[[nodiscard]] inline bool recomputed_layer(const TrainingSpec& t, int place) {
  return t.recompute == Recompute::full ||
         (t.recompute == Recompute::layers && place < t.recompute_layers);
}

struct ParallelSpec {
  int tp = 1, pp = 1, cp = 1, ep = 1, etp = 1;
  int dp = 1;  // resolved
  bool sequence_parallel = false, vocab_parallel = true;
  int zero = 0;
  Mapping mapping = Mapping::megatron;
  Style style = Style::tandem;
  ExpertData ep_data = ExpertData::split;
  ZeroReduce zero_reduce = ZeroReduce::automatic;  // last for levels 0, 1; every for 2, 3
  WeightStash weight_stash = WeightStash::automatic;
  int gather_prefetch = 1;  // ZeRO-3: units gathered ahead
  bool gather_overlap = true;
  Residency gather_residency = Residency::visit;
  int gather_window = 3;  // stages that stay with residency window
  [[nodiscard]] bool keeps_window() const {
    return zero == 3 && gather_residency == Residency::window;
  }
  std::vector<std::string> order = {"tp", "cp", "ep", "dp", "pp"};  // fastest first
  std::vector<int> layer_split;                                     // resolved: one entry per stage
  Bytes gradient_bucket = 40LL << 20;
  bool gradient_overlap = true;
  [[nodiscard]] bool nano_train() const { return mapping == Mapping::nano_train; }
  [[nodiscard]] bool replicates() const { return nano_train() && ep_data == ExpertData::replicate; }
  // Ranks of one model replica: in mapping nano_train ep is a factor of its own (models.md 3.2).
  [[nodiscard]] int replica() const { return tp * cp * pp * (nano_train() ? ep : 1); }
  [[nodiscard]] int world() const { return replica() * dp; }
  // Ranks that read different sequences.
  [[nodiscard]] int data_ranks() const { return dp * (nano_train() && !replicates() ? ep : 1); }
};

struct ScheduleSpec {
  std::string kind = "1f1b";                   // a name of the schedule registry
  int stages_per_rank = 1;                     // resolved
  std::map<std::string, std::string> options;  // every other option of schedules.md 2.17, as text
  FirstStage first_stage = FirstStage::full_at_w;
  bool merge = false;
  Receive receive = Receive::early;
  P2pCommunicators communicators = P2pCommunicators::edge;
  Grouping grouping = Grouping::none;
  OptimizerBarrier optimizer_barrier = OptimizerBarrier::synchronous;
};

// One level of the network, from the inside out.
struct NetworkLevel {
  std::string name;
  std::string kind = "switch";  // switch | fat_tree | ring | full_mesh
  std::string scope = "node";   // node | cluster
  double bandwidth = 0;         // bytes/s: per device (scope node) or per NIC, one direction
  double latency = 0;           // seconds, one traversal
  int nics_per_node = 1;
  double oversubscription = 1;
  bool rail_optimised = true;
};

struct DeviceSpec {
  std::string preset;
  Bytes memory = 0;                          // capacity
  double memory_bandwidth = 0;               // bytes/s
  std::map<std::string, double> peak;        // flop/s by precision name: fp64 fp32 bf16 ...
  std::map<std::string, double> efficiency;  // by kernel class: matmul, attention, memory
  double launch_overhead = 0;                // seconds an op on the host thread
};

struct ClusterSpec {
  std::string preset;  // "local": this machine's CPU
  bool local = true;
  int nodes = 1, devices_per_node = 1;
  int cores_per_node = 0;  // local: CPU cores shared by all ranks of the node; 0: one per device
  DeviceSpec device;
  std::vector<NetworkLevel> network;
  CollectiveLibrary library = CollectiveLibrary::host;
  std::string all_reduce = "auto";  // auto | ring | tree | halving_doubling | direct
  std::string calibration;          // path of a .cal.json; empty: none
  std::vector<std::pair<int, double>> slow_devices;  // rank, factor
};

// How tokens choose experts in a simulation: evenly where neither is given; never both.
struct RoutingSpec {
  std::optional<double> zipf;  // exponent of the experts' popularity
  std::string trace;           // path of recorded counts, as it was given
  [[nodiscard]] bool balanced() const { return !zipf && trace.empty(); }
};

struct SimulateSpec {
  bool folding = true;  // equal ranks are simulated once
  Fidelity fidelity = Fidelity::automatic;
  RoutingSpec routing;
};

struct ExecuteSpec {
  DeviceKind device = DeviceKind::cpu;
  TransportKind transport = TransportKind::automatic;
  int threads_per_rank = 1;
  int warmup_steps = 1;
  bool deterministic = true;
  double timeout = 60;  // seconds
};

struct OutputSpec {
  std::string directory;  // resolved: runs/{name}
  TimelineFormat timeline = TimelineFormat::perfetto;
  RankSelection ranks = RankSelection::representatives;
  std::vector<int> rank_list;
};

struct Scenario {
  std::string file;  // path as the user gave it: the place of messages about defaults
  std::string name;
  std::uint64_t seed = 1;
  ModelSpec model;
  TrainingSpec training;
  ParallelSpec parallel;
  ScheduleSpec schedule;
  ClusterSpec cluster;
  SimulateSpec simulate;
  ExecuteSpec execute;
  OutputSpec output;

  // Where each field's value came from: dotted path -> place ("parallel.tp"). Presets and --set
  // have their own file names; defaults are absent.
  std::map<std::string, Location> origins;
  // Dotted path -> text of the source line that `origins` points at, for carets of later stages.
  std::map<std::string, std::string> origin_lines;

  [[nodiscard]] int num_microbatches() const {
    return training.global_batch / (training.micro_batch * parallel.data_ranks());
  }
};

}  // namespace tandem
