// Vote counting: the argmax of each row of logits, added to counts[slot[row], class]; a row with a
// NaN goes to counts[slot[row], classes], ties go to the lowest class.
//
// Logits are compared as whole numbers made from their bits, in whose order both zeros are equal
// and NaN stands above all, so that one comparison serves every dtype. A row whose slot is out of
// range does not vote, nor does one from *limit on.

typedef unsigned int u32;
typedef unsigned long long u64;

struct Bits32 { typedef u32 Word; static const int width = 4; };
struct Bits16 { typedef unsigned short Word; static const int width = 8; };

// The order of a logit: sign and size turned into a signed number, NaN into the largest.
template <typename Bits>
__device__ __forceinline__ int order(u32 bits, u32 infinity) {
    const u32 sign = Bits::width == 4 ? 0x80000000u : 0x8000u;
    const u32 size = bits & (sign - 1);
    const int value = bits & sign ? -(int)size : (int)size;
    return size > infinity ? 0x7FFFFFFF : value;
}

struct Best {
    int value;
    u32 column;
};

__device__ __forceinline__ void consider(Best& best, int value, u32 column) {
    if (value > best.value) best.value = value, best.column = column;
}

__device__ __forceinline__ u32 word(const uint4& four, int i) {
    return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

// The best of the columns that one of `lanes` lanes looks at, in increasing order; 16-byte loads
// between a head and a tail that are not aligned.
template <typename Bits, int lanes>
__device__ __forceinline__ Best scan(const typename Bits::Word* row, u32 classes, u32 infinity,
                                     u32 lane) {
    const u32 off = (u32)((16 - ((u64)row & 15)) & 15) / sizeof(typename Bits::Word);
    const u32 head = off < classes ? off : classes;
    const u32 vectors = (classes - head) / Bits::width;
    Best best = {(int)0x80000000, 0};
    for (u32 c = lane; c < head; c += lanes) consider(best, order<Bits>(row[c], infinity), c);
#pragma unroll 4
    for (u32 v = lane; v < vectors; v += lanes) {
        const u32 first = head + v * Bits::width;
        const uint4 four = *(const uint4*)(row + first);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 bits = word(four, i);
            if (Bits::width == 4) {
                consider(best, order<Bits>(bits, infinity), first + i);
            } else {
                consider(best, order<Bits>(bits & 0xFFFFu, infinity), first + 2 * i);
                consider(best, order<Bits>(bits >> 16, infinity), first + 2 * i + 1);
            }
        }
    }
    for (u32 c = head + vectors * Bits::width + lane; c < classes; c += lanes) {
        consider(best, order<Bits>(row[c], infinity), c);
    }
    return best;
}

// The vote of a row, the same in all its lanes: the largest value, then the lowest column.
template <typename Bits, int lanes>
__device__ __forceinline__ u32 vote(const typename Bits::Word* row, u32 classes, u32 infinity,
                                    u32 lane) {
    Best best = scan<Bits, lanes>(row, classes, infinity, lane);
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        const int value = __shfl_xor_sync(0xFFFFFFFFu, best.value, distance);
        const u32 column = __shfl_xor_sync(0xFFFFFFFFu, best.column, distance);
        if (value > best.value || (value == best.value && column < best.column)) {
            best.value = value, best.column = column;
        }
    }
    return best.value == 0x7FFFFFFF ? classes : best.column;
}

// Teams of `lanes` threads, a row each. With few classes a block first gathers the votes for the
// slot of its first row in shared memory, and adds them to the counts in one go.
template <typename Bits, int lanes, bool gathered>
__device__ __forceinline__ void count(u64* counts, const typename Bits::Word* logits,
                                      const int* slot, const long long* limit, u32 rows,
                                      u32 slots, u32 classes, u32 infinity) {
    const int most = 128;
    __shared__ u32 gather[most + 1];
    const u32 lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = blockDim.x / lanes;
    const u32 span = gathered ? 4 * teams : teams;
    if (limit) rows = *limit < 0 ? 0 : *limit < (long long)rows ? (u32)*limit : rows;
    for (u64 first = (u64)blockIdx.x * span; first < rows; first += (u64)gridDim.x * span) {
        const u32 home = (u32)slot[first];
        if (gathered) {
            for (u32 c = threadIdx.x; c <= classes; c += blockDim.x) gather[c] = 0;
            __syncthreads();
        }
        for (u64 start = first; start < first + span; start += teams) {
            const u64 row = start + team;
            const bool live = row < rows;  // every lane of a warp takes part in the shuffles
            const u32 winner = vote<Bits, lanes>(logits + (live ? row : first) * classes, classes,
                                                 infinity, lane);
            if (live && lane == 0) {
                const u32 where = (u32)slot[row];
                if (gathered && where == home) {
                    atomicAdd(&gather[winner], 1u);
                } else if (where < slots) {
                    atomicAdd(&counts[where * (u64)(classes + 1) + winner], (u64)1);
                }
            }
        }
        if (gathered) {
            __syncthreads();
            for (u32 c = threadIdx.x; c <= classes; c += blockDim.x) {
                if (home < slots && gather[c]) {
                    atomicAdd(&counts[home * (u64)(classes + 1) + c], (u64)gather[c]);
                }
            }  // and the thread that read a bin is the one that clears it for the next rows
        }
    }
}

#define INSTANCE(name, Bits, lanes, gathered)                                               \
    extern "C" __global__ void __launch_bounds__(256)                                       \
        name(u64* counts, const Bits::Word* logits, const int* slot, const long long* limit, \
             u32 rows, u32 slots, u32 classes, u32 infinity) {                              \
        count<Bits, lanes, gathered>(counts, logits, slot, limit, rows, slots, classes,     \
                                     infinity);                                             \
    }

INSTANCE(few_32, Bits32, 8, true)
INSTANCE(few_16, Bits16, 8, true)
INSTANCE(many_32, Bits32, 32, false)
INSTANCE(many_16, Bits16, 32, false)
