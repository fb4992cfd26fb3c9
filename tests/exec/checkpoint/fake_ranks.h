// Ranks without kernels: memory for the parameters and optimizer state of a plan, filled with a
// value that depends on step, tensor name, full index and part only. So what every rank must hold
// is known for any mesh without the code under test.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/base/rng.h"
#include "common/plan/build.h"
#include "common/scenario/scenario.h"
#include "exec/checkpoint/load.h"
#include "exec/checkpoint/save.h"
#include "exec/train/shard.h"

namespace tandem::exec {

namespace fs = std::filesystem;

struct TestFolder {
  std::string path;
  TestFolder() {
    std::string pattern = (fs::temp_directory_path() / "tandem_ckpt_XXXXXX").string();
    path = ::mkdtemp(pattern.data());
    fs::create_directories(path + "/run/ranks");
  }
  ~TestFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] std::string run() const { return path + "/run"; }
  [[nodiscard]] std::string dir() const { return path + "/checkpoints"; }
};

struct FakeLayout {
  int tp = 1, pp = 1, dp = 1;
  bool tied = true, vocab_parallel = true;
  int vocab = 251;  // padded by tp 2 and 4
  Precision precision = Precision::fp32;
  ModelFamily family = ModelFamily::gpt;  // mixtral: four experts
  int layers = 4;
  int cp = 1;
  int ep = 1, etp = 1, zero = 0;  // mixtral: 4 experts of width 8
  Mapping mapping = Mapping::megatron;
  ExpertData ep_data = ExpertData::split;
};

inline Plan plan_of(const FakeLayout& l) {
  Scenario s;
  s.name = "checkpoint";
  s.model.family = l.family;
  s.model.layers = l.layers, s.model.hidden = 16, s.model.heads = 4, s.model.kv_heads = 4;
  s.model.head_dim = 4, s.model.ffn_hidden = 32, s.model.vocab = l.vocab;
  s.model.max_sequence = 8, s.model.tied_embeddings = l.tied;
  s.training.sequence = 8, s.training.global_batch = 8, s.training.micro_batch = 1;
  s.training.precision = l.precision;
  s.parallel.tp = l.tp, s.parallel.pp = l.pp, s.parallel.dp = l.dp, s.parallel.cp = l.cp;
  s.parallel.vocab_parallel = l.vocab_parallel;
  s.parallel.ep = l.ep, s.parallel.mapping = l.mapping, s.parallel.ep_data = l.ep_data;
  s.parallel.etp = l.etp, s.parallel.zero = l.zero;
  if (l.family == ModelFamily::mixtral) {
    s.model.moe.experts = 4, s.model.moe.top_k = 2, s.model.moe.expert_hidden = 8;
    s.model.moe.drop_groups = l.tp, s.model.moe.device_groups = 1;
    s.parallel.sequence_parallel = l.tp > 1 && l.mapping == Mapping::megatron;
  }
  s.parallel.layer_split.assign(static_cast<std::size_t>(l.pp), l.layers / l.pp);
  Result<Plan> plan = build_plan(s);
  REQUIRE_MESSAGE(plan.ok(), (plan.ok() ? "" : to_text(plan.error().diagnostics)));
  return std::move(*plan);
}

inline TrainingConfig config_of(const FakeLayout& l, const std::string& dir) {
  TrainingConfig c;
  c.seed = 7, c.steps = 100, c.global_batch = 8, c.sequence = 8;
  c.precision = l.precision == Precision::fp64   ? "fp64"
                : l.precision == Precision::bf16 ? "bf16"
                                                 : "fp32";
  c.checkpoint_directory = dir;
  return c;
}

