"""The CUDA backend: the dense part in fused kernels on an NVIDIA GPU."""
