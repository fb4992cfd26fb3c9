#include "common/schedule/parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "common/base/limits.h"
#include "common/base/text.h"

namespace tandem {
namespace {

constexpr std::int64_t kLargestNumber = INT32_MAX;
constexpr std::size_t kShownCell = 60;    // bytes of a cell in a message
constexpr std::size_t kShownLine = 4096;  // longer lines are not shown under a message

struct Word {
  std::string_view text;
  ActionKind kind;
};
// Where one word begins another, the longer one comes first.
constexpr std::array<Word, 7> kStateWords = {{{"SEND_F", ActionKind::send_f},
                                              {"RECV_F", ActionKind::recv_f},
                                              {"SEND_B", ActionKind::send_b},
                                              {"RECV_B", ActionKind::recv_b},
                                              {"UNSHARD", ActionKind::unshard},
                                              {"RESHARD", ActionKind::reshard},
                                              {"REDUCE_GRAD", ActionKind::reduce_grad}}};
constexpr std::array<Word, 4> kComputeWords = {
    {{"F", ActionKind::F}, {"I", ActionKind::I}, {"W", ActionKind::W}, {"B", ActionKind::B}}};
// The older words of PyTorch, and those of sail: B is the gradient of the input alone.
constexpr std::array<Word, 4> kOldComputeWords = {
    {{"BW", ActionKind::B}, {"F", ActionKind::F}, {"W", ActionKind::W}, {"B", ActionKind::I}}};

// Messages and states first, as "REDUCE_GRAD" begins with no word of computing.
std::vector<Word> words_of(Dialect dialect) {
  const bool old = dialect == Dialect::torch_old || dialect == Dialect::sail;
  std::vector<Word> out;
  if (dialect != Dialect::sail) out.assign(kStateWords.begin(), kStateWords.end());
  const auto& computing = old ? kOldComputeWords : kComputeWords;
  out.insert(out.end(), computing.begin(), computing.end());
  return out;
}

bool is_blank(char c) { return c == ' ' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; }

std::string shown(std::string_view text) {
  return escape_terminal(text.substr(0, kShownCell)) + (text.size() > kShownCell ? "..." : "");
}

class OrderReader {
 public:
  OrderReader(std::string_view text, const std::string& file, Dialect dialect)
      : text_(text), file_(file), dialect_(dialect), words_(words_of(dialect)) {}

  Result<OrderText> run() {
    if (static_cast<std::int64_t>(text_.size()) > limits::kTableBytes)
      too_large(fmt::format("{} bytes", text_.size()),
                fmt::format("at most {} bytes", limits::kTableBytes));
    else if (text_.empty())
      bad(0, "", "the text is empty", "no row", "one row for each rank",
          "give the file that holds the order");
    else
      lines();
    if (problems_.empty()) shape();
    if (!problems_.empty()) return Error{Failure::bad_input, std::move(problems_)};
    return std::move(out_);
  }

 private:
  // --- messages
  // ----------------------------------------------------------------------------------- At byte
  // `at` of the line (from 0); `cell`: the text it stands in, may be empty.
  void bad(std::size_t at, std::string_view cell, const std::string& fact, std::string found,
           std::string expected, std::string hint, std::size_t length = 1) {
    if (full()) return;
    const int column = static_cast<int>(at) + 1;
    const std::string where = cell.empty() ? "" : fmt::format(" in cell \"{}\"", shown(cell));
    Diagnostic d =
        make_diagnostic("E-PLAN-003", fmt::format("l1:{}:{}: {}{}", line_ + 1, column, fact, where),
                        std::move(found), std::move(expected), std::move(hint),
                        {file_, line_ + 1, column, static_cast<int>(std::min(length, kShownCell))});
    if (current_.size() <= kShownLine) d.source_line = std::string(current_);
    problems_.push_back(std::move(d));
  }
  void too_large(std::string found, std::string expected) {
    problems_.push_back(make_diagnostic(
        "E-PLAN-004", fmt::format("l1:{}:1: the order is too large", line_ + 1), std::move(found),
        std::move(expected), "use fewer ranks, stages or microbatches", {file_, line_ + 1, 1}));
    stop_ = true;
  }
  // The shape as a whole: at the header, or at the file.
  void bad_shape(const std::string& fact, std::string found, std::string expected,
                 std::string hint) {
    const int line = out_.has_header ? 1 : 0;
    problems_.push_back(make_diagnostic("E-PLAN-003", (line ? "l1:1:1: " : "l1: ") + fact,
                                        std::move(found), std::move(expected), std::move(hint),
                                        {file_, line, line}));
  }
  [[nodiscard]] bool full() const {
    return problems_.size() >= static_cast<std::size_t>(limits::kDiagnosticsPrinted);
  }
  [[nodiscard]] std::string dialect_name() const {
    return dialect_names()[static_cast<std::size_t>(dialect_)];
  }

