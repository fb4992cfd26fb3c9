// Part of step `segments`: parameters, main gradients and optimizer state of each program.
//
//   Bucket   tensors of one reducing group and one type in reverse order of use; each starts at a
//            multiple of 64 elements; a bucket closes when its gradients reach
//            gradient_reduce.bucket; its end is padded to a multiple of 64 * g, g the size of the
//            reducing group. The tied embedding has a bucket of its own, with the same layout on
//            both stages. One tensor that needs no padding is its own bucket. With ZeRO-3 a bucket
//            holds one unit.
//   Source   models.md 4.2 (which part a tp rank holds), 4.4 (buckets), 2.1 (names, types).
#include <fmt/format.h>

#include "common/parallel/groups.h"
#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

constexpr std::int64_t kEntryElements = 64;

std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// Tensors of one program, in reverse order of use.
class Inventory {
 public:
  Inventory(Draft& d, int program) : d_(d), z_(d.sizes) {
    weight_type_ = d.plan.header.types.compute;
    norm_type_ = d.plan.header.types.statistic();
    const int num_stages = d.order.num_stages();
    for (int stage = num_stages - 1; stage >= 0; --stage) {
      if (!d.holds(program, stage)) continue;
      const std::size_t before = plain.size();
      if (stage == num_stages - 1) head();
      int first = 0;
      for (int s = 0; s < stage; ++s) first += split(s);
      for (int layer = first + split(stage) - 1; layer >= first; --layer) block(layer);
      if (stage == 0) embedding();
      for (std::size_t i = before; i < plain.size(); ++i) plain[i].stage = stage;
    }
    if (tied_) tied.push_back(embed());
  }
  std::vector<Tensor> plain, tied;

