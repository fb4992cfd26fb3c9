// Printing. Every write is checked: a closed pipe or a full disk ends as exit code 7.
#include "tools/context.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/base/text.h"
#include "tools/exit_codes.h"

namespace tandem::tools {
namespace {

// Bold and coloured severity words, as compilers do; nothing else in the text changes.
std::string coloured(std::string text) {
  struct Word {
    std::string_view plain, shown;
  };
  constexpr Word kWords[] = {{": error E-", ": \x1b[1;31merror\x1b[0m E-"},
                             {": warning W-", ": \x1b[1;35mwarning\x1b[0m W-"},
                             {"\n  hint:", "\n  \x1b[1;32mhint:\x1b[0m"}};
  for (const Word& word : kWords)
    for (auto at = text.find(word.plain); at != std::string::npos;
         at = text.find(word.plain, at + word.shown.size()))
      text.replace(at, word.plain.size(), word.shown);
  return text;
}

std::string text_for_stderr(const Diagnostics& list) {
  std::string text = to_text(list);
  return colour_on_stderr() ? coloured(std::move(text)) : text;
}

}  // namespace

bool colour_on_stderr() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && (no_color == nullptr || *no_color == '\0') &&
         term != nullptr && std::string_view(term) != "dumb";
}

Json to_json(const Diagnostic& d) {
  Json notes = Json::array();
  for (const Note& note : d.notes)
    notes.push_back({{"file", note.where.file},
                     {"line", note.where.line},
                     {"column", note.where.column},
                     {"text", note.text}});
  return {{"code", d.code},
          {"severity", d.is_warning() ? "warning" : "error"},
          {"file", d.where.file},
          {"line", d.where.line},
          {"column", d.where.column},
          {"title", d.title},
          {"source_line", d.source_line},
          {"found", d.found},
          {"expected", d.expected},
          {"notes", std::move(notes)},
          {"hint", d.hint}};
}

void Context::write_out(std::string_view bytes) {
  clear_progress();
  if (out_errno_ != 0) return;
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) != bytes.size())
    out_errno_ = errno != 0 ? errno : EIO;
}

void Context::write_err(std::string_view bytes) {
  clear_progress();
  std::fflush(stdout);  // keeps the order where both are one terminal
  std::fwrite(bytes.data(), 1, bytes.size(), stderr);
}

void Context::clear_progress() {
  if (std::exchange(progress_shown_, false)) std::fputs("\r\x1b[K", stderr);
}

void Context::print(std::string_view text) {
  if (!options.json && !options.quiet) write_out(text);
}

void Context::message(std::string_view line) {
  if (options.json || options.quiet) return;
  write_err(escape_terminal(line) + "\n");
}

void Context::progress(std::string_view what) {
  if (options.json || options.quiet || ::isatty(STDERR_FILENO) != 1) return;
  clear_progress();
  std::fputs((escape_terminal(what) + " ...").c_str(), stderr);
  progress_shown_ = true;
}

void Context::warn(const Diagnostics& list) {
  if (list.empty()) return;
  if (options.json)
    for (const Diagnostic& d : list) warnings_.push_back(to_json(d));
  else if (!options.quiet)
    write_err(text_for_stderr(list));
}

int Context::fail(const Error& error) {
  if (options.json)
    for (const Diagnostic& d : error.diagnostics)
      (d.is_warning() ? warnings_ : errors_).push_back(to_json(d));
  else
    write_err(text_for_stderr(error.diagnostics));
  return exit_code(error.failure);
}

int Context::finish(int code) {
  if (options.json) {
    Json object = {{"ok", code == kExitOk}, {"command", command}};
    object.update(result);
    object["errors"] = errors_;
    object["warnings"] = warnings_;
    // Text from outside may hold any bytes: they are replaced, never passed on or thrown at.
    write_out(object.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  clear_progress();
  if (std::fflush(stdout) != 0 && out_errno_ == 0) out_errno_ = errno;
  if (out_errno_ == 0) return code;
  if (out_errno_ != EPIPE)  // a reader that has seen enough is no fault to speak of
    std::fputs(
        fmt::format("tandem: cannot write the result: {}\n", std::strerror(out_errno_)).c_str(),
        stderr);
  return code == kExitOk ? exit_code(Failure::output) : code;
}

}  // namespace tandem::tools
