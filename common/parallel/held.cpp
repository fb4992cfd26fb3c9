#include "common/parallel/held.h"

#include <algorithm>

namespace tandem {
namespace {

void add(KeptBytes& sum, const KeptBytes& x, int sign) {
  sum.saved_weight += sign * x.saved_weight;
  sum.logits += sign * x.logits;
  sum.batch += sign * x.batch;
  sum.comm += sign * x.comm;
}

void raise(KeptBytes& most, const KeptBytes& x) {
  most.saved_input = std::max(most.saved_input, x.saved_input);
  most.saved_weight = std::max(most.saved_weight, x.saved_weight);
  most.logits = std::max(most.logits, x.logits);
  most.batch = std::max(most.batch, x.batch);
  most.comm = std::max(most.comm, x.comm);
}

}  // namespace

std::optional<Held> held_along(const Scenario& s, const Order& order, int pp) {
  Held out;
  KeptBytes now;
  int visits = 0, visits_weight = 0;
  for (const Action& a : order.ranks[static_cast<std::size_t>(pp)]) {
    if (a.fused) return std::nullopt;
    if (!is_compute(a.kind)) continue;
    const bool last = a.stage + 1 == order.num_stages();
    const KeptBytes own = kept_of_visit(s, a.stage);
    switch (a.kind) {
      case ActionKind::F: {
        now.saved_input += own.saved_input;
        add(now, own, 1);
        out.visits = std::max(out.visits, ++visits);
        out.visits_weight = std::max(out.visits_weight, ++visits_weight);
        KeptBytes during = now;
        if (last && a.stage > 0) during.batch += batch_bytes(s);
        raise(out.peak, during);
        break;
      }
      case ActionKind::I:
        out.splits = true;
        [[fallthrough]];
      case ActionKind::B:
        now.saved_input -= own.saved_input;
        now.saved_weight -= own.gone_with_input;
        --visits;
        if (a.kind == ActionKind::I) break;
        [[fallthrough]];
      case ActionKind::W:
        add(now, own, -1);
        now.saved_weight += own.gone_with_input;
        --visits_weight;
        break;
      default:
        break;
    }
  }
  return out;
}

}  // namespace tandem
