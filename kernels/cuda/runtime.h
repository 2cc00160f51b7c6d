// What an engine needs of a device, without its names: so that it runs on the CPU too, with emulated kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
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
};

enum class Memory { device, pinned };

// A piece of memory that goes with its owner.
class Allocation {
 public:
  Allocation() = default;
  Allocation(std::size_t bytes, Memory kind);
  ~Allocation();
  Allocation(Allocation&& other) noexcept { *this = std::move(other); }
  Allocation& operator=(Allocation&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(kind_, other.kind_);
    return *this;
  }
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Memory kind_ = Memory::device;
};

// A stream, its own or a caller's, and what is put into it. One thread at a time.
class Stream {
 public:
  Stream();  // on the device that `use_device` chose for this thread
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void copy(void* to, const void* from, std::size_t bytes);  // of any kind of memory
  template <class T>
  void enqueue(const Launch<T>& launch);
  void wait();  // throws what a launch or a copy before ended with

  // What follows in this stream waits for what is in `other` by now, and the other way: a caller's stream,
  // null for the default one.
  void wait_for(void* other);
  void let_wait(void* other);

  // Records the launches once, to be put in again by one call.
  class Graph;
  template <class T>
  std::unique_ptr<Graph> capture(const std::vector<Launch<T>>& launches);
  void enqueue(const Graph& graph);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Stream::Graph {
 public:
  virtual ~Graph() = default;
};

extern const bool kEmulated;
DeviceInfo device_info(int device);
int device_count();
void use_device(int device);

}  // namespace pepnet::cuda
