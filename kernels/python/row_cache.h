// The cache behind a Python RowCache, for bindings of what works on one.
#pragma once

#include <pybind11/pybind11.h>

#include "cache/row_cache.h"

namespace pepnet::python {

// Throws py::cast_error for another type. The object must be kept alive.
RowCache& core_of(const pybind11::object& row_cache);

struct CoreOf {
  RowCache* cache;
  std::size_t dim;
};
CoreOf core_and_dim_of(const pybind11::handle& row_cache);

}  // namespace pepnet::python
