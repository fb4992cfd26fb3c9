// tandem_calibrate_main: request file in, result file out.
#include <fmt/format.h>
#include <unistd.h>

#include <string>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "exec/calibrate/measure.h"

namespace {

// A line to the tool that started this process. Nothing depends on its arrival.
void tell(int fd, const std::string& text) {
  if (::write(fd, text.data(), text.size()) < 0) return;
}

int failed(const tandem::Error& error) {
  tell(STDERR_FILENO, tandem::to_text(error.diagnostics));
  return static_cast<int>(error.failure);
}

}  // namespace

extern "C" int tandem_calibrate_main(int argc, char** argv) {
  using namespace tandem;
  if (argc < 3) {
    tell(STDERR_FILENO, "two arguments: the request's file and the result's\n");
    return static_cast<int>(Failure::usage);
  }
  const char *question = argv[argc - 2], *answer = argv[argc - 1];
  Result<std::string> text = read_file(question, limits::kTableBytes);
  if (!text) return failed(text.error());
  Result<MeasureRequest> request = measure_request_from_json(*text, question);
  if (!request) return failed(request.error());
  Result<MeasureResult> result = exec::measure_kernels(
      *request, [](int done, int all) { tell(STDOUT_FILENO, fmt::format("{} {}\n", done, all)); });
  if (!result) return failed(result.error());
  if (Status s = write_file_atomic(answer, to_json(*result)); !s) return failed(s.error());
  return 0;
}
