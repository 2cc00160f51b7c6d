// The resources of one call: a stream, scratch memory and recorded launches for each bucket of rows, and
// staging memory for both directions.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/device_rows.h"
#include "cuda/feature_words.h"
#include "cuda/model.h"
#include "cuda/packing.h"
#include "cuda/program.h"
#include "cuda/runtime.h"
#include "cuda/tuning.h"

namespace pepnet::cuda {

constexpr std::size_t kMostRows = *std::rbegin(kBuckets);
// Inputs of a bucket up to so many bytes go to the device as one copy, of larger ones what is there, in
// pieces that travel while the next is prepared.
constexpr std::size_t kTogether = std::size_t{64} << 10;
constexpr std::size_t kPiece = std::size_t{1} << 20;
// The first so many fields that lack a row come with the scores in one copy, more in a second one.
constexpr std::size_t kToldAtOnce = 1024;

// The bucket for so many rows, at most the largest.
inline int bucket_of(std::size_t rows) {
  return *std::ranges::lower_bound(kBuckets, static_cast<int>(std::min(rows, kMostRows)));
}

// A model's fields, and the rows they come from.
struct Attached {
  std::shared_ptr<DeviceRows> rows;
  std::vector<FieldSpec> fields;
};

class Context {
 public:
  Context(const Program& program, const TilesByRows& tiles, const std::byte* weights, bool graphs,
          const Attached* attached)
      : program_(program), tiles_(tiles), weights_(weights), graphs_(graphs), attached_(attached) {}
  // A caller's stream may still be at work with it, and ours after a call that failed.
  ~Context() {
    free_.wait();
    stream_.drain();
  }

  // What a caller's stream still has to do with this context is done when the next goes on.
  void take_over() { stream_.wait_for(free_); }

  // Scores are there on return.
  void run_from_host(const CallInputs& call, std::size_t first, std::size_t rows) {
    Bucket& bucket = at(bucket_of(rows));
    if (bucket.inputs.data() == nullptr) open_to_host(bucket);
    const bool together = bucket.inputs.size() <= kTogether;
    // Through pinned memory, and on to the device unless all go together.
    for (std::size_t i = 0; i < 3; ++i) {
      const std::size_t row = widths()[i] * sizeof(float), bytes = rows * row;
      const auto* const from = reinterpret_cast<const std::byte*>(call.inputs[i]) + first * row;
      for (std::size_t done = 0; done < bytes; done += kPiece) {
        const std::size_t at = bucket.at[i] + done, size = std::min(kPiece, bytes - done);
        std::memcpy(bucket.pinned.data() + at, from + done, size);
        if (!together) stream_.copy(bucket.inputs.data() + at, bucket.pinned.data() + at, size);
      }
    }
    if (together) stream_.copy(bucket.inputs.data(), bucket.pinned.data(), bucket.inputs.size());
    enqueue(stream_, bucket.whole, bucket.launches);
    const std::size_t bytes = rows * program_.scores() * sizeof(float);
    stream_.copy(bucket.told.data(), bucket.answers.data(), bytes);
    stream_.wait();
    std::memcpy(call.scores + first * program_.scores(), bucket.told.data(), bytes);
  }

  // Inputs are read and scores written where the caller has them, in the order of his stream.
  void run_on_device(const CallInputs& call) {
    Stream stream(call.stream);
    stream.wait_for(free_);
    for (std::size_t first = 0; first < call.rows; first += kMostRows) {
      const std::size_t rows = std::min(kMostRows, call.rows - first);
      Bucket& bucket = at(bucket_of(rows));
      Addresses theirs = bucket.own;
      for (std::size_t i = 0; i < 3; ++i) theirs.inputs[i] = call.inputs[i] + first * widths()[i];
      theirs.scores = call.scores + first * program_.scores();
      theirs.live = static_cast<int>(rows);
      const std::size_t ends = program_.first() + program_.last();
      for (const Launch& launch : program_.bind_first(theirs)) stream.enqueue(launch);
      enqueue(stream, bucket.middle,
              Launches(bucket.launches).subspan(program_.first(), bucket.launches.size() - ends));
      for (const Launch& launch : program_.bind_last(theirs)) stream.enqueue(launch);
    }
    free_.record(stream);
  }

