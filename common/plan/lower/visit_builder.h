// The visit of a stage, written once for all families: embedding, layers of an attention half and a
// feed-forward half, head with its loss. A family chooses norms, halves and biases (models.md 2.2).
//
//   file                  holds
//   visit_builder.cpp     small words, embedding, norms, head, the order of layers
//   visit_attention.cpp   attention with query and key/value heads: qkv, [rope], core, o
//   visit_latent.cpp      latent attention (MLA)
//   visit_core.cpp        the core of both: attention of a rank's own positions, or a ring over cp,
//                         or of a slice to itself and the slices before it
//   visit_mlp.cpp         the dense feed-forward half: fc1, gelu, fc2 or gate and up, swiglu, down
//   visit_moe.cpp         the half with experts: router, exchange of rows, experts, weighted sum
//   style_nano.cpp        what style nano_train does in their place (models.md 7.1)
//   visit_recompute.cpp   what is not kept for the backward but computed again
//   visit_split.cpp       the backward in two: for inputs, and for weights
//   visit_expert_rows.cpp the way of rows to the experts and back, over ep and etp
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
//   Context parallelism   a rank holds S/c positions of every sequence, two zig-zag chunks, in all
//     that follows (models.md 4.7): "all" rows are those, "own" a slice of those. Only the core of
//     attention and the statistics of experts see other ranks' positions.
//   Slices   a visit has S/k positions of every sequence, in order (models.md 8a, arXiv
//   2406.03488);
//     kernels that read a position are told the first one. Again only the core of attention and the
//     statistics of experts see other slices: both through buffers that those left.
//   Sources models.md 2.2, 2.7 (what is saved for I and for W), 4.1 (tags), 4.2 (arXiv 2205.05198).
#pragma once

#include <array>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/plan/lower/visit.h"

namespace tandem::lower {

// The dense parts of a layer; shared: what every token sees beside its routed experts.
enum class DensePart { gelu, swiglu, shared };

class VisitBuilder {
 public:
  // The draft outlives the builder and holds the program's tensors already.
  VisitBuilder(Draft& d, int program, int stage, int first_layer, int num_layers, int slice);
  [[nodiscard]] Visit build();

 private:
  // Slots of one layer that its backward reads.
  struct SavedAttention {
    Ref norm_stat, norm_out, qkv, core, out;
    Ref kv;                                 // slices, where qkv does not stay for later ones
    Ref raw, latent_stat, latents, ql, kl;  // latent attention
  };
  struct SavedDense {
    Ref in, out;  // of gelu or swiglu
  };
  struct SavedMlp {
    Ref norm_stat, norm_out;
    SavedDense inner;
  };
  // What style nano_train sends beside the rows of one layer and microbatch.
  struct RowLabels {
    Ref token, slot, expert, weight, counts, tokens, dropped;  // at the source
    Ref counts_in, token_in, slot_in, expert_in;               // at the experts
  };
  struct SavedMoe {
    Ref norm_stat, norm_out, scores, choice, aux;
    Ref sent,
        received;  // counts of rows: to each (destination, expert), from each (source, expert)
    Ref counts;    // of all rows of the local experts, by (etp member, source, expert); without
                   // expert tensor parallelism `received`
    Ref arriving;  // counts that say how many rows come over ep: `received`, or those of each
                   // source
    Ref rows, gate_up, inner, returned;
    SavedDense shared;
    RowLabels labels;
  };
  struct SavedLayer {
    Ref input, middle;
    SavedAttention attention;
    SavedMlp mlp;
    SavedMoe moe;
  };
  struct Balance {
    double alpha;
    std::int64_t groups;
  };

