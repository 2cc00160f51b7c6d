// NVIDIA GPUs: libpepnet_cuda.so, opened when somebody asks for it, its models, and rows that live on a
// device. What it throws is a BackendError here, but for weights that do not fit the network.
#include <dlfcn.h>

#include <memory>
#include <optional>

#include "arrays.h"
#include "cache/after_fork.h"
#include "cpu/named.h"
#include "cuda/model.h"
#include "dense/tensors.h"
#include "dense_model.h"

namespace pepnet::python {

namespace {

constexpr Named<cuda::Tile> kTileNames[] = {{"few", cuda::Tile::few},
                                            {"middle", cuda::Tile::middle},
                                            {"many", cuda::Tile::many},
                                            {"wide", cuda::Tile::wide}};
constexpr Named<cuda::Source> kSources[] = {
    {"general", cuda::Source::general}, {"domain", cuda::Source::domain}, {"prior", cuda::Source::prior}};
constexpr Named<cuda::FieldKind> kFieldKinds[] = {{"id", cuda::FieldKind::id},
                                                  {"mean", cuda::FieldKind::bag_mean},
                                                  {"sum", cuda::FieldKind::bag_sum},
                                                  {"dense", cuda::FieldKind::dense}};

// The library, which stays loaded. What is on a GPU is the parent's alone: in a forked child every call that
// needs the GPU is an error, and nothing is destroyed.
class OpenLibrary final : cache::ForkHandler, public std::enable_shared_from_this<OpenLibrary> {
 public:
  explicit OpenLibrary(const std::string& path) {
    void* const opened = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* const found = opened == nullptr ? nullptr : ::dlsym(opened, cuda::kLibraryFunction);
    if (found == nullptr) throw BackendError("backend: cuda: " + path + " cannot be loaded: " + ::dlerror());
    library_ = reinterpret_cast<const cuda::Library* (*)()>(found)();
    if (library_->interface_number != cuda::kInterface) {
      throw BackendError("backend: cuda: " + path + ": expected interface " +
                         std::to_string(cuda::kInterface) + ", got " +
                         std::to_string(library_->interface_number));
    }
  }

  bool emulated() const { return library_->emulated; }
  void after_fork() noexcept override { lost_ = true; }

  const cuda::Library* operator->() const { return library_; }

  // Returns what `work()` returns, which runs without the interpreter's lock.
  template <class Work>
  auto call(const Work& work) const {
    if (lost_) {
      throw BackendError(
          "backend: cuda: a GPU cannot be used in a child forked from a process that uses it: load the "
          "engine in the child, and start child processes with spawn or forkserver");
    }
    const ReleasedGil released;
    try {
      return work();
    } catch (const std::exception& error) {
      throw BackendError(std::string("backend: ") + error.what());
    }
  }

  template <class T>
  std::shared_ptr<T> keep(std::unique_ptr<T> made) {
    return std::shared_ptr<T>(made.release(), [library = shared_from_this()](T* object) {
      // This waits for the device. Rows that a model holds go while the model goes, without the lock already.
      std::optional<ReleasedGil> released;
      if (PyGILState_Check() != 0) released.emplace();
      if (!library->lost_) delete object;
    });
  }

 private:
  const cuda::Library* library_ = nullptr;
  bool lost_ = false;
};

using SharedLibrary = std::shared_ptr<OpenLibrary>;

py::dict device_of(const OpenLibrary& library, int device) {
  const cuda::DeviceInfo info = library.call([&] { return library->device_info(device); });
  return py::dict("name"_a = info.name,
                  "capability"_a = std::to_string(info.major) + "." + std::to_string(info.minor),
                  "multiprocessors"_a = info.multiprocessors, "memory_bytes"_a = info.memory_bytes);
}

// Tables of rows on a device.
struct DeviceTables {
  SharedLibrary library;
  std::shared_ptr<cuda::Rows> rows;

  bool insert(const py::array& keys, const py::array& values, const py::array& found, const py::array& high,
              const py::array& scores, const py::array& expires, std::uint64_t generation) const {
    const MatrixView matrix = matrix_of("rows", values);
    if (matrix.stride != matrix.columns && matrix.rows > 1) refuse("rows", "rows without gaps", values);
    const std::size_t count = matrix.rows;
    const cuda::NewRows given{static_cast<int>(matrix.columns),
                              {optional_of<std::uint64_t>("keys", keys, count), count},
                              matrix.data,
                              optional_of<bool>("found", found, count),
                              optional_of<bool>("high", high, count),
                              optional_of<float>("scores", scores, count),
                              optional_of<double>("expires", expires, count)};
    return library->call([&] { return rows->insert(given, generation); });
  }

