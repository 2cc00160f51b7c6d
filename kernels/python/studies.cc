// _kernels.studies: what the cache is measured against; no part of what serves. All calls are made with the
// GIL: they are of one thread. What each does is said in studies/exact_cache.h.
#include "arrays.h"
#include "cpu/named.h"
#include "studies/exact_cache.h"

namespace pepnet::python {

namespace {

using studies::ExactCache;

std::size_t run_belady(Keys keys, std::size_t rows, const std::optional<py::array>& hits) {
  return studies::belady(keys, rows, written_of<bool>("hits", hits, keys.size()));
}

std::size_t exact_lookup(ExactCache& cache, Keys keys, const py::array& values, const py::array& found) {
  const OutView out = out_of("values", values, keys.size(), 1);
  return cache.lookup(keys, out, written_of<bool>("found", found, keys.size()));
}

void exact_write(ExactCache& cache, Keys keys, const py::array& values,
                 const std::optional<py::array>& scores) {
  const float* const given = optional_of<float>("values", values, keys.size());
  cache.write(keys, given, optional_of<float>("scores", scores, keys.size()));
}

std::size_t exact_replay(ExactCache& cache, Keys keys, const std::optional<py::array>& hits) {
  return cache.replay(keys, written_of<bool>("hits", hits, keys.size()));
}

std::size_t exact_feedback(ExactCache& cache, Keys keys, const py::array& positive) {
  return cache.feedback(keys, optional_of<bool>("positive", positive, keys.size()));
}

py::array_t<double> scores(const ExactCache& cache, Keys keys) {
  py::array_t<double> result(static_cast<py::ssize_t>(keys.size()));
  cache.scores(keys, result.mutable_data());
  return result;
}

}  // namespace

void bind_studies(py::module_& kernels) {
  py::module_ module =
      kernels.def_submodule("studies", "What the cache is measured against; nothing of it serves.");
  module.def("belady", &run_belady, "keys"_a, "rows"_a, "hits"_a = py::none());
  py::class_<ExactCache>(
      module, "ExactCache",
      "A fully associative cache of `rows` rows, one number each, every policy in its exact form. For one "
      "thread.")
      .def(py::init([](std::size_t rows, const std::string& policy, double beta, double r, double interval) {
             return std::make_unique<ExactCache>(rows, value_named("policy", kPolicyNames, policy), beta, r,
                                                 interval);
           }),
           "rows"_a, "policy"_a = "lru", py::kw_only(), "beta"_a = 0.1, "r"_a = 3.0, "interval"_a = 86400.0)
      .def("lookup", &exact_lookup, "keys"_a, "values"_a, "found"_a)
      .def("write", &exact_write, "keys"_a, "values"_a, "scores"_a = py::none())
      .def("replay", &exact_replay, "keys"_a, "hits"_a = py::none())
      .def("feedback", &exact_feedback, "keys"_a, "positive"_a)
      .def("scores", &scores, "keys"_a)
      .def("set_time", &ExactCache::set_time, "now"_a)
      .def("__len__", &ExactCache::size)
      .def_property_readonly("capacity_rows", &ExactCache::capacity_rows);
}

}  // namespace pepnet::python