  // --- the whole (visit_builder.cpp) -------------------------------------------------------------
  void forward();
  void backward();
  Ref embed();
  void embed_backward(Ref dy);
  Ref layer_forward(int layer, Ref x);
  // Attention, first residual, feed-forward: returns the reduced output of the latter.
  Ref halves_forward(int layer, Ref x, SavedLayer& s);
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
  // Where the visit's rows are a slice of the sequence: which position the first one has.
  void from_slice(Kernel& k) const { k.dims[first_dim_of(k.kind)] = slice_ * z_.sequence; }
  // Says which positions the kernel's rows are: those of the cp coordinate, or (`own`) the slice of
  // them that sequence parallelism leaves to the tp coordinate.
  void at_positions(Kernel& k, bool own) const {
    if (z_.cp > 1) {
      k.flags |= kPositions;
      if (k.coords.has(Axis::tp)) k.flags |= kVocab;
      k.coords.add(Axis::cp);
    }
    if (!own) return;
    k.flags |= kPositions;
    k.coords.add(Axis::tp);
  }
  void norm_forward(Ref x, const std::string& name, Ref out, Ref stat);
  // dx of a norm, and the gradients of its parameters.
  void norm_backward(Ref dy, Ref x, Ref stat, const std::string& name, Ref dx);
  // A half's output with its bias and the residual.
  void residual(int layer, Ref partial, const char* bias, Ref x, Ref out);

  // --- recomputation (visit_recompute.cpp) -------------------------------------------------------
  [[nodiscard]] bool recomputes(int layer) const;  // the whole layer
  [[nodiscard]] bool recomputes_core() const;      // attention's probabilities
  void layer_again(int layer);                     // fills what the layer's backward reads
  Ref core_again(int layer, Kernel core, const SavedAttention& s);
  // What a half saves, where its layer keeps nothing: it lives for the forward only.
  [[nodiscard]] BufferClass held(BufferClass cls) const {
    const bool saved = cls == BufferClass::saved_input || cls == BufferClass::saved_weight;
    return passing_ && saved ? BufferClass::activation : cls;
  }

  // What a backward reads even where its layer is computed again.
  [[nodiscard]] BufferClass until_backward(BufferClass cls) const {
    return d_.evaluation ? BufferClass::activation : cls;
  }

  // --- halves: from the layer's input to the partial output, reduced over tp
  // ----------------------
  Ref attention_forward(int layer, Ref x, SavedAttention& s);
  // dy of the half's output; returns d_norm1_out, reduced.
  Ref attention_backward(int layer, Ref dy, const SavedAttention& s);
  Ref latent_forward(int layer, Ref x, SavedAttention& s);
  Ref latent_backward(int layer, Ref dy, const SavedAttention& s);
  std::pair<Ref, Ref> kept_latents(int layer, const SavedAttention& s);
  [[nodiscard]] Kernel latents(KernelKind kind, std::int64_t tokens, bool rope) const;
  [[nodiscard]] Kernel latent_heads(KernelKind kind) const;
  [[nodiscard]] const char* latents_weight() const;
  [[nodiscard]] Kernel latent_core(KernelKind kind) const;
  [[nodiscard]] bool has_latents() const { return z_.kv_rank > 0; }
  // From q, k, v (s.qkv) to s.out and what backward needs beside it (s.core); `core`:
  // attention_fwd.
  void core_forward(int layer, const Kernel& core, SavedAttention& s);
  // From the gradient of s.out to that of s.qkv; `core`: attention_bwd_input, `kept`: s.core, or
  // what has been made again in its place.
  Ref core_backward(int layer, const Kernel& core, Ref d_out, const SavedAttention& s, Ref kept);
  void slices_forward(int layer, const Kernel& core, SavedAttention& s);
  void slices_backward(int layer, const Kernel& core, Ref d_out, const SavedAttention& s,
                       Ref d_qkv);
  void ring_forward(int layer, const Kernel& core, SavedAttention& s);
  void ring_backward(int layer, const Kernel& core, Ref d_out, const SavedAttention& s, Ref d_qkv);
  [[nodiscard]] std::array<Ref, 2> ring_blocks(const std::array<const char*, 2>& names, DType dtype,
                                               int layer);
  void shift(Ref to, Ref from, int layer);
  Ref mlp_forward(int layer, Ref x, SavedMlp& s);
  Ref mlp_backward(int layer, Ref dy, const SavedMlp& s);
  Ref dense_forward(int layer, DensePart part, Ref x, SavedDense& s);
  Ref dense_backward(int layer, DensePart part, Ref dy, Ref x, const SavedDense& s);
  // The rows that a dense part sees, and whether tp cuts its width.
  struct DenseRows {
    std::int64_t sequence, tokens;
    bool cut;
  };
  [[nodiscard]] DenseRows dense_rows(DensePart part) const;
  [[nodiscard]] std::int64_t dense_width(DensePart part) const;
  [[nodiscard]] std::int64_t dense_in_width(DensePart part) const;
  [[nodiscard]] Kernel activation(DensePart part, bool forward) const;
  [[nodiscard]] Kernel own_moe_rows() const;
  [[nodiscard]] const char* aux_group() const { return z_.nano ? "tp" : "tp_cp"; }
  // --- style nano_train (style_nano.cpp)
  [[nodiscard]] bool labels_rows() const { return z_.nano_style && z_.ep > 1; }
  [[nodiscard]] bool reduces_by_tensor() const { return z_.nano_style && z_.tp > 1; }
  RowLabels label_rows(int layer, SavedMoe& s);
  void exchange_labels(int layer, SavedMoe& s);
  void return_labels(int layer, const SavedMoe& s);
  Ref gate_and_up_dx(int layer, Ref d_gate_up, const std::string& weight);
  Ref latents_dx(int layer, Ref d_ql, Ref d_kl, Ref d_kr);
  Ref labels();

