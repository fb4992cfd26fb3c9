#include "common/plan/export_chakra.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "common/base/protobuf_writer.h"
#include "common/plan/labels.h"
#include "common/plan/totals.h"

namespace tandem {
namespace {

constexpr std::string_view kSchemaVersion = "0.0.4";  // of the traces that ASTRA-sim ships
constexpr std::size_t kPieceBytes = 1 << 18;          // handed to the sink at once
constexpr Picoseconds kPsPerUs = 1'000'000;

// Field numbers of et_def.proto.
namespace metadata {
constexpr int kVersion = 1, kAttr = 2;
}
namespace node {
constexpr int kId = 1, kName = 2, kType = 3, kCtrlDeps = 4, kDataDeps = 5, kDurationMicros = 7,
              kAttr = 10;
}
namespace attribute {
constexpr int kName = 1, kInt32 = 7, kInt64 = 9, kUint64 = 13, kBool = 27, kString = 29;
}

std::string record(const ProtoWriter& message) {
  std::string out;
  append_varint(out, message.bytes().size());
  return out + message.bytes();
}

class Attributes {
 public:
  Attributes(ProtoWriter& message, int field) : message_(message), field_(field) {}
  void number(std::string_view name, int type, std::int64_t value) {
    begin(name);
    attribute_.varint(type, static_cast<std::uint64_t>(value));
    message_.message(field_, attribute_);
  }
  void text(std::string_view name, std::string_view value) {
    begin(name);
    attribute_.text(attribute::kString, value);
    message_.message(field_, attribute_);
  }

 private:
  void begin(std::string_view name) {
    attribute_.clear();
    attribute_.text(attribute::kName, name);
  }
  ProtoWriter attribute_;
  ProtoWriter& message_;
  int field_;
};

// What the next op of a queue must stand behind. Ops of one group are issued together, so all of
// them stand behind what was before the group, and what follows stands behind all of them.
struct Tail {
  std::vector<OpId> before, last;
  std::int32_t group = -1;

