// What networks on the CPU and on a GPU are given from Python alike, checked.
#pragma once

#include "arrays.h"
#include "dense/dense_model.h"

namespace pepnet::python {

// Views of the arrays of a dict by name, which must outlive them.
Tensors tensors_of(const py::dict& arrays);
// Of the widths of general, domain and prior.
DenseInputs inputs_of(const std::array<std::size_t, 3>& widths, const py::array& general,
                      const py::array& domain, const py::array& prior);
py::array_t<float> scores_for(std::size_t rows, std::size_t scores);

}  // namespace pepnet::python
