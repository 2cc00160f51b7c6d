#include "row_cache.h"

#include "arrays.h"

namespace pepnet::python {

namespace {

constexpr Named<RowType> kTypes[] = {{"float32", RowType::kFloat32},
                                     {"float16", RowType::kFloat16},
                                     {"bfloat16", RowType::kBfloat16},
                                     {"int8", RowType::kInt8}};

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

template <class Field>
py::array_t<Field> column(const std::vector<EntryInfo>& infos, Field EntryInfo::* field) {
  py::array_t<Field> array(static_cast<py::ssize_t>(infos.size()));
  Field* out = array.mutable_data();
  for (const EntryInfo& info : infos) *out++ = info.*field;
  return array;
}

py::dict columns_of(const std::vector<EntryInfo>& infos) {
  py::array_t<std::uint8_t> outcomes(static_cast<py::ssize_t>(infos.size()));
  std::uint8_t* outcome = outcomes.mutable_data();
  for (const EntryInfo& info : infos) *outcome++ = static_cast<std::uint8_t>(info.outcome);
  return py::dict(
      "outcome"_a = outcomes, "tombstone"_a = column(infos, &EntryInfo::tombstone),
      "high_priority"_a = column(infos, &EntryInfo::high_priority),
      "scored"_a = column(infos, &EntryInfo::scored), "version"_a = column(infos, &EntryInfo::version),
      "expires"_a = column(infos, &EntryInfo::expires), "score"_a = column(infos, &EntryInfo::score));
}

class Cache {
 public:
  Cache(std::size_t dim, std::size_t capacity_bytes, const std::string& policy, const std::string& dtype,
        std::size_t max_rows, double beta, double r, double interval, double admission, double tombstone_ttl,
        double negative_ttl, std::uint64_t seed, const std::vector<py::dict>& fields)
      : options_{.dim = dim,
                 .type = value_named("dtype", kTypes, dtype),
                 .capacity_bytes = capacity_bytes,
                 .policy = value_named("policy", kPolicies, policy),
                 .max_rows = max_rows,
                 .beta = beta,
                 .r = r,
                 .interval = interval,
                 .admission = admission,
                 .tombstone_ttl = tombstone_ttl,
                 .negative_ttl = negative_ttl,
                 .seed = seed,
                 .fields = {}} {
    for (const py::dict& field : fields) options_.fields.push_back(rule_of(field));
    const ReleasedGil released;
    cache_ = std::make_unique<RowCache>(options_);
  }

  std::size_t lookup(const py::array& keys, const py::array& out, const std::optional<py::array>& outcomes,
                     bool counted) {
    const auto wanted = keys_of(keys);
    const OutView target = out_of("out", out, wanted.size(), options_.dim);
    auto* const answers = written_of<std::uint8_t, Outcome>("outcomes", outcomes, wanted.size());
    const ReleasedGil released;
    return cache_->lookup(wanted, target, answers, counted);
  }

  std::size_t lookup_pool(const py::array& keys, const py::array& offsets, const std::string& pooling,
                          const py::array& out, const std::optional<py::array>& outcomes, bool counted) {
    const auto wanted = keys_of(keys);
    const Bags bags = bags_of(offsets, pooling);
    const OutView target = out_of("out", out, bags.count, options_.dim);
    auto* const answers = written_of<std::uint8_t, Outcome>("outcomes", outcomes, wanted.size());
    const ReleasedGil released;
    check_offsets(bags.offsets, wanted.size());
    return cache_->lookup_pool(wanted, bags.offsets, bags.pooling, target, answers, counted);
  }

  std::size_t write(const py::array& keys, const py::array& rows, const std::optional<py::array>& scores,
                    const std::optional<py::array>& versions, const std::optional<py::array>& expires,
                    bool update, const std::optional<py::array>& results, bool restore,
                    const std::optional<py::array>& earned, bool put, bool known) {
    const auto wanted = keys_of(keys);
    const MatrixView values = matrix_of("rows", rows);
    if (values.rows != wanted.size() || values.columns != options_.dim)
      refuse("rows", "[" + std::to_string(wanted.size()) + ", " + std::to_string(options_.dim) + "]", rows);
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
    auto* const what = written_of<std::uint8_t, WriteResult>("results", results, wanted.size());
    const ReleasedGil released;
    return cache_->write(batch, how, what);
  }

  std::size_t forget(const py::array& keys) {
    const auto wanted = keys_of(keys);
    const ReleasedGil released;
    return cache_->forget(wanted);
  }

  void mark_absent(const py::array& keys) {
    const auto wanted = keys_of(keys);
    const ReleasedGil released;
    cache_->mark_absent(wanted);
  }

  std::size_t erase(const py::array& keys, const py::array& versions,
                    const std::optional<py::array>& expires) {
    const auto wanted = keys_of(keys);
    const auto* const of = optional_of<std::uint64_t>("versions", versions, wanted.size());
    const auto* const until = optional_of<double>("expires", expires, wanted.size());
    const ReleasedGil released;
    return cache_->erase(wanted, of, until);
  }

  std::size_t feedback(const py::array& keys, const py::array& positive) {
    const auto wanted = keys_of(keys);
    const bool* const labels = optional_of<bool>("positive", positive, wanted.size());
    const ReleasedGil released;
    return cache_->feedback(wanted, labels);
  }