  // Scores rows of which all ids are on the device. Where some are not, returns which (row · fields + field,
  // ascending), and `finish` scores them. at_once: the products are run before it is known whether anything
  // lacks.
  std::vector<std::uint32_t> run_features(const FeatureCall& call, bool at_once) {
    Bucket& bucket = at(bucket_of(call.rows));
    if (bucket.fields.data() == nullptr) open_to_features(bucket);
    const auto& specs = attached_->fields;
    const auto write = [&](std::byte* to) {
      return write_features(specs, call.fields, call.first, call.rows, to);
    };
    std::byte* const to = words_.room(write(nullptr));
    const std::size_t bytes = write(to);
    stream_.copy(words_.device.data(), to, bytes);
    const auto counts = reinterpret_cast<std::uint32_t*>(bucket.answers.data() + bucket.counts_at);
    stream_.fill(counts, 0, count_bytes());
    DeviceRows& rows = *attached_->rows;
    Gather gather = gather_of(bucket, call.rows);
    gather.clock = rows.tick();
    gather.now = rows.now();
    gather.counts = counts;
    gather.lacking = counts + count_bytes() / sizeof(std::uint32_t);
    rows.read(stream_, read_, gather);
    if (at_once) enqueue(stream_, bucket.rest, after_gather(bucket));
    const std::size_t fields = attached_->fields.size(), most = std::min(kToldAtOnce, call.rows * fields);
    const std::size_t told = bucket.counts_at + count_bytes() + most * sizeof(std::uint32_t);
    stream_.copy(bucket.told.data(), bucket.answers.data(), told);
    stream_.wait();
    const auto* const answer = reinterpret_cast<const std::uint32_t*>(bucket.told.data() + bucket.counts_at);
    for (std::size_t f = 0; f < fields; ++f) call.unknown[f] += answer[1 + f];
    const std::size_t count = answer[0];
    if (count > most) {
      const std::size_t from = bucket.counts_at + count_bytes();
      stream_.copy(bucket.told.data() + from, bucket.answers.data() + from, count * sizeof(std::uint32_t));
      stream_.wait();
    }
    std::vector<std::uint32_t> lacking(answer + 1 + fields, answer + 1 + fields + count);
    std::sort(lacking.begin(), lacking.end());  // they came in any order
    if (count > 0) return lacking;
    if (!at_once) score(bucket);
    give_scores(bucket, call);
    return lacking;
  }

  // Scores what `run_features` could not, with the columns of the rows that the device lacks.
  void finish(const FeatureCall& call, const Patches& patches) {
    Bucket& bucket = at(bucket_of(call.rows));
    const std::size_t count = patches.at.size(), words = 2 * count + patches.values.size();
    std::byte* const to = patched_.room(words * sizeof(std::uint32_t));
    std::memcpy(to, patches.at.data(), patches.at.size_bytes());
    std::memcpy(to + patches.at.size_bytes(), patches.from.data(), patches.from.size_bytes());
    std::memcpy(to + 2 * patches.at.size_bytes(), patches.values.data(), patches.values.size_bytes());
    stream_.copy(patched_.device.data(), to, words * sizeof(std::uint32_t));
    const Gather gather = gather_of(bucket, call.rows);
    const auto* const at = reinterpret_cast<const std::uint32_t*>(patched_.device.data());
    stream_.enqueue(Patch{gather.fields, gather.words_of, at, at + count,
                          reinterpret_cast<const float*>(at + 2 * count), static_cast<int>(count),
                          gather.field_count, gather.rows});
    score(bucket);
    give_scores(bucket, call);
  }

