// Philox4x32-10 (Salmon et al. 2011), and how its counter is divided among the kernels.

#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

// Word 3 of the counter: bits 0 to 23 are the sample's high bits, 24 to 29 the stream, and
constexpr u32 FURTHER = 1u << 30;  // 32 more bits of each word without it, where these do not decide
constexpr u32 INTEGER = 1u << 31;  // integer noise, which shares no word with Gaussian noise

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
