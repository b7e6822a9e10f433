// A program for the sanitizers: runs the kernels over buffers of exactly the size they may touch.
// The kinds of noise cover dtypes, layouts, odd sizes and misaligned tensors; `counting` lets every
// thread of a block run at once and checks the votes.
#include <stdio.h>
#include <stdlib.h>

#include "cuda.h"
#if defined NOISE
#include "noise.cu"
#elif defined INTEGER_NOISE
#include "integer_noise.cu"
#else
#include "counting.cu"
#endif

// `count` elements that begin `offset` elements after a 16-byte boundary and end with the block.
template <typename T> struct Exact {
    T* start;
    T* data;
    Exact(size_t count, size_t offset = 0)
        : start((T*)malloc((count + offset) * sizeof(T))), data(start + offset) {}
    ~Exact() { free(start); }
};

#if defined NOISE || defined INTEGER_NOISE
#ifdef NOISE
typedef decltype(contiguous_float32) Fill;
#define KERNEL(name) name
#else
typedef decltype(integer_contiguous_float32) Fill;
#define KERNEL(name) integer_##name
#endif

static void fill(Fill* kernel, size_t width, u32 channels, u32 pixels, u32 offset, bool option) {
    const u32 rows = 5, slots = 2, size = channels * pixels;
    Exact<char> out((size_t)rows * size * width, offset * width);
    Exact<float> x((size_t)slots * size, offset), sigmas(rows);
    Exact<int> slot(rows);
    Exact<long long> image(rows), sample(rows);
    memset(out.data, 0xFF, (size_t)rows * size * width);
    for (u32 i = 0; i < slots * size; ++i) x.data[i] = 0.001f * i;
    for (u32 r = 0; r < rows; ++r) {
        slot.data[r] = r % slots, image.data[r] = 0xFFFFFFFFll - r, sample.data[r] = 1ll << (r + 35);
        sigmas.data[r] = 0.5f;
    }
    slot.data[4] = 7;  // out of range: NaN, and nothing read there
#ifdef NOISE
    const Dim grids[2] = {{1, 1}, {3, 2}};
    for (Dim grid : grids) {
        run(kernel, grid, Dim{16, 2}, (void*)out.data, (const float*)x.data, (const int*)slot.data,
            (const long long*)image.data, (const long long*)sample.data,
            (const float*)(option ? sigmas.data : nullptr), (u64)0x123456789ABCDEFull, size, rows,
            slots, channels, 1u, 0.5f);
    }
#else
    // With `option` no entry of the guide decides, and every draw looks for its threshold.
    const u32 reach = 17;
    Exact<u64> thresholds(reach);
    Exact<uint4> guide(GUIDE_SIZE / 4);
    Exact<bool> invalid(rows);
    for (u32 i = 0; i < reach; ++i) thresholds.data[i] = (u64)i << 58;
    for (u32 i = 0; i < GUIDE_SIZE; ++i) {
        const u32 place = (GUIDE_FIRST + i) << GUIDE_SHIFT;
        ((u32*)guide.data)[i] = place + (option ? 0x80008000u : 0x00038000u);
    }
    memset(invalid.data, 0, rows);
    run_together(kernel, Dim{2, 2}, Dim{16, 2}, (void*)out.data, (const float*)x.data,
                 (const int*)slot.data, (const long long*)image.data, (const long long*)sample.data,
                 invalid.data, (const uint4*)guide.data, (const u64*)thresholds.data,
                 (u64)0x123456789ABCDEFull, size, rows, slots, channels, 1u, reach, 8.0f, 0.125f, 0.0f);
    if (!invalid.data[4] || invalid.data[0]) {
        puts("the row out of range is not the invalid one");
        exit(1);
    }
#endif
}

int main() {
    struct { Fill *contiguous, *last, *colour; size_t width; u32 group; } const kernels[] = {
        {KERNEL(contiguous_float32), KERNEL(channels_last_float32), KERNEL(colour_float32), 4, 4},
        {KERNEL(contiguous_float16), KERNEL(channels_last_float16), KERNEL(colour_float16), 2, 8},
        {KERNEL(contiguous_bfloat16), KERNEL(channels_last_bfloat16), KERNEL(colour_bfloat16), 2, 8},
    };
    for (auto& kernel : kernels) {
        for (u32 channels : {1u, 3u, 5u}) {
            for (u32 pixels : {1u, 3u, 4u, 7u, 8u, 9u, 33u}) {
                for (u32 offset : {0u, 1u, 3u}) {
                    fill(kernel.contiguous, kernel.width, channels, pixels, offset, offset == 1);
                    fill(kernel.last, kernel.width, channels, pixels, offset, offset == 3);
                }
            }
        }
        for (u32 groups : {1u, 3u, 17u}) {
            fill(kernel.colour, kernel.width, 3, groups * kernel.group, 0, groups == 3);
        }
    }
    puts("noise done");
}
#else
template <typename Word, typename Kernel>
static void tally(Kernel* kernel, u32 rows, u32 classes, u32 offset, u32 infinity) {
    const u32 slots = 3;
    Exact<Word> logits((size_t)rows * classes, offset);
    Exact<int> slot(rows);
    Exact<u64> counts((size_t)slots * (classes + 1));
    Exact<long long> limit(1);
    *limit.data = rows - 1;
    memset(counts.data, 0, slots * (classes + 1) * sizeof(u64));
    for (u32 i = 0; i < rows * classes; ++i) logits.data[i] = (Word)(i * 2654435761u % 5);
    for (u32 r = 0; r < rows; ++r) slot.data[r] = r / 8 % slots;
    slot.data[1] = -1;  // out of range: no vote
    run_together(kernel, Dim{2, 1}, Dim{64, 1}, counts.data, (const Word*)logits.data, (const int*)slot.data,
                 (const long long*)limit.data, rows, slots, classes, infinity);
    u64 votes = 0;
    for (u32 i = 0; i < slots * (classes + 1); ++i) votes += counts.data[i];
    if (votes != rows - 2) {
        printf("%llu votes of %u\n", votes, rows - 2);
        exit(1);
    }
}

int main() {
    tally<u32>(few_32, 101, 10, 0, 0x7F800000u);
    tally<u32>(few_32, 19, 3, 1, 0x7F800000u);
    tally<unsigned short>(few_16, 73, 10, 3, 0x7C00u);
    tally<u32>(many_32, 9, 133, 1, 0x7F800000u);
    tally<unsigned short>(many_16, 9, 300, 5, 0x7F80u);
    puts("counting done");
}
#endif
