// A weight matrix packed for the kernels, with the memory it lies in.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "dense/packed_matrix.h"

namespace pepnet::python {

// Cache lines, zeroed.
class Lines {
 public:
  explicit Lines(std::size_t bytes)
      : size_(round_up(bytes == 0 ? 1 : bytes, 64)), data_(new (std::align_val_t{64}) std::byte[size_]()) {}
  std::byte* data() const { return data_.get(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(static_cast<void*>(data_.get()));
  }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], Free> data_;
};

struct PackedWeights {
  Lines memory;
  PackedMatrix matrix;
  std::size_t in;  // before padding
};

}  // namespace pepnet::python
