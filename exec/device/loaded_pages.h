// Pages of program files that loading has touched and running does not need. LibTorch's static
// initialisers read some 50 MiB of its file, once, to register operators; those pages stay mapped
// and count as resident memory of the process although all ranks share them.
#pragma once

namespace tandem::exec {

// Unmaps the resident pages of all read-only segments of the program and its libraries. They hold
// what the file holds: what is needed again comes back from the page cache at the next touch (about
// a microsecond each). Writable segments are left, also those that became read-only after
// relocation. Does nothing under a debugger, whose breakpoints are changes of such pages. Any
// thread, at any time; a refusal of the system is no error.
void drop_loaded_pages();

}  // namespace tandem::exec
