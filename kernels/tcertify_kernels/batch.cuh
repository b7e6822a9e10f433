// A batch of noisy images: its rows, dtypes and layouts. What the noise is, a kernel says:
//
// struct Noise {
//     Noise row(const Batch&, u32 index, const Row&)                  what it needs for a row
//     bool add<group>(const Row&, u32 first, float* v)                adds to elements first, first + 1 ...
//     float exact(const Row&, u32 element)                            one noisy element
// };
//
// `add` is fast, and true if it cannot say what one of the elements is: then `exact` writes them.
//
// The host has checked shapes and strides. A row whose slot, image or sample is out of range comes
// out as NaN: the contents of these arrays are known to the device alone. Loops are grid-stride, so
// that nothing depends on the launch.

#pragma once

#include "philox.cuh"

struct Float32 { typedef float Element; static const int group = 4; };
struct Float16 { typedef unsigned short Element; static const int group = 8; };
struct BFloat16 { typedef unsigned short Element; static const int group = 8; };

// --- rounding to nearest even, two elements to a word -------------------------------------

__device__ __forceinline__ u32 half_bits(float value) {
    const u32 bits = __float_as_uint(value), size = bits & 0x7FFFFFFFu;
    // moves the exponent from bias 127 to 15 and adds half a step, less one when even
    u32 rounded = (size + 0xC8000FFFu + ((size >> 13) & 1u)) >> 13;
    if (size < 0x38800000u) {  // adding 1/2 lines the last bit up with that of a subnormal half
        rounded = __float_as_uint(__fadd_rn(__uint_as_float(size), 0.5f)) - 0x3F000000u;
    }
    if (size >= 0x477FF000u) rounded = 0x7C00u;
    return size > 0x7F800000u ? 0x7FFFu : rounded | ((bits ^ size) >> 16);
}

__device__ __forceinline__ u32 bfloat_bits(float value) {
    const u32 bits = __float_as_uint(value);
    const u32 rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFFu : rounded;
}

template <typename Type> __device__ __forceinline__ u32 pack(float low, float high);

template <> __device__ __forceinline__ u32 pack<Float16>(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return half_bits(low) | half_bits(high) << 16;
#endif
}

template <> __device__ __forceinline__ u32 pack<BFloat16>(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return bfloat_bits(low) | bfloat_bits(high) << 16;
#endif
}

__device__ __forceinline__ uint4 pack_group(const float* v, Float32) {
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                      __float_as_uint(v[3]));
}

template <typename Type> __device__ __forceinline__ uint4 pack_group(const float* v, Type) {
    return make_uint4(pack<Type>(v[0], v[1]), pack<Type>(v[2], v[3]), pack<Type>(v[4], v[5]),
                      pack<Type>(v[6], v[7]));
}

__device__ __forceinline__ void put(float* out, float value, Float32) { *out = value; }

template <typename Type>
__device__ __forceinline__ void put(unsigned short* out, float value, Type) {
    *out = (unsigned short)pack<Type>(value, 0.0f);
}

__device__ __forceinline__ bool aligned(const void* pointer) { return ((u64)pointer & 15) == 0; }

// --- the rows -----------------------------------------------------------------------------

struct Batch {
    void* out;       // (rows, size) in the dtype and layout of the kernel's name
    const float* x;  // (slots, size)
    const int* slot; // (rows)
    const long long* image;
    const long long* sample;
    u64 seed;
    u32 size;        // elements a row, at most 2^31
    u32 rows, slots, channels, stream;
};

struct Row {
    const float* x;
    uint4 counter;  // its first word is set block by block
    u32 k0, k1;
    bool good;

    __device__ __forceinline__ uint4 words(u32 block, u32 kind = 0) const {
        return philox(make_uint4(block, counter.y, counter.z, counter.w | kind), k0, k1);
    }
};

__device__ __forceinline__ Row row_of(const Batch& batch, u32 index) {
    const u64 image = (u64)batch.image[index], sample = (u64)batch.sample[index];
    const u32 slot = (u32)batch.slot[index];
    Row row;
    row.good = slot < batch.slots && image >> 32 == 0 && sample >> 56 == 0;
    row.x = batch.x + (row.good ? slot : 0) * (u64)batch.size;
    row.counter = make_uint4(0, (u32)image, (u32)sample, (u32)(sample >> 32) | batch.stream << 24);
    row.k0 = (u32)batch.seed;
    row.k1 = (u32)(batch.seed >> 32);
    return row;
}

__device__ __forceinline__ float nan() { return __uint_as_float(0x7FFFFFFFu); }

// Reads `count` pixels from `x` on into v, without going past them; `whole` says that they are a
// group, and aligned.
template <int group, bool whole>
__device__ __forceinline__ void read(const float* x, int count, float* v) {
    if (whole || (count == group && aligned(x))) {
#pragma unroll
        for (int i = 0; i < group; i += 4) {
            const float4 four = *(const float4*)(x + i);
            v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < group; ++i) v[i] = i < count ? x[i] : 0.0f;
    }
}

// Writes `count` elements from `first` on by `exact`; `channels` is 1 for contiguous rows.
template <typename Type, typename Noise>
__device__ __forceinline__ void put_exact(const Noise& noise, const Row& row, u32 first, int count,
                                          u32 size, u32 channels, typename Type::Element* out) {
    const u32 pixels = size / channels;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        const u32 channel = (first + i) / pixels, pixel = first + i - channel * pixels;
        put(out + (u64)pixel * channels + channel, noise.exact(row, first + i), Type());
    }
}

