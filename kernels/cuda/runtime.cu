#include <type_traits>
#include <utility>

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

// Kernels with more dynamic shared memory than a block has by default are told so, once on each device.
template <class Kernel>
void allow_shared(Kernel kernel, std::size_t bytes) {
  if (bytes > (std::size_t{48} << 10))
    CHECK_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

}  // namespace

Allocation::Allocation(std::size_t bytes, Memory kind) : size_(bytes), kind_(kind) {
  void* data = nullptr;
  if (bytes == 0) return;
  if (kind == Memory::device) {
    CHECK_CUDA(cudaMalloc(&data, bytes));
  } else {
    CHECK_CUDA(cudaMallocHost(&data, bytes));
  }
  data_ = static_cast<std::byte*>(data);
}
Allocation::~Allocation() {
  if (data_ == nullptr) return;
  (void)(kind_ == Memory::device ? cudaFree(data_) : cudaFreeHost(data_));
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
};

Event::Event() : state_(std::make_unique<State>()) {
  CHECK_CUDA(cudaEventCreateWithFlags(&state_->event, cudaEventDisableTiming));
}
Event::~Event() { (void)cudaEventDestroy(state_->event); }

struct Stream::State {
  cudaStream_t stream = nullptr;
  bool ours = false;
};

Stream::Stream() : state_(std::make_unique<State>()) {
  CHECK_CUDA(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking));
  state_->ours = true;
}
Stream::Stream(void* callers) : state_(std::make_unique<State>()) {
  state_->stream = static_cast<cudaStream_t>(callers);
}
Stream::~Stream() {
  if (state_->ours) (void)cudaStreamDestroy(state_->stream);
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

void Stream::wait_for(const Event& event) {
  CHECK_CUDA(cudaStreamWaitEvent(state_->stream, event.state_->event, 0));
}

template <class T>
void Stream::enqueue(const Launch<T>& launch) {
  const Block block = block_of(launch);
  const cudaStream_t stream = state_->stream;
  const dim3 grid(block.grid[0], block.grid[1], block.grid[2]);
  std::visit(
      [&](const auto& what) {
        using Kind = std::decay_t<decltype(what)>;
        if constexpr (std::is_same_v<Kind, ColumnCopies>) {
          copy_columns<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Mix>) {
          mix_experts<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Score>) {
          score_tasks<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Gather>) {
          gather_fields<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Patch>) {
          patch_fields<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Insert>) {
          insert_rows<T><<<grid, block.threads, 0, stream>>>(what);
        } else if constexpr (std::is_same_v<Kind, Drop>) {
          drop_rows<T><<<grid, block.threads, 0, stream>>>(what);
        } else if (what.gated) {
          allow_shared(multiply<T, true>, block.shared_bytes);
          multiply<T, true><<<grid, block.threads, block.shared_bytes, stream>>>(what.product);
        } else {
          allow_shared(multiply<T, false>, block.shared_bytes);
          multiply<T, false><<<grid, block.threads, block.shared_bytes, stream>>>(what.product);
        }
      },
      launch);
  check(cudaGetLastError(), "launch");
}

namespace {

struct Captured : Stream::Graph {
  cudaGraphExec_t graph = nullptr;
  ~Captured() override {
    if (graph != nullptr) (void)cudaGraphExecDestroy(graph);
  }
};

}  // namespace

template <class T>
std::unique_ptr<Stream::Graph> Stream::capture(std::span<const Launch<T>> launches) {
  CHECK_CUDA(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t recorded = nullptr;
  try {
    for (const Launch<T>& launch : launches) enqueue<T>(launch);
  } catch (...) {
    (void)cudaStreamEndCapture(state_->stream, &recorded);
    if (recorded != nullptr) (void)cudaGraphDestroy(recorded);
    throw;
  }
  CHECK_CUDA(cudaStreamEndCapture(state_->stream, &recorded));
  auto graph = std::make_unique<Captured>();
  const cudaError_t made = cudaGraphInstantiate(&graph->graph, recorded, 0);
  (void)cudaGraphDestroy(recorded);
  check(made, "cudaGraphInstantiate");
  return graph;
}

void Stream::enqueue(const Graph& graph) {
  CHECK_CUDA(cudaGraphLaunch(static_cast<const Captured&>(graph).graph, state_->stream));
}

template void Stream::enqueue<float>(const Launch<float>&);
template void Stream::enqueue<bf16>(const Launch<bf16>&);
template std::unique_ptr<Stream::Graph> Stream::capture<float>(std::span<const Launch<float>>);
template std::unique_ptr<Stream::Graph> Stream::capture<bf16>(std::span<const Launch<bf16>>);

const bool kEmulated = false;

DeviceInfo device_info(int device) {
  cudaDeviceProp found;
  CHECK_CUDA(cudaGetDeviceProperties(&found, device));
  return {found.name, found.major, found.minor, found.multiProcessorCount, found.totalGlobalMem};
}

int device_count() {
  int count = 0;
  CHECK_CUDA(cudaGetDeviceCount(&count));
  return count;
}

}  // namespace pepnet::cuda
