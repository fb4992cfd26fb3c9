// The way of rows to the ranks of their experts and back (models.md 4.5), for forward and backward.
//
//   to        [over ep: all_to_all] | [over etp: all_gather of the rows of all members]
//   back      [over etp: reduce_scatter of the members' partial rows] | [over ep: all_to_all]
//   Expert tensor parallelism   etp members hold slices (of width Fe / etp) of the same experts,
//   and
//     each gets rows of its own over ep. So all rows go to all of them, each computes its slice's
//     part of the result for all rows, and the sum of a row goes to the member that it came to.
//     Members got different numbers of rows: the counts are gathered first. Order of the gathered
//     rows: (etp member, ep source, local expert); experts see etp * ep sources.
//   An exchange over a group of one member is left out.
#include "common/plan/lower/visit_builder.h"

namespace tandem::lower {

Ref VisitBuilder::counted(Ref rows, Ref counts, std::int64_t most) {
  Slot& s = v_.slots[static_cast<std::size_t>(rows.slot)];
  s.buffer.max_rows = most;
  s.rows_of = counts.slot;
  return rows;
}

void VisitBuilder::wait_for(Ref value, int layer) {
  VisitOp wait;
  wait.layer = layer;
  wait.kind = OpKind::host_wait;
  wait.buffer = value;
  ops_->push_back(std::move(wait));
}

// Rows in the order of experts: their number is known from `counts`.
Ref VisitBuilder::expert_rows(const char* name, BufferClass cls, std::int64_t width, Ref counts,
                              int layer) {
  const Ref r = kept(name, cls, {z_.expert_rows, width}, layer);
  return moves_rows() ? counted(r, counts, z_.max_expert_rows) : r;
}

// Rows that came over ep, before other etp members' rows join them.
Ref VisitBuilder::arrived_rows(const char* name, const SavedMoe& s, int layer) {
  return counted(kept(name, BufferClass::comm, {z_.arrived_rows, z_.hidden}, layer), s.received,
                 z_.max_arrived_rows);
}

void VisitBuilder::exchange(const char* tag, Ref source, Ref buffer, Ref send_rows, Ref recv_rows,
                            int layer) {
  communicate(OpKind::all_to_all, tag, buffer, source, layer);
  VisitOp& op = ops_->back();
  op.comm = "ep";
  op.send_rows = send_rows;
  op.recv_rows = recv_rows;
  cut(layer);
}

// What peers tell each other about the rows to come. The host waits for the last of it: what is
// issued behind takes memory of the true size.
void VisitBuilder::exchange_counts(SavedMoe& s, int layer) {
  const std::int64_t E = d_.scenario.model.moe.experts;
  s.received = s.sent;
  if (z_.ep > 1) {
    s.received = slot("moe_counts_in", BufferClass::comm, DType::i32, {E}, layer);
    communicate(OpKind::all_to_all, "cnt", s.received, s.sent, layer);
    ops_->back().comm = "ep";
  }
  s.counts = s.arriving = s.received;
  if (z_.etp > 1) {
    s.counts = slot("moe_counts_all", BufferClass::comm, DType::i32, {z_.etp, E}, layer);
    communicate(OpKind::all_gather, "etp.in", s.counts, s.received, layer);
    ops_->back().comm = "etp";
  }
  if (!moves_rows()) return;
  wait_for(s.counts, layer);
}

Ref VisitBuilder::to_experts(RowTags tags, RowNames names, Ref rows, const SavedMoe& s, int layer) {
  if (z_.ep > 1) {
    const Ref here = z_.etp > 1
                         ? arrived_rows(names.ep, s, layer)
                         : expert_rows(names.ep, BufferClass::comm, z_.hidden, coming(s), layer);
    exchange(tags.ep, rows, here, s.sent, s.arriving, layer);
    rows = here;
  }
  if (z_.etp == 1) return rows;
  const Ref all = expert_rows(names.etp, BufferClass::comm, z_.hidden, s.counts, layer);
  communicate(OpKind::all_gather, tags.etp, all, rows, layer);
  ops_->back().comm = "etp";
  ops_->back().recv_rows = s.counts;
  cut(layer);
  return all;
}

Ref VisitBuilder::from_experts(RowTags tags, RowNames names, BufferClass cls, Ref rows,
                               const SavedMoe& s, int layer) {
  const auto home = [&] {
    return kept(names.ep, cls, {z_.arrived_rows, z_.hidden}, layer);  // one for each assignment
  };
  if (z_.etp > 1) {
    const Ref own = z_.ep > 1 ? arrived_rows(names.etp, s, layer) : home();
    communicate(OpKind::reduce_scatter, tags.etp, own, rows, layer, Reduction::sum);
    ops_->back().comm = "etp";
    ops_->back().send_rows = s.counts;
    cut(layer);
    rows = own;
  }
  if (z_.ep == 1) return rows;
  const Ref back = home();
  exchange(tags.ep, rows, back, s.arriving, s.sent, layer);
  return back;
}

}  // namespace tandem::lower
