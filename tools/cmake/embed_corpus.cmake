# cmake -DTEXT=corpus.txt -DOUT=corpus.cpp -P embed_corpus.cmake: the text as bytes of the program.
file(READ ${TEXT} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],))" "\\1\n" bytes "${bytes}")
set(text "// Generated from scenarios/data/corpus.txt by embed_corpus.cmake.
#include \"tools/training.h\"
namespace tandem::tools {
namespace {
constexpr char kCorpus[] = {
${bytes}
};
}  // namespace
std::string_view shipped_text() { return {kCorpus, sizeof kCorpus}; }
}  // namespace tandem::tools
")
file(CONFIGURE OUTPUT ${OUT} CONTENT "${text}" @ONLY)
