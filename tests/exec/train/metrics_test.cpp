// Goal    metrics of a step by their definitions, alerts at their thresholds, and event files that
//         TensorBoard reads: the worked bytes of its format, and a decoder written here from the
//         TFRecord and protocol-buffer specifications that shares no code with the writer.
#include "exec/train/metrics.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "exec/train/metrics_files.h"

using namespace tandem;
using namespace tandem::exec;
namespace fs = std::filesystem;

namespace {

struct Folder {
  std::string path;
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "tandem_metrics_XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path); }
};

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string from_hex(std::string_view hex) {
  std::string out;
  int high = -1;
  for (char c : hex) {
    if (c == ' ' || c == '\n') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<char>(high * 16 + digit));
      high = -1;
    }
  }
  return out;
}

// --- the independent reader ---------------------------------------------------------------------

// CRC-32C bit by bit.
std::uint32_t slow_crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
  }
  return ~crc;
}
std::uint32_t slow_masked(std::string_view bytes) {
  const std::uint32_t crc = slow_crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}
template <class T>
T fixed(std::string_view bytes) {
  T value{};
  REQUIRE(bytes.size() >= sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> out;
  std::string_view left = file;
  while (!left.empty()) {
    REQUIRE(left.size() >= 16);
    const auto size = fixed<std::uint64_t>(left);
    CHECK(fixed<std::uint32_t>(left.substr(8)) == slow_masked(left.substr(0, 8)));
    REQUIRE(left.size() >= 16 + size);
    out.emplace_back(left.substr(12, size));
    CHECK(fixed<std::uint32_t>(left.substr(12 + size)) == slow_masked(out.back()));
    left.remove_prefix(16 + size);
  }
  return out;
}

// Field number -> its values: bytes of wire type 2, raw little-endian bytes of the others.
using Message = std::multimap<int, std::string>;
Message message_of(std::string_view bytes) {
  Message out;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(!bytes.empty());
      const auto byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (!bytes.empty()) {
    const std::uint64_t tag = varint();
    const int wire = static_cast<int>(tag & 7), field = static_cast<int>(tag >> 3);
    if (wire == 0) {
      const std::uint64_t value = varint();
      out.emplace(field, std::string(reinterpret_cast<const char*>(&value), 8));
      continue;
    }
    const std::uint64_t size = wire == 1 ? 8 : wire == 5 ? 4 : varint();
    REQUIRE((wire == 1 || wire == 2 || wire == 5));
    REQUIRE(bytes.size() >= size);
    out.emplace(field, bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  return out;
}

struct Event {
  double time = 0;
  std::int64_t step = 0;
  std::string version;
  bool restart = false;
  std::map<std::string, float> scalars;
};
std::vector<Event> events_of(const std::string& file) {
  std::vector<Event> out;
  for (const std::string& record : records_of(file)) {
    const Message m = message_of(record);
    Event e;
    REQUIRE(m.count(1) == 1);
    e.time = fixed<double>(m.find(1)->second);
    if (m.count(2)) e.step = fixed<std::int64_t>(m.find(2)->second);
    if (m.count(3)) e.version = m.find(3)->second;
    if (m.count(7)) e.restart = message_of(m.find(7)->second).find(1)->second[0] == 1;
    if (m.count(5)) {
      const Message summary = message_of(m.find(5)->second);
      for (auto [it, end] = summary.equal_range(1); it != end; ++it) {
        const Message value = message_of(it->second);
        e.scalars[value.find(1)->second] = fixed<float>(value.find(2)->second);
      }
    }
    out.push_back(std::move(e));
  }
  return out;
}

std::string only_file_of(const std::string& folder) {
  std::string out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    CHECK(out.empty());
    out = entry.path().string();
  }
  return out;
}

StepValues values(double loss, double norm = 2) {
  return {loss, norm, 1e-3, 256, 500'000'000, 50'000'000};
}

// A gpt of one layer: H 8, F 32, V 16, S 4; 2 sequences a step.
TrainingConfig small_model() {
  TrainingConfig c;
  c.layers = 1, c.hidden = 8, c.heads = 2, c.ffn_hidden = 32, c.vocab = 16;
  c.max_sequence = c.sequence = 4;
  c.global_batch = 2, c.micro_batch = 1;
  return c;
}

}  // namespace

TEST_CASE("metrics of a step by their definitions") {
  TrainingConfig config = small_model();
  config.clip = 1.0;
  TrainingState state;
  state.step = 7;
  state.tokens = 1792;
  state.recent_losses = {2, 8, 4, 100, 6};
  StepMetrics m = metrics_of(values(3), state, config);
  CHECK(m.step == 7);
  CHECK(m.perplexity == std::exp(3.0));
  CHECK(m.spike_ratio == 3.0 / 6);  // the median of 2 4 6 8 100
  CHECK(m.clip_coef == 1.0 / (2 + 1e-6));
  CHECK(m.tokens_seen == 2048);
  CHECK(m.step_s == doctest::Approx(0.5));
  CHECK(m.data_wait_s == doctest::Approx(0.05));
  CHECK(m.tokens_per_s == doctest::Approx(512));
  CHECK(m.sequences_per_s == doctest::Approx(4));
  // Matrices: q, k, v, o 4 x 64, fc1 and fc2 2 x 256, head 128 = 896 elements, 6 FLOPs each and
  // token; attention: of each sequence 10 pairs that see each other, 2 products, 2 H FLOPs, and
  // twice that backward.
  const double flops = 6.0 * 896 * 8 + 2 * 10 * 2 * 2 * 8 * 3;
  CHECK(m.model_flops_per_s == doctest::Approx(flops / 0.5));
  CHECK_FALSE(m.mfu);
  CHECK_FALSE(m.non_finite);
  config.peak_flops = 1e6;
  CHECK(*metrics_of(values(3), state, config).mfu == doctest::Approx(flops / 0.5 / 1e6));
  CHECK(metrics_of(values(NAN), state, config).non_finite);
  StepValues reported = values(3);
  reported.non_finite = 1;
  CHECK(metrics_of(reported, state, config).non_finite);
  state.recent_losses.push_back(1);
  CHECK(metrics_of(values(3), state, config).spike_ratio == 3.0 / 5);  // of 1 2 4 6 8 100
  state.recent_losses = {1, 2, 3, 4};
  CHECK_FALSE(metrics_of(values(3), state, config).spike_ratio);
  CHECK(metrics_of(values(3, 0.5), state, config).clip_coef == 1);
  config.clip.reset();
  CHECK(metrics_of(values(3, 1e9), state, config).clip_coef == 1);
}

// 256 tokens choose 2 experts in the layers 1 and 3 of four: 1024 choices.
TEST_CASE("the share of choices that were dropped") {
  TrainingConfig config = small_model();
  config.family = "mixtral", config.layers = 4;
  config.moe.experts = 4, config.moe.top_k = 2, config.moe.expert_hidden = 8;
  config.moe.dense_first = 1, config.moe.every = 2;
  StepValues step = values(3);
  step.dropped = 64;
  CHECK(metrics_of(step, {}, config).dropped_share == 64.0 / 1024);
  CHECK_FALSE(metrics_of(step, {}, small_model()).dropped_share);
}

TEST_CASE("the share of clipped steps is that of the last 32") {
  ClippedShare share;
  CHECK(share.add(0.5) == 1);
  CHECK(share.add(1) == 0.5);
  for (int k = 0; k < 30; ++k) share.add(1);
  CHECK(share.add(0.1) == 1.0 / 32);  // the first one has left
}

TEST_CASE("the state of training behind a step") {
  TrainingState state;
  for (int k = 0; k < 40; ++k) advance(state, values(k == 20 ? 0.5 : 5 - 0.01 * k));
  CHECK(state.step == 40);
  CHECK(state.tokens == 40 * 256);
  CHECK(state.best_loss == 0.5);
  CHECK(state.best_step == 21);
  REQUIRE(state.recent_losses.size() == 32);
  CHECK(state.recent_losses.front() == 5 - 0.01 * 8);
  CHECK(state.recent_losses.back() == 5 - 0.01 * 39);
}

TEST_CASE("alerts at their thresholds, and not below") {
  const auto levels = [](double spike, double norm, double wait) {
    StepMetrics m;
    m.spike_ratio = spike;
    m.grad_norm = norm;
    m.step_s = 1;
    m.data_wait_s = wait;
    std::string out;
    for (const Alert& a : alerts_of(m))
      out += std::string(a.name) + " " + std::string(name_of(a.level)) + "; ";
    return out;
  };
  CHECK(levels(2.99, 99.9, 0.29) == "");
  CHECK(levels(3, 99, 0) == "loss_spike warning; ");
  CHECK(levels(9.99, 0, 0) == "loss_spike warning; ");
  CHECK(levels(10, 0, 0) == "loss_spike severe; ");
  CHECK(levels(1, 100, 0) == "grad_norm warning; ");
  CHECK(levels(1, 1000, 0) == "grad_norm severe; ");
  CHECK(levels(1, 1, 0.3) == "data_wait warning; ");
  CHECK(levels(11, 1e4, 0.5) == "loss_spike severe; grad_norm severe; data_wait severe; ");
  const auto of_measured = [](double ratio, std::optional<double> memory) {
    StepMetrics m;
    m.step_s = 1;
    m.measures.emplace().update_ratio = ratio;
    m.memory_share = memory;
    std::string out;
    for (const Alert& a : alerts_of(m))
      out += std::string(a.name) + " " + std::string(name_of(a.level)) + "; ";
    return out;
  };
  CHECK(of_measured(1e-7, 0.89) == "");
  CHECK(of_measured(0.99e-7, std::nullopt) == "update_low warning; ");
  CHECK(of_measured(0.099, 0.9) == "memory warning; ");
  CHECK(of_measured(0.1, 0.95) == "memory severe; update_high warning; ");
  const Diagnostic low = to_diagnostic({"update_low", AlertLevel::warning, 1e-8, 1e-7, true}, 2);
  CHECK(low.found == "step 2: update_low 1e-08");
  CHECK(low.expected == "at least 1e-07");
  StepMetrics tiny;  // 0.9 of a step, and still no more than a thread takes to wake up
  tiny.step_s = 1e-3, tiny.data_wait_s = 0.9e-3;
  CHECK(alerts_of(tiny).empty());
  const Diagnostic d = to_diagnostic({"grad_norm", AlertLevel::severe, 1234, 1000}, 5);
  CHECK(d.code == "W-EXEC-001");
  CHECK(d.title == "severe: the gradient norm is large");
  CHECK(d.found == "step 5: grad_norm 1234");
  CHECK(d.expected == "below 1000");
}

TEST_CASE("the log is told when an alert appears or grows, not at every step") {
  const Folder folder;
  MetricsFiles files(folder.path, 0);
  const auto told = [&](double norm) {
    StepMetrics m;
    m.grad_norm = norm;
    return files.new_alerts(m).size();
  };
  CHECK(told(1) == 0);
  CHECK(told(200) == 1);
  CHECK(told(300) == 0);
  CHECK(told(2000) == 1);
  CHECK(told(200) == 0);
  CHECK(told(1) == 0);
  CHECK(told(200) == 1);
  // What only measured steps know stands until the next of them.
  const auto told_of = [&](std::optional<double> ratio) {
    StepMetrics m;
    if (ratio) m.measures.emplace().update_ratio = *ratio;
    return files.new_alerts(m).size();
  };
  CHECK(told_of(1) == 1);
  CHECK(told_of({}) == 0);
  CHECK(told_of(1) == 0);
  CHECK(told_of(1e-3) == 0);
  CHECK(told_of(1) == 1);
}

TEST_CASE("metrics.jsonl: a line a step; what is not finite is null; alerts stand in it") {
  StepMetrics m;
  m.step = 3;
  m.loss = std::numeric_limits<double>::infinity();
  m.grad_norm = 250;
  const std::string line = to_json_line(m);
  CHECK(line.back() == '\n');
  const auto json = nlohmann::json::parse(line);
  CHECK(json["step"] == 3);
  CHECK(json["loss"].is_null());
  CHECK(json["spike_ratio"].is_null());
  REQUIRE(json["alerts"].size() == 1);
  CHECK(json["alerts"][0]["name"] == "grad_norm");
  CHECK(json["alerts"][0]["level"] == "warning");
  CHECK(json["alerts"][0]["limit"] == 100);
  const auto plain = nlohmann::json::parse(to_json_line({}));
  for (const char* key : {"alerts", "evaluation_loss", "evaluation_perplexity", "evaluation_s"})
    CHECK_FALSE(plain.contains(key));
  for (const char* key : {"replicas_equal", "gradients", "updates", "time", "memory", "experts"})
    CHECK_FALSE(plain.contains(key));
  CHECK(plain["non_finite"] == false);
  for (const char* key : {"mfu", "clipped_share", "memory_share"}) CHECK(plain[key].is_null());
  StepMetrics full;
  full.replicas_equal = false;
  full.clipped_share = 0.25;
  Measures& own = full.measures.emplace();
  own.norm_by_layer = {3, 4}, own.update_by_layer = {0.5, 0.25};
  own.norm_outside = {{"embed", 2}};
  own.update_ratio = 0.01, own.parameter_norm = 7;
  own.experts = {expert_load(1, {3, 1}, 2)};
  own.bias_spread = {{1, 0.125}};
  own.exposed_s = {{"tp", 0.5}};
  own.peak_by_class[0] = 10, own.predicted_by_class[0] = 11;
  const auto measured = nlohmann::json::parse(to_json_line(full));
  CHECK(measured["replicas_equal"] == false);
  CHECK(measured["clipped_share"] == 0.25);
  CHECK(measured["gradients"]["norm_by_layer"] == std::vector<double>{3, 4});
  CHECK(measured["gradients"]["norm_outside"]["embed"] == 2);
  CHECK(measured["gradients"]["first_over_last"].is_null());
  CHECK(measured["updates"]["ratio_by_layer"] == std::vector<double>{0.5, 0.25});
  CHECK(measured["parameter_norm"] == 7);
  CHECK(measured["experts"][0]["choices"] == std::vector<int>{3, 1});
  CHECK(measured["experts"][0]["max_over_mean"] == 1.5);
  CHECK(measured["experts"][0]["bias_spread"] == 0.125);
  CHECK(measured["time"]["exposed_s"]["tp"] == 0.5);
  CHECK(measured["memory"]["peak_by_class"]["param"] == 10);
  CHECK(measured["memory"]["predicted_by_class"]["param"] == 11);
  m.evaluation = {2.5, 12.25, 0.125};
  const auto evaluated = nlohmann::json::parse(to_json_line(m));
  CHECK(evaluated["evaluation_loss"] == 2.5);
  CHECK(evaluated["evaluation_perplexity"] == 12.25);
  CHECK(evaluated["evaluation_s"] == 0.125);
}

TEST_CASE("event records: the worked bytes of TensorBoard's format") {
  CHECK(slow_crc32c("123456789") == 0xe3069283u);
  CHECK(slow_masked("") == 0xa282ead8u);
  CHECK(tfrecord(version_event(1.0)) ==
        from_hex("18 00 00 00 00 00 00 00 a3 7f 4b 22 09 00 00 00 00 00 00 f0 3f 1a 0d 62 72 61 69 "
                 "6e 2e 45 76 65 6e 74 3a 32 86 bf 57 7a"));
  CHECK(tfrecord(scalar_event(1.0, 1, {{"loss", 2.5}})) ==
        from_hex("1a 00 00 00 00 00 00 00 12 9b d8 2d 09 00 00 00 00 00 00 f0 3f 10 01 2a 0d 0a 0b "
                 "0a 04 6c 6f 73 73 15 00 00 20 40 26 99 10 bb"));
}

TEST_CASE("an event file, read by other code") {
  const Folder folder;
  {
    MetricsFiles files(folder.path, 0);
    for (int step = 0; step < 200; ++step) {
      StepMetrics m;
      m.step = step;
      m.loss = 5 - 0.01 * step;
      m.lr = 1e-3;
      if (step > 4) m.spike_ratio = 0.5;
      if (step % 50 == 49) m.evaluation = {4.5, 90, 0.25};
      files.add(m);
    }
    CHECK(files.status().ok());
  }
  const std::string path = only_file_of(folder.path + "/tensorboard");
  CHECK(fs::path(path).filename().string().starts_with("events.out.tfevents.1"));
  const std::vector<Event> events = events_of(slurp(path));
  REQUIRE(events.size() == 201);
  CHECK(events[0].version == "brain.Event:2");
  CHECK(events[0].time > 1.7e9);  // seconds since 1970
  for (int step = 0; step < 200; ++step) {
    const Event& e = events[static_cast<std::size_t>(step) + 1];
    CHECK(e.step == step);
    CHECK(e.scalars.at("loss/ce") == static_cast<float>(5 - 0.01 * step));
    CHECK(e.scalars.at("optimizer/lr") == 1e-3f);
    CHECK(e.scalars.count("loss/spike_ratio") == (step > 4 ? 1 : 0));
    CHECK(e.scalars.count("loss/evaluation") == (step % 50 == 49 ? 1 : 0));
    if (step % 50 == 49) CHECK(e.scalars.at("loss/evaluation_perplexity") == 90.0f);
    CHECK(e.time >= events[0].time);
  }
  std::istringstream lines(slurp(folder.path + "/metrics.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    CHECK(nlohmann::json::parse(line)["step"] == count);
  CHECK(count == 200);
}

TEST_CASE("a run that resumes goes on behind the lines, and tells readers of events") {
  const Folder folder;
  std::ofstream(folder.path + "/metrics.jsonl") << "{\"step\":0}\n";
  {
    MetricsFiles files(folder.path, 1);
    StepMetrics m;
    m.step = 1;
    files.add(m);
  }
  CHECK(slurp(folder.path + "/metrics.jsonl").starts_with("{\"step\":0}\n{\"step\":1,"));
  const auto events = events_of(slurp(only_file_of(folder.path + "/tensorboard")));
  REQUIRE(events.size() == 3);
  CHECK(events[1].restart);
  CHECK(events[1].step == 1);
  CHECK(events[2].step == 1);
}

TEST_CASE("files that cannot be written: the metrics go on, the status says so") {
  const Folder folder;
  std::ofstream(folder.path + "/tensorboard") << "a file where the folder goes";
  MetricsFiles files(folder.path, 0);
  files.add({});
  const Status s = files.status();
  REQUIRE_FALSE(s.ok());
  CHECK(s.error().failure == Failure::output);
  CHECK(!slurp(folder.path + "/metrics.jsonl").empty());
}
