#include "exec/kernels/widen.h"

#include <c10/core/CPUAllocator.h>

#include <map>

#include "common/base/bf16.h"
#include "exec/kernels/assignments.h"

namespace tandem::exec {
namespace {

constexpr std::int64_t kAlign = 16;  // elements: 64 bytes

// fp32 working memory of this thread. Grows only; who bound pointers into it looks at `grown`.
struct Block {
  c10::DataPtr memory;
  std::int64_t elements = 0;
  int grown = 0;
  float* at_least(std::int64_t n) {
    if (n > elements) {
      memory = {};
      memory = c10::GetCPUAllocator()->allocate(static_cast<std::size_t>(n) * sizeof(float));
      elements = n;
      ++grown;
    }
    return static_cast<float*>(memory.get());
  }
};
Block& block() {
  static thread_local Block b;
  return b;
}

class Widened {
 public:
  explicit Widened(const KernelCall& call) : call_(call) {
    const Signature s = signature(call.kernel, call.types);
    for (std::size_t i = 0; i < s.inputs.size(); ++i)
      if (s.inputs[i].role == "counts" && s.inputs[i].dtype == DType::i32)
        counts_ = static_cast<int>(i);
    const auto add = [&](const View& v, const std::vector<Operand>& list, std::size_t i, bool read,
                         bool written) {
      if (v.dtype != DType::bf16) return;
      const Operand& declared = list[i];
      const auto [it, is_new] = place_of_.try_emplace(v.data, operands_.size());
      if (is_new) operands_.push_back({reinterpret_cast<std::uint16_t*>(v.data), 0, 0, 0});
      Copied& c = operands_[it->second];
      c.elements = std::max(c.elements, v.shape.elements());
      // Rows of experts: as many as the counts say when the call runs.
      const bool by_rows =
          counts_ >= 0 && declared.shape.rank == 2 && declared.shape[0] == call.kernel.dims[0];
      if (by_rows) c.row = v.shape.elements() / call.kernel.dims[0];
      c.read = c.read || read, c.written = c.written || written;
    };
    // Columns that only pad the vocabulary become -inf where the logits lie.
    const bool pads = call.kernel.kind == KernelKind::ce_max;
    for (std::size_t i = 0; i < call.inputs.size(); ++i)
      add(call.inputs[i], s.inputs, i, true, pads);
    for (std::size_t i = 0; i < call.outputs.size(); ++i)
      add(call.outputs[i], s.outputs, i, call.accumulate[i], true);
  }

  void operator()() {
    bind();
    for (const Copied& c : operands_)
      if (c.read)
        for (std::int64_t i = 0; i < c.elements; ++i) base_[c.offset + i] = from_bf16(c.words[i]);
    inner_();
    for (const Copied& c : operands_)
      if (c.written)
        for (std::int64_t i = 0; i < c.elements; ++i) c.words[i] = to_bf16(base_[c.offset + i]);
  }

 private:
  struct Copied {
    std::uint16_t* words;
    std::int64_t elements, offset, row;  // row: elements of one whose number is known now; or 0
    bool read = false, written = false;
  };

  // The fp32 call over the thread's block: anew where the block has moved or the rows have changed.
  void bind() {
    std::int64_t rows = -1, total = 0;
    if (counts_ >= 0) {
      const View& v = call_.inputs[static_cast<std::size_t>(counts_)];
      rows = 0;
      for (std::int64_t i = 0; i < v.shape.elements(); ++i) rows += v.as<std::int32_t>()[i];
    }
    for (Copied& c : operands_) {
      if (c.row > 0) c.elements = rows * c.row;
      c.offset = total;
      total += (c.elements + kAlign - 1) / kAlign * kAlign;
    }
    Block& b = block();
    base_ = b.at_least(total);
    if (inner_ && bound_ == &b && grown_ == b.grown && rows == rows_) return;
    KernelCall wide = call_;
    wide.types = {DType::f32, DType::f32};
    for (std::vector<View>* list : {&wide.inputs, &wide.outputs})
      for (View& v : *list)
        if (v.dtype == DType::bf16) {
          v.data = reinterpret_cast<std::byte*>(base_ + operands_[place_of_.at(v.data)].offset);
          v.dtype = DType::f32;
        }
    inner_ = binder(call_.kernel.kind)(wide);
    bound_ = &b, grown_ = b.grown, rows_ = rows;
  }

  KernelCall call_;
  int counts_ = -1;  // input that counts the rows of experts
  std::map<std::byte*, std::size_t> place_of_;
  std::vector<Copied> operands_;
  Prepared inner_;
  float* base_ = nullptr;
  const Block* bound_ = nullptr;
  int grown_ = -1;
  std::int64_t rows_ = -1;
};

// The main copy is updated by the fp32 code; the parameter is rounded from it.
Prepared bind_cast_adamw(const KernelCall& call) {
  KernelCall main = call;
  main.types = {DType::f32, DType::f32};
  main.outputs.pop_back();
  main.accumulate.pop_back();
  return [update = binder(KernelKind::adamw)(main), n = call.kernel.dims[0],
          from = call.outputs[0].as<float>(), to = call.outputs[3].as<std::uint16_t>()] {
    update();
    for (std::int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i]);
  };
}

}  // namespace

Prepared bind_widened(const KernelCall& call) {
  if (call.kernel.kind == KernelKind::adamw && (call.kernel.flags & kCast))
    return bind_cast_adamw(call);
  return Widened(call);
}

}  // namespace tandem::exec
