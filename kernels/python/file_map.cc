#include "rows/file_map.h"

#include <cerrno>
#include <memory>
#include <system_error>

#include "bindings.h"
#include "cpu/named.h"

namespace pepnet::python {

namespace {

constexpr Named<FileProblem> kProblems[] = {
    {"", FileProblem::kNone},
    {"a page of it can no longer be read: it was cut, or its disk failed", FileProblem::kUnreadable},
    {"it has another size", FileProblem::kResized},
    {"it was written to", FileProblem::kWritten},
    {"touched", FileProblem::kTouched}};

const char* problem_of(const FileMap& map) {
  const ReleasedGil released;  // a file system behind a network answers when it likes
  return name_of(kProblems, map.problem());
}

// One call and one release of the interpreter's lock for all tables of a batch.
bool all_as_mapped(const std::vector<const FileMap*>& maps) {
  if (std::ranges::find(maps, nullptr) != maps.end())
    throw py::type_error("maps: expected a FileMap each, got None");
  const ReleasedGil released;
  for (const FileMap* map : maps)
    if (map->problem() != FileProblem::kNone) return false;
  return true;
}

}  // namespace

void bind_file_map(py::module_& module) {
  py::class_<FileMap>(module, "FileMap", py::buffer_protocol(),
                      "A file's bytes, mapped and read-only. What was cut away since reads as zeros: ask "
                      "`problem` after reading.")
      .def(py::init([](int descriptor) {
             try {
               return std::make_unique<FileMap>(descriptor);
             } catch (const std::system_error& error) {
               errno = error.code().value();
               PyErr_SetFromErrno(PyExc_OSError);
               throw py::error_already_set();
             }
           }),
           "descriptor"_a)
      .def_buffer([](FileMap& map) {
        return py::buffer_info(const_cast<std::byte*>(map.data()), 1, "B", 1,
                               {static_cast<py::ssize_t>(map.size())}, {1}, true);
      })
      .def("__len__", &FileMap::size)
      .def("problem", &problem_of,
           "Says what is wrong with what was read so far; empty where it is the file's content as it was "
           "mapped; \"touched\" where only its content can tell.")
      .def_property_readonly("changed_ns", &FileMap::changed_ns)
      .def("accept", &FileMap::accept, "changed_ns"_a)
      .def_property_readonly("identity", [](const FileMap& map) {
        const FileIdentity& is = map.identity();
        return py::make_tuple(is.device, is.inode, is.size, is.modified_ns);
      });
  module.def("all_as_mapped", &all_as_mapped, "maps"_a);
}

}  // namespace pepnet::python
