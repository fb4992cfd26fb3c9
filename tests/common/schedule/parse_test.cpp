// Goal    a text of an order is understood exactly, or refused at its line, column and cell;
// nothing
//         is lost on the way in or out.
// Method  every error of schedules.md 3.2 by hand; round trips of random legal orders of all kinds;
//         flipped bytes; files that PyTorch 2.11 itself wrote (torch/make_files), which must come
//         back byte for byte and pass V1, V2 and V4; sizes that a quadratic reader could not take.
#include "common/schedule/parse.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/schedule/check.h"
#include "common/schedule/evaluate.h"
#include "common/schedule/registry.h"
#include "common/schedule/text.h"
#include "tests/common/schedule/requests.h"
#include "tests/sim/scale.h"

using namespace tandem;

namespace {

OrderText parsed(std::string_view text, Dialect dialect = Dialect::tandem) {
  Result<OrderText> out = parse_order(text, "x.csv", dialect);
  if (!out) FAIL(to_text(out.error().diagnostics));
  return std::move(*out);
}

// The title of the first error.
std::string refused(std::string_view text, Dialect dialect = Dialect::tandem) {
  const Result<OrderText> out = parse_order(text, "x.csv", dialect);
  if (out) return "accepted: " + to_text(out->order);
  CHECK(out.error().failure == Failure::bad_input);
  return out.error().diagnostics[0].title;
}

std::string without_blanks(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\t' || c == '\r'; });
  return text;
}

// `order` with what a lowered text has besides: idle cells, messages, actions of whole stages.
Order decorated(Order order, Draw& draw) {
  for (RankOrder& list : order.ranks) {
    RankOrder out;
    for (std::size_t i = 0; i < list.size(); i = end_of_cell(list, i)) {
      for (int n = draw(0, 3); n > 2; n = draw(0, 3)) out.push_back({ActionKind::idle, 0, 0});
      if (draw(0, 4) == 0) {
        Action a = list[i];
        constexpr std::array kStates = {ActionKind::unshard, ActionKind::reshard,
                                        ActionKind::reduce_grad};
        a.kind = kStates[static_cast<std::size_t>(draw(0, 2))];
        a.microbatch = -1;
        a.slice = 0;
        out.push_back(a);
      }
      out.insert(out.end(), list.begin() + static_cast<std::ptrdiff_t>(i),
                 list.begin() + static_cast<std::ptrdiff_t>(end_of_cell(list, i)));
      if (draw(0, 2) == 0) {
        Action a = list[i];
        a.kind = a.kind == ActionKind::F ? ActionKind::send_f : ActionKind::recv_b;
        a.fused = false;
        out.push_back(a);
      }
    }
    list = std::move(out);
  }
  return order;
}

// The same text with CR LF and blanks where they are allowed.
std::string spaced(const std::string& text, Draw& draw) {
  std::string out;
  const auto blanks = [&] {
    for (int n = draw(0, 4); n > 3; n = draw(0, 4)) out += draw(0, 1) ? ' ' : '\t';
  };
  bool header = text.starts_with('#');
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      if (!header) blanks();
      out += draw(0, 1) ? "\r\n" : "\n";
      header = false;
      continue;
    }
    const bool around = !header && (c == ',' || c == ';');
    if (around) blanks();
    out += c;
    if (around) blanks();
  }
  return out;
}

}  // namespace

TEST_CASE("l1: the numbers of an order without header are 1 + the largest seen") {
  const OrderText t = parsed("0F0.s0, ,0F0.s1\r\n\t1F0.s0 ,(1F2.s1 ; 1B0.s1)OVERLAP_F_B,");
  CHECK(t.order.num_stages() == 2);
  CHECK(t.order.num_microbatches == 3);
  CHECK(t.order.num_slices == 2);
  CHECK(t.order.num_dirs == 1);
  CHECK(t.order.stage_rank == std::vector{0, 1});
  CHECK(to_text(t.order) == "0F0.s0,,0F0.s1\n1F0.s0,(1F2.s1;1B0.s1)OVERLAP_F_B,\n");
  CHECK(t.columns == std::vector<std::vector<std::int32_t>>{{1, 9, 10}, {2, 11, 20, 39}});
  CHECK(parsed("0F0@d0,0B0").order.num_dirs == 1);
  CHECK(to_text(parsed("0F0@d0,0B0@d0").order) == "0F0,0B0\n");
  CHECK(parsed("0F0.s0,0B0").order.num_slices == 1);
}

