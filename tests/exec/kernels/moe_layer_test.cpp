// A whole layer of experts, forward and backward, from its kernels against plain autograd.
// Method: `ranks` ranks hold equal parts of the positions and of the experts, as with experts
// inside the tensor-parallel group; the all-to-alls and the sum of the balance statistics are made
// by hand. Buffers of rows are as large as their bound and hold NaN where nothing arrived, so
// reading beyond the true rows shows. The reference sees all tokens and experts at once.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "exec/device/torch_memory.h"
#include "tests/exec/kernels/moe_oracle.h"
#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

struct Layer {
  const char* name;
  std::int64_t ranks, batch, seq, experts, top_k, groups, kept, capacity, slices, device_groups;
  std::uint32_t scores, scope;
  double skew = 0;  // added to the logits of the first expert's weight: uneven loads
  std::int64_t width = 6, hidden = 5;
  [[nodiscard]] std::int64_t tokens() const { return batch * seq; }
  [[nodiscard]] std::int64_t scopes() const { return scope == kScopeMicrobatch ? 1 : batch; }
  [[nodiscard]] std::int64_t bound() const { return tokens() * top_k; }
};
constexpr double kScale = 1.5, kAlpha = 0.3, kDivisor = 8;

struct Tensors {
  Tensor x, router, bias, gate_up, down, dy;
  Tensors(const Layer& z, at::ScalarType t)
      : x(random({z.tokens(), z.width}, t)),
        router(random({z.experts, z.width}, t)),
        bias(random({z.experts}, t) * 0.1),
        gate_up(random({z.experts, 2 * z.hidden, z.width}, t)),
        down(random({z.experts, z.width, z.hidden}, t)),
        dy(random({z.tokens(), z.width}, t)) {
    x.select(1, 0).fill_(1);  // a constant feature carries the skew
    router[0][0] += z.skew;
    for (Tensor* p : {&x, &router, &gate_up, &down}) p->requires_grad_(true);
  }
};

struct Reference {
  Tensor y, loss;
  std::vector<std::int64_t> choice;
};

// models.md 2.5 in tensor operations; leaves the gradients in `p`.
Reference reference(const Layer& z, const Tensors& p) {
  const bool sigmoid = z.scores == kSigmoid;
  const Tensor logits = at::matmul(p.x, p.router.t());
  const Tensor s = sigmoid ? at::sigmoid(logits) : at::softmax(logits, -1);
  Reference r;
  r.choice = oracle_choice((sigmoid ? s + p.bias : s).detach(), z.groups, z.kept, z.top_k);
  const Tensor chosen = at::tensor(r.choice, at::kLong).view({z.tokens(), z.top_k});
  const Tensor picked = s.gather(1, chosen);
  const Tensor sum = picked.sum(1, true);
  const Tensor divisor = sigmoid ? sum + 1e-20 : sum;
  const Tensor weights = kScale * picked / divisor;
  if (z.capacity > 0)
    oracle_drop(r.choice, (picked / divisor).detach(), z.experts, z.capacity,
                z.tokens() / z.slices);
  const Tensor kept = at::tensor(r.choice, at::kLong).view({z.tokens(), z.top_k});
  r.y = at::zeros_like(p.dy);
  for (std::int64_t k = 0; k < z.top_k; ++k)
    for (std::int64_t e = 0; e < z.experts; ++e) {
      const Tensor of = kept.select(1, k).eq(e).nonzero().view({-1});
      const Tensor h = at::matmul(p.x.index_select(0, of), p.gate_up[e].t());
      const Tensor gate = h.slice(1, 0, z.hidden), up = h.slice(1, z.hidden);
      const Tensor row = at::matmul(gate * at::sigmoid(gate) * up, p.down[e].t());
      r.y = r.y.index_add(0, of, weights.select(1, k).index_select(0, of).unsqueeze(1) * row);
    }
  // [positions, scopes, E], whatever is one scope on the second axis.
  const std::int64_t t = z.tokens() / z.scopes();
  const Tensor prob = sigmoid ? s / s.sum(1, true) : s;
  const Tensor mean = prob.view({t, z.scopes(), z.experts}).sum(0) / double(t);
  const Tensor count = at::one_hot(chosen, z.experts)
                           .sum(1)
                           .view({t, z.scopes(), z.experts})
                           .sum(0)
                           .to(s.scalar_type());
  const Tensor f = count * (double(z.experts) / (double(z.top_k) * double(t)));
  const std::int64_t size = z.experts / z.device_groups;
  const Tensor f_group = f.view({z.scopes(), z.device_groups, size}).mean(2);
  const Tensor p_group = mean.view({z.scopes(), z.device_groups, size}).sum(2);
  r.loss = (f_group * p_group).sum() * (kAlpha / kDivisor);
  ((r.y * p.dy).sum() + r.loss).backward();
  return r;
}

