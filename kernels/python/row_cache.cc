#include "row_cache.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "names.h"
#include "released_gil.h"

namespace pepnet::python {

namespace {

constexpr std::pair<const char*, CacheRow> kTypes[] = {{"float32", CacheRow::kFloat32},
                                                       {"float16", CacheRow::kFloat16},
                                                       {"bfloat16", CacheRow::kBfloat16},
                                                       {"int8", CacheRow::kInt8}};

FieldRule rule_of(const py::dict& given) {
  FieldRule rule;
  for (const auto& [key, value] : given) {
    const auto name = key.cast<std::string>();
    if (name == "table") {
      const auto table = value.cast<std::int64_t>();
      if (table < 0 || table > 0xFFFF) {
        throw py::value_error("fields: table: expected 0 to 65535, got " + std::to_string(table));
      }
      rule.table = static_cast<std::uint16_t>(table);
    } else if (name == "high_priority") {
      rule.high_priority = value.cast<bool>();
    } else if (name == "ttl") {
      rule.ttl = value.cast<double>();
    } else if (name == "share") {
      rule.share = value.cast<double>();
    } else if (name == "admission") {
      rule.admission = value.cast<double>();
    } else {
      throw py::value_error("fields: expected table, high_priority, ttl, share and admission, got '" + name +
                            "'");
    }
  }
  if (!given.contains("table")) throw py::value_error("fields: expected a table in every rule");
  return rule;
}

template <class T, class Get>
py::array_t<T> column(const std::vector<EntryInfo>& infos, Get&& get) {
  py::array_t<T> array(static_cast<py::ssize_t>(infos.size()));
  T* out = array.mutable_data();
  for (std::size_t i = 0; i < infos.size(); ++i) out[i] = get(infos[i]);
  return array;
}

py::dict columns_of(const std::vector<EntryInfo>& infos) {
  py::dict result;
  result["outcome"] =
      column<std::uint8_t>(infos, [](const EntryInfo& i) { return static_cast<std::uint8_t>(i.outcome); });
  result["tombstone"] = column<bool>(infos, [](const EntryInfo& i) { return i.tombstone; });
  result["high_priority"] = column<bool>(infos, [](const EntryInfo& i) { return i.high_priority; });
  result["scored"] = column<bool>(infos, [](const EntryInfo& i) { return i.scored; });
  result["version"] = column<std::uint64_t>(infos, [](const EntryInfo& i) { return i.version; });
  result["expires"] = column<double>(infos, [](const EntryInfo& i) { return i.expires; });
  result["score"] = column<float>(infos, [](const EntryInfo& i) { return i.score; });
  return result;
}

class Cache {
 public:
  Cache(std::size_t dim, std::size_t capacity_bytes, const std::string& policy, const std::string& dtype,
        std::size_t max_rows, double beta, double r, double interval, double admission, double tombstone_ttl,
        double negative_ttl, std::uint64_t seed, const std::vector<py::dict>& fields) {
    options_.dim = dim;
    options_.capacity_bytes = capacity_bytes;
    options_.policy = named("policy", kPolicies, policy);
    options_.type = named("dtype", kTypes, dtype);
    options_.max_rows = max_rows;
    options_.beta = beta;
    options_.r = r;
    options_.interval = interval;
    options_.admission = admission;
    options_.tombstone_ttl = tombstone_ttl;
    options_.negative_ttl = negative_ttl;
    options_.seed = seed;
    for (const py::dict& field : fields) options_.fields.push_back(rule_of(field));
    const ReleasedGil released;
    cache_ = RowCache::make(options_);
  }

  std::size_t lookup(const py::array& keys, const py::array& out, const std::optional<py::array>& outcomes,
                     bool counted) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const OutView target = out_of("out", out, wanted.size(), options_.dim);
    auto* const answers = outcomes_of<Outcome>("outcomes", outcomes, wanted.size());
    const ReleasedGil released;
    return cache_->lookup(wanted, target, answers, counted);
  }

  std::size_t lookup_pool(const py::array& keys, const py::array& offsets, const std::string& pooling,
                          const py::array& out, const std::optional<py::array>& outcomes, bool counted) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const Bags bags = bags_of(offsets, pooling);
    const OutView target = out_of("out", out, bags.count, options_.dim);
    auto* const answers = outcomes_of<Outcome>("outcomes", outcomes, wanted.size());
    const ReleasedGil released;
    check_offsets(bags.offsets, wanted.size());
    return cache_->lookup_pool(wanted, bags.offsets, bags.pooling, target, answers, counted);
  }

