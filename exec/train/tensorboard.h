// A TensorBoard event file: scalars by tag and step. Records are TFRecords of Event messages:
//   8 length   4 masked CRC-32C of the length   data   4 masked CRC-32C of the data
//   masked(c) = rotate_right(c, 15) + 0xa282ead8
//   Event {1 wall_time double, 2 step int64, 3 file_version, 5 summary, 7 session_log}
//   Summary {1 value {1 tag, 2 simple_value float}}     SessionLog {1 status: 1 = START}
// Source: tensorflow/tensorboard, summary/writer and compat/proto. A reader stops at a record that
// is cut and tries again later, so every record is written whole.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/result.h"

namespace tandem::exec {

using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

[[nodiscard]] std::string tfrecord(std::string_view data);
[[nodiscard]] std::string version_event(double wall_time);
// A run that resumes: what an older file says of this step and later ones is dropped by readers.
[[nodiscard]] std::string restart_event(double wall_time, int step);
[[nodiscard]] std::string scalar_event(double wall_time, int step, const Scalars& scalars);

// A file of its own for every process. A failed write is kept in status(); nothing stops.
class EventFile {
 public:
  // Makes `folder` and events.out.tfevents.SECONDS.HOST.PID.0 in it.
  EventFile(const std::string& folder, int first_step);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  void add(int step, const Scalars& scalars);
  [[nodiscard]] Status status() const;

 private:
  void put(std::string_view event);
  std::string path_;
  int fd_ = -1;
  int error_ = 0;  // errno of the first failure
};

}  // namespace tandem::exec