 private:
  using Launches = std::span<const Launch>;
  struct Bucket {
    Allocation scratch;
    // Scores and, with fields, counts and the list of what lacks; and where they come to on the host.
    Allocation answers, told;
    std::size_t counts_at = 0;
    // For a caller whose memory is on the host: inputs, each at `at` in both.
    Allocation inputs, pinned;
    std::size_t at[3] = {};
    Allocation fields;  // GatherField [fields], then their order
    int single = 0;
    std::size_t gathered = 0;  // launches whose work gathering does
    Addresses own{};
    std::vector<Launch> launches;
    std::shared_ptr<Graph> whole, middle, rest;  // all launches, all but the ends, those after gathering
  };

  static std::size_t matrix(std::size_t rows, std::size_t width) {  // bytes
    return up(width * sizeof(float) * rows, kAlign);
  }
  const std::array<std::size_t, 3>& widths() const { return program_.widths(); }
  std::size_t count_bytes() const { return (1 + attached_->fields.size()) * sizeof(std::uint32_t); }

  Bucket& at(int size) {
    const auto found = buckets_.find(size);
    if (found != buckets_.end()) return found->second;
    const auto rows = static_cast<std::size_t>(size);
    Bucket made;
    made.scratch = Allocation(program_.scratch_bytes(size), Memory::device);
    made.counts_at = matrix(rows, program_.scores());
    const std::size_t lacking =
        attached_ == nullptr ? 0 : count_bytes() + rows * attached_->fields.size() * sizeof(std::uint32_t);
    made.answers = Allocation(made.counts_at + lacking, Memory::device);
    stream_.fill(made.answers.data(), 0, made.answers.size());  // all of it goes to the host, used or not
    made.told = Allocation(made.counts_at + lacking, Memory::pinned);
    made.own.weights = weights_;
    made.own.scratch = made.scratch.data();
    made.own.scores = reinterpret_cast<float*>(made.answers.data());
    made.own.rows = made.own.live = size;
    made.launches = program_.bind(made.own, tiles_.at(size));
    return buckets_.emplace(size, std::move(made)).first->second;
  }

  void open_to_host(Bucket& bucket) {
    std::size_t all = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      bucket.at[i] = all;
      all += matrix(static_cast<std::size_t>(bucket.own.rows), widths()[i]);
    }
    Allocation inputs(all, Memory::device), pinned(all, Memory::pinned);
    for (std::size_t i = 0; i < 3; ++i)
      bucket.own.inputs[i] = reinterpret_cast<const float*>(inputs.data() + bucket.at[i]);
    bucket.launches = program_.bind(bucket.own, tiles_.at(bucket.own.rows));
    bucket.inputs = std::move(inputs);
    bucket.pinned = std::move(pinned);
  }

  // The kernel that gathers writes to where products read. No kernel writes the padding there, so it is set
  // to zeros once. Where products read only some columns of a field, or it stands in too many places, all
  // fields go to whole inputs, and from there as those of a caller do.
  void open_to_features(Bucket& bucket) {
    std::optional<std::vector<GatherField>> found = fields_for([&](Source input, int column, int width) {
      return program_.targets(bucket.own, input, column, column + width);
    });
    bucket.gathered = program_.first();
    if (!found) {
      if (bucket.inputs.data() == nullptr) open_to_host(bucket);
      bucket.gathered = 0;
      found = fields_for([&](Source input, int column, int) {
        const auto which = static_cast<std::size_t>(input);
        std::vector<Columns> targets;
        if (widths()[which] > 0)
          targets.push_back({const_cast<float*>(bucket.own.inputs[which]) + column, whole(widths()[which]),
                             Precision::fp32});
        return std::optional(std::move(targets));
      });
    }
    if (!found) throw std::invalid_argument("features: a field in too many places");
    const std::vector<GatherField>& fields = *found;
    std::vector<std::int32_t> order(fields.size());
    std::iota(order.begin(), order.end(), 0);
    const auto bags = std::stable_partition(order.begin(), order.end(), [&](std::int32_t f) {
      const FieldKind kind = fields[static_cast<std::size_t>(f)].kind;
      return kind == FieldKind::id || kind == FieldKind::dense;
    });
    bucket.single = static_cast<int>(bags - order.begin());
    const std::size_t bytes = fields.size() * sizeof(GatherField);
    Allocation made(bytes + order.size() * sizeof(std::int32_t), Memory::device);
    stream_.copy(made.data() + bytes, order.data(), order.size() * sizeof(std::int32_t));
    stream_.fill(bucket.scratch.data(), 0, bucket.scratch.size());
    stream_.copy(made.data(), fields.data(), bytes);
    stream_.wait();
    bucket.fields = std::move(made);
  }