  // --- lines
  // --------------------------------------------------------------------------------------
  void lines() {
    for (std::size_t begin = 0; begin < text_.size() && !stop_ && !full(); ++line_) {
      const std::size_t end = std::min(text_.find('\n', begin), text_.size());
      current_ = text_.substr(begin, end - begin);
      if (end < text_.size() && current_.ends_with('\r')) current_.remove_suffix(1);
      begin = end + 1;
      if (!printable()) {
        if (line_ > 0 || !current_.starts_with('#')) new_row();
        continue;
      }
      if (current_.starts_with('#'))
        header();
      else
        row();
    }
    if (problems_.empty() && out_.order.ranks.empty())
      bad(0, "", "no row", "a header alone", "one row for each rank", "add the rows");
  }

  bool printable() {
    const auto it = std::find_if(current_.begin(), current_.end(),
                                 [](char c) { return (c < ' ' && c != '\t') || c > '~'; });
    if (it == current_.end()) return true;
    const auto at = static_cast<std::size_t>(it - current_.begin());
    const auto byte = static_cast<unsigned char>(*it);
    bad(at, "", fmt::format("byte 0x{:02x}, which is no printable ASCII", byte),
        fmt::format("0x{:02x}", byte), "ASCII letters, digits, blanks and , ; ( ) . @ #",
        "save the file as plain text, without byte order mark");
    return false;
  }

  void new_row() {
    out_.order.ranks.emplace_back();
    out_.columns.emplace_back();
  }

  void row() {
    new_row();
    if (trim(current_).empty())
      return bad(0, "", "an empty row", "an empty line", "the cells of one rank",
                 "delete the line, or write the rank's actions");
    if (dialect_ == Dialect::megatron) return chunks();
    for (std::size_t begin = 0; begin <= current_.size() && !stop_ && !full();) {
      const std::size_t end = std::min(current_.find(',', begin), current_.size());
      cell(begin, end);
      begin = end + 1;
    }
  }

  void push(Action a, std::size_t at) {
    if (++num_actions_ > limits::kOrderActions)
      return too_large(fmt::format("more than {} actions", limits::kOrderActions),
                       fmt::format("at most {} actions", limits::kOrderActions));
    out_.order.ranks.back().push_back(a);
    out_.columns.back().push_back(static_cast<std::int32_t>(at) + 1);
    if (a.kind == ActionKind::idle) return;
    stages_ = std::max<std::int64_t>(stages_, std::int64_t{a.stage} + 1);
    microbatches_ = std::max<std::int64_t>(microbatches_, std::int64_t{a.microbatch} + 1);
    slices_ = std::max<std::int64_t>(slices_, std::int64_t{a.slice} + 1);
    dirs_ = std::max<std::int64_t>(dirs_, a.dir + 1);
  }