 private:
  [[nodiscard]] int split(int stage) const {
    return d_.scenario.parallel.layer_split[static_cast<std::size_t>(stage)];
  }
  void whole(std::string name, Shape shape, DType dtype) {
    plain.push_back({std::move(name), shape, dtype, TensorClass::whole, {}, {}, {}, unit_});
  }
  void cut(std::string name, Shape local, int dim, const std::string& parts = "") {
    SliceRule rule;
    rule.dim = static_cast<std::int8_t>(dim);
    if (!parts.empty()) rule.parts = d_.name(parts);
    plain.push_back(
        {std::move(name), local, weight_type_, TensorClass::tp_cut, rule, {}, {}, unit_});
  }
  [[nodiscard]] bool gpt() const { return d_.scenario.model.family == ModelFamily::gpt; }
  void norm(const std::string& name) {
    if (gpt()) whole(name + ".bias", {z_.hidden}, norm_type_);
    whole(name + ".weight", {z_.hidden}, norm_type_);
  }
  Tensor vocabulary(const char* name) const {
    Tensor t{name, {z_.classes, z_.hidden}, weight_type_, TensorClass::whole, {}, {}, {}, unit_};
    if (z_.vocab_cut) {
      t.cls = TensorClass::tp_cut;
      t.slice.dim = 0;
      if (z_.classes * z_.tp != z_.vocab) t.slice.valid = z_.vocab;
    }
    return t;
  }
  Tensor embed() const { return vocabulary("embed.weight"); }
  void head() {
    unit_ = 1 + d_.scenario.model.layers;
    if (d_.scenario.model.tied_embeddings)
      tied_ = true;
    else
      plain.push_back(vocabulary("head.weight"));
    norm("final_norm");
  }
  void block(int layer) {
    unit_ = 1 + layer;
    const std::string at = fmt::format("layers.{}.", layer);
    if (gpt()) return gpt_block(at);
    if (model_shape(d_.scenario.model).is_moe(layer))
      experts(at);
    else
      swiglu(at + "mlp.", z_.ffn);
    norm(at + "norm2");
    attention(at);
    norm(at + "norm1");
  }
  void gpt_block(const std::string& at) {
    whole(at + "mlp.fc2.bias", {z_.hidden}, weight_type_);
    cut(at + "mlp.fc2.weight", {z_.hidden, z_.ffn}, 1);
    cut(at + "mlp.fc1.bias", {z_.ffn}, 0);
    cut(at + "mlp.fc1.weight", {z_.ffn, z_.hidden}, 0);
    norm(at + "norm2");
    whole(at + "attn.o.bias", {z_.hidden}, weight_type_);
    cut(at + "attn.o.weight", {z_.hidden, z_.attention}, 1);
    cut(at + "attn.qkv.bias", {3 * z_.attention}, 0, "q,k,v");
    cut(at + "attn.qkv.weight", {3 * z_.attention, z_.hidden}, 0, "q,k,v");
    norm(at + "norm1");
  }
  void swiglu(const std::string& at, std::int64_t width) {
    cut(at + "down.weight", {z_.hidden, width}, 1);
    cut(at + "gate_up.weight", {2 * width, z_.hidden}, 0, "gate,up");
  }
  void vector(const std::string& name, std::int64_t width) {
    whole(name + ".weight", {width}, norm_type_);
  }
  void attention(const std::string& at) {
    cut(at + "attn.o.weight", {z_.hidden, z_.attention}, 1);
    if (z_.kv_rank > 0) {
      cut(at + "attn.kv_b.weight", {z_.latent_kv, z_.kv_rank}, 0);
      if (z_.q_rank == 0) {
        cut(at + "attn.q.weight", {z_.latent_q, z_.hidden}, 0);
        vector(at + "attn.kv_norm", z_.kv_rank);
        return whole(at + "attn.kv_a.weight", {z_.kv_rank + z_.rope_dim, z_.hidden}, weight_type_);
      }
      cut(at + "attn.q_b.weight", {z_.latent_q, z_.q_rank}, 0);
      vector(at + "attn.kv_norm", z_.kv_rank);
      vector(at + "attn.q_norm", z_.q_rank);
      whole(at + "attn.qkv_a.weight", {z_.q_rank + z_.kv_rank + z_.rope_dim, z_.hidden},
            weight_type_);
      plain.back().slice.parts =
          d_.name(fmt::format("q_a:{},kv_a:{}", z_.q_rank, z_.kv_rank + z_.rope_dim));
      return;
    }
    cut(at + "attn.qkv.weight", {z_.qkv, z_.hidden}, 0,
        z_.kv == z_.attention ? "q,k,v"
                              : fmt::format("q:{},k:{},v:{}", z_.attention, z_.kv, z_.kv));
  }
  // Mapping nano_train: whole on each tensor rank, which sees its slice of the tokens. So they are
  // summed as the router is (models.md 4.8).
  void shared_experts(const std::string& at) {
    if (!z_.nano) return swiglu(at, z_.shared_ffn);
    whole(at + "down.weight", {z_.hidden, z_.shared_ffn}, weight_type_);
    plain.back().cls = TensorClass::router;
    whole(at + "gate_up.weight", {2 * z_.shared_ffn, z_.hidden}, weight_type_);
    plain.back().cls = TensorClass::router;
    plain.back().slice.parts = d_.name("gate,up");
  }
  // The local routed experts are stacks; what is cut by etp is cut in each of them.
  void experts(const std::string& at) {
    if (z_.shared_ffn > 0) shared_experts(at + "moe.shared.");
    stack(at + "moe.experts.down.weight", z_.hidden, z_.expert_ffn, 1);
    stack(at + "moe.experts.gate_up.weight", 2 * z_.expert_ffn, z_.hidden, 0, "gate,up");
    whole(at + "moe.router.weight", {d_.scenario.model.moe.experts, z_.hidden}, weight_type_);
    plain.back().cls = TensorClass::router;
  }
  void stack(std::string name, std::int64_t rows, std::int64_t columns, int dim,
             const std::string& parts = "") {
    cut(std::move(name), {z_.local_experts, rows, columns}, dim, parts);
    plain.back().cls = TensorClass::routed_expert;
    plain.back().slice.axis = Axis::etp;
    plain.back().slice.experts = static_cast<std::int32_t>(z_.local_experts);
  }
  void embedding() {
    unit_ = 0;
    if (gpt()) whole("pos_embed.weight", {d_.scenario.model.max_sequence, z_.hidden}, weight_type_);
    if (d_.scenario.model.tied_embeddings)
      tied_ = true;
    else
      plain.push_back(embed());
  }
  Draft& d_;
  const Sizes& z_;
  DType weight_type_, norm_type_;
  int unit_ = 0;  // embedding, layers, head with the final norm
  bool tied_ = false;
};

// Tensors with their places in buckets.
class Packer {
 public:
  Packer(Draft& d, int program) : d_(d), program_(program) {}

