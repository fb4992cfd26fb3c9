// Cuts plan text into lines and words, and keeps the located messages. Knows nothing of plans.
// Accepts any bytes; no recursion; a line that is too long is an error, not read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/diagnostic.h"

namespace tandem {

// A piece of the current line and where it starts there (0-based byte).
struct Word {
  std::string_view text;
  std::size_t at = 0;
  [[nodiscard]] bool empty() const { return text.empty(); }
  [[nodiscard]] Word from(std::size_t offset, std::size_t count = std::string_view::npos) const {
    return {text.substr(offset, count), at + offset};
  }
};
// key=value; `value` empty and `has_value` false for a bare word.
struct FieldWord {
  Word key, value;
  bool has_value = false;
};

class LineReader {
 public:
  LineReader(std::string_view text, std::string file)
      : text_(text), rest_(text), file_(std::move(file)) {}

  // Goes to the next line that holds a word; false at the end of the text.
  bool next_line();
  [[nodiscard]] int line_number() const { return line_number_; }

  // The next blank-delimited word; empty at the end of the line.
  Word word();
  [[nodiscard]] Word peek();
  FieldWord field() { return split(word()); }
  [[nodiscard]] static FieldWord split(Word word);
  // Everything up to and with `last`, for "k3(1,2 -> 4)"; empty, nothing taken, if it is not there.
  Word through(char last);
  [[nodiscard]] Word rest();

  // Records a message about `where`; returns false, so that callers `return fail(...)`.
  bool fail(const char* code, Word where, std::string title, std::string found,
            std::string expected, std::string hint);
  // The same for an earlier line as a whole.
  bool fail_line(const char* code, int line, std::string title, std::string found,
                 std::string expected, std::string hint);
  // The whole text: no line.
  bool fail_text(const char* code, std::string title, std::string found, std::string expected,
                 std::string hint);
  [[nodiscard]] bool full() const;  // as many messages as are printed
  [[nodiscard]] Diagnostics& diagnostics() { return diagnostics_; }

  // A whole number in [low, high]. `what` is for the message: "buffer id".
  bool number(Word word, std::int64_t low, std::int64_t high, const char* what, std::int64_t& out);
  // Calls `item` for each part of a comma list; stops and returns false when it does.
  template <class Item>
  bool list(Word word, Item&& item) {
    std::size_t begin = 0;
    for (std::size_t end = 0; end != std::string_view::npos; begin = end + 1) {
      end = word.text.find(',', begin);
      const std::size_t count = end == std::string_view::npos ? end : end - begin;
      if (!item(word.from(begin, count))) return false;
    }
    return true;
  }

 private:
  void skip_blanks();
  std::string_view text_, rest_, line_;  // line_: without its comment
  std::string_view full_line_;           // for messages
  std::size_t at_ = 0;
  int line_number_ = 0;
  std::string file_;
  Diagnostics diagnostics_;
};

}  // namespace tandem
