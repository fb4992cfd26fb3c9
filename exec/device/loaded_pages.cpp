#include "exec/device/loaded_pages.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string_view>

#include "common/base/file.h"

namespace tandem::exec {
namespace {

bool is_traced() {
  const Result<std::string> status = read_file("/proc/self/status", 1 << 16);
  return !status || status->find("\nTracerPid:\t0\n") == std::string::npos;
}

int drop_segments(dl_phdr_info* object, std::size_t, void*) {
  if (std::string_view(object->dlpi_name).find("vdso") != std::string_view::npos) return 0;
  const auto page = static_cast<ElfW(Addr)>(::sysconf(_SC_PAGESIZE));
  bool has_text_relocations = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_DYNAMIC) continue;
    const auto* entry = reinterpret_cast<const ElfW(Dyn)*>(object->dlpi_addr + segment.p_vaddr);
    for (; entry->d_tag != DT_NULL; ++entry) has_text_relocations |= entry->d_tag == DT_TEXTREL;
  }
  if (has_text_relocations) return 0;  // its read-only pages differ from the file
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W)) continue;
    const ElfW(Addr) begin = (object->dlpi_addr + segment.p_vaddr) & ~(page - 1);
    const ElfW(Addr) end = (object->dlpi_addr + segment.p_vaddr + segment.p_filesz) & ~(page - 1);
    if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
  return 0;
}

}  // namespace

void drop_loaded_pages() {
  if (!is_traced()) ::dl_iterate_phdr(&drop_segments, nullptr);
}

}  // namespace tandem::exec
