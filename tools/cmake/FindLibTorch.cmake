# Finds the unpacked LibTorch that tools/quickstart fetches (docs/decisions.md D-002), without the
# CMake files of the wheel: those demand a CUDA toolkit even for programs that run on the CPU.
#
# Looked for, in this order (each is a folder with torch/lib and torch/include in it):
#   TANDEM_LIBTORCH_ROOT          CMake variable or environment; a site-packages folder with torch fits
#   $TANDEM_DEPS/libtorch-VERSION
#   ${XDG_CACHE_HOME:-$HOME/.cache}/tandem/libtorch-VERSION
#
# Targets   LibTorch::LibTorch (use this one), LibTorch::torch_cpu, LibTorch::c10
# Sets      LibTorch_FOUND, LibTorch_ROOT_DIR, LibTorch_VERSION; and where the pieces lie beside it
#           LibTorch_CUDART_INCLUDE_DIR, LibTorch_NCCL_INCLUDE_DIR, LibTorch_NCCL_LIBRARY (or empty)
#
# Includes come by -idirafter: the folder holds a copy of fmt, and Debian's headers have to win
# (D-004). Only torch_cpu and c10 are linked: libtorch.so itself would pull in the CUDA libraries.
set(LibTorch_PINNED_VERSION 2.11.0)

set(_libtorch_places "")
foreach(_place IN ITEMS "${TANDEM_LIBTORCH_ROOT}" "$ENV{TANDEM_LIBTORCH_ROOT}")
  if(_place)
    list(APPEND _libtorch_places "${_place}")
  endif()
endforeach()
if(NOT "$ENV{TANDEM_DEPS}" STREQUAL "")
  list(APPEND _libtorch_places "$ENV{TANDEM_DEPS}/libtorch-${LibTorch_PINNED_VERSION}")
endif()
if(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  list(APPEND _libtorch_places "$ENV{XDG_CACHE_HOME}/tandem/libtorch-${LibTorch_PINNED_VERSION}")
elseif(NOT "$ENV{HOME}" STREQUAL "")
  list(APPEND _libtorch_places "$ENV{HOME}/.cache/tandem/libtorch-${LibTorch_PINNED_VERSION}")
endif()

set(LibTorch_ROOT_DIR "")
foreach(_place IN LISTS _libtorch_places)
  if(EXISTS "${_place}/torch/lib/libtorch_cpu.so" AND EXISTS "${_place}/torch/include/ATen/ATen.h")
    get_filename_component(LibTorch_ROOT_DIR "${_place}" ABSOLUTE)
    break()
  endif()
endforeach()

set(LibTorch_VERSION "")
if(LibTorch_ROOT_DIR)
  file(STRINGS "${LibTorch_ROOT_DIR}/torch/include/torch/headeronly/version.h" _libtorch_version_lines
       REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  foreach(_part IN ITEMS MAJOR MINOR PATCH)
    string(REGEX MATCH "TORCH_VERSION_${_part} ([0-9]+)" _ "${_libtorch_version_lines}")
    list(APPEND LibTorch_VERSION "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN LibTorch_VERSION "." LibTorch_VERSION)
endif()

list(JOIN _libtorch_places "\n    " _libtorch_places_text)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LibTorch_ROOT_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "LibTorch ${LibTorch_PINNED_VERSION} is not in any of:\n    ${_libtorch_places_text}\n  Run tools/quickstart once (it fetches it into the cache), or name a folder that holds torch/lib and torch/include by -DTANDEM_LIBTORCH_ROOT=DIR, or build without the executor: -DTANDEM_EXEC=OFF."
)

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  set(_libtorch_lib "${LibTorch_ROOT_DIR}/torch/lib")
  set(_libtorch_include "${LibTorch_ROOT_DIR}/torch/include")
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${_libtorch_lib}/libc10.so"
                                                 IMPORTED_SONAME libc10.so)
  # The wheel is built with gcc's C++11 ABI, which is also the compilers' default.
  target_compile_definitions(LibTorch::c10 INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  target_compile_options(LibTorch::c10 INTERFACE "SHELL:-idirafter \"${_libtorch_include}\"")
  add_library(LibTorch::torch_cpu SHARED IMPORTED)
  set_target_properties(LibTorch::torch_cpu PROPERTIES
    IMPORTED_LOCATION "${_libtorch_lib}/libtorch_cpu.so" IMPORTED_SONAME libtorch_cpu.so)
  target_link_libraries(LibTorch::torch_cpu INTERFACE LibTorch::c10)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::torch_cpu LibTorch::c10)
  # autograd (the test oracle) is torch/csrc/api; ATen itself needs only the folder above.
  target_compile_options(LibTorch::LibTorch INTERFACE
    "SHELL:-idirafter \"${_libtorch_include}/torch/csrc/api/include\"")
endif()

# Headers and libraries of the small wheels beside it, for the CUDA plugin; empty where absent.
set(LibTorch_CUDART_INCLUDE_DIR "")
set(LibTorch_NCCL_INCLUDE_DIR "")
set(LibTorch_NCCL_LIBRARY "")
if(EXISTS "${LibTorch_ROOT_DIR}/nvidia/cu13/include/cuda_runtime_api.h")
  set(LibTorch_CUDART_INCLUDE_DIR "${LibTorch_ROOT_DIR}/nvidia/cu13/include")
endif()
if(EXISTS "${LibTorch_ROOT_DIR}/nvidia/nccl/include/nccl.h")
  set(LibTorch_NCCL_INCLUDE_DIR "${LibTorch_ROOT_DIR}/nvidia/nccl/include")
  set(LibTorch_NCCL_LIBRARY "${LibTorch_ROOT_DIR}/nvidia/nccl/lib/libnccl.so.2")
endif()