  py::dict peek(const py::array& keys) const {
    const auto wanted = keys_of(keys);
    std::vector<EntryInfo> infos(wanted.size());
    {
      const ReleasedGil released;
      cache_->peek(wanted, infos.data());
    }
    return columns_of(infos);
  }

  std::size_t replay(const py::array& keys, const std::optional<py::array>& hits) {
    const auto wanted = keys_of(keys);
    bool* const flags = written_of<bool>("hits", hits, wanted.size());
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
    result["keys"] = array_of(part.keys);
    result["order"] = array_of(part.order);
    result["rows"] = array_of(part.rows).reshape({-1, static_cast<int>(options_.dim)});
    return result;
  }

  py::dict stats() const {
    const CacheStats stats = cache_->stats();
    py::dict result;
    result["hits"] = stats.hits;
    result["misses"] = stats.misses;
    result["negative_hits"] = stats.negative_hits;
    each_counter<std::uint64_t>([&](const char* name, auto of, auto) { result[name] = stats.*of; });
    return result;
  }

  RowCache& cache() const { return *cache_; }
  const CacheOptions& options() const { return options_; }

 private:
  CacheOptions options_;
  std::unique_ptr<RowCache> cache_;
};

}  // namespace

CoreOf core_and_dim_of(const py::handle& row_cache) {
  const auto& found = row_cache.cast<const Cache&>();
  return {&found.cache(), found.options().dim};
}

void bind_row_cache(py::module_& module) {
  py::class_<Cache>(module, "RowCache",
                    "Rows of the ids that matter, in a fixed number of bytes. Safe from any thread.")
      .def(py::init<std::size_t, std::size_t, const std::string&, const std::string&, std::size_t, double,
                    double, double, double, double, double, std::uint64_t, const std::vector<py::dict>&>(),
           "dim"_a, "capacity_bytes"_a, "policy"_a = "lru", "dtype"_a = "float32", py::kw_only(),
           "max_rows"_a = 0, "beta"_a = 0.1, "r"_a = 3.0, "interval"_a = 86400.0, "admission"_a = 1.0,
           "tombstone_ttl"_a = 3600.0, "negative_ttl"_a = 60.0, "seed"_a = 0,
           "fields"_a = std::vector<py::dict>())
      .def("lookup", &Cache::lookup, "keys"_a, "out"_a, "outcomes"_a = py::none(), "counted"_a = true,
           "Writes the rows that are there to float32 [N, dim] `out`, and to uint8 [N] `outcomes` 0 for a "
           "miss, 1 for a row, 2 for an id known not to exist; returns how many rows were written.")
      .def("lookup_pool", &Cache::lookup_pool, "keys"_a, "offsets"_a, "pooling"_a, "out"_a,
           "outcomes"_a = py::none(), "counted"_a = true,
           "Writes the mean or sum of each bag's rows to float32 [B, dim] `out`; bags with a key that has "
           "no row are left undefined. Returns how many rows were found.")
      .def("write", &Cache::write, "keys"_a, "rows"_a, "scores"_a = py::none(), "versions"_a = py::none(),
           "expires"_a = py::none(), "update"_a = false, "results"_a = py::none(), "restore"_a = false,
           "earned"_a = py::none(), "put"_a = false, "known"_a = false,
           "Inserts or replaces rows of older (or, without `update`, equal) versions; returns how many. "
           "uint8 [N] `results`: 0 stale, 1 inserted, 2 replaced, 3 rejected. `restore`: rows that were in "
           "a cache before are admitted for certain, with their scores; bool [N] `earned`: those whose "
           "score is of accesses. `put`: whatever version is there; `known`, of an update or a put: only "
           "where anything is.")
      .def("forget", &Cache::forget, "keys"_a,
           "Lets go of what is known of the keys: the store is asked next. Returns how many were there.")
      .def("mark_absent", &Cache::mark_absent, "keys"_a,
           "Remembers for negative_ttl that there are no such ids.")
      .def("erase", &Cache::erase, "keys"_a, "versions"_a, "expires"_a = py::none(),
           "Deletes rows of older or equal versions and leaves tombstones; returns how many applied.")
      .def("feedback", &Cache::feedback, "keys"_a, "positive"_a,
           "Counts samples that contained the ids; returns how many were resident.")
      .def("peek", &Cache::peek, "keys"_a, "What is known of each key, touching and counting nothing.")
      .def("replay", &Cache::replay, "keys"_a, "hits"_a = py::none(),
           "Looks keys up one by one and inserts what misses; returns how many hit.")
      .def_property_readonly("parts", [](const Cache& c) { return c.cache().parts(); })
      .def("part", &Cache::part, "index"_a, "The entries of one part, consistent with each other.")
      .def_property_readonly(
          "floor", [](const Cache& c) { return c.cache().floor(); },
          "The highest version that was evicted: of keys that are not here, only newer updates are taken.")
      .def(
          "raise_floor", [](Cache& c, std::uint64_t version) { c.cache().raise_floor(version); }, "version"_a,
          "Takes no update as old as `version` of keys that are not here.")
      .def(
          "clear", [](Cache& c) { c.cache().clear(); }, py::call_guard<ReleasedGil>())
      .def(
          "set_time", [](Cache& c, double now) { c.cache().set_time(now); }, "now"_a,
          "Unix seconds from here on; nan: the clock's again.")
      .def(
          "step_wall_clock", [](Cache& c, double seconds) { c.cache().step_wall_clock(seconds); },
          "seconds"_a, "As if the wall clock had been set, by so many seconds in all: for tests.")
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