TEST_CASE("l1: the header gives what rows do not show") {
  const OrderText t = parsed(
      "#tandem order v1 p=2 stages=4 place=v mb=3 slices=2 kind=comms gen=zbv:p=2,m=4\n"
      "0F0,3F0\n1F0,2F0\n");
  CHECK(t.has_header);
  CHECK(t.generator == "zbv:p=2,m=4");
  CHECK(t.order.stage_rank == std::vector{0, 1, 1, 0});
  CHECK(t.order.num_microbatches == 3);
  CHECK(t.order.num_slices == 2);
  CHECK(
      parsed("#tandem order v1 p=2 stages=3 place=[0,1,1] mb=1\n0F0\n1F0,2F0\n").order.stage_rank ==
      std::vector{0, 1, 1});
}

TEST_CASE("l1: every error, with line, column and cell") {
  const std::string head = "#tandem order v1 p=1 stages=1 place=linear mb=1";
  const auto with_head = [&](const std::string& header, const char* rows = "\n0F0,0B0\n") {
    return refused(header + rows);
  };
  // Cells.
  CHECK(refused("0F0\n1F0\n2F0,2F1,2F2,2BW0\n", Dialect::torch) ==
        "l1:3:15: trailing text \"W0\" after action \"2B\" in cell \"2BW0\"");
  CHECK(parse_order("2BW0", "x", Dialect::torch).error().diagnostics[0].hint ==
        "dialect torch has no BW, did you mean --dialect torch-old?");
  CHECK(refused("0F0x") == "l1:1:4: trailing text \"x\" after action \"0F0\" in cell \"0F0x\"");
  CHECK(refused("0F0,0B0 0F1") ==
        "l1:1:8: trailing text \" 0F1\" after action \"0B0\" in cell \"0B0 0F1\"");
  CHECK(refused("0F00") == "l1:1:3: number 00 with leading zeros in cell \"0F00\"");
  CHECK(refused("01F0") == "l1:1:1: number 01 with leading zeros in cell \"01F0\"");
  CHECK(refused("0F2147483648") ==
        "l1:1:3: number 2147483648 above 2147483647 in cell \"0F2147483648\"");
  CHECK(refused("99999999999999999999F0")
            .starts_with("l1:1:1: number 99999999999999999999 above 2147483647"));
  CHECK(refused("0F") == "l1:1:3: no microbatch after \"0F\" in cell \"0F\"");
  CHECK(refused("0SEND_F") == "l1:1:8: no microbatch after \"0SEND_F\" in cell \"0SEND_F\"");
  CHECK(refused("0F@d1") == "l1:1:3: no microbatch after \"0F\" in cell \"0F@d1\"");
  for (const char* state : {"UNSHARD", "RESHARD", "REDUCE_GRAD"})
    CHECK(refused(fmt::format("0{}3", state)) ==
          fmt::format("l1:1:{0}: {1} with a microbatch in cell \"0{1}3\"",
                      2 + std::string_view(state).size(), state));
  CHECK(refused("(0F0)OVERLAP_F_B") ==
        "l1:1:1: a fused cell with one part in cell \"(0F0)OVERLAP_F_B\"");
  CHECK(refused("(0F0;0B0)OVERLAP") ==
        "l1:1:10: \"OVERLAP\" behind a fused cell in cell \"(0F0;0B0)OVERLAP\"");
  CHECK(refused("(0F0;0B0)OVERLAP_F_Bx")
            .starts_with("l1:1:10: \"OVERLAP_F_Bx\" behind a fused cell"));
  CHECK(refused("(0F0;0B0").starts_with("l1:1:1: a fused cell without \")\""));
  CHECK(refused("(0F0;)OVERLAP_F_B").starts_with("l1:1:6: an empty part"));
  CHECK(refused("((0F0;0F1)OVERLAP_F_B;0B0)OVERLAP_F_B").starts_with("l1:1:11: "));
  CHECK(refused("(0F0;(0F1;0B0)OVERLAP_F_B").starts_with("l1:1:6: a cell inside a cell"));
  CHECK(refused("(0F0;0SEND_F0)OVERLAP_F_B")
            .starts_with("l1:1:6: a part of a fused cell that does not compute"));
  CHECK(refused("0F0,\"0B0\"") == "l1:1:5: a quote in cell \"\"0B0\"\"");
  CHECK(refused("F0") == "l1:1:1: no stage number in cell \"F0\"");
  CHECK(refused("-1F0") == "l1:1:1: no stage number in cell \"-1F0\"");
  CHECK(refused("0") == "l1:1:2: no action behind the stage in cell \"0\"");
  CHECK(refused("0SEND_X1") ==
        "l1:1:2: dialect tandem has no action \"SEND_X\" in cell "
        "\"0SEND_X1\"");
  CHECK(refused("0F0@d2").starts_with("l1:1:4: trailing text \"@d2\""));
  CHECK(refused("0F0.s").starts_with("l1:1:4: trailing text \".s\""));
  CHECK(refused("0F0.s01").starts_with("l1:1:6: number 01 with leading zeros"));
  CHECK(refused("0UNSHARD.s1").starts_with("l1:1:9: trailing text \".s1\""));
  CHECK(refused("0F0.s1", Dialect::torch) ==
        "l1:1:4: dialect torch has no slices in cell \"0F0.s1\"");
  CHECK(refused("0F0@d0", Dialect::torch) ==
        "l1:1:4: dialect torch has no directions in cell \"0F0@d0\"");
  // Rows.
  CHECK(refused("") == "l1:1:1: the text is empty");
  CHECK(refused("0F0\n\n0B0\n") == "l1:2:1: an empty row");
  CHECK(refused("0F0\n\n") == "l1:2:1: an empty row");
  CHECK(refused("0F0\n \t\n") == "l1:2:1: an empty row");
  CHECK(refused(",\n,,\n") == "l1: no action");
  CHECK(refused("0F0,2F0\n") == "l1: no row has an action of stage 1, though there is a stage 2");
  CHECK(refused("\xef\xbb\xbf"
                "0F0") == "l1:1:1: byte 0xef, which is no printable ASCII");
  CHECK(refused("0F0,0B\xc3\xa9") == "l1:1:7: byte 0xc3, which is no printable ASCII");
  CHECK(refused("0F0\r0B0") == "l1:1:4: byte 0x0d, which is no printable ASCII");
  CHECK(refused(std::string_view("0F0\0", 4)) == "l1:1:4: byte 0x00, which is no printable ASCII");
  CHECK(refused("0F0,0B0\n0F0@d1,0B0@d1\n") == "l1: two directions with 2 rows and 1 stages");
  // Headers.
  CHECK(refused("0F0,0B0\n" + head + "\n") == "l1:2:1: a header that is not on line 1");
  CHECK(refused(head + "\n0F0\n", Dialect::torch) == "l1:1:1: dialect torch has no header");
  CHECK(with_head("#tandem order v2 p=1") == "l1:1:1: a first line that is no header of version 1");
  CHECK(with_head("# my order").starts_with("l1:1:1: a first line that is no header"));
  CHECK(with_head(head + " color=red") == "l1:1:49: unknown key \"color\"");
  CHECK(with_head(head + " mb=1") == "l1:1:49: key mb for a second time");
  CHECK(with_head(head + "  gen=x") == "l1:1:49: \"\" is no key=value");
  CHECK(with_head(head + " ") == "l1:1:49: \"\" is no key=value");
  CHECK(with_head(head + " gen=") == "l1:1:49: \"gen=\" is no key=value");
  CHECK(with_head(head + " dirs=3") == "l1:1:54: dirs=3 is not possible");
  CHECK(with_head(head + " slices=0") == "l1:1:56: slices=0 is not possible");
  CHECK(with_head(head + " slices=01") == "l1:1:56: slices=01 is not possible");
  CHECK(with_head(head + " kind=all") == "l1:1:54: kind=all is not possible");
  CHECK(with_head("#tandem order v1 p=1 stages=1 place=round mb=1") ==
        "l1:1:37: place=round is not possible");
  CHECK(with_head("#tandem order v1 p=1 stages=1 mb=1") == "l1:1:35: the header has no place");
  CHECK(with_head(head, "") == "l1:2:1: no row");
  CHECK(with_head("#tandem order v1 p=2 stages=2 place=linear mb=1") ==
        "l1:1:1: 1 rows, but the header says p=2");
  CHECK(with_head("#tandem order v1 p=2 stages=4 place=linear mb=1") ==
        "l1:1:1: the header contradicts itself: place=linear with p=2 and stages=4");
  CHECK(with_head("#tandem order v1 p=2 stages=3 place=v mb=1") ==
        "l1:1:1: the header contradicts itself: place=v with p=2 and stages=3");
  CHECK(with_head("#tandem order v1 p=1 stages=2 place=[0] mb=1") ==
        "l1:1:1: the header contradicts itself: a list of 1 ranks with stages=2");
  CHECK(with_head("#tandem order v1 p=1 stages=1 place=[1] mb=1") ==
        "l1:1:1: the header contradicts itself: place=[1] with p=1");
  CHECK(with_head("#tandem order v1 p=1 stages=1 place=bidir mb=1") ==
        "l1:1:1: the header contradicts itself: place=bidir with dirs=1");
  CHECK(refused(head + "\n1F0\n") ==
        "l1:2:1: stage 1, but the header says stages=1 in cell \"1F0\"");
  CHECK(refused(head + "\n0F0,0F1\n") ==
        "l1:2:5: microbatch 1, but the header says mb=1 in cell \"0F1\"");
  CHECK(refused(head + "\n0F0.s1\n") ==
        "l1:2:1: slice 1, but the header says slices=1 in cell \"0F0.s1\"");
  CHECK(refused(head + "\n0F0@d1\n") ==
        "l1:2:1: direction 1, but the header says dirs=1 in cell \"0F0@d1\"");
  CHECK(refused(head + " kind=compute\n0F0,0SEND_F0\n") ==
        "l1:2:5: an action that does not compute, but the header says kind=compute in cell "
        "\"0SEND_F0\"");
  // All of a file at once, in order.
  const auto several = parse_order("0F0x,0B\n1F0y\n", "x.csv").error().diagnostics;
  REQUIRE(several.size() == 3);
  CHECK(several[2].where == Location{"x.csv", 2, 4, 1});
  CHECK(several[2].source_line == "1F0y");
}

