// The router of models.md 2.5: scores, choice of experts, what is dropped, and the gradient of the
// scores. Its matrix products are those of linear.cpp, but dx is added to: the experts' part of the
// gradient is already there.
#include <ATen/ops/addmm.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "exec/kernels/assignments.h"
#include "exec/kernels/aten.h"
#include "exec/kernels/exp.h"
#include "exec/kernels/gemm.h"
#include "exec/kernels/loops.h"

namespace tandem::exec {
namespace {

// scores may be the logits.
template <class T>
void softmax(const T* logits, T* scores, std::int64_t n) {
  T top = logits[0];
  for (std::int64_t i = 1; i < n; ++i) top = logits[i] > top ? logits[i] : top;
  for (std::int64_t i = 0; i < n; ++i) scores[i] = exp_nonpositive(logits[i] - top);
  const T sum = lane_sum<T>(n, [scores](std::int64_t i) { return scores[i]; });
  for (std::int64_t i = 0; i < n; ++i) scores[i] /= sum;
}

template <class T>
void sigmoid(const T* logits, T* scores, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const T small = exp_nonpositive(-std::abs(logits[i]));
    scores[i] = (logits[i] < T(0) ? small : T(1)) / (T(1) + small);
  }
}

template <class T>
void scores_of(std::uint32_t flags, const T* logits, T* scores, std::int64_t n) {
  if (flags & kSoftmax)
    softmax(logits, scores, n);
  else
    sigmoid(logits, scores, n);
}

// Offers candidate i to the `most` best seen so far, best first. Candidates come in ascending order
// and an equal one goes behind, so ties go to the lower index. NaN is never better than another.
template <class V>
void offer(std::int64_t* best, std::int64_t& size, std::int64_t most, std::int64_t i, V&& value) {
  if (size == most && !(value(i) > value(best[most - 1]))) return;
  std::int64_t at = size < most ? size++ : most - 1;
  for (; at > 0 && value(i) > value(best[at - 1]); --at) best[at] = best[at - 1];
  best[at] = i;
}

// One assignment that competes for its expert's capacity.
struct Candidate {
  double weight;
  std::int64_t index;  // token * K + slot
};

template <class T>
struct Route {
  std::int64_t batch, seq, experts, top_k, groups, groups_kept, capacity, slices, scopes;
  std::uint32_t flags;
  Bytes scratch;
  const T *logits, *bias;  // bias: null without one
  T *scores, *aux;
  std::int64_t* choice;
  std::int32_t *counts, *choices;
  double* dropped;
  bool add_aux, add_choices, add_dropped;

  void operator()() const {
    Workspace space(scratch);
    auto* chosen = space.take<std::int64_t>(experts);
    auto* probs = space.take<double>(experts);
    const bool limited = groups_kept < groups;
    auto* group_score = limited ? space.take<double>(groups) : nullptr;
    auto* kept = limited ? space.take<std::int64_t>(groups_kept) : nullptr;
    auto* open = limited ? space.take<std::int64_t>(groups) : nullptr;
    std::fill_n(counts, experts, 0);
    if (!add_choices) std::fill_n(choices, experts, 0);
    for (std::int64_t scope = 0; scope < scopes; ++scope) {
      std::fill_n(chosen, experts, 0);
      std::fill_n(probs, experts, 0.0);
      for (std::int64_t row = scope; row < batch * seq; row += scopes) {
        score(row, probs);
        if (limited) open_groups(scores + row * experts, group_score, kept, open);
        choose(row, open);
        for (std::int64_t k = 0; k < top_k; ++k) ++chosen[choice[row * top_k + k]];
      }
      for (std::int64_t e = 0; e < experts; ++e) {
        const auto put = [this](T& sum, T value) { sum = add_aux ? sum + value : value; };
        put(aux[scope * experts + e], static_cast<T>(chosen[e]));
        put(aux[(scopes + scope) * experts + e], static_cast<T>(probs[e]));
        const std::int64_t sum = choices[e] + chosen[e];
        TANDEM_CHECK(sum <= std::numeric_limits<std::int32_t>::max(),
                     "expert {} was chosen {} times: more than 32 bits count", e, sum);
        choices[e] = static_cast<std::int32_t>(sum);
        counts[e] += static_cast<std::int32_t>(chosen[e]);  // at most batch * seq
      }
    }
    const std::int64_t lost = capacity > 0 ? drop(space) : 0;
    *dropped = (add_dropped ? *dropped : 0.0) + static_cast<double>(lost);
  }

