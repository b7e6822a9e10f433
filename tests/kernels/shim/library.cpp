// The kernels as a shared library for ctypes: call `run_fill`, `run_integer` or `run_count` with one.
#include "cuda.h"
#include "noise.cu"
#include "integer_noise.cu"
#include "counting.cu"

extern "C" void run_fill(decltype(contiguous_float32)* kernel, u32 grid_x, u32 grid_y, u32 block_x,
                         u32 block_y, void* out, const float* x, const int* slot,
                         const long long* image, const long long* sample, const float* sigmas,
                         u64 seed, u32 size, u32 rows, u32 slots, u32 channels, u32 stream,
                         float sigma) {
    run(kernel, {grid_x, grid_y}, {block_x, block_y}, out, x, slot, image, sample, sigmas, seed, size,
        rows, slots, channels, stream, sigma);
}

extern "C" void run_integer(decltype(integer_contiguous_float32)* kernel, u32 grid_x, u32 grid_y,
                            u32 block_x, u32 block_y, void* out, const float* x, const int* slot,
                            const long long* image, const long long* sample, bool* invalid,
                            const uint4* guide, const u64* thresholds, u64 seed, u32 size, u32 rows,
                            u32 slots, u32 channels, u32 stream, u32 reach, float levels,
                            float inverse, float rest) {
    run_together(kernel, {grid_x, grid_y}, {block_x, block_y}, out, x, slot, image, sample, invalid,
                 guide, thresholds, seed, size, rows, slots, channels, stream, reach, levels, inverse,
                 rest);
}

extern "C" void run_count(void (*kernel)(u64*, const void*, const int*, const long long*, u32, u32,
                                         u32, u32),
                          u32 blocks, u32 threads, u64* counts, const void* logits,
                          const int* slot, const long long* limit, u32 rows, u32 slots,
                          u32 classes, u32 infinity) {
    run_together(kernel, {blocks, 1}, {threads, 1}, counts, logits, slot, limit, rows, slots, classes,
                 infinity);
}

extern "C" void run_philox(const u32* counter, const u32* key, u32* words) {
    const uint4 four =
        philox(make_uint4(counter[0], counter[1], counter[2], counter[3]), key[0], key[1]);
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
}

extern "C" u32 run_half_bits(float value) { return half_bits(value); }
extern "C" u32 run_bfloat_bits(float value) { return bfloat_bits(value); }

extern "C" void run_normal_pair(u32 radius, u32 further, u32 angle, float* pair) {
    const float uniform = radius < LAST_CELLS ? middle(radius, further) : middle(radius);
    normal_pair(uniform, angle, pair[0], pair[1]);
}
