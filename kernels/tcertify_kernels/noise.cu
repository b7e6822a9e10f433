// Fused Gaussian noise: out[b] = x[slot[b]] + sigma z(seed, image[b], sample[b], stream), each output
// element written once. A row whose sigma is no positive normal number comes out as NaN.
//
// Every operation on floats is one of round-to-nearest fma, mul, add and sqrt, written as an
// intrinsic so that no contraction is left to the compiler: _noise_numba.py does the same
// operations in the same order, and gets the same bits. The polynomials are those of
// kernels/fit_normal.py.

#include "batch.cuh"

constexpr float LOG_0 = 1.0f;
constexpr float LOG_1 = -0.6666643023490906f;
constexpr float LOG_2 = 0.4999960958957672f;
constexpr float LOG_3 = -0.40020859241485596f;
constexpr float LOG_4 = 0.33360496163368225f;
constexpr float LOG_5 = -0.2801133692264557f;
constexpr float LOG_6 = 0.24373771250247955f;
constexpr float LOG_7 = -0.27969890832901f;
constexpr float LOG_8 = 0.25764498114585876f;
constexpr float SIN_0 = -0.16666655242443085f;
constexpr float SIN_1 = 0.008332189172506332f;
constexpr float SIN_2 = -0.00019518291810527444f;
constexpr float COS_0 = -0.5f;
constexpr float COS_1 = 0.04166664555668831f;
constexpr float COS_2 = -0.0013887309469282627f;
constexpr float COS_3 = 2.4432327336398885e-05f;
constexpr float EXPONENT_SCALE = -1.6525916635146132e-07f;
constexpr float EXPONENT_SHIFT = 44.361419677734375f;
constexpr float ANGLE_SCALE = 3.65729529994141e-10f;

// CuPy compiles with -ftz=true, which would flush a subnormal pixel to zero: the operations that
// touch pixels are written in PTX, where the flag has no say.
__device__ __forceinline__ float fma_keep(float a, float b, float c) {
#ifdef __CUDA_ARCH__
    float d;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
    return d;
#else
    return __fmaf_rn(a, b, c);
#endif
}

// __fsqrt_rn as the compiler writes it, without the branch for arguments that are subnormal, negative
// or huge: `a` is 0 or in [2^-23, 91).
__device__ __forceinline__ float root(float a) {
#ifdef __CUDA_ARCH__
    float inverse;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(a));
    inverse = fminf(inverse, 1.0e18f);  // infinite at 0
    const float guess = __fmul_rn(a, inverse);
    return __fmaf_rn(__fmaf_rn(-guess, guess, a), __fmul_rn(inverse, 0.5f), guess);
#else
    return __fsqrt_rn(a);
#endif
}

// Exchanges a and b if `bits` has the bit of `mask`; the compiler's own test takes two instructions
// more.
__device__ __forceinline__ void exchange(float& a, float& b, u32 bits, u32 mask) {
#ifdef __CUDA_ARCH__
    float c, d;
    asm("{\n\t.reg .pred p;\n\t.reg .b32 t;\n\tand.b32 t, %4, %5;\n\tsetp.ne.u32 p, t, 0;\n\t"
        "selp.f32 %0, %3, %2, p;\n\tselp.f32 %1, %2, %3, p;\n\t}"
        : "=f"(c), "=f"(d)
        : "f"(a), "f"(b), "r"(bits), "r"(mask));
    a = c, b = d;
#else
    if (bits & mask) {
        const float c = a;
        a = b, b = c;
    }
#endif
}

