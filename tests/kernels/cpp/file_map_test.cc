#include "rows/file_map.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "check.h"

namespace pepnet::test {
namespace {

std::size_t page() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

// A file of whole pages with a name, each byte of it `fill`.
class File {
 public:
  File(std::size_t pages, char fill)
      : path_((std::filesystem::temp_directory_path() / "pepnet-file-map-XXXXXX").string()),
        descriptor_(mkstemp(path_.data())) {
    CHECK(descriptor_ >= 0);
    const std::string content(pages * page(), fill);
    CHECK(write(descriptor_, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    close(descriptor_);
    unlink(path_.c_str());
  }

  int descriptor() const { return descriptor_; }
  void cut(std::size_t pages) const {
    CHECK(ftruncate(descriptor_, static_cast<off_t>(pages * page())) == 0);
  }

 private:
  std::string path_;
  int descriptor_;
};

// What the process does of a SIGBUS without a FileMap: the tests put one of these in, and count.
volatile sig_atomic_t faults = 0, sent = 0;

// Lets the read that failed go on with a nine, so that it tells who answered.
void on_fault(int /*signal*/, siginfo_t* info, void* /*context*/) {
  if (info->si_code <= 0) {
    sent = sent + 1;
    return;
  }
  faults = faults + 1;
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr) & ~(std::uintptr_t{page()} - 1);
  void* const where = mmap(reinterpret_cast<void*>(at), page(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (where == MAP_FAILED) std::abort();
  *static_cast<char*>(where) = '9';
}

void on_signal(int /*signal*/) { sent = sent + 1; }

struct sigaction action_of(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  return action;
}

// Puts a handler where SIGBUS goes; a map that is made afterwards has to put its own in front again.
class Handler {
 public:
  explicit Handler(const struct sigaction& action) {
    faults = 0;
    sent = 0;
    CHECK(sigaction(SIGBUS, &action, &before_) == 0);
  }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler() { sigaction(SIGBUS, &before_, nullptr); }

 private:
  struct sigaction before_{};
};

// Each read is made: the compiler does not know what is there.
char read_at(const void* data, std::size_t at) { return static_cast<const volatile char*>(data)[at]; }

void pages_cut_away_are_zeros_and_noticed() {
  const Handler handler(action_of(on_fault));
  const File file(3, 'a');
  const FileMap map(file.descriptor());
  CHECK(map.size() == 3 * page());
  CHECK(read_at(map.data(), 2 * page()) == 'a');
  CHECK(map.problem() == FileProblem::kNone);
  file.cut(1);
  CHECK(map.problem() == FileProblem::kResized);
  CHECK(read_at(map.data(), 2 * page() + 17) == '\0');
  CHECK(map.problem() == FileProblem::kUnreadable);
  CHECK(read_at(map.data(), page()) == '\0');
  CHECK(read_at(map.data(), 5) == 'a');
  file.cut(3);  // what was read stays wrong, whatever the file is now
  CHECK(map.problem() == FileProblem::kUnreadable);
  CHECK(faults == 0);
}

void maps_do_not_answer_for_each_other() {
  const Handler handler(action_of(on_fault));
  const File cut(2, 'a'), whole(2, 'b');
  const FileMap of_cut(cut.descriptor()), of_whole(whole.descriptor()), also_of_cut(cut.descriptor());
  cut.cut(0);
  CHECK(read_at(of_cut.data(), page()) == '\0');
  CHECK(of_cut.problem() == FileProblem::kUnreadable);
  CHECK(also_of_cut.problem() == FileProblem::kResized);  // of which nothing was read
  CHECK(of_whole.problem() == FileProblem::kNone);
  CHECK(read_at(of_whole.data(), page()) == 'b');
  CHECK(read_at(also_of_cut.data(), 0) == '\0');
  CHECK(also_of_cut.problem() == FileProblem::kUnreadable);
  CHECK(faults == 0);
}

void other_faults_go_to_the_handler_before() {
  const Handler handler(action_of(on_fault));
  const File ours(1, 'a'), other(1, 'b');
  const FileMap map(ours.descriptor());
  void* const mapped = mmap(nullptr, page(), PROT_READ, MAP_SHARED, other.descriptor(), 0);
  CHECK(mapped != MAP_FAILED);
  other.cut(0);
  CHECK(read_at(mapped, 0) == '9');
  CHECK(faults == 1);
  CHECK(map.problem() == FileProblem::kNone);
  munmap(mapped, page());
  raise(SIGBUS);  // a signal that was sent is of no map
  CHECK(sent == 1);
  CHECK(faults == 1);
  CHECK(map.problem() == FileProblem::kNone);
}

void signals_go_to_a_handler_without_information() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  const Handler handler(action);
  const File file(1, 'a');
  const FileMap map(file.descriptor());
  raise(SIGBUS);
  CHECK(sent == 1);
  file.cut(0);
  CHECK(read_at(map.data(), 0) == '\0');
  CHECK(sent == 1);
}

// The handler must not take an address for a map's that was one.
void addresses_are_given_back() {
  const Handler handler(action_of(on_fault));
  const File first(2, 'a'), second(2, 'b');
  std::optional<FileMap> map(std::in_place, first.descriptor());
  void* const at = const_cast<std::byte*>(map->data());
  first.cut(1);
  CHECK(read_at(at, page()) == '\0');
  CHECK(map->problem() == FileProblem::kUnreadable);
  map.reset();
  void* const mapped =
      mmap(at, 2 * page(), PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, second.descriptor(), 0);
  CHECK(mapped == at);
  second.cut(1);
  CHECK(read_at(at, page()) == '9');
  CHECK(faults == 1);
  munmap(mapped, 2 * page());
  // The next map has what the handler knew of the first, and begins without a problem.
  const File third(2, 'c');
  map.emplace(third.descriptor());
  CHECK(map->problem() == FileProblem::kNone);
  CHECK(read_at(map->data(), page()) == 'c');
  third.cut(1);
  CHECK(read_at(map->data(), page()) == '\0');
  CHECK(map->problem() == FileProblem::kUnreadable);
  CHECK(faults == 1);
}

void a_handler_that_came_later_is_passed_on_to() {
  const File first(1, 'a'), second(1, 'b'), other(1, 'c');
  const FileMap before(first.descriptor());
  const Handler handler(action_of(on_fault));  // another library's, which knows nothing of ours
  const FileMap after(second.descriptor());
  first.cut(0);
  second.cut(0);
  CHECK(read_at(before.data(), 0) == '\0');
  CHECK(read_at(after.data(), 0) == '\0');
  CHECK(before.problem() == FileProblem::kUnreadable);
  CHECK(after.problem() == FileProblem::kUnreadable);
  CHECK(faults == 0);
  void* const mapped = mmap(nullptr, page(), PROT_READ, MAP_SHARED, other.descriptor(), 0);
  CHECK(mapped != MAP_FAILED);
  other.cut(0);
  CHECK(read_at(mapped, 0) == '9');
  CHECK(faults == 1);
  munmap(mapped, page());
}

}  // namespace

void file_map() {
  pages_cut_away_are_zeros_and_noticed();
  maps_do_not_answer_for_each_other();
  other_faults_go_to_the_handler_before();
  signals_go_to_a_handler_without_information();
  addresses_are_given_back();
  a_handler_that_came_later_is_passed_on_to();
}

}  // namespace pepnet::test