TEST_CASE("l1: dialects of other systems") {
  CHECK(find_dialect("torch-old") == Dialect::torch_old);
  CHECK_FALSE(find_dialect("Torch").has_value());
  // I and B here are I and BW, or B and BW, there.
  CHECK(to_text(parsed("0F0,0B0,0W0,0BW1,0UNSHARD,0SEND_B1", Dialect::torch_old).order) ==
        "0F0,0I0,0W0,0B1,0UNSHARD,0SEND_B1\n");
  CHECK(refused("0F0,0I0", Dialect::torch_old) ==
        "l1:1:6: dialect torch-old has no action \"I\" in cell \"0I0\"");
  CHECK(to_text(parsed("0F0-0,0F0-1,0B0-1,0W0-1,0BW0-0", Dialect::sail).order) ==
        "0F0.s0,0F0.s1,0I0.s1,0W0.s1,0B0.s0\n");
  CHECK(refused("0F0,0R0", Dialect::sail) ==
        "l1:1:6: dialect sail has no action \"R\" in cell \"0R0\"");
  for (const char* type : {"SEND_FORWARD", "OFFLOAD_SEND_START", "BUBBLE", "I"})
    CHECK(refused(fmt::format("0{}0", type), Dialect::sail) ==
          fmt::format("l1:1:2: dialect sail has no action \"{0}\" in cell \"0{0}0\"", type));
  CHECK(refused("0F0-", Dialect::sail).starts_with("l1:1:4: trailing text \"-\""));
  CHECK(refused("0F0-1").starts_with("l1:1:4: trailing text \"-1\""));
  CHECK(refused("(0F0;0B0)OVERLAP_F_B", Dialect::sail)
            .starts_with("l1:1:1: dialect sail has no fused cells"));
  // schedules.md 3.3: the rank 1 row of interleaved_1f1b p=2 m=4 v=2.
  const Order megatron = parsed(
                             "1, 1,2 2 1 -2 1 -2 2 -1 2 -1 -2 -2 -1 -1\n"
                             "1 1 2 -2 2 -2 1 -1 1 -1 2 -2 +2 -2 -1 -1\n",
                             Dialect::megatron)
                             .order;
  CHECK(megatron == *make_order("interleaved_1f1b", {2, 4, 2, {}, 0}, {}));
  CHECK(refused("1 0", Dialect::megatron) == "l1:1:3: \"0\" is no signed chunk in cell \"0\"");
  CHECK(refused("1 0.5", Dialect::megatron).starts_with("l1:1:3: \"0.5\" is no signed chunk"));
  CHECK(refused("1,,-1", Dialect::megatron).starts_with("l1:1:3: a comma without a number"));
  CHECK(refused("1,-1,", Dialect::megatron).starts_with("l1:1:5: a comma at the end"));
  CHECK(refused("1 0F0", Dialect::megatron).starts_with("l1:1:3: "));
  CHECK(refused("99999999999", Dialect::megatron).starts_with("l1:1:1: "));
}

