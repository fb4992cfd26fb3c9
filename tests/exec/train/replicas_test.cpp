// Goal    a replica that differs in one bit is found and named: tensor, step, ranks.
// Method  ranks that are memory (fake_ranks.h), one bit changed; then real training on threads
//         whose transport spoils one gradient on one rank, through run_rank().
#include "exec/train/replicas.h"

#include <condition_variable>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "exec/execute.h"
#include "tests/exec/checkpoint/fake_ranks.h"
#include "tests/exec/runtime/memory_comm.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

Status check(FakeRanks& ranks, const TestFolder& folder, int step) {
  for (int r = 0; r < ranks.world(); ++r)
    if (Status s = write_replica_hashes(ranks.plan(), Rank{r}, ranks.memory(r), step, folder.run());
        !s)
      return s;
  return compare_replicas(ranks.plan(), step, folder.run());
}

void flip(FakeRanks& ranks, int rank, const std::string& name, std::int64_t element) {
  for (const HeldPiece& h : held_pieces(ranks.plan(), Rank{rank}))
    if (h.piece.name == name) {
      ranks.memory(rank)(h.param)[(h.param_element + element) * 4] ^= std::byte{1};
      return;
    }
  FAIL(name);
}

// Threads that meet; aborting releases them.
class ThreadBarrier {
 public:
  explicit ThreadBarrier(int world) : world_(world) {}
  Status meet() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++waiting_ == world_) {
      waiting_ = 0;
      ++round_;
      changed_.notify_all();
      return Ok{};
    }
    changed_.wait(lock, [&] { return round_ != round || aborted_; });
    if (round_ != round) return Ok{};
    return make_error(Failure::peer_lost, "E-EXEC-043", "the run was aborted", "", "", "");
  }
  void abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }

 private:
  const int world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0, round_ = 0;
  bool aborted_ = false;
};
class Ticket final : public Barrier {
 public:
  explicit Ticket(ThreadBarrier& barrier) : barrier_(barrier) {}
  Status meet() override { return barrier_.meet(); }

 private:
  ThreadBarrier& barrier_;
};

// Flips the sign of one element of the reduced gradients, on one rank in one step.
class SpoilingComm final : public CommBackend {
 public:
  // Of a gradient, or of the loss that all ranks are told.
  SpoilingComm(const Plan& plan, Meeting& meeting, Rank rank, int step, bool loss = false)
      : plan_(plan), inner_(meeting, rank), step_(step), loss_(loss) {}
  Result<Nanoseconds> run(OpId op, int step, const CommOperands& operands) override {
    Result<Nanoseconds> out = inner_.run(op, step, operands);
    if (step != step_ || done_) return out;
    const std::string& tag = plan_.name(plan_.op(op).tag);
    if (loss_ && tag == "metrics") {
      reinterpret_cast<double*>(operands.data)[kMetricLoss] = NAN;
      done_ = true;
    } else if (!loss_ && tag == "grad.dp") {
      done_ = true;
      operands.data[4 * 1000 + 3] ^= std::byte{0x80};
    }
    return out;
  }
  void abort() override { inner_.abort(); }

 private:
  const Plan& plan_;
  MemoryComm inner_;
  const int step_;
  const bool loss_;
  bool done_ = false;
};

// Codes of the ranks' results; rank 0's message in `message`.
constexpr int kLossOfAll = -2;  // in the place of a rank
std::vector<std::string> train(const TestFolder& folder, int spoiled_rank, int spoiled_step,
                               std::string& message) {
  RunInput in;
  in.plan = plan_of({.dp = 2, .vocab = 256});
  in.plan_id = "test";
  in.config = config_of({}, "");
  in.config.layers = 4, in.config.hidden = 16, in.config.heads = 4, in.config.ffn_hidden = 32;
  in.config.vocab = 256, in.config.max_sequence = 8, in.config.micro_batch = 1;
  in.config.steps = 6, in.config.warmup_steps = 0, in.config.data_kind = "random";
  in.config.check_replicas = 2;
  Meeting meeting(in.plan);
  ThreadBarrier barrier(2);
  std::vector<std::string> codes(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      const bool loss = spoiled_rank == kLossOfAll;
      SpoilingComm comm(in.plan, meeting, Rank{r}, loss || r == spoiled_rank ? spoiled_step : -1,
                        loss);
      Ticket ticket(barrier);
      const Status s = run_rank(in, Rank{r}, comm, {}, ticket, nullptr, folder.run());
      codes[static_cast<std::size_t>(r)] = code_of(s);
      if (r == 0) message = message_of(s);
      if (!s) {
        barrier.abort();
        comm.abort();
      }
    });
  for (std::thread& t : threads) t.join();
  return codes;
}

}  // namespace

TEST_CASE("equal replicas on every mesh") {
  for (const FakeLayout& layout : {FakeLayout{}, {.tp = 2, .pp = 2, .dp = 2}, {.pp = 4, .dp = 2}}) {
    const TestFolder folder;
    FakeRanks ranks(layout);
    ranks.fill(3);
    CHECK(message_of(check(ranks, folder, 3)) == "");
  }
}