  void pack(std::vector<Tensor>& tensors, bool tied) {
    std::vector<Open> open;  // one for each group and type; a full one becomes a bucket
    int unit = -1, stage = -1;
    for (Tensor& t : tensors) {
      // A gather brings one unit (ZeRO-3), the scatter of a microbatch's gradients is one stage's.
      // Of two copies of the model the norm counts the first, and a shard as a whole.
      const bool by_stage = d_.order.num_dirs == 2 || scatters_every(d_.scenario);
      if ((d_.scenario.parallel.zero == 3 && t.unit != unit) || (by_stage && t.stage != stage))
        for (Open& o : open) close(o, tied);
      unit = t.unit, stage = t.stage;
      const ReducingGroup by = reducing_group(d_.scenario, t.cls);
      Open* to = nullptr;
      for (Open& o : open)
        if (o.dtype == t.dtype && o.by.group.name == by.group.name && o.by.tag == by.tag) to = &o;
      if (!to) to = &open.emplace_back(Open{t.dtype, by, {}, 0});
      to->entries.push_back({&t, round_up(to->elements, kEntryElements)});
      to->elements = to->entries.back().second + t.shape.elements();
      const bool full = to->elements * main_size() >= d_.scenario.parallel.gradient_bucket;
      if (full && d_.scenario.parallel.zero < 3) close(*to, tied);
    }
    for (Open& o : open) close(o, tied);
  }
  void finish(ProgramTensors& out) {
    int plain = 0;
    for (const Pending& p : pending_) plain += p.tied ? 0 : 1;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      Pending& p = pending_[i];
      Bucket b;
      b.name = p.tied ? "tied" : plain == 1 ? "main" : std::to_string(i);
      b.dtype = p.dtype;
      b.tied = p.tied;
      b.elements = p.elements;
      b.group = p.by.group.name;
      b.tag = p.by.tag;
      b.axes = p.by.group.axes;
      b.members = members(p.by);
      b.zero = b.members > 1 ? d_.scenario.parallel.zero : 0;
      b.every = b.zero >= 2 && !p.tied && scatters_every(d_.scenario);
      place(p, b, static_cast<int>(i), out);
      out.buckets.push_back(b);
    }
    if (d_.evaluation) return;
    for (Bucket& b : out.buckets) {
      if (b.dtype != d_.plan.header.types.main) b.main = state(b, ".main");
      b.m = state(b, ".m");
      b.v = state(b, ".v");
      if (d_.validates_late() && b.grad.valid()) {
        b.kept_main = state(b, ".kept_main");
        b.kept_m = state(b, ".kept_m");
        b.kept_v = state(b, ".kept_v");
      }
    }
  }

 private:
  using Entry = std::pair<Tensor*, std::int64_t>;  // and its first element in the bucket
  struct Open {
    DType dtype;
    ReducingGroup by;
    std::vector<Entry> entries;
    std::int64_t elements = 0;
  };
  struct Pending {
    DType dtype;
    ReducingGroup by;
    std::vector<Entry> entries;
    std::int64_t elements = 0;
    bool tied = false;
  };
  [[nodiscard]] std::int64_t main_size() const { return size_of(d_.plan.header.types.main); }

  [[nodiscard]] std::int64_t members(const ReducingGroup& by) const {
    return d_.plan.header.mesh.size_of_group(by.group.axes);
  }
  void close(Open& o, bool tied) {
    if (o.entries.empty()) return;
    const std::int64_t unit = kEntryElements * members(o.by);
    pending_.push_back({o.dtype, o.by, std::move(o.entries), round_up(o.elements, unit), tied});
    o.entries.clear();
    o.elements = 0;
  }
  Buffer buffer(BufferClass cls, DType dtype, Shape shape, const std::string& name) {
    Buffer b;
    b.program = ProgramId{program_};
    b.cls = cls;
    b.dtype = dtype;
    b.shape = shape;
    b.name = d_.name(name);
    return b;
  }
  BufferId shard(const Bucket& b, BufferClass cls, DType dtype, const std::string& name,
                 BufferId whole) {
    Buffer s = buffer(cls, dtype, {b.shard()}, name);
    s.shard_of = whole;  // invalid: where the first gather of it is made (segments.cpp)
    s.shard_axes = b.axes;
    return d_.add(s);
  }
  // The full buffers that live for the run, or for the step; shards of the others.
  void place(const Pending& p, Bucket& b, int index, ProgramTensors& out) {
    const DType main = d_.plan.header.types.main;
    const bool alone =
        b.zero < 2 && p.entries.size() == 1 && p.entries[0].first->shape.elements() == p.elements;
    const std::string name = "bucket." + b.name;
    const BufferClass grad_class = b.zero >= 2 ? BufferClass::grad_full : BufferClass::grad;
    // Settling has no visits that gather and scatter: there the full ones say what lies in shards.
    const BufferClass param_class = b.zero >= 3 ? BufferClass::param_full : BufferClass::param;
    BufferId params, grads;  // full
    if (!alone && (b.zero < 3 || d_.settling))
      params = d_.add(buffer(param_class, b.dtype, {p.elements}, name));
    const bool trains = !d_.evaluation;
    if (!alone && (!b.every || d_.settling) && trains)
      grads = d_.add(buffer(grad_class, main, {p.elements}, name));
    for (const auto& [tensor, first] : p.entries) {
      Tensor& t = *tensor;
      t.bucket = index;
      t.offset = first;
      Buffer param = buffer(param_class, t.dtype, t.shape, t.name);
      param.slice = t.slice;
      Buffer grad = param;
      grad.cls = grad_class, grad.dtype = main;
      param.bucket = grad.bucket = alone;
      if (!alone) {
        param.alias_of = params, param.alias_offset = first * size_of(t.dtype);
        grad.alias_of = grads, grad.alias_offset = first * size_of(main);
      }
      if (alone || params.valid()) t.param = d_.add(param);
      if (trains && (alone || grads.valid())) t.grad = d_.add(grad);
      if (alone) params = t.param, grads = t.grad;
      out.places.emplace(t.name, out.tensors.size());
      out.tensors.push_back(t);
    }
    b.param = b.zero < 3 ? params : shard(b, BufferClass::param, b.dtype, name, params);
    if (!trains) return;
    b.grad = b.zero < 2 ? grads : shard(b, BufferClass::grad, main, name, grads);
    if (b.zero >= 2) b.grad_full = grads;
  }
  BufferId state(const Bucket& b, const char* suffix) {
    const Buffer& param = d_.plan.buffer(b.param);
    const DType main = d_.plan.header.types.main;
    if (b.zero > 0)
      return shard(b, BufferClass::optim, main, b.name + suffix,
                   b.zero < 3 ? b.param : d_.plan.buffer(b.param).shard_of);
    return d_.add(buffer(BufferClass::optim, main, param.shape, b.name + suffix));
  }
  Draft& d_;
  int program_;
  std::vector<Pending> pending_;
};

}  // namespace

