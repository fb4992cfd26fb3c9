// tandem schedule: a pipeline schedule by itself, without model and cluster: makes or reads an
// order, checks it, runs it with given costs, and shows what comes out.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/plan/lower/draft.h"
#include "common/scenario/locate.h"
#include "common/schedule/check.h"
#include "common/schedule/parse.h"
#include "common/schedule/registry.h"
#include "common/schedule/svg.h"
#include "common/schedule/text.h"
#include "tools/commands.h"
#include "tools/exit_codes.h"
#include "tools/schedule_costs.h"
#include "tools/schedule_views.h"

namespace tandem::tools {
namespace {

constexpr std::size_t kGridColumns = 160;       // of the picture that is shown unasked
constexpr std::int64_t kGridCells = 1'000'000;  // of one that is asked for
const std::vector<std::string> kSteps = {"order",   "compute", "backward",
                                         "unshard", "reduce",  "p2p"};

struct Options {
  std::string kind, file, dialect = "tandem", cost, costs, hop = "0", svg, to, dump_after;
  std::optional<std::int64_t> ranks, microbatches, stages_per_rank, memory_limit, slices;
  std::vector<std::string> opts;
  bool grid = false, csv = false;
};

// --opt, --slices and --memory-limit: of the kind, and of lowering.
struct Settings {
  ScheduleOptions options;
  Receive receive = Receive::early;
  bool merge = false, keep_first_stage = false;
  int window = 0;                     // residency=window(n); 0: visit
  std::vector<std::string> lowering;  // those given
};

Error usage(std::string code, std::string title, std::string found, std::string expected,
            std::string hint) {
  return make_error(Failure::usage, std::move(code), std::move(title), std::move(found),
                    std::move(expected), std::move(hint), Location{"command line"});
}
Error wrong_value(std::string found, std::string expected, std::string hint) {
  return usage("E-CLI-004", "an option has a wrong value", std::move(found), std::move(expected),
               std::move(hint));
}
Error not_together(std::string found, std::string hint) {
  return usage("E-CLI-005", "these options do not go together", std::move(found), "one of them",
               std::move(hint));
}

// One of `words`, or the nearest of them in the message.
Status one_of(const std::string& what, const std::string& value,
              const std::vector<std::string>& words) {
  if (std::find(words.begin(), words.end(), value) != words.end()) return Ok{};
  const auto nearest = nearest_name(value, words);
  return wrong_value(fmt::format("{}{}", what, value), "one of " + join(words, ", "),
                     nearest ? fmt::format("did you mean \"{}\"?", *nearest)
                             : "`tandem schedule --help` explains them");
}

// --- what can be refused before anything is made
// ----------------------------------------------------

Status check_counts(const Options& o) {
  const auto positive = [](const char* flag, const std::optional<std::int64_t>& n) -> Status {
    if (!n || (*n >= 1 && *n <= limits::kOrderActions)) return Ok{};
    return wrong_value(fmt::format("{} {}", flag, *n),
                       fmt::format("a number from 1 to {}", limits::kOrderActions),
                       "these are counts");
  };
  for (const auto& [flag, n] : {std::pair{"--ranks", o.ranks},
                                {"--microbatches", o.microbatches},
                                {"--stages-per-rank", o.stages_per_rank},
                                {"--memory-limit", o.memory_limit},
                                {"--slices", o.slices}})
    if (const Status s = positive(flag, n); !s) return s;
  return Ok{};
}

Status check_file(const Options& o) {
  if (!o.kind.empty()) return not_together(o.kind + " with --file", "a file has its own order");
  for (const auto& [flag, given] : {std::pair{"--ranks", o.ranks.has_value()},
                                    {"--microbatches", o.microbatches.has_value()},
                                    {"--stages-per-rank", o.stages_per_rank.has_value()},
                                    {"--memory-limit", o.memory_limit.has_value()},
                                    {"--slices", o.slices.has_value()}})
    if (given) return not_together(fmt::format("{} with --file", flag), "a file has its own sizes");
  return one_of("--dialect ", o.dialect, dialect_names());
}

Status check(const Options& o) {
  if (const Status s = check_counts(o); !s) return s;
  if (!o.to.empty())
    if (const Status s = one_of("--to ", o.to, {"tandem", "torch"}); !s) return s;
  if (!o.dump_after.empty())
    if (const Status s = one_of("--dump-after ", o.dump_after, kSteps); !s) return s;
  if (!o.file.empty()) return check_file(o);
  if (o.dialect != "tandem")
    return not_together("--dialect without --file",
                        "--dialect is of a file that is read; --to says what is written");
  if (o.kind.empty())
    return usage("E-CLI-003", "an argument is missing", "neither KIND nor --file",
                 "a kind, all, or --file X.csv",
                 "write for example tandem schedule 1f1b --ranks 4 --microbatches 8");
  std::vector<std::string> kinds = schedule_kinds();
  kinds.emplace_back("all");
  if (const Status s = one_of("kind ", o.kind, kinds); !s) return s;
  if (!o.ranks || !o.microbatches)
    return usage("E-CLI-003", "an argument is missing",
                 o.ranks ? "no --microbatches" : "no --ranks", "--ranks P and --microbatches M",
                 "add --ranks 4 --microbatches 8");
  if (o.kind != "all") return Ok{};
  if (o.grid || o.csv || !o.svg.empty() || !o.to.empty() || !o.dump_after.empty())
    return not_together("all with --grid, --csv, --to, --dump-after or --svg",
                        "pictures and texts are of one kind");
  if (!o.costs.empty())
    return not_together("all with --costs", "kinds have different numbers of stages; use --cost");
  return Ok{};
}

Result<bool> as_bool(const std::string& name, const std::string& value) {
  if (value == "true" || value == "false") return value == "true";
  return wrong_value(fmt::format("--opt {}={}", name, value), "true or false",
                     fmt::format("write --opt {}=true", name));
}

Status set_lowering(Settings& s, const std::string& name, const std::string& value) {
  s.lowering.push_back(name);
  const std::vector<std::string> receive = {"early", "deferred", "deferred_parity"},
                                 first = {"full_at_W", "keep"};
  if (name == "receive") {
    if (const Status fits = one_of("--opt receive=", value, receive); !fits) return fits;
    s.receive =
        static_cast<Receive>(std::find(receive.begin(), receive.end(), value) - receive.begin());
  } else if (name == "first_stage") {
    if (const Status fits = one_of("--opt first_stage=", value, first); !fits) return fits;
    s.keep_first_stage = value == "keep";
  } else if (name == "residency") {
    if (value == "visit") return Ok{};
    const bool window = value.starts_with("window(") && value.ends_with(")");
    const auto n =
        window ? parse_int(std::string_view(value).substr(7, value.size() - 8)) : std::nullopt;
    if (!n || *n < 1 || *n > limits::kOrderActions)
      return wrong_value("--opt residency=" + value, "visit, or window(n) with n of 1 or more",
                         "write --opt 'residency=window(3)': three stages of a rank stay gathered");
    s.window = static_cast<int>(*n);
  } else {
    const auto merge = as_bool(name, value);
    if (!merge) return merge.error();
    s.merge = *merge;
  }
  return Ok{};
}

Result<Settings> settings_of(const Options& o) {
  Settings s;
  const auto add = [&](const std::string& name, const std::string& value) -> Status {
    if (s.options.emplace(name, value).second) return Ok{};
    return wrong_value(fmt::format("{} for a second time", name), "each option once",
                       "delete one of the two");
  };
  for (const std::string& text : o.opts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      return wrong_value("--opt " + text, "key=value", "write for example --opt backward=lifo");
    const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
    static const std::vector<std::string> kL2 = {"lookahead", "communicators", "grouping",
                                                 "optimizer_barrier"};
    if (std::find(kL2.begin(), kL2.end(), name) != kL2.end())
      return usage("E-CLI-008", "not in this version", "--opt " + text,
                   "an option of the kind, receive, first_stage, merge or residency",
                   "it is of the whole plan: set it in a scenario and use `tandem plan`");
    const bool lowers =
        name == "receive" || name == "first_stage" || name == "merge" || name == "residency";
    if (const Status done = lowers ? set_lowering(s, name, value) : add(name, value); !done)
      return done.error();
  }
  if (o.slices)
    if (const Status done = add("slices", fmt::format("{}", *o.slices)); !done) return done.error();
  if (o.memory_limit)
    if (const Status done = add("memory_limit", fmt::format("{}", *o.memory_limit)); !done)
      return done.error();
  if (!o.file.empty() && !s.options.empty())
    return not_together(fmt::format("{} with --file", s.options.begin()->first),
                        "a file is the order that options would make");
  if (!s.lowering.empty() &&
      (o.dump_after.empty() || o.dump_after == "order" || o.dump_after == "compute"))
    return wrong_value(
        fmt::format("--opt {} without --dump-after", s.lowering[0]),
        "a step of lowering that shows it",
        "add --dump-after p2p, reduce, unshard or backward; times here are of the order "
        "itself");
  return s;
}

// --- making
// ----------------------------------------------------------------------------------------

// No sum of costs over `actions` leaves 63 bits.
Status fits_clock(const UserCosts& c, std::int64_t actions) {
  std::int64_t most = std::max({c.costs.full.value_or(0), c.costs.cell.value_or(0)});
  for (const VisitCost& v : c.costs.stages) most = std::max({most, v.F, v.I, v.W, v.I + v.W});
  if (most + c.costs.hop <= INT64_MAX / 4 / std::max<std::int64_t>(1, actions)) return Ok{};
  return wrong_value("costs with many digits", "sums that fit 63 bits",
                     "use fewer digits behind the point, or a larger unit");
}

Result<Order> generate(const std::string& kind, const Options& o, const ScheduleOptions& options,
                       const UserCosts& costs) {
  const std::int64_t v = o.stages_per_rank.value_or(default_stages_per_rank(kind, options));
  const auto slices = options.find("slices");
  const std::int64_t k = slices == options.end()
                             ? 1
                             : std::max<std::int64_t>(1, parse_int(slices->second).value_or(1));
  std::int64_t actions = 3;  // F, I, W
  for (std::int64_t n : {*o.ranks, v, *o.microbatches, k})
    actions = n > limits::kOrderActions / actions ? limits::kOrderActions + 1 : actions * n;
  // Seconds of work each: a descent, and rules that look at all they have placed.
  const bool places = kind == "v_half" || kind == "v_min" || kind == "hanayo";
  const std::int64_t most = kind == "zb_greedy" ? limits::kSearchedActions
                            : places            ? limits::kOrderActions / 8
                                                : limits::kOrderActions;
  if (actions > most)
    return make_error(
        Failure::infeasible, "E-PLAN-004", fmt::format("sched/{}: the order is too large", kind),
        fmt::format("{} ranks, {} stages a rank, {} microbatches", *o.ranks, v, *o.microbatches),
        fmt::format("at most {} actions", most), "use fewer ranks, stages or microbatches");
  if (const Status fits = fits_clock(costs, actions); !fits) return fits.error();
  PipelineShape shape{static_cast<int>(*o.ranks),
                      static_cast<int>(*o.microbatches),
                      static_cast<int>(o.stages_per_rank.value_or(0)),
                      {},
                      costs.costs.hop};
  if (kind == "zb_greedy") {
    shape.costs = costs.costs.stages;
    if (o.costs.empty()) shape.costs.resize(static_cast<std::size_t>(*o.ranks * v), shape.costs[0]);
  }
  return make_order(kind, shape, options);
}

std::vector<std::string> notes_of(const std::string& kind, const EvaluatedSchedule& s, bool cell) {
  std::vector<std::string> notes;
  bool fused = false, others = false;
  for (const RankOrder& list : s.order.ranks)
    for (const Action& a : list) {
      fused = fused || a.fused;
      others = others || (!is_compute(a.kind) && a.kind != ActionKind::idle);
    }
  PipelineShape shape{s.order.num_ranks(), s.order.total_microbatches(), 0, {}, 0};
  if (std::string note = schedule_note(kind, shape); !note.empty()) notes.push_back(note);
  if (kind == "hanayo")
    notes.emplace_back(
        "an approximate rule: the paper's own order was not available, and its "
        "makespan is at most this one");
  if ((kind == "zb_h2" || kind == "zbv") && s.times.span > s.times.ideal)
    notes.push_back(fmt::format("no zero bubble with these costs: {} of the span",
                                in_unit(s.times.span - s.times.ideal, s.unit)));
  if (cell && !fused) notes.emplace_back("FB has no effect: the order has no fused cells");
  if (others)
    notes.emplace_back("messages and actions of whole stages take no time here; --hop does");
  return notes;
}

Result<EvaluatedSchedule> evaluated(const std::string& kind, Order order, const UserCosts& costs) {
  auto times = evaluate(order, costs.costs);
  if (!times) return times.error();
  EvaluatedSchedule s{kind, std::move(order), costs.costs, std::move(*times), costs.unit, {}};
  s.notes = notes_of(kind, s, costs.gives_cell);
  return s;
}

// --- one kind, or a file
// ----------------------------------------------------------------------------

// Says why the order of a file or a kind cannot run, with the grid behind the messages.
int refuse_order(Context& context, const OrderCheck& check, Diagnostics errors) {
  context.result["valid"] = false;
  context.result["grid"] = check.grid;
  const int code = context.fail(error_of(std::move(errors)));
  if (!check.grid.empty()) context.message("\n" + check.grid);
  return code;
}

Result<Order> lowered(Order order, const std::string& step, const Settings& settings) {
  if (step == "order") return order;
  for (RankOrder& list : order.ranks)
    std::erase_if(list, [](const Action& a) { return !is_compute(a.kind); });
  if (step == "compute") return order;
  order = lower::backward(order, settings.merge, settings.keep_first_stage);
  if (step == "backward") return order;
  if (settings.window > 0) order = lower::unshard(order, settings.window);
  if (step == "unshard") return order;
  order = lower::reduce(order);
  if (step == "reduce") return order;
  return lower::p2p(order, settings.receive);
}

// "zbv:p=4,m=8": what made the order, for the header.
std::string generator_text(const Options& o, const Settings& s) {
  if (!o.file.empty()) return "";
  std::string out = fmt::format("{}:p={},m={}", o.kind, *o.ranks, *o.microbatches);
  if (o.stages_per_rank) out += fmt::format(",v={}", *o.stages_per_rank);
  for (const auto& [name, value] : s.options) out += fmt::format(",{}={}", name, value);
  const bool plain =
      std::all_of(out.begin(), out.end(), [](char c) { return c > ' ' && c <= '~'; });
  return plain ? out : o.kind;
}

Status print_order(Context& context, const Options& o, const Settings& settings,
                   const Order& order) {
  auto text = lowered(order, o.dump_after.empty() ? "order" : o.dump_after, settings);
  if (!text) return text.error();
  std::string out = to_text(*text);
  if (o.to == "tandem") out = to_file(*text, generator_text(o, settings));
  if (o.to == "torch") {
    auto torch = to_torch(*text);
    if (!torch) return torch.error();
    out = std::move(*torch);
  }
  context.result["text"] = out;
  context.print(out);
  return Ok{};
}

Status print_grid(Context& context, const EvaluatedSchedule& s) {
  const std::int64_t slot = time_slot(s.times);
  const std::int64_t cells = slot > 0 ? s.times.makespan / slot * s.order.num_ranks() : INT64_MAX;
  if (cells > kGridCells)
    return usage("E-CLI-012", "the schedule is too large for a picture",
                 fmt::format("{} columns of time", slot > 0 ? s.times.makespan / slot : 0),
                 fmt::format("at most {} columns and ranks multiplied", kGridCells),
                 "use costs with a larger common divisor, or fewer microbatches");
  const std::string grid = time_grid(s.order, s.times, slot);
  context.result["grid"] = grid;
  context.print(grid);
  return Ok{};
}

Status write_svg(Context& context, const std::string& path, const EvaluatedSchedule& s) {
  if (num_computing(s.order) > static_cast<std::int64_t>(kSvgActions))
    return usage("E-CLI-012", "the schedule is too large for a picture",
                 fmt::format("{} actions", num_computing(s.order)),
                 fmt::format("at most {}", kSvgActions), "use fewer ranks or microbatches");
  const std::string svg =
      schedule_svg(s.order, s.times, {svg_title(s), svg_subtitle(s), static_cast<double>(s.unit)});
  if (const Status written = write_file_atomic(path, svg); !written) return written;
  context.result["svg"] = path;
  context.message("wrote " + path);
  return Ok{};
}

// The picture of times where it fits a page.
void print_small_grid(Context& context, const EvaluatedSchedule& s) {
  const std::int64_t slot = time_slot(s.times);
  if (slot <= 0 || s.times.makespan / slot > static_cast<std::int64_t>(kGridColumns)) return;
  const std::string grid = time_grid(s.order, s.times, slot);
  if (grid.find('\n') > kGridColumns) return;
  context.print(grid + "\n");
}

int show(Context& context, const Options& o, const Settings& settings, const UserCosts& costs,
         Order order) {
  if (!o.costs.empty() && costs.costs.stages.size() != order.stage_rank.size())
    return context.fail(make_error(Failure::bad_input, "E-SCHED-001",
                                   "a table of costs of another number of stages",
                                   fmt::format("{} stages", costs.costs.stages.size()),
                                   fmt::format("{} stages", order.stage_rank.size()),
                                   "give a line for each stage", {o.costs, 0, 0}));
  if (const Status fits = fits_clock(costs, num_computing(order)); !fits)
    return context.fail(fits.error());
  auto s = evaluated(o.file.empty() ? o.kind : "file", std::move(order), costs);
  if (!s) return context.fail(s.error());
  if (s->times.makespan == 0)
    return context.fail(wrong_value("costs of 0 for all that the order does", "a cost above 0",
                                    "give F, I or W a cost"));
  context.result["valid"] = true;
  add_json(*s, context.result);
  const bool prints_order = o.csv || !o.dump_after.empty() || !o.to.empty();
  if (prints_order)
    if (const Status done = print_order(context, o, settings, s->order); !done)
      return context.fail(done.error());
  if (o.grid)
    if (const Status done = print_grid(context, *s); !done) return context.fail(done.error());
  if (!o.svg.empty())
    if (const Status done = write_svg(context, o.svg, *s); !done) return context.fail(done.error());
  if (!prints_order && !o.grid) {
    print_small_grid(context, *s);
    context.print(summary_text(*s));
  }
  return kExitOk;
}

int show_file(Context& context, const Options& o, const Settings& settings,
              const UserCosts& costs) {
  context.result["valid"] = false;
  const auto bytes = read_file(o.file, limits::kTableBytes);
  if (!bytes) return context.fail(bytes.error());
  auto text = parse_order(*bytes, o.file, *find_dialect(o.dialect));
  if (!text) return context.fail(text.error());
  const OrderCheck check = check_order(text->order, o.file);
  if (!check.ok()) return refuse_order(context, check, errors_at(check, *text, *bytes, o.file));
  return show(context, o, settings, costs, std::move(text->order));
}

int show_kind(Context& context, const Options& o, const Settings& settings,
              const UserCosts& costs) {
  context.result["valid"] = false;
  auto order = generate(o.kind, o, settings.options, costs);
  if (!order) return context.fail(order.error());
  const OrderCheck check = check_order(*order, o.kind);
  if (!check.ok()) return refuse_order(context, check, check.errors);
  return show(context, o, settings, costs, std::move(*order));
}

// --- all kinds
// --------------------------------------------------------------------------------------

// Costs are of a microbatch on a whole rank: a visit is a v-th of it, a slice of that a k-th.
Result<EvaluatedSchedule> row_of(const std::string& kind, const Options& given,
                                 const ScheduleOptions& all, const UserCosts& costs) {
  const ScheduleKind& row = *find_schedule(kind);
  Options o = given;
  if (row.stages_per_rank > 0 || kind == "hanayo") o.stages_per_rank.reset();
  ScheduleOptions options;
  for (const auto& [name, value] : all)
    if (takes_option(row, name)) options.emplace(name, value);
  std::int64_t parts = o.stages_per_rank.value_or(default_stages_per_rank(kind, options));
  if (const auto k = options.find("slices"); k != options.end())
    parts *= std::clamp<std::int64_t>(parse_int(k->second).value_or(1), 1, limits::kOrderActions);
  UserCosts scaled = costs;
  scaled.costs.hop *= parts;
  scaled.unit *= parts;
  auto order = generate(kind, o, options, scaled);
  if (!order) return order.error();
  return evaluated(kind, std::move(*order), scaled);
}

int show_all(Context& context, const Options& o, const Settings& settings, const UserCosts& costs) {
  for (const auto& given : settings.options) {
    const std::string& name = given.first;
    const auto kinds = schedule_kinds();
    const bool taken = std::any_of(kinds.begin(), kinds.end(), [&](const std::string& kind) {
      return takes_option(*find_schedule(kind), name);
    });
    if (!taken)
      return context.fail(wrong_value(fmt::format("--opt {}={}", name, given.second),
                                      "an option of some kind", "correct or delete it"));
  }
  if (const Status fits = fits_clock(costs, limits::kOrderActions); !fits)
    return context.fail(fits.error());
  std::vector<KindRow> rows;
  for (const std::string& kind : schedule_kinds()) {
    context.progress("schedule " + kind);
    auto s = row_of(kind, o, settings.options, costs);
    rows.push_back({kind, "", {}});
    if (!s) rows.back().refusal = s.error().diagnostics[0].title;
    if (s) rows.back().schedule = std::move(*s);
    // FB is of the kinds that fuse; in a table of all it needs no note in the others.
    std::erase_if(rows.back().schedule.notes,
                  [](const std::string& note) { return note.starts_with("FB "); });
  }
  context.result["ranks"] = *o.ranks;
  context.result["microbatches"] = *o.microbatches;
  context.result["rows"] = table_json(rows);
  context.print(
      fmt::format("{} ranks, {} microbatches; costs of a microbatch on a whole rank: {}, "
                  "hop {}\n\n",
                  *o.ranks, *o.microbatches, o.cost.empty() ? "F=1,I=1,W=1" : o.cost, o.hop) +
      table_text(rows) +
      "\nbubble: clock - ideal, and its part of the clock. held: most microbatches on a "
      "rank, from F until\nW, and until I. weights: copies of the model. messages: between "
      "ranks, in a step. The span is a\nstep's time only where each rank updates its "
      "weights as soon as it can (post-validated optimizer).\n");
  return kExitOk;
}

int run_schedule(Context& context, const Options& o) {
  if (const Status fits = check(o); !fits) return context.fail(fits.error());
  const auto settings = settings_of(o);
  if (!settings) return context.fail(settings.error());
  const auto costs = read_costs(o.cost, o.costs, o.hop);
  if (!costs) return context.fail(costs.error());
  if (!o.file.empty()) return show_file(context, o, *settings, *costs);
  if (o.kind == "all") return show_all(context, o, *settings, *costs);
  return show_kind(context, o, *settings, *costs);
}

std::string kinds_text() {
  std::string out = "Kinds, with their own options for --opt\n";
  for (const std::string& name : schedule_kinds()) {
    const ScheduleKind& kind = *find_schedule(name);
    out += fmt::format("  {:<17} {}{}\n", name, kind.about,
                       kind.options.empty() ? "" : fmt::format(" ({})", kind.options));
  }
  return out + "  all               a table of all of them";
}

}  // namespace

void add_schedule(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  static const std::string details =
      "Needs no model and no cluster: costs are numbers without unit, of one visit (a stage works\n"
      "on a microbatch). F forward, I backward for inputs, W backward for weights, B = I + W.\n"
      "Two clocks: the makespan runs from 0 to the last end; the span is the longest time from a\n"
      "rank's own start to its own end. --hop delays what another rank waits for. The order is\n"
      "checked before it runs. For kinds of two directions --microbatches counts both.\n\n" +
      kinds_text();
  CLI::App* sub = add_command(
      app, context,
      {.name = "schedule",
       .summary = "A pipeline schedule by itself: who computes what when, bubble and memory",
       .details = details,
       .examples =
           "  tandem schedule 1f1b --ranks 4 --microbatches 8 --cost F=1,B=2\n"
           "  tandem schedule all --ranks 4 --microbatches 8          every kind in one table\n"
           "  tandem schedule zbv --ranks 4 --microbatches 8 --svg zbv.svg\n"
           "  tandem schedule interleaved_1f1b --ranks 4 --microbatches 8 --stages-per-rank 4 "
           "--grid\n"
           "  tandem schedule zb_greedy --ranks 4 --microbatches 8 --memory-limit 6 --costs "
           "stages.csv\n"
           "  tandem schedule zbv --ranks 4 --microbatches 8 --to torch > zbv.csv   for "
           "_load_csv of PyTorch\n"
           "  tandem schedule --file order.csv --dialect torch        check and evaluate an order "
           "of PyTorch's\n"
           "  tandem schedule 1f1b --ranks 2 --microbatches 4 --dump-after p2p --opt "
           "receive=deferred"},
      kUsesNone);
  sub->add_option("kind", o->kind, "Kind of schedule, or all")->type_name("KIND");
  sub->add_option("--ranks", o->ranks, "Pipeline ranks")->type_name("P");
  sub->add_option("--microbatches", o->microbatches, "Microbatches of a step")->type_name("M");
  sub->add_option("--stages-per-rank", o->stages_per_rank,
                  "Stages of each rank (default: what the kind needs)")
      ->type_name("V");
  sub->add_option("--cost", o->cost,
                  "Costs of a visit: F, I, W (1 each), B instead of I and W, FB of a fused cell")
      ->type_name("F=1,I=1,W=1");
  sub->add_option("--costs", o->costs,
                  "Costs by stage: a table with the line stage,F,I,W and then one line a stage")
      ->type_name("FILE");
  sub->add_option("--hop", o->hop, "Delay of whatever another rank waits for (default 0)")
      ->type_name("X");
  sub->add_option("--memory-limit", o->memory_limit, "zb_greedy: visits a rank may hold")
      ->type_name("N");
  sub->add_option("--slices", o->slices, "seq1f1b: slices of a sequence")->type_name("K");
  sub->add_option("--opt", o->opts,
                  "An option of the kind, or of lowering: receive, first_stage, merge, residency; "
                  "repeatable")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  sub->add_option("--file", o->file, "Read the order instead: rows of cells such as 0F0,0F1,0B0")
      ->type_name("X.csv");
  sub->add_option("--dialect", o->dialect, "Of the file: " + join(dialect_names(), ", "))
      ->type_name("NAME");
  sub->add_flag("--grid", o->grid, "Time x rank picture");
  sub->add_flag("--csv", o->csv, "The order as text, a row a rank: what --file reads");
  sub->add_option("--to", o->to,
                  "The order as text: tandem, with a header line; torch, for PyTorch's _load_csv")
      ->type_name("NAME");
  sub->add_option("--dump-after", o->dump_after,
                  "The order as text after a step of lowering: " + join(kSteps, ", "))
      ->type_name("STEP");
  sub->add_option("--svg", o->svg, "Write a picture")->type_name("FILE");
  sub->callback(
      [&context, o] { context.action = [&context, o] { return run_schedule(context, *o); }; });
}

}  // namespace tandem::tools