 private:
  // The value that is compared: the score, with the bias of its expert.
  [[nodiscard]] T rank_of(const T* row, std::int64_t e) const {
    return bias ? row[e] + bias[e] : row[e];
  }

  void score(std::int64_t row, double* probs) const {
    T* to = scores + row * experts;
    scores_of(flags, logits + row * experts, to, experts);
    if (flags & kSoftmax) {
      for (std::int64_t e = 0; e < experts; ++e) probs[e] += static_cast<double>(to[e]);
      return;
    }
    const T sum = lane_sum<T>(experts, [to](std::int64_t e) { return to[e]; });
    for (std::int64_t e = 0; e < experts; ++e) probs[e] += static_cast<double>(to[e] / sum);
  }

  // A group counts by its two best experts, or its only one; with `group=max` by the best.
  void open_groups(const T* row, double* group_score, std::int64_t* kept,
                   std::int64_t* open) const {
    const std::int64_t size = experts / groups;
    for (std::int64_t g = 0; g < groups; ++g) {
      T first = rank_of(row, g * size), second = -std::numeric_limits<T>::infinity();
      for (std::int64_t e = g * size + 1; e < (g + 1) * size; ++e) {
        const T value = rank_of(row, e);
        second = value > first ? first : value > second ? value : second;
        first = value > first ? value : first;
      }
      const bool pair = size > 1 && (flags & kGroupMax) == 0;
      group_score[g] = static_cast<double>(pair ? first + second : first);
      open[g] = 0;
    }
    std::int64_t found = 0;
    for (std::int64_t g = 0; g < groups; ++g)
      offer(kept, found, groups_kept, g, [=](std::int64_t i) { return group_score[i]; });
    for (std::int64_t g = 0; g < groups_kept; ++g) open[kept[g]] = 1;
  }

  // `open`: null, or whether a group's experts may be chosen.
  void choose(std::int64_t row, const std::int64_t* open) const {
    const T* s = scores + row * experts;
    const std::int64_t size = experts / groups;
    std::int64_t found = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      if (open && !open[g]) continue;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e)
        offer(choice + row * top_k, found, top_k, e,
              [this, s](std::int64_t i) { return rank_of(s, i); });
    }
  }

  // Marks what is beyond the capacity in `choice`, takes it from `counts`; how many.
  [[nodiscard]] std::int64_t drop(Workspace& space) const {
    auto* end = space.take<std::int64_t>(experts + 1);  // of each expert's candidates
    const std::int64_t length = seq / slices * batch;   // tokens of a slice, one after another
    auto* candidates = space.take<Candidate>(length * top_k);
    std::int64_t lost = 0;
    for (std::int64_t first = 0; first < batch * seq; first += length) {
      std::fill_n(end, experts + 1, 0);
      for (std::int64_t a = first * top_k; a < (first + length) * top_k; ++a) ++end[choice[a] + 1];
      bool fits = true;
      for (std::int64_t e = 0; e < experts; ++e) {
        fits = fits && end[e + 1] <= capacity;
        end[e + 1] += end[e];
      }
      if (fits) continue;
      for (std::int64_t row = first; row < first + length; ++row) collect(row, end, candidates);
      std::int64_t begin = 0;  // end[e] has moved from the first to behind the last of e
      for (std::int64_t e = 0; e < experts; begin = end[e++]) {
        if (end[e] - begin <= capacity) continue;
        std::nth_element(candidates + begin, candidates + begin + capacity, candidates + end[e],
                         [](const Candidate& a, const Candidate& b) {
                           return a.weight != b.weight ? a.weight > b.weight : a.index < b.index;
                         });
        for (std::int64_t i = begin + capacity; i < end[e]; ++i)
          choice[candidates[i].index] = -1 - e;
        lost += end[e] - begin - capacity;
        counts[e] -= static_cast<std::int32_t>(end[e] - begin - capacity);
      }
    }
    return lost;
  }

  void collect(std::int64_t row, std::int64_t* next, Candidate* candidates) const {
    const T* s = scores + row * experts;
    const std::int64_t* slot = choice + row * top_k;
    const T divisor = weight_divisor(s, slot, top_k, flags);
    for (std::int64_t k = 0; k < top_k; ++k) {
      const auto weight = static_cast<double>(s[slot[k]] / divisor);
      // A NaN has no place in an order; the step stops by it later.
      candidates[next[slot[k]]++] = {std::isnan(weight) ? -1 : weight, row * top_k + k};
    }
  }
};

}  // namespace