namespace {

// What the layers with experts of a program sum up over a step, and the bias of sigmoid routers.
void expert_state(Draft& d, int program, ProgramTensors& out) {
  const MoeSpec& moe = d.scenario.model.moe;
  const ModelShape shape = model_shape(d.scenario.model);
  std::vector<int> layers;
  int first = 0;
  for (int stage = 0; stage < d.order.num_stages(); ++stage) {
    const int count = d.scenario.parallel.layer_split[static_cast<std::size_t>(stage)];
    for (int i = first; i < first + count; ++i)
      if (d.holds(program, stage) && shape.is_moe(i)) layers.push_back(i);
    first += count;
  }
  if (layers.empty() || d.settling) return;  // no update of biases is repeated
  const auto add = [&](BufferClass cls, DType dtype, std::int64_t elements,
                       const std::string& name) {
    Buffer b;
    b.program = ProgramId{program};
    b.cls = cls, b.dtype = dtype, b.shape = {elements};
    b.name = d.name(name);
    return b;
  };
  const auto num_layers = static_cast<std::int64_t>(layers.size());
  if ((moe.expert_loss > 0 || moe.device_loss > 0) && !d.evaluation)
    out.balance = d.add(add(BufferClass::scratch, DType::f64, 1, "balance_loss"));
  out.dropped = d.add(add(BufferClass::scratch, DType::f64, 1, "dropped"));
  out.all_choices = d.add(add(BufferClass::comm, DType::i32, num_layers * moe.experts, "choices"));
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string at = fmt::format("layers.{}.moe.", layers[i]);
    Buffer view = add(BufferClass::comm, DType::i32, moe.experts, at + "choices");
    view.layer = layers[i];
    view.alias_of = out.all_choices;
    view.alias_offset = static_cast<Bytes>(i) * moe.experts * 4;
    out.choices_of[layers[i]] = d.add(view);
    if (moe.router == RouterKind::sigmoid)
      out.bias_of[layers[i]] = d.add(add(BufferClass::optim, d.plan.header.types.statistic(),
                                         moe.experts, at + "router_bias"));
  }
}

}  // namespace

void parameters(Draft& d, int program) {
  Inventory inventory(d, program);
  if (d.sizes.nano_style) {
    tensor_buckets(d, program, std::move(inventory.plain),
                   d.tensors[static_cast<std::size_t>(program)]);
  } else {
    Packer packer(d, program);
    packer.pack(inventory.plain, false);
    packer.pack(inventory.tied, true);
    packer.finish(d.tensors[static_cast<std::size_t>(program)]);
  }
  expert_state(d, program, d.tensors[static_cast<std::size_t>(program)]);
}

}  // namespace tandem::lower