  void drop(int width, const py::array& keys) const {
    const std::size_t count = vector_of<std::uint64_t>("keys", keys).size();
    const auto* const given = optional_of<std::uint64_t>("keys", keys, count);
    library->call([&] { rows->drop(width, {given, count}); });
  }

  void clear() const {
    library->call([&] { rows->clear(); });
  }

  py::dict stats() const {
    const cuda::RowsStats stats = library->call([&] { return rows->stats(); });
    return py::dict("entries"_a = stats.entries, "bytes"_a = stats.bytes, "inserted"_a = stats.inserted,
                    "dropped"_a = stats.dropped, "outdated"_a = stats.outdated);
  }
};

DeviceTables tables_on(const SharedLibrary& library, const std::vector<std::pair<int, std::size_t>>& entries,
                       bool by_score, int device) {
  std::vector<cuda::Rows::Width> widths;
  for (const auto& [width, count] : entries) widths.push_back({width, count});
  const OpenLibrary& opened = *library;
  return {library, library->keep(library->call([&] { return opened->make_rows(device, widths, by_score); }))};
}

// What a batch has of each field, as the library reads it, and the arrays that this points into.
class FeatureViews {
 public:
  FeatureViews(const py::list& given, const py::list& default_rows, std::size_t rows)
      : rows_(rows), views_(default_rows.size()) {
    for (const py::handle& each : given) {
      const auto one = py::cast<py::tuple>(each);
      if (one.size() != 5) throw py::value_error("given: expected (field, keys, offsets, values, shared)");
      const auto field = one[0].cast<std::size_t>();
      if (field >= views_.size())
        throw py::value_error("given: expected fields below " + std::to_string(views_.size()));
      cuda::FieldView& view = views_[field];
      view.shared = one[4].cast<bool>();
      const std::size_t own = view.shared ? 1 : rows;
      std::size_t ends = 0;
      view.keys = pointer_to<std::uint64_t>("keys", one[1], &view.count);
      view.offsets = pointer_to<std::int64_t>("offsets", one[2], &ends);
      view.values = pointer_to<float>("values", one[3], view.keys == nullptr ? &view.count : nullptr);
      if (view.offsets != nullptr) {
        expect_rows("offsets", own + 1, ends);
      } else {
        expect_rows(view.keys != nullptr ? "keys" : "values", own, view.count);
      }
      view.default_row = pointer_to<float>("default_rows", default_rows[field]);
    }
  }

  const std::vector<cuda::FieldView>& views() const { return views_; }
  std::size_t rows() const { return rows_; }
  py::array_t<std::int64_t> counts() const {
    py::array_t<std::int64_t> counts(static_cast<py::ssize_t>(views_.size()));
    std::int64_t* out = counts.mutable_data();
    for (const cuda::FieldView& view : views_) *out++ = static_cast<std::int64_t>(view.count);
    return counts;
  }

 private:
  // The address of an array of T, or null for None. What is not C-contiguous and aligned is copied.
  template <class T>
  const T* pointer_to(const char* name, const py::handle& given, std::size_t* count = nullptr) {
    if (given.is_none()) return nullptr;
    if (!py::isinstance<py::array_t<T>>(given))
      throw py::type_error(std::string(name) + ": expected an array of " + type_name<T>());
    constexpr int kWanted = py::array::c_style | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    if (py::reinterpret_borrow<py::array>(given).ndim() != 1)
      throw py::value_error(std::string(name) + ": expected one dimension");
    // Not `ensure`: of a copy that there is no memory for it forgets the error.
    const py::array_t<T, kWanted> array(py::reinterpret_borrow<py::object>(given));
    if (count != nullptr) *count = length(array);
    held_.append(array);
    return array.data();
  }

  // What the library reads of a field is as long as its rows say: it is told no lengths but that of keys.
  static void expect_rows(const char* name, std::size_t rows, std::size_t found) {
    if (found != rows)
      throw py::value_error(std::string(name) + ": expected " + std::to_string(rows) + ", got " +
                            std::to_string(found));
  }

