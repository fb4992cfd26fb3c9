// Must crash: shows that the fuzzing set-up finds what it is for. The text "plan 1" followed by
// a 7.
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.size() > 6 && text.substr(0, 6) == "plan 1" && text[6] == '7') std::abort();
  return 0;
}
