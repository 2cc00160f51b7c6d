// The whole dense part of a model, from the list of its operations and packed weights.
//
// The weights are packed once, when a model is made. A run goes one of two ways over the same steps, with the
// same bits: many rows are cut into blocks that each thread takes through the whole network on its own; of
// few rows all threads work on one step at a time, each on some of its columns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dense/ops.h"
#include "network/network.h"

namespace pepnet {

// A tensor of `dense.safetensors`: float32, C-contiguous.
struct TensorView {
  const float* data = nullptr;
  std::vector<std::size_t> shape;
};
using Tensors = std::map<std::string, TensorView>;

enum class Split : unsigned char { automatic, rows, columns };

// Limits of general, domain and prior, in this order: of the magnitude in each column, and of a row's
// Euclidean norm.
struct InputDomain {
  std::array<std::vector<float>, 3> largest;
  std::array<float, 3> norm;
};

struct DenseOptions {
  // Columns [begin, end) of general, domain and prior that may be equal in all rows of a call, ascending.
  std::array<std::vector<std::pair<std::size_t, std::size_t>>, 3> shared;
  std::size_t block_rows = 0;  // the most rows of a block; 0 goes by the second-level cache
  Split split = Split::automatic;
  std::optional<InputDomain> domain = std::nullopt;  // which rows `run` marks as outside; none
};

// C-contiguous rows. An input of width 0 may be null.
struct DenseInputs {
  const float* general = nullptr;
  const float* domain = nullptr;
  const float* prior = nullptr;
  std::size_t rows = 0;
};

struct DenseInfo {
  std::size_t packed_bytes;
  std::size_t block_rows;
};

class DenseModel {
 public:
  // `main` multiplies; `small`, of the same instruction set in fp32, does the small products and all that is
  // none. Nothing of `network` and `tensors` is kept. Throws std::invalid_argument naming the tensor or
  // option that is wrong: missing, not known, of another shape, not finite, or not to be expressed in the
  // precision.
  DenseModel(const network::Network& network, const Tensors& tensors, const Ops& main, const Ops& small,
             const DenseOptions& options = {});
  ~DenseModel();
  DenseModel(const DenseModel&) = delete;
  DenseModel& operator=(const DenseModel&) = delete;

  // Scores [rows, scores()] to `out`, on at most `threads` threads. With `share` the caller promises that the
  // columns of `shared()` are in every row what they are in the first: what products make of them is then
  // computed once. Any number of threads may call at once. Throws std::bad_alloc; allocates only when more
  // calls are under way than ever before, or more threads asked for. `outside` [rows] is set to 1 for rows
  // outside of the domain, where there is one: their scores are there, and not to be used. It may be null.
  void run(const DenseInputs& inputs, float* out, unsigned threads, bool spin, bool share,
           std::uint8_t* outside = nullptr) const;

  const std::array<std::size_t, 3>& widths() const;  // of general, domain and prior
  std::size_t scores() const;
  // Of the columns that may be equal, those that make a difference: none with int8, where each row has a
  // scale of its own.
  std::array<std::vector<std::pair<std::size_t, std::size_t>>, 3> shared() const;
  const DenseInfo& info() const;
  std::size_t memory_bytes() const;  // packed weights, and scratch of all calls so far

 private:
  struct State;
  class Work;
  std::unique_ptr<State> state_;
};

// Replaces the scores of rows marked in `outside` by those of a wider model, and returns how many there are.
// The scores of a row depend on that row alone.
std::size_t score_outside(const DenseModel& wide, const DenseInputs& inputs, const std::uint8_t* outside,
                          float* out, unsigned threads, bool spin);

}  // namespace pepnet
