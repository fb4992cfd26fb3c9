// Goal: the generated pages are those of the tables, every code has a case, every word a field.
// To write the pages anew: TANDEM_UPDATE=1 scenario_test.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "common/base/diagnostic_codes.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/scenario/explain.h"
#include "common/scenario/fields.h"

using namespace tandem;
namespace fs = std::filesystem;

namespace {

void check_page(const std::string& path, const std::string& generated) {
  if (std::getenv("TANDEM_UPDATE") != nullptr) REQUIRE(write_file_atomic(path, generated).ok());
  const auto page = read_file(path, limits::kTableBytes);
  REQUIRE(page.ok());
  CHECK_MESSAGE(*page == generated, path << " is not up to date");
}

}  // namespace

TEST_CASE("generated pages are up to date") {
  check_page("docs/scenario_reference.md", reference_page());
  check_page("docs/scenario.schema.json", json_schema());
  check_page("docs/errors.md", errors_page());
}

TEST_CASE("the schema knows every field") {
  const auto schema = nlohmann::json::parse(json_schema());
  for (const Field& field : scenario_fields()) {
    const nlohmann::json* at = &schema;
    std::string path(field.path), key;
    while (!path.empty()) {
      const auto end = path.find_first_of(".[");
      key = path.substr(0, end);
      path = end == std::string::npos ? "" : path.substr(end);
      const nlohmann::json* object = at;
      if (object->contains("anyOf")) object = &(*object)["anyOf"].back();
      if (object->contains("items")) object = &(*object)["items"];
      REQUIRE_MESSAGE(object->contains("properties"), field.path);
      REQUIRE_MESSAGE((*object)["properties"].contains(key), field.path);
      at = &(*object)["properties"][key];
      while (path.starts_with("[]")) path = path.substr(2);
      if (path.starts_with(".")) path = path.substr(1);
    }
  }
}

// A case is a file of scenarios/invalid; the codes of the list below have theirs in unit tests.
TEST_CASE("every code of the reader has a case") {
  std::set<std::string> seen = {"E-YAML-009", "E-SCEN-016", "E-SCEN-017", "E-SCEN-060",
                                "E-SCEN-061", "E-SCEN-062", "W-SCEN-001", "W-SCEN-002",
                                "W-SCEN-003", "W-SCEN-006", "W-CLUS-001", "E-CLUS-015",
                                "E-CLUS-016", "W-MODEL-001"};
  for (const auto& entry : fs::directory_iterator("scenarios/invalid")) {
    if (entry.path().extension() != ".expect") continue;
    const std::string text = read_file(entry.path().string(), 1 << 20).value();
    for (auto at = text.find("error E-"); at != std::string::npos;
         at = text.find("error E-", at + 1)) {
      const std::string code = text.substr(at + 6, text.find(':', at) - at - 6);
      CHECK_MESSAGE(find_code(code) != nullptr, code);
      seen.insert(code);
    }
  }
  for (const CodeInfo& row : diagnostic_codes()) {
    const std::string code(row.code), area = code.substr(2, code.rfind('-') - 2);
    if (area == "YAML" || area == "SCEN" || area == "UNIT" || area == "MODEL" || area == "CLUS")
      CHECK_MESSAGE(seen.contains(code), code);
  }
}
