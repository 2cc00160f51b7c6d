"""Whether an NVIDIA GPU can be used: the driver is asked, because lists of compiled-in providers do not say."""

from __future__ import annotations

import ctypes


def no_gpu_because(library: str = "libcuda.so.1") -> str | None:
    """Returns None when the driver starts and shows a GPU, else what is wrong."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA driver on this machine ({library} cannot be loaded)"
    code = driver.cuInit(0)
    if code != 0:
        return f"the NVIDIA driver does not start (cuInit returned {code})"
    count = ctypes.c_int(0)
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value < 1:
        return f"the NVIDIA driver shows no GPU (cuDeviceGetCount returned {code}, {count.value} found)"
    return None
