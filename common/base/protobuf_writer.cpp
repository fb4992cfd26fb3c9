#include "common/base/protobuf_writer.h"

#include <bit>

namespace tandem {

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

void ProtoWriter::varint(int field, std::uint64_t value) {
  raw_varint(static_cast<std::uint64_t>(field) << 3);
  raw_varint(value);
}

void ProtoWriter::fixed64(int field, std::uint64_t value) {
  raw_varint(static_cast<std::uint64_t>(field) << 3 | 1);
  for (int i = 0; i < 8; ++i) bytes_.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

void ProtoWriter::real(int field, double value) {
  fixed64(field, std::bit_cast<std::uint64_t>(value));
}

void ProtoWriter::real32(int field, float value) {
  raw_varint(static_cast<std::uint64_t>(field) << 3 | 5);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  for (int i = 0; i < 4; ++i) bytes_.push_back(static_cast<char>((bits >> (8 * i)) & 0xff));
}

void ProtoWriter::text(int field, std::string_view bytes) {
  raw_varint(static_cast<std::uint64_t>(field) << 3 | 2);
  raw_varint(bytes.size());
  bytes_.append(bytes);
}

void ProtoWriter::packed(int field, std::span<const std::uint64_t> values) {
  std::string list;
  for (std::uint64_t value : values) append_varint(list, value);
  text(field, list);
}

bool ProtoReader::raw_varint(std::uint64_t& value) {
  value = 0;
  for (int i = 0; i < 10; ++i) {
    if (left_.empty()) {
      error_ = "a number that is cut off";
      return false;
    }
    const auto byte = static_cast<unsigned char>(left_.front());
    left_.remove_prefix(1);
    if (i == 9 && byte > 1) break;  // would not fit 64 bits
    value |= std::uint64_t{byte & 0x7fu} << (7 * i);
    if ((byte & 0x80) == 0) return true;
  }
  error_ = "a number of more than 64 bits";
  return false;
}

bool ProtoReader::raw_fixed(int bytes, std::uint64_t& value) {
  if (left_.size() < static_cast<std::size_t>(bytes)) {
    error_ = "a number that is cut off";
    return false;
  }
  value = 0;
  for (int i = 0; i < bytes; ++i)
    value |= std::uint64_t{static_cast<unsigned char>(left_[static_cast<std::size_t>(i)])}
             << (8 * i);
  left_.remove_prefix(static_cast<std::size_t>(bytes));
  return true;
}

bool ProtoReader::next(ProtoField& field) {
  if (failed() || left_.empty()) return false;
  std::uint64_t tag = 0;
  if (!raw_varint(tag)) return false;
  field = {};
  if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff) {
    error_ = "a field number outside 1 .. 536870911";
    return false;
  }
  field.number = static_cast<int>(tag >> 3);
  field.wire = static_cast<int>(tag & 7);
  switch (field.wire) {
    case 0:
      return raw_varint(field.value);
    case 1:
      return raw_fixed(8, field.value);
    case 5:
      return raw_fixed(4, field.value);
    case 2: {
      std::uint64_t size = 0;
      if (!raw_varint(size)) return false;
      if (size > left_.size()) {
        error_ = "a length of " + std::to_string(size) + " bytes where " +
                 std::to_string(left_.size()) + " are left";
        return false;
      }
      field.bytes = left_.substr(0, size);
      left_.remove_prefix(size);
      return true;
    }
    default:
      error_ = "wire type " + std::to_string(field.wire);
      return false;
  }
}

}  // namespace tandem