TEST_CASE("l1: an order of any kind comes back, and so does its text") {
  const unsigned seed = 3400;
  MESSAGE("seed " << seed << ", draws of each kind: " << sim::scaled(60));
  Draw draw{std::mt19937(seed)};
  for (const std::string& kind : schedule_kinds()) {
    CAPTURE(kind);
    for (int n = 0; n < sim::scaled(60); ++n) {
      Request q = request_of(draw, kind);
      if (n % 4) {  // most of them small: the rules do not depend on size
        q.shape.num_ranks = std::min(q.shape.num_ranks, 4);
        q.shape.num_microbatches = std::min(q.shape.num_microbatches, 8);
        if (!q.shape.costs.empty()) q.shape.costs.clear();
      }
      const Result<Order> made = make_order(kind, q.shape, q.options);
      if (!made) continue;  // the smaller shape is not one of the kind
      const Order order = n % 2 ? decorated(*made, draw) : *made;
      const std::string rows = to_text(order), file = to_file(order, "test:" + kind);
      CAPTURE(file.substr(0, 300));
      const OrderText a = parsed(rows), b = parsed(file);
      REQUIRE(a.order == order);
      REQUIRE(b.order == order);
      REQUIRE(b.generator == "test:" + kind);
      REQUIRE(to_text(a.order) == rows);
      REQUIRE(to_file(b.order, b.generator) == file);
      REQUIRE(parsed(spaced(file, draw)).order == order);
      const Result<std::string> torch = to_torch(order);
      REQUIRE(torch.ok() == (order.num_slices == 1 && order.num_dirs == 1));
      if (torch) REQUIRE(parsed(*torch, Dialect::torch).order == order);
      if (!torch) REQUIRE(torch.error().diagnostics[0].code == "E-PLAN-005");
    }
  }
}