  std::size_t write(const py::array& keys, const py::array& rows, const std::optional<py::array>& scores,
                    const std::optional<py::array>& versions, const std::optional<py::array>& expires,
                    bool update, const std::optional<py::array>& results, bool restore,
                    const std::optional<py::array>& earned, bool put, bool known) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const MatrixView values = matrix_of("rows", rows);
    if (values.rows != wanted.size() || values.columns != options_.dim) {
      throw py::value_error("rows: expected [" + std::to_string(wanted.size()) + ", " +
                            std::to_string(options_.dim) + "], got " + describe(rows));
    }
    const RowBatch batch{wanted,
                         values.data,
                         static_cast<std::ptrdiff_t>(values.stride),
                         optional_of<float>("scores", scores, wanted.size()),
                         optional_of<std::uint64_t>("versions", versions, wanted.size()),
                         optional_of<double>("expires", expires, wanted.size()),
                         optional_of<bool>("earned", earned, wanted.size())};
    if (update + restore + put > 1)
      throw py::value_error("write: expected one of update, restore and put, got more");
    if (known && !put && !update) throw py::value_error("known: expected update or put with it, got neither");
    Write how = restore ? Write::kRestore : Write::kInsert;
    if (update) how = known ? Write::kUpdateKnown : Write::kUpdate;
    if (put) how = known ? Write::kPutKnown : Write::kPut;
    auto* const what = outcomes_of<Written>("results", results, wanted.size());
    const ReleasedGil released;
    return cache_->write(batch, how, what);
  }

  std::size_t forget(const py::array& keys) {
    const PackedArray<std::uint64_t> wanted = vector_of<std::uint64_t>("keys", keys);
    const ReleasedGil released;
    return cache_->forget(wanted);
  }

  void mark_absent(const py::array& keys) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const ReleasedGil released;
    cache_->mark_absent(wanted);
  }

  std::size_t erase(const py::array& keys, const py::array& versions,
                    const std::optional<py::array>& expires) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const auto* const of = optional_of<std::uint64_t>("versions", versions, wanted.size());
    const auto* const until = optional_of<double>("expires", expires, wanted.size());
    const ReleasedGil released;
    return cache_->erase(wanted, of, until);
  }

  std::size_t feedback(const py::array& keys, const py::array& positive) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    const bool* const labels = optional_of<bool>("positive", positive, wanted.size());
    const ReleasedGil released;
    return cache_->feedback(wanted, labels);
  }

  py::dict peek(const py::array& keys) const {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    std::vector<EntryInfo> infos(wanted.size());
    {
      const ReleasedGil released;
      cache_->peek(wanted, infos.data());
    }
    return columns_of(infos);
  }

  std::size_t replay(const py::array& keys, const std::optional<py::array>& hits) {
    const auto wanted = vector_of<std::uint64_t>("keys", keys);
    bool* const flags = hits ? flags_of("hits", *hits, wanted.size()) : nullptr;
    const ReleasedGil released;
    return cache_->replay(wanted, flags);
  }

  py::dict part(std::size_t index) const {
    if (index >= cache_->parts()) {
      throw py::value_error("index: expected below " + std::to_string(cache_->parts()) + ", got " +
                            std::to_string(index));
    }
    CachePart part;
    {
      const ReleasedGil released;
      part = cache_->part(index);
    }
    py::dict result = columns_of(part.infos);
    const auto size = static_cast<py::ssize_t>(part.keys.size());
    result["keys"] = py::array_t<std::uint64_t>(size, part.keys.data());
    result["order"] = py::array_t<std::uint64_t>(size, part.order.data());
    result["rows"] = py::array_t<float>({size, static_cast<py::ssize_t>(options_.dim)}, part.rows.data());
    return result;
  }

  py::dict stats() const {
    const CacheStats s = cache_->stats();
    py::dict result;
    result["hits"] = s.hits;
    result["misses"] = s.misses;
    result["negative_hits"] = s.negative_hits;
    result["inserted"] = s.inserted;
    result["replaced"] = s.replaced;
    result["stale"] = s.stale;
    result["rejected_admission"] = s.rejected_admission;
    result["rejected_share"] = s.rejected_share;
    result["rejected_priority"] = s.rejected_priority;
    result["updates_applied"] = s.updates_applied;
    result["updates_stale"] = s.updates_stale;
    result["evicted_expired"] = s.evicted_expired;
    result["evicted_policy"] = s.evicted_policy;
    result["evicted_share"] = s.evicted_share;
    result["erased"] = s.erased;
    result["rows"] = s.rows;
    result["negatives"] = s.negatives;
    result["tombstones"] = s.tombstones;
    return result;
  }

  RowCache& cache() const { return *cache_; }
  const CacheOptions& options() const { return options_; }

 private:
  CacheOptions options_;
  std::unique_ptr<RowCache> cache_;
};

}  // namespace

RowCache& core_of(const py::object& row_cache) { return row_cache.cast<const Cache&>().cache(); }

CoreOf core_and_dim_of(const py::handle& row_cache) {
  const auto& found = row_cache.cast<const Cache&>();
  return {&found.cache(), found.options().dim};
}

