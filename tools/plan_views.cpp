// See plan_views.h.
#include "tools/plan_views.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <tuple>

#include "common/base/text.h"
#include "common/report/numbers.h"
#include "common/timeline/labels.h"

namespace tandem::tools {
namespace {

using Groups = std::vector<std::vector<Rank>>;

Groups groups_of(const Plan& plan, CommId comm) {
  Groups out;
  std::set<std::vector<Rank>> seen;
  for (int r = 0; r < plan.header.mesh.world(); ++r) {
    std::vector<Rank> members = plan.members(comm, Rank{r});
    if (!members.empty() && seen.insert(members).second) out.push_back(std::move(members));
  }
  return out;
}

// Name and groups, axes first.
std::vector<std::pair<std::string, Groups>> all_groups(const Plan& plan) {
  std::vector<std::pair<std::string, Groups>> out;
  std::set<std::string> names;
  for (Axis axis : {Axis::tp, Axis::dp, Axis::pp}) {
    out.emplace_back(name_of(axis), plan.header.mesh.groups(AxisSet().add(axis)));
    names.emplace(name_of(axis));
  }
  for (std::size_t c = 0; c < plan.communicators.size(); ++c) {
    const std::string& name = plan.name(plan.communicators[c].name);
    if (names.insert(name).second)
      out.emplace_back(name, groups_of(plan, CommId{static_cast<int>(c)}));
  }
  return out;
}

template <class Visit>
void each_op(const Plan& plan, Visit&& visit) {
  for (std::size_t p = 0; p < plan.programs.size(); ++p)
    for (std::uint32_t i = 0; i < plan.programs[p].num_ops; ++i) {
      const OpId id{plan.programs[p].first_op + i};
      visit(p, id, plan.op(id));
    }
}

std::string ids(const auto& list) {
  std::vector<std::string> words;
  for (const auto id : list) words.push_back(std::to_string(id.value));
  return join(words, " ");
}

std::string cell(std::int64_t value) { return value < 0 ? "" : std::to_string(value); }

}  // namespace

Order order_of(const Plan& plan) {
  Order order;
  order.num_dirs = plan.header.copies;
  order.num_microbatches = plan.header.microbatches / order.num_dirs;
  order.num_slices = plan.header.slices;
  order.stage_rank.assign(plan.header.stage_rank.begin(), plan.header.stage_rank.end());
  order.ranks.resize(plan.programs.size());
  std::set<std::tuple<std::size_t, ActionKind, int, int, int>> seen;
  each_op(plan, [&](std::size_t program, OpId, const Op& op) {
    if (op.kind != OpKind::compute || op.microbatch < 0 || op.stage < 0) return;
    ActionKind kind = ActionKind::F;
    if (op.phase == Phase::I) kind = ActionKind::I;
    if (op.phase == Phase::W) kind = ActionKind::W;
    if (op.phase == Phase::B) kind = ActionKind::B;
    if (op.phase > Phase::B) return;
    const int slice = std::max(op.seq_slice, 0);
    if (!seen.insert({program, kind, op.stage, op.microbatch, slice}).second) return;
    Action a{kind, op.stage, op.microbatch % order.num_microbatches, slice};
    a.dir = static_cast<std::int8_t>(op.microbatch / order.num_microbatches);
    order.ranks[program].push_back(a);
  });
  return order;
}

Json groups_json(const Plan& plan) {
  Json out = Json::object();
  for (const auto& [name, groups] : all_groups(plan)) {
    Json list = Json::array();
    for (const auto& group : groups) {
      Json members = Json::array();
      for (Rank rank : group) members.push_back(rank.value);
      list.push_back(std::move(members));
    }
    out[name] = std::move(list);
  }
  return out;
}

std::string groups_text(const Plan& plan) {
  constexpr std::size_t kShown = 32;
  std::string out;
  for (const auto& [name, groups] : all_groups(plan)) {
    out += fmt::format("{:<12}", name);
    for (std::size_t g = 0; g < std::min(groups.size(), kShown); ++g) {
      std::vector<std::string> words;
      for (std::size_t i = 0; i < std::min(groups[g].size(), kShown); ++i)
        words.push_back(std::to_string(groups[g][i].value));
      if (groups[g].size() > kShown) words.push_back(fmt::format("... {} ranks", groups[g].size()));
      out += " " + join(words, ",");
    }
    if (groups.size() > kShown) out += fmt::format(" ... {} groups", groups.size());
    out += '\n';
  }
  return out;
}

Json bytes_by_communicator(const Plan& plan) {
  std::vector<Bytes> bytes(plan.communicators.size(), 0);
  each_op(plan, [&](std::size_t, OpId, const Op& op) {
    if (op.comm.valid() && op.kind != OpKind::recv) bytes[op.comm.index()] += Plan::bytes_in(op);
  });
  Json out = Json::object();
  for (std::size_t c = 0; c < bytes.size(); ++c)
    out[plan.name(plan.communicators[c].name)] = bytes[c];
  return out;
}

Json stats_json(const Plan& plan, const Verification& verification) {
  Json programs = Json::array();
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    std::map<std::string, std::int64_t> kinds, phases, kernels;
    for (const Op& op : plan.ops_of(ProgramId{static_cast<int>(p)})) {
      ++kinds[std::string(name_of(op.kind))];
      ++phases[std::string(phase_name(op.phase))];
      for (const Call& call : plan.calls_of(op))
        ++kernels[std::string(catalogue(plan.kernel(call.kernel).kind).name)];
    }
    std::map<std::string, Bytes> persistent;
    for (BufferId id : plan.persistent(ProgramId{static_cast<int>(p)}))
      persistent[std::string(name_of(plan.buffer(id).cls))] += Plan::own_bytes(plan.buffer(id));
    Json row = {{"ops", plan.programs[p].num_ops},
                {"by_kind", kinds},
                {"by_phase", phases},
                {"kernel_calls", kernels},
                {"persistent_bytes", persistent}};
    if (p < verification.programs.size()) {
      row["peak_bytes"] = verification.programs[p].peak;
      row["peak_in_flight"] = verification.programs[p].peak_w;
    }
    programs.push_back(std::move(row));
  }
  return {{"buffers", plan.buffers.size()},
          {"kernels", plan.kernels.size()},
          {"streams", plan.streams},
          {"programs", std::move(programs)}};
}

