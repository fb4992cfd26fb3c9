// Goal    what two pieces share, element by element; what makes a model complete.
// Method  every pair of small slices with flat ranges against sets of full indices.
#include "exec/checkpoint/piece.h"

#include <doctest/doctest.h>

#include <map>

#include "exec/checkpoint/held.h"

using namespace tandem::exec;

namespace {

// Full index of every element of the piece, in its own order: the definition.
std::vector<std::int64_t> elements_of(const Piece& p) {
  std::vector<std::int64_t> out;
  for (std::int64_t f = p.flat_begin; f < p.flat_end; ++f)
    out.push_back((p.start[0] + f / p.length[1]) * p.shape[1] + p.start[1] + f % p.length[1]);
  return out;
}

std::vector<Piece> all_pieces(std::int64_t rows, std::int64_t columns) {
  std::vector<Piece> out;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t h = 1; r + h <= rows; ++h)
      for (std::int64_t c = 0; c < columns; ++c)
        for (std::int64_t w = 1; c + w <= columns; ++w)
          for (std::int64_t b = 0; b < h * w; b += 2)
            for (std::int64_t e = b + 1; e <= h * w; e += 3)
              out.push_back({"w", 2, {rows, columns}, {r, c}, {h, w}, b, e});
  return out;
}

Piece whole(std::string name, std::int64_t rows, std::int64_t columns) {
  return {std::move(name), 2, {rows, columns}, {0, 0}, {rows, columns}, 0, rows * columns};
}

}  // namespace

TEST_CASE("shared runs are the elements that both pieces hold") {
  const std::vector<Piece> pieces = all_pieces(3, 4);
  MESSAGE(pieces.size() << " pieces, every pair");
  int checked = 0;
  for (const Piece& from : pieces)
    for (const Piece& to : pieces) {
      const auto a = elements_of(from), b = elements_of(to);
      std::map<std::int64_t, std::int64_t> expected, found;  // element of `to` -> of `from`
      for (std::size_t i = 0; i < a.size(); ++i)
        for (std::size_t j = 0; j < b.size(); ++j)
          if (a[i] == b[j]) expected[static_cast<std::int64_t>(j)] = static_cast<std::int64_t>(i);
      bool twice = false;
      for (const Run& r : shared_runs(from, to))
        for (std::int64_t i = 0; i < r.elements; ++i)
          twice = !found.emplace(r.to + i, r.from + i).second || twice;
      checked += expected == found && !twice ? 1 : 0;
    }
  CHECK(checked == static_cast<int>(pieces.size() * pieces.size()));
  // Rows that follow each other in both are one run.
  CHECK(shared_runs(whole("w", 100, 8), whole("w", 100, 8)).size() == 1);
  CHECK(shared_runs(whole("w", 3, 4), whole("u", 3, 4)).empty());
}

TEST_CASE("sound pieces") {
  const Piece good = whole("w", 3, 4);
  CHECK(is_sound(good));
  const auto bad = [&](auto&& change) {
    Piece p = good;
    change(p);
    return !is_sound(p);
  };
  CHECK(bad([](Piece& p) { p.name = ""; }));
  CHECK(bad([](Piece& p) { p.dims = 3; }));
  CHECK(bad([](Piece& p) { p.dims = 1; }));  // a vector has one column
  CHECK(bad([](Piece& p) { p.start[0] = 1; }));
  CHECK(bad([](Piece& p) { p.start[1] = -1; }));
  CHECK(bad([](Piece& p) { p.length[1] = 0; }));
  CHECK(bad([](Piece& p) { p.shape[0] = std::int64_t{1} << 62; }));
  CHECK(bad([](Piece& p) { p.flat_end = 13; }));
  CHECK(bad([](Piece& p) { p.flat_end = 0; }));
  CHECK(bad([](Piece& p) { p.flat_begin = -1; }));
}

TEST_CASE("coverage: every element exactly once") {
  const TensorShapes model = {{"a", {4, 6}}, {"b", {5, 1}}};
  Piece left{"a", 2, {4, 6}, {0, 0}, {4, 3}, 0, 12}, right = left;
  right.start[1] = 3;
  Piece right_low = right, right_high = right;  // two halves of one slice
  right_low.flat_end = right_high.flat_begin = 5;
  const Piece b{"b", 1, {5, 1}, {0, 0}, {5, 1}, 0, 5};
  CHECK(coverage_fault({left, right, b}, model) == "");
  CHECK(coverage_fault({b, right_high, left, right_low}, model) == "");
  CHECK(coverage_fault({left, b}, model) == "12 of 24 elements of a");
  CHECK(coverage_fault({left, right}, model) == "no b");
  CHECK(coverage_fault({left, right, b, b}, model).find("twice") != std::string::npos);
  CHECK(coverage_fault({left, right, right_low, b}, model).find("twice") != std::string::npos);
  CHECK(coverage_fault({left, right_high, b}, model) == "no element 0 of [0+4, 3+3] of a");
  Piece middle = left;
  middle.start[1] = 2;
  CHECK(coverage_fault({left, middle, b}, model).find("twice") != std::string::npos);
  Piece other = b;
  other.name = "c";
  CHECK(coverage_fault({left, right, b, other}, model) == "c, which the model does not have");
  Piece longer = b;
  longer.shape[0] = 6;
  CHECK(coverage_fault({left, right, longer}, model).find("instead of 5x1") != std::string::npos);
}