// What a flip leaves is refused at a place in the text, or prints to a text that reads back equal.
TEST_CASE("l1: flipped bytes") {
  const unsigned seed = 3401;
  MESSAGE("seed " << seed << ", flips: " << sim::scaled(20000));
  Draw draw{std::mt19937(seed)};
  const std::vector<std::string> kinds = schedule_kinds();
  const std::string letters = "0123456789FIWB.s@d1();,\n\r\t #=vp[]-+_SENDRCVGUH\x80\xff\"";
  int accepted = 0;
  for (int n = 0; n < sim::scaled(20000); ++n) {
    const std::string& kind = kinds[static_cast<std::size_t>(draw(0, 1 << 20)) % kinds.size()];
    const bool two = kind == "dualpipe" || kind == "chimera";
    const Result<Order> order =
        make_order(kind, {2, two || kind == "dualpipev" ? 4 : 2, 0, {}, 0}, {});
    REQUIRE(order.ok());
    std::string text = draw(0, 1) ? to_file(decorated(*order, draw)) : to_text(*order);
    for (int k = draw(1, 3); k > 0; --k) {
      const auto at = static_cast<std::size_t>(draw(0, static_cast<int>(text.size()) - 1));
      const char c = letters[static_cast<std::size_t>(draw(0, 1 << 20)) % letters.size()];
      if (draw(0, 2))
        text[at] = c;
      else if (draw(0, 1))
        text.erase(at, 1);
      else
        text.insert(at, 1, c);
      if (text.empty()) text = "0";
    }
    CAPTURE(text);
    const auto dialect = static_cast<Dialect>(draw(0, 4));
    const Result<OrderText> out = parse_order(text, "x.csv", dialect);
    if (!out) {
      const int lines = static_cast<int>(std::count(text.begin(), text.end(), '\n')) + 2;
      for (const Diagnostic& d : out.error().diagnostics) {
        REQUIRE((d.code == "E-PLAN-003" || d.code == "E-PLAN-004"));
        REQUIRE(d.title.starts_with("l1:"));
        REQUIRE(d.where.line <= lines);
      }
      continue;
    }
    ++accepted;
    const std::string canonical = to_file(out->order, out->generator);
    const Result<OrderText> again = parse_order(canonical, "x.csv");
    REQUIRE(again.ok());
    REQUIRE(again->order == out->order);
    REQUIRE(to_file(again->order, again->generator) == canonical);
    (void)check_order(out->order);  // ends, whatever the order is
  }
  MESSAGE(accepted << " accepted");
  CHECK(accepted > sim::scaled(100));
}