TEST_CASE("one bit of one replica: tensor, step and ranks are named") {
  const TestFolder folder;
  FakeRanks ranks({.tp = 2, .dp = 3});
  ranks.fill(3);
  // rank = tp + 2 * dp: ranks 1, 3 and 5 hold the second half of q.
  flip(ranks, 3, "layers.2.attn.q.weight", 17);
  const Status s = check(ranks, folder, 3);
  REQUIRE_FALSE(s.ok());
  CHECK(code_of(s) == "E-EXEC-036");
  CHECK(s.error().failure == Failure::execution);
  const std::string text = message_of(s);
  CAPTURE(text);
  CHECK(text.find("after step 3, layers.2.attn.q.weight[8+8, 0+16]:") != std::string::npos);
  CHECK(text.find("rank 3 holds ") != std::string::npos);
  CHECK(text.find("ranks 1, 5 hold ") != std::string::npos);
  // The same bit on all of them is no difference; a whole tensor is compared over tp too.
  flip(ranks, 1, "layers.2.attn.q.weight", 17);
  flip(ranks, 5, "layers.2.attn.q.weight", 17);
  CHECK(message_of(check(ranks, folder, 3)) == "");
  flip(ranks, 1, "final_norm.weight", 0);
  CHECK(message_of(check(ranks, folder, 3)).find("ranks 0, 2, 3, 4, 5 hold") != std::string::npos);
}

TEST_CASE("a tied embedding is compared over its two stages") {
  const TestFolder folder;
  FakeRanks ranks({.pp = 2});
  ranks.fill(3);
  flip(ranks, 1, "embed.weight", 0);
  CHECK(message_of(check(ranks, folder, 3)).find("embed.weight[0+251, 0+16]: ") !=
        std::string::npos);
}

// ep_data: replicate. ranks = dp * 2 + ep: 0 and 2 (1 and 3) differ in dp only and must be equal
// bit by bit; over ep a dense tensor may differ by 1e-6 of its largest value. Values are below 1.
TEST_CASE("replicas that read the same batches are equal to rounding over ep") {
  const FakeLayout layout{.dp = 2,
                          .family = ModelFamily::mixtral,
                          .ep = 2,
                          .mapping = Mapping::nano_train,
                          .ep_data = ExpertData::replicate};
  const std::string name = "layers.2.attn.q.weight";
  const auto with = [&](std::initializer_list<int> spoiled, float by) {
    const TestFolder folder;
    FakeRanks ranks(layout);
    ranks.fill(3);
    for (int rank : spoiled)
      for (const HeldPiece& h : held_pieces(ranks.plan(), Rank{rank}))
        if (h.piece.name == name) {
          float value = 0;
          std::byte* at = ranks.memory(rank)(h.param) + h.param_element * 4;
          std::memcpy(&value, at, 4);
          value += by;
          std::memcpy(at, &value, 4);
        }
    return message_of(check(ranks, folder, 3));
  };
  CHECK(with({}, 0) == "");
  CHECK(with({1, 3}, 5e-7F) == "");
  CHECK(with({1, 3}, 1e-4F).find("E-EXEC-036") != std::string::npos);
  CHECK(with({3}, 5e-7F).find(name) != std::string::npos);  // 1 and 3 are copies over dp
  CHECK(with({1, 3}, std::numeric_limits<float>::quiet_NaN()).find(name) != std::string::npos);
  // An expert lies on one ep rank: its copies are over dp.
  const TestFolder folder;
  FakeRanks ranks(layout);
  ranks.fill(3);
  flip(ranks, 2, "layers.2.moe.experts.1.down.weight", 4);
  CHECK(message_of(check(ranks, folder, 3)).find("layers.2.moe.experts.1.down.weight") !=
        std::string::npos);
}

TEST_CASE("hashes of another step are no proof") {
  const TestFolder folder;
  FakeRanks ranks({.dp = 2});
  REQUIRE(check(ranks, folder, 3).ok());
  CHECK(code_of(compare_replicas(ranks.plan(), 4, folder.run())) == "E-EXEC-034");
}

TEST_CASE("training: a gradient that is spoiled on one rank stops the run at the next check") {
  std::string message;
  {
    const TestFolder folder;
    CHECK(train(folder, -1, -1, message) == std::vector<std::string>{"ok", "ok"});
    CHECK(message == "");
    std::ifstream metrics(folder.run() + "/metrics.jsonl");
    int lines = 0;
    for (std::string line; std::getline(metrics, line); ++lines) {
      const auto json = nlohmann::json::parse(line);
      CHECK(json["step"] == lines);
      CHECK(json["peak_bytes"] > 0);
      CHECK(json["data_wait_s"] >= 0);
      CHECK(json["data_wait_s"] <= json["step_s"]);
    }
    CHECK(lines == 6);
  }
  const TestFolder folder;
  const auto codes = train(folder, 1, 2, message);
  CHECK(codes[0] == "E-EXEC-036");
  // The line of the step that stopped the run says why; unchecked steps say nothing of replicas.
  std::ifstream metrics(folder.run() + "/metrics.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(metrics, line);) lines.push_back(nlohmann::json::parse(line));
  REQUIRE(lines.size() == 4);
  CHECK_FALSE(lines[0].contains("replicas_equal"));
  CHECK(lines[1]["replicas_equal"] == true);
  CHECK_FALSE(lines[2].contains("replicas_equal"));
  CHECK(lines[3]["replicas_equal"] == false);
  CHECK(message.find("after step 4, ") != std::string::npos);
  CHECK(message.find("rank 0 holds") != std::string::npos);
  CHECK(message.find("rank 1 holds") != std::string::npos);
}

TEST_CASE("training: a loss that is not finite stops the run, and its line says so") {
  std::string message;
  const TestFolder folder;
  CHECK(train(folder, kLossOfAll, 2, message) ==
        std::vector<std::string>{"E-EXEC-031", "E-EXEC-031"});
  std::ifstream metrics(folder.run() + "/metrics.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(metrics, line);) lines.push_back(nlohmann::json::parse(line));
  REQUIRE(lines.size() == 3);
  CHECK(lines[1]["non_finite"] == false);
  CHECK(lines[2]["non_finite"] == true);
  CHECK(lines[2]["loss"].is_null());
}
