// The visit of a stage, written once for all families: small words for slots and calls, the
// embedding, the head with its loss, and the order of layers. A family adds its norms and its layer
// (gpt.cpp, llama.cpp).
//
//   forward    [embed] | [layers, cut by the family] ... [final norm, head, max] | [sum] |
//              [loss, dlogits]
//   backward   the same cuts from the end; behind each cut the W calls of the segment before it,
//              which can run beside the reduction
//   A bar is an all-reduce over tp where tp > 1. The cuts are the same for every tp, and every
//   layer ends with one, so that ops and peaks can be compared between layouts. Sources
//   models.md 2.2, 2.7 (what is saved for I and for W), 4.1 (tags), 4.2.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "common/plan/lower/visit.h"

namespace tandem::lower {

class VisitBuilder {
 public:
  // The draft outlives the builder and holds the program's tensors already.
  VisitBuilder(Draft& d, int program, int stage, int first_layer, int num_layers);
  virtual ~VisitBuilder() = default;
  VisitBuilder(const VisitBuilder&) = delete;
  VisitBuilder& operator=(const VisitBuilder&) = delete;

  [[nodiscard]] Visit build();

 protected:
  // --- what a family is ------------------------------------------------------------------------
  // From the looked-up rows to the input of the first layer, whose op it opens.
  virtual Ref embed() = 0;
  virtual void embed_backward(Ref dy) = 0;
  [[nodiscard]] virtual Shape norm_stat() const = 0;
  virtual void norm_forward(Ref x, const std::string& name, Ref out, Ref stat) = 0;
  // dx of a norm, and the gradients of its parameters.
  virtual void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx) = 0;
  // The op of the layer's begin is open; the op that is open at the end belongs to what follows.
  virtual Ref layer_forward(int layer, Ref x) = 0;
  virtual Ref layer_backward(int layer, Ref dy) = 0;

  // --- small words -----------------------------------------------------------------------------
  Ref slot(const char* name, BufferClass cls, DType dtype, Shape shape, int layer = -1);
  Ref kept(const char* name, BufferClass cls, Shape shape, int layer = -1) {
    return slot(name, cls, t_.compute, shape, layer);
  }
  Ref statistic(const char* name, BufferClass cls, Shape shape, int layer = -1) {
    return slot(name, cls, t_.statistic(), shape, layer);
  }
  Ref moving(const char* name, Shape shape, int layer = -1) {
    return kept(name, BufferClass::activation, shape, layer);
  }
  Ref gradient(const char* name, Shape shape, int layer = -1) {
    return kept(name, BufferClass::grad_activation, shape, layer);
  }
  static Ref whole(BufferId id) {
    Ref r;
    r.buffer = id;
    return r;
  }
  static Ref sum(Ref r) {
    r.sums = true;
    return r;
  }
  [[nodiscard]] Ref param(const std::string& name) const { return whole(tensors_.at(name).param); }
  [[nodiscard]] Ref grad(const std::string& name) const {
    return sum(whole(tensors_.at(name).grad));
  }
  // Working memory of a W that accumulates.
  Ref scratch(const char* name, Shape shape, int layer = -1);
  void cut(int layer = -1) { ops_->push_back({layer, {}, {}, {}, Reduction::none}); }
  void reduced(const char* tag, Ref buffer, int layer = -1, Reduction how = Reduction::sum) {
    ops_->push_back({layer, {}, tag, buffer, how});
  }
  void call(Kernel k, std::vector<Ref> inputs, std::vector<Ref> outputs,
            std::vector<Ref> taken = {}) {
    ops_->back().calls.push_back(
        {d_.kernel(k), std::move(inputs), std::move(outputs), std::move(taken)});
  }
  static Kernel kernel(KernelKind kind, KernelDims dims, std::uint32_t flags = 0) {
    Kernel k;
    k.kind = kind;
    k.dims = dims;
    k.flags = flags;
    return k;
  }
  [[nodiscard]] Kernel linear(KernelKind kind, std::int64_t in, std::int64_t out,
                              bool bias = false) const {
    return kernel(kind, {z_.tokens, in, out}, bias ? std::uint32_t{kBias} : 0);
  }
  [[nodiscard]] Kernel rows(KernelKind kind) const { return kernel(kind, {z_.tokens, z_.hidden}); }
  // Attention and rope: the local heads, key/value heads where they differ.
  [[nodiscard]] Kernel heads(KernelKind kind, std::uint32_t flags = 0) const;
  [[nodiscard]] Kernel attention(KernelKind kind) const {
    return heads(kind, kCausal | (flash() ? kFlash : kMaterialised));
  }
  [[nodiscard]] bool flash() const {
    return d_.scenario.training.attention == AttentionKind::flash;
  }
  // What attention keeps beside q, k, v: the log-sum-exp of each row, or all probabilities.
  Ref attention_core(int layer);
  [[nodiscard]] Shape wide(std::int64_t width) const {
    return {z_.sequence, z_.micro_batch, width};
  }
  [[nodiscard]] static std::string layer_name(int layer, const char* rest);
  Ref batch();
  Ref saved_layer_input(int layer) { return kept("h_in", BufferClass::saved_input, act_, layer); }
  // What a layer leaves: the next one's saved input, the head's, or what is sent.
  Ref layer_output(int layer);
  // Opens the op of the embedding and looks the tokens up; `out` is whole behind it.
  void look_up(Ref tokens, Ref out);
  void look_up_backward(Ref dy);
  // Where the layer's backward leaves its result.
  Ref layer_gradient(int layer) {
    return layer > v_.first_layer ? gradient("d_h_out", act_, layer - 1)
                                  : gradient("d_h_in", act_, layer);
  }

  Draft& d_;
  const Sizes& z_;
  const PlanTypes t_;
  Visit v_;
  Shape act_;  // [seq, batch, hidden]

 private:
  void forward();
  void backward();
  void head_forward(Ref x);
  Ref head_backward();
  BufferId tied_head();
  [[nodiscard]] std::string head_weight() const;
  [[nodiscard]] Kernel vocabulary(KernelKind kind, KernelDims dims) const;

  int program_;
  const ProgramTensors& tensors_;
  std::vector<VisitOp>* ops_;
  AxisSet vocab_coords_;
  Ref head_input_, final_stat_, final_out_, logits_;
};

}  // namespace tandem::lower