  // --- cells
  // -------------------------------------------------------------------------------------- The
  // bytes begin to end of the line, blanks around them included.
  void cell(std::size_t begin, std::size_t end) {
    while (begin < end && is_blank(current_[begin])) ++begin;
    while (begin < end && is_blank(current_[end - 1])) --end;
    cell_ = current_.substr(begin, end - begin);
    if (cell_.empty()) return push({ActionKind::idle, 0, 0}, begin);
    if (const std::size_t quote = cell_.find_first_of("\"'"); quote != std::string_view::npos)
      return bad(begin + quote, cell_, "a quote", std::string(1, cell_[quote]),
                 "cells without quotes", "delete the quotes");
    if (cell_[0] == '(') return fused(begin);
    if (const auto a = action(begin, cell_)) push(*a, begin);
  }

  // "(0F1;2B0)OVERLAP_F_B" at byte `begin`.
  void fused(std::size_t begin) {
    constexpr std::string_view kTail = "OVERLAP_F_B";
    if (dialect_ == Dialect::sail)
      return bad(begin, cell_, "dialect sail has no fused cells", "(", "one action a cell",
                 "did you mean --dialect torch?");
    const std::size_t close = cell_.find(')');
    if (close == std::string_view::npos)
      return bad(begin, cell_, "a fused cell without \")\"", shown(cell_),
                 "(action;action)OVERLAP_F_B", "close the cell", cell_.size());
    const std::string_view tail = cell_.substr(close + 1);
    if (tail != kTail)
      return bad(begin + close + 1, cell_, fmt::format("\"{}\" behind a fused cell", shown(tail)),
                 tail.empty() ? "nothing" : shown(tail), std::string(kTail),
                 "write OVERLAP_F_B right behind the )", std::max<std::size_t>(1, tail.size()));
    const std::string_view inside = cell_.substr(1, close - 1);
    if (const std::size_t open = inside.find('('); open != std::string_view::npos)
      return bad(begin + 1 + open, cell_, "a cell inside a cell", "(", "actions between ;",
                 "fused cells do not nest: list all parts in one");
    if (inside.find(';') == std::string_view::npos)
      return bad(begin, cell_, "a fused cell with one part", shown(inside), "two actions or more",
                 "write the action without ( ), or add the other part", cell_.size());
    bool first = true;
    for (std::size_t at = 0; at <= inside.size() && !stop_ && !full();) {
      std::size_t from = at, to = std::min(inside.find(';', at), inside.size());
      at = to + 1;
      while (from < to && is_blank(inside[from])) ++from;
      while (from < to && is_blank(inside[to - 1])) --to;
      auto a = action(begin + 1 + from, inside.substr(from, to - from));
      if (!a) return;
      if (!is_compute(a->kind))
        return bad(begin + 1 + from, cell_, "a part of a fused cell that does not compute",
                   std::string(inside.substr(from, to - from)), "F, I, W or B",
                   "take it out of the cell", to - from);
      a->fused = !first;
      push(*a, begin + 1 + from);
      first = false;
    }
  }

