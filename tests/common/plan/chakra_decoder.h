// Reads Chakra traces back, by the field numbers of the public schema (mlcommons/chakra,
// schema/protobuf/et_def.proto) alone: shares no code with the writer, not even the wire format.
// Refuses what the exporter has no business to write. Include doctest first.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::chakra {

inline std::uint64_t take_varint(std::string_view& in) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    REQUIRE(shift < 70);
    REQUIRE(!in.empty());
    const auto byte = static_cast<unsigned char>(in[0]);
    in.remove_prefix(1);
    value += std::uint64_t{byte % 128u} << shift;
    if (byte < 128) return value;
  }
}

inline std::string_view take_bytes(std::string_view& in) {
  const std::uint64_t size = take_varint(in);
  REQUIRE(size <= in.size());
  const std::string_view out = in.substr(0, size);
  in.remove_prefix(size);
  return out;
}

struct Value {
  std::string type;  // "bool", "int32", "int64", "uint64", "string"
  std::uint64_t number = 0;
  std::string text;
};

struct Node {
  std::uint64_t id = 0, type = 0, duration_micros = 0;
  std::string name;
  std::vector<std::uint64_t> ctrl_deps, data_deps;
  std::map<std::string, Value> attr;

  [[nodiscard]] std::int64_t number(const std::string& key) const {
    REQUIRE_MESSAGE(attr.count(key) == 1, name << " lacks " << key);
    return static_cast<std::int64_t>(attr.at(key).number);
  }
};

// NodeType.
inline constexpr std::uint64_t kComp = 4, kSend = 5, kRecv = 6, kColl = 7;

struct Trace {
  std::string version, plan_id;
  std::vector<Node> nodes;
};

// The type that both feeders of ASTRA-sim take for an attribute.
inline std::string type_wanted(const std::string& name) {
  if (name == "is_cpu_op") return "bool";
  if (name == "tensor_size") return "uint64";
  if (name == "num_ops" || name == "comm_type" || name == "comm_size") return "int64";
  if (name == "comm_src" || name == "comm_dst" || name == "comm_tag") return "int32";
  if (name == "pg_name" || name == "tandem_plan_id") return "string";
  FAIL("no attribute of the format: " << name);
  return "";
}

inline std::pair<std::string, Value> attribute(std::string_view in) {
  std::string name;
  Value value;
  while (!in.empty()) {
    switch (take_varint(in)) {
      case 1 << 3 | 2:
        name = take_bytes(in);
        break;
      case 7 << 3:
        value.type = "int32", value.number = take_varint(in);
        break;
      case 9 << 3:
        value.type = "int64", value.number = take_varint(in);
        break;
      case 13 << 3:
        value.type = "uint64", value.number = take_varint(in);
        break;
      case 27 << 3:
        value.type = "bool", value.number = take_varint(in);
        break;
      case 29 << 3 | 2:
        value.type = "string", value.text = take_bytes(in);
        break;
      default:
        FAIL("a field that AttributeProto has not, or that is not used");
    }
  }
  CHECK(value.type == type_wanted(name));
  if (value.type == "bool") CHECK(value.number <= 1);
  return {name, value};
}

inline std::vector<std::uint64_t> packed(std::string_view in) {
  std::vector<std::uint64_t> out;
  while (!in.empty()) out.push_back(take_varint(in));
  return out;
}

inline Node node(std::string_view in) {
  Node out;
  while (!in.empty()) {
    switch (take_varint(in)) {
      case 1 << 3:
        out.id = take_varint(in);
        break;
      case 2 << 3 | 2:
        out.name = take_bytes(in);
        break;
      case 3 << 3:
        out.type = take_varint(in);
        break;
      case 4 << 3 | 2:
        out.ctrl_deps = packed(take_bytes(in));
        break;
      case 5 << 3 | 2:
        out.data_deps = packed(take_bytes(in));
        break;
      case 7 << 3:
        out.duration_micros = take_varint(in);
        break;
      case 10 << 3 | 2:
        CHECK(out.attr.insert(attribute(take_bytes(in))).second);
        break;
      default:
        FAIL("a field that Node has not, or that is not used");
    }
  }
  return out;
}

inline Trace decode(std::string_view in) {
  Trace out;
  std::string_view metadata = take_bytes(in);
  REQUIRE(!metadata.empty());  // readers would take it for the end of the file
  while (!metadata.empty()) {
    const std::uint64_t tag = take_varint(metadata);
    if (tag == (1 << 3 | 2)) {
      out.version = take_bytes(metadata);
      continue;
    }
    REQUIRE(tag == (2 << 3 | 2));
    const auto [name, value] = attribute(take_bytes(metadata));
    CHECK(name == "tandem_plan_id");
    out.plan_id = value.text;
  }
  while (!in.empty()) {
    const std::string_view record = take_bytes(in);
    REQUIRE(!record.empty());
    out.nodes.push_back(node(record));
  }
  return out;
}

}  // namespace tandem::chakra