  const std::vector<OpId>& enter(OpId id, std::int32_t op_group) {
    if (op_group < 0 || op_group != group) {
      before = std::move(last);
      last.clear();
    }
    group = op_group;
    last.push_back(id);
    return before;
  }
};

ChakraCollective collective_of(OpKind kind) {
  switch (kind) {
    case OpKind::all_gather:
      return ChakraCollective::all_gather;
    case OpKind::reduce_scatter:
      return ChakraCollective::reduce_scatter;
    case OpKind::all_to_all:
      return ChakraCollective::all_to_all;
    case OpKind::broadcast:
      return ChakraCollective::broadcast;
    default:
      TANDEM_CHECK(kind == OpKind::all_reduce, "{} is no collective", name_of(kind));
      return ChakraCollective::all_reduce;
  }
}

void sort_unique(std::vector<OpId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

// What each op of a program stands behind, op by op in issue order.
struct Dependencies {
  std::vector<OpId> data, control;
};
class ProgramOrder {
 public:
  ProgramOrder(const Plan& plan, bool launch_order)
      : plan_(plan),
        launch_order_(launch_order),
        streams_(plan.streams.size()),
        behind_host_wait_(plan.streams.size(), true) {}

  Dependencies next(OpId id) {
    const Op& op = plan_.op(id);
    const std::size_t stream = op.stream.index();
    Dependencies out;
    for (OpId wait : plan_.waits_of(op)) out.data.push_back(wait);
    for (OpId previous : streams_[stream].enter(id, op.group)) {
      out.data.push_back(previous);
      out.control.push_back(previous);
    }
    // Later ops of the stream stand behind this one; those of its group do not.
    if (!behind_host_wait_[stream] || (op.group >= 0 && host_wait_.valid()))
      out.data.push_back(host_wait_);
    behind_host_wait_[stream] = true;
    if (holds_host(op.kind)) {
      host_wait_ = id;
      std::fill(behind_host_wait_.begin(), behind_host_wait_.end(), false);
      behind_host_wait_[stream] = true;
    }
    if (launch_order_ && is_communication(op.kind) && op.kind != OpKind::recv)
      for (OpId previous : launched_.enter(id, op.group)) out.control.push_back(previous);
    sort_unique(out.data);
    sort_unique(out.control);
    return out;
  }

 private:
  const Plan& plan_;
  bool launch_order_;
  std::vector<Tail> streams_;
  Tail launched_;
  OpId host_wait_;
  std::vector<bool> behind_host_wait_;  // by stream: an op of it waits for host_wait_ already
};

// Whether all dependencies, launch order too, leave a way to the end: no cycle, where ends of one
// collective are one node and a receive stands behind its send. Ranks of a program behave alike, so
// ops stand for all of them.
bool launch_order_ends(const Plan& plan) {
  const std::size_t n = plan.ops.size();
  std::vector<std::size_t> node(n);  // the first end of a collective that programs share
  std::map<std::int32_t, std::size_t> first, sends;
  for (std::size_t i = 0; i < n; ++i) {
    const Op& op = plan.ops[i];
    node[i] = i;
    if (op.kind == OpKind::send) sends[op.match] = i;
    if (op.match >= 0 && !is_p2p(op.kind)) node[i] = first.try_emplace(op.match, i).first->second;
  }
  std::vector<std::size_t> missing(n, 0);
  std::vector<std::vector<std::size_t>> behind(n);
  const auto edge = [&](std::size_t from, std::size_t to) {
    behind[node[from]].push_back(node[to]);
    ++missing[node[to]];
  };
  for (const Program& program : plan.programs) {
    ProgramOrder order(plan, /*launch_order=*/true);
    for (std::uint32_t k = 0; k < program.num_ops; ++k) {
      const std::size_t i = program.first_op + k;
      const Dependencies deps = order.next(OpId{static_cast<std::int64_t>(i)});
      for (OpId d : deps.data) edge(d.index(), i);
      for (OpId d : deps.control) edge(d.index(), i);
      if (plan.ops[i].kind == OpKind::recv)
        if (const auto send = sends.find(plan.ops[i].match); send != sends.end())
          edge(send->second, i);
    }
  }
  std::vector<std::size_t> ready;
  std::size_t ended = 0, nodes = 0;
  for (std::size_t i = 0; i < n; ++i) {
    nodes += node[i] == i;
    if (node[i] == i && missing[i] == 0) ready.push_back(i);
  }
  for (; !ready.empty(); ++ended) {
    const std::size_t i = ready.back();
    ready.pop_back();
    for (std::size_t next : behind[i])
      if (--missing[next] == 0) ready.push_back(next);
  }
  return ended == nodes;
}

}  // namespace

std::string chakra_metadata(std::string_view version, std::string_view plan_id) {
  TANDEM_CHECK(!version.empty(), "an empty record ends the file for readers");
  ProtoWriter message;
  message.text(metadata::kVersion, version);
  if (!plan_id.empty()) Attributes(message, metadata::kAttr).text("tandem_plan_id", plan_id);
  return record(message);
}

std::string chakra_record(const ChakraNode& n) {
  ProtoWriter message;
  if (n.id != 0) message.varint(node::kId, n.id);  // proto3 leaves zeros out
  message.text(node::kName, n.name);
  message.varint(node::kType, static_cast<std::uint64_t>(n.type));
  if (!n.ctrl_deps.empty()) message.packed(node::kCtrlDeps, n.ctrl_deps);
  if (!n.data_deps.empty()) message.packed(node::kDataDeps, n.data_deps);
  if (n.duration_us != 0) message.varint(node::kDurationMicros, n.duration_us);
  Attributes attr(message, node::kAttr);
  attr.number("is_cpu_op", attribute::kBool, n.is_cpu_op ? 1 : 0);
  switch (n.type) {
    case ChakraType::compute:
      attr.number("num_ops", attribute::kInt64, n.num_ops);
      attr.number("tensor_size", attribute::kUint64, static_cast<std::int64_t>(n.tensor_size));
      break;
    case ChakraType::collective:
      attr.number("comm_type", attribute::kInt64, static_cast<std::int64_t>(n.comm_type));
      attr.number("comm_size", attribute::kInt64, n.comm_size);
      attr.text("pg_name", n.pg_name);
      break;
    case ChakraType::send:
    case ChakraType::receive:
      attr.number("comm_size", attribute::kInt64, n.comm_size);
      attr.number(n.type == ChakraType::send ? "comm_dst" : "comm_src", attribute::kInt32, n.peer);
      attr.number("comm_tag", attribute::kInt32, n.tag);
      break;
  }
  return record(message);
}

ChakraExport::ChakraExport(const Plan& plan, ChakraOptions options)
    : plan_(plan), options_(std::move(options)), launch_order_(launch_order_ends(plan)) {
  TANDEM_CHECK(options_.durations.empty() || options_.durations.size() == plan.ops.size(),
               "{} durations for {} ops", options_.durations.size(), plan.ops.size());
  std::vector<bool> collective(plan.communicators.size(), false);
  for (const Op& op : plan.ops) {
    first_tag_ = std::max(first_tag_, std::int64_t{op.match} + 1);
    if (is_collective(op.kind)) collective[op.comm.index()] = true;
  }
  groups_.resize(plan.communicators.size());
  first_group_.resize(plan.communicators.size(), 0);
  std::int64_t next = 1;  // 0 means all ranks to readers
  const int world = plan.header.mesh.world();
  for (std::size_t c = 0; c < groups_.size(); ++c) {
    first_group_[c] = next;
    if (!collective[c]) continue;
    std::vector<bool> seen(static_cast<std::size_t>(world), false);
    for (int r = 0; r < world; ++r) {
      if (seen[static_cast<std::size_t>(r)]) continue;
      std::vector<Rank> members = plan.members(CommId{static_cast<int>(c)}, Rank{r});
      if (members.empty()) continue;
      for (Rank m : members) seen[m.index()] = true;
      groups_[c].push_back(std::move(members));
    }
    next += static_cast<std::int64_t>(groups_[c].size());
  }
  for (const Kernel& k : plan.kernels)
    for (bool accumulates : {false, true})
      costs_.push_back(cost(k, plan.header.types, accumulates));
}

// Walks the program of one rank once.
class ChakraExport::RankWriter {
 public:
  RankWriter(const ChakraExport& owner, Rank rank, const Sink& sink)
      : owner_(owner),
        plan_(owner.plan_),
        rank_(rank),
        sink_(sink),
        num_ops_(owner.plan_.ops.size()),
        order_(owner.plan_, owner.launch_order_),
        elapsed_(owner.plan_.streams.size(), 0),
        group_name_(owner.plan_.communicators.size()) {
    for (std::size_t c = 0; c < owner.groups_.size(); ++c)
      for (std::size_t g = 0; g < owner.groups_[c].size(); ++g) {
        const std::vector<Rank>& members = owner.groups_[c][g];
        if (std::find(members.begin(), members.end(), rank) != members.end())
          group_name_[c] = std::to_string(owner.first_group_[c] + static_cast<std::int64_t>(g));
      }
  }

