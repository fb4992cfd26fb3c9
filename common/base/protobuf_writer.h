// Protocol-buffer wire format, as much as the timelines and exports need: an encoder into a string
// and a decoder over bytes that may be damaged. No schemas: whoever writes a format names its
// fields.
//   tag = varint(field << 3 | wire); wire 0 varint, 1 eight bytes LE, 2 length + bytes, 5 four
//   bytes LE; a varint holds 7 bits a byte, low group first, bit 7 = more, at most 10 bytes.
// Plain values; one object is used by one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tandem {

void append_varint(std::string& out, std::uint64_t value);

class ProtoWriter {
 public:
  void varint(int field, std::uint64_t value);  // int64, enum, bool too: cast, two's complement
  void fixed64(int field, std::uint64_t value);
  void real(int field, double value);
  void real32(int field, float value);
  void text(int field, std::string_view bytes);  // string, bytes
  void message(int field, const ProtoWriter& inner) { text(field, inner.bytes()); }
  void packed(int field, std::span<const std::uint64_t> values);  // of proto3's repeated numbers
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  void clear() { bytes_.clear(); }

 private:
  void raw_varint(std::uint64_t value) { append_varint(bytes_, value); }
  std::string bytes_;
};

// One field of a message; `bytes` refers to the reader's input.
struct ProtoField {
  int number = 0, wire = 0;
  std::uint64_t value = 0;  // wire 0, 1, 5
  std::string_view bytes;   // wire 2
  [[nodiscard]] std::int64_t as_int() const { return static_cast<std::int64_t>(value); }
};

// Walks the fields of one message. next() is false at the end and at the first damage; then
// error() says which. Never reads outside its input, whatever the lengths claim.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : begin_(bytes.data()), left_(bytes) {}
  [[nodiscard]] bool next(ProtoField& field);
  [[nodiscard]] bool failed() const { return !error_.empty(); }
  [[nodiscard]] const std::string& error() const { return error_; }
  // Bytes consumed: where the next field starts.
  [[nodiscard]] std::size_t offset() const {
    return static_cast<std::size_t>(left_.data() - begin_);
  }

 private:
  bool raw_varint(std::uint64_t& value);
  bool raw_fixed(int bytes, std::uint64_t& value);
  const char* begin_;
  std::string_view left_;
  std::string error_;
};

}  // namespace tandem
