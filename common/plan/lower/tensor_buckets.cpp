// Parameters of style nano_train: every tensor of the model is reduced, updated and gathered by
// itself, in module order (models.md 7.1, 4.6 "per-parameter shards").
//
//   Tensors that one product takes together (gate and up, the local experts) lie in one buffer, as
//   everywhere. What a call covers is a window of it: the rows of one of them. A window says
//   nothing about whose elements they are; the buffer does.
//   Shards   k = ceil(N / g): member i of g owns elements [min(i k, N), min((i+1) k, N)) of a
//   tensor
//            of N; its calls cover g k. Where g does not divide N the tensor is a view at the front
//            of a bucket of g k elements, whose end is 0 and stays 0. Tensors that lie in one
//            buffer with others have no room for that: the scenario's rules see to it that g
//            divides them.
#include <fmt/format.h>

#include "common/base/check.h"
#include "common/parallel/groups.h"
#include "common/plan/lower/draft.h"

namespace tandem::lower {
namespace {

class TensorBuckets {
 public:
  TensorBuckets(Draft& d, int program, ProgramTensors& out)
      : d_(d), program_(program), main_(d.plan.header.types.main), out_(out) {}

  void add(Tensor t) {
    Buffer param = buffer(BufferClass::param, t.dtype, t.shape, t.name);
    param.slice = t.slice;
    const std::int64_t n = t.shape.elements(), g = members(t), padded = (n + g - 1) / g * g;
    if (d_.scenario.parallel.zero > 0 && padded != n && parts_of(t).size() == 1) {
      // As a bucket of the other style that holds one tensor.
      t.bucket_elements = padded;
      param.alias_of = d_.add(buffer(BufferClass::param, t.dtype, {padded}, "bucket." + t.name));
    }
    param.bucket = !param.alias_of.valid();
    t.param = d_.add(param);
    if (!d_.evaluation) trained(t, param);
    out_.places.emplace(t.name, out_.tensors.size());
    out_.tensors.push_back(std::move(t));
  }

 private:
  // What reduces and updates the tensor.
  void trained(Tensor& t, const Buffer& param) {
    const int zero = d_.scenario.parallel.zero;
    const ReducingGroup by = reducing_group(d_.scenario, t.cls);
    const std::int64_t members = this->members(t);
    const int level = members > 1 ? zero : 0;
    Buffer grad = param;
    grad.cls = level >= 2 ? BufferClass::grad_full : BufferClass::grad;
    grad.dtype = main_;
    BufferId padded_param, padded_grad;
    if (param.alias_of.valid()) {
      padded_param = param.alias_of;
      padded_grad = grad.alias_of =
          d_.add(buffer(grad.cls, main_, {t.bucket_elements}, "bucket." + t.name));
    }
    t.grad = d_.add(grad);
    t.bucket = static_cast<int>(out_.buckets.size());
    const std::vector<Part> parts = parts_of(t);
    for (const Part& part : parts) {
      Bucket b;
      b.name = part.name;
      b.dtype = t.dtype;
      b.elements = padded_param.valid() ? t.bucket_elements : part.shape.elements();
      b.group = by.group.name, b.tag = by.tag, b.axes = by.group.axes;
      b.members = members;
      b.zero = level;
      b.sums_whole = level == 1;
      TANDEM_CHECK(level == 0 || b.elements % members == 0, "{} elements of {} over {} members",
                   b.elements, part.name, members);
      const bool alone = parts.size() == 1;
      b.param = padded_param.valid() ? padded_param
                : alone              ? t.param
                                     : window(param, t.param, part);
      const BufferId whole = padded_grad.valid() ? padded_grad
                             : alone             ? t.grad
                                                 : window(grad, t.grad, part);
      if (!alone) t.part_params.push_back(b.param);
      b.grad = level >= 2 ? state(b, BufferClass::grad, ".grad", whole) : whole;
      if (level >= 2) b.grad_full = whole;
      if (b.dtype != main_) b.main = state(b, BufferClass::optim, ".main", b.param);
      b.m = state(b, BufferClass::optim, ".m", b.param);
      b.v = state(b, BufferClass::optim, ".v", b.param);
      out_.buckets.push_back(b);
    }
    t.num_buckets = static_cast<int>(parts.size());
  }
  [[nodiscard]] std::int64_t members(const Tensor& t) const {
    return d_.plan.header.mesh.size_of_group(reducing_group(d_.scenario, t.cls).group.axes);
  }
  struct Part {
    std::string name;
    std::int64_t first = 0;  // element of the buffer
    Shape shape;
  };