  // The whole of `text`, which stands at byte `begin` of the line, as one action.
  std::optional<Action> action(std::size_t begin, std::string_view text) {
    Action a;
    std::size_t at = 0;
    const auto refuse = [&](std::size_t where, const std::string& fact, std::string found,
                            std::string expected, std::string hint) -> std::optional<Action> {
      bad(begin + where, cell_, fact, std::move(found), std::move(expected), std::move(hint),
          std::max<std::size_t>(1, text.size() - where));
      return {};
    };
    const auto number = [&](std::int32_t& value) {
      const std::size_t from = at;
      std::int64_t n = 0;
      for (; at < text.size() && is_digit(text[at]); ++at)
        n = std::min(10 * n + (text[at] - '0'), kLargestNumber + 1);
      const std::string digits = shown(text.substr(from, at - from));
      if (at - from > 1 && text[from] == '0') {
        refuse(from, fmt::format("number {} with leading zeros", digits), digits,
               "0, or digits that do not start with 0", "drop the zeros");
        return false;
      }
      if (n > kLargestNumber) {
        refuse(from, fmt::format("number {} above {}", digits, kLargestNumber), digits,
               fmt::format("at most {}", kLargestNumber), "correct the number");
        return false;
      }
      value = static_cast<std::int32_t>(n);
      return true;
    };
    if (text.empty())
      return refuse(0, "an empty part", "nothing", "an action such as 0F1", "delete the ;");
    if (!is_digit(text[0]))
      return refuse(0, "no stage number", shown(text), "a stage, then a letter: 0F1",
                    "begin the action with its stage");
    if (!number(a.stage)) return {};

    const std::string_view rest = text.substr(at);
    std::size_t letters = 0;
    while (letters < rest.size() && is_word(rest[letters])) ++letters;
    const auto word = std::find_if(words_.begin(), words_.end(), [&](const Word& w) {
      // What follows a type of sail's is part of its name: "BUBBLE" is not B.
      return dialect_ == Dialect::sail ? rest.substr(0, letters) == w.text
                                       : rest.starts_with(w.text);
    });
    if (word == words_.end()) {
      std::vector<std::string> known;
      for (const Word& w : words_) known.emplace_back(w.text);
      const std::string name = letters ? shown(rest.substr(0, letters)) : shown(rest);
      return refuse(
          at,
          letters ? fmt::format("dialect {} has no action \"{}\"", dialect_name(), name)
                  : "no action behind the stage",
          name.empty() ? "nothing" : name, "one of " + join(known, ", "),
          dialect_ != Dialect::tandem && dialect_ != Dialect::torch && name == "I"
              ? "in this dialect B is the gradient of inputs; did you mean --dialect torch?"
              : "correct the cell, or give --dialect");
    }
    a.kind = word->kind;
    at += word->text.size();
    const auto trailing = [&] {
      const std::string junk = shown(text.substr(at)), before = shown(text.substr(0, at));
      const bool whole = junk.starts_with("W") && before.ends_with("B") &&
                         (dialect_ == Dialect::tandem || dialect_ == Dialect::torch);
      return refuse(at, fmt::format("trailing text \"{}\" after action \"{}\"", junk, before), junk,
                    "a comma or the end of the line",
                    whole ? fmt::format("dialect {} has no BW, did you mean --dialect torch-old?",
                                        dialect_name())
                          : "delete it");
    };
    const bool has_number = at < text.size() && is_digit(text[at]);
    if (is_of_stage(a.kind)) {
      a.microbatch = -1;
      if (has_number)
        return refuse(at, fmt::format("{} with a microbatch", word->text), shown(text),
                      fmt::format("{}{}", a.stage, word->text), "it is of the whole stage");
    } else if (has_number) {
      if (!number(a.microbatch)) return {};
      if (dialect_ == Dialect::sail && text.substr(at).starts_with('-')) {
        ++at;
        if (at == text.size() || !is_digit(text[at])) return --at, trailing();
        if (!number(a.slice)) return {};
      }
      if (text.substr(at).starts_with(".s") && at + 2 < text.size() && is_digit(text[at + 2])) {
        if (dialect_ != Dialect::tandem)
          return refuse(at, fmt::format("dialect {} has no slices", dialect_name()),
                        shown(text.substr(at)), "no .s", "did you mean --dialect tandem?");
        at += 2;
        if (!number(a.slice)) return {};
      }
    } else if (at == text.size() || text[at] == '.' || text[at] == '@') {
      return refuse(at, fmt::format("no microbatch after \"{}\"", shown(text.substr(0, at))),
                    "nothing", "a number", fmt::format("write {}0", shown(text.substr(0, at))));
    } else {
      return trailing();
    }
    if (text.substr(at).starts_with("@d") && at + 2 < text.size() &&
        (text[at + 2] == '0' || text[at + 2] == '1')) {
      if (dialect_ != Dialect::tandem)
        return refuse(at, fmt::format("dialect {} has no directions", dialect_name()),
                      shown(text.substr(at)), "no @d", "did you mean --dialect tandem?");
      a.dir = text[at + 2] == '1' ? 1 : 0;
      at += 3;
    }
    if (at < text.size()) return trailing();
    return fits_header(begin, text, a) ? std::optional(a) : std::nullopt;
  }