  std::size_t rows_;
  std::vector<cuda::FieldView> views_;
  py::list held_;
};

// Rows that wait for the columns that the device lacks. The binding keeps what it points into.
struct Waiting {
  const OpenLibrary& library;
  std::shared_ptr<cuda::PendingScores> scores;  // null when the call is over
  cuda::FeatureCall call;

  cuda::PendingScores& pending() const {
    if (scores == nullptr)
      throw py::value_error("scores: expected some that wait, got those of a call that is over");
    return *scores;
  }

  void finish(const py::array& at, const py::array& from, const py::array& values) {
    const std::size_t count = at.ndim() == 1 ? length(at) : 0, size = values.ndim() == 1 ? length(values) : 0;
    const cuda::Patches patches{{optional_of<std::uint32_t>("at", at, count), count},
                                {optional_of<std::uint32_t>("begins", from, count), count},
                                {optional_of<float>("values", values, size), size}};
    cuda::PendingScores& waiting = pending();
    library.call([&] { waiting.finish(call, patches); });
  }
};

using Places = std::vector<std::pair<std::string, int>>;
using Field = std::tuple<std::string, int, std::uint64_t, Places>;

class CudaModel {
 public:
  CudaModel(const SharedLibrary& library, const py::object& tensors, const network::Network& network,
            bool bf16, int device, bool graphs, const std::optional<std::string>& tile)
      : library_(library), scores_(network.scores()) {
    for (network::ValueId i = 0; i < network::kInputs; ++i) widths_[i] = network.shape(i).width;
    const py::dict arrays(tensors);
    const Tensors views = tensors_of(arrays);
    std::optional<cuda::Tile> given;
    if (tile) given = value_named("tile", kTileNames, *tile);
    {
      const ReleasedGil released;
      engine::check_values(network, views);
    }
    const auto precision = bf16 ? cuda::Precision::bf16 : cuda::Precision::fp32;
    const OpenLibrary& opened = *library;
    model_ = library->keep(
        library->call([&] { return opened->make_model(network, views, precision, device, graphs, given); }));
  }

  py::array_t<float> run(const py::array& general, const py::array& domain, const py::array& prior) {
    const DenseInputs inputs = inputs_of(widths_, general, domain, prior);
    py::array_t<float> scores = scores_for(inputs.rows, scores_);
    const cuda::CallInputs call{
        {inputs.general, inputs.domain, inputs.prior}, scores.mutable_data(), inputs.rows};
    library_->call([&] { model_->run(call); });
    return scores;
  }

  void run_at(std::uintptr_t general, std::uintptr_t domain, std::uintptr_t prior, std::uintptr_t scores,
              std::size_t rows, std::uintptr_t stream) {
    const auto floats = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
    const cuda::CallInputs call{{floats(general), floats(domain), floats(prior)},
                                floats(scores),
                                rows,
                                true,
                                reinterpret_cast<void*>(stream)};
    library_->call([&] { model_->run(call); });
  }

  py::dict facts() const {
    const cuda::ModelFacts facts = model_->facts();
    py::list products;
    for (const cuda::StepCost& cost : facts.costs)
      products.append(py::dict("name"_a = cost.name, "flops_a_row"_a = cost.flops,
                               "weight_bytes"_a = cost.weight_bytes, "launch"_a = cost.launch));
    py::dict tiles;
    for (const auto& [rows, choices] : facts.tiles) {
      py::list launches;
      for (const cuda::TileChoice& one : choices) {
        py::dict took;
        for (const auto& [tile, microseconds] : one.microseconds)
          took[name_of(kTileNames, tile)] = microseconds;
        launches.append(py::dict("tile"_a = name_of(kTileNames, one.tile), "microseconds"_a = took));
      }
      tiles[py::str(std::to_string(rows))] = launches;
    }
    return py::dict("weight_bytes"_a = facts.weight_bytes, "products"_a = products, "tiles"_a = tiles);
  }

  void attach(const DeviceTables& rows, const std::vector<Field>& fields) {
    std::vector<cuda::FieldSpec> specs;
    for (const auto& [kind, width, number, places] : fields) {
      cuda::FieldSpec& spec = specs.emplace_back();
      spec.kind = value_named("kind", kFieldKinds, kind);
      spec.width = width;
      spec.number = number << 48;
      for (const auto& [input, column] : places)
        spec.places.emplace_back(value_named("input", kSources, input), column);
    }
    library_->call([&] { model_->attach(rows.rows, std::move(specs)); });
  }

