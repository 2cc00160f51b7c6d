// Worker threads as the operating system sees them: signals, names, CPUs.
#pragma once

namespace pepnet::threads {

// Starts a thread with all signals blocked: they are for the threads of the program. False: the system has
// none left.
bool start_detached(void* (*main)(void*), void* argument) noexcept;

// Called by a worker first: gives it its name and its CPUs.
void settle_worker_thread(unsigned index) noexcept;

// cpu_budget().threads, with the calling thread's mask.
unsigned cpus_to_use() noexcept;

}  // namespace pepnet::threads
