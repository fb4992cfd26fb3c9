// Part of step `segments`: parameters, main gradients and optimizer state of each program.
//
//   Bucket   tensors of one reducing group and one type in reverse order of use; each starts at a
//            multiple of 64 elements; a bucket closes when its gradients reach
//            gradient_reduce.bucket; its end is padded to a multiple of 64 * g, g the size of the
//            reducing group. The tied embedding has a bucket of its own, with the same layout on
//            both stages. One tensor that needs no padding is its own bucket.
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
      if (d.order.stage_rank[static_cast<std::size_t>(stage)] != program) continue;
      if (stage == num_stages - 1) head();
      int first = 0;
      for (int s = 0; s < stage; ++s) first += split(s);
      for (int layer = first + split(stage) - 1; layer >= first; --layer) block(layer);
      if (stage == 0) embedding();
    }
    if (tied_) tied.push_back(embed());
  }
  std::vector<Tensor> plain, tied;

 private:
  [[nodiscard]] int split(int stage) const {
    return d_.scenario.parallel.layer_split[static_cast<std::size_t>(stage)];
  }
  void whole(std::string name, Shape shape, DType dtype) {
    plain.push_back({std::move(name), shape, dtype, TensorClass::whole, {}, {}, {}, -1});
  }
  void cut(std::string name, Shape local, int dim, const std::string& parts = "") {
    SliceRule rule;
    rule.dim = static_cast<std::int8_t>(dim);
    if (!parts.empty()) rule.parts = d_.name(parts);
    plain.push_back({std::move(name), local, weight_type_, TensorClass::tp_cut, rule, {}, {}, -1});
  }
  [[nodiscard]] bool gpt() const { return d_.scenario.model.family == ModelFamily::gpt; }
  void norm(const std::string& name) {
    if (gpt()) whole(name + ".bias", {z_.hidden}, norm_type_);
    whole(name + ".weight", {z_.hidden}, norm_type_);
  }
  Tensor vocabulary(const char* name) const {
    Tensor t{name, {z_.classes, z_.hidden}, weight_type_, TensorClass::whole, {}, {}, {}, -1};
    if (z_.vocab_cut) {
      t.cls = TensorClass::tp_cut;
      t.slice.dim = 0;
      if (z_.classes * z_.tp != z_.vocab) t.slice.valid = z_.vocab;
    }
    return t;
  }
  Tensor embed() const { return vocabulary("embed.weight"); }
  void head() {
    if (d_.scenario.model.tied_embeddings)
      tied_ = true;
    else
      plain.push_back(vocabulary("head.weight"));
    norm("final_norm");
  }
  void block(int layer) {
    const std::string at = fmt::format("layers.{}.", layer);
    if (gpt())
      gpt_block(at);
    else
      llama_block(at);
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
  void llama_block(const std::string& at) {
    cut(at + "mlp.down.weight", {z_.hidden, z_.ffn}, 1);
    cut(at + "mlp.gate_up.weight", {2 * z_.ffn, z_.hidden}, 0, "gate,up");
    norm(at + "norm2");
    cut(at + "attn.o.weight", {z_.hidden, z_.attention}, 1);
    cut(at + "attn.qkv.weight", {z_.qkv, z_.hidden}, 0,
        z_.kv == z_.attention ? "q,k,v"
                              : fmt::format("q:{},k:{},v:{}", z_.attention, z_.kv, z_.kv));
    norm(at + "norm1");
  }
  void embedding() {
    if (gpt()) whole("pos_embed.weight", {d_.scenario.model.max_sequence, z_.hidden}, weight_type_);
    if (d_.scenario.model.tied_embeddings)
      tied_ = true;
    else
      plain.push_back(embed());
  }
  Draft& d_;
  const Sizes& z_;
  DType weight_type_, norm_type_;
  bool tied_ = false;
};

// Tensors with their places in buckets.
class Packer {
 public:
  Packer(Draft& d, int program) : d_(d), program_(program) {}

  void pack(std::vector<Tensor>& tensors, bool tied) {
    std::vector<Open> open;  // one for each group and type; a full one becomes a bucket
    for (Tensor& t : tensors) {
      const ReducingGroup by = reducing_group(d_.scenario, t.cls);
      Open* to = nullptr;
      for (Open& o : open)
        if (o.dtype == t.dtype && o.by.group.name == by.group.name) to = &o;
      if (!to) to = &open.emplace_back(Open{t.dtype, by, {}, 0});
      to->entries.push_back({&t, round_up(to->elements, kEntryElements)});
      to->elements = to->entries.back().second + t.shape.elements();
      if (to->elements * main_size() >= d_.scenario.parallel.gradient_bucket) close(*to, tied);
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
      b.members = members(p.by);
      place(p, b, static_cast<int>(i), out);
      out.buckets.push_back(b);
    }
    for (Bucket& b : out.buckets) {
      if (b.dtype != d_.plan.header.types.main) b.main = state(b, ".main");
      b.m = state(b, ".m");
      b.v = state(b, ".v");
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
  void place(const Pending& p, Bucket& b, int index, ProgramTensors& out) {
    const DType main = d_.plan.header.types.main;
    const bool alone = p.entries.size() == 1 && p.entries[0].first->shape.elements() == p.elements;
    if (!alone) {
      const std::string name = "bucket." + b.name;
      b.param = d_.add(buffer(BufferClass::param, b.dtype, {p.elements}, name));
      b.grad = d_.add(buffer(BufferClass::grad, main, {p.elements}, name));
    }
    for (const auto& [tensor, first] : p.entries) {
      Tensor& t = *tensor;
      t.bucket = index;
      Buffer param = buffer(BufferClass::param, t.dtype, t.shape, t.name);
      param.slice = t.slice;
      Buffer grad = param;
      grad.cls = BufferClass::grad, grad.dtype = main;
      param.bucket = grad.bucket = alone;
      if (!alone) {
        param.alias_of = b.param, param.alias_offset = first * size_of(t.dtype);
        grad.alias_of = b.grad, grad.alias_offset = first * size_of(main);
      }
      t.param = d_.add(param);
      t.grad = d_.add(grad);
      if (alone) b.param = t.param, b.grad = t.grad;
      out.places.emplace(t.name, out.tensors.size());
      out.tensors.push_back(t);
    }
  }
  BufferId state(const Bucket& b, const char* suffix) {
    const Buffer& param = d_.plan.buffer(b.param);
    return d_.add(
        buffer(BufferClass::optim, d_.plan.header.types.main, param.shape, b.name + suffix));
  }
  Draft& d_;
  int program_;
  std::vector<Pending> pending_;
};

}  // namespace

void parameters(Draft& d, int program) {
  Inventory inventory(d, program);
  Packer packer(d, program);
  packer.pack(inventory.plain, false);
  packer.pack(inventory.tied, true);
  packer.finish(d.tensors[static_cast<std::size_t>(program)]);
}

}  // namespace tandem::lower
