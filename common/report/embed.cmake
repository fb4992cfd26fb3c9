# cmake -DCSS=a.css -DJS=b.js -DOUT=page.cpp -P embed.cmake: the page's files as C++ strings.
file(READ ${CSS} css)
file(READ ${JS} js)
file(WRITE ${OUT} "// Generated from common/report/page by embed.cmake.
#include \"common/report/page.h\"
namespace tandem {
const std::string_view kReportCss = R\"TANDEM(${css})TANDEM\";
const std::string_view kReportJs = R\"TANDEM(${js})TANDEM\";
}  // namespace tandem
")