  Status run() {
    piece_ = chakra_metadata(kSchemaVersion, owner_.options_.plan_id);
    const Program& program = plan_.programs[plan_.program_of(rank_).index()];
    for (std::uint32_t i = 0; i < program.num_ops; ++i) {
      put(OpId{program.first_op + i});
      if (piece_.size() < kPieceBytes) continue;
      if (const Status s = sink_(piece_); !s) return s;
      piece_.clear();
    }
    return sink_(piece_);
  }

 private:
  // A shift is two nodes; what stands behind it stands behind both.
  void add(std::vector<std::uint64_t>& deps, OpId id) const {
    deps.push_back(id.index());
    if (plan_.op(id).kind == OpKind::shift) deps.push_back(num_ops_ + id.index());
  }

  void put(OpId id) {
    const Op& op = plan_.op(id);
    ChakraNode n;
    n.id = id.index();
    n.name = op_label(plan_, id);
    const Dependencies deps = order_.next(id);
    for (OpId d : deps.data) add(n.data_deps, d);
    std::sort(n.data_deps.begin(), n.data_deps.end());
    for (OpId d : deps.control) add(n.ctrl_deps, d);
    std::sort(n.ctrl_deps.begin(), n.ctrl_deps.end());
    switch (op.kind) {
      case OpKind::compute:
        compute(n, id, op);
        break;
      case OpKind::copy:  // by the host: it takes no part of the device's time
        n.is_cpu_op = true;
        n.num_ops = 1;
        n.tensor_size = static_cast<std::uint64_t>(Plan::bytes_in(op));
        n.duration_us = duration(id, op);
        break;
      case OpKind::host_wait:
      case OpKind::post_validate:
        n.is_cpu_op = true;
        break;
      case OpKind::send:
      case OpKind::recv:
        n.type = op.kind == OpKind::send ? ChakraType::send : ChakraType::receive;
        n.comm_size = Plan::bytes_in(op);
        n.peer = plan_.header.mesh.with(rank_, Axis::pp, op.peer).value;
        n.tag = op.match;
        break;
      case OpKind::shift:
        shift(std::move(n), id, op);
        return;
      default:
        n.type = ChakraType::collective;
        n.comm_type = collective_of(op.kind);
        n.comm_size = Plan::bytes_in(op);
        n.pg_name = group_name_[op.comm.index()];
        if (op.kind == OpKind::broadcast) n.duration_us = duration(id, op);
        break;
    }
    piece_ += chakra_record(n);
  }

