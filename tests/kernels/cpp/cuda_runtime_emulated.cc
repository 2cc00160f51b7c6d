// The device of kernels/cuda/runtime.h on the CPU: memory is memory, and a launch runs at once.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cuda/operations/all.h"
#include "cuda/product_kernel.h"
#include "cuda/row_table_kernel.h"
#include "cuda/rowwise_kernel.h"
#include "cuda/runtime.h"

namespace {

std::atomic<std::size_t> copied{0}, timed{0};
std::atomic<bool> failing{false};

}  // namespace

// For tests: how many bytes were copied to and from the device since the last call.
extern "C" __attribute__((visibility("default"))) std::int64_t pepnet_cuda_copied(void) {
  return static_cast<std::int64_t>(copied.exchange(0));
}

// How many launches were timed.
extern "C" __attribute__((visibility("default"))) std::int64_t pepnet_cuda_timed(void) {
  return static_cast<std::int64_t>(timed.exchange(0));
}

// The next wait for a stream throws, as after a launch that failed.
extern "C" __attribute__((visibility("default"))) void pepnet_cuda_fail(void) { failing = true; }

namespace pepnet::cuda {

Allocation::Allocation(std::size_t bytes, Memory kind)
    : data_(static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256)), Free{kind}),
      size_(bytes) {
  std::memset(data(), 0xFF, bytes);  // NaNs: what nobody wrote shows
  cuda_emulated::allocated(data(), bytes);
}
void Allocation::Free::operator()(std::byte* data) const noexcept {
  cuda_emulated::freed(data);
  std::free(data);
}

namespace {

thread_local int current_device = 0;

}  // namespace

OnDevice::OnDevice(int device) : before_(current_device), device_(device) { current_device = device; }
OnDevice::~OnDevice() { current_device = before_; }

struct Event::State {
  int device = current_device;
};
Event::Event() : state_(std::make_shared<State>()) {}
void Event::wait() noexcept {}

struct Stream::State {
  std::uint64_t seed = 1;
  int device = current_device;
  bool captured = false;

  // As CUDA does for launches and events.
  void expect(int other) const {
    if (device != other) throw CudaError("cuda: a stream of another device");
  }
};

void Event::record(const Stream& stream) { stream.state_->expect(state_->device); }

Stream::Stream() : state_(std::make_shared<State>()) {}
// One that tests ask for by this number is being captured.
Stream::Stream(void* callers) : Stream() { state_->captured = callers == reinterpret_cast<void*>(0xCA97); }

void Stream::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  std::memcpy(to, from, bytes);
  copied += bytes;
}
void Stream::fill(void* at, int byte, std::size_t bytes) { std::memset(at, byte, bytes); }
void Stream::wait() {
  if (failing.exchange(false)) throw CudaError("cuda: a launch failed");
}
void Stream::drain() noexcept {}
bool Stream::being_captured() const { return state_->captured; }
void Stream::wait_for(const Event&) {}

namespace {

template <Precision kPrecision>
void multiply_in(const ProductsLaunch& launch) {
  void (*const kernels[][2])(Products) = {
      // by tile, and whether products are gated
      {multiply<kPrecision, Tile::few, false>, multiply<kPrecision, Tile::few, true>},
      {multiply<kPrecision, Tile::middle, false>, multiply<kPrecision, Tile::middle, true>},
      {multiply<kPrecision, Tile::many, false>, multiply<kPrecision, Tile::many, true>},
      {multiply<kPrecision, Tile::wide, false>, nullptr}};
  kernels[static_cast<int>(launch.tile)][launch.gated()](launch.products);
}

void run(const ProductsLaunch& launch) {
  launch.precision == Precision::bf16 ? multiply_in<Precision::bf16>(launch)
                                      : multiply_in<Precision::fp32>(launch);
}
void run(const ColumnCopies& launch) { copy_columns(launch); }
void run(const Mix& launch) { mix_experts(launch); }
void run(const RowWork& launch) { row_kernel(launch.which)(launch); }
void run(const Score& launch) { score_tasks(launch); }
void run(const Gather& launch) { gather_fields(launch); }
void run(const Patch& launch) { patch_fields(launch); }
void run(const Insert& launch) { insert_rows(launch); }
void run(const Drop& launch) { drop_rows(launch); }

}  // namespace

void Stream::enqueue(const Launch& launch, bool early) {
  state_->expect(current_device);
  const Block block = block_of(launch);
  const auto body = [&] { std::visit([](const auto& what) { run(what); }, launch); };
  cuda_emulated::launch({block.grid[0], block.grid[1], block.grid[2]}, {block.threads}, block.shared_bytes,
                        body, state_->seed++, early);
}

// Drawn: so that tests run with any choice that is made by it.
float Stream::microseconds(const Launch&, int) {
  ++timed;
  static std::atomic<std::uint64_t> drawn{0};
  std::uint64_t mixed = ++drawn * 0x9E37'79B9'7F4A'7C15U;
  mixed = (mixed ^ mixed >> 30) * 0xBF58'476D'1CE4'E5B9U;
  return static_cast<float>(mixed >> 40);
}

struct Graph {
  std::vector<Launch> launches;
};

std::shared_ptr<Graph> Stream::capture(std::span<const Launch> launches) {
  return std::make_shared<Graph>(Graph{{launches.begin(), launches.end()}});
}

void Stream::enqueue(const Graph& graph) {
  for (const Launch& launch : graph.launches) enqueue(launch, &launch != graph.launches.data());
}

const bool kEmulated = true;

DeviceInfo device_info(int) { return {"emulated", 0, 0, 1, std::size_t{1} << 30, std::size_t{1} << 18}; }
int device_count() { return 2; }

}  // namespace pepnet::cuda