  std::unique_ptr<Waiting> score(const FeatureViews& given, std::size_t first, std::size_t rows,
                                 const py::array& scores, const py::array& unknown) {
    if (first > given.rows() || rows > given.rows() - first)
      throw py::value_error("rows: expected some of " + std::to_string(given.rows()));
    const OutView out = out_of("scores", scores, given.rows(), scores_);
    if (!is_packed(scores)) refuse("scores", "rows without gaps", scores);
    auto* const counts = written_of<std::uint32_t>("unknown", unknown, given.views().size());
    const cuda::FeatureCall call{given.views(), first, rows, out.data, counts};
    auto pending = library_->call([&] { return model_->score(call); });
    if (pending == nullptr) return nullptr;
    return std::make_unique<Waiting>(Waiting{*library_, library_->keep(std::move(pending)), call});
  }

 private:
  SharedLibrary library_;
  std::array<std::size_t, 3> widths_;
  std::size_t scores_;
  std::shared_ptr<cuda::Model> model_;
};

}  // namespace

void bind_cuda(py::module_& module) {
  py::class_<OpenLibrary, SharedLibrary>(module, "CudaLibrary", "libpepnet_cuda.so, opened.")
      .def(py::init<const std::string&>(), "path"_a)
      .def_property_readonly("emulated", &OpenLibrary::emulated)
      .def_property_readonly(
          "devices",
          [](const OpenLibrary& library) { return library.call([&] { return library->device_count(); }); })
      .def("device", &device_of, "number"_a);
  py::class_<DeviceTables>(module, "CudaRows", "Tables of rows on a device, one for each width.")
      .def(py::init(&tables_on), "library"_a, "entries"_a, "by_score"_a, "device"_a)
      .def("insert", &DeviceTables::insert, "keys"_a, "rows"_a, "found"_a, "high"_a, "scores"_a, "expires"_a,
           "generation"_a)
      .def("drop", &DeviceTables::drop, "width"_a, "keys"_a)
      .def("clear", &DeviceTables::clear)
      .def("stats", &DeviceTables::stats)
      .def_property_readonly("generation",
                             [](const DeviceTables& tables) { return tables.rows->generation(); });
  py::class_<FeatureViews>(module, "CudaFeatures", "What a batch has of each field, for a GPU.")
      .def(py::init<const py::list&, const py::list&, std::size_t>(), "given"_a, "default_rows"_a, "rows"_a)
      .def_property_readonly("counts", &FeatureViews::counts);
  py::class_<Waiting>(module, "CudaWaiting",
                      "Rows that wait for what the device lacks, while a `with` is in it.")
      .def("__enter__", [](const Waiting&) {})
      .def("__exit__", [](Waiting& waiting, const py::args&) { waiting.scores.reset(); })
      .def_property_readonly("lacking",
                             [](const Waiting& waiting) { return array_of(waiting.pending().lacking); })
      .def_property_readonly("generation",
                             [](const Waiting& waiting) { return waiting.pending().generation; })
      .def("finish", &Waiting::finish, "at"_a, "begins"_a, "values"_a);
  py::class_<CudaModel>(module, "CudaModel", "A model's weights on a device.")
      .def(py::init<const SharedLibrary&, const py::object&, const network::Network&, bool, int, bool,
                    const std::optional<std::string>&>(),
           "library"_a, "tensors"_a, "network"_a, "bf16"_a = false, "device"_a = 0, "graphs"_a = true,
           "tile"_a = py::none())
      .def("run", &CudaModel::run, "general"_a, "domain"_a, "prior"_a)
      .def("run_at", &CudaModel::run_at, "general"_a, "domain"_a, "prior"_a, "scores"_a, "rows"_a, "stream"_a)
      .def("facts", &CudaModel::facts)
      .def("attach", &CudaModel::attach, "rows"_a, "fields"_a)
      .def("score", &CudaModel::score, "features"_a, "first"_a, "rows"_a, "scores"_a, "unknown"_a,
           py::keep_alive<0, 1>(), py::keep_alive<0, 2>(), py::keep_alive<0, 5>(), py::keep_alive<0, 6>());
}

}  // namespace pepnet::python
