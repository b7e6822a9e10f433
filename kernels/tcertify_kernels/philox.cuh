// Philox4x32-10 (Salmon et al. 2011) and standard normals from its words.
//
// Every operation on floats is one of round-to-nearest fma, mul, add and sqrt, written as an
// intrinsic so that no contraction is left to the compiler: _noise_numba.py does the same
// operations in the same order, and gets the same bits. The polynomials are those of
// kernels/fit_normal.py.

typedef unsigned int u32;
typedef unsigned long long u64;

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

__device__ __forceinline__ uint4 philox(uint4 c, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u32 high_0 = __umulhi(0xD2511F53u, c.x), low_0 = 0xD2511F53u * c.x;
        const u32 high_1 = __umulhi(0xCD9E8D57u, c.z), low_1 = 0xCD9E8D57u * c.z;
        c.x = high_1 ^ c.y ^ (k0 + (u32)round * 0x9E3779B9u);
        c.y = low_1;
        c.z = high_0 ^ c.w ^ (k1 + (u32)round * 0xBB67AE85u);
        c.w = low_0;
    }
    return c;
}

// __fsqrt_rn as the compiler writes it, without the branch for arguments that are subnormal, negative
// or huge: `a` is 0 or in [2^-23, 46).
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

// Box-Muller: two standard normals from two random words.
__device__ __forceinline__ void normal_pair(u32 radius, u32 angle, float& first, float& second) {
    // -2 log(u) for u = (radius + 1/2) / 2^32 = 2^e (1 + t), t in [-1/3, 1/3)
    const u32 u = __float_as_uint(__fadd_rn(__uint2float_rn(radius), 0.5f));
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

// The normals of elements 4 * block .. 4 * block + 3 of one sample of one image.
__device__ __forceinline__ void normals(uint4 counter, u32 k0, u32 k1, float* z) {
    const uint4 words = philox(counter, k0, k1);
    normal_pair(words.x, words.y, z[0], z[1]);
    normal_pair(words.z, words.w, z[2], z[3]);
}
