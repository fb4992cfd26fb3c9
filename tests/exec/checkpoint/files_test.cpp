// Goal    a damaged checkpoint is refused by the name of its file, or loads exactly; a checkpoint
//         of another model is refused; folders are listed, kept and locked as folder.h says.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/crc32c.h"
#include "exec/checkpoint/folder.h"
#include "tests/exec/checkpoint/fake_ranks.h"

using namespace tandem;
using namespace tandem::exec;

namespace {

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// What the tool and then the ranks do.
Status check_and_load(const std::string& checkpoint, FakeRanks& ranks) {
  const auto manifest = read_manifest(checkpoint);
  if (!manifest) return manifest.error();
  if (Status s = check_files(*manifest, checkpoint); !s) return s;
  return ranks.load(checkpoint);
}

struct Saved {
  TestFolder folder;
  FakeRanks ranks{{.tp = 2}};
  std::string checkpoint;
  explicit Saved(int step = 10) : checkpoint(checkpoint_path(folder.dir(), step)) {
    ranks.fill(step);
    REQUIRE(message_of(ranks.save(folder, step)) == "");
  }
};

}  // namespace

TEST_CASE("a shard file by its bytes") {
  const TestFolder folder;
  auto writer = ShardWriter::create(folder.path, 3, 10, 4);
  REQUIRE(writer.ok());
  const float main[] = {1, 2}, m[] = {3, 4}, v[] = {5, 6};
  const Piece piece{"b", 1, {4, 1}, {2, 0}, {2, 1}, 0, 2};
  writer->add(piece,
              {reinterpret_cast<const std::byte*>(main), reinterpret_cast<const std::byte*>(m),
               reinterpret_cast<const std::byte*>(v)});
  const auto receipt = writer->commit();
  REQUIRE(receipt.ok());
  const std::string bytes = slurp(folder.path + "/rank-0003.shard");
  // 32 header; 8 + 48 + 16 + 1 + 4 record; three times 8 + 4.
  REQUIRE(bytes.size() == 32 + 77 + 36);
  CHECK(receipt->bytes == 145);
  CHECK(receipt->sha256 == sha256_hex(bytes));
  CHECK(receipt->pieces[0].offset == 32);
  CHECK(bytes.substr(0, 8) == "TDMCKPT1");
  CHECK(bytes.substr(8, 8) == std::string("\1\0\0\0\3\0\0\0", 8));
  CHECK(bytes.substr(16, 12) == std::string("\12\0\0\0\0\0\0\0\4\0\0\0", 12));
  CHECK(bytes.substr(32, 8) == std::string("\1\0\0\0\1\0\0\0", 8));
  CHECK(bytes[40] == 4);  // shape
  CHECK(bytes[48] == 2);  // start
  CHECK(bytes[56] == 2);  // length
  CHECK(bytes[104] == 'b');
  CHECK(bytes.substr(109, 8) == std::string(reinterpret_cast<const char*>(main), 8));
  const std::uint32_t sum = crc32c(bytes.substr(109, 8));
  CHECK(std::memcmp(bytes.data() + 117, &sum, 4) == 0);
  CHECK(bytes.substr(133, 8) == std::string(reinterpret_cast<const char*>(v), 8));

  const auto reader = ShardReader::open(folder.path + "/rank-0003.shard", 10, 4);
  REQUIRE(reader.ok());
  CHECK(*reader->read({piece, 0, 32}, StatePart::m) ==
        std::string(reinterpret_cast<const char*>(m), 8));
  CHECK_FALSE(reader->read({piece, 0, 33}, StatePart::m).ok());
  CHECK_FALSE(ShardReader::open(folder.path + "/rank-0003.shard", 11, 4).ok());
  CHECK_FALSE(ShardReader::open(folder.path + "/rank-0003.shard", 10, 8).ok());
}

TEST_CASE("a manifest reads back") {
  const Saved saved;
  const auto manifest = read_manifest(saved.checkpoint);
  REQUIRE(manifest.ok());
  CHECK(manifest->state.step == 10);
  CHECK(manifest->state.tokens == 640);
  CHECK(manifest->state.best_loss == 1.0 / 3);
  CHECK(manifest->state.recent_losses == std::vector{0.1, 2.5});
  CHECK(manifest->seed == 7);
  CHECK(manifest->mesh == saved.ranks.plan().header.mesh);
  CHECK(manifest->scenario_digest == saved.ranks.plan().header.digest);
  CHECK(*manifest_from_json(to_json(*manifest), "m") == *manifest);
  CHECK(to_json(*manifest) == slurp(manifest_path(saved.checkpoint)));
}

