#include <map>
#include <mutex>

#include "cuda/operations/all.h"
#include "cuda/product_kernel.h"
#include "cuda/row_table_kernel.h"
#include "cuda/rowwise_kernel.h"
#include "cuda/runtime.h"

namespace pepnet::cuda {
namespace {

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();
  throw CudaError(std::string("cuda: ") + what + ": " + cudaGetErrorString(code));
}

#define CHECK_CUDA(call) check(call, #call)

// Tells a kernel, once on each device, how much dynamic shared memory it may have, and that all of them want
// as much of the cache for it as there is: between kernels that differ in that a multiprocessor has to drain.
void prepare(const void* kernel, int device, std::size_t bytes) {
  static std::mutex lock;
  static std::map<std::pair<const void*, int>, std::size_t> prepared;
  const std::lock_guard guard(lock);
  const auto [known, fresh] = prepared.try_emplace({kernel, device}, std::size_t{48} << 10);
  if (fresh)
    CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared));
  if (bytes <= known->second) return;
  CHECK_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  known->second = bytes;
}

// Whether kernels may begin before the last is done. They wait for it in code for 9.0 only: elsewhere code
// for 8.0 runs, which does not.
bool can_overlap(int device) {
  int major = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

int current_device() {
  int device = 0;
  CHECK_CUDA(cudaGetDevice(&device));
  return device;
}

}  // namespace

Allocation::Allocation(std::size_t bytes, Memory kind) : data_(nullptr, Free{kind}), size_(bytes) {
  void* data = nullptr;
  if (bytes == 0) return;
  if (kind == Memory::device) {
    CHECK_CUDA(cudaMalloc(&data, bytes));
  } else {
    CHECK_CUDA(cudaMallocHost(&data, bytes));
  }
  data_.reset(static_cast<std::byte*>(data));
}
void Allocation::Free::operator()(std::byte* data) const noexcept {
  (void)(kind == Memory::device ? cudaFree(data) : cudaFreeHost(data));
}

OnDevice::OnDevice(int device) : before_(device), device_(device) {
  CHECK_CUDA(cudaGetDevice(&before_));
  if (before_ != device_) CHECK_CUDA(cudaSetDevice(device_));
}
OnDevice::~OnDevice() {
  if (before_ != device_) (void)cudaSetDevice(before_);
}

struct Event::State {
  cudaEvent_t event = nullptr;
  State() { CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming)); }
  ~State() { (void)cudaEventDestroy(event); }
};

Event::Event() : state_(std::make_shared<State>()) {}

struct Stream::State {
  cudaStream_t stream = nullptr;
  bool ours = false;
  int device = current_device();
  bool overlaps = can_overlap(device);
  ~State() {
    if (ours) (void)cudaStreamDestroy(stream);
  }
};

Stream::Stream() : state_(std::make_shared<State>()) {
  CHECK_CUDA(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking));
  state_->ours = true;
}
Stream::Stream(void* callers) : state_(std::make_shared<State>()) {
  state_->stream = static_cast<cudaStream_t>(callers);
}

void Event::record(const Stream& stream) {
  CHECK_CUDA(cudaEventRecord(state_->event, stream.state_->stream));
}

void Event::wait() noexcept { (void)cudaEventSynchronize(state_->event); }

void Stream::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, state_->stream));
}

void Stream::fill(void* at, int byte, std::size_t bytes) {
  if (bytes > 0) CHECK_CUDA(cudaMemsetAsync(at, byte, bytes, state_->stream));
}

void Stream::wait() { CHECK_CUDA(cudaStreamSynchronize(state_->stream)); }

void Stream::drain() noexcept { (void)cudaStreamSynchronize(state_->stream); }

