// Goal: numbers without locale or surprises, names, UTF-8, and one escape per format.
#include "common/base/text.h"

#include <doctest/doctest.h>

#include <array>

using namespace tandem;

TEST_CASE("parse_int takes 0 and digits without leading zero, nothing else") {
  CHECK(parse_int("0") == 0);
  CHECK(parse_int("-7") == -7);
  CHECK(parse_int("9223372036854775807") == INT64_MAX);
  for (const char* bad : {"", "-", "-0", "00", "010", "+5", "0x10", "1e3", "1_000", " 1", "1 ",
                          "9223372036854775808", "1.0"})
    CHECK_MESSAGE(!parse_int(bad), bad);
}

TEST_CASE("parse_double takes finite decimals and refuses silent overflow and underflow") {
  CHECK(parse_double("0.5") == 0.5);
  CHECK(parse_double("3e-4") == 3e-4);
  CHECK(parse_double("1e+3") == 1000.0);
  CHECK(parse_double("-2.5E2") == -250.0);
  CHECK(parse_double("0e5") == 0.0);
  CHECK(parse_double("1e400") == std::nullopt);
  CHECK(parse_double("1e-400") == std::nullopt);
  for (const char* bad : {"", ".", ".5", "5.", "1,5", "nan", ".nan", "inf", "0x1p3", "1e", "1e+",
                          "1e+-3", " 1", "1 ", "+1"})
    CHECK_MESSAGE(!parse_double(bad), bad);
}

TEST_CASE("format_double reads back") {
  for (double x : {0.1, 3e-4, 1e-8, 3.35e12, 12345.678, 1e300, -2.5})
    CHECK(parse_double(format_double(x)) == x);
  CHECK(format_double(2) == "2");
}

TEST_CASE("nearest_name: edit distance at most 2, the first of equals") {
  const std::array<std::string, 4> known = {"cluster", "execute", "model", "parallel"};
  CHECK(nearest_name("paralel", known) == "parallel");
  CHECK(nearest_name("modle", known) == "model");
  CHECK(nearest_name("paral", known) == std::nullopt);
  CHECK(edit_distance("kitten", "sitting") == 3);
  const std::array<std::string, 2> shorts = {"pp", "tp"};
  CHECK(nearest_name("xy", shorts) == std::nullopt);  // nothing in common
  CHECK(nearest_name("cp", shorts) == "pp");
}

TEST_CASE("plain names") {
  for (const char* good : {"a", "gpt3-6.7b", "A_1"}) CHECK(is_plain_name(good));
  for (const char* bad : {"", ".", "..", "../x", ".a", "-a", "a b", "a/b", "<b>", "=cmd()", "\x1b"})
    CHECK_FALSE(is_plain_name(bad));
  CHECK(is_plain_name(std::string(64, 'n')));
  CHECK_FALSE(is_plain_name(std::string(65, 'n')));
}

TEST_CASE("decode_utf8 refuses overlong, surrogate, truncated and too large") {
  CHECK(decode_utf8("\xe6\x97\xa5", 0).value == 0x65e5);
  for (const char* bad :
       {"\xc0\x80", "\xed\xa0\x80", "\xe6\x97", "\xf4\x90\x80\x80", "\xff", "\x80"})
    CHECK_FALSE(decode_utf8(bad, 0).valid);
}

TEST_CASE("escapes") {
  CHECK(escape_terminal("a\x1b[31m\x7f") == "a\\x1b[31m\\x7f");
  CHECK(escape_terminal("\xe2\x80\xae") == "\\u{202e}");
  CHECK(escape_terminal("\xc2\x85") == "\\u{85}");
  CHECK(escape_terminal("\xff") == "\\xff");
  CHECK(escape_terminal("\xe6\x97\xa5") == "\xe6\x97\xa5");
  CHECK(escape_html("<a href='x'>&\"") == "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
  CHECK(escape_json("a\"\\\n\x01\xe6\x97\xa5\xff") == "a\\\"\\\\\\n\\u0001\\u65e5\\ufffd");
  CHECK(escape_json("\xf0\x9f\x98\x80") == "\\ud83d\\ude00");
  CHECK(csv_cell("plain") == "plain");
  CHECK(csv_cell("a,\"b\"") == "\"a,\"\"b\"\"\"");
  CHECK(csv_cell("=cmd()") == "'=cmd()");
  CHECK(csv_cell("@x") == "'@x");
  CHECK(csv_cell("-1.5") == "-1.5");
  CHECK(csv_cell("-x") == "'-x");
}

TEST_CASE("cutting, joining and widths") {
  CHECK(trim(" \t a b \r\n") == "a b");
  CHECK(split("a,,b", ',').size() == 3);
  const std::array<std::string, 2> parts = {"a", "b"};
  CHECK(join(parts, ", ") == "a, b");
  CHECK(display_width("a\xe6\x97\xa5") == 3);  // a wide character
  CHECK(display_width("e\xcc\x81") == 1);      // a combining accent
}
