// Goal    a Hugging Face config.json gives the model it describes, or a message at the key that
//         stands in the way; whatever bytes the file holds.
// Method  configurations as their publishers wrote them (hf/*.json) against the published counts of
//         parameters; one change a refusal, with code, place and words; texts that are no JSON,
//         too deep, too long; every prefix and single-byte change of one file.
#include "common/scenario/import_hf.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/base/limits.h"
#include "common/model/parameters.h"
#include "common/scenario/explain.h"
#include "common/scenario/json_reader.h"
#include "common/scenario/read.h"

using namespace tandem;

namespace {

const std::string kFolder = TANDEM_SOURCE_DIR "/tests/common/scenario/hf/";

std::string slurp(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  REQUIRE_MESSAGE(!out.str().empty(), path);
  return out.str();
}

// A scenario beside the configurations that starts from one of them.
Result<Scenario> from(const std::string& file, const std::string& more = "",
                      Diagnostics* warnings = nullptr) {
  return read_scenario_text(kFolder + "t.yaml",
                            "tandem: 1\nmodel: {from_hf: " + file + more + "}\n", {}, warnings);
}

ModelSpec model(const std::string& file, const std::string& more = "") {
  const auto s = from(file, more);
  if (!s) FAIL(to_text(s.error().diagnostics));
  return s->model;
}

// A text as a file of its own, for as long as the test runs.
class Config {
 public:
  explicit Config(const std::string& text) {
    static int number = 0;
    path_ = (std::filesystem::temp_directory_path() /
             fmt::format("tandem_hf_{}_{}.json", ::getpid(), number++))
                .string();
    std::ofstream(path_) << text;
  }
  ~Config() { std::filesystem::remove(path_); }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Result<Scenario> from_text(const std::string& text, const std::string& more = "",
                           Diagnostics* warnings = nullptr) {
  const Config config(text);
  return from(config.path(), more, warnings);
}

// The published file `name` with one text replaced.
std::string changed(const std::string& name, const std::string& what, const std::string& by) {
  std::string text = slurp(kFolder + name);
  const std::size_t at = text.find(what);
  REQUIRE_MESSAGE(at != std::string::npos, what);
  return text.replace(at, what.size(), by);
}

int line_of(const std::string& text, const std::string& what) {
  const std::size_t at = text.find(what);
  REQUIRE_MESSAGE(at != std::string::npos, what);
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<long>(at), '\n'));
}

Diagnostic refused(const Result<Scenario>& s) {
  REQUIRE_FALSE(s.ok());
  return s.error().diagnostics.front();
}

}  // namespace

