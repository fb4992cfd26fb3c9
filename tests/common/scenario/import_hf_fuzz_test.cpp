// Goal    no bytes break the reader of config.json: what tests/fuzz/fuzz_config.cpp looks for, on a
//         short list that is the same everywhere.
// Method  the four public configurations, cut at every byte, and mutated by a generator with a
// fixed
//         seed: bytes flipped, cut out, doubled, tokens of JSON set in, pieces of two files joined.
//         Oracle: nlohmann's accept(), which shares no code with our handler, says what is JSON;
//         only limits of depth and number may refuse more.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "tests/fuzz/config_property.h"

namespace tandem {
namespace {

std::vector<std::string> configurations() {
  std::vector<std::string> out;
  for (const char* name : {"gpt2", "llama-3-8b", "mixtral-8x7b", "deepseek-v3"}) {
    auto text = read_file(std::string("tests/common/scenario/hf/") + name + ".json",
                          limits::kScenarioBytes);
    REQUIRE(text.ok());
    out.push_back(*text);
  }
  return out;
}

// The outcome of `bytes`, held to the oracle.
ConfigOutcome outcome_of(const std::string& bytes) {
  std::string broken;
  const auto outcome = read_config(bytes, broken);
  REQUIRE_MESSAGE(outcome.has_value(), broken << " in:\n" << bytes);
  const bool limited = outcome->code == "E-YAML-008" || outcome->code == "E-YAML-009";
  if (!limited || outcome->parsed)
    REQUIRE_MESSAGE(outcome->parsed == nlohmann::json::accept(bytes), bytes);
  return *outcome;
}

// Raw draws only: the distributions of the standard library differ between machines.
class Mutator {
 public:
  explicit Mutator(std::vector<std::string> seeds) : seeds_(std::move(seeds)) {}

  std::string next() {
    std::string text = seeds_[below(seeds_.size())];
    for (std::size_t n = 1 + below(3); n > 0; --n) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t n) { return random_() % n; }

  void change(std::string& text) {
    static const std::vector<std::string> kTokens = {"{",
                                                     "}",
                                                     "[",
                                                     "]",
                                                     ",",
                                                     ":",
                                                     "\"",
                                                     "\\",
                                                     "null",
                                                     "true",
                                                     "-",
                                                     "1e999",
                                                     "0",
                                                     "-0",
                                                     "1e-7",
                                                     "\"\\u0000\"",
                                                     "\"\\ud800\"",
                                                     "\xff",
                                                     "\"model_type\":",
                                                     "{\"a\":",
                                                     "99999999999999999999",
                                                     "\"hidden_size\": -1",
                                                     "\n",
                                                     "[[[[",
                                                     "\"num_hidden_layers\": 2.5",
                                                     "\xef\xbb\xbf"};
    if (text.empty()) text = " ";
    const std::size_t at = below(text.size()), length = 1 + below(40);
    switch (below(6)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        return;
      case 1:
        text.erase(at, length);
        return;
      case 2:
        text.insert(at, text.substr(below(text.size()), length));
        return;
      case 3:
        text.insert(at, kTokens[below(kTokens.size())]);
        return;
      case 4: {  // the value of a key becomes another token
        const std::size_t colon = text.find(':', at);
        if (colon == std::string::npos) return;
        const std::size_t end = std::min(text.find_first_of(",}", colon), text.size());
        text.replace(colon + 1, end - colon - 1, " " + kTokens[below(kTokens.size())]);
        return;
      }
      default: {
        const std::string& other = seeds_[below(seeds_.size())];
        text = text.substr(0, at) + other.substr(below(other.size()));
        return;
      }
    }
  }

  std::vector<std::string> seeds_;
  std::mt19937 random_{20240607};
};

}  // namespace

TEST_CASE("config.json: cut at every byte") {
  for (const std::string& whole : configurations()) {
    REQUIRE(outcome_of(whole).accepted);
    const std::size_t end = whole.find_last_of('}');
    for (std::size_t n = 0; n <= end; ++n) {
      const ConfigOutcome cut = outcome_of(whole.substr(0, n));
      REQUIRE_FALSE(cut.parsed);
      REQUIRE(cut.code == "E-MODEL-012");
    }
  }
}

TEST_CASE("config.json: ten thousand mutants, each read or refused as JSON is") {
  Mutator mutator(configurations());
  int parsed = 0, accepted = 0;
  std::set<std::string> codes;
  for (int i = 0; i < 10'000; ++i) {
    const ConfigOutcome outcome = outcome_of(mutator.next());
    parsed += outcome.parsed;
    accepted += outcome.accepted;
    codes.insert(outcome.code);
  }
  CHECK(parsed > 1'000);  // else nothing gets behind the parser
  CHECK(parsed < 9'000);
  CHECK(accepted > 100);
  // Every kind of refusal is reached: not JSON, a key twice, another family, a value that would
  // mean another model, keys that are not used.
  for (const char* code :
       {"E-MODEL-012", "E-YAML-017", "E-MODEL-011", "E-MODEL-013", "W-MODEL-001"})
    CHECK_MESSAGE(codes.contains(code), code);
}

TEST_CASE("config.json: nested and long to the limits, and beyond") {
  const auto nested = [](int levels) {
    return "{\"a\": " + std::string(static_cast<std::size_t>(levels - 1), '[') +
           std::string(static_cast<std::size_t>(levels - 1), ']') + "}";
  };
  CHECK(outcome_of(nested(limits::kYamlDepth)).parsed);
  CHECK(outcome_of(nested(limits::kYamlDepth + 1)).code == "E-YAML-008");
  const auto list = [](int nodes) {  // an object, a list, and its values
    std::string text = "{\"a\": [0";
    for (int i = 3; i < nodes; ++i) text += ",0";
    return text + "]}";
  };
  CHECK(outcome_of(list(limits::kYamlNodes)).parsed);
  CHECK(outcome_of(list(limits::kYamlNodes + 1)).code == "E-YAML-009");
}

}  // namespace tandem