  Ref moe_forward(int layer, Ref x, SavedMoe& s);
  void choose(int layer, SavedMoe& s);
  Ref moe_backward(int layer, Ref dy, const SavedMoe& s);
  // Rows leave the rank of their token, or are joined by those of other etp members.
  [[nodiscard]] bool moves_rows() const { return z_.row_sources > 1; }
  // The counts that sum to the rows which the local experts get.
  [[nodiscard]] Ref coming(const SavedMoe& s) const { return z_.etp > 1 ? s.counts : s.arriving; }
  Ref expert_rows(const char* name, BufferClass cls, std::int64_t width, Ref counts, int layer);
  // `rows` has as many as `counts` sum to when the step runs, at most `most`.
  Ref counted(Ref rows, Ref counts, std::int64_t most);
  void wait_for(Ref value, int layer);  // the host: what is issued behind it knows the value
  Ref arrived_rows(const char* name, const SavedMoe& s, int layer);
  void exchange(const char* tag, Ref source, Ref buffer, Ref send_rows, Ref recv_rows, int layer);
  void exchange_counts(SavedMoe& s, int layer);
  struct RowTags {
    const char *ep, *etp;  // "disp", "etp.in"
  };
  struct RowNames {
    const char *ep, *etp;  // of what an exchange over ep, or over etp, brings
  };
  Ref to_experts(RowTags tags, RowNames names, Ref rows, const SavedMoe& s, int layer);
  Ref from_experts(RowTags tags, RowNames names, BufferClass cls, Ref rows, const SavedMoe& s,
                   int layer);
  [[nodiscard]] Kernel routed(KernelKind kind, KernelDims dims) const;
  [[nodiscard]] Kernel expert_product(KernelKind kind, std::int64_t in, std::int64_t out) const;
  [[nodiscard]] Kernel expert_order(KernelKind kind) const;
  [[nodiscard]] std::vector<Balance> balances() const;
  [[nodiscard]] KernelDims balance_dims(const Balance& b) const;
  [[nodiscard]] bool is_moe(int layer) const { return shape_.is_moe(layer); }

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
    return slot(name, held(cls), t_.compute, shape, layer);
  }
  Ref statistic(const char* name, BufferClass cls, Shape shape, int layer = -1) {
    return slot(name, held(cls), t_.statistic(), shape, layer);
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
  // A sum over the step's microbatches in program order.
  static Ref step_sum(BufferId id) {
    Ref r = whole(id);
    r.step_sum = true;
    return r;
  }
  static Ref sum(Ref r) {
    r.sums = true;
    return r;
  }
  static Ref of_slice(Ref r, int slice) {
    r.slice = slice;
    return r;
  }
  // With ZeRO-3 a view of what the unit's gather brings in this direction.
  [[nodiscard]] Ref param(const std::string& name);
  // Where each microbatch scatters its own: a view of this microbatch's bucket.
  [[nodiscard]] Ref grad(const std::string& name);
  [[nodiscard]] Ref bucket_view(const Tensor& t, BufferClass cls, DType dtype);
  [[nodiscard]] VisitOp gather(int root, int bucket) const;
  void place_gathers(std::vector<VisitOp>& ops);
  void gather_stage();  // residency window
  void place_scatters();
  void split_backward();  // visit_split.cpp
  // Working memory of a W that accumulates; a slot where a call needs it.
  struct Scratch {
    const char* name;
    Shape shape;
    int layer;
  };
  static std::vector<Scratch> scratch(const char* name, Shape shape, int layer = -1) {
    return {{name, shape, layer}};
  }
  void cut(int layer = -1);
  void communicate(OpKind kind, const char* tag, Ref buffer, Ref source, int layer,
                   Reduction how = Reduction::none);
  void reduced(const char* tag, Ref buffer, int layer = -1, Reduction how = Reduction::sum) {
    communicate(OpKind::all_reduce, tag, buffer, {}, layer, how);
  }
  void call(Kernel k, std::vector<Ref> inputs, std::vector<Ref> outputs,
            const std::vector<Scratch>& taken = {});
  static Kernel kernel(KernelKind kind, KernelDims dims, std::uint32_t flags = 0) {
    Kernel k;
    k.kind = kind;
    k.dims = dims;
    k.flags = flags;
    return k;
  }
  // A product over all rows of the microbatch, or over `tokens` of them; `bias` only where the
  // family has them.
  [[nodiscard]] Kernel linear(KernelKind kind, std::int64_t in, std::int64_t out, bool bias = false,
                              std::int64_t tokens = 0) const {
    return kernel(kind, {tokens > 0 ? tokens : z_.tokens, in, out},
                  bias && gpt_ ? std::uint32_t{kBias} : 0);
  }
  // A vector kernel over the own rows.
  [[nodiscard]] Kernel rows(KernelKind kind) const {
    return kernel(kind, {z_.own_tokens, z_.hidden});
  }
  // x and W, and the bias where the family has one.
  [[nodiscard]] std::vector<Ref> weighted(Ref x, const std::string& name);
  [[nodiscard]] std::vector<Ref> weight_gradients(const std::string& name);
  // Attention and rope: the local heads, key/value heads where they differ.
  [[nodiscard]] Kernel heads(KernelKind kind, std::uint32_t flags = 0) const;
  [[nodiscard]] Kernel attention(KernelKind kind) const {
    return heads(kind, kCausal | (flash() ? kFlash : kMaterialised));
  }
  [[nodiscard]] Kernel rope(KernelKind kind) const {
    Kernel k = heads(kind);
    k.real = d_.scenario.model.rope_base;
    at_positions(k, false);
    from_slice(k);
    return k;
  }
  [[nodiscard]] bool flash() const {
    return d_.scenario.training.attention == AttentionKind::flash;
  }
  // What attention keeps beside q, k, v: the log-sum-exp of each row, or all probabilities.
  Ref attention_core(int layer);
  [[nodiscard]] Shape wide(std::int64_t width) const {  // all positions of the region
    return {z_.sequence, z_.micro_batch, width};
  }
  [[nodiscard]] static std::string layer_name(int layer, const char* rest);
  Ref batch();
  Ref saved_layer_input(int layer) {
    return slot("h_in", until_backward(BufferClass::saved_input), t_.compute, own_, layer);
  }
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
  const ModelShape shape_;
  const bool gpt_;     // LayerNorm, learned positions, biases, GELU
  const bool window_;  // gathered parameters outlive the visit
  Visit v_;
  Shape own_, all_;  // [S/(c k t), batch, hidden] with SP; [S/(c k), batch, hidden]
  Shape moe_;        // of what is routed here
  int program_, slice_;
  const ProgramTensors& tensors_;
  std::vector<VisitOp>* ops_;
  AxisSet vocab_coords_;
  std::vector<SavedLayer> saved_;
  int unit_ = 0;        // whose calls are being written: embedding 0, layers, head
  bool passing_;        // the forward of a layer that will be computed again, or of an evaluation
  bool again_ = false;  // and that second time
  std::map<std::tuple<bool, int, int>, int> roots_;  // slots of buckets: gradients?, unit, bucket
  std::map<std::pair<int, std::string>, Ref> views_;
  std::map<std::pair<std::string, int>, Ref> scratch_;
  Ref head_input_, final_stat_, final_out_, logits_;
};

}  // namespace tandem::lower
