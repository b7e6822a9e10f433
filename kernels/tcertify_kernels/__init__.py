"""Fused Gaussian noise and vote counting: CUDA kernels and their numba twins."""

from tcertify_kernels.counting import count_votes as count_votes
from tcertify_kernels.noise import add_noise as add_noise
