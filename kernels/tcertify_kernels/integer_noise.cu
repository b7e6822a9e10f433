// Fused integer noise: out[b] = clamp(levels x[slot[b]] + z, levels - reach, reach) / levels, each output
// element written once; z is a Gaussian of standard deviation sigma * levels, rounded to the nearest
// whole number. A row whose slot, image or sample is out of range comes out as NaN, and is invalid.
//
// The uniform of 64 bits that z comes from is the word, then 32 further bits. Below 1/2 the size of z is
// the number of thresholds above it; above 1/2 it is mirrored. `guide` answers for the word alone: its
// place is that of a float32, which puts the finest cells where the thresholds are densest; an entry
// holds the size of z at the cell's beginning, in the high half, and the place of its only threshold, in
// the low half, so that one subtraction with borrow takes the threshold into account. Where the low
// half comes out as zero, on a threshold, or the sign is set, in a cell with several, `exact` decides.

#include "batch.cuh"

constexpr float GUIDE_OFFSET = 16384.0f;
constexpr u32 GUIDE_FIRST = 36096;  // the bits of the offset, shifted
constexpr u32 GUIDE_SHIFT = 15;
constexpr u32 GUIDE_SIZE = 4356;
constexpr float WHOLE = 12582912.0f;  // 1.5 * 2^23: added to a number below 2^22, rounds it

struct Integer {
    const u32* guide;
    const u64* thresholds;  // (reach), growing
    bool* invalid;          // (rows), and of a row's own noise the row
    u32 reach;
    float levels, inverse, rest;  // inverse + rest is 1 / levels, to 2^-48

    __device__ __forceinline__ Integer row(const Row& row, u32 index) const {
        if (!row.good && blockIdx.x == 0 && threadIdx.x == 0) invalid[index] = true;
        return {guide, thresholds, invalid + index, reach, levels, row.good ? inverse : nan(), rest};
    }

    // levels x, as the bits of a float32 in which the last bit counts 1
    __device__ __forceinline__ u32 whole(float x) const {
        return __float_as_uint(__fmaf_rn(x, levels, WHOLE));
    }

    // y / levels, correctly rounded
    __device__ __forceinline__ float fraction(u32 bits) const {
        const float y = __fadd_rn(__uint_as_float(bits), -WHOLE);
        return __fmaf_rn(y, inverse, __fmul_rn(y, rest));
    }

    // Needs no clamp: what the guide decides is far from the clamps.
    template <int group>
    __device__ __forceinline__ bool add(const Row& row, u32 first, float* v) const {
        bool rare = false;
#pragma unroll
        for (int i = 0; i < group; i += 4) {
            const uint4 four = row.words((first + i) / 4);
            const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const u32 sign = (u32)((int)words[j] >> 31);
                const float folded = __int2float_rn((int)(words[j] ^ sign));
                const u32 place = __float_as_uint(__fadd_rn(folded, GUIDE_OFFSET));
                const u32 entry = guide[(place >> GUIDE_SHIFT) - GUIDE_FIRST] - place;
                rare |= (entry & 0xFFFFu) == 0 || (int)entry < 0;
                v[i + j] = fraction(whole(v[i + j]) + sign - ((entry >> 16) ^ sign));
            }
        }
        return rare;
    }

    __device__ __forceinline__ float exact(const Row& row, u32 element) const {
        const uint4 four = row.words(element / 4), further = row.words(element / 4, FURTHER);
        const bool odd = element & 1, later = element & 2;
        const u32 word = later ? (odd ? four.w : four.z) : (odd ? four.y : four.x);
        const u32 low = later ? (odd ? further.w : further.z) : (odd ? further.y : further.x);
        const u64 sign = (int)word < 0 ? ~0ull : 0;
        const u64 uniform = ((u64)word << 32 | low) ^ sign;
        u32 begin = 0, end = reach;  // passed are the thresholds that are no larger
        while (begin < end) {
            const u32 middle = (begin + end) / 2;
            if (thresholds[middle] <= uniform) {
                begin = middle + 1;
            } else {
                end = middle;
            }
        }
        if (begin > 0 && thresholds[begin - 1] == uniform) *invalid = true;
        const int size = (int)(reach - begin), z = sign ? size : -size;
        const int zero = (int)__float_as_uint(WHOLE), most = (int)reach, least = (int)levels - most;
        const int y = (int)whole(row.x[element]) - zero + z;
        return fraction((u32)(zero + (y < least ? least : y > most ? most : y)));
    }
};

#define INSTANCE(layout, Type, suffix)                                                            \
    extern "C" __global__ void __launch_bounds__(256) integer_##layout##_##suffix(                \
        void* out, const float* x, const int* slot, const long long* image,                       \
        const long long* sample, bool* invalid, const uint4* guide, const u64* thresholds,        \
        u64 seed, u32 size, u32 rows, u32 slots, u32 channels, u32 stream, u32 reach,             \
        float levels, float inverse, float rest) {                                                \
        __shared__ uint4 shared[GUIDE_SIZE / 4];                                                  \
        const u32 thread = threadIdx.y * blockDim.x + threadIdx.x;                                \
        for (u32 i = thread; i < GUIDE_SIZE / 4; i += blockDim.x * blockDim.y) {                  \
            shared[i] = guide[i];                                                                 \
        }                                                                                         \
        __syncthreads();                                                                          \
        const Batch batch = {out,  x,    slot,  image,    sample,                                 \
                             seed, size, rows, slots, channels, stream | INTEGER >> 24};          \
        fill_##layout<Type>(batch, Integer{(const u32*)shared, thresholds, invalid, reach,        \
                                           levels, inverse, rest});                               \
    }
INSTANCES
#undef INSTANCE
