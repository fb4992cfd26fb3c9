// Writes a report of made-up timelines, for the browser test: make_report FILE [SVG [large]].
#include <fmt/format.h>

#include <cstring>

#include "common/base/file.h"
#include "common/report/html.h"
#include "common/report/svg.h"
#include "tests/common/report/synthetic.h"

int main(int argc, char** argv) {
  using namespace tandem;
  if (argc < 2) return 2;
  const bool large = argc > 3 && std::strcmp(argv[3], "large") == 0;
  const Plan plan =
      synthetic::make_plan(large ? synthetic::Shape{16, 2, 64, 6} : synthetic::Shape{4, 2, 8, 2});
  synthetic::Speed p, m;
  p.forward_ns = 41'000, p.backward_ns = 80'000, p.transfer_ns = 6'000;
  m.clock = Clock::monotonic_ns, m.steps = large ? 1 : 3, m.jitter = 0.15, m.launch_ns = 1'500;
  m.forward_ns = 44'000, m.backward_ns = 83'000, m.transfer_ns = 9'000,
  m.slow_rank = large ? -1 : 5;
  const Timeline predicted = synthetic::run(plan, p);
  Timeline measured = synthetic::run(plan, m);
  measured.meta["machine"] = "<script>alert('x')</script> & \"quotes\"";
  for (PeakMemory& peak : measured.peaks) peak.total += 4096 * (peak.rank + 1);
  Result<Comparison> c = compare(plan, predicted, measured);
  if (!c.ok()) {
    fmt::print(stderr, "{}", to_text(c.error().diagnostics));
    return 1;
  }
  c->replay_error_rel = -0.012;
  const ReportInput in{"pipeline of 4 <stages> & tp 2",
                       &plan,
                       &predicted,
                       &measured,
                       &*c,
                       {{"parallel.pp", "4"}, {"parallel.tp", "2"}, {"name", "</script><b>bold"}}};
  if (!write_file_atomic(argv[1], html_report(in)).ok()) return 7;
  if (argc > 2) {
    TimelineSvgOptions o;
    o.title = "One step, predicted and measured";
    o.max_ranks = 4;
    if (!write_file_atomic(argv[2], timeline_svg(plan, predicted, &measured, c->predicted_step,
                                                 c->measured_step, o))
             .ok())
      return 7;
  }
  fmt::print("{}", to_text(*c));
  return 0;
}