TEST_CASE("published configurations have the published number of parameters") {
  const ModelSpec llama = model("llama-3-8b.json");
  CHECK(parameter_count(model_shape(llama)) == 8'030'261'248);
  CHECK(llama.family == ModelFamily::llama);
  CHECK(llama.kv_heads == 8);
  CHECK(llama.head_dim == 128);
  CHECK(llama.norm_eps == 1e-5);
  CHECK(llama.rope_base == 500'000);
  CHECK(llama.max_sequence == 8192);
  CHECK_FALSE(llama.tied_embeddings);

  const ModelSpec gpt2 = model("gpt2.json");
  CHECK(parameter_count(model_shape(gpt2)) == 124'439'808);
  CHECK(gpt2.family == ModelFamily::gpt);
  CHECK(gpt2.ffn_hidden == 3072);  // left out: 4 * n_embd
  CHECK(gpt2.gelu == Gelu::tanh);  // gelu_new
  CHECK(gpt2.tied_embeddings);     // left out: the default of the class

  const ModelSpec mixtral = model("mixtral-8x7b.json");
  CHECK(parameter_count(model_shape(mixtral)) == 46'702'792'704);
  CHECK(parameters_per_token(model_shape(mixtral)) == 12'879'925'248);
  CHECK(mixtral.rope_base == 1'000'000);
  CHECK(mixtral.moe.router == RouterKind::softmax);
  CHECK(mixtral.moe.expert_hidden == 14'336);

  // DeepSeek-V3 as published stretches its positions (YaRN), which is refused; a scenario may do
  // without.
  const ModelSpec deepseek = model("deepseek-v3.json", ", rope_scaling: none");
  CHECK(parameter_count(model_shape(deepseek)) == 671'026'404'352);
  CHECK(parameters_per_token(model_shape(deepseek)) == 37'552'282'624);
  CHECK(deepseek.norm_eps == 1e-6);
  CHECK(deepseek.moe.router == RouterKind::sigmoid);
  CHECK(deepseek.moe.groups_kept == 4);
  CHECK(deepseek.moe.scale == 2.5);
  CHECK(deepseek.moe.dense_first == 3);
  CHECK(deepseek.head_dim == 56);  // hidden / heads: of no meaning with latent attention
  CHECK(deepseek.mla.rope_dim == 64);
}

// Queries without a latent (models.md 2.3): 61 layers lose H rq + rq + rq a (dn + dr) parameters
// and get H a (dn + dr).
TEST_CASE("q_lora_rank null is q_rank 0") {
  const auto s =
      from_text(changed("deepseek-v3.json", "\"q_lora_rank\": 1536", "\"q_lora_rank\": null"),
                ", rope_scaling: none");
  REQUIRE_MESSAGE(s.ok(), (s.ok() ? "" : to_text(s.error().diagnostics)));
  CHECK(s->model.mla.q_rank == 0);
  CHECK(s->model.mla.kv_rank == 512);
  const std::int64_t h = 7168, rq = 1536, q = 128 * (128 + 64);
  CHECK(parameter_count(model_shape(s->model)) ==
        671'026'404'352 + 61 * (h * q - h * rq - rq - rq * q));
}

TEST_CASE("an imported model is the preset of the same name, but for what only training sees") {
  const auto sizes = [](ModelSpec m) {
    m.preset.clear(), m.from_hf.clear();
    return m;
  };
  const auto preset = read_scenario_text("t.yaml", "tandem: 1\nmodel: llama-8b\n");
  REQUIRE(preset.ok());
  const ModelSpec a = sizes(preset->model), b = sizes(model("llama-3-8b.json"));
  CHECK(a.layers == b.layers);
  CHECK(a.hidden == b.hidden);
  CHECK(a.heads == b.heads);
  CHECK(a.kv_heads == b.kv_heads);
  CHECK(a.ffn_hidden == b.ffn_hidden);
  CHECK(a.vocab == b.vocab);
  CHECK(a.max_sequence == b.max_sequence);
  CHECK(a.norm_eps == b.norm_eps);
  CHECK(a.rope_base == b.rope_base);
  CHECK(a.moe == b.moe);
  CHECK(a.mla == b.mla);
}

TEST_CASE("values of the scenario win, and every value says where it came from") {
  const auto s = from("llama-3-8b.json", ", layers: 4, norm_eps: auto");
  REQUIRE(s.ok());
  CHECK(s->model.layers == 4);
  CHECK(s->model.norm_eps == 1e-5);  // auto is the default of the family, not the file's
  const std::string text = explain(*s);
  const auto line = [&](const std::string& begin) {
    const std::size_t at = text.find("\n  " + begin);
    REQUIRE(at != std::string::npos);
    return text.substr(at + 1, text.find('\n', at + 1) - at - 1);
  };
  CHECK(line("layers: 4").find("# " + kFolder + "t.yaml:2") != std::string::npos);
  CHECK(line("hidden: 4096").find("# from_hf " + kFolder + "llama-3-8b.json:10") !=
        std::string::npos);
  CHECK(line("rope_base: 500000").find("# from_hf " + kFolder + "llama-3-8b.json:21") !=
        std::string::npos);
  // What follows from the model_type stands where that does.
  CHECK(line("family: llama").find("llama-3-8b.json:14") != std::string::npos);
  // The full form has all values and needs the file no more.
  const auto again = read_scenario_text("elsewhere.yaml", explain(*s, false));
  REQUIRE(again.ok());
  CHECK(explain(*again, false) == explain(*s, false));
}

TEST_CASE("one warning lists what is not used; metadata and rates of 0 are no news") {
  Diagnostics warnings;
  REQUIRE(from("llama-3-8b.json", "", &warnings).ok());
  CHECK(warnings.empty());
  REQUIRE(from("gpt2.json", "", &warnings).ok());
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].code == "W-MODEL-001");
  CHECK(warnings[0].found == "attn_pdrop = 0.1, embd_pdrop = 0.1, resid_pdrop = 0.1");
  CHECK(warnings[0].where.line == 6);
  CHECK(warnings[0].where.file == kFolder + "gpt2.json");
  REQUIRE(from("deepseek-v3.json", ", rope_scaling: none", &warnings).ok());
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].found == "num_nextn_predict_layers = 1, quantization_config = {...}");
  std::string many = "{\"model_type\": \"gpt2\"";
  for (int i = 0; i < 40; ++i) many += fmt::format(", \"x{}\": {}", i, i);
  REQUIRE(from_text(many + "}", "", &warnings).ok());
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].title.starts_with("40 keys of the Hugging Face configuration are not used"));
  CHECK(warnings[0].found.ends_with("x11 = 11, and 28 more"));
  REQUIRE(from_text("{\"model_type\": \"gpt2\", \"" + std::string(5000, 'k') + "\": \"" +
                        std::string(5000, 'v') + "\"}",
                    "", &warnings)
              .ok());
  CHECK(warnings[0].found.size() < 100);
}

TEST_CASE("keys that are left out have the defaults of their configuration class") {
  const auto of = [](const char* type) {
    const auto s = from_text(fmt::format("{{\"model_type\": \"{}\"}}", type));
    if (!s) FAIL(to_text(s.error().diagnostics));
    return s->model;
  };
  CHECK(parameter_count(model_shape(of("gpt2"))) == 124'439'808);
  CHECK(parameter_count(model_shape(of("llama"))) == 6'738'415'616);  // Llama-2-7B
  CHECK(of("llama").norm_eps == 1e-6);
  CHECK(of("llama").kv_heads == 32);
  CHECK(parameter_count(model_shape(of("mixtral"))) == 46'702'792'704);
  CHECK(of("mixtral").max_sequence == 131'072);
  CHECK(parameter_count(model_shape(of("deepseek_v3"))) == 671'026'404'352);
  // Without model_type the architecture says it.
  const auto s = from_text("{\"architectures\": [\"GPT2LMHeadModel\"], \"n_layer\": 3}");
  REQUIRE(s.ok());
  CHECK(s->model.layers == 3);
}

TEST_CASE("newer files: rope_parameters; aliases; activations") {
  const std::string head = "{\"model_type\": \"llama\", ";
  const auto base = [&](const std::string& rest) {
    const auto s = from_text(head + rest + "}");
    if (!s) FAIL(to_text(s.error().diagnostics));
    return s->model.rope_base;
  };
  CHECK(base("\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 2e5}") == 2e5);
  CHECK(base("\"rope_parameters\": {\"rope_theta\": 3e5}") == 3e5);
  CHECK(base("\"rope_parameters\": null, \"rope_theta\": 4e5") == 4e5);
  CHECK(base("\"rope_scaling\": {\"type\": \"default\"}") == 1e4);
  const auto experts = from_text("{\"model_type\": \"mixtral\", \"num_experts\": 4}");
  REQUIRE(experts.ok());
  CHECK(experts->model.moe.experts == 4);
  const auto erf = from_text("{\"model_type\": \"gpt2\", \"activation_function\": \"gelu\"}");
  REQUIRE(erf.ok());
  CHECK(erf->model.gelu == Gelu::erf);
}

TEST_CASE("what does not exist here is refused by name, at its place") {
  struct Row {
    const char *file, *what, *by, *title;
  };
  const Row rows[] = {
      {"llama-3-8b.json", "\"attention_bias\": false", "\"attention_bias\": true",
       "biases in attention"},
      {"llama-3-8b.json", "\"pretraining_tp\": 1", "\"mlp_bias\": true",
       "biases in the feed-forward part"},
      {"llama-3-8b.json", "\"silu\"", "\"gelu\"", "another activation"},
      {"mixtral-8x7b.json", "\"sliding_window\": null", "\"sliding_window\": 4096",
       "attention over a window of positions"},
      {"mixtral-8x7b.json", "\"use_cache\": true", "\"router_jitter_noise\": 0.01",
       "noise on what the router sees"},
      {"llama-3-8b.json", "\"use_cache\": true", "\"layer_types\": [\"full_attention\"]",
       "layer_types is there"},
      {"llama-3-8b.json", "\"use_cache\": true", "\"text_config\": {}", "text_config is there"},
      {"gpt2.json", "\"n_ctx\": 1024", "\"scale_attn_by_inverse_layer_idx\": true",
       "attention scores divided by the layer's number"},
      {"gpt2.json", "\"gelu_new\"", "\"relu\"", "another activation"},
      {"deepseek-v3.json", "\"noaux_tc\"", "\"greedy\"", "another choice of experts"},
      {"deepseek-v3.json", "\"norm_topk_prob\": true", "\"norm_topk_prob\": false",
       "routing weights that are not normalised"},
      {"deepseek-v3.json", "\"moe_layer_freq\": 1", "\"moe_layer_freq\": 2",
       "layers with experts that do not start at the first sparse one"}};
  for (const Row& row : rows) {
    CAPTURE(row.by);
    const bool yarn = std::string(row.file) == "deepseek-v3.json";
    const std::string text = changed(row.file, row.what, row.by);
    const auto s = from_text(text, yarn ? ", rope_scaling: none" : "");
    const Diagnostic d = refused(s);
    CHECK(d.code == "E-MODEL-013");
    CHECK(d.title.ends_with(row.title));
    CHECK(d.where.line == line_of(text, row.by));
    CHECK(s.error().failure == Failure::infeasible);
    REQUIRE(d.notes.size() == 1);  // who asked for the file
    CHECK(d.notes[0].text == "model.from_hf is chosen here");
  }
  // moe_layer_freq 3 fits first_k_dense_replace 3.
  const auto every =
      from_text(changed("deepseek-v3.json", "\"moe_layer_freq\": 1", "\"moe_layer_freq\": 3"),
                ", rope_scaling: none");
  REQUIRE(every.ok());
  CHECK(every->model.moe.every == 3);
}

TEST_CASE("scaled rotary positions are refused unless the scenario says none") {
  const Diagnostic d = refused(from("deepseek-v3.json"));
  CHECK(d.code == "E-SCEN-005");
  CHECK(d.title == "model.rope_scaling cannot be \"yarn\"");
  CHECK(d.where.file == kFolder + "deepseek-v3.json");
  CHECK(d.where.line == line_of(slurp(kFolder + "deepseek-v3.json"), "\"yarn\""));
  CHECK(d.notes[0].text == "model.from_hf is chosen here");
  const auto scaled = [](const std::string& rest) {
    return refused(from_text("{\"model_type\": \"llama\", " + rest + "}")).title;
  };
  CHECK(scaled("\"rope_scaling\": {\"rope_type\": \"llama3\"}") ==
        "model.rope_scaling cannot be \"llama3\"");
  CHECK(scaled("\"rope_parameters\": {\"rope_type\": \"linear\"}") ==
        "model.rope_scaling cannot be \"linear\"");
  CHECK(scaled("\"rope_scaling\": {\"factor\": 2}") ==
        "model.rope_scaling cannot be \"of no type\"");
}

TEST_CASE("values of a wrong type or out of range: as in a scenario, at their place") {
  const auto with = [](const char* key, const char* value) {
    return refused(
        from_text(fmt::format("{{\n\"model_type\": \"llama\",\n\"{}\": {}}}", key, value)));
  };
  struct Row {
    const char *key, *value, *code, *field;
  };
  for (const Row& row : {Row{"hidden_size", "\"4096\"", "E-SCEN-004", "model.hidden"},
                         {"hidden_size", "[4096]", "E-SCEN-004", "model.hidden"},
                         {"hidden_size", "{}", "E-SCEN-004", "model.hidden"},
                         {"hidden_size", "4096.5", "E-SCEN-006", "model.hidden"},
                         {"hidden_size", "true", "E-SCEN-006", "model.hidden"},
                         {"hidden_size", "0", "E-SCEN-007", "model.hidden"},
                         {"hidden_size", "-4096", "E-SCEN-007", "model.hidden"},
                         {"hidden_size", "99999999999999999999", "E-SCEN-006", "model.hidden"},
                         {"num_hidden_layers", "9223372036854775807", "E-SCEN-007", "model.layers"},
                         {"rms_norm_eps", "2", "E-SCEN-009", "model.norm_eps"},
                         {"rms_norm_eps", "\"x\"", "E-SCEN-004", "model.norm_eps"},
                         {"rope_theta", "-1", "E-SCEN-009", "model.rope_base"},
                         {"tie_word_embeddings", "1", "E-SCEN-010", "model.tied_embeddings"}}) {
    CAPTURE(row.value);
    const Diagnostic d = with(row.key, row.value);
    CHECK(d.code == row.code);
    CHECK(d.title.starts_with(row.field));
    CHECK(d.where.line == 3);
    CHECK(d.where.column == static_cast<int>(std::string(row.key).size()) + 5);
  }
}

TEST_CASE("files that cannot be read or are no configuration") {
  const auto code = [](const std::string& text) { return refused(from_text(text)).code; };
  CHECK(code(" ") == "E-MODEL-012");
  CHECK(code("{\"model_type\": \"llama\",}") == "E-MODEL-012");
  CHECK(code("{\"model_type\": \"llama\"} x") == "E-MODEL-012");
  CHECK(code("{\"hidden_size\": NaN}") == "E-MODEL-012");
  CHECK(code("{\"rms_norm_eps\": 1e999}") == "E-MODEL-012");
  CHECK(code("{\"model_type\": \"ll\xff\"}") == "E-MODEL-012");
  CHECK(code("// no\n{}") == "E-MODEL-012");
  CHECK(code("[]") == "E-MODEL-011");
  CHECK(code("3") == "E-MODEL-011");
  CHECK(code("{}") == "E-MODEL-011");
  CHECK(code("{\"model_type\": 4}") == "E-MODEL-011");
  CHECK(code("{\"model_type\": \"llama\", \"model_type\": \"gpt2\"}") == "E-YAML-017");
  CHECK(code(std::string(100'000, '[')) == "E-YAML-008");
  CHECK(code("[" + std::string(2 * limits::kYamlNodes, ' ') + "]") == "E-MODEL-011");
  std::string many = "[0";
  for (int i = 0; i < limits::kYamlNodes; ++i) many += ",0";
  CHECK(code(many + "]") == "E-YAML-009");
  CHECK(code("{\"x\": \"" + std::string(limits::kScenarioBytes, 'x') + "\"}") == "E-IO-003");
  const Diagnostic bert = refused(from_text("{\n \"model_type\": \"lama\"}"));
  CHECK(bert.hint.find("llama") != std::string::npos);
  CHECK(bert.where.line == 2);
  const Diagnostic comma = refused(from_text("{\n  \"n_layer\": 12,\n}"));
  CHECK(comma.where.line == 3);
  CHECK(refused(from("nothing.json")).code == "E-IO-001");
  CHECK(refused(from("llama-3-8b.json", ", preset: llama-8b")).code == "E-MODEL-014");
  CHECK(refused(from("[a]")).code == "E-SCEN-004");
}

TEST_CASE("json: marks, kinds and texts") {
  const auto d =
      parse_json("t", "{\n  \"a\\\"b\" : [1, 2.50],\n  \"c\": null, \"d\": \"x\\u0041\"\n}");
  REQUIRE(d.ok());
  REQUIRE(d->root.children.size() == 3);
  const YamlNode &a = d->root.children[0], &c = d->root.children[1], &x = d->root.children[2];
  CHECK(a.key == "a\"b");
  CHECK(a.key_mark.line == 2);
  CHECK(a.key_mark.column == 3);
  CHECK(a.key_mark.length == 6);
  CHECK(a.kind == YamlNode::Kind::list);
  CHECK(a.mark.column == 12);
  CHECK(a.children[1].text == "2.50");
  CHECK(c.kind == YamlNode::Kind::null);
  CHECK(c.mark.line == 3);
  CHECK(c.mark.column == 8);
  CHECK(x.text == "xA");
  CHECK(x.quoted);
  CHECK(x.mark.length == 9);
  // Of a key that comes twice the first value counts, whatever lies in the second.
  const auto twice = parse_json("t", "{\"a\": 1, \"a\": {\"b\": 2, \"b\": [3]}, \"c\": 4}");
  REQUIRE(twice.ok());
  REQUIRE(twice->root.children.size() == 2);
  CHECK(twice->root.children[0].text == "1");
  CHECK(twice->root.children[1].text == "4");
  CHECK(twice->duplicates.size() == 2);
}

// A file from outside may hold anything: messages, or a model, and never a crash.
TEST_CASE("every prefix and every changed byte of a configuration is read or refused") {
  const std::string text = slurp(kFolder + "gpt2.json");
  int accepted = 0;
  const auto look = [&](std::string bytes) {
    const auto document = parse_json("t", std::move(bytes));
    if (!document) {
      CHECK(document.error().diagnostics.size() == 1);
      return;
    }
    Diagnostics problems;
    (void)import_hf(*document, problems);
    ++accepted;
  };
  for (std::size_t n = 0; n < text.size(); ++n) look(text.substr(0, n));
  for (std::size_t i = 0; i < text.size(); ++i)
    for (char c : {'"', '{', '}', '[', ',', ':', '\\', '\0', '7', '\xff'}) {
      std::string other = text;
      other[i] = c;
      look(other);
    }
  CHECK(accepted > 100);
}