// The kernels on all ranks. Rows of a rank by expert go to the experts' ranks and come back.
class Ranks {
 public:
  Ranks(const Layer& z, const Tensors& p, const Types& t)
      : z_(z), p_(p), t_(t), n_(z.tokens() / z.ranks), local_(z.experts / z.ranks) {}

  Tensor y, dx, drouter, dgate_up, ddown;
  double loss = 0, dropped = 0;
  std::vector<std::int64_t> choice;

  void forward() {
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      Run router(make(K::router_fwd, {n_, z_.width, z_.experts}), t_.plan,
                 {mine(p_.x, r), p_.router});
      router();
      const KernelDims dims = {z_.batch,  z_.seq / z_.ranks, z_.experts,  z_.top_k,
                               z_.groups, z_.kept,           z_.capacity, z_.slices / z_.ranks};
      std::vector<Tensor> in = {router.outputs[0]};
      if (z_.scores == kSigmoid) in.push_back(p_.bias);
      Run route(make(K::route_fwd, dims, z_.scores | z_.scope), t_.plan, in);
      route();
      scores_.push_back(route.outputs[0]);
      choice_.push_back(route.outputs[1].view({n_, z_.top_k}));
      counts_.push_back(route.outputs[2]);
      aux_ = r == 0 ? route.outputs[3] : aux_ + route.outputs[3];
      dropped += route.outputs[5].item<double>();
      const Tensor flat = choice_.back().reshape({-1});
      for (std::int64_t i = 0; i < flat.numel(); ++i)
        choice.push_back(flat[i].item<std::int64_t>());
      Run send(make(K::dispatch_fwd, {n_, z_.width, z_.experts, z_.top_k}), t_.plan,
               {mine(p_.x, r), choice_.back()});
      send();
      sent_.push_back(send.outputs[0]);
    }
    std::vector<Tensor> arrived = to_experts(sent_), back;
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      received_.push_back(received(r));
      rows_.push_back(resort(K::expert_sort, arrived[index(r)], r));
      const Tensor gate_up = p_.gate_up.detach().slice(0, r * local_, (r + 1) * local_);
      const Tensor down = p_.down.detach().slice(0, r * local_, (r + 1) * local_);
      both_.push_back(linear(K::experts_linear_fwd, rows_.back(), gate_up, 2 * z_.hidden, r));
      Run act(make(K::experts_swiglu_fwd, {declared(), z_.hidden, local_, z_.ranks}), t_.plan,
              {narrow(both_.back()), received_.back()});
      act_.push_back(rows(z_.hidden));
      act.outputs[0] = narrow(act_.back());
      act();
      const Tensor out = linear(K::experts_linear_fwd, act_.back(), down, z_.width, r);
      back.push_back(resort(K::expert_unsort, out, r));
    }
    returned_ = to_sources(back);
    std::vector<Tensor> parts;
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      Run combine(combine_kernel(K::combine_fwd), t_.plan,
                  {returned_[index(r)], scores_[index(r)], choice_[index(r)]});
      combine();
      parts.push_back(combine.outputs[0]);
    }
    y = at::cat(parts);
    for (std::int64_t r = 0; r < z_.ranks; ++r) {  // the same value on each: one owner counts
      Run balance(balance_kernel(K::balance_fwd), t_.plan, {aux_});
      balance.kernel.owner.add(Axis::tp);
      balance.context.coordinate[0] = static_cast<int>(r);
      balance.outputs[0].fill_(loss);
      balance.accumulate = {true};
      balance();
      loss = balance.outputs[0].item<double>();
    }
  }

  void backward() {
    std::vector<Tensor> drows, dlogits;
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      Run combine(combine_kernel(K::combine_bwd_input), t_.plan,
                  {mine(p_.dy, r), returned_[index(r)], scores_[index(r)], choice_[index(r)]});
      combine();
      drows.push_back(combine.outputs[0]);
      Run balance(balance_kernel(K::balance_bwd_input), t_.plan,
                  {aux_, scores_[index(r)], combine.outputs[1]});
      balance();
      Run route(make(K::route_bwd_input, {n_, z_.experts}, z_.scores), t_.plan,
                {balance.outputs[0], scores_[index(r)]});
      route();
      dlogits.push_back(route.outputs[0]);
    }
    std::vector<Tensor> arrived = to_experts(drows), back, dgate_ups, ddowns, dxs;
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      const Tensor gate_up = p_.gate_up.detach().slice(0, r * local_, (r + 1) * local_);
      const Tensor down = p_.down.detach().slice(0, r * local_, (r + 1) * local_);
      const Tensor dout = resort(K::expert_sort, arrived[index(r)], r);
      const Tensor dact = linear(K::experts_linear_bwd_input, dout, down, z_.hidden, r);
      Run act(make(K::experts_swiglu_bwd_input, {declared(), z_.hidden, local_, z_.ranks}), t_.plan,
              {narrow(dact), narrow(both_[index(r)]), received_[index(r)]});
      const Tensor dboth = rows(2 * z_.hidden);
      act.outputs[0] = narrow(dboth);
      act();
      const Tensor dsorted = linear(K::experts_linear_bwd_input, dboth, gate_up, z_.width, r);
      ddowns.push_back(weight_gradient(dout, act_[index(r)], r));
      dgate_ups.push_back(weight_gradient(dboth, rows_[index(r)], r));
      back.push_back(resort(K::expert_unsort, dsorted, r));
    }
    const std::vector<Tensor> home = to_sources(back);
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      Run send(make(K::dispatch_bwd_input, {n_, z_.width, z_.experts, z_.top_k}), t_.plan,
               {home[index(r)], choice_[index(r)]});
      send();
      Run router(make(K::router_bwd_input, {n_, z_.width, z_.experts}), t_.plan,
                 {dlogits[index(r)], p_.router, send.outputs[0]});
      router();
      dxs.push_back(router.outputs[0]);
      Run weight(make(K::router_bwd_weight, {n_, z_.width, z_.experts}), t_.plan,
                 {dlogits[index(r)], mine(p_.x, r)});
      if (r > 0) weight.outputs[0] = drouter, weight.accumulate = {true};
      weight();
      drouter = weight.outputs[0];
    }
    dx = at::cat(dxs), dgate_up = at::cat(dgate_ups), ddown = at::cat(ddowns);
  }

 private:
  static std::size_t index(std::int64_t r) { return static_cast<std::size_t>(r); }
  [[nodiscard]] Tensor mine(const Tensor& all, std::int64_t r) const {
    return all.detach().slice(0, r * n_, (r + 1) * n_);
  }
  // Rows of a rank's experts when all get as many.
  [[nodiscard]] std::int64_t declared() const { return n_ * z_.top_k; }
  [[nodiscard]] Tensor rows(std::int64_t width) const {
    return at::full({z_.bound(), width}, std::numeric_limits<double>::quiet_NaN(), t_.scalar);
  }
  [[nodiscard]] Tensor narrow(const Tensor& all) const { return all.slice(0, 0, declared()); }

  // counts[sources, experts of rank r].
  [[nodiscard]] Tensor received(std::int64_t r) const {
    std::vector<Tensor> parts;
    for (const Tensor& c : counts_) parts.push_back(c.slice(0, r * local_, (r + 1) * local_));
    return at::stack(parts).contiguous();
  }
  // Rows of `source` for rank `to`: first and number, in its rows by expert.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> block(std::int64_t source,
                                                            std::int64_t to) const {
    const Tensor& c = counts_[index(source)];
    return {c.slice(0, 0, to * local_).sum().item<std::int64_t>(),
            c.slice(0, to * local_, (to + 1) * local_).sum().item<std::int64_t>()};
  }
  [[nodiscard]] std::vector<Tensor> to_experts(const std::vector<Tensor>& from) const {
    std::vector<Tensor> out;
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      out.push_back(rows(z_.width));
      std::int64_t at = 0;
      for (std::int64_t s = 0; s < z_.ranks; ++s) {
        const auto [first, count] = block(s, r);
        out.back().slice(0, at, at + count).copy_(from[index(s)].slice(0, first, first + count));
        at += count;
      }
    }
    return out;
  }
  [[nodiscard]] std::vector<Tensor> to_sources(const std::vector<Tensor>& from) const {
    std::vector<Tensor> out;
    for (std::int64_t s = 0; s < z_.ranks; ++s)
      out.push_back(rows(z_.width).slice(0, 0, n_ * z_.top_k).clone());
    for (std::int64_t r = 0; r < z_.ranks; ++r) {
      std::int64_t at = 0;
      for (std::int64_t s = 0; s < z_.ranks; ++s) {
        const auto [first, count] = block(s, r);
        out[index(s)].slice(0, first, first + count).copy_(from[index(r)].slice(0, at, at + count));
        at += count;
      }
    }
    return out;
  }
  [[nodiscard]] Tensor resort(KernelKind kind, const Tensor& from, std::int64_t r) const {
    Run sort(make(kind, {declared(), z_.width, z_.ranks, local_}), t_.plan,
             {narrow(from), received_[index(r)]});
    const Tensor to = rows(z_.width);
    sort.outputs[0] = narrow(to);
    sort();
    return to;
  }
  // Forward, or the gradient of the input; `to` is the width of the result.
  [[nodiscard]] Tensor linear(KernelKind kind, const Tensor& from, const Tensor& weight,
                              std::int64_t to, std::int64_t r) const {
    Run f(make(kind, {declared(), weight.size(2), weight.size(1), local_, z_.ranks}), t_.plan,
          {narrow(from), weight.contiguous(), received_[index(r)]});
    const Tensor out = rows(to);
    f.outputs[0] = narrow(out);
    f();
    return out;
  }
  // Written, then added once more: exactly twice.
  [[nodiscard]] Tensor weight_gradient(const Tensor& dy, const Tensor& x, std::int64_t r) const {
    Run w(make(K::experts_linear_bwd_weight, {declared(), x.size(1), dy.size(1), local_, z_.ranks}),
          t_.plan, {narrow(dy), narrow(x), received_[index(r)]});
    w();
    const Tensor once = w.outputs[0].clone();
    w.accumulate = {true};
    w();
    CHECK(at::equal(w.outputs[0], once + once));
    return once;
  }
  [[nodiscard]] Kernel combine_kernel(KernelKind kind) const {
    Kernel k = make(kind, {n_, z_.width, z_.experts, z_.top_k}, z_.scores);
    k.real = kScale;
    return k;
  }
  [[nodiscard]] Kernel balance_kernel(KernelKind kind) const {
    Kernel k = make(kind, {z_.scopes(), z_.experts, z_.tokens() / z_.scopes(), z_.top_k,
                           z_.device_groups, static_cast<std::int64_t>(kDivisor)});
    if (kind == K::balance_bwd_input) k.dims[6] = n_, k.flags = z_.scores;
    k.real = kAlpha;
    return k;
  }

  const Layer& z_;
  const Tensors& p_;
  const Types& t_;
  std::int64_t n_, local_;  // tokens, experts of a rank
  Tensor aux_;
  std::vector<Tensor> scores_, choice_, counts_, sent_, received_, rows_, both_, act_, returned_;
};

}  // namespace

