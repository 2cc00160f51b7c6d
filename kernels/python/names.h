// Names of the values of an enumeration, as Python says them.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "cache/row_cache.h"

namespace pepnet::python {

// Throws ValueError naming those there are.
template <class Value, std::size_t kCount>
Value named(const char* argument, const std::pair<const char*, Value> (&names)[kCount],
            const std::string& name) {
  std::string known;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw pybind11::value_error(std::string(argument) + ": expected one of " + known + ", got '" + name + "'");
}

template <class Value, std::size_t kCount>
const char* name_of(const std::pair<const char*, Value> (&names)[kCount], Value wanted) {
  for (const auto& [text, value] : names)
    if (value == wanted) return text;
  return "";
}

inline constexpr std::pair<const char*, CachePolicy> kPolicies[] = {{"lru", CachePolicy::kLru},
                                                                    {"gset", CachePolicy::kGset},
                                                                    {"lfu", CachePolicy::kLfu},
                                                                    {"sieve", CachePolicy::kSieve},
                                                                    {"s3fifo", CachePolicy::kS3Fifo}};

}  // namespace pepnet::python
