#include "dense/operations/rows.h"

#include <stdexcept>
#include <string>

namespace pepnet::engine {
namespace {

template <class Operation>
constexpr bool kOnRows =
    requires(const Operation& does, const RowContext& context) { rows_of(does, context); };

}  // namespace

RowOperationPtr row_operation(const network::Does& does, const RowContext& context) {
  return std::visit(
      [&]<class Operation>(const Operation& one) -> RowOperationPtr {
        if constexpr (kOnRows<Operation>) {
          return rows_of(one, context);
        } else {
          throw std::logic_error(std::string(network::name_of(does)) + ": expected an operation on rows");
        }
      },
      does);
}

}  // namespace pepnet::engine