  // --- dialect megatron
  // -----------------------------------------------------------------------------
  void chunks() {
    cell_ = {};
    std::map<std::int64_t, std::int32_t> next;  // microbatch of a signed chunk
    bool comma = true;                          // before the number there is the begin or a comma
    for (std::size_t at = 0; at < current_.size() && !stop_ && !full();) {
      if (is_blank(current_[at])) {
        ++at;
        continue;
      }
      if (current_[at] == ',') {
        if (comma)
          return bad(at, "", "a comma without a number before it", ",", "a signed chunk",
                     "this dialect has no idle cells");
        comma = true;
        ++at;
        continue;
      }
      const std::size_t end = std::min(current_.find_first_of(", \t", at), current_.size());
      const std::string_view word = current_.substr(at, end - at);
      const std::string_view digits =
          word.starts_with('+') && word.size() > 1 && is_digit(word[1]) ? word.substr(1) : word;
      const auto chunk = parse_int(digits);
      if (!chunk || *chunk == 0 || *chunk > limits::kLayers || *chunk < -limits::kLayers)
        return bad(at, word, fmt::format("\"{}\" is no signed chunk", shown(word)), shown(word),
                   "a whole number other than 0: +c for F, -c for B of chunk c - 1",
                   "chunks count from 1; halves (a split backward) are not of this dialect",
                   word.size());
      Action a{*chunk > 0 ? ActionKind::F : ActionKind::B,
               static_cast<std::int32_t>(*chunk > 0 ? *chunk : -*chunk) - 1, next[*chunk]++};
      push(a, at);
      comma = false;
      at = end;
    }
    if (comma && !stop_)
      bad(current_.size() - 1, "", "a comma at the end", ",", "a signed chunk", "delete it");
  }

  // --- header
  // -------------------------------------------------------------------------------------
  void header() {
    constexpr std::string_view kStart = "#tandem order v1";
    if (dialect_ != Dialect::tandem) {
      new_row();
      return bad(0, "", fmt::format("dialect {} has no header", dialect_name()), shown(current_),
                 "the row of a rank", "delete the line, or use --dialect tandem", current_.size());
    }
    if (line_ > 0) {
      new_row();
      return bad(0, "", "a header that is not on line 1", shown(current_), "the row of a rank",
                 "move it to the first line, or delete it", current_.size());
    }
    out_.has_header = true;
    if (!current_.starts_with(kStart) ||
        (current_.size() > kStart.size() && current_[kStart.size()] != ' '))
      return bad(0, "", "a first line that is no header of version 1", shown(current_),
                 "#tandem order v1 p=2 stages=2 place=linear mb=4", "correct or delete the line",
                 current_.size());
    std::size_t at = kStart.size();
    while (at < current_.size() && !full()) {
      ++at;  // the blank
      const std::size_t end = std::min(current_.find(' ', at), current_.size());
      key_value(at, current_.substr(at, end - at));
      at = end;
    }
    for (const char* key : {"p", "stages", "place", "mb"})
      if (!keys_.contains(key))
        bad(current_.size(), "", fmt::format("the header has no {}", key), "no " + std::string(key),
            "p, stages, place and mb", fmt::format("add {}=...", key));
    if (problems_.empty()) check_header();
    header_fits_ = problems_.empty();
  }

