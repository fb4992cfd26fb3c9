#include "exec/transport/fault.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string_view>
#include <thread>

namespace tandem::exec {
namespace {

using Action = PlannedFault::Action;
using Phase = PlannedFault::Phase;

constexpr int kDelayMostMs = 600'000;  // ten minutes: longer than any timeout in use

// A whole number >= 0 that is all of `text`; -1: it is not.
int number(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value >= 0 ? value : -1;
}

std::string_view take(std::string_view& rest, char until) {
  const std::size_t at = std::min(rest.find(until), rest.size());
  const std::string_view first = rest.substr(0, at);
  rest.remove_prefix(std::min(at + 1, rest.size()));
  return first;
}

bool read_action(std::string_view text, PlannedFault& out) {
  constexpr std::string_view kDelay = "delay";
  if (text.starts_with(kDelay)) {
    out.action = Action::delay;
    out.delay_ms = number(text.substr(kDelay.size()));
    return out.delay_ms >= 0 && out.delay_ms <= kDelayMostMs;
  }
  constexpr std::pair<std::string_view, Action> kActions[] = {{"kill", Action::kill},
                                                              {"stop", Action::stop},
                                                              {"exit", Action::exit},
                                                              {"fail", Action::fail}};
  for (const auto& [name, action] : kActions)
    if (text == name) {
      out.action = action;
      return true;
    }
  return false;
}

}  // namespace

Result<PlannedFault> parse_fault(const std::string& text) {
  PlannedFault out;
  std::string_view rest = text;
  const bool action = read_action(take(rest, '@'), out);
  out.rank = Rank{number(take(rest, ':'))};
  out.op = OpId{number(take(rest, ':'))};
  const std::string_view phase = take(rest, ':');
  out.phase = phase == "after" ? Phase::after : Phase::before;
  out.step = rest.empty() ? 0 : number(rest);
  if (action && out.rank.valid() && out.op.valid() && out.step >= 0 &&
      (phase == "before" || phase == "after"))
    return out;
  return make_error(Failure::usage, "E-EXEC-049", "a planned fault cannot be read", text,
                    "kill|stop|exit|fail|delayMS @ RANK : OP : before|after [: STEP]",
                    "for example kill@2:117:before");
}

Result<Nanoseconds> FaultyTransport::run(OpId op, int step, const CommOperands& operands) {
  const bool here =
      rank_ == fault_.rank && op == fault_.op && step == fault_.step && !happened_.exchange(true);
  if (here && fault_.phase == Phase::before)
    if (Status s = happen(); !s) return s.error();
  Result<Nanoseconds> result = inner_->run(op, step, operands);
  if (here && fault_.phase == Phase::after)
    if (Status s = happen(); !s) return s.error();
  return result;
}

Status FaultyTransport::happen() {
  switch (fault_.action) {
    case Action::kill:
      ::kill(::getpid(), SIGKILL);
      break;
    case Action::stop:
      ::kill(::getpid(), SIGSTOP);
      break;
    case Action::exit:
      ::_exit(5);
    case Action::delay:
      std::this_thread::sleep_for(std::chrono::milliseconds(fault_.delay_ms));
      break;
    case Action::fail:
      return make_error(
          Failure::execution, "E-EXEC-048", "a fault on purpose",
          fmt::format("rank {}, step {}, op {}", rank_.value, fault_.step, fault_.op.value),
          "no planned fault", "leave the fault out");
  }
  return Ok{};
}

}  // namespace tandem::exec
