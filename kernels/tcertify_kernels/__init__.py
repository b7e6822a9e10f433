"""Fused noise, Gaussian or rounded to integers, and vote counting: CUDA kernels and their numba
twins.
"""

from tcertify_kernels.counting import count_votes as count_votes
from tcertify_kernels.integer_noise import add_integer_noise as add_integer_noise
from tcertify_kernels.integer_noise import check_grid as check_grid
from tcertify_kernels.noise import add_noise as add_noise
