# tandem_options: flags of every target of ours. tandem_test(): one doctest program = one ctest entry.
# -ffp-contract=off: gcc would fuse a*b+c and change last bits between machines (docs/decisions.md).
add_library(tandem_options INTERFACE)
target_compile_features(tandem_options INTERFACE cxx_std_20)
target_include_directories(tandem_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tandem_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers
                                                -ffp-contract=off -fno-fast-math)
# gcc 12 warns about a string operation of its own library (its bug 105651).
target_compile_options(tandem_options INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
if(TANDEM_WERROR)
  target_compile_options(tandem_options INTERFACE -Werror)
endif()
if(TANDEM_SANITIZE)
  target_compile_options(tandem_options INTERFACE -fsanitize=${TANDEM_SANITIZE}
                                                  -fno-omit-frame-pointer
                                                  -fno-sanitize-recover=all)
  # clang 14's function check rejects Asio's coroutines; gcc has no such check.
  target_compile_options(tandem_options INTERFACE $<$<CXX_COMPILER_ID:Clang>:-fno-sanitize=function>)
  target_link_options(tandem_options INTERFACE -fsanitize=${TANDEM_SANITIZE})
endif()
if(TANDEM_FAULTS)
  target_compile_definitions(tandem_options INTERFACE TANDEM_FAULTS=1)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(TANDEM_CCACHE ccache)
if(TANDEM_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TANDEM_CCACHE})
endif()

# tandem_test(NAME n SOURCES a.cpp ... [LIBS ...] [LABELS fast unit ...] [TIMEOUT s] [ARGS ...])
# One doctest executable; tests/doctest_main.cpp supplies main. Default labels: fast unit.
function(tandem_test)
  cmake_parse_arguments(T "" "NAME;TIMEOUT" "SOURCES;LIBS;LABELS;ARGS" ${ARGN})
  if(NOT T_LABELS)
    set(T_LABELS fast unit)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 60)
  endif()
  add_executable(${T_NAME} ${T_SOURCES} ${PROJECT_SOURCE_DIR}/tests/doctest_main.cpp)
  target_link_libraries(${T_NAME} PRIVATE ${T_LIBS} tandem_options)
  # Test code runs once: -O1 halves the time to compile it (the libraries under test keep -O3).
  target_compile_options(${T_NAME} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${T_NAME} PRIVATE TANDEM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${T_NAME} COMMAND ${T_NAME} ${T_ARGS} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${T_NAME} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT})
endfunction()