// Box-Muller: two standard normals from a uniform in (0, 2^32] and a random word.
__device__ __forceinline__ void normal_pair(float uniform, u32 angle, float& first, float& second) {
    // -2 log(u) for u = uniform / 2^32 = 2^e (1 + t), t in [-1/3, 1/3)
    const u32 u = __float_as_uint(uniform);
    const u32 exponent = (u - 0x3F2AAAABu) & 0xFF800000u;
    const float t = __fadd_rn(__uint_as_float(u - exponent), -1.0f);
    const float tail = __fmaf_rn(__int2float_rn((int)exponent), EXPONENT_SCALE, EXPONENT_SHIFT);
    float q = __fmaf_rn(t, LOG_8, LOG_7);
    q = __fmaf_rn(t, q, LOG_6);
    q = __fmaf_rn(t, q, LOG_5);
    q = __fmaf_rn(t, q, LOG_4);
    q = __fmaf_rn(t, q, LOG_3);
    q = __fmaf_rn(t, q, LOG_2);
    q = __fmaf_rn(t, q, LOG_1);
    q = __fmaf_rn(t, q, LOG_0);
    const float length = root(__fmaf_rn(t, __fmaf_rn(t, q, -2.0f), tail));
    // the low 30 bits of the angle span [-pi/4, pi/4), the top two choose the quarter
    const float x = __fmul_rn(__int2float_rn((int)(angle << 2)), ANGLE_SCALE);
    const float y = __fmul_rn(x, x);
    float sine = __fmaf_rn(y, __fmaf_rn(y, SIN_2, SIN_1), SIN_0);
    sine = __fmaf_rn(__fmul_rn(x, y), sine, x);
    float cosine = __fmaf_rn(y, __fmaf_rn(y, COS_3, COS_2), COS_1);
    cosine = __fmaf_rn(y, __fmaf_rn(y, cosine, COS_0), 1.0f);
    cosine = __uint_as_float(__float_as_uint(cosine) ^ (angle & 0x80000000u));
    exchange(cosine, sine, angle, 0x40000000u);
    first = __fmul_rn(length, cosine);
    second = __fmul_rn(length, sine);
}

// The uniform of the radius is the middle of the cell of its word; the last cells, where the far tail
// is, are divided by 32 more bits.
constexpr u32 LAST_CELLS = 256;

__device__ __forceinline__ float middle(u32 word) {
    return __fadd_rn(__uint2float_rn(word), 0.5f);
}

__device__ __forceinline__ float middle(u32 word, u32 further) {
    return __fmaf_rn(middle(further), 0x1p-32f, __uint2float_rn(word));
}

struct Gaussian {
    const float* sigmas;  // (rows), or null: then sigma
    float sigma;

    __device__ __forceinline__ Gaussian row(const Row& row, u32 index) const {
        const float given = sigmas ? sigmas[index] : sigma;
        const u32 bits = __float_as_uint(given);  // positive, normal and finite
        return {sigmas, row.good && bits - 0x00800000u < 0x7F000000u ? given : nan()};
    }

    template <int group>
    __device__ __forceinline__ bool add(const Row& row, u32 first, float* v) const {
        u32 smallest = LAST_CELLS;
#pragma unroll
        for (int i = 0; i < group; i += 4) {
            const uint4 words = row.words((first + i) / 4);
            float z[4];
            normal_pair(middle(words.x), words.y, z[0], z[1]);
            normal_pair(middle(words.z), words.w, z[2], z[3]);
            smallest = min(smallest, min(words.x, words.z));
#pragma unroll
            for (int j = 0; j < 4; ++j) v[i + j] = fma_keep(sigma, z[j], v[i + j]);
        }
        return smallest < LAST_CELLS;
    }

    __device__ __forceinline__ float exact(const Row& row, u32 element) const {
        const uint4 words = row.words(element / 4), further = row.words(element / 4, FURTHER);
        const bool later = element & 2;
        const u32 radius = later ? words.z : words.x, angle = later ? words.w : words.y;
        const float uniform =
            radius < LAST_CELLS ? middle(radius, later ? further.z : further.x) : middle(radius);
        float z[2];
        normal_pair(uniform, angle, z[0], z[1]);
        return fma_keep(sigma, element & 1 ? z[1] : z[0], row.x[element]);
    }
};

#define INSTANCE(layout, Type, suffix)                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                            \
        layout##_##suffix(void* out, const float* x, const int* slot, const long long* image,    \
                          const long long* sample, const float* sigmas, u64 seed, u32 size,      \
                          u32 rows, u32 slots, u32 channels, u32 stream, float sigma) {          \
        const Batch batch = {out, x, slot, image, sample, seed, size, rows, slots, channels, stream}; \
        fill_##layout<Type>(batch, Gaussian{sigmas, sigma});                                     \
    }
INSTANCES
#undef INSTANCE
