// Any bytes, in any dialect (the first byte chooses it), give an order or messages; an accepted
// order prints to a text that reads back to itself, and its checks end.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/schedule/check.h"
#include "common/schedule/parse.h"
#include "common/schedule/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto dialect = static_cast<tandem::Dialect>(data[0] % tandem::dialect_names().size());
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto read = tandem::parse_order(text, "fuzz.csv", dialect);
  if (!read) {
    if (read.error().diagnostics.empty()) std::abort();
    (void)tandem::to_text(read.error().diagnostics);
    return 0;
  }
  const std::string canonical = tandem::to_file(read->order, read->generator);
  const auto again = tandem::parse_order(canonical, "canonical.csv");
  if (!again || again->order != read->order ||
      tandem::to_file(again->order, again->generator) != canonical)
    std::abort();
  (void)errors_at(tandem::check_order(read->order), *read, text, "fuzz.csv");
  return 0;
}
