#include "exec/train/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "common/base/crc32c.h"
#include "common/base/file.h"
#include "common/base/little_endian.h"
#include "common/timeline/protobuf_writer.h"
#include "exec/device/clock.h"

namespace tandem::exec {
namespace {

std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

double wall_time() { return static_cast<double>(read_clock(CLOCK_REALTIME)) * 1e-9; }

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "localhost";
  for (char* c = name; *c != '\0'; ++c)
    if (*c == '/') *c = '-';
  return name;
}

ProtoWriter event(double time, int step) {
  ProtoWriter e;
  e.real(1, time);
  if (step != 0) e.varint(2, static_cast<std::uint64_t>(step));
  return e;
}

}  // namespace

std::string tfrecord(std::string_view data) {
  std::string out = little_endian(data.size(), 8);
  out += little_endian(masked_crc(out), 4);
  out += data;
  return out + little_endian(masked_crc(data), 4);
}

std::string version_event(double time) {
  ProtoWriter e = event(time, 0);
  e.text(3, "brain.Event:2");
  return e.bytes();
}

std::string restart_event(double time, int step) {
  ProtoWriter e = event(time, step), log;
  log.varint(1, 1);
  e.message(7, log);
  return e.bytes();
}

std::string scalar_event(double time, int step, const Scalars& scalars) {
  ProtoWriter e = event(time, step), summary;
  for (const auto& [tag, x] : scalars) {
    ProtoWriter value;
    value.text(1, tag);
    value.real32(2, static_cast<float>(x));
    summary.message(1, value);
  }
  e.message(5, summary);
  return e.bytes();
}

EventFile::EventFile(const std::string& folder, int first_step) {
  const double now = wall_time();
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{}.{}.0", folder,
                      static_cast<std::int64_t>(now), host_name(), ::getpid());
  if (!make_directories(folder)) {
    error_ = ENOTDIR;
    return;
  }
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) error_ = errno;
  put(version_event(now));
  if (first_step > 0) put(restart_event(now, first_step));
}

EventFile::~EventFile() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFile::add(int step, const Scalars& scalars) {
  put(scalar_event(wall_time(), step, scalars));
}

void EventFile::put(std::string_view e) {
  if (fd_ < 0) return;
  const std::string record = tfrecord(e);
  if (::write(fd_, record.data(), record.size()) == static_cast<ssize_t>(record.size())) return;
  error_ = errno != 0 ? errno : ENOSPC;
  ::close(fd_);
  fd_ = -1;
}

Status EventFile::status() const {
  if (error_ == 0) return Ok{};
  return make_error(Failure::output, "E-IO-010", "cannot write the file", std::strerror(error_),
                    "room and permission for the run directory", "choose another -o",
                    Location{path_});
}

}  // namespace tandem::exec
