#include "common/plan/lower/draft.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "common/parallel/groups.h"
#include "common/schedule/registry.h"

namespace tandem::lower {

namespace {

// Source models.md 4.5 (capacity, rows) and 8a (slices in which it holds, bounds).
void expert_sizes(const Scenario& s, Sizes& z) {
  const MoeSpec& moe = s.model.moe;
  z.ep = s.parallel.ep, z.etp = s.parallel.etp;
  z.row_sources = z.ep * z.etp;
  z.local_experts = moe.experts / z.ep;
  z.expert_ffn = moe.expert_hidden / z.etp;
  z.shared_ffn = std::int64_t{moe.shared_experts} * moe.expert_hidden / (z.nano ? 1 : z.tp);
  const std::int64_t assignments = z.moe_tokens * moe.top_k;
  z.arrived_rows = assignments;
  z.expert_rows = assignments * z.etp;
  z.drop_slices = std::max<std::int64_t>(1, moe.drop_groups / (s.parallel.tp * s.parallel.cp));
  z.max_arrived_rows = z.ep * z.moe_tokens * std::min<std::int64_t>(moe.top_k, z.local_experts);
  if (moe.capacity_factor) {
    const double share =
        *moe.capacity_factor * static_cast<double>(assignments / z.drop_slices) / moe.experts;
    z.expert_capacity = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(share)));
    z.max_arrived_rows =
        std::min(z.max_arrived_rows, moe.experts * z.expert_capacity * z.drop_slices);
  }
  z.max_arrived_rows = std::max(z.max_arrived_rows, z.arrived_rows);
  z.max_expert_rows = z.max_arrived_rows * z.etp;
}

}  // namespace

Sizes sizes_of(const Scenario& s) {
  const ModelSpec& m = s.model;
  Sizes z;
  z.tp = s.parallel.tp, z.cp = s.parallel.cp, z.dp = s.parallel.dp, z.pp = s.parallel.pp;
  z.micro_batch = s.training.micro_batch, z.full_sequence = s.training.sequence;
  z.slices = num_slices(s.schedule.kind, s.schedule.options);
  z.sequence = z.full_sequence / z.cp / z.slices;
  z.tokens = z.micro_batch * z.sequence;
  z.sp = cuts_sequence(s);
  z.own_sequence = z.sp ? z.sequence / z.tp : z.sequence;
  z.own_tokens = z.micro_batch * z.own_sequence;
  z.nano = s.parallel.nano_train();
  z.nano_style = s.parallel.style == Style::nano_train;
  z.moe_sequence = z.slices_moe() ? z.sequence / z.tp : z.own_sequence;
  z.moe_tokens = z.micro_batch * z.moe_sequence;
  z.hidden = m.hidden;
  z.head_dim = m.head_dim > 0 ? m.head_dim : m.hidden / m.heads;
  z.heads = m.heads / z.tp;
  z.kv_heads = (m.kv_heads > 0 ? m.kv_heads : m.heads) / z.tp;
  z.attention = z.heads * z.head_dim;
  z.kv = z.kv_heads * z.head_dim;
  z.kv_block = 2 * z.kv;
  z.qkv = z.attention + z.kv_block;
  z.ffn = m.ffn_hidden / z.tp;
  if (m.mla.kv_rank > 0) {
    z.q_rank = m.mla.q_rank, z.kv_rank = m.mla.kv_rank;
    z.nope_dim = m.mla.nope_dim, z.rope_dim = m.mla.rope_dim, z.v_dim = m.mla.v_dim;
    z.latent_q = z.heads * (z.nope_dim + z.rope_dim);
    z.latent_kv = z.heads * (z.nope_dim + z.v_dim);
    z.attention = z.heads * z.v_dim;
    z.kv_block = z.heads * (z.nope_dim + z.rope_dim + z.v_dim);
    z.qkv = z.latent_q + z.kv_block;
  }
  if (m.moe.experts > 0) expert_sizes(s, z);
  z.vocab = m.vocab;
  z.vocab_cut = s.parallel.vocab_parallel && z.tp > 1;
  z.classes = z.vocab_cut ? (z.vocab + z.tp - 1) / z.tp : z.vocab;
  return z;
}

const Tensor& ProgramTensors::at(std::string_view name) const {
  const auto it = places.find(name);
  TANDEM_CHECK(it != places.end(), "no tensor {} in this program", name);
  return tensors[it->second];
}

std::uint32_t Draft::name(std::string_view text) {
  const auto it = name_ids_.find(text);
  if (it != name_ids_.end()) return it->second;
  const auto id = static_cast<std::uint32_t>(plan.names.size());
  plan.names.emplace_back(text);
  name_ids_.emplace(text, id);
  return id;
}

StreamId Draft::stream(std::string_view text) {
  const auto it = stream_ids_.find(text);
  if (it != stream_ids_.end()) return it->second;
  const StreamId id{static_cast<std::int64_t>(plan.streams.size())};
  plan.streams.emplace_back(text);
  stream_ids_.emplace(text, id);
  return id;
}

KernelId Draft::kernel(const Kernel& k) {
  const auto it = std::find(plan.kernels.begin(), plan.kernels.end(), k);
  if (it != plan.kernels.end()) return KernelId{it - plan.kernels.begin()};
  plan.kernels.push_back(k);
  return KernelId{static_cast<std::int64_t>(plan.kernels.size()) - 1};
}

CommId Draft::comm(std::string_view text) const {
  for (std::size_t i = 0; i < plan.communicators.size(); ++i)
    if (plan.name(plan.communicators[i].name) == text) return CommId{static_cast<std::int64_t>(i)};
  return CommId{};
}

CommId Draft::copies_of(int program) const {
  if (order.num_dirs == 1) return {};
  const int low = std::min(program, order.num_ranks() - 1 - program);
  return comm("copy:" + std::to_string(low) + "-" + std::to_string(order.num_ranks() - 1 - low));
}

BufferId Draft::add(Buffer b) {
  plan.buffers.push_back(b);
  return BufferId{static_cast<std::int64_t>(plan.buffers.size()) - 1};
}

namespace {
template <class T>
Range append(std::vector<T>& pool, const std::vector<T>& list) {
  const Range r{static_cast<std::uint32_t>(pool.size()), static_cast<std::uint32_t>(list.size())};
  pool.insert(pool.end(), list.begin(), list.end());
  return r;
}
}  // namespace

Range Draft::refs(const std::vector<OpId>& ids) { return append(plan.op_refs, ids); }
Range Draft::refs(const std::vector<BufferId>& ids) { return append(plan.buffer_refs, ids); }
Range Draft::operands(const std::vector<OperandRef>& list) { return append(plan.operands, list); }

}  // namespace tandem::lower
