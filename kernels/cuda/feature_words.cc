#include "cuda/feature_words.h"

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

namespace pepnet::cuda {
namespace {

// The rows of a field that a call is about.
struct Part {
  std::size_t first, rows;
};

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

// Words one after another; without memory to write to they are only counted.
class Words {
 public:
  explicit Words(std::byte* to) : to_(reinterpret_cast<std::uint32_t*>(to)) {}

  std::uint32_t here() const {
    if (size_ > std::numeric_limits<std::uint32_t>::max())
      throw std::length_error("features: too many for one call");
    return static_cast<std::uint32_t>(size_);
  }
  std::size_t size() const { return size_; }
  void put(std::uint32_t word) {
    if (to_ != nullptr) to_[size_] = word;
    ++size_;
  }
  template <class Value>
  void put_all(const Value* values, std::size_t count) {
    if (to_ != nullptr && count > 0) std::memcpy(to_ + size_, values, count * sizeof *values);
    size_ += count * sizeof *values / sizeof *to_;
  }
  // Returns whether two words a key were needed, the lower one first. They are when keys are only counted.
  bool put_keys(const std::uint64_t* keys, std::size_t count, std::uint64_t number) {
    std::uint64_t above = 0;  // bits of ids above 2^32, and what is of another table
    for (std::size_t i = 0; to_ != nullptr && i < count; ++i) above |= (keys[i] ^ number) >> 32;
    const bool wide = above != 0 || to_ == nullptr;
    if (wide) {
      put_all(keys, count);
    } else {
      std::uint32_t* const to = to_ + size_;
      for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<std::uint32_t>(keys[i]);
      size_ += count;
    }
    return wide;
  }

 private:
  std::uint32_t* to_;
  std::size_t size_ = 0;
};

}  // namespace

std::size_t write_features(std::span<const FieldSpec> fields, std::span<const FieldView> views,
                           std::size_t first, std::size_t rows, std::byte* to) {
  auto* const header = reinterpret_cast<FieldWords*>(to);
  const std::size_t header_bytes = fields.size() * sizeof(FieldWords);
  Words words(to == nullptr ? nullptr : to + header_bytes);
  for (std::size_t f = 0; f < fields.size(); ++f) {
    const FieldSpec& spec = fields[f];
    const FieldView& view = views[f];
    const Part part = view.shared ? Part{0, 1} : Part{first, rows};
    FieldWords at{};
    at.shared = view.shared ? 1 : 0;
    if (spec.kind == FieldKind::dense) {
      if (view.values == nullptr || view.keys != nullptr || view.offsets != nullptr)
        refuse(f, "expected a number for each row");
      at.values = words.here();
      words.put_all(view.values + part.first, part.rows);
    } else {
      const bool bags = spec.kind != FieldKind::id;
      const bool without_keys = view.keys == nullptr && (!bags || view.count > 0);
      if (without_keys || bags != (view.offsets != nullptr))
        refuse(f, bags ? "expected a bag of ids for each row" : "expected an id for each row");
      at.default_row = words.here();
      words.put_all(view.default_row, static_cast<std::size_t>(spec.width));
      std::size_t begin = part.first, end = part.first + part.rows;
      if (bags) {
        std::tie(begin, end) = keys_of(f, view, part);
        at.offsets = words.here();
        for (std::size_t i = 0; i <= part.rows; ++i)
          words.put(
              static_cast<std::uint32_t>(static_cast<std::size_t>(view.offsets[part.first + i]) - begin));
      }
      at.values = words.here();
      at.wide = words.put_keys(view.keys + begin, end - begin, spec.number) ? 1 : 0;
    }
    if (to != nullptr) header[f] = at;
  }
  return header_bytes + words.size() * sizeof(std::uint32_t);
}

}  // namespace pepnet::cuda