Prepared bind_router_fwd(const KernelCall& call) { return bind_linear_fwd(call); }
Prepared bind_router_bwd_weight(const KernelCall& call) { return bind_linear_bwd_weight(call); }

Prepared bind_router_bwd_input(const KernelCall& call) {
  const std::int64_t n = call.kernel.dims[0], in = call.kernel.dims[1], out = call.kernel.dims[2];
  const std::byte* before = call.inputs[2].data;
  std::byte* after = call.outputs[0].data;
  const auto bytes = static_cast<std::size_t>(n * in * size_of(call.outputs[0].dtype));
  const auto bring = [=] {
    if (before != after) std::memcpy(after, before, bytes);
  };
  if (use_fast_gemm(call.types.compute)) {
    const float *dlogits = call.inputs[0].as<float>(), *weight = call.inputs[1].as<float>();
    float* dx = call.outputs[0].as<float>();
    return [=] {
      bring();
      gemm_nn(n, in, out, dlogits, weight, dx, /*add=*/true);
    };
  }
  at::Tensor dlogits = tensor(call.inputs[0], {n, out}), weight = tensor(call.inputs[1], {out, in});
  at::Tensor dx = tensor(call.outputs[0], {n, in});
  return [=]() mutable {
    const c10::InferenceMode inference;
    bring();
    at::addmm_out(dx, dx, dlogits, weight);
  };
}

Prepared bind_route_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const Kernel& k = call.kernel;
    const auto& d = k.dims;
    Route<T> r{};
    r.batch = d[0], r.seq = d[1], r.experts = d[2], r.top_k = d[3];
    r.groups = d[4], r.groups_kept = d[5], r.capacity = d[6];
    r.slices = std::max<std::int64_t>(1, d[7]);
    r.scopes = (k.flags & kScopeMicrobatch) ? 1 : r.batch;
    r.flags = k.flags;
    r.scratch = hidden_scratch(k, call.types);
    r.logits = call.inputs[0].as<T>();
    r.bias = (k.flags & kSigmoid) ? call.inputs[1].as<T>() : nullptr;
    r.scores = call.outputs[0].as<T>();
    r.choice = call.outputs[1].as<std::int64_t>();
    r.counts = call.outputs[2].as<std::int32_t>();
    r.aux = call.outputs[3].as<T>();
    r.choices = call.outputs[4].as<std::int32_t>();
    r.dropped = call.outputs[5].as<double>();
    r.add_aux = call.accumulate[3];
    r.add_choices = call.accumulate[4], r.add_dropped = call.accumulate[5];
    return r;
  });
}

Prepared bind_router_scores_fwd(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], experts = call.kernel.dims[1];
    const T* logits = call.inputs[0].as<T>();
    T* scores = call.outputs[0].as<T>();
    return [=, flags = call.kernel.flags] {
      for (std::int64_t r = 0; r < tokens; ++r)
        scores_of(flags, logits + r * experts, scores + r * experts, experts);
    };
  });
}

Prepared bind_route_bwd_input(const KernelCall& call) {
  return by_type(call, [&](auto zero) -> Prepared {
    using T = decltype(zero);
    const std::int64_t tokens = call.kernel.dims[0], experts = call.kernel.dims[1];
    const T *dscores = call.inputs[0].as<T>(), *scores = call.inputs[1].as<T>();
    T* dlogits = call.outputs[0].as<T>();
    if (call.kernel.flags & kSigmoid)
      return [=] {
        for (std::int64_t i = 0; i < tokens * experts; ++i)
          dlogits[i] = dscores[i] * scores[i] * (T(1) - scores[i]);
      };
    return [=] {
      for (std::int64_t r = 0; r < tokens; ++r) {
        const T *d = dscores + r * experts, *s = scores + r * experts;
        const T mean = lane_sum<T>(experts, [=](std::int64_t e) { return d[e] * s[e]; });
        for (std::int64_t e = 0; e < experts; ++e) dlogits[r * experts + e] = s[e] * (d[e] - mean);
      }
    };
  });
}

}  // namespace tandem::exec
