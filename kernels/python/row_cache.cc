// The cache, changed rows in front of it, and the lookup of a batch through both. What each method does is
// said in cache/row_cache.h and cache/row_overlay.h.
#include "cache/row_cache.h"

#include <memory>

#include "arrays.h"
#include "cache/row_overlay.h"
#include "cpu/named.h"

namespace pepnet::python {

namespace {

constexpr Named<RowType> kTypes[] = {{"float32", RowType::kFloat32},
                                     {"float16", RowType::kFloat16},
                                     {"bfloat16", RowType::kBfloat16},
                                     {"int8", RowType::kInt8}};

using PutOption = void (*)(FieldRule&, const py::handle&);
constexpr Named<PutOption> kRuleOptions[] = {
    {"table",
     [](FieldRule& rule, const py::handle& value) {
       const auto table = value.cast<std::int64_t>();
       if (table < 0 || table > 0xFFFF)
         throw py::value_error("fields: table: expected 0 to 65535, got " + std::to_string(table));
       rule.table = static_cast<std::uint16_t>(table);
     }},
    {"high_priority",
     [](FieldRule& rule, const py::handle& value) { rule.high_priority = value.cast<bool>(); }},
    {"ttl", [](FieldRule& rule, const py::handle& value) { rule.ttl = value.cast<double>(); }},
    {"share", [](FieldRule& rule, const py::handle& value) { rule.share = value.cast<double>(); }},
    {"admission", [](FieldRule& rule, const py::handle& value) { rule.admission = value.cast<double>(); }}};

FieldRule rule_of(const py::dict& given) {
  FieldRule rule;
  for (const auto& [name, value] : given)
    value_named("fields", kRuleOptions, name.cast<std::string>())(rule, value);
  if (!given.contains("table")) throw py::value_error("fields: expected a table in every rule");
  return rule;
}

// Name → values. The values lie in one array of records.
py::dict columns_of(const py::array_t<EntryInfo>& records) {
  py::dict columns;
  for (const py::handle name : records.dtype().attr("names")) columns[name] = records[name];
  return columns;
}

std::unique_ptr<RowCache> cache_of(std::size_t dim, std::size_t capacity_bytes, const std::string& policy,
                                   const std::string& dtype, std::size_t max_rows, double beta, double r,
                                   double interval, double admission, double tombstone_ttl,
                                   double negative_ttl, std::uint64_t seed,
                                   const std::vector<py::dict>& fields) {
  CacheOptions options{.dim = dim,
                       .type = value_named("dtype", kTypes, dtype),
                       .capacity_bytes = capacity_bytes,
                       .policy = value_named("policy", kPolicyNames, policy),
                       .max_rows = max_rows,
                       .beta = beta,
                       .r = r,
                       .interval = interval,
                       .admission = admission,
                       .tombstone_ttl = tombstone_ttl,
                       .negative_ttl = negative_ttl,
                       .seed = seed,
                       .fields = {}};
  for (const py::dict& field : fields) options.fields.push_back(rule_of(field));
  const ReleasedGil released;
  return std::make_unique<RowCache>(options);
}

std::size_t lookup(RowCache& cache, Keys keys, const py::array& out, const std::optional<py::array>& outcomes,
                   bool counted) {
  const OutView target = out_of("out", out, keys.size(), cache.options().dim);
  auto* const answers = written_of<std::uint8_t, Outcome>("outcomes", outcomes, keys.size());
  const ReleasedGil released;
  return cache.lookup(keys, target, answers, counted);
}

std::size_t write(RowCache& cache, Keys keys, const py::array& rows, const std::optional<py::array>& scores,
                  const std::optional<py::array>& versions, const std::optional<py::array>& expires,
                  bool update, const std::optional<py::array>& results, bool restore,
                  const std::optional<py::array>& earned, bool put, bool known) {
  const std::size_t count = keys.size(), dim = cache.options().dim;
  const MatrixView values = matrix_of("rows", rows);
  if (values.rows != count || values.columns != dim)
    refuse("rows", "[" + std::to_string(count) + ", " + std::to_string(dim) + "]", rows);
  const RowBatch batch{keys,
                       values.data,
                       static_cast<std::ptrdiff_t>(values.stride),
                       optional_of<float>("scores", scores, count),
                       optional_of<std::uint64_t>("versions", versions, count),
                       optional_of<double>("expires", expires, count),
                       optional_of<bool>("earned", earned, count)};
  if (update + restore + put > 1)
    throw py::value_error("write: expected one of update, restore and put, got more");
  if (known && !put && !update) throw py::value_error("known: expected update or put with it, got neither");
  Write how = restore ? Write::kRestore : Write::kInsert;
  if (update) how = known ? Write::kUpdateKnown : Write::kUpdate;
  if (put) how = known ? Write::kPutKnown : Write::kPut;
  auto* const what = written_of<std::uint8_t, WriteResult>("results", results, count);
  const ReleasedGil released;
  return cache.write(batch, how, what);
}

std::size_t erase(RowCache& cache, Keys keys, const py::array& versions,
                  const std::optional<py::array>& expires) {
  const auto* const of = optional_of<std::uint64_t>("versions", versions, keys.size());
  const auto* const until = optional_of<double>("expires", expires, keys.size());
  const ReleasedGil released;
  return cache.erase(keys, of, until);
}

std::size_t feedback(RowCache& cache, Keys keys, const py::array& positive) {
  const bool* const labels = optional_of<bool>("positive", positive, keys.size());
  const ReleasedGil released;
  return cache.feedback(keys, labels);
}

py::dict peek(const RowCache& cache, Keys keys) {
  return columns_of(filled<EntryInfo>(keys.size(), [&](EntryInfo* out) { cache.peek(keys, out); }));
}

std::size_t replay(RowCache& cache, Keys keys, const std::optional<py::array>& hits) {
  bool* const flags = written_of<bool>("hits", hits, keys.size());
  const ReleasedGil released;
  return cache.replay(keys, flags);
}

py::dict part(const RowCache& cache, std::size_t index) {
  if (index >= cache.parts())
    throw py::value_error("index: expected below " + std::to_string(cache.parts()) + ", got " +
                          std::to_string(index));
  CachePart part;
  {
    const ReleasedGil released;
    part = cache.part(index);
  }
  py::dict result = columns_of(array_of(part.infos));
  result["keys"] = array_of(part.keys);
  result["order"] = array_of(part.order);
  result["rows"] = array_of(part.rows).reshape({-1, static_cast<int>(cache.options().dim)});
  return result;
}

py::dict stats(const RowCache& cache) {
  const CacheStats stats = cache.stats();
  py::dict result("hits"_a = stats.hits, "misses"_a = stats.misses, "negative_hits"_a = stats.negative_hits);
  each_counter<std::uint64_t>([&](const char* name, auto of, auto) { result[name] = stats.*of; });
  return result;
}

// What the views point to is kept beside the overlay, by the binding.
std::unique_ptr<RowOverlay> overlay_of(Keys keys, const py::array& rows, const std::optional<py::array>& gone,
                                       const std::optional<py::array>& expires) {
  const RowsView view = rows_of("rows", rows);
  if (view.type != RowType::kFloat32 || view.count != keys.size())
    refuse("rows", "float32 [" + std::to_string(keys.size()) + ", dim]", rows);
  const auto* const deleted = optional_of<std::uint8_t>("gone", gone, keys.size());
  const auto* const until = optional_of<double>("expires", expires, keys.size());
  const ReleasedGil released;
  return std::make_unique<RowOverlay>(keys, view, deleted, until);
}

py::array_t<std::int64_t> find_in_overlay(const RowOverlay& overlay, Keys keys) {
  return filled<std::int64_t>(keys.size(), [&](std::int64_t* out) { overlay.index().find(keys, out); });
}

// One request, its arrays checked. What it points to is kept by its tuple.
struct Job {
  RowCache* cache;
  const RowOverlay* overlay;
  PackedArray<float> default_row;
  Keys keys;
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
  auto& cache = fields[0].cast<RowCache&>();
  const std::size_t dim = cache.options().dim;
  const RowOverlay* overlay = nullptr;
  if (!fields[1].is_none()) overlay = &fields[1].cast<const RowOverlay&>();
  if (overlay != nullptr && overlay->dim() != dim)
    throw py::value_error("overlay: expected rows of " + std::to_string(dim) + " columns, got " +
                          std::to_string(overlay->dim()));
  const PackedArray<float> default_row = default_of("default_row", array_in("default_row", fields[2]), dim);
  const auto keys = vector_of<std::uint64_t>("keys", array_in("keys", fields[3]));
  std::optional<Bags> bags;
  if (!fields[5].is_none()) bags = bags_of(array_in("offsets", fields[5]), fields[6].cast<std::string>());
  const OutView out = out_of("out", array_in("out", fields[4]), bags ? bags->count : keys.size(), dim);
  auto* const outcomes =
      written_of<std::uint8_t, Outcome>("outcomes", array_in("outcomes", fields[7]), keys.size());
  return {&cache, overlay, default_row, keys, out, bags, outcomes};
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

void bind_row_cache(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(EntryInfo, outcome, tombstone, high_priority, scored, version, expires, score);
  const py::call_guard<ReleasedGil> released;
  py::class_<RowCache>(module, "RowCache",
                       "Rows of the ids that matter, in a fixed number of bytes. Safe from any thread.")
      .def(py::init(&cache_of), "dim"_a, "capacity_bytes"_a, "policy"_a = "lru", "dtype"_a = "float32",
           py::kw_only(), "max_rows"_a = 0, "beta"_a = 0.1, "r"_a = 3.0, "interval"_a = 86400.0,
           "admission"_a = 1.0, "tombstone_ttl"_a = 3600.0, "negative_ttl"_a = 60.0, "seed"_a = 0,
           "fields"_a = std::vector<py::dict>())
      .def("lookup", &lookup, "keys"_a, "out"_a, "outcomes"_a = py::none(), "counted"_a = true)
      .def("write", &write, "keys"_a, "rows"_a, "scores"_a = py::none(), "versions"_a = py::none(),
           "expires"_a = py::none(), "update"_a = false, "results"_a = py::none(), "restore"_a = false,
           "earned"_a = py::none(), "put"_a = false, "known"_a = false)
      .def("forget", &RowCache::forget, "keys"_a, released)
      .def("mark_absent", &RowCache::mark_absent, "keys"_a, released)
      .def("erase", &erase, "keys"_a, "versions"_a, "expires"_a = py::none())
      .def("feedback", &feedback, "keys"_a, "positive"_a)
      .def("peek", &peek, "keys"_a)
      .def("replay", &replay, "keys"_a, "hits"_a = py::none())
      .def_property_readonly("parts", &RowCache::parts)
      .def("part", &part, "index"_a)
      .def_property_readonly("floor", &RowCache::floor)
      .def("raise_floor", &RowCache::raise_floor, "version"_a)
      .def("clear", &RowCache::clear, released)
      .def("set_time", &RowCache::set_time, "now"_a)
      .def("step_wall_clock", &RowCache::step_wall_clock, "seconds"_a)
      .def_property_readonly("time", &RowCache::unix_time)
      .def("stats", &stats)
      .def_property_readonly("dim", [](const RowCache& cache) { return cache.options().dim; })
      .def_property_readonly("dtype",
                             [](const RowCache& cache) { return name_of(kTypes, cache.options().type); })
      .def_property_readonly(
          "policy", [](const RowCache& cache) { return name_of(kPolicyNames, cache.options().policy); })
      .def_property_readonly("capacity_rows", &RowCache::capacity_rows)
      .def_property_readonly("memory_bytes", &RowCache::memory_bytes);
  py::class_<RowOverlay>(module, "RowOverlay", "Changed rows in front of a cache. Never changed itself.")
      .def(py::init(&overlay_of), "keys"_a, "rows"_a, "gone"_a = py::none(), "expires"_a = py::none(),
           py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::keep_alive<1, 5>())
      .def("find", &find_in_overlay, "keys"_a);
  module.def(
      "look_up", &look_up, "jobs"_a, "counted"_a = true,
      "Looks up each of the jobs, the rows of its keys or the mean or sum of each bag's, in the overlay "
      "and else in the cache. Returns for each (hits, keys of the overlay, default rows of these).");
}

}  // namespace pepnet::python
