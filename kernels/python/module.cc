#include "bindings.h"

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "Compiled parts of pepnet_infer. Arrays are checked, never converted; the GIL is released.";
#define PEPNET_BIND(name) pepnet::python::bind_##name(module);
  PEPNET_BINDINGS(PEPNET_BIND)
#undef PEPNET_BIND
}
