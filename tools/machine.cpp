#include "tools/machine.h"

#include <sched.h>

#include <fstream>
#include <thread>

#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/text.h"
#include "tools/executor.h"

namespace tandem::tools {
namespace {

constexpr std::int64_t kLibraryBytes = 1LL << 30;  // of libtandem_exec.so, without LibTorch

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      return std::string(trim(std::string_view(line).substr(line.find(':') + 1)));
  return "unknown";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

}  // namespace

Result<CalibrationMachine> this_machine(int ranks) {
  const Result<std::string> library = executor_library();
  if (!library) return library.error();
  const Result<std::string> bytes = read_file(*library, kLibraryBytes);
  if (!bytes) return bytes.error();
  CalibrationMachine m;
  m.cpu = cpu_model();
  m.cores = usable_cores();
  m.ranks = ranks;
  m.libtorch = "build " + sha256_hex(*bytes).substr(0, 12);
  return m;
}

}  // namespace tandem::tools
