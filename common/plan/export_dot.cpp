#include "common/plan/export_dot.h"

#include <fmt/format.h>

#include <iterator>
#include <map>
#include <vector>

#include "common/base/svg.h"
#include "common/base/text.h"
#include "common/plan/labels.h"

namespace tandem {
namespace {

constexpr std::string_view kMessageFill = "#dfe3e8", kHostFill = "#f5f6f8",
                           kMessageEdge = "#1a1c1f";

class Graph {
 public:
  explicit Graph(const Plan& plan) : plan_(plan) {}

  std::string run() {
    put("digraph plan {{\n  rankdir=LR;\n  fontname=\"Helvetica\";\n"
        "  node [shape=box, style=filled, fontname=\"Helvetica\", fontsize=10];\n");
    for (std::size_t p = 0; p < plan_.programs.size(); ++p) program(p);
    for (std::size_t i = 0; i < plan_.ops.size(); ++i)
      for (OpId wait : plan_.waits_of(plan_.ops[i])) put("  o{} -> o{};\n", wait.value, i);
    meetings();
    return text_ + "}\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  // "rank 3", "ranks 4 .. 7", "ranks 0, 2, 4 and 5 more".
  [[nodiscard]] std::string ranks_of(std::size_t program) const {
    std::vector<int> ranks;
    for (int r = 0; r < plan_.header.mesh.world(); ++r)
      if (plan_.program_of(Rank{r}).index() == program) ranks.push_back(r);
    if (ranks.size() == 1) return fmt::format("rank {}", ranks[0]);
    if (ranks.back() - ranks.front() == static_cast<int>(ranks.size()) - 1)
      return fmt::format("ranks {} .. {}", ranks.front(), ranks.back());
    constexpr std::size_t kShown = 8;
    std::vector<std::string> words;
    for (std::size_t i = 0; i < ranks.size() && i < kShown; ++i)
      words.push_back(std::to_string(ranks[i]));
    const std::string more =
        ranks.size() > kShown ? fmt::format(" and {} more", ranks.size() - kShown) : "";
    return "ranks " + join(words, ", ") + more;
  }

  void program(std::size_t p) {
    std::map<std::int32_t, std::vector<std::size_t>> streams;
    for (std::uint32_t i = 0; i < plan_.programs[p].num_ops; ++i) {
      const std::size_t id = plan_.programs[p].first_op + i;
      streams[plan_.ops[id].stream.value].push_back(id);
    }
    put("  subgraph cluster_p{} {{\n    label=\"program {}: {}\";\n    color=\"#5a6068\";\n", p, p,
        ranks_of(p));
    for (const auto& [stream, ids] : streams) {
      put("    subgraph cluster_p{}_s{} {{\n      label=\"{}\";\n      color=\"#c3cad3\";\n", p,
          stream, escape_json(stream_name(plan_, StreamId{stream})));
      for (std::size_t id : ids) op(id);
      for (std::size_t i = 1; i < ids.size(); ++i)
        put("      o{} -> o{} [style=dotted];\n", ids[i - 1], ids[i]);
      put("    }}\n");
    }
    put("  }}\n");
  }

  void op(std::size_t id) {
    const Op& o = plan_.ops[id];
    std::string_view fill = kHostFill;
    if (o.kind == OpKind::compute)
      fill = kPhaseColours[static_cast<std::size_t>(o.phase)];
    else if (is_communication(o.kind))
      fill = kMessageFill;
    put("      o{} [label=\"{}\", fillcolor=\"{}\", fontcolor=\"{}\"];\n", id,
        escape_json(op_label_with_id(plan_, OpId{static_cast<std::int64_t>(id)})), fill,
        ink_on(fill));
  }

  // What programs do together, by match id.
  void meetings() {
    std::map<std::int32_t, std::vector<std::size_t>> ends;
    for (std::size_t i = 0; i < plan_.ops.size(); ++i)
      if (plan_.ops[i].match >= 0) ends[plan_.ops[i].match].push_back(i);
    for (const auto& [match, ids] : ends)
      for (std::size_t k = 1; k < ids.size(); ++k) {
        const Op& first = plan_.ops[ids[0]];
        if (!is_p2p(first.kind)) {
          put("  o{} -> o{} [style=dashed, dir=none, constraint=false];\n", ids[0], ids[k]);
          continue;
        }
        const bool sends = first.kind == OpKind::send;
        put("  o{} -> o{} [style=bold, color=\"{}\", constraint=false];\n", sends ? ids[0] : ids[k],
            sends ? ids[k] : ids[0], kMessageEdge);
      }
  }

  const Plan& plan_;
  std::string text_;
};

}  // namespace

std::string plan_dot(const Plan& plan) { return Graph(plan).run(); }

}  // namespace tandem
