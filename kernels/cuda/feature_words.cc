#include "cuda/feature_words.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace pepnet::cuda {
namespace {

// The rows of a field that a call is about.
struct Part {
  std::size_t first, rows;
};

Part part_of(const FieldView& view, std::size_t first, std::size_t rows) {
  return view.shared ? Part{0, 1} : Part{first, rows};
}

[[noreturn]] void refuse(std::size_t field, const std::string& what) {
  throw std::invalid_argument("features: field " + std::to_string(field) + ": " + what);
}

// Of bags: where the keys of the part begin and end. Throws std::invalid_argument.
std::pair<std::size_t, std::size_t> keys_of(std::size_t field, const FieldView& view, Part part) {
  std::int64_t before = view.offsets[part.first];
  for (std::size_t i = 0; i <= part.rows; ++i) {
    const std::int64_t offset = view.offsets[part.first + i];
    if (offset < before || offset < 0 || static_cast<std::size_t>(offset) > view.count)
      refuse(field, "expected offsets in order within " + std::to_string(view.count) + " keys, got " +
                        std::to_string(offset));
    before = offset;
  }
  return {static_cast<std::size_t>(view.offsets[part.first]), static_cast<std::size_t>(before)};
}

class Words {
 public:
  Words(std::byte* begin) : begin_(reinterpret_cast<std::uint32_t*>(begin)), next_(begin_) {}

  std::uint32_t here() const {
    if (size() > std::numeric_limits<std::uint32_t>::max())
      throw std::length_error("features: too many for one call");
    return static_cast<std::uint32_t>(size());
  }
  std::size_t size() const { return static_cast<std::size_t>(next_ - begin_); }
  void put(std::uint32_t word) { *next_++ = word; }
  void put_numbers(const float* values, std::size_t count) {
    std::memcpy(next_, values, count * sizeof *values);
    next_ += count;
  }
  // Returns whether two words a key were needed.
  bool put_keys(const std::uint64_t* keys, std::size_t count, std::uint64_t number) {
    std::uint64_t above = 0;  // bits of ids above 2^32, and what is of another table
    for (std::size_t i = 0; i < count; ++i) above |= (keys[i] ^ number) >> 32;
    const bool wide = above != 0;
    if (wide) {
      std::memcpy(next_, keys, count * sizeof *keys);  // the lower word first
      next_ += 2 * count;
    } else {
      for (std::size_t i = 0; i < count; ++i) next_[i] = static_cast<std::uint32_t>(keys[i]);
      next_ += count;
    }
    return wide;
  }

 private:
  std::uint32_t *begin_, *next_;
};

}  // namespace

std::size_t most_feature_bytes(std::span<const FieldSpec> fields, std::span<const FieldView> views,
                               std::size_t first, std::size_t rows) {
  std::size_t words = 0;
  for (std::size_t f = 0; f < fields.size(); ++f) {
    const Part part = part_of(views[f], first, rows);
    if (fields[f].kind != FieldKind::dense) words += static_cast<std::size_t>(fields[f].width);
    if (fields[f].kind == FieldKind::dense) {
      words += part.rows;
    } else if (fields[f].kind == FieldKind::id) {
      words += 2 * part.rows;
    } else {
      const auto [begin, end] = keys_of(f, views[f], part);
      words += part.rows + 1 + 2 * (end - begin);
    }
  }
  return fields.size() * sizeof(FieldWords) + words * sizeof(std::uint32_t);
}

std::size_t write_features(std::span<const FieldSpec> fields, std::span<const FieldView> views,
                           std::size_t first, std::size_t rows, std::byte* to) {
  auto* const header = reinterpret_cast<FieldWords*>(to);
  Words words(to + fields.size() * sizeof(FieldWords));
  for (std::size_t f = 0; f < fields.size(); ++f) {
    const FieldSpec& spec = fields[f];
    const FieldView& view = views[f];
    const Part part = part_of(view, first, rows);
    const bool bags = spec.kind == FieldKind::bag_mean || spec.kind == FieldKind::bag_sum;
    if (!bags && view.count < part.first + part.rows)
      refuse(f, "expected " + std::to_string(part.first + part.rows) + " values, got " +
                    std::to_string(view.count));
    FieldWords at{};
    at.shared = view.shared ? 1 : 0;
    if (spec.kind == FieldKind::dense) {
      at.values = words.here();
      words.put_numbers(view.values + part.first, part.rows);
    } else {
      at.default_row = words.here();
      words.put_numbers(view.default_row, static_cast<std::size_t>(spec.width));
    }
    if (bags) {
      const auto [begin, end] = keys_of(f, view, part);
      at.offsets = words.here();
      for (std::size_t i = 0; i <= part.rows; ++i)
        words.put(static_cast<std::uint32_t>(static_cast<std::size_t>(view.offsets[part.first + i]) - begin));
      at.values = words.here();
      at.wide = words.put_keys(view.keys + begin, end - begin, spec.number) ? 1 : 0;
    } else if (spec.kind == FieldKind::id) {
      at.values = words.here();
      at.wide = words.put_keys(view.keys + part.first, part.rows, spec.number) ? 1 : 0;
    }
    header[f] = at;
  }
  return fields.size() * sizeof(FieldWords) + words.size() * sizeof(std::uint32_t);
}

}  // namespace pepnet::cuda
