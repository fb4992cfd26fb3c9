#include "common/plan/line_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/limits.h"

namespace tandem {
namespace {
constexpr bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
constexpr std::size_t kEchoBytes = 64;      // of a wrong word in a message
constexpr std::size_t kSourceBytes = 4096;  // of a line kept for its caret
std::string echo(std::string_view text) {
  return text.size() <= kEchoBytes ? std::string(text)
                                   : std::string(text.substr(0, kEchoBytes)) + "...";
}
}  // namespace

bool LineReader::next_line() {
  while (!rest_.empty()) {
    const std::size_t end = rest_.find('\n');
    full_line_ = rest_.substr(0, end);
    rest_ = end == std::string_view::npos ? std::string_view{} : rest_.substr(end + 1);
    ++line_number_;
    line_ = full_line_.substr(0, full_line_.find('#'));
    at_ = 0;
    if (static_cast<std::int64_t>(full_line_.size()) > limits::kPlanLineBytes) {
      fail("E-PLAN-017", {full_line_.substr(0, 1), 0}, "the line is too long",
           fmt::format("{} bytes", full_line_.size()),
           fmt::format("at most {} bytes", limits::kPlanLineBytes), "is this a plan text?");
      rest_ = {};
      return false;
    }
    skip_blanks();
    if (at_ < line_.size()) return true;
  }
  return false;
}

void LineReader::skip_blanks() {
  while (at_ < line_.size() && is_blank(line_[at_])) ++at_;
}

Word LineReader::word() {
  skip_blanks();
  const std::size_t begin = at_;
  while (at_ < line_.size() && !is_blank(line_[at_])) ++at_;
  return {line_.substr(begin, at_ - begin), begin};
}

Word LineReader::peek() {
  const std::size_t before = at_;
  const Word out = word();
  at_ = before;
  return out;
}

Word LineReader::rest() {
  skip_blanks();
  std::size_t end = line_.size();
  while (end > at_ && is_blank(line_[end - 1])) --end;
  const Word out = {line_.substr(at_, end - at_), at_};
  at_ = line_.size();
  return out;
}

Word LineReader::through(char last) {
  skip_blanks();
  const std::size_t end = line_.find(last, at_);
  if (end == std::string_view::npos) return {{}, at_};
  const Word out = {line_.substr(at_, end + 1 - at_), at_};
  at_ = end + 1;
  return out;
}

FieldWord LineReader::split(Word word) {
  const std::size_t equal = word.text.find('=');
  if (equal == std::string_view::npos) return {word, word.from(word.text.size()), false};
  return {word.from(0, equal), word.from(equal + 1), true};
}

bool LineReader::full() const {
  return diagnostics_.size() >= static_cast<std::size_t>(limits::kDiagnosticsPrinted);
}

bool LineReader::fail(const char* code, Word where, std::string title, std::string found,
                      std::string expected, std::string hint) {
  if (full()) return false;
  if (found.empty()) found = where.empty() ? "the end of the line" : echo(where.text);
  Diagnostic d = make_diagnostic(code, std::move(title), std::move(found), std::move(expected),
                                 std::move(hint),
                                 {file_, line_number_, static_cast<int>(where.at) + 1,
                                  static_cast<int>(std::max<std::size_t>(1, where.text.size()))});
  if (where.at < kSourceBytes) d.source_line = std::string(full_line_.substr(0, kSourceBytes));
  diagnostics_.push_back(std::move(d));
  return false;
}

bool LineReader::fail_line(const char* code, int line, std::string title, std::string found,
                           std::string expected, std::string hint) {
  if (full()) return false;
  std::size_t begin = 0;
  for (int i = 1; i < line; ++i) begin = text_.find('\n', begin) + 1;
  full_line_ = text_.substr(begin, text_.find('\n', begin) - begin);
  line_number_ = line;
  std::size_t at = 0;
  while (at < full_line_.size() && is_blank(full_line_[at])) ++at;
  std::size_t end = full_line_.size();
  while (end > at && is_blank(full_line_[end - 1])) --end;
  return fail(code, {full_line_.substr(at, end - at), at}, std::move(title), std::move(found),
              std::move(expected), std::move(hint));
}

bool LineReader::fail_text(const char* code, std::string title, std::string found,
                           std::string expected, std::string hint) {
  if (full()) return false;
  diagnostics_.push_back(make_diagnostic(code, std::move(title), std::move(found),
                                         std::move(expected), std::move(hint), {file_}));
  return false;
}

bool LineReader::number(Word word, std::int64_t low, std::int64_t high, const char* what,
                        std::int64_t& out) {
  constexpr std::size_t kDigits = 18;  // 10^18 < 2^63
  std::int64_t value = 0;
  bool good = !word.empty() && word.text.size() <= kDigits &&
              (word.text.size() == 1 || word.text[0] != '0');
  for (std::size_t i = 0; good && i < word.text.size(); ++i) {
    good = word.text[i] >= '0' && word.text[i] <= '9';
    value = value * 10 + (word.text[i] - '0');
  }
  if (good && value >= low && value <= high) {
    out = value;
    return true;
  }
  return fail("E-PLAN-013", word, fmt::format("{} is wrong or out of range", what), "",
              fmt::format("a whole number from {} to {}", low, high),
              "write digits without sign, blank or leading zero");
}

}  // namespace tandem
