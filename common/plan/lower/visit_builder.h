// The visit of a stage, written once for all families: embedding, layers of an attention half and a
// feed-forward half, head with its loss. A family chooses norms, halves and biases (models.md 2.2).
//
//   file                  holds
//   visit_builder.cpp     small words, embedding, norms, head, the order of layers
//   visit_attention.cpp   attention with query and key/value heads: qkv, [rope], core, o
//   visit_mlp.cpp         the dense feed-forward half: fc1, gelu, fc2 or gate and up, swiglu, down
//
//   forward    [embed] | [norm1, qkv, rope, core, o] | [+residual, norm2, mlp] | ... |
//              [+residual, final norm, head, max] | [sum] | [loss, dlogits]
//   backward   the same cuts from the end; behind each cut the W calls of the segment before it,
//              which can run beside the reduction
//   A bar is an all-reduce over tp where tp > 1. The cuts are the same for every tp, and every
//   layer ends with one, so that ops and peaks can be compared between layouts.
//
//   Sequence parallelism   between the halves a rank holds the activations of its own positions
//     ("own": [S/t, b, H]). Each half gathers its input behind the norm and scatters its partial
//     output, so norm1, norm2 and the residuals run on own rows. Backward: dy is gathered, dX
//     scattered, and W gathers x again, because only the own rows were kept; that gather is issued
//     before the I calls and runs beside them.
//   Sources models.md 2.2, 2.7 (what is saved for I and for W), 4.1 (tags), 4.2 (arXiv 2205.05198).
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
  [[nodiscard]] Visit build();

 private:
  // Slots of one layer that its backward reads.
  struct SavedAttention {
    Ref norm_stat, norm_out, qkv, core, out;
  };
  struct SavedMlp {
    Ref norm_stat, norm_out, inner_in, inner_out;  // around gelu or swiglu
  };
  struct SavedLayer {
    Ref input, middle;
    SavedAttention attention;
    SavedMlp mlp;
  };

  // --- the whole (visit_builder.cpp) -------------------------------------------------------------
  void forward();
  void backward();
  Ref embed();
  void embed_backward(Ref dy);
  Ref layer_forward(int layer, Ref x);
  Ref layer_backward(int layer, Ref dy);
  void head_forward(Ref x);
  void loss_forward();
  Ref head_backward();
  BufferId tied_head();
  [[nodiscard]] std::string head_weight() const;
  [[nodiscard]] Kernel vocabulary(KernelKind kind, KernelDims dims) const;
  [[nodiscard]] Kernel head_product(KernelKind kind) const;
  [[nodiscard]] std::int64_t head_tokens() const {
    return z_.vocab_cut ? z_.tokens : z_.own_tokens;
  }
  [[nodiscard]] Kernel positions(KernelKind kind) const;  // learned ones
  // The kernel's rows are the rank's own positions.
  static void own_positions(Kernel& k) {
    k.flags |= kPositions;
    k.coords.add(Axis::tp);
  }
  void norm_forward(Ref x, const std::string& name, Ref out, Ref stat);
  // dx of a norm, and the gradients of its parameters.
  void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx);
  // A half's output with its bias and the residual.
  void residual(int layer, Ref partial, const char* bias, Ref x, Ref out);

  // --- halves: from the layer's input to the partial output, reduced over tp
  // ----------------------
  Ref attention_forward(int layer, Ref x, SavedAttention& s);
  // dy of the half's output; returns d_norm1_out, reduced.
  Ref attention_backward(int layer, Ref dy, const SavedAttention& s);
  Ref mlp_forward(int layer, Ref x, SavedMlp& s);
  Ref mlp_backward(int layer, Ref dy, const SavedMlp& s);
  void activation_forward(const SavedMlp& s);
  void activation_backward(Ref d_out, const SavedMlp& s, Ref d_in);

  // --- entering and leaving what tp cuts
  // ---------------------------------------------------------- With SP: the rows of all members
  // from the own ones, as a new buffer; else x itself. Opens the op behind it.
  Ref entered(const char* tag, Ref x, const char* name, BufferClass cls, int layer = -1);
  // The sum over tp of a partial result: scattered into own rows with SP, else in place.
  Ref left(const char* tag, Ref partial, const char* name, BufferClass cls, int layer = -1);

  // --- small words
  // --------------------------------------------------------------------------------
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
  void cut(int layer = -1);
  void communicate(OpKind kind, const char* tag, Ref buffer, Ref source, int layer,
                   Reduction how = Reduction::none);
  void reduced(const char* tag, Ref buffer, int layer = -1, Reduction how = Reduction::sum) {
    communicate(OpKind::all_reduce, tag, buffer, {}, layer, how);
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
  // A product over all rows of the microbatch; `bias` only where the family has them.
  [[nodiscard]] Kernel linear(KernelKind kind, std::int64_t in, std::int64_t out,
                              bool bias = false) const {
    return kernel(kind, {z_.tokens, in, out}, bias && gpt_ ? std::uint32_t{kBias} : 0);
  }
  // A vector kernel over the own rows.
  [[nodiscard]] Kernel rows(KernelKind kind) const {
    return kernel(kind, {z_.own_tokens, z_.hidden});
  }
  // x and W, and the bias where the family has one.
  [[nodiscard]] std::vector<Ref> weighted(Ref x, const std::string& name) const;
  [[nodiscard]] std::vector<Ref> weight_gradients(const std::string& name) const;
  // Attention and rope: the local heads, key/value heads where they differ.
  [[nodiscard]] Kernel heads(KernelKind kind, std::uint32_t flags = 0) const;
  [[nodiscard]] Kernel attention(KernelKind kind) const {
    return heads(kind, kCausal | (flash() ? kFlash : kMaterialised));
  }
  [[nodiscard]] Kernel rope(KernelKind kind) const {
    Kernel k = heads(kind);
    k.real = d_.scenario.model.rope_base;
    return k;
  }
  [[nodiscard]] bool flash() const {
    return d_.scenario.training.attention == AttentionKind::flash;
  }
  // What attention keeps beside q, k, v: the log-sum-exp of each row, or all probabilities.
  Ref attention_core(int layer);
  [[nodiscard]] Shape wide(std::int64_t width) const {  // all positions
    return {z_.sequence, z_.micro_batch, width};
  }
  [[nodiscard]] static std::string layer_name(int layer, const char* rest);
  Ref batch();
  Ref saved_layer_input(int layer) { return kept("h_in", BufferClass::saved_input, own_, layer); }
  // What a layer leaves: the next one's saved input, the head's, or what is sent.
  Ref layer_output(int layer);
  // Where the layer's backward leaves its result.
  Ref layer_gradient(int layer) {
    return layer > v_.first_layer ? gradient("d_h_out", own_, layer - 1)
                                  : gradient("d_h_in", own_, layer);
  }
  [[nodiscard]] Shape norm_stat() const {  // mean and rstd, or rstd
    return gpt_ ? Shape{2, z_.own_tokens} : Shape{z_.own_tokens};
  }

  Draft& d_;
  const Sizes& z_;
  const PlanTypes t_;
  const bool gpt_;  // LayerNorm, learned positions, biases, GELU
  Visit v_;
  Shape own_, all_;  // [S/t, batch, hidden] with SP; [S, batch, hidden]
  int program_;
  const ProgramTensors& tensors_;
  std::vector<VisitOp>* ops_;
  AxisSet vocab_coords_;
  std::vector<SavedLayer> saved_;
  Ref head_input_, final_stat_, final_out_, logits_;
};

}  // namespace tandem::lower