TEST_CASE("a missing, a short, a long, a changed and a foreign shard are named") {
  Saved saved;
  const std::string path = saved.checkpoint + "/rank-0001.shard", good = slurp(path);
  const auto refused = [&](const std::string& what) {
    const Status s = check_and_load(saved.checkpoint, saved.ranks);
    REQUIRE_FALSE(s.ok());
    CHECK(code_of(s) == "E-CKPT-004");
    CHECK(s.error().failure == Failure::bad_input);
    const std::string text = message_of(s);
    CHECK_MESSAGE(text.find("rank-0001.shard") != std::string::npos, text);
    CHECK_MESSAGE(text.find(what) != std::string::npos, text);
    // A rank that is not told by the tool finds it too.
    return code_of(saved.ranks.load(saved.checkpoint));
  };
  fs::remove(path);
  CHECK(refused("No such file") == "E-CKPT-004");
  fs::create_directory(path);
  CHECK(refused("directory") == "E-CKPT-004");
  fs::remove(path);
  spill(path, good.substr(0, good.size() / 2));
  CHECK(refused(std::to_string(good.size() / 2) + " bytes instead of") == "E-CKPT-004");
  spill(path, "");
  CHECK(refused("0 bytes instead of") == "E-CKPT-004");
  spill(path, good + "x");
  CHECK(refused("bytes instead of") == "ok");  // what it needs is there
  std::string changed = good;
  changed[good.size() / 2] ^= 1;
  spill(path, changed);
  CHECK(refused("another SHA-256") == "E-CKPT-004");
  Saved later(11);
  fs::copy_file(later.checkpoint + "/rank-0001.shard", path, fs::copy_options::overwrite_existing);
  CHECK(refused("another SHA-256") == "E-CKPT-004");
  spill(path, good);
  CHECK(message_of(check_and_load(saved.checkpoint, saved.ranks)) == "");
}

TEST_CASE("1,000 flipped bits: a clear refusal, or the same values") {
  Saved saved;
  std::uint64_t random = 1;
  const auto next = [&](std::uint64_t below) {
    return philox4x32({static_cast<std::uint32_t>(random++), 0, 0, 0}, {1, 2})[0] % below;
  };
  int refused = 0, harmless = 0;
  for (int i = 0; i < 1000; ++i) {
    const char* names[] = {"manifest.json", "rank-0000.shard", "rank-0001.shard"};
    const std::string path = saved.checkpoint + "/" + names[i % 3], good = slurp(path);
    std::string bad = good;
    bad[next(bad.size())] ^= static_cast<char>(1u << next(8));
    spill(path, bad);
    // With the tool's check; and without, as a rank that reads a file which rots meanwhile.
    for (const bool checked : {true, false}) {
      FakeRanks ranks({.tp = 2});
      const Status s =
          checked ? check_and_load(saved.checkpoint, ranks) : ranks.load(saved.checkpoint);
      if (s.ok()) {
        CHECK(ranks.difference(10) == "");
        CHECK_FALSE((checked && i % 3 != 0));  // a shard's SHA-256 covers every bit
        ++harmless;
      } else {
        CHECK((code_of(s) == "E-CKPT-003" || code_of(s) == "E-CKPT-004"));
        ++refused;
      }
    }
    spill(path, good);
  }
  MESSAGE(refused << " refused, " << harmless << " harmless");
  CHECK(refused > 1500);
}

TEST_CASE("a manifest that is no manifest") {
  Saved saved;
  const std::string path = manifest_path(saved.checkpoint), good = slurp(path);
  const auto code = [&](const std::string& text) {
    spill(path, text);
    const auto m = read_manifest(saved.checkpoint);
    return m ? std::string("ok") : m.error().diagnostics[0].code;
  };
  CHECK(code(good) == "ok");
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("null"), good.substr(0, good.size() / 2),
        std::string(100'000, '['), std::string("{\"format\": \"tandem-checkpoint\"}")})
    CHECK(code(text) == "E-CKPT-003");
  // With a check sum that fits: the content is still not trusted.
  const auto rewritten = [&](const std::string& from, const std::string& to) {
    auto m = *manifest_from_json(good, "m");
    std::string text = to_json(m);
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    auto root = nlohmann::ordered_json::parse(text.replace(at, from.size(), to));
    root["sha256"] = sha256_hex(root["content"].dump());
    return code(root.dump());
  };
  CHECK(rewritten("rank-0001.shard", "../../etc/passwd") == "E-CKPT-003");
  CHECK(rewritten("\"file\": 1", "\"file\": 2") == "E-CKPT-003");
  CHECK(rewritten("\"offset\": 32", "\"offset\": -32") == "E-CKPT-003");
  CHECK(rewritten("\"version\": 1", "\"version\": 2") == "E-CKPT-003");
  CHECK(rewritten("\"tp\": 2", "\"tp\": 0") == "E-CKPT-003");
  fs::remove(path);
  CHECK(read_manifest(saved.checkpoint).error().diagnostics[0].code == "E-CKPT-002");
}

TEST_CASE("what continues a training, and what does not") {
  const Saved saved;
  auto manifest = *read_manifest(saved.checkpoint);
  const FakeLayout layout{.tp = 2};
  const auto code = [&](const FakeLayout& l, auto&& change, Diagnostics* warnings = nullptr) {
    TrainingConfig config = config_of(l, "");
    change(config);
    Diagnostics ignored;
    return code_of(check_continues(manifest, saved.checkpoint, plan_of(l), config,
                                   warnings ? *warnings : ignored));
  };
  const auto same = [](TrainingConfig&) {};
  CHECK(code(layout, same) == "ok");
  CHECK(code({.pp = 2, .dp = 2}, same) == "ok");
  CHECK(code({.layers = 2}, same) == "E-CKPT-005");
  CHECK(code({.vocab = 252}, same) == "E-CKPT-005");
  CHECK(code({.tied = false}, same) == "E-CKPT-005");
  CHECK(code({.family = ModelFamily::llama}, same) == "E-CKPT-005");
  CHECK(code({.precision = Precision::fp64}, same) == "E-CKPT-006");
  CHECK(code({.precision = Precision::bf16}, same) == "E-CKPT-006");
  CHECK(code(layout, [](TrainingConfig& c) { c.seed = 8; }) == "E-CKPT-007");
  Diagnostics warnings;
  CHECK(code(
            layout, [](TrainingConfig& c) { c.global_batch = 16; }, &warnings) == "ok");
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].code == "W-CKPT-002");
  manifest.optimizer = "sgd";
  CHECK(code(layout, same) == "E-CKPT-006");
  manifest.optimizer = "adamw";
  manifest.state.step = 0;
  warnings.clear();
  CHECK(code(
            layout, [](TrainingConfig& c) { c.seed = 8; }, &warnings) == "ok");
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].code == "W-CKPT-001");
  // The message names a tensor.
  const Status s = check_continues(manifest, saved.checkpoint, plan_of({.vocab = 252}),
                                   config_of(layout, ""), warnings);
  CHECK(message_of(s).find("embed.weight of shape 251x16, here 252x16") != std::string::npos);
}

