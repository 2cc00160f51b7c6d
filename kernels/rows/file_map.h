// A file mapped for reading, whatever happens to it: reads of what was cut away give zeros and are noticed.
//
// A file that is truncated while it is mapped (a copy over it begins with that), or whose disk fails, raises
// SIGBUS in whoever reads the page next, which ends the process. The handler here puts a page of zeros in
// its place, notes that in the map, and lets the read go on; whoever read asks `problem` afterwards and
// throws away what came. Faults at any other address go to the handler that was there before.
//
// A file that is written in place shows other content under the same map. Its size and times tell: a write
// sets them before the bytes change, so content that was read before `problem` found nothing is the content
// of the file as it was mapped. (Two writes in one tick of the file system's clock have one time.)
#pragma once

#include <cstddef>
#include <cstdint>

namespace pepnet {

// Which file, and which content of it.
struct FileIdentity {
  std::uint64_t device, inode, size, links;
  std::int64_t modified_ns, changed_ns;
};

enum class FileProblem {
  kNone,
  kUnreadable,  // a page could not be read: cut away, or the disk failed
  kResized,
  kWritten,
  kTouched,  // size and time of the last write are the same, and yet something was done to it
};

class FileMap {
 public:
  // Maps the file behind `descriptor`, of which it keeps a duplicate. Throws std::system_error, and
  // std::invalid_argument for a file of no bytes.
  explicit FileMap(int descriptor);
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;
  ~FileMap();

  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  const FileIdentity& identity() const noexcept { return identity_; }

  // What is wrong with all that was read so far. One fstat.
  FileProblem problem() const noexcept;

  // When the file was last changed in any way: now, and as it was mapped or last accepted. A copy may set
  // the time of the last write back to what it was; this one it cannot set. A new name or other rights set
  // it too: whoever has compared the content may accept the time that was before it was compared.
  std::int64_t changed_ns() const noexcept;
  void accept(std::int64_t changed_ns) noexcept;

 private:
  struct Slot;
  friend struct FileMapHandler;

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
  FileIdentity identity_{};
  Slot* slot_ = nullptr;
};

}  // namespace pepnet
