"""Fused Gaussian noise and vote counting: CUDA kernels and their numba twins."""