TEST_CASE("a layer of experts: forward and every gradient") {
  set_up_torch(1);
  //  name, ranks, batch, seq, experts, K, groups, kept, capacity, slices, device groups, ...
  const Layer layers[] = {
      {"mixtral, one rank", 1, 2, 12, 8, 2, 1, 1, 0, 1, 8, kSoftmax, kScopeSequence},
      {"mixtral, one scope", 1, 3, 8, 8, 2, 1, 1, 0, 1, 4, kSoftmax, kScopeMicrobatch},
      {"mixtral, two ranks", 2, 2, 12, 8, 2, 1, 1, 0, 2, 8, kSoftmax, kScopeSequence},
      {"deepseek, groups", 1, 2, 12, 8, 2, 4, 2, 0, 1, 4, kSigmoid, kScopeSequence},
      {"deepseek, four ranks", 4, 2, 12, 8, 3, 4, 2, 0, 4, 4, kSigmoid, kScopeMicrobatch},
      {"all choose one expert", 2, 2, 12, 8, 2, 1, 1, 0, 2, 8, kSoftmax, kScopeSequence, 60},
      {"drops", 1, 2, 12, 8, 2, 1, 1, 2, 2, 8, kSoftmax, kScopeSequence, 2},
      {"drops on two ranks", 2, 2, 12, 8, 3, 4, 2, 1, 4, 8, kSigmoid, kScopeSequence, 1},
      {"top-1", 2, 2, 12, 4, 1, 1, 1, 3, 2, 4, kSigmoid, kScopeSequence},
      {"every expert", 1, 1, 8, 4, 4, 2, 2, 0, 1, 2, kSigmoid, kScopeSequence},
  };
  for (const Types& t : kTypes)
    for (const Layer& z : layers) {
      CAPTURE(z.name);
      CAPTURE(t.tolerance);
      const Tensors p(z, t.scalar);
      const Reference r = reference(z, p);
      Ranks kernels(z, p, t);
      kernels.forward();
      kernels.backward();
      REQUIRE(kernels.choice == r.choice);
      const auto dropped =
          std::count_if(r.choice.begin(), r.choice.end(), [](std::int64_t c) { return c < 0; });
      CHECK(kernels.dropped == static_cast<double>(dropped));
      CHECK((dropped > 0) == (z.capacity > 0));
      CHECK(error(kernels.y, r.y) < t.tolerance);
      CHECK(std::abs(kernels.loss - r.loss.item<double>()) < t.tolerance);
      CHECK(error(kernels.dx, p.x.grad()) < t.tolerance);
      CHECK(error(kernels.drouter, p.router.grad()) < t.tolerance);
      CHECK(error(kernels.dgate_up, p.gate_up.grad()) < t.tolerance);
      CHECK(error(kernels.ddown, p.down.grad()) < t.tolerance);
    }
}

}  // namespace tandem::exec
