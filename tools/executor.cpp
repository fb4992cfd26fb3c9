// See executor.h.
#include "tools/executor.h"

#include <dlfcn.h>

#include <cstdio>
#include <filesystem>

#include "exec/launch/rank_process.h"
#include "tools/exit_codes.h"
#include "tools/version.h"

namespace tandem::tools {
namespace {

constexpr const char* kPlaces[] = {"libtandem_exec.so", "../lib/libtandem_exec.so"};

Error no_executor(std::string title, std::string found, std::string hint) {
  return make_error(Failure::execution, "E-EXEC-060", std::move(title), std::move(found),
                    "libtandem_exec.so beside the program", std::move(hint), Location{"tandem"});
}

// nullptr, and why in `reason`.
void* open_library(std::string& reason) {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char* place : kPlaces) {
    const std::string path = (program.parent_path() / place).string();
    // Lazy binding: the library names functions of CUDA that are never called here.
    if (void* handle = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) return handle;
    const char* text = ::dlerror();
    if (reason.empty() || std::filesystem::exists(path)) reason = text != nullptr ? text : path;
  }
  return nullptr;
}

}  // namespace

Result<ExecutorMain> executor_function(const std::string& name) {
  if (!kHasExecutor)
    return no_executor("this build has no executor", "built with TANDEM_EXEC=OFF",
                       "build with the preset release: tools/quickstart --build-only");
  static std::string reason;
  static void* const library = open_library(reason);
  if (library == nullptr)
    return no_executor("the executor cannot be loaded", reason,
                       "build the target tandem_exec, and keep the program in its build folder");
  if (void* symbol = ::dlsym(library, name.c_str())) return reinterpret_cast<ExecutorMain>(symbol);
  return no_executor("the executor lacks a function", name,
                     "program and library are of different versions: build both again");
}

Result<std::string> executor_library() {
  if (!kHasExecutor) return executor_function("").error();
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char* place : kPlaces)
    if (const auto path = program.parent_path() / place; std::filesystem::exists(path, error))
      return path.string();
  return no_executor("the executor cannot be loaded", "no libtandem_exec.so",
                     "build the target tandem_exec, and keep the program in its build folder");
}

Status check_executor() {
  if (const auto library = executor_library(); !library) return library.error();
  return Ok{};
}

std::optional<int> run_executor_process(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "__rehearse")  // needs no library: a rank starts in milliseconds
    return exec::rank_process(argc, argv, exec::rehearse_rank, {.tokens = true});
  const bool rank = command == "__rank";
  if (!rank && command != "__verify" && command != "__calibrate") return std::nullopt;
  const auto main = executor_function(rank                    ? "tandem_rank_main"
                                      : command == "__verify" ? "tandem_verify_main"
                                                              : "tandem_calibrate_main");
  if (main) return rank ? (*main)(argc, argv) : (*main)(argc - 1, argv + 1);
  std::fputs(to_text(main.error().diagnostics).c_str(), stderr);
  return exit_code(main.error().failure);
}

}  // namespace tandem::tools