  void key_value(std::size_t at, std::string_view text) {
    const std::size_t equals = text.find('=');
    const std::string key(text.substr(0, std::min(equals, text.size())));
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
    if (value.empty())
      return bad(at, "", fmt::format("\"{}\" is no key=value", shown(text)), shown(text),
                 "key=value, with one blank before it", "write for example p=4",
                 std::max<std::size_t>(1, text.size()));
    static const std::set<std::string> kKeys = {"p",      "stages", "place", "mb",
                                                "slices", "dirs",   "kind",  "gen"};
    if (!kKeys.contains(key))
      return bad(at, "", fmt::format("unknown key \"{}\"", shown(key)), shown(key),
                 "p, stages, place, mb, slices, dirs, kind or gen", "correct or delete it",
                 key.size());
    if (!keys_.insert(key).second)
      return bad(at, "", fmt::format("key {} for a second time", key), shown(text), "each key once",
                 "delete one of the two", text.size());
    const auto wrong = [&](const std::string& expected) {
      bad(at + equals + 1, "", fmt::format("{}={} is not possible", key, shown(value)),
          shown(value), expected, "correct the value", value.size());
    };
    if (key == "gen") {
      out_.generator = std::string(value);
    } else if (key == "kind") {
      if (value != "compute" && value != "comms") return wrong("compute or comms");
      only_compute_ = value == "compute";
    } else if (key == "place") {
      place_ = std::string(value);
      if (place_ != "linear" && place_ != "loop" && place_ != "v" && place_ != "bidir" &&
          !list_placement())
        wrong("linear, loop, v, bidir or a list such as [0,1,1,0]");
    } else {
      const auto n = parse_int(value);
      if (!n || *n < 1 || *n > kLargestNumber) return wrong("a number from 1");
      if (key == "p") ranks_given_ = *n;
      if (key == "stages") stages_given_ = *n;
      if (key == "mb") microbatches_given_ = *n;
      if (key == "slices") slices_given_ = *n;
      if (key == "dirs") dirs_given_ = *n;
      if (key == "dirs" && *n > 2) wrong("1 or 2");
    }
  }

  bool list_placement() {
    if (!place_.starts_with('[') || !place_.ends_with(']') || place_.size() < 3) return false;
    for (std::string_view part :
         split(std::string_view(place_).substr(1, place_.size() - 2), ',')) {
      const auto rank = parse_int(part);
      if (!rank || *rank < 0 || *rank > kLargestNumber) return false;
      if (static_cast<std::int64_t>(listed_.size()) >= limits::kLayers) return false;
      listed_.push_back(static_cast<int>(*rank));
    }
    return true;
  }

  // Keys that do not go together.
  void check_header() {
    const auto disagree = [&](const std::string& fact, std::string found, std::string expected) {
      bad(0, "", "the header contradicts itself: " + fact, std::move(found), std::move(expected),
          "correct the header", current_.size());
    };
    const std::int64_t p = ranks_given_, stages = stages_given_;
    if ((place_ == "bidir") != (dirs_given_ == 2))
      disagree(fmt::format("place={} with dirs={}", place_, dirs_given_), place_,
               "place=bidir with dirs=2, any other with dirs=1");
    else if ((place_ == "linear" || place_ == "bidir") && stages != p)
      disagree(fmt::format("place={} with p={} and stages={}", place_, p, stages),
               fmt::format("{} stages", stages), fmt::format("{} stages, one a rank", p));
    else if ((place_ == "loop" || place_ == "v") && stages % p != 0)
      disagree(fmt::format("place={} with p={} and stages={}", place_, p, stages),
               fmt::format("{} stages", stages), fmt::format("a multiple of {}", p));
    else if (!listed_.empty() && static_cast<std::int64_t>(listed_.size()) != stages)
      disagree(fmt::format("a list of {} ranks with stages={}", listed_.size(), stages), place_,
               fmt::format("{} ranks", stages));
    else if (std::any_of(listed_.begin(), listed_.end(), [&](int r) { return r >= p; }))
      disagree(fmt::format("place={} with p={}", shown(place_), p), shown(place_),
               fmt::format("ranks below {}", p));
  }

