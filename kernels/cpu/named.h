// Names of the values of an enumeration, as people write them.
#pragma once

#include <iterator>
#include <stdexcept>
#include <string>

namespace pepnet {

template <class Value>
struct Named {
  const char* name;
  Value value;
};

// Throws std::invalid_argument naming `what`, those there are and the one that came.
template <class Value, std::size_t kCount>
Value value_named(const char* what, const Named<Value> (&names)[kCount], const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < kCount; ++i) {
    if (name == names[i].name) return names[i].value;
    known += (i == 0 ? "" : i + 1 == kCount ? " or " : ", ") + std::string(names[i].name);
  }
  throw std::invalid_argument(std::string(what) + ": expected " + known + ", got '" + name + "'");
}

template <class Value, std::size_t kCount>
constexpr const char* name_of(const Named<Value> (&names)[kCount], Value value) {
  for (const Named<Value>& one : names)
    if (one.value == value) return one.name;
  return "";
}

}  // namespace pepnet
