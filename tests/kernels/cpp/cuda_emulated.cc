#include "cuda_emulated.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace pepnet::cuda_emulated {
namespace {

constexpr std::size_t kStack = std::size_t{64} << 10;
constexpr std::size_t kLanes = 32;
constexpr std::size_t kShown = 64;  // bytes that a lane can show the others

enum class State { ready, at_block, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};

struct Fiber {
  std::unique_ptr<std::byte[]> stack = std::make_unique<std::byte[]>(kStack);
  ucontext_t begin;
  jmp_buf at;
  bool begun = false;
  State state = State::ready;
  uint3 index;
  unsigned exchanges = 0;
  bool waited = false;  // for the last kernel
  bool eager = false;   // its copies happen at once, as they may; else as late as they may
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> committed;
};

struct Warp {
  unsigned waiting = 0;
  // Two of them: who is quick may show the next before all have read the last.
  alignas(16) std::byte shown[2][kLanes * kShown];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<std::byte> memory;
const std::function<void()>* work = nullptr;
bool early_kernel = false;
Fiber* running = nullptr;
jmp_buf scheduler;

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "cuda_emulated: %s, block (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
  std::abort();
}

void to_scheduler() {
  if (_setjmp(running->at) == 0) _longjmp(scheduler, 1);
}

void first_step() {
  (*work)();
  if (!running->open.empty() || !running->committed.empty()) give_up("a thread ended with copies under way");
  if (early_kernel && !running->waited) give_up("a thread ended without waiting for the last kernel");
  running->state = State::done;
  _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
  running = &fiber;
  threadIdx = fiber.index;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  setcontext(&fiber.begin);
  give_up("a fiber could not begin");
}

std::mutex of_allocations;
std::map<const std::byte*, std::size_t> allocations;

bool is_allocated(const std::byte* from, std::size_t bytes) {
  const std::lock_guard guard(of_allocations);
  const auto after = allocations.upper_bound(from);
  if (after == allocations.begin()) return false;
  const auto [begin, size] = *std::prev(after);
  return from + bytes <= begin + size;
}

std::size_t number(const Fiber& fiber) { return static_cast<std::size_t>(&fiber - fibers.data()); }

void run_block(std::mt19937_64& random) {
  std::fill(memory.begin(), memory.end(), std::byte{0xFF});
  std::vector<Fiber*> order;
  for (Fiber& fiber : fibers) {
    fiber.begun = false;
    fiber.state = State::ready;
    fiber.exchanges = 0;
    fiber.waited = false;
    fiber.eager = random() % 2 == 0;
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack.get();
    fiber.begin.uc_stack.ss_size = kStack;
    fiber.begin.uc_link = nullptr;
    makecontext(&fiber.begin, first_step, 0);
    order.push_back(&fiber);
  }
  for (Warp& warp : warps) warp.waiting = 0;
  for (;;) {
    std::shuffle(order.begin(), order.end(), random);
    bool any = false;
    for (Fiber* const fiber : order) {
      while (fiber->state == State::ready) {
        any = true;
        resume(*fiber);
      }
    }
    if (any) continue;
    const auto count = [&](State state) {
      return static_cast<std::size_t>(
          std::count_if(fibers.begin(), fibers.end(), [&](const Fiber& f) { return f.state == state; }));
    };
    if (count(State::done) == fibers.size()) return;
    if (count(State::at_block) != fibers.size()) give_up("a barrier that not all threads reach");
    for (Fiber& fiber : fibers) fiber.state = State::ready;
  }
}

}  // namespace

void launch(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& body, std::uint64_t seed,
            bool early) {
  static std::mutex one_at_a_time;
  const std::lock_guard guard(one_at_a_time);
  gridDim = grid;
  blockDim = block;
  work = &body;
  early_kernel = early;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads % kLanes != 0) give_up("blocks of whole warps are expected");
  fibers.resize(threads);
  warps.resize(threads / kLanes);
  memory.resize(shared);
  for (std::size_t i = 0; i < threads; ++i)
    fibers[i].index = {static_cast<unsigned>(i % block.x), static_cast<unsigned>(i / block.x % block.y),
                       static_cast<unsigned>(i / block.x / block.y)};
  std::mt19937_64 random(seed);
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
  std::shuffle(blocks.begin(), blocks.end(), random);  // one that waits for another is wrong
  for (const uint3& each : blocks) {
    blockIdx = each;
    run_block(random);
  }
}

std::byte* shared() { return memory.data(); }
std::size_t shared_bytes() { return memory.size(); }

const std::byte* exchange(const void* mine, std::size_t bytes) {
  if (bytes > kShown) give_up("a lane shows too much");
  const std::size_t at = number(*running);
  Warp& warp = warps[at / kLanes];
  std::byte* const shown = warp.shown[running->exchanges++ % 2];
  std::memcpy(shown + at % kLanes * bytes, mine, bytes);
  __syncwarp();
  return shown;
}

void expect_in_warp(unsigned lanes, unsigned lane) {
  if (lanes != 0xFFFF'FFFFU) give_up("a call of a warp that not all lanes take part in");
  if (lane >= kLanes) give_up("a lane that is in no warp");
}

void allocated(const void* begin, std::size_t bytes) {
  const std::lock_guard guard(of_allocations);
  allocations[static_cast<const std::byte*>(begin)] = bytes;
}

void freed(const void* begin) {
  const std::lock_guard guard(of_allocations);
  allocations.erase(static_cast<const std::byte*>(begin));
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  if (from != zeros && !is_allocated(static_cast<const std::byte*>(from), bytes))
    give_up("a copy of what was not allocated");
  if (running->eager) {
    std::memcpy(to, from, bytes);
  } else {
    running->open.push_back({to, from, bytes});
  }
}

void commit() {
  running->committed.push_back(std::move(running->open));
  running->open.clear();
}

void wait_for_all_but(unsigned groups) {
  while (running->committed.size() > groups) {
    for (const Copy& copy : running->committed.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    running->committed.pop_front();
  }
}

void wait_for_last() { running->waited = true; }

void expect_aligned(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0) give_up("an address that is not aligned");
}

}  // namespace pepnet::cuda_emulated

void __syncthreads() {
  using namespace pepnet::cuda_emulated;
  running->state = State::at_block;
  to_scheduler();
}

void __syncwarp() {
  using namespace pepnet::cuda_emulated;
  const std::size_t first = number(*running) / kLanes * kLanes;
  Warp& warp = warps[first / kLanes];
  if (++warp.waiting == kLanes) {
    warp.waiting = 0;
    for (std::size_t i = first; i < first + kLanes; ++i) fibers[i].state = State::ready;
    return;
  }
  running->state = State::at_warp;
  to_scheduler();
}
