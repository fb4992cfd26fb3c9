// Tables for people: columns as wide as their widest cell, numbers to the right. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem::tools {

class Table {
 public:
  // One word a column; a name that ends in '<' is aligned left (the '<' is not printed).
  explicit Table(std::vector<std::string> columns);
  // As many cells as columns (checked).
  void row(std::vector<std::string> cells);
  // Two spaces of indent, two between columns, no spaces at the end of a line.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the head first
  std::vector<bool> left_;
};

[[nodiscard]] std::string grouped(std::int64_t value);  // 12,345,678
// Three significant digits and a prefix: "1.23 T", "850 M", "12.0"
[[nodiscard]] std::string with_prefix(double value);
[[nodiscard]] std::string percent(double part);  // "12.3 %"

}  // namespace tandem::tools
