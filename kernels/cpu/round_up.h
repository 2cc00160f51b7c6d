#pragma once

#include <cstddef>

namespace pepnet {

// Static: files of different instruction sets share no code.
static constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace pepnet