// Also: the order is that of Tandem's generator, where torch's rule is the same.
TEST_CASE("l1: files that PyTorch wrote come back byte for byte, verify, and can run") {
  const std::string folder = std::string(TANDEM_SOURCE_DIR) + "/tests/common/schedule/torch/";
  struct Row {
    const char* file;
    const char* kind;  // of Tandem; empty: its rule differs
    PipelineShape shape;
  };
  const std::vector<Row> rows = {
      {"gpipe_p4_m4", "gpipe", {4, 4, 1, {}, 0}},
      {"interleaved_1f1b_p2_v2_m4", "interleaved_1f1b", {2, 4, 2, {}, 0}},
      {"interleaved_1f1b_p4_v2_m8", "interleaved_1f1b", {4, 8, 2, {}, 0}},
      {"bfs_p2_v2_m3", "bfs", {2, 3, 2, {}, 0}},
      {"interleaved_zb_p2_v2_m4", "interleaved_zb", {2, 4, 2, {}, 0}},
      {"zbv_p2_m4", "zbv", {2, 4, 2, {}, 0}},
      {"zbv_p4_m8", "zbv", {4, 8, 2, {}, 0}},
      {"dualpipev_p2_m5", "dualpipev", {2, 5, 2, {}, 0}},
      {"dualpipev_p4_m8", "dualpipev", {4, 8, 2, {}, 0}},
  };
  int files = 0;
  for (const Row& row : rows)
    for (const char* form : {"", "_comms"}) {
      const std::string path = folder + row.file + form + ".csv";
      if (std::string_view(row.kind) == "gpipe" && *form) continue;  // has no such form
      CAPTURE(path);
      ++files;
      const Result<std::string> text = read_file(path, limits::kTableBytes);
      REQUIRE(text.ok());
      const OrderText t = parsed(*text, Dialect::torch);
      CHECK(*to_torch(t.order) == without_blanks(*text));
      CHECK(to_text(check_order(t.order).errors) == "");
      CHECK(evaluate(t.order, {}).ok());
      Order compute = t.order;
      for (RankOrder& list : compute.ranks)
        std::erase_if(list, [](const Action& a) { return !is_compute(a.kind); });
      CHECK(to_text(compute) == to_text(*make_order(row.kind, row.shape, {})));
    }
  CHECK(files == 17);
  // The order that torch shows for its 1F1B has F1 to F4 on the last rank (schedules.md 2.2).
  const std::string path = folder + "1f1b_p4_m4.csv";
  const Result<std::string> text = read_file(path, limits::kTableBytes);
  REQUIRE(text.ok());
  const OrderText t = parsed(*text, Dialect::torch);
  CHECK(*to_torch(t.order) == without_blanks(*text));
  const Diagnostics errors = errors_at(check_order(t.order), t, *text, path);
  REQUIRE_FALSE(errors.empty());
  CHECK(errors[0].title == "V2.1 rank 0: no F of stage 0 mb 4");
  CHECK(std::any_of(errors.begin(), errors.end(), [](const Diagnostic& d) {
    return d.title == "V2.1 rank 3: no F of stage 3 mb 0" && d.where.line == 4;
  }));
}