  // layers.0.mlp.gate_up.weight: layers.0.mlp.gate.weight and the one of up; of experts each, by
  // its number on the rank.
  [[nodiscard]] std::vector<Part> parts_of(const Tensor& t) const {
    Buffer b = buffer_shape(t);
    const bool stacked = t.slice.experts > 0;
    const std::int64_t experts = stacked ? t.slice.experts : 1;
    std::vector<FusedPart> fused = d_.plan.parts_of(b);
    if (fused.empty()) fused.push_back({"", b.shape[stacked ? 1 : 0]});
    std::vector<Part> out;
    std::int64_t first = 0;
    const std::int64_t columns = b.shape.rank == (stacked ? 3 : 2) ? b.shape[stacked ? 2 : 1] : 1;
    for (std::int64_t e = 0; e < experts; ++e)
      for (const FusedPart& f : fused) {
        Part p;
        p.name = name_of(t.name, f.name, stacked ? static_cast<int>(e) : -1);
        p.first = first;
        p.shape = stacked             ? Shape{1, f.rows, columns}
                  : t.shape.rank == 1 ? Shape{f.rows}
                                      : Shape{f.rows, columns};
        first += p.shape.elements();
        out.push_back(std::move(p));
      }
    return out;
  }
  static Buffer buffer_shape(const Tensor& t) {
    Buffer b;
    b.shape = t.shape;
    b.slice = t.slice;
    return b;
  }
  static std::string name_of(std::string name, std::string_view part, int expert) {
    if (!part.empty()) {
      const std::size_t last = name.rfind('.'), before = name.rfind('.', last - 1);
      name = name.substr(0, before + 1) + std::string(part) + name.substr(last);
    }
    if (expert < 0) return name;
    constexpr std::string_view kWord = ".experts.";
    const std::size_t behind = name.find(kWord) + kWord.size();
    return fmt::format("{}local{}.{}", name.substr(0, behind), expert, name.substr(behind));
  }

  [[nodiscard]] Buffer buffer(BufferClass cls, DType dtype, Shape shape, const std::string& name) {
    Buffer b;
    b.program = ProgramId{program_};
    b.cls = cls, b.dtype = dtype, b.shape = shape;
    b.name = d_.name(name);
    return b;
  }
  BufferId window(const Buffer& root, BufferId id, const Part& part) {
    Buffer b = buffer(root.cls, root.dtype, part.shape, part.name);
    b.slice = root.slice;
    b.slice.parts = 0;
    if (b.slice.experts > 0) b.slice.experts = 1;
    b.alias_of = id;
    b.alias_offset = part.first * size_of(root.dtype);
    b.window = true;
    return d_.add(b);
  }
  // Own part of a tensor's values: all where nothing is shared.
  BufferId state(const Bucket& b, BufferClass cls, const char* suffix, BufferId whole) {
    if (b.zero == 0) return d_.add(buffer(cls, main_, {b.elements}, b.name + suffix));
    Buffer s = buffer(cls, main_, {b.shard()}, b.name + suffix);
    s.shard_of = whole;
    s.shard_axes = b.axes;
    return d_.add(s);
  }

  Draft& d_;
  int program_;
  DType main_;
  ProgramTensors& out_;
};

}  // namespace

void tensor_buckets(Draft& d, int program, std::vector<Tensor> tensors, ProgramTensors& out) {
  TensorBuckets buckets(d, program, out);
  for (auto t = tensors.rbegin(); t != tensors.rend(); ++t) buckets.add(std::move(*t));
}

}  // namespace tandem::lower
