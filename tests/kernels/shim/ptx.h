// What PTX that was translated into C needs: threads that meet, memory that is checked, arithmetic.
//
// Threads run one after another, each up to the place where it waits for others, so that nothing
// depends on timing, and threads that wait for each other at different places are found.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE, FOR_BLOCK, FOR_WARP };  // what a thread waits for

struct Thread {
    uint32_t tid[3], ntid[3], ctaid[3], nctaid[3];
    char *shared;
    size_t shared_bytes;
    struct Thread *warp;  // its first lane
    void *at;             // where it goes on, or null: from the start
    int waits;
    uint32_t posted[2];   // for the others of its warp, in turn
    unsigned shuffles;
};

// --- faults: the first is kept, and said to Python ---------------------------------------------

static char fault[200];

static void found(const struct Thread *thread, const char *what, uint64_t address, size_t size) {
    if (*fault) return;
    snprintf(fault, sizeof fault, "%s: %zu bytes at %llx, block (%u, %u), thread (%u, %u)", what,
             size, (unsigned long long)address, thread->ctaid[0], thread->ctaid[1],
             thread->tid[0], thread->tid[1]);
}

const char *last_fault(void) { return fault; }

// --- memory -----------------------------------------------------------------------------------

struct Range {
    uint64_t start, end;
    uint64_t writable;
};
static struct Range ranges[32];
static unsigned range_count;

void set_memory(unsigned count, const struct Range *given) {
    range_count = count;
    memcpy(ranges, given, count * sizeof *given);
}

// Where a fault sends an access, so that the kernel can go on.
static void *elsewhere(void) {
    static _Alignas(16) char nowhere[64];
    memset(nowhere, 0, sizeof nowhere);
    return nowhere;
}

static inline void *reach_global(const struct Thread *thread, uint64_t address, size_t size,
                                 int writes) {
    if (address % size) {
        found(thread, "misaligned", address, size);
        return elsewhere();
    }
    for (unsigned i = 0; i < range_count; ++i) {
        if (ranges[i].start <= address && address + size <= ranges[i].end) {
            if (!writes || ranges[i].writable) return (void *)address;
            found(thread, "written to an input", address, size);
            return elsewhere();
        }
    }
    found(thread, "out of bounds", address, size);
    return elsewhere();
}

static inline void *reach_shared(const struct Thread *thread, uint64_t address, size_t size,
                                 int writes) {
    const uint64_t offset = address - (uint64_t)thread->shared;
    (void)writes;
    if (address % size == 0 && offset < thread->shared_bytes &&
        offset + size <= thread->shared_bytes) {
        return (void *)address;
    }
    found(thread, "misaligned or out of bounds in shared memory", offset, size);
    return elsewhere();
}

// --- arithmetic ---------------------------------------------------------------------------------

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float canonical(float value) {
    return value != value ? as_float(0x7FFFFFFFu) : value;
}

static inline float flushed(float value) {
    const uint32_t bits = as_bits(value);
    return bits & 0x7F800000u ? value : as_float(bits & 0x80000000u);
}

static inline float smaller(float a, float b) {
    if (a != a || b != b) return a != a ? b : a;
    return a < b || (a == b && signbit(a)) ? a : b;
}

// rsqrt.approx: the nearest float32 (tests/kernels/test_root.py tries all that PTX allows).
static inline float reciprocal_root(float a) {
    return a == 0 ? copysignf(INFINITY, a) : (float)(1.0 / sqrt((double)a));
}

// cvt.rzi.s32.f32: a subnormal becomes 0 with and without ".ftz".
static inline int32_t truncated(float value) {
    if (value != value) return 0;
    return value <= -0x1p31f ? INT32_MIN : value >= 0x1p31f ? INT32_MAX : (int32_t)value;
}

// bfi: the low `length` bits of `field` stand from `place` on in `into`, which has `bits` bits.
static inline uint64_t inserted(uint64_t field, uint64_t into, uint32_t place, uint32_t length,
                                uint32_t bits) {
    uint64_t found = into;
    for (uint32_t i = 0; i < (length & 255) && i + (place & 255) < bits; ++i) {
        const uint64_t bit = 1ull << (i + (place & 255));
        found = field >> i & 1 ? found | bit : found & ~bit;
    }
    return found;
}