// Rows by (block.y, thread.y), groups of one 16-byte store by (block.x, thread.x); `whole` says that
// all groups are whole and aligned in `x` and `out`.
template <typename Type, bool whole, typename Noise>
__device__ __forceinline__ void fill_groups(const Batch& batch, const Noise& all) {
    const int group = Type::group;
    typedef typename Type::Element Element;
    const u32 groups = (batch.size + group - 1) / group;
    for (u32 r = blockIdx.y * blockDim.y + threadIdx.y; r < batch.rows;
         r += gridDim.y * blockDim.y) {
        const Row row = row_of(batch, r);
        const Noise noise = all.row(row, r);
        Element* out = (Element*)batch.out + r * (u64)batch.size;
        for (u32 g = blockIdx.x * blockDim.x + threadIdx.x; g < groups;
             g += gridDim.x * blockDim.x) {
            const u32 first = g * group;
            const int count = whole ? group : (int)min(batch.size - first, (u32)group);
            float v[group];
            read<group, whole>(row.x + first, count, v);
            const bool rare = noise.template add<group>(row, first, v);
            if (whole || (count == group && aligned(out + first))) {
                *(uint4*)(out + first) = pack_group(v, Type());
            } else {
#pragma unroll
                for (int i = 0; i < group; ++i) {
                    if (i < count) put(out + first + i, v[i], Type());
                }
            }
            if (rare) put_exact<Type>(noise, row, first, count, batch.size, 1, out);
        }
    }
}

template <typename Type, typename Noise>
__device__ __forceinline__ void fill_contiguous(const Batch& batch, const Noise& noise) {
    if (batch.size % Type::group == 0 && aligned(batch.x) && aligned(batch.out)) {
        fill_groups<Type, true>(batch, noise);
    } else {
        fill_groups<Type, false>(batch, noise);
    }
}

// Channels-last, any number of channels: a block of four elements, each put in its place.
template <typename Type, typename Noise>
__device__ __forceinline__ void fill_channels_last(const Batch& batch, const Noise& all) {
    typedef typename Type::Element Element;
    const u32 blocks = (batch.size + 3) / 4, pixels = batch.size / batch.channels;
    for (u32 r = blockIdx.y * blockDim.y + threadIdx.y; r < batch.rows;
         r += gridDim.y * blockDim.y) {
        const Row row = row_of(batch, r);
        const Noise noise = all.row(row, r);
        Element* out = (Element*)batch.out + r * (u64)batch.size;
        for (u32 b = blockIdx.x * blockDim.x + threadIdx.x; b < blocks;
             b += gridDim.x * blockDim.x) {
            const u32 first = b * 4;
            const int count = (int)min(batch.size - first, 4u);
            float v[4];
            read<4, false>(row.x + first, count, v);
            const bool rare = noise.template add<4>(row, first, v);
            u32 channel = first / pixels, pixel = first - channel * pixels;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (i >= count) break;
                if (pixel == pixels) pixel = 0, ++channel;
                put(out + (u64)pixel * batch.channels + channel, v[i], Type());
                ++pixel;
            }
            if (rare) put_exact<Type>(noise, row, first, count, batch.size, batch.channels, out);
        }
    }
}

// Channels-last with three channels, pixels a multiple of the group, `x` and `out` aligned: a group
// of pixels in all channels is three 16-byte stores.
template <typename Type, typename Noise>
__device__ __forceinline__ void fill_colour(const Batch& batch, const Noise& all) {
    const int group = Type::group;
    typedef typename Type::Element Element;
    const u32 pixels = batch.size / 3, groups = pixels / group;
    for (u32 r = blockIdx.y * blockDim.y + threadIdx.y; r < batch.rows;
         r += gridDim.y * blockDim.y) {
        const Row row = row_of(batch, r);
        const Noise noise = all.row(row, r);
        Element* out = (Element*)batch.out + r * (u64)batch.size;
        for (u32 g = blockIdx.x * blockDim.x + threadIdx.x; g < groups;
             g += gridDim.x * blockDim.x) {
            float v[3 * group];
            bool rare = false;
#pragma unroll
            for (int channel = 0; channel < 3; ++channel) {
                const u32 first = channel * pixels + g * group;
                float plane[group];
                read<group, true>(row.x + first, group, plane);
                rare |= noise.template add<group>(row, first, plane);
#pragma unroll
                for (int i = 0; i < group; ++i) v[3 * i + channel] = plane[i];
            }
            uint4* to = (uint4*)(out + (u64)3 * g * group);
#pragma unroll
            for (int i = 0; i < 3; ++i) to[i] = pack_group(v + i * group, Type());
            if (rare) {
#pragma unroll 1
                for (u32 first = g * group; first < batch.size; first += pixels) {
                    put_exact<Type>(noise, row, first, group, batch.size, 3, out);
                }
            }
        }
    }
}

// An instance for each layout and dtype; INSTANCE(layout, Type, suffix) is the kernel's own.
#define LAYOUTS(Type, suffix)             \
    INSTANCE(contiguous, Type, suffix)    \
    INSTANCE(channels_last, Type, suffix) \
    INSTANCE(colour, Type, suffix)

#define INSTANCES              \
    LAYOUTS(Float32, float32)  \
    LAYOUTS(Float16, float16)  \
    LAYOUTS(BFloat16, bfloat16)
