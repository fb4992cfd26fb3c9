// Header and tables; parse_ops.cpp reads the programs. Grammar: docs/plan_reference.md.
#include "common/plan/parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/base/limits.h"
#include "common/plan/parse_tables.h"
#include "common/plan/plan_words.h"

namespace tandem {
namespace {

constexpr std::int64_t kInt32 = INT32_MAX;

const std::array<std::string, 6> kLineKinds = {"plan", "comm", "buf", "kernel", "program", "op"};
const std::array<std::string, 18> kHeaderKeys = {
    "digest",      "schedule", "receive",    "communicators", "grouping", "microbatches",
    "micro_batch", "seq",      "mesh",       "stages",        "dtype",    "main_grad",
    "experts",     "data",     "evaluation", "copies",        "slices",   "settling"};
constexpr std::size_t kRequiredHeaderKeys = 12;  // the first ones
const std::array<std::string, 13> kBufferKeys = {
    "mb",      "l",        "slice",   "valid",    "parts", "bucket", "alias",
    "experts", "max_rows", "rows_of", "shard_of", "over",  "window"};
const std::array<std::string, 3> kCommKeys = {"axes", "pair", "size"};
const std::array<std::string, 6> kDTypes = {"f64", "f32", "bf16", "f16", "i64", "i32"};
const std::array<std::string, kNumAxes> kAxes = {"tp", "cp", "dp", "pp", "etp", "ep", "edp"};

template <std::size_t N>
std::size_t index_of(const std::array<std::string, N>& list, std::string_view word) {
  return static_cast<std::size_t>(std::find(list.begin(), list.end(), word) - list.begin());
}

}  // namespace

// --- values --------------------------------------------------------------------------------------

bool PlanParser::int32(Word word, const char* what, std::int32_t& out) {
  std::int64_t value = 0;
  if (!in_.number(word, 0, kInt32, what, value)) return false;
  out = static_cast<std::int32_t>(value);
  return true;
}

// "3", or "3.s1": the slice 1 of its sequences.
bool PlanParser::microbatch(Word word, std::int32_t& out, std::int32_t& seq_slice) {
  const std::size_t dot = std::min(word.text.find(".s"), word.text.size());
  if (!int32(word.from(0, dot), "microbatch", out)) return false;
  return dot == word.text.size() || int32(word.from(dot + 2), "slice", seq_slice);
}

bool PlanParser::next_id(Word word, std::size_t expected, const char* what) {
  std::int64_t value = 0;
  if (!in_.number(word, 0, kInt32, what, value)) return false;
  if (static_cast<std::size_t>(value) == expected) return true;
  return in_.fail("E-PLAN-014", word, fmt::format("{} out of order", what), "",
                  fmt::format("{}", expected), "ids count from 0 without a gap");
}

bool PlanParser::name(Word word, const char* what, std::string& out) {
  bool good = !word.empty() && word.text.size() <= static_cast<std::size_t>(limits::kNameBytes);
  for (char c : word.text) good = good && c > ' ' && c < 0x7f && c != ',' && c != '=';
  if (!good)
    return in_.fail("E-PLAN-011", word, fmt::format("{} is no name", what), "",
                    "1 to 64 printable ASCII characters without blank, comma, # and =",
                    "names are written by the plan builder; was the file edited?");
  out = word.text;
  return true;
}

bool PlanParser::name_list(Word word, const char* what, std::string& out) {
  const bool good = in_.list(word, [&](Word part) {
    std::string one;
    return name(part, what, one);
  });
  if (!good) return false;
  if (word.text.size() > static_cast<std::size_t>(limits::kNameBytes))
    return in_.fail("E-PLAN-011", word, fmt::format("{} are too long", what), "",
                    "at most 64 characters", "use short names");
  out = word.text;
  return true;
}

bool PlanParser::dtype(Word word, DType& out) {
  const auto value = dtype_from(word.text);
  if (!value)
    return in_.fail("E-PLAN-012", word, "unknown type", "", "a type of elements",
                    suggest(word.text, kDTypes));
  out = *value;
  return true;
}

bool PlanParser::axis(Word word, Axis& out) {
  const auto value = axis_from(word.text);
  if (!value)
    return in_.fail("E-PLAN-012", word, "unknown axis of the mesh", "", "an axis",
                    suggest(word.text, kAxes));
  out = *value;
  return true;
}

bool PlanParser::axes(Word word, AxisSet& out) {
  return in_.list(word, [&](Word part) {
    Axis one{};
    if (!axis(part, one)) return false;
    out.add(one);
    return true;
  });
}

bool PlanParser::first(unsigned& seen, unsigned bit, Word key) {
  if (!(seen & bit)) {
    seen |= bit;
    return true;
  }
  return in_.fail("E-PLAN-016", key, "the field is given twice", "", "each field once",
                  "remove one of the two");
}

std::uint32_t PlanParser::intern(const std::string& text) {
  if (text.empty()) return 0;
  const auto [it, added] = names_.try_emplace(text, static_cast<std::uint32_t>(plan.names.size()));
  if (added) plan.names.push_back(text);
  return it->second;
}

// --- lines ---------------------------------------------------------------------------------------

void PlanParser::run() {
  while (!in_.full() && in_.next_line())
    if (!line()) broken_[static_cast<int>(table_)] = true;
  if (!have_header_ && in_.diagnostics().empty())
    in_.fail_text("E-PLAN-010", "the file is no plan text", "no line but comments", "plan 1 ...",
                  "write one with `tandem plan SCENARIO -o plan.txt`");
  if (have_header_) finish();
}

bool PlanParser::line() {
  const Word keyword = in_.word();
  if (!have_header_) {
    have_header_ = true;
    return header(keyword);
  }
  if (keyword.text == "op") return enter(Table::op, keyword) && op();
  if (keyword.text == "buf") return enter(Table::buffer, keyword) && buffer();
  if (keyword.text == "kernel") return enter(Table::kernel, keyword) && kernel();
  if (keyword.text == "program") return enter(Table::op, keyword) && program();
  if (keyword.text == "comm") return enter(Table::comm, keyword) && communicator();
  return in_.fail("E-PLAN-012", keyword, "unknown kind of line", "",
                  "comm, buf, kernel, program, op", suggest(keyword.text, kLineKinds));
}

bool PlanParser::enter(Table table, Word keyword) {
  if (table < table_)
    return in_.fail("E-PLAN-014", keyword, "a table in the wrong place", "",
                    "communicators, then buffers, kernels and programs",
                    "move the line to its table");
  table_ = table;
  return true;
}

// --- header --------------------------------------------------------------------------------------

bool PlanParser::header(Word keyword) {
  const Word version = keyword.text == "plan" ? in_.word() : keyword;
  if (version.text != "1")
    return in_.fail("E-PLAN-010", version, "the file is no plan text of version 1", "",
                    "plan 1 digest=...", "write one with `tandem plan SCENARIO -o plan.txt`");
  unsigned seen = 0;
  bool good = true;
  for (FieldWord field = in_.field(); !field.key.empty(); field = in_.field()) {
    const std::size_t key = index_of(kHeaderKeys, field.key.text);
    const bool is_word = key < kHeaderKeys.size() &&  // without a value
                         (kHeaderKeys[key] == "evaluation" || kHeaderKeys[key] == "settling");
    if (key == kHeaderKeys.size() || field.has_value == is_word) {
      good = in_.fail("E-PLAN-012", field.key, "unknown field of the header", "",
                      "a field of the header", suggest(field.key.text, kHeaderKeys));
      continue;
    }
    good = first(seen, 1u << key, field.key) && header_field(field) && good;
  }
  for (std::size_t key = 0; good && key < kRequiredHeaderKeys; ++key)
    if (!(seen & (1u << key)))
      good = in_.fail("E-PLAN-016", in_.rest(), "the header has no " + kHeaderKeys[key], "",
                      kHeaderKeys[key] + "=", "take the first line from a plan of this version");
  return good;
}

bool PlanParser::header_field(const FieldWord& field) {
  PlanHeader& h = plan.header;
  const std::string_view key = field.key.text;
  const Word value = field.value;
  const auto count = [&](const char* what, std::int64_t high, std::int32_t& out) {
    std::int64_t number = 0;
    if (!in_.number(value, 1, high, what, number)) return false;
    out = static_cast<std::int32_t>(number);
    return true;
  };
  if (key == "digest") return name(value, "digest", h.digest);
  if (key == "schedule") return name(value, "schedule", h.schedule);
  if (key == "receive") return name(value, "receive", h.receive);
  if (key == "communicators") return name(value, "communicators", h.communicators);
  if (key == "grouping") return name(value, "grouping", h.grouping);
  if (key == "microbatches") return count("microbatches", limits::kMicrobatches, h.microbatches);
  if (key == "micro_batch") return count("micro_batch", limits::kMicrobatches, h.micro_batch);
  if (key == "seq") return count("seq", limits::kWidth, h.sequence);
  if (key == "dtype") return dtype(value, h.types.compute);
  if (key == "evaluation") return h.evaluation = true;
  if (key == "settling") return h.settling = true;
  if (key == "main_grad") return dtype(value, h.types.main);
  if (key == "mesh") return mesh(value);
  if (key == "experts") return expert_grid(value);
  if (key == "copies") return count("copies", 2, h.copies);
  if (key == "slices") return count("slices", limits::kWidth, h.slices);
  if (key == "data") return axes(value, h.data_axes);
  return stages(value);
}

// "tp:2,dp:2,pp:2", fastest first.
bool PlanParser::grid(Word value, std::vector<Axis>& order) {
  Mesh& m = plan.header.mesh;
  std::int64_t world = 1;
  order.clear();
  const bool good = in_.list(value, [&](Word part) {
    const std::size_t colon = std::min(part.text.find(':'), part.text.size());
    Axis a{};
    std::int64_t size = 0;
    if (!axis(part.from(0, colon), a)) return false;
    if (std::find(order.begin(), order.end(), a) != order.end())
      return in_.fail("E-PLAN-016", part, "the axis is given twice", "", "each axis once",
                      "remove one of the two");
    const std::size_t at = std::min(colon + 1, part.text.size());
    if (!in_.number(part.from(at), 1, limits::kDevices, "size of the axis", size)) return false;
    order.push_back(a);
    m.size[static_cast<std::size_t>(a)] = static_cast<int>(size);
    world = std::min(world * size, limits::kDevices + 1);
    return true;
  });
  if (!good) return false;
  if (world > limits::kDevices)
    return in_.fail("E-PLAN-013", value, "the mesh has too many ranks", "",
                    fmt::format("at most {}", limits::kDevices), "use smaller axes");
  return true;
}

// cp may be left out and then is 1.
bool PlanParser::mesh(Word value) {
  std::vector<Axis>& order = plan.header.mesh.order;
  if (!grid(value, order)) return false;
  const auto has = [&](Axis a) { return std::find(order.begin(), order.end(), a) != order.end(); };
  if (!has(Axis::cp) && has(Axis::tp))
    order.insert(std::find(order.begin(), order.end(), Axis::tp) + 1, Axis::cp);
  if (!has(Axis::tp) || !has(Axis::dp) || !has(Axis::pp))
    return in_.fail("E-PLAN-016", value, "the mesh lacks an axis", "",
                    "tp, dp and pp; cp if above 1", "mesh=tp:1,dp:1,pp:1 is one rank");
  return true;
}

// The same ranks, as routed experts see them; behind `mesh`.
bool PlanParser::expert_grid(Word value) {
  Mesh& m = plan.header.mesh;
  const int pp = m.of(Axis::pp), world = m.world();
  if (!grid(value, m.expert_order)) return false;
  int product = 1;
  bool has_pp = false;
  for (Axis a : m.expert_order) {
    product *= m.of(a);
    has_pp = has_pp || a == Axis::pp;
  }
  if (has_pp && product == world && m.of(Axis::pp) == pp) return true;
  return in_.fail("E-PLAN-016", value, "the grid of experts does not hold the mesh's ranks", "",
                  fmt::format("axes etp, ep, edp and pp:{}, {} ranks together", pp, world),
                  "mesh=... comes first");
}

// "0@0,1@1": stage and its pipeline coordinate.
bool PlanParser::stages(Word value) {
  std::vector<std::int32_t>& out = plan.header.stage_rank;
  const bool good = in_.list(value, [&](Word part) {
    const std::size_t at = std::min(part.text.find('@'), part.text.size());
    std::int32_t rank = 0;
    if (!next_id(part.from(0, at), out.size(), "stage")) return false;
    if (!int32(part.from(std::min(at + 1, part.text.size())), "pipeline coordinate", rank))
      return false;
    out.push_back(rank);
    return true;
  });
  if (good && static_cast<std::int64_t>(out.size()) > limits::kLayers)
    return in_.fail("E-PLAN-013", value, "too many stages", "",
                    fmt::format("at most {}", limits::kLayers), "a stage has a layer or more");
  return good;
}

// --- communicators -------------------------------------------------------------------------------

bool PlanParser::communicator() {
  Communicator c;
  std::string text;
  // The row is kept also when it is wrong: later ids stay in step.
  plan.communicators.push_back(c);
  if (!next_id(in_.word(), plan.communicators.size() - 1, "communicator id")) return false;
  if (!name(in_.word(), "communicator", text)) return false;
  c.name = intern(text);
  unsigned seen = 0;
  for (FieldWord f = in_.field(); !f.key.empty(); f = in_.field()) {
    const std::size_t key = index_of(kCommKeys, f.key.text);
    if (key == kCommKeys.size())
      return in_.fail("E-PLAN-012", f.key, "unknown field of a communicator", "",
                      "axes, pair, size", suggest(f.key.text, kCommKeys));
    if (!first(seen, 1u << key, f.key)) return false;
    if (key == 0 && !axes(f.value, c.axes)) return false;
    if (key == 2) {
      std::int64_t size = 0;
      if (!in_.number(f.value, 1, limits::kDevices, "size", size)) return false;
      c.size = static_cast<std::int32_t>(size);
    }
    if (key != 1) continue;
    const std::size_t comma = std::min(f.value.text.find(','), f.value.text.size());
    if (!int32(f.value.from(0, comma), "pipeline coordinate", c.pair_first)) return false;
    if (!int32(f.value.from(std::min(comma + 1, f.value.text.size())), "pipeline coordinate",
               c.pair_second))
      return false;
  }
  if ((seen & 5) != 5)
    return in_.fail("E-PLAN-016", in_.rest(), "the communicator lacks axes or size", "",
                    "axes=... size=...", "axes=tp size=2");
  plan.communicators.back() = c;
  return true;
}

// --- buffers -------------------------------------------------------------------------------------

bool PlanParser::buffer() {
  const Word ids = in_.word();
  const std::size_t before = plan.buffers.size();
  const bool dense = in_.list(ids, [&](Word one) {
    plan.buffers.emplace_back();
    buffer_lines_.push_back(in_.line_number());
    return next_id(one, plan.buffers.size() - 1, "buffer id");
  });
  if (!dense) return false;
  const Word program = in_.word();
  std::int64_t coordinate = 0;
  if (!program.text.starts_with('p'))
    return in_.fail("E-PLAN-011", program, "the buffer has no program", "", "p and a number",
                    "buf 0 p0 param f32[64] name");
  if (!in_.number(program.from(1), 0, plan.header.mesh.of(Axis::pp) - 1, "program", coordinate))
    return false;
  std::vector<Buffer> line(plan.buffers.size() - before);
  for (Buffer& b : line) b.program = ProgramId{coordinate};

  // A field with one value is every buffer's; a comma list has one for each.
  const auto spread = [&](Word list, const char* what, auto&& read) {
    std::size_t i = 0;
    const bool good = in_.list(list, [&](Word part) {
      if (i >= line.size())
        return in_.fail("E-PLAN-011", list, fmt::format("more {} than buffers", what), "",
                        fmt::format("1 or {}", line.size()), "one value, or one for each id");
      return read(part, line[i++]);
    });
    if (!good) return false;
    if (i != 1 && i != line.size())
      return in_.fail("E-PLAN-011", list, fmt::format("fewer {} than buffers", what), "",
                      fmt::format("1 or {}", line.size()), "one value, or one for each id");
    for (std::size_t k = i; k < line.size(); ++k) (void)read(list, line[k]);
    return true;
  };
  const auto read_class = [&](Word part, Buffer& b) {
    const auto value = buffer_class_from(part.text);
    if (!value)
      return in_.fail("E-PLAN-012", part, "unknown class of buffer", "", "a class of buffer",
                      suggest(part.text, buffer_class_names()));
    b.cls = *value;
    return true;
  };
  if (!spread(in_.word(), "classes", read_class)) return false;
  if (!buffer_type(in_.word(), line[0])) return false;
  for (Buffer& b : line) b.dtype = line[0].dtype, b.shape = line[0].shape;

  constexpr unsigned kName = 1u << 16, kMicrobatch = 1u << 0, kRowsOf = 1u << 17;
  unsigned seen = 0;
  for (Word word = in_.word(); !word.empty(); word = in_.word()) {
    const FieldWord field = LineReader::split(word);
    if (!field.has_value && !(seen & kName)) {
      seen |= kName;
      const auto read = [&](Word part, Buffer& b) {
        std::string text;
        if (!name(part, "buffer", text)) return false;
        b.name = intern(text);
        return true;
      };
      if (!spread(word, "names", read)) return false;
    } else if (field.key.text == "mb" && field.has_value) {
      const auto read = [&](Word part, Buffer& b) {
        return microbatch(part, b.microbatch, b.seq_slice);
      };
      if (!first(seen, kMicrobatch, field.key)) return false;
      if (!spread(field.value, "microbatches", read)) return false;
    } else if (field.key.text == "rows_of" && field.has_value) {
      const auto read = [&](Word part, Buffer& b) {
        std::int64_t id = 0;  // may come later: see finish()
        if (!in_.number(part, 0, kInt32, "buffer id", id)) return false;
        b.rows_of = BufferId{id};
        return true;
      };
      if (!first(seen, kRowsOf, field.key) || !spread(field.value, "row counts", read))
        return false;
    } else if (!buffer_field(field, line, seen)) {
      return false;
    }
  }
  if (!(seen & kName))
    return in_.fail("E-PLAN-016", in_.rest(), "the buffer has no name", "", "a name",
                    "buf 0 p0 param f32[64] name");
  std::copy(line.begin(), line.end(), plan.buffers.begin() + static_cast<std::ptrdiff_t>(before));
  return true;
}

// "f32[32,2,64]"
bool PlanParser::buffer_type(Word word, Buffer& b) {
  const std::size_t open = word.text.find('[');
  if (open == std::string_view::npos || !word.text.ends_with(']'))
    return in_.fail("E-PLAN-011", word, "not a type and shape", "", "f32[32,2,64]",
                    "type and extents stand together, without blanks");
  if (!dtype(word.from(0, open), b.dtype)) return false;
  const Word extents = word.from(open + 1, word.text.size() - open - 2);
  if (extents.empty()) return true;
  std::int64_t elements = 1;
  return in_.list(extents, [&](Word part) {
    std::int64_t extent = 0;
    if (b.shape.rank == static_cast<int>(b.shape.dim.size()))
      return in_.fail("E-PLAN-013", word, "too many dimensions", "", "at most 4",
                      "join two of them");
    if (!in_.number(part, 1, limits::kTensorElements / elements, "extent", extent)) return false;
    elements *= extent;
    b.shape.dim[static_cast<std::size_t>(b.shape.rank++)] = extent;
    return true;
  });
}

bool PlanParser::buffer_field(const FieldWord& field, std::vector<Buffer>& line, unsigned& seen) {
  const std::string_view key = field.key.text;
  // "bucket.tied": the form of older plans, which names the bucket too.
  const bool bucket = !field.has_value && (key == "bucket" || key.starts_with("bucket."));
  const std::size_t index = bucket ? index_of(kBufferKeys, "bucket") : index_of(kBufferKeys, key);
  const bool flag = bucket || key == "window";
  if (index == kBufferKeys.size() || field.has_value == flag)
    return in_.fail("E-PLAN-012", field.key, "unknown field of a buffer", "", "a field of a buffer",
                    suggest(key, kBufferKeys));
  if (!first(seen, 1u << index, field.key)) return false;
  if (key == "alias") return alias(field.value, line);
  Buffer& b = line[0];
  std::int64_t number = 0;
  if (key == "l") {
    if (!int32(field.value, "layer", b.layer)) return false;
  } else if (key == "slice") {
    if (!slice(field.value, b)) return false;
  } else if (key == "valid") {
    if (!in_.number(field.value, 1, limits::kTensorElements, "valid", number)) return false;
    b.slice.valid = number;
  } else if (key == "experts") {
    if (!in_.number(field.value, 1, limits::kWidth, "experts", number)) return false;
    b.slice.experts = static_cast<std::int32_t>(number);
  } else if (key == "shard_of") {
    if (!in_.number(field.value, 0, kInt32, "buffer id", number)) return false;
    b.shard_of = BufferId{number};  // may come later: see finish()
  } else if (key == "over") {
    if (!axes(field.value, b.shard_axes)) return false;
  } else if (key == "max_rows") {
    if (!in_.number(field.value, 1, limits::kTensorElements, "max_rows", b.max_rows)) return false;
  } else if (key == "parts") {
    std::string text;
    if (!name_list(field.value, "parts", text)) return false;
    b.slice.parts = intern(text);
  } else if (key == "window") {
    b.window = true;
  } else {
    b.bucket = true;
  }
  for (Buffer& other : line) {
    other.layer = b.layer, other.slice = b.slice, other.bucket = b.bucket;
    other.window = b.window;
    other.max_rows = b.max_rows;
    other.shard_of = b.shard_of, other.shard_axes = b.shard_axes;
  }
  return true;
}

// "0:tp": dimension and axis.
bool PlanParser::slice(Word value, Buffer& b) {
  const std::size_t colon = std::min(value.text.find(':'), value.text.size());
  std::int64_t dim = 0;
  if (!in_.number(value.from(0, colon), 0, static_cast<std::int64_t>(b.shape.dim.size()) - 1,
                  "dimension of the slice", dim))
    return false;
  b.slice.dim = static_cast<std::int8_t>(dim);
  return axis(value.from(std::min(colon + 1, value.text.size())), b.slice.axis);
}

// "90+256" or one for each buffer: root and byte offset. Roots may come later: see finish().
bool PlanParser::alias(Word value, std::vector<Buffer>& line) {
  std::size_t i = 0;
  const bool good = in_.list(value, [&](Word part) {
    if (i >= line.size())
      return in_.fail("E-PLAN-011", value, "more aliases than buffers", "",
                      fmt::format("1 or {}", line.size()), "one value, or one for each id");
    const std::size_t plus = std::min(part.text.find('+'), part.text.size());
    std::int64_t root = 0, offset = 0;
    if (!in_.number(part.from(0, plus), 0, kInt32, "buffer id", root)) return false;
    if (!in_.number(part.from(std::min(plus + 1, part.text.size())), 0, limits::kTensorElements * 8,
                    "byte offset", offset))
      return false;
    line[i].alias_of = BufferId{root};
    line[i++].alias_offset = offset;
    return true;
  });
  if (!good) return false;
  if (i != 1 && i != line.size())
    return in_.fail("E-PLAN-011", value, "fewer aliases than buffers", "",
                    fmt::format("1 or {}", line.size()), "one value, or one for each id");
  for (std::size_t k = i; k < line.size(); ++k)
    line[k].alias_of = line[0].alias_of, line[k].alias_offset = line[0].alias_offset;
  return true;
}

// --- kernels -------------------------------------------------------------------------------------

bool PlanParser::kernel() {
  plan.kernels.emplace_back();
  if (!next_id(in_.word(), plan.kernels.size() - 1, "kernel id")) return false;
  const Word first_word = in_.peek();
  std::vector<std::string_view> words;
  for (Word w = in_.word(); !w.empty(); w = in_.word()) {
    words.push_back(w.text);
    if (words.size() > 32)
      return in_.fail("E-PLAN-011", w, "too many words for a kernel", "", "at most 32",
                      "one kernel a line");
  }
  if (first_word.empty() || !kernel_from(first_word.text)) {
    std::vector<std::string> names;
    for (int i = 0; i < kNumKernelKinds; ++i)
      names.emplace_back(catalogue(static_cast<KernelKind>(i)).name);
    return in_.fail("E-PLAN-012", first_word, "unknown kernel", "", "a kernel of the catalogue",
                    suggest(first_word.text, names));
  }
  const auto kernel = kernel_from_text(words);
  if (!kernel) {
    const CatalogueEntry& e = catalogue(*kernel_from(first_word.text));
    std::string expected(e.name);
    for (std::string_view d : e.dims)
      if (!d.empty()) expected += fmt::format(" {}=N", d);
    if (!e.real.empty()) expected += fmt::format(" {}=X", e.real);
    return in_.fail("E-PLAN-011", first_word, "the kernel's dimensions or flags are wrong",
                    fmt::format("{}", fmt::join(words, " ")), expected,
                    "each dimension once, as a whole number; only flags that the kernel has");
  }
  for (std::int64_t dim : kernel->dims)
    if (dim > limits::kTensorElements)
      return in_.fail("E-PLAN-013", first_word, "a dimension is too large", fmt::format("{}", dim),
                      fmt::format("at most {}", limits::kTensorElements),
                      "check the model's sizes");
  plan.kernels.back() = *kernel;
  return true;
}

// --- the end -------------------------------------------------------------------------------------

void PlanParser::finish() {
  const auto table_is_whole = [&](Table t) { return !broken_[static_cast<int>(t)]; };
  if (table_is_whole(Table::buffer))
    for (std::size_t i = 0; i < plan.buffers.size() && !in_.full(); ++i) {
      const BufferId root = plan.buffers[i].alias_of, rows = plan.buffers[i].rows_of;
      const BufferId whole = plan.buffers[i].shard_of;
      if (whole.valid() && whole.index() >= plan.buffers.size())
        in_.fail_line("E-PLAN-015", buffer_lines_[i], "a shard of a buffer that does not exist",
                      fmt::format("buffer {}", whole.value),
                      fmt::format("a buffer below {}", plan.buffers.size()), "name its bucket");
      if (rows.valid() && rows.index() >= plan.buffers.size())
        in_.fail_line("E-PLAN-015", buffer_lines_[i], "rows of a buffer that does not exist",
                      fmt::format("buffer {}", rows.value),
                      fmt::format("a buffer below {}", plan.buffers.size()), "name its counts");
      if (root.valid() && root.index() >= plan.buffers.size())
        in_.fail_line("E-PLAN-015", buffer_lines_[i], "an alias of a buffer that does not exist",
                      fmt::format("buffer {}", root.value),
                      fmt::format("a buffer below {}", plan.buffers.size()), "name its bucket");
    }
  if (table_is_whole(Table::op))
    for (std::size_t i = 0; i < plan.ops.size() && !in_.full(); ++i)
      for (OpId w : plan.waits_of(plan.ops[i]))
        if (w.index() >= plan.ops.size())
          in_.fail_line("E-PLAN-015", op_lines_[i], "a wait for an op that does not exist",
                        fmt::format("op {}", w.value),
                        fmt::format("an op below {}", plan.ops.size()),
                        "name the op whose result is used");
  const std::size_t pp = static_cast<std::size_t>(plan.header.mesh.of(Axis::pp));
  if (in_.diagnostics().empty() && plan.programs.size() != pp)
    in_.fail_text("E-PLAN-014", "the number of programs is not the mesh's pp",
                  fmt::format("{} programs", plan.programs.size()), fmt::format("{}", pp),
                  "is the end of the file missing?");
}

Result<Plan> parse_plan(std::string_view text, const std::string& file) {
  if (static_cast<std::int64_t>(text.size()) > limits::kPlanTextBytes)
    return make_error(Failure::bad_input, "E-PLAN-017", "the plan text is too large",
                      fmt::format("{} bytes", text.size()),
                      fmt::format("at most {}", limits::kPlanTextBytes), "use fewer microbatches",
                      Location{file});
  PlanParser parser(text, file);
  parser.run();
  if (parser.diagnostics().empty()) return std::move(parser.plan);
  sort_diagnostics(parser.diagnostics());
  return Error{Failure::bad_input, std::move(parser.diagnostics())};
}

}  // namespace tandem