std::string stats_text(const Plan& plan, const Verification& verification) {
  std::string out =
      fmt::format("{} ops in {} programs; {} communicators, {} buffers, {} kernels, {} streams\n",
                  plan.ops.size(), plan.programs.size(), plan.communicators.size(),
                  plan.buffers.size(), plan.kernels.size(), plan.streams.size());
  const Json stats = stats_json(plan, verification);
  for (std::size_t p = 0; p < plan.programs.size(); ++p) {
    const Json& row = stats["programs"][p];
    out += fmt::format("program {}: {} ops", p, plan.programs[p].num_ops);
    if (row.contains("peak_bytes"))
      out += fmt::format(", peak {}, {} stage visits in flight",
                         text_of_bytes(row["peak_bytes"].get<double>()),
                         row["peak_in_flight"].get<int>());
    out += '\n';
    for (const char* key : {"by_kind", "by_phase", "kernel_calls"}) {
      std::string line;
      for (const auto& [name, count] : row[key].items())
        line += fmt::format(" {} {}", name, count.get<std::int64_t>());
      out += fmt::format("  {:<16}{}\n", key, line);
    }
  }
  const Json bytes = bytes_by_communicator(plan);
  for (const auto& [name, count] : bytes.items())
    out += fmt::format("bytes over {:<12} {}\n", name, count.get<Bytes>());
  return out;
}

std::string plan_csv(const Plan& plan) {
  std::string out =
      "op,program,stream,kind,phase,part,stage,layer,microbatch,communicator,tag,count,dtype,bytes,"
      "peer,match,group,buffer,waits,allocates,frees,kernels\n";
  each_op(plan, [&](std::size_t program, OpId id, const Op& op) {
    const bool moves = is_communication(op.kind);
    std::vector<std::string> kernels;
    for (const Call& call : plan.calls_of(op)) kernels.push_back(to_text(plan.kernel(call.kernel)));
    out += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                       id.value, program, csv_cell(stream_name(plan, op.stream)), name_of(op.kind),
                       phase_name(op.phase), part_name(op.part), cell(op.stage), cell(op.layer),
                       cell(op.microbatch), csv_cell(communicator_name(plan, op.comm)),
                       csv_cell(plan.name(op.tag)), moves ? std::to_string(op.count) : "",
                       moves ? name_of(op.dtype) : "", moves ? std::to_string(op_bytes(op)) : "",
                       cell(op.peer), cell(op.match), cell(op.group), cell(op.buffer.value),
                       ids(plan.waits_of(op)), ids(plan.allocates_of(op)), ids(plan.frees_of(op)),
                       csv_cell(join(kernels, "; ")));
  });
  return out;
}

std::string plan_dot(const Plan& plan) {
  std::string out = "digraph plan {\n  rankdir=LR;\n  node [shape=box, fontsize=10];\n";
  std::map<std::tuple<std::size_t, std::int32_t>, std::vector<OpId>> streams;
  std::map<std::int32_t, OpId> sends, receives;
  each_op(plan, [&](std::size_t program, OpId id, const Op& op) {
    streams[{program, op.stream.value}].push_back(id);
    if (op.kind == OpKind::send) sends[op.match] = id;
    if (op.kind == OpKind::recv) receives[op.match] = id;
  });
  for (const auto& [key, ops] : streams) {
    const auto [program, stream] = key;
    out += fmt::format("  subgraph \"cluster_{}_{}\" {{\n    label=\"rank {}: {}\";\n", program,
                       stream, program, escape_json(stream_name(plan, StreamId{stream})));
    for (OpId id : ops)
      out += fmt::format("    o{} [label=\"{}\"];\n", id.value,
                         escape_json(op_label_with_id(plan, id)));
    out += "  }\n";
    for (std::size_t i = 1; i < ops.size(); ++i)
      out += fmt::format("  o{} -> o{} [style=dotted];\n", ops[i - 1].value, ops[i].value);
  }
  each_op(plan, [&](std::size_t, OpId id, const Op& op) {
    for (OpId wait : plan.waits_of(op)) out += fmt::format("  o{} -> o{};\n", wait.value, id.value);
  });
  for (const auto& [match, send] : sends)
    if (const auto receive = receives.find(match); receive != receives.end())
      out += fmt::format("  o{} -> o{} [style=bold, constraint=false];\n", send.value,
                         receive->second.value);
  return out + "}\n";
}

}  // namespace tandem::tools
