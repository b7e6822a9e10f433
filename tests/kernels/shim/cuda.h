// What the .cu files need to run on the CPU under g++: blocks one after another, one pthread per
// CUDA thread where threads of a block meet (run_together), a plain loop where they do not (run).
#pragma once
#include <math.h>
#include <pthread.h>
#include <string.h>

#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Dim { unsigned x, y; };
static thread_local Dim blockIdx, threadIdx;
static Dim blockDim, gridDim;

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <typename To, typename From> To same_bits(From from) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
inline float __uint2float_rn(unsigned a) { return (float)a; }
inline float __int2float_rn(int a) { return (float)a; }
inline unsigned __float_as_uint(float a) { return same_bits<unsigned>(a); }
inline float __uint_as_float(unsigned a) { return same_bits<float>(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

template <typename T> T atomicAdd(T* to, T value) {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

// --- threads that meet: ThreadSanitizer knows pthread_barrier, but not std::barrier -----------

static pthread_barrier_t block_barrier, warp_barriers[8];
static unsigned long long exchanged[8][32];

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int distance) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    exchanged[warp][lane] = (unsigned long long)value;
    pthread_barrier_wait(&warp_barriers[warp]);
    const T other = (T)exchanged[warp][lane ^ (unsigned)distance];
    pthread_barrier_wait(&warp_barriers[warp]);
    return other;
}

template <typename Kernel, typename... Arguments>
void run(Kernel* kernel, Dim grid, Dim block, Arguments... arguments) {
    gridDim = grid, blockDim = block;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel(arguments...);
}

template <typename Work> struct Task {
    Work* work;
    unsigned thread;
};

template <typename Work> void* start(void* given) {
    const Task<Work>* task = (const Task<Work>*)given;
    threadIdx = {task->thread % blockDim.x, task->thread / blockDim.x};
    for (unsigned b = 0; b < gridDim.x * gridDim.y; ++b) {
        blockIdx = {b % gridDim.x, b / gridDim.x};
        (*task->work)();
        __syncthreads();  // the next block takes over the shared memory
    }
    return nullptr;
}

// Threads are a multiple of 32, at most 256.
template <typename Kernel, typename... Arguments>
void run_together(Kernel* kernel, Dim grid, Dim block, Arguments... arguments) {
    gridDim = grid, blockDim = block;
    const unsigned threads = block.x * block.y;
    pthread_barrier_init(&block_barrier, nullptr, threads);
    for (unsigned w = 0; w < threads / 32; ++w) {
        pthread_barrier_init(&warp_barriers[w], nullptr, 32);
    }
    auto work = [&] { kernel(arguments...); };
    std::vector<Task<decltype(work)>> tasks;
    for (unsigned t = 0; t < threads; ++t) tasks.push_back({&work, t});
    std::vector<pthread_t> handles(threads);
    for (unsigned t = 0; t < threads; ++t) {
        pthread_create(&handles[t], nullptr, start<decltype(work)>, &tasks[t]);
    }
    for (pthread_t handle : handles) pthread_join(handle, nullptr);
}
