// Goal    what is told of attention, the residual stream and routers is what their definitions say.
// Method  random operands in fp64 and fp32; probabilities and scores made again by loops over
//         single elements, for heads that share keys, narrower values, softmax and sigmoid routers.
//         The probe runs where the operands lie and must leave them as they are.
#include "exec/kernels/probe.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "tests/exec/kernels/run.h"

namespace tandem::exec {
namespace {

ActivationSums told(Run& run) {
  ActivationSums sums;
  const Prepared look = bind_probe(run.call(), sums);
  REQUIRE(look);
  const Tensor before = run.inputs[0].clone();
  look();
  look();  // adds
  CHECK(at::equal(before, run.inputs[0]));
  return sums;
}

double entropy(const std::vector<double>& p) {
  double out = 0;
  for (double x : p)
    if (x > 0) out -= x * std::log(x);
  return out;
}

std::vector<double> normalised(std::vector<double> x) {
  double sum = 0;
  for (double v : x) sum += v;
  for (double& v : x) v /= sum;
  return x;
}

}  // namespace

TEST_CASE("probe: logits and entropy of attention, by single elements") {
  struct Case {
    std::int64_t heads, kv, dh, dv;
  };
  for (const Types& t : kTypes)
    for (const Case& c : {Case{4, 4, 8, 8}, Case{4, 2, 8, 8}, Case{3, 3, 12, 8}})
      for (const std::uint32_t how : {kFlash, kMaterialised}) {
        const std::int64_t batch = 2, seq = 5;
        const std::int64_t row = (c.heads + c.kv) * c.dh + c.kv * c.dv;
        Run f(make(K::attention_fwd,
                   {batch, c.heads, seq, c.dh, c.kv == c.heads ? 0 : c.kv, c.dv == c.dh ? 0 : c.dv},
                   kCausal | how),
              t.plan, {random({seq, batch, row}, t.scalar)});
        const ActivationSums sums = told(f);
        const Tensor x = f.inputs[0].to(at::kDouble);
        const auto at = [&](std::int64_t s, std::int64_t b, std::int64_t i) {
          return x[s][b][i].item<double>();
        };
        double top = -1e300, all = 0;
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t a = 0; a < c.heads; ++a)
            for (std::int64_t i = 0; i < seq; ++i) {
              std::vector<double> p;
              for (std::int64_t j = 0; j <= i; ++j) {
                double logit = 0;
                const std::int64_t key = c.heads * c.dh + a / (c.heads / c.kv) * c.dh;
                for (std::int64_t d = 0; d < c.dh; ++d)
                  logit += at(i, b, a * c.dh + d) * at(j, b, key + d);
                logit /= std::sqrt(static_cast<double>(c.dh));
                top = std::max(top, logit);
                p.push_back(std::exp(logit));
              }
              all += entropy(normalised(p));
            }
        CHECK(sums.attention_rows == 2.0 * batch * c.heads * seq);
        CHECK(sums.max_logit == doctest::Approx(top).epsilon(1e-12));
        CHECK(sums.attention_entropy == doctest::Approx(2 * all).epsilon(1e-12));
        CHECK(sums.residual_elements == 0);
        CHECK(sums.routed_tokens == 0);
      }
}

TEST_CASE("probe: squares of the stream and entropy of routers, by single elements") {
  for (const Types& t : kTypes) {
    Run norm(make(K::rmsnorm_fwd, {6, 16}), t.plan,
             {random({6, 16}, t.scalar), random({16}, t.scalar)});
    const ActivationSums stream = told(norm);
    double squares = 0;
    const Tensor x = norm.inputs[0].to(at::kDouble).flatten();
    for (std::int64_t i = 0; i < x.numel(); ++i) squares += std::pow(x[i].item<double>(), 2);
    CHECK(stream.residual_elements == 2 * 96);
    CHECK(stream.residual_squares == doctest::Approx(2 * squares).epsilon(1e-12));
    for (const std::uint32_t how : {kSoftmax, kSigmoid}) {
      const std::int64_t batch = 2, seq = 3, experts = 8;
      const Kernel k = make(K::route_fwd, {batch, seq, experts, 2, 1, 1, 0}, how);
      std::vector<Tensor> in = {random({seq * batch, experts}, t.scalar)};
      if (signature(k, t.plan).inputs.size() > 1) in.push_back(random({experts}, t.scalar));
      Run route(k, t.plan, in);
      const ActivationSums sums = told(route);
      double all = 0;
      for (std::int64_t r = 0; r < batch * seq; ++r) {
        std::vector<double> p;
        for (std::int64_t e = 0; e < experts; ++e) {
          const double logit = in[0][r][e].to(at::kDouble).item<double>();
          p.push_back(how == kSoftmax ? std::exp(logit) : 1 / (1 + std::exp(-logit)));
        }
        all += entropy(normalised(p));
      }
      CHECK(sums.routed_tokens == 2 * batch * seq);
      CHECK(sums.router_entropy == doctest::Approx(2 * all).epsilon(1e-12));
    }
  }
}

TEST_CASE("probe: other kernels tell nothing") {
  ActivationSums sums;
  Run f(make(K::linear_fwd, {4, 3, 5}), kTypes[0].plan,
        {random({4, 3}, at::kDouble), random({5, 3}, at::kDouble)});
  CHECK_FALSE(bind_probe(f.call(), sums));
}

}  // namespace tandem::exec