bool Stream::being_captured() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CHECK_CUDA(cudaStreamIsCapturing(state_->stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

void Stream::wait_for(const Event& event) {
  CHECK_CUDA(cudaStreamWaitEvent(state_->stream, event.state_->event, 0));
}

namespace {

// A kernel, and its one parameter.
struct Call {
  const void *kernel, *parameter;
};
template <class What>
Call call_of(void (*kernel)(What), const What& parameter) {
  return {reinterpret_cast<const void*>(kernel), &parameter};
}
template <Precision kPrecision>
Call multiply_call(const ProductsLaunch& launch) {
  void (*const kernels[][2])(Products) = {
      // by tile, and whether products are gated
      {multiply<kPrecision, Tile::few, false>, multiply<kPrecision, Tile::few, true>},
      {multiply<kPrecision, Tile::middle, false>, multiply<kPrecision, Tile::middle, true>},
      {multiply<kPrecision, Tile::many, false>, multiply<kPrecision, Tile::many, true>},
      {multiply<kPrecision, Tile::wide, false>, nullptr}};
  return call_of(kernels[static_cast<int>(launch.tile)][launch.gated()], launch.products);
}
Call call_of(const ProductsLaunch& launch) {
  return launch.precision == Precision::bf16 ? multiply_call<Precision::bf16>(launch)
                                             : multiply_call<Precision::fp32>(launch);
}
Call call_of(const ColumnCopies& launch) { return call_of(copy_columns, launch); }
Call call_of(const Mix& launch) { return call_of(mix_experts, launch); }
Call call_of(const RowWork& launch) { return call_of(row_kernel(launch.which), launch); }
Call call_of(const Score& launch) { return call_of(score_tasks, launch); }
Call call_of(const Gather& launch) { return call_of(gather_fields, launch); }
Call call_of(const Patch& launch) { return call_of(patch_fields, launch); }
Call call_of(const Insert& launch) { return call_of(insert_rows, launch); }
Call call_of(const Drop& launch) { return call_of(drop_rows, launch); }

}  // namespace

void Stream::enqueue(const Launch& launch, bool early) {
  const Block block = block_of(launch);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(block.grid[0], block.grid[1], block.grid[2]);
  config.blockDim = dim3(block.threads);
  config.dynamicSmemBytes = block.shared_bytes;
  config.stream = state_->stream;
  config.attrs = &overlap;
  config.numAttrs = early && state_->overlaps ? 1 : 0;
  const Call call = std::visit([](const auto& what) { return call_of(what); }, launch);
  prepare(call.kernel, state_->device, block.shared_bytes);
  void* parameters[] = {const_cast<void*>(call.parameter)};
  CHECK_CUDA(cudaLaunchKernelExC(&config, call.kernel, parameters));
}

float Stream::microseconds(const Launch& launch, int repeats) {
  struct Timed {
    cudaEvent_t event = nullptr;
    Timed() { CHECK_CUDA(cudaEventCreate(&event)); }
    ~Timed() { (void)cudaEventDestroy(event); }
  } begin, end;
  enqueue(launch);
  CHECK_CUDA(cudaEventRecord(begin.event, state_->stream));
  for (int i = 0; i < repeats; ++i) enqueue(launch);
  CHECK_CUDA(cudaEventRecord(end.event, state_->stream));
  CHECK_CUDA(cudaEventSynchronize(end.event));
  float milliseconds = 0;
  CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin.event, end.event));
  return milliseconds * 1000 / static_cast<float>(repeats);
}

struct Graph {
  cudaGraphExec_t launches = nullptr;
  ~Graph() {
    if (launches != nullptr) (void)cudaGraphExecDestroy(launches);
  }
};

std::shared_ptr<Graph> Stream::capture(std::span<const Launch> launches) {
  CHECK_CUDA(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t recorded = nullptr;
  try {
    for (const Launch& launch : launches) enqueue(launch, &launch != launches.data());
  } catch (...) {
    (void)cudaStreamEndCapture(state_->stream, &recorded);
    if (recorded != nullptr) (void)cudaGraphDestroy(recorded);
    throw;
  }
  CHECK_CUDA(cudaStreamEndCapture(state_->stream, &recorded));
  auto graph = std::make_shared<Graph>();
  const cudaError_t made = cudaGraphInstantiate(&graph->launches, recorded, 0);
  (void)cudaGraphDestroy(recorded);
  check(made, "cudaGraphInstantiate");
  return graph;
}

void Stream::enqueue(const Graph& graph) { CHECK_CUDA(cudaGraphLaunch(graph.launches, state_->stream)); }

const bool kEmulated = false;

DeviceInfo device_info(int device) {
  cudaDeviceProp found;
  CHECK_CUDA(cudaGetDeviceProperties(&found, device));
  return {found.name,           found.major,
          found.minor,          found.multiProcessorCount,
          found.totalGlobalMem, found.sharedMemPerBlockOptin};
}

int device_count() {
  int count = 0;
  CHECK_CUDA(cudaGetDeviceCount(&count));
  return count;
}

}  // namespace pepnet::cuda
