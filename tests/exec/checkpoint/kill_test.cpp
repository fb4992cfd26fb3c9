// Goal    a run that is killed at any moment of a save leaves a checkpoint that loads: the one
//         before, or the new one; and the next run can save over what is left.
// Method  this program has its own open, write, fsync, ... : the n-th call of a forked child ends
//         it before anything is done, a write after half of its bytes. Every n, until a save gets
//         through. Power loss is not modelled: every byte that was written stays.
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>

#include "exec/checkpoint/folder.h"
#include "tests/exec/checkpoint/fake_ranks.h"

namespace {

constexpr int kKilled = 99;
int die_at = 0;  // 0: never
int calls = 0;

bool last_call() { return die_at > 0 && ++calls == die_at; }
void step_of_a_save() {
  if (last_call()) ::_exit(kKilled);
}
template <class F>
F* real(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {
int open(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  const auto mode = static_cast<mode_t>(va_arg(list, int));
  va_end(list);
  step_of_a_save();
  static auto* const next = real<int(const char*, int, ...)>("open");
  return next(path, flags, mode);
}
ssize_t write(int fd, const void* bytes, size_t count) {
  static auto* const next = real<ssize_t(int, const void*, size_t)>("write");
  if (!last_call()) return next(fd, bytes, count);
  (void)!next(fd, bytes, count / 2);
  ::_exit(kKilled);
}
int fsync(int fd) {
  step_of_a_save();
  static auto* const next = real<int(int)>("fsync");
  return next(fd);
}
int close(int fd) {
  step_of_a_save();
  static auto* const next = real<int(int)>("close");
  return next(fd);
}
int rename(const char* from, const char* to) noexcept {
  step_of_a_save();
  static auto* const next = real<int(const char*, const char*)>("rename");
  return next(from, to);
}
int mkdir(const char* path, mode_t mode) noexcept {
  step_of_a_save();
  static auto* const next = real<int(const char*, mode_t)>("mkdir");
  return next(path, mode);
}
int unlink(const char* path) noexcept {
  step_of_a_save();
  static auto* const next = real<int(const char*)>("unlink");
  return next(path);
}
int unlinkat(int fd, const char* path, int flags) noexcept {
  step_of_a_save();
  static auto* const next = real<int(int, const char*, int)>("unlinkat");
  return next(fd, path, flags);
}
int remove(const char* path) noexcept {
  step_of_a_save();
  static auto* const next = real<int(const char*)>("remove");
  return next(path);
}
}

using namespace tandem;
using namespace tandem::exec;

namespace {

// The newest checkpoint loads, and holds what training had at its step.
int loadable_step(const TestFolder& folder, const FakeLayout& layout) {
  const std::vector<int> steps = list_checkpoints(folder.dir());
  REQUIRE_FALSE(steps.empty());
  const std::string newest = checkpoint_path(folder.dir(), steps.back());
  const auto manifest = read_manifest(newest);
  REQUIRE_MESSAGE(manifest.ok(), newest);
  REQUIRE(message_of(check_files(*manifest, newest)) == "");
  FakeRanks ranks(layout);
  REQUIRE(message_of(ranks.load(newest)) == "");
  REQUIRE(ranks.difference(steps.back()) == "");
  return steps.back();
}

}  // namespace

TEST_CASE("killed at every call of a save: one of the two checkpoints loads") {
  const FakeLayout layout{.tp = 2, .pp = 2, .layers = 2};
  const TestFolder before;
  FakeRanks ranks(layout);
  for (int step : {5, 10}) {
    ranks.fill(step);
    REQUIRE(message_of(ranks.save(before, step)) == "");
  }
  ranks.fill(15);
  int kills = 0, old_ones = 0, new_ones = 0;
  for (int n = 1;; ++n) {
    CAPTURE(n);
    const TestFolder folder;
    fs::copy(before.path, folder.path, fs::copy_options::recursive);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      calls = 0;
      die_at = n;
      const bool saved = ranks.save(folder, 15).ok();
      die_at = 0;
      ::_exit(saved ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    const int step = loadable_step(folder, layout);
    if (WEXITSTATUS(status) == 0) {
      CHECK(step == 15);
      CHECK(list_checkpoints(folder.dir()) == std::vector{10, 15});
      break;
    }
    REQUIRE(WEXITSTATUS(status) == kKilled);
    ++kills;
    CHECK((step == 10 || step == 15));
    (step == 10 ? old_ones : new_ones)++;
    // The run that goes on from there comes to step 15 again.
    remove_partial_checkpoints(folder.dir());
    if (step == 10) {
      CHECK(message_of(ranks.save(folder, 15)) == "");
      CHECK(loadable_step(folder, layout) == 15);
    }
  }
  MESSAGE(kills << " kills: " << old_ones << " before, " << new_ones << " after the rename");
  CHECK(old_ones > 50);
  CHECK(new_ones > 5);
}
