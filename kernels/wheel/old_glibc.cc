// What the headers and the libstdc++ of a newer system expect of glibc, for a wheel that is linked with an
// older one (build.py).
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

extern "C" {
// Since glibc 2.32: nonzero in a process that never had a second thread, in which shared_ptr counts without
// atomic operations. Zero is right in every process.
extern char __libc_single_threaded;
char __libc_single_threaded = 0;

// Since glibc 2.36, for std::random_device.
std::uint32_t arc4random();
std::uint32_t arc4random() {
  std::uint32_t drawn = 0;
  // As glibc's does: whoever asks cannot go on without.
  if (getentropy(&drawn, sizeof drawn) != 0) std::abort();
  return drawn;
}
}