void bind_row_cache(py::module_& module) {
  py::class_<Cache>(module, "RowCache",
                    "Rows of the ids that matter, in a fixed number of bytes. Safe from any thread.")
      .def(py::init<std::size_t, std::size_t, const std::string&, const std::string&, std::size_t, double,
                    double, double, double, double, double, std::uint64_t, const std::vector<py::dict>&>(),
           py::arg("dim"), py::arg("capacity_bytes"), py::arg("policy") = "lru", py::arg("dtype") = "float32",
           py::kw_only(), py::arg("max_rows") = 0, py::arg("beta") = 0.1, py::arg("r") = 3.0,
           py::arg("interval") = 86400.0, py::arg("admission") = 1.0, py::arg("tombstone_ttl") = 3600.0,
           py::arg("negative_ttl") = 60.0, py::arg("seed") = 0, py::arg("fields") = std::vector<py::dict>())
      .def("lookup", &Cache::lookup, py::arg("keys"), py::arg("out"), py::arg("outcomes") = py::none(),
           py::arg("counted") = true,
           "Writes the rows that are there to float32 [N, dim] `out`, and to uint8 [N] `outcomes` 0 for a "
           "miss, 1 for "
           "a row, 2 for an id known not to exist; returns how many rows were written.")
      .def("lookup_pool", &Cache::lookup_pool, py::arg("keys"), py::arg("offsets"), py::arg("pooling"),
           py::arg("out"), py::arg("outcomes") = py::none(), py::arg("counted") = true,
           "Writes the mean or sum of each bag's rows to float32 [B, dim] `out`; bags with a key that has no "
           "row are "
           "left undefined. Returns how many rows were found.")
      .def("write", &Cache::write, py::arg("keys"), py::arg("rows"), py::arg("scores") = py::none(),
           py::arg("versions") = py::none(), py::arg("expires") = py::none(), py::arg("update") = false,
           py::arg("results") = py::none(), py::arg("restore") = false, py::arg("earned") = py::none(),
           py::arg("put") = false, py::arg("known") = false,
           "Inserts or replaces rows of older (or, without `update`, equal) versions; returns how many. "
           "uint8 [N] "
           "`results`: 0 stale, 1 inserted, 2 replaced, 3 rejected. `restore`: rows that were in a cache "
           "before are "
           "admitted for certain, with their scores; bool [N] `earned`: those whose score is of accesses. "
           "`put`: whatever version is there; `known`, of an update or a put: only where anything is.")
      .def("forget", &Cache::forget, py::arg("keys"),
           "Lets go of what is known of the keys: the store is asked next. Returns how many were there.")
      .def("mark_absent", &Cache::mark_absent, py::arg("keys"),
           "Remembers for negative_ttl that there are no such ids.")
      .def("erase", &Cache::erase, py::arg("keys"), py::arg("versions"), py::arg("expires") = py::none(),
           "Deletes rows of older or equal versions and leaves tombstones; returns how many applied.")
      .def("feedback", &Cache::feedback, py::arg("keys"), py::arg("positive"),
           "Counts samples that contained the ids; returns how many were resident.")
      .def("peek", &Cache::peek, py::arg("keys"), "What is known of each key, touching and counting nothing.")
      .def("replay", &Cache::replay, py::arg("keys"), py::arg("hits") = py::none(),
           "Looks keys up one by one and inserts what misses; returns how many hit.")
      .def_property_readonly("parts", [](const Cache& c) { return c.cache().parts(); })
      .def("part", &Cache::part, py::arg("index"), "The entries of one part, consistent with each other.")
      .def_property_readonly(
          "floor", [](const Cache& c) { return c.cache().floor(); },
          "The highest version that was evicted: of keys that are not here, only newer updates are taken.")
      .def(
          "raise_floor", [](Cache& c, std::uint64_t version) { c.cache().raise_floor(version); },
          py::arg("version"), "Takes no update as old as `version` of keys that are not here.")
      .def(
          "clear", [](Cache& c) { c.cache().clear(); }, py::call_guard<ReleasedGil>())
      .def(
          "set_time", [](Cache& c, double now) { c.cache().set_time(now); }, py::arg("now"),
          "Unix seconds from here on; nan: the clock's again.")
      .def(
          "step_wall_clock", [](Cache& c, double seconds) { c.cache().step_wall_clock(seconds); },
          py::arg("seconds"), "As if the wall clock had been set, by so many seconds in all: for tests.")
      .def_property_readonly(
          "time", [](const Cache& c) { return c.cache().unix_time(); }, "Unix seconds.")
      .def_property_readonly(
          "steady_time", [](const Cache& c) { return c.cache().time(); },
          "Unix seconds as they would be had nobody set the clock: what intervals and durations are counted "
          "on.")
      .def("stats", &Cache::stats)
      .def_property_readonly("dim", [](const Cache& c) { return c.options().dim; })
      .def_property_readonly("dtype", [](const Cache& c) { return name_of(kTypes, c.options().type); })
      .def_property_readonly("policy", [](const Cache& c) { return name_of(kPolicies, c.options().policy); })
      .def_property_readonly("capacity_rows", [](const Cache& c) { return c.cache().capacity_rows(); })
      .def_property_readonly("memory_bytes", [](const Cache& c) { return c.cache().memory_bytes(); });
}

}  // namespace pepnet::python
