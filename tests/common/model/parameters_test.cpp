// Goal    every preset has the published number of parameters, and every tensor of it is known.
// Method  the table of models.md 2.2 against the closed form, and the closed form against the sum
//         over the list of tensors, which is written independently of it.
#include "common/model/parameters.h"

#include <doctest/doctest.h>

#include <map>
#include <set>
#include <string>

#include "preset_shape.h"

using namespace tandem;

namespace {

struct Row {
  const char* preset;
  std::int64_t total, per_token;
};

// models.md 2.2, "preset (A)" and the tiny ones. per_token 0: all of them.
constexpr Row kTable[] = {
    {"gpt2-small", 124'439'808, 0},
    {"gpt3-6.7b", 6'658'404'352, 0},
    {"gpt3-175b", 174'615'846'912, 0},
    {"megatron-530b", 529'600'819'200, 0},
    {"megatron-1t", 1'008'038'758'400, 0},
    {"nano-train", 2'173'792, 994'144},
    {"llama2-7b", 6'738'415'616, 0},
    {"llama-8b", 8'030'261'248, 0},
    {"llama-70b", 70'553'706'496, 0},
    {"llama-405b", 405'853'388'800, 0},
    {"mixtral-8x7b", 46'702'792'704, 12'879'925'248},
    {"mixtral-8x22b", 140'630'071'296, 39'161'468'928},
    {"deepseek-v3", 671'026'404'352, 37'552'282'624},
    {"gpt-tiny", 418'432, 0},
    {"llama-tiny", 328'768, 0},
    {"mixtral-tiny", 529'472, -1},
    {"deepseek-tiny", 512'960, -1},
};

}  // namespace

TEST_CASE("parameters: every preset has its published count, total and per token") {
  std::set<std::string> seen;
  for (const Row& row : kTable) {
    CAPTURE(row.preset);
    seen.insert(row.preset);
    const ModelShape m = preset_shape(row.preset);
    CHECK(parameter_count(m) == row.total);
    if (row.per_token >= 0)
      CHECK(parameters_per_token(m) == (row.per_token == 0 ? row.total : row.per_token));
  }
  for (const std::string& name : preset_names("models")) {
    CAPTURE(name);
    CHECK(seen.contains(name));  // a new preset needs a row
  }
}

TEST_CASE("parameters: the list of tensors sums to the closed form, layer by layer") {
  for (const Row& row : kTable) {
    CAPTURE(row.preset);
    const ModelShape m = preset_shape(row.preset);
    std::map<int, std::int64_t> by_layer;
    std::set<std::string> names;
    for (const Tensor& t : parameter_tensors(m)) {
      by_layer[t.layer] += t.shape.elements();
      CHECK_MESSAGE(names.insert(t.name).second, t.name, " twice");
    }
    std::int64_t layers = 0;
    for (int i = 0; i < m.layers; ++i) {
      CHECK(by_layer[i] == layer_parameters(m, i));
      layers += by_layer[i];
    }
    CHECK(layers + by_layer[-1] == row.total);
  }
}

TEST_CASE("parameters: numbers of tensors of the small presets (models.md 2.2)") {
  CHECK(parameter_tensors(preset_shape("gpt-tiny")).size() == 132);
  CHECK(parameter_tensors(preset_shape("llama-tiny")).size() == 75);
  CHECK(parameter_tensors(preset_shape("mixtral-tiny")).size() == 251);
  CHECK(parameter_tensors(preset_shape("deepseek-tiny")).size() == 274);
  CHECK(parameter_tensors(preset_shape("nano-train")).size() == 163);
}

TEST_CASE("parameters: layers of DeepSeek-V3 as models.md gives them") {
  const ModelShape m = preset_shape("deepseek-v3");
  CHECK(layer_parameters(m, 0) == 583'483'392);
  CHECK(layer_parameters(m, 2) == 583'483'392);
  CHECK(layer_parameters(m, 3) == 11'507'286'016);
  std::int64_t mla = 0;  // attention of layer 0 with its two inner norms
  for (const Tensor& t : parameter_tensors(m))
    if (t.layer == 0 && t.name.find(".attn.") != std::string::npos) mla += t.shape.elements();
  CHECK(mla == 187'107'328);
}

// A tensor rank holds 1/t of what is cut and all of the rest; a bias is cut with its rows and whole
// behind a partial sum (models.md 4.2).
TEST_CASE("parameters: gpt names, shapes and cuts") {
  std::map<std::string, Tensor> by_name;
  for (const Tensor& t : parameter_tensors(preset_shape("gpt-tiny"))) by_name[t.name] = t;
  struct Expect {
    const char* name;
    Shape shape;
    TensorClass cls;
    int cut;
    Module module;
  };
  const Expect rows[] = {
      {"embed.weight", {256, 64}, TensorClass::tied, 0, Module::embedding},
      {"pos_embed.weight", {32, 64}, TensorClass::whole, -1, Module::embedding},
      {"layers.0.norm1.bias", {64}, TensorClass::whole, -1, Module::norm},
      {"layers.7.attn.k.weight", {64, 64}, TensorClass::tp_cut, 0, Module::attention},
      {"layers.7.attn.v.bias", {64}, TensorClass::tp_cut, 0, Module::attention},
      {"layers.3.attn.o.weight", {64, 64}, TensorClass::tp_cut, 1, Module::attention},
      {"layers.3.attn.o.bias", {64}, TensorClass::whole, -1, Module::attention},
      {"layers.1.mlp.fc1.weight", {256, 64}, TensorClass::tp_cut, 0, Module::mlp},
      {"layers.1.mlp.fc1.bias", {256}, TensorClass::tp_cut, 0, Module::mlp},
      {"layers.1.mlp.fc2.weight", {64, 256}, TensorClass::tp_cut, 1, Module::mlp},
      {"layers.1.mlp.fc2.bias", {64}, TensorClass::whole, -1, Module::mlp},
      {"final_norm.weight", {64}, TensorClass::whole, -1, Module::norm},
  };
  for (const Expect& e : rows) {
    CAPTURE(e.name);
    REQUIRE(by_name.contains(e.name));
    const Tensor& t = by_name[e.name];
    CHECK(t.shape == e.shape);
    CHECK(t.cls == e.cls);
    CHECK(t.cut_dim == e.cut);
    CHECK(t.module == e.module);
  }
  CHECK_FALSE(by_name.contains("head.weight"));  // tied
  CHECK(parameter_tensors(preset_shape("gpt-tiny")).front().name == "embed.weight");
}
