// The parser of plan text, shared state: parse.cpp has the header and the tables, parse_ops.cpp the
// programs. docs/plan_reference.md has the grammar. Not for other files: use parse.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/plan/line_reader.h"
#include "common/plan/plan.h"

namespace tandem {

class PlanParser {
 public:
  PlanParser(std::string_view text, const std::string& file) : in_(text, file) {}
  void run();
  [[nodiscard]] Diagnostics& diagnostics() { return in_.diagnostics(); }
  Plan plan;

 private:
  // Tables in the order they come; a table with a wrong line is not searched for missing ids, so
  // that one fault is one message.
  enum class Table { header, comm, buffer, kernel, op };
  static constexpr int kNumTables = 5;

  bool line();
  bool enter(Table table, Word keyword);
  bool header(Word keyword);
  bool header_field(const FieldWord& field);
  bool mesh(Word value);
  bool expert_grid(Word value);
  bool grid(Word value, std::vector<Axis>& order);
  bool stages(Word value);
  bool communicator();
  bool buffer();
  bool buffer_type(Word word, Buffer& b);
  bool buffer_field(const FieldWord& field, std::vector<Buffer>& line, unsigned& seen);
  bool alias(Word value, std::vector<Buffer>& line);
  bool slice(Word value, Buffer& b);
  bool kernel();
  bool program();
  bool op();
  bool action(Op& op);
  bool calls(Op& op);
  bool call(Word text);
  bool operands(Word list, Range& range);
  bool op_field(const FieldWord& field, Op& op, unsigned& seen);
  bool complete(const Op& op, unsigned seen, Word kind);
  void finish();

  // --- values
  template <class IdType>
  bool reference(Word word, Table table, std::size_t size, const char* what, IdType& out);
  bool next_id(Word word, std::size_t expected, const char* what);
  bool name(Word word, const char* what, std::string& out);
  bool name_list(Word word, const char* what, std::string& out);
  bool int32(Word word, const char* what, std::int32_t& out);
  bool microbatch(Word word, std::int32_t& out, std::int32_t& seq_slice);
  bool dtype(Word word, DType& out);
  bool axis(Word word, Axis& out);
  bool axes(Word word, AxisSet& out);
  bool first(unsigned& seen, unsigned bit, Word key);
  std::uint32_t intern(const std::string& text);
  StreamId stream(std::string_view text);

  LineReader in_;
  Table table_ = Table::header;
  bool have_header_ = false;
  bool broken_[kNumTables] = {};
  std::map<std::string, std::uint32_t, std::less<>> names_;
  std::map<std::string, StreamId, std::less<>> streams_;
  // Lines of ids that may be named before they are read: for the messages of finish().
  std::vector<std::int32_t> op_lines_, buffer_lines_;
};

}  // namespace tandem
