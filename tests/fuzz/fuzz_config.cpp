// Any bytes are read as a Hugging Face config.json or refused with one message; what is read gives
// fields of the model or messages, at places of the text.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tests/fuzz/config_property.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string broken;
  if (!tandem::read_config(std::string(reinterpret_cast<const char*>(data), size), broken))
    std::abort();
  return 0;
}
