// AMX registers are eight kilobytes a thread: Linux gives them to a process that asks.
#pragma once

namespace pepnet {

// Asks once for the whole process, threads yet to come included; returns whether the kernel said yes.
bool amx_permitted();

}  // namespace pepnet
