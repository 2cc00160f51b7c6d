#include "dense/tensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <stdexcept>
#include <utility>

namespace pepnet::engine {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string text_of(const std::vector<std::size_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

class Reader {
 public:
  explicit Reader(const Tensors& tensors) : tensors_(tensors) {}

  const float* read(const std::string& name, const std::vector<std::size_t>& shape) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) refuse("tensors: expected '" + name + "', which is missing");
    read_.insert(name);
    const TensorView& tensor = it->second;
    if (tensor.shape != shape) {
      refuse(name + ": expected shape " + text_of(shape) + ", got " + text_of(tensor.shape));
    }
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    for (std::size_t i = 0; i < count; ++i) {
      if (!std::isfinite(tensor.data[i])) {
        refuse(name + ": expected finite values, got " + std::to_string(tensor.data[i]) + " at " +
               std::to_string(i) + " of " + text_of(shape));
      }
    }
    return tensor.data;
  }

  void expect_no_more() const {
    for (const auto& [name, tensor] : tensors_) {
      if (read_.contains(name) || std::ranges::count(tensor.shape, 0U) > 0) continue;
      refuse("tensors: '" + name + "' is not one that the network reads");
    }
  }

 private:
  const Tensors& tensors_;
  std::set<std::string> read_;
};

// More would be no blocks, and numbers of rows near the largest of their type have no room to be rounded up.
constexpr std::size_t kMostBlockRows = std::size_t{1} << 20;

}  // namespace

void check_options(const network::Network& network, const DenseOptions& options) {
  for (network::ValueId input = 0; input < network::kInputs; ++input) {
    const std::size_t width = network.shape(input).width;
    std::size_t end = 0;
    for (const auto& [first, last] : options.shared[input]) {
      if (first < end || last < first || last > width) {
        refuse("shared: expected ascending runs within 0 to " + std::to_string(width) + " of " +
               network::kInputNames[input] + ", got " + std::to_string(first) + " to " +
               std::to_string(last));
      }
      end = last;
    }
    if (!options.domain) continue;
    const std::size_t limits = options.domain->largest[input].size();
    if (limits == width) continue;
    refuse("domain: expected a limit for each of " + std::to_string(width) + " columns, got " +
           std::to_string(limits));
  }
  if (options.block_rows > kMostBlockRows) {
    refuse("block_rows: expected at most " + std::to_string(kMostBlockRows) + ", got " +
           std::to_string(options.block_rows));
  }
}

void check_values(const network::Network& network, const Tensors& tensors) {
  Reader reader(tensors);
  for (const auto& [name, shape] : network.tensors()) reader.read(name, shape);
  reader.expect_no_more();
}

}  // namespace pepnet::engine