TEST_CASE("l1: errors of check_order at their line and column") {
  const std::string text =
      "#tandem order v1 p=2 stages=2 place=linear mb=2\r\n"
      " 0F0, 0F1,,0B0 ,0B1\r\n"
      " 1F0, 1B0, 1B1 , 1F1";
  const OrderText t = parsed(text);
  const Diagnostics errors = errors_at(check_order(t.order), t, text, "x.csv");
  REQUIRE(errors.size() == 1);
  CHECK(errors[0].title.starts_with("V2.3 rank 1 pos 2 op 1B1"));
  CHECK(errors[0].where == Location{"x.csv", 3, 12, 1});
  CHECK(errors[0].source_line == " 1F0, 1B0, 1B1 , 1F1");
}

// Each would take hours, or more memory than there is, if anything were quadratic in its size.
TEST_CASE("l1: large and lying texts end soon") {
  CHECK(refused("2147483646F2147483646").starts_with("l1:1:1: the order is too large"));
  CHECK(refused("#tandem order v1 p=1 stages=60000 place=loop mb=2000000000\n0F0\n") ==
        "l1:1:1: the order is too large");
  CHECK(refused(std::string(static_cast<std::size_t>(limits::kOrderActions) + 1, ',')) ==
        "l1:1:1: the order is too large");
  CHECK(refused(std::string(static_cast<std::size_t>(limits::kTableBytes) + 1, '0')) ==
        "l1:1:1: the order is too large");
  CHECK(refused("0F" + std::string(1 << 20, '9')).size() < 300);
  // Few actions of many visits: at most 100 messages.
  const OrderText sparse = parsed("0F2000000\n");
  CHECK(check_order(sparse.order).errors.size() ==
        static_cast<std::size_t>(limits::kDiagnosticsPrinted));
  // A backward goes through 65,536 ranks from the last to the first.
  std::string deep;
  for (int r = 0; r < 65536; ++r) deep += fmt::format("{0}F0,{0}B0\n", r);
  const OrderText ranks = parsed(deep);
  CHECK(check_order(ranks.order).ok());
  CHECK(evaluate(ranks.order, {})->makespan == 65536 * 3);
  // One cell of 200,000 parts, that waits for itself.
  std::string cell = "(0F0";
  for (int i = 1; i < 100000; ++i) cell += fmt::format(";0F{}", i);
  for (int i = 0; i < 100000; ++i) cell += fmt::format(";0B{}", i);
  const OrderText wide = parsed(cell + ")OVERLAP_F_B\n");
  CHECK(check_order(wide.order).errors[0].code == "E-PLAN-024");
}
