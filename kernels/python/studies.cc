// _kernels.studies: what the cache is measured against; no part of what serves. All calls are made with the
// GIL: they are of one thread.
#include "arrays.h"
#include "row_cache.h"
#include "studies/exact_cache.h"

namespace pepnet::python {

namespace {

using studies::ExactCache;

std::size_t run_belady(const py::array& keys, std::size_t rows, const std::optional<py::array>& hits) {
  const auto view = keys_of(keys);
  return studies::belady(view, rows, written_of<bool>("hits", hits, view.size()));
}

std::size_t exact_lookup(ExactCache& cache, const py::array& keys, const py::array& values,
                         const py::array& found) {
  const auto view = keys_of(keys);
  const OutView out = out_of("values", values, view.size(), 1);
  bool* const flags = written_of<bool>("found", found, view.size());
  std::vector<float> read(view.size());
  const std::size_t hits = cache.lookup(view, read.data(), flags);
  for (std::size_t i = 0; i < read.size(); ++i)
    if (flags[i]) *out.row(i) = read[i];
  return hits;
}

void exact_write(ExactCache& cache, const py::array& keys, const py::array& values,
                 const std::optional<py::array>& scores) {
  const auto view = keys_of(keys);
  const float* const given = optional_of<float>("values", values, view.size());
  cache.write(view, given, optional_of<float>("scores", scores, view.size()));
}

std::size_t exact_replay(ExactCache& cache, const py::array& keys, const std::optional<py::array>& hits) {
  const auto view = keys_of(keys);
  return cache.replay(view, written_of<bool>("hits", hits, view.size()));
}

std::size_t exact_feedback(ExactCache& cache, const py::array& keys, const py::array& positive) {
  const auto view = keys_of(keys);
  return cache.feedback(view, optional_of<bool>("positive", positive, view.size()));
}

py::array_t<double> exact_scores(const ExactCache& cache, const py::array& keys) {
  const auto view = keys_of(keys);
  py::array_t<double> result(static_cast<py::ssize_t>(view.size()));
  cache.scores(view, result.mutable_data());
  return result;
}

}  // namespace

void bind_studies(py::module_& kernels) {
  py::module_ module =
      kernels.def_submodule("studies", "What the cache is measured against; nothing of it serves.");
  module.def(
      "belady", &run_belady, "keys"_a, "rows"_a, "hits"_a = py::none(),
      "Belady's MIN: replays uint64 [N] keys through a cache of that many rows, writes bool [N] hits, and "
      "returns how many hit.");
  py::class_<ExactCache>(
      module, "ExactCache",
      "A fully associative cache of `rows` rows, one number each, every policy in its exact form. For one "
      "thread.")
      .def(py::init([](std::size_t rows, const std::string& policy, double beta, double r, double interval) {
             return std::make_unique<ExactCache>(rows, value_named("policy", kPolicies, policy), beta, r,
                                                 interval);
           }),
           "rows"_a, "policy"_a = "lru", py::kw_only(), "beta"_a = 0.1, "r"_a = 3.0, "interval"_a = 86400.0)
      .def("lookup", &exact_lookup, "keys"_a, "values"_a, "found"_a,
           "Writes the numbers that are there to float32 [N, 1] `values`, and which are to bool [N] "
           "`found`; returns how many.")
      .def("write", &exact_write, "keys"_a, "values"_a, "scores"_a = py::none(),
           "Inserts or replaces float32 [N] `values`; gset takes float32 [N] `scores`, NaN for none.")
      .def("replay", &exact_replay, "keys"_a, "hits"_a = py::none(),
           "Looks keys up one by one and inserts what misses; returns how many hit.")
      .def("feedback", &exact_feedback, "keys"_a, "positive"_a,
           "Counts samples that contained the ids; returns how many were resident.")
      .def("scores", &exact_scores, "keys"_a, "float64 [N]: S of each key now; NaN where there is none.")
      .def("set_time", &ExactCache::set_time, "now"_a, "In the unit of `interval`; 0 at first.")
      .def("__len__", &ExactCache::size)
      .def_property_readonly("capacity_rows", &ExactCache::capacity_rows);
}

}  // namespace pepnet::python
