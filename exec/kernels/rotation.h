// Rotary positions: pairs (i, i + width/2) of a head turn by an angle of the position.
//   angle(pos, i) = pos * base^(-2i/width),  i < width/2
//   y[i] = x[i] cos - x[i + width/2] sin;  y[i + width/2] = x[i + width/2] cos + x[i] sin
// A rotation, so its backward is the rotation by the negative angle (arXiv 2104.09864). Angles in
// double, once for a position and all its heads; products in the plan's type. No table is kept: a
// position's angles cost little beside the attention over all positions before it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace tandem::exec {

// The turn of one position. Copied into each prepared call, so one thread at a time.
template <class T>
class Rotation {
 public:
  // `direction` 1: forward; -1: back.
  Rotation(std::int64_t width, double base, double direction)
      : half_(width / 2), direction_(direction) {
    for (std::int64_t i = 0; i < half_; ++i)
      rate_.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(width)));
    cosines_.resize(rate_.size());
    sines_.resize(rate_.size());
  }
  void move_to(std::int64_t position) {
    for (std::size_t i = 0; i < rate_.size(); ++i) {
      const double angle = static_cast<double>(position) * rate_[i];
      cosines_[i] = static_cast<T>(std::cos(angle));
      sines_[i] = static_cast<T>(direction_ * std::sin(angle));
    }
  }
  // One head, in place.
  void turn(T* x) const {
    T *first = x, *second = x + half_;
    const T *c = cosines_.data(), *d = sines_.data();
    for (std::int64_t i = 0; i < half_; ++i) {
      const T u = first[i], v = second[i];
      first[i] = u * c[i] - v * d[i];
      second[i] = v * c[i] + u * d[i];
    }
  }

 private:
  std::int64_t half_;
  double direction_;
  std::vector<double> rate_;  // of each pair
  std::vector<T> cosines_, sines_;
};

}  // namespace tandem::exec
