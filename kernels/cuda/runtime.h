// The device operations that an engine needs, independent of CUDA's API, so that tests run it on the CPU with
// emulated kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/program.h"

namespace pepnet::cuda {

// A call of the CUDA runtime that failed; the message names it.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct DeviceInfo {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  std::size_t memory_bytes;
  std::size_t shared_bytes;  // that a block may have
};

enum class Memory { device, pinned };

// A piece of memory that goes with its owner.
class Allocation {
 public:
  Allocation() = default;
  Allocation(std::size_t bytes, Memory kind);
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    Memory kind;
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte, Free> data_{nullptr, Free{Memory::device}};
  std::size_t size_ = 0;
};

// Room on both sides for what goes to the device, which grows.
struct Staging {
  Allocation pinned, device;

  // The stream must have left what is there.
  std::byte* room(std::size_t bytes) {
    if (pinned.size() < bytes) {
      const std::size_t size = std::max(bytes, 2 * pinned.size());
      device = Allocation(size, Memory::device);
      pinned = Allocation(size, Memory::pinned);
    }
    return pinned.data();
  }
};

// Makes a device the one that this thread's calls go to, for as long as it lives: a caller may use another.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_, device_;
};

class Stream;

// A point in a stream, null before it was recorded for the first time. Copies are the same event.
class Event {
 public:
  Event();
  bool operator==(const Event&) const = default;
  void record(const Stream& stream);
  void wait() noexcept;  // until what was recorded is done, or has failed

 private:
  friend class Stream;
  struct State;
  std::shared_ptr<State> state_;
};

struct Graph;  // recorded launches

// A stream, its own or a caller's, and what is put into it. One thread at a time.
class Stream {
 public:
  Stream();                        // on the device of `OnDevice`
  explicit Stream(void* callers);  // null: the default stream. Not destroyed.

  void copy(void* to, const void* from, std::size_t bytes);  // of any kind of memory
  void fill(void* at, int byte, std::size_t bytes);          // of the device
  // early: the kernel before it in the stream is one of ours, and need not be done when this one begins
  // (`wait_for_last`); where the device can.
  void enqueue(const Launch& launch, bool early = false);
  void wait();            // throws what a launch or a copy before ended with
  void drain() noexcept;  // the same, whatever it ended with
  bool being_captured() const;

  // What a launch takes, of so many one after another that each wait for the last. Waits for them.
  float microseconds(const Launch& launch, int repeats);

  // What follows in this stream waits for the event.
  void wait_for(const Event& event);

  // Records the launches once, to be put in again by one call.
  std::shared_ptr<Graph> capture(std::span<const Launch> launches);
  void enqueue(const Graph& graph);

 private:
  friend class Event;
  struct State;
  std::shared_ptr<State> state_;
};

extern const bool kEmulated;
DeviceInfo device_info(int device);
int device_count();

}  // namespace pepnet::cuda