static inline uint16_t half_bits(float value) {
    const _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return value != value ? 0x7FFF : bits;
}

static inline uint16_t bfloat_bits(float value) {
    const uint32_t bits = as_bits(value);
    return value != value ? 0x7FFF : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}

// --- threads ------------------------------------------------------------------------------------

// Leaves a value for the other lanes. Two places serve in turn: a lane may be one shuffle ahead.
static inline void post(struct Thread *thread, uint32_t value, uint32_t clamp, uint32_t members) {
    if (clamp != 31 || members != 0xFFFFFFFFu) {
        found(thread, "shuffle of a part of a warp", members, 4);
    }
    thread->posted[thread->shuffles % 2] = value;
}

static inline uint32_t fetch(struct Thread *thread, uint32_t distance) {
    const uint32_t lane = (uint32_t)(thread - thread->warp) ^ distance;
    return thread->warp[lane % 32].posted[thread->shuffles++ % 2];
}

typedef void Body(struct Thread *, void *, const uint64_t *);

struct Kernel {
    Body *body;
    size_t registers, shared;
    int meets;  // whether its threads wait for each other; a block is then whole warps
};

// Runs the lanes of a warp; returns what all wait for, or -1 where they wait for different things.
static int run_warp(const struct Kernel *kernel, struct Thread *warp, char *registers,
                    const uint64_t *parameters) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        kernel->body(warp + lane, registers + lane * kernel->registers, parameters);
    }
    for (unsigned lane = 1; lane < 32; ++lane) {
        if (warp[lane].waits != warp->waits ||
            (warp->waits == FOR_WARP && warp[lane].at != warp->at)) {
            found(warp + lane, "the lanes of a warp wait at different places", 0, 0);
            return -1;
        }
    }
    return warp->waits;
}

static void run_block(const struct Kernel *kernel, struct Thread *threads, unsigned count,
                      char *registers, const uint64_t *parameters) {
    const unsigned warps = count / 32;
    for (;;) {
        unsigned done = 0;
        for (unsigned w = 0; w < warps; ++w) {
            int waits;
            do {
                waits = run_warp(kernel, threads + 32 * w, registers + 32 * w * kernel->registers,
                                 parameters);
            } while (waits == FOR_WARP);
            if (waits < 0) return;
            done += waits == DONE;
        }
        if (done == warps) return;
        if (done) {
            found(threads, "a barrier that some threads of the block never reach", 0, 0);
            return;
        }
    }
}

static void run_kernel(const struct Kernel *kernel, const uint32_t *grid, const uint32_t *block,
                       const uint64_t *parameters) {
    const unsigned count = block[0] * block[1];
    char *shared = aligned_alloc(16, kernel->shared + 16 - kernel->shared % 16);
    char *registers = malloc((kernel->meets ? count : 1) * kernel->registers);
    struct Thread *threads = calloc(count, sizeof *threads);
    *fault = 0;
    for (uint32_t b = 0; b < grid[0] * grid[1]; ++b) {
        memset(shared, 0xFF, kernel->shared);  // what no thread has written is no useful number
        for (uint32_t t = 0; t < count; ++t) {
            threads[t] = (struct Thread){
                .tid = {t % block[0], t / block[0]}, .ntid = {block[0], block[1], 1},
                .ctaid = {b % grid[0], b / grid[0]}, .nctaid = {grid[0], grid[1], 1},
                .shared = shared, .shared_bytes = kernel->shared, .warp = threads + t / 32 * 32};
            if (!kernel->meets) kernel->body(threads + t, registers, parameters);
        }
        if (kernel->meets) run_block(kernel, threads, count, registers, parameters);
    }
    free(threads), free(registers), free(shared);
}

#define KERNEL(name, shared, meets)                                                                 \
    void launch_##name(const uint32_t *grid, const uint32_t *block, const uint64_t *parameters) {      \
        static const struct Kernel kernel = {body_of_##name, sizeof(struct registers_of_##name),    \
                                             shared, meets};                                        \
        run_kernel(&kernel, grid, block, parameters);                                               \
    }