  bool fits_header(std::size_t begin, std::string_view text, const Action& a) {
    if (keys_.empty() || !header_fits_) return true;
    const auto beyond = [&](const char* what, std::int64_t value, std::int64_t given,
                            const char* key) {
      if (value < given) return false;
      bad(begin, cell_, fmt::format("{} {}, but the header says {}={}", what, value, key, given),
          fmt::format("{}", value), fmt::format("0 to {}", given - 1),
          "correct the cell or the header", text.size());
      return true;
    };
    if (beyond("stage", a.stage, stages_given_, "stages") ||
        beyond("microbatch", a.microbatch, microbatches_given_, "mb") ||
        beyond("slice", a.slice, slices_given_, "slices") ||
        beyond("direction", a.dir, dirs_given_, "dirs"))
      return false;
    if (!only_compute_ || is_compute(a.kind)) return true;
    bad(begin, cell_, "an action that does not compute, but the header says kind=compute",
        std::string(text), "F, I, W or B", "write kind=comms", text.size());
    return false;
  }

  // --- the order as a whole
  // -----------------------------------------------------------------------
  void shape() {
    Order& o = out_.order;
    const auto p = static_cast<std::int64_t>(o.ranks.size());
    if (dialect_ == Dialect::megatron) {
      stages_ *= p;
      for (std::size_t r = 0; r < o.ranks.size() && stages_ <= limits::kLayers; ++r)
        for (Action& a : o.ranks[r])
          a.stage = static_cast<std::int32_t>(a.stage * p) + static_cast<std::int32_t>(r);
    }
    if (out_.has_header) {
      if (ranks_given_ != p)
        return bad_shape(fmt::format("{} rows, but the header says p={}", p, ranks_given_),
                         fmt::format("{} rows", p), fmt::format("{} rows", ranks_given_),
                         "correct the header, or add the rows that are missing");
      stages_ = stages_given_, microbatches_ = microbatches_given_;
      slices_ = slices_given_, dirs_ = dirs_given_;
    }
    if (stages_ < 1 || microbatches_ < 1)
      return bad_shape("no action", "idle cells and actions of whole stages",
                       "an action with a microbatch, such as 0F0", "write the rank's actions");
    if (!fits(p)) return;
    o.num_microbatches = static_cast<int>(microbatches_);
    o.num_slices = static_cast<int>(slices_);
    o.num_dirs = static_cast<int>(dirs_);
    place(static_cast<int>(p));
  }

  // A visit of each stage has at least two actions; so the tables of a whole order fit the memory
  // that the limit on actions stands for.
  bool fits(std::int64_t p) {
    std::int64_t visits = 1;
    for (std::int64_t factor : {stages_, microbatches_, slices_, dirs_})
      visits = std::min(visits * std::min(factor, limits::kOrderActions), limits::kOrderActions);
    if (stages_ <= limits::kLayers && p <= limits::kDevices && visits <= limits::kOrderActions / 2)
      return true;
    line_ = 0;
    too_large(fmt::format("{} ranks, {} stages, {} microbatches, {} slices", p, stages_,
                          microbatches_, slices_),
              fmt::format("at most {} stages, and {} visits in all", limits::kLayers,
                          limits::kOrderActions / 2));
    return false;
  }

  void place(int p) {
    Order& o = out_.order;
    const int stages = static_cast<int>(stages_);
    if (!listed_.empty()) {
      o.stage_rank = listed_;
    } else if (place_ == "v") {
      o.stage_rank = v_placement(p, stages / p);
    } else if (out_.has_header || dialect_ == Dialect::megatron) {
      o.stage_rank = loop_placement(p, stages / p);
    } else if (o.num_dirs == 2) {
      if (stages != p)
        return bad_shape(
            fmt::format("two directions with {} rows and {} stages", p, stages),
            fmt::format("{} stages", stages), fmt::format("{}, one a rank", p),
            "directions are for two copies of the model, with a stage of each on every "
            "rank (place=bidir)");
      o.stage_rank = loop_placement(p, 1);
    } else {
      from_rows();
    }
  }