TEST_CASE("shards that do not make the model make no checkpoint") {
  const TestFolder folder;
  FakeRanks ranks({.tp = 2});
  const auto commit = [&](int step) {
    TrainingState state;
    state.step = step;
    return code_of(commit_checkpoint(ranks.plan(), "id", config_of({.tp = 2}, folder.dir()), state,
                                     folder.run()));
  };
  const auto shard = [&](int rank, int step) {
    return code_of(
        save_shard(ranks.plan(), Rank{rank}, ranks.memory(rank), folder.dir(), step, folder.run()));
  };
  REQUIRE(shard(0, 10) == "ok");
  CHECK(commit(10) == "E-IO-001");  // rank 1 has said nothing
  REQUIRE(shard(1, 9) == "ok");
  CHECK(commit(10) == "E-CKPT-011");  // it speaks of another step
  REQUIRE(shard(1, 10) == "ok");
  spill(folder.run() + "/ranks/1.shard.json", "{}");
  CHECK(commit(10) == "E-CKPT-011");
  // Rank 1 says what rank 0 has saved: some elements twice, others not at all.
  FakeRanks alone({});
  REQUIRE(code_of(save_shard(alone.plan(), Rank{0}, alone.memory(0), folder.dir(), 10,
                             folder.run())) == "ok");
  REQUIRE(shard(1, 10) == "ok");
  CHECK(commit(10) == "E-CKPT-011");
  CHECK(list_checkpoints(folder.dir()).empty());
  REQUIRE(shard(0, 10) == "ok");
  CHECK(commit(10) == "ok");
  CHECK(list_checkpoints(folder.dir()) == std::vector{10});
}

TEST_CASE("the newest two stay; half saved ones are removed; nothing is overwritten") {
  const TestFolder folder;
  FakeRanks ranks({});
  CHECK(list_checkpoints(folder.dir()).empty());
  for (int step : {5, 10, 1'000'000'000}) {
    ranks.fill(step);
    REQUIRE(message_of(ranks.save(folder, step)) == "");
  }
  CHECK(list_checkpoints(folder.dir()) == std::vector{10, 1'000'000'000});
  CHECK(code_of(ranks.save(folder, 10)) == "E-CKPT-001");
  CHECK(fs::exists(partial_path(folder.dir(), 10)));
  fs::create_directory(folder.dir() + "/step-12");  // names that are not ours are left alone
  fs::create_directory(folder.dir() + "/mine.partial");
  fs::create_directory(checkpoint_path(folder.dir(), 20));  // without a manifest: no checkpoint
  remove_partial_checkpoints(folder.dir());
  CHECK_FALSE(fs::exists(partial_path(folder.dir(), 10)));
  CHECK(fs::exists(folder.dir() + "/mine.partial"));
  CHECK(list_checkpoints(folder.dir()) == std::vector{10, 1'000'000'000});
}

TEST_CASE("one run at a time saves into a folder") {
  const TestFolder folder;
  {
    const auto first = FolderLock::take(folder.dir());
    REQUIRE(first.ok());
    const auto second = FolderLock::take(folder.dir());
    REQUIRE_FALSE(second.ok());
    CHECK(second.error().diagnostics[0].code == "E-CKPT-010");
  }
  CHECK(FolderLock::take(folder.dir()).ok());
  spill(folder.path + "/file", "");
  CHECK(FolderLock::take(folder.path + "/file").error().diagnostics[0].code == "E-IO-011");
}