  void compute(ChakraNode& n, OpId id, const Op& op) {
    double flops = 0, bytes = 0;
    for (const Call& call : plan_.calls_of(op)) {
      const KernelCost& c =
          owner_.costs_[2 * call.kernel.index() + (call_accumulates(plan_, call) ? 1 : 0)];
      flops += c.flops;
      bytes += c.bytes;
    }
    n.tensor_size = static_cast<std::uint64_t>(std::llround(bytes));
    n.num_ops = std::max<std::int64_t>(std::llround(flops), n.tensor_size > 0 ? 1 : 0);
    n.duration_us = duration(id, op);
  }

  // A step round the ring: to the next member, from the one before.
  void shift(ChakraNode n, OpId id, const Op& op) {
    const std::vector<Rank> members = plan_.members(op.comm, rank_);
    const auto at = static_cast<std::size_t>(std::find(members.begin(), members.end(), rank_) -
                                             members.begin());
    const std::string name = n.name;
    n.comm_size = Plan::bytes_in(op);
    const std::int64_t tag = op.match >= 0 ? op.match : owner_.first_tag_ + id.value;
    TANDEM_CHECK(tag <= INT32_MAX, "tag {} of op {}", tag, id.value);
    n.tag = static_cast<std::int32_t>(tag);
    n.type = ChakraType::send;
    n.name = name + " to next";
    n.peer = members[(at + 1) % members.size()].value;
    piece_ += chakra_record(n);
    n.type = ChakraType::receive;
    n.id += num_ops_;
    n.name = name + " from previous";
    n.peer = members[(at + members.size() - 1) % members.size()].value;
    n.ctrl_deps.clear();  // a receive takes no slot; its stream is in data_deps
    piece_ += chakra_record(n);
  }

  // Rounded so that whole microseconds of a stream's ops sum to the stream's time.
  std::uint64_t duration(OpId id, const Op& op) {
    if (owner_.options_.durations.empty()) return 0;
    Picoseconds& elapsed = elapsed_[op.stream.index()];
    const auto whole = [&] { return (elapsed + kPsPerUs / 2) / kPsPerUs; };
    const std::int64_t begin = whole();
    elapsed += owner_.options_.durations[id.index()];
    return static_cast<std::uint64_t>(whole() - begin);
  }

  const ChakraExport& owner_;
  const Plan& plan_;
  Rank rank_;
  const Sink& sink_;
  std::uint64_t num_ops_;
  ProgramOrder order_;
  std::vector<Picoseconds> elapsed_;  // by stream
  std::vector<std::string> group_name_;
  std::string piece_;
};

Status ChakraExport::write(Rank rank, const Sink& sink) const {
  return RankWriter(*this, rank, sink).run();
}

std::string ChakraExport::groups_json() const {
  std::string out = "{";
  const char* comma = "\n";
  for (std::size_t c = 0; c < groups_.size(); ++c)
    for (std::size_t g = 0; g < groups_[c].size(); ++g) {
      out += fmt::format("{}  \"{}\": [", comma, first_group_[c] + static_cast<std::int64_t>(g));
      comma = ",\n";
      const char* separator = "";
      for (Rank r : groups_[c][g]) {
        out += fmt::format("{}{}", separator, r.value);
        separator = ", ";
      }
      out += "]";
    }
  return out + "\n}\n";
}

}  // namespace tandem