  // targets_of(input, column, width): where these columns go. None where they, or too many, have no place.
  template <class TargetsOf>
  std::optional<std::vector<GatherField>> fields_for(const TargetsOf& targets_of) const {
    std::vector<GatherField> fields;
    for (const FieldSpec& spec : attached_->fields) {
      GatherField field{};
      if (spec.kind != FieldKind::dense) field.table = attached_->rows->table(spec.width);
      field.number = spec.number;
      field.kind = spec.kind;
      field.width = spec.width;
      for (const auto& [input, column] : spec.places) {
        const std::optional<std::vector<Columns>> targets = targets_of(input, column, spec.width);
        if (!targets || static_cast<std::size_t>(field.targets) + targets->size() > kMostTargets)
          return std::nullopt;
        for (const Columns& target : *targets) field.to[field.targets++] = target;
      }
      field.fours = spec.kind != FieldKind::dense && spec.width % 4 == 0;
      for (int i = 0; i < field.targets; ++i) field.fours = field.fours && in_fours(field.to[i]);
      fields.push_back(field);
    }
    return fields;
  }

  // The launches that follow the gathering of fields.
  static Launches after_gather(const Bucket& bucket) {
    return Launches(bucket.launches).subspan(bucket.gathered);
  }

  Gather gather_of(const Bucket& bucket, std::size_t rows) const {
    Gather gather{};
    gather.fields = reinterpret_cast<const GatherField*>(bucket.fields.data());
    gather.words_of = reinterpret_cast<const FieldWords*>(words_.device.data());
    gather.words = reinterpret_cast<const std::uint32_t*>(words_.device.data() +
                                                          attached_->fields.size() * sizeof(FieldWords));
    gather.order = reinterpret_cast<const std::int32_t*>(gather.fields + attached_->fields.size());
    gather.single = bucket.single;
    gather.field_count = static_cast<int>(attached_->fields.size());
    gather.rows = static_cast<int>(rows);
    return gather;
  }

  void score(Bucket& bucket) {
    enqueue(stream_, bucket.rest, after_gather(bucket));
    stream_.copy(bucket.told.data(), bucket.answers.data(), bucket.counts_at);
    stream_.wait();
  }
  void give_scores(const Bucket& bucket, const FeatureCall& call) const {
    const std::size_t tasks = program_.scores();
    std::memcpy(call.scores + call.first * tasks, bucket.told.data(), call.rows * tasks * sizeof(float));
  }

  void enqueue(Stream& stream, std::shared_ptr<Graph>& graph, Launches launches) {
    if (graphs_ && !graph) graph = stream_.capture(launches);
    if (graph) {
      stream.enqueue(*graph);
    } else {
      for (const Launch& launch : launches) stream.enqueue(launch, &launch != launches.data());
    }
  }

  const Program& program_;
  const TilesByRows& tiles_;
  const std::byte* weights_;
  bool graphs_;
  const Attached* attached_;
  Stream stream_;
  Event free_, read_;
  Staging words_, patched_;
  std::map<int, Bucket> buckets_;
};

}  // namespace pepnet::cuda
