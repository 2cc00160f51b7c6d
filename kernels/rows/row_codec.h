// The formats of rows: narrowed when written, widened when read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rows/half.h"
#include "rows/rows.h"

namespace pepnet {

template <RowType type>
void store_row(const float* values, std::byte* row, std::size_t dim) noexcept {
  if constexpr (type == RowType::kFloat32) {
    std::memcpy(row, values, dim * sizeof(float));
  } else if constexpr (type == RowType::kInt8) {
    // Codes have neither: an infinity is kept as the largest finite magnitude of its row, NaN as 0.
    float largest = 0.0F;
    for (std::size_t i = 0; i < dim; ++i) {
      if (std::isfinite(values[i])) largest = std::max(largest, std::fabs(values[i]));
    }
    float scale = largest / 127.0F;
    // Of the largest floats there are, 127 times the rounded scale would be infinite.
    while (!std::isfinite(127.0F * scale)) scale = std::nextafter(scale, 0.0F);
    std::memcpy(row, &scale, sizeof scale);
    for (std::size_t i = 0; i < dim; ++i) {
      const float code = scale > 0.0F ? std::nearbyint(values[i] / scale) : 0.0F;
      const float kept = code > 127.0F ? 127.0F : (code >= -127.0F ? code : (code < 0.0F ? -127.0F : 0.0F));
      row[sizeof(float) + i] = static_cast<std::byte>(static_cast<std::int8_t>(kept));
    }
  } else {
    for (std::size_t i = 0; i < dim; ++i) {
      const std::uint16_t bits =
          type == RowType::kFloat16 ? half_from_float(values[i]) : bfloat16_from_float(values[i]);
      std::memcpy(row + 2 * i, &bits, sizeof bits);
    }
  }
}

// Calls `put(i, value)` for each number of a row in order.
template <RowType type, class Put>
void each_value(const std::byte* row, std::size_t dim, Put&& put) noexcept {
  if constexpr (type == RowType::kFloat32) {
    for (std::size_t i = 0; i < dim; ++i) {
      float value;
      std::memcpy(&value, row + 4 * i, sizeof value);
      put(i, value);
    }
  } else if constexpr (type == RowType::kInt8) {
    float scale;
    std::memcpy(&scale, row, sizeof scale);
    for (std::size_t i = 0; i < dim; ++i)
      put(i, scale * static_cast<float>(static_cast<std::int8_t>(row[sizeof(float) + i])));
  } else {
    for (std::size_t i = 0; i < dim; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, row + 2 * i, sizeof bits);
      put(i, type == RowType::kFloat16 ? float_from_half(bits) : float_from_bfloat16(bits));
    }
  }
}

template <RowType type>
void load_row(const std::byte* row, float* out, std::size_t dim) noexcept {
  if constexpr (type == RowType::kFloat32) {
    // In pieces of a size the compiler knows: a call of memcpy costs as much as the copy.
    std::size_t i = 0;
    for (; i + 8 <= dim; i += 8) std::memcpy(out + i, row + 4 * i, 32);
    for (; i < dim; ++i) std::memcpy(out + i, row + 4 * i, 4);
  } else {
    each_value<type>(row, dim, [&](std::size_t i, float value) { out[i] = value; });
  }
}

// Calls `body` with the row type as a template argument: the type is looked at once a call, not once a
// number.
template <class Body>
auto with_row_type(RowType type, Body&& body) noexcept {
  switch (type) {
    case RowType::kFloat32:
      return body.template operator()<RowType::kFloat32>();
    case RowType::kFloat16:
      return body.template operator()<RowType::kFloat16>();
    case RowType::kBfloat16:
      return body.template operator()<RowType::kBfloat16>();
    case RowType::kInt8:
      break;
  }
  return body.template operator()<RowType::kInt8>();
}

}  // namespace pepnet