class FakeRanks {
 public:
  explicit FakeRanks(const FakeLayout& layout)
      : layout_(layout), plan_(plan_of(layout)), memory_(static_cast<std::size_t>(world())) {
    for (int r = 0; r < world(); ++r)
      for (BufferId id : plan_.persistent(plan_.program_of(Rank{r})))
        if (const Buffer& b = plan_.buffer(id); !b.alias_of.valid())
          of(r)[id].resize(static_cast<std::size_t>(b.bytes()));
  }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] int world() const { return plan_.header.mesh.world(); }
  [[nodiscard]] BufferMemory memory(int rank) {
    return [this, rank](BufferId id) { return of(rank).at(id).data(); };
  }

  // What training would have left after `step` steps.
  void fill(int step) {
    for_each(
        [&](std::byte* at, int size, double value, const std::string&) { put(at, size, value); },
        step);
  }
  // Empty: every element of every rank is what it must be after `step` steps.
  [[nodiscard]] std::string difference(int step) {
    std::string out;
    for_each(
        [&](std::byte* at, int size, double value, const std::string& name) {
          std::byte expected[8];
          put(expected, size, value);
          if (out.empty() && std::memcmp(at, expected, static_cast<std::size_t>(size)) != 0)
            out = name;
        },
        step);
    return out;
  }

  // As the ranks of a run would, one after the other.
  [[nodiscard]] Status save(const TestFolder& folder, int step) {
    const TrainingConfig config = config_of(layout_, folder.dir());
    for (int r = 0; r < world(); ++r)
      if (Status s = save_shard(plan_, Rank{r}, memory(r), folder.dir(), step, folder.run()); !s)
        return s;
    TrainingState state;
    state.step = step;
    state.tokens = 64.0 * step;
    state.best_loss = 1.0 / 3;
    state.recent_losses = {0.1, 2.5};
    return commit_checkpoint(plan_, "0123456789abcdef", config, state, folder.run());
  }
  [[nodiscard]] Status load(const std::string& checkpoint) {
    const Result<CheckpointManifest> manifest = read_manifest(checkpoint);
    if (!manifest) return manifest.error();
    for (int r = 0; r < world(); ++r)
      if (Status s = load_rank(*manifest, checkpoint, plan_, Rank{r}, memory(r)); !s) return s;
    return Ok{};
  }

 private:
  // In (-1, 1), with all bits of a mantissa; another one for every argument.
  static double value_of(int step, std::uint64_t name, int part, std::uint64_t index) {
    std::uint64_t x = name ^ (index * 0x9e3779b97f4a7c15ULL);
    x += static_cast<std::uint64_t>(part + std::int64_t{3} * step) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<double>(static_cast<std::int64_t>(x ^ (x >> 31)) >> 11) * 0x1p-52;
  }

  using Memory = std::map<BufferId, std::vector<std::byte>>;
  Memory& of(int rank) { return memory_[static_cast<std::size_t>(rank)]; }

  static void put(std::byte* at, int size, double value) {
    if (size == 8) {
      std::memcpy(at, &value, 8);
      return;
    }
    const auto f = static_cast<float>(value);
    if (size == 4) {
      std::memcpy(at, &f, 4);
      return;
    }
    std::uint32_t bits = 0;  // bf16: round to nearest, ties to even
    std::memcpy(&bits, &f, 4);
    const std::uint32_t below = bits & 0xffff;
    bits >>= 16;
    if (below > 0x8000 || (below == 0x8000 && (bits & 1))) ++bits;
    std::memcpy(at, &bits, 2);
  }

  // visit(address, bytes of the element, value, name) for main parameter, m, v and, in bf16 plans,
  // the parameter itself, which has the value of its main copy.
  template <class Visit>
  void for_each(Visit&& visit, int step) {
    for (int r = 0; r < world(); ++r) {
      const ProgramId program = plan_.program_of(Rank{r});
      for (BufferId bucket : holders(plan_, program, BufferClass::param)) {
        const auto [main, m, v] = state_of(program, bucket);
        for (const HeldRange& h : ranges_in(plan_, bucket, Rank{r})) {
          const Shard& s = h.shard;
          const std::uint64_t hash = fnv1a64(s.name);
          for (std::int64_t i = h.begin; i < h.end; ++i) {
            const std::int64_t row = s.row_begin + i / s.columns,
                               column = s.column_begin + i % s.columns;
            const auto index = static_cast<std::uint64_t>(row * s.full_columns + column);
            const std::int64_t at = h.element + i - h.begin;
            int part = 0;
            for (BufferId to : {main, m, v, bucket}) {
              if (part == 3 && bucket == main) break;
              const double value = value_of(step, hash, part % 3, index);
              const int size = size_of(plan_.buffer(to).dtype);
              visit(of(r).at(to).data() + at * size, size, value, s.name);
              ++part;
            }
          }
        }
      }
    }
  }
  // Main copy, m, v of a bucket by the names that lowering gives them.
  std::array<BufferId, 3> state_of(ProgramId program, BufferId bucket) {
    const std::string& name = plan_.name(plan_.buffer(bucket).name);
    std::array<BufferId, 3> out = {bucket, {}, {}};
    for (const Op& op : plan_.ops_of(program))
      for (const Call& c : plan_.calls_of(op)) {
        if (plan_.kernel(c.kernel).kind != KernelKind::adamw) continue;
        const auto in = plan_.operands_of(c.inputs);  // main, grad, m, v, coef
        const auto outs = plan_.operands_of(c.outputs);
        if (outs.back().id == bucket || in[0].id == bucket) out = {in[0].id, in[2].id, in[3].id};
      }
    REQUIRE_MESSAGE(out[1].valid(), name);
    return out;
  }

  FakeLayout layout_;
  Plan plan_;
  std::vector<Memory> memory_;
};

inline std::string message_of(const Status& s) { return s ? "" : to_text(s.error().diagnostics); }
inline std::string code_of(const Status& s) {
  return s ? "ok" : s.error().diagnostics.front().code;
}

}  // namespace tandem::exec
