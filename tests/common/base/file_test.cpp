// Goal: reading never blocks nor takes more than the limit; a written file is whole or absent.
#include "common/base/file.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

using namespace tandem;
namespace fs = std::filesystem;

namespace {

// A folder of its own, gone at the end.
struct Folder {
  fs::path path;
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "tandem_file_XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~Folder() {
    fs::permissions(path, fs::perms::owner_all);
    fs::remove_all(path);
  }
  std::string operator/(const char* name) const { return (path / name).string(); }
  [[nodiscard]] int num_entries() const {
    int n = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(path)) ++n;
    return n;
  }
};

std::string code_of(const Error& error) { return error.diagnostics.at(0).code; }

}  // namespace

TEST_CASE("read_file: a file, the limit, and one byte beyond") {
  const Folder folder;
  REQUIRE(write_file_atomic(folder / "a", std::string(100'000, 'x')).ok());
  CHECK(read_file(folder / "a", 100'000).value().size() == 100'000);
  const auto over = read_file(folder / "a", 99'999);
  REQUIRE_FALSE(over.ok());
  CHECK(over.error().failure == Failure::bad_input);
  CHECK(code_of(over.error()) == "E-IO-003");
  CHECK(over.error().diagnostics[0].where.file == folder / "a");
}

TEST_CASE("read_file refuses what is no regular file, without blocking") {
  const Folder folder;
  CHECK(code_of(read_file(folder / "none", 10).error()) == "E-IO-001");
  CHECK(code_of(read_file("", 10).error()) == "E-IO-001");
  CHECK(code_of(read_file(folder.path.string(), 10).error()) == "E-IO-002");
  CHECK(code_of(read_file("/dev/zero", 10).error()) == "E-IO-002");
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK(code_of(read_file(folder / "fifo", 10).error()) == "E-IO-002");
  fs::create_symlink("nowhere", folder / "dangling");
  CHECK(code_of(read_file(folder / "dangling", 10).error()) == "E-IO-001");
  // A file that claims size 0 but has bytes.
  CHECK(code_of(read_file("/proc/self/maps", 10).error()) == "E-IO-003");
}

TEST_CASE("AtomicFile: nothing under the name before commit, nothing left without it") {
  const Folder folder;
  {
    auto file = AtomicFile::create(folder / "a");
    REQUIRE(file.ok());
    REQUIRE(file->write("hello").ok());
    CHECK_FALSE(fs::exists(folder / "a"));
  }
  CHECK(folder.num_entries() == 0);
  auto file = AtomicFile::create(folder / "a");
  AtomicFile moved = std::move(file).value();
  REQUIRE(moved.write(std::string(200'000, 'b')).ok());
  REQUIRE(moved.commit().ok());
  CHECK(folder.num_entries() == 1);
  CHECK(read_file(folder / "a", 1 << 20).value() == std::string(200'000, 'b'));
  CHECK(moved.bytes_written() == 200'000);
  CHECK_FALSE(moved.commit().ok());
}

TEST_CASE("AtomicFile: an older file survives a failure; a link is replaced, not followed") {
  const Folder folder;
  REQUIRE(write_file_atomic(folder / "target", "old").ok());
  fs::create_symlink("target", folder / "link");
  REQUIRE(write_file_atomic(folder / "link", "new").ok());
  CHECK(read_file(folder / "target", 10).value() == "old");
  CHECK(read_file(folder / "link", 10).value() == "new");
  const auto failed = write_file_atomic(folder / "no/such/folder", "x");
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().failure == Failure::output);
  CHECK(code_of(failed.error()) == "E-IO-010");
  fs::create_directory(folder / "dir");
  CHECK_FALSE(write_file_atomic(folder / "dir", "x").ok());
  CHECK(folder.num_entries() == 3);  // no temporary is left
}

TEST_CASE("AtomicFile: a full disk (file size limit) leaves the old file and no temporary") {
  const Folder folder;
  REQUIRE(write_file_atomic(folder / "a", "old").ok());
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100'000, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto failed = write_file_atomic(folder / "a", std::string(300'000, 'x'));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().diagnostics[0].found.find("100000 of") != std::string::npos);
  CHECK(read_file(folder / "a", 10).value() == "old");
  CHECK(folder.num_entries() == 1);
}

TEST_CASE("make_directories") {
  const Folder folder;
  CHECK(make_directories(folder / "x/y/z").ok());
  CHECK(make_directories(folder / "x/y/z").ok());
  REQUIRE(write_file_atomic(folder / "file", "").ok());
  const auto failed = make_directories(folder / "file/below");
  REQUIRE_FALSE(failed.ok());
  CHECK(code_of(failed.error()) == "E-IO-011");
  CHECK_FALSE(make_directories(folder / "file").ok());
}

#ifdef TANDEM_FAULTS
TEST_CASE("AtomicFile: every call fails once; the old file is whole, no temporary is left") {
  const Folder folder;
  REQUIRE(write_file_atomic(folder / "a", "old").ok());
  const std::string big(200'000, 'n');
  set_file_fault(0, 0);
  REQUIRE(write_file_atomic(folder / "b", big).ok());
  const int num_calls = set_file_fault(0, 0);
  REQUIRE(num_calls >= 5);
  for (int n = 1; n <= num_calls; ++n) {
    for (int error_number : {ENOSPC, EIO, EDQUOT}) {
      set_file_fault(n, error_number);
      const auto failed = write_file_atomic(folder / "a", big);
      set_file_fault(0, 0);
      REQUIRE_FALSE(failed.ok());
      CHECK(failed.error().failure == Failure::output);
      CHECK(read_file(folder / "a", 1 << 20).value() == "old");
      CHECK(folder.num_entries() == 2);
    }
  }
}
#endif
