#include <memory>

#include "arrays.h"
#include "cache/row_overlay.h"
#include "row_cache.h"

namespace pepnet::python {

namespace {

// A RowOverlay and what keeps its memory.
class Overlay {
 public:
  Overlay(const py::array& keys, const py::array& rows, const std::optional<py::array>& gone,
          const std::optional<py::array>& expires)
      : rows_(rows), gone_(gone), expires_(expires) {
    const auto wanted = keys_of(keys);
    const RowsView view = rows_of("rows", rows);
    if (view.type != RowType::kFloat32 || view.count != wanted.size())
      refuse("rows", "float32 [" + std::to_string(wanted.size()) + ", dim]", rows);
    const auto* const deleted = optional_of<std::uint8_t>("gone", gone, wanted.size());
    const auto* const until = optional_of<double>("expires", expires, wanted.size());
    const ReleasedGil released;
    overlay_ = std::make_unique<RowOverlay>(wanted, view, deleted, until);
  }

  py::array_t<std::int64_t> find(const py::array& keys) const {
    const auto wanted = keys_of(keys);
    return filled<std::int64_t>(wanted.size(),
                                [&](std::int64_t* out) { overlay_->index().find(wanted, out); });
  }

  const RowOverlay& overlay() const { return *overlay_; }

 private:
  py::array rows_;
  std::optional<py::array> gone_, expires_;
  std::unique_ptr<RowOverlay> overlay_;
};

// One request, its arrays checked. What it points to is kept by its tuple.
struct Job {
  RowCache* cache;
  const RowOverlay* overlay;
  PackedArray<float> default_row;
  PackedArray<std::uint64_t> keys;
  OutView out;
  std::optional<Bags> bags;
  Outcome* outcomes;

  OverlayLookup run(bool counted) const {
    if (bags) check_offsets(bags->offsets, keys.size());
    if (overlay == nullptr) {
      return {bags ? cache->lookup_pool(keys, bags->offsets, bags->pooling, out, outcomes, counted)
                   : cache->lookup(keys, out, outcomes, counted)};
    }
    return bags ? overlay->lookup_pool(*cache, keys, bags->offsets, bags->pooling, default_row, out, outcomes,
                                       counted)
                : overlay->lookup(*cache, keys, default_row, out, outcomes, counted);
  }
};

py::array array_in(const char* name, const py::handle& value) {
  if (!py::isinstance<py::array>(value)) throw py::type_error(std::string(name) + ": expected a numpy array");
  return py::reinterpret_borrow<py::array>(value);
}

Job job_of(const py::handle& given) {
  if (!py::isinstance<py::tuple>(given)) throw py::type_error("jobs: expected tuples");
  const auto fields = py::reinterpret_borrow<py::tuple>(given);
  if (fields.size() != 8) throw py::value_error("jobs: expected 8 values a job");
  const CoreOf core = core_and_dim_of(fields[0]);
  const RowOverlay* overlay = nullptr;
  if (!fields[1].is_none()) {
    overlay = &fields[1].cast<const Overlay&>().overlay();
    if (overlay->dim() != core.dim) {
      throw py::value_error("overlay: expected rows of " + std::to_string(core.dim) + " columns, got " +
                            std::to_string(overlay->dim()));
    }
  }
  const PackedArray<float> default_row =
      default_of("default_row", array_in("default_row", fields[2]), core.dim);
  const auto keys = vector_of<std::uint64_t>("keys", array_in("keys", fields[3]));
  std::optional<Bags> bags;
  if (!fields[5].is_none()) bags = bags_of(array_in("offsets", fields[5]), fields[6].cast<std::string>());
  const OutView out = out_of("out", array_in("out", fields[4]), bags ? bags->count : keys.size(), core.dim);
  auto* const outcomes =
      written_of<std::uint8_t, Outcome>("outcomes", array_in("outcomes", fields[7]), keys.size());
  return {core.cache, overlay, default_row, keys, out, bags, outcomes};
}

// One release of the interpreter's lock for all: each one is a chance to wait for another thread.
py::list look_up(const py::list& jobs, bool counted) {
  std::vector<Job> parsed;
  parsed.reserve(jobs.size());
  const py::tuple kept(jobs);  // whatever becomes of the list meanwhile
  for (const py::handle& job : kept) parsed.push_back(job_of(job));
  std::vector<OverlayLookup> answers(parsed.size());
  {
    const ReleasedGil released;
    for (std::size_t i = 0; i < parsed.size(); ++i) answers[i] = parsed[i].run(counted);
  }
  py::list result(answers.size());
  for (std::size_t i = 0; i < answers.size(); ++i)
    result[i] = py::make_tuple(answers[i].hits, answers[i].ours, answers[i].defaults);
  return result;
}

}  // namespace

void bind_look_up(py::module_& module) {
  py::class_<Overlay>(module, "RowOverlay", "Changed rows in front of a cache. Never changed itself.")
      .def(py::init<const py::array&, const py::array&, const std::optional<py::array>&,
                    const std::optional<py::array>&>(),
           "keys"_a, "rows"_a, "gone"_a = py::none(), "expires"_a = py::none(),
           "uint64 [N], float32 [N, dim]; uint8 [N] not 0 for a deletion; float64 [N] Unix seconds.")
      .def("find", &Overlay::find, "keys"_a,
           "uint64 [n] → int64 [n]: the position of each key, -1 where absent.");
  module.def(
      "look_up", &look_up, "jobs"_a, "counted"_a = true,
      "Does (cache, overlay or None, default_row, keys, out, offsets or None, pooling, outcomes) of each "
      "job, as RowCache.lookup or lookup_pool for what the overlay has not; returns (hits, keys of the "
      "overlay, of these default rows) of each.");
}

}  // namespace pepnet::python