  // A stage is where the first row has it; check_order refuses it elsewhere (V1.3).
  void from_rows() {
    Order& o = out_.order;
    o.stage_rank.assign(static_cast<std::size_t>(stages_), -1);
    for (std::size_t r = 0; r < o.ranks.size(); ++r)
      for (const Action& a : o.ranks[r]) {
        int& rank = o.stage_rank[static_cast<std::size_t>(a.stage)];
        if (a.kind != ActionKind::idle && rank < 0) rank = static_cast<int>(r);
      }
    for (std::size_t s = 0; s < o.stage_rank.size() && !full(); ++s)
      if (o.stage_rank[s] < 0)
        bad_shape(fmt::format("no row has an action of stage {}, though there is a stage {}", s,
                              stages_ - 1),
                  fmt::format("no {}F0", s),
                  fmt::format("stages 0 to {} without a gap", stages_ - 1),
                  "number the stages from 0, or add the row");
  }

  const std::string_view text_;
  const std::string& file_;
  const Dialect dialect_;
  const std::vector<Word> words_;
  OrderText out_;
  Diagnostics problems_;
  bool stop_ = false;
  int line_ = 0;                     // from 0
  std::string_view current_, cell_;  // text of the line, of the cell
  std::int64_t num_actions_ = 0;
  std::int64_t stages_ = 0, microbatches_ = 0, slices_ = 1, dirs_ = 1;  // 1 + the largest seen
  // of the header
  std::set<std::string> keys_;
  std::string place_;
  std::vector<int> listed_;
  std::int64_t ranks_given_ = 0, stages_given_ = 0, microbatches_given_ = 0, slices_given_ = 1,
               dirs_given_ = 1;
  bool only_compute_ = false, header_fits_ = false;
};

}  // namespace

const std::vector<std::string>& dialect_names() {
  static const std::vector<std::string> kNames = {"tandem", "torch", "torch-old", "sail",
                                                  "megatron"};
  return kNames;
}

std::optional<Dialect> find_dialect(std::string_view name) {
  const auto& names = dialect_names();
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) return {};
  return static_cast<Dialect>(it - names.begin());
}

Result<OrderText> parse_order(std::string_view text, const std::string& file, Dialect dialect) {
  return OrderReader(text, file, dialect).run();
}

Diagnostics errors_at(const OrderCheck& check, const OrderText& parsed, std::string_view text,
                      const std::string& file) {
  Diagnostics out = check.errors;
  std::vector<std::size_t> begins = {0};  // of lines, as far as they are needed
  const auto line_of = [&](std::size_t line) {
    while (begins.size() <= line + 1 && begins.back() < text.size())
      begins.push_back(std::min(text.find('\n', begins.back()), text.size() - 1) + 1);
    if (line + 1 >= begins.size()) return std::string_view();
    std::string_view out_line = text.substr(begins[line], begins[line + 1] - begins[line]);
    while (out_line.ends_with('\n') || out_line.ends_with('\r')) out_line.remove_suffix(1);
    return out_line;
  };
  for (std::size_t i = 0; i < out.size(); ++i) {
    const OrderCheck::Place at = check.places[i];
    out[i].where = {file, 0, 0};
    if (at.rank < 0) continue;
    const auto rank = static_cast<std::size_t>(at.rank), pos = static_cast<std::size_t>(at.pos);
    const std::size_t row = rank + (parsed.has_header ? 1 : 0);
    out[i].where.line = static_cast<int>(row) + 1;
    if (at.pos < 0) continue;
    out[i].where.column = parsed.columns[rank][pos];
    const std::string_view line = line_of(row);
    if (line.size() <= kShownLine) out[i].source_line = std::string(line);
  }
  return out;
}

}  // namespace tandem
