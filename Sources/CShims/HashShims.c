#include "HashShims.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define WITH_SHA __attribute__((target("sha,sse4.1,ssse3")))

static const uint32_t round_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

int coord_hash_is_available(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

/// The state as the instructions want it: a, b, e, f and c, d, g, h.
struct lanes {
    __m128i abef, cdgh;
};

WITH_SHA static inline struct lanes load_state(const uint32_t state[8]) {
    __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    return (struct lanes){_mm_alignr_epi8(dcba, hgfe, 8), _mm_blend_epi16(hgfe, dcba, 0xF0)};
}

WITH_SHA static inline void store_state(uint32_t state[8], struct lanes lanes) {
    __m128i feba = _mm_shuffle_epi32(lanes.abef, 0x1B), dchg = _mm_shuffle_epi32(lanes.cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/// Four rounds, the `group`-th of 16, with the message words that they need and those of later groups.
WITH_SHA static inline __attribute__((always_inline)) void four_rounds(
    struct lanes *lanes, __m128i words[4], const uint8_t *block, int group) {
    const __m128i swapped = _mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL);
    int now = group & 3, next = (group + 1) & 3, last = (group + 3) & 3;
    if (group < 4) {
        words[now] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * group)), swapped);
    }
    __m128i sum = _mm_add_epi32(words[now], _mm_load_si128((const __m128i *)(round_constants + 4 * group)));
    lanes->cdgh = _mm_sha256rnds2_epu32(lanes->cdgh, lanes->abef, sum);
    if (group >= 3 && group < 15) {
        __m128i older = _mm_alignr_epi8(words[now], words[last], 4);
        words[next] = _mm_sha256msg2_epu32(_mm_add_epi32(words[next], older), words[now]);
    }
    lanes->abef = _mm_sha256rnds2_epu32(lanes->abef, lanes->cdgh, _mm_shuffle_epi32(sum, 0x0E));
    if (group >= 1 && group < 13) words[last] = _mm_sha256msg1_epu32(words[last], words[now]);
}

WITH_SHA static void take_blocks(uint32_t state[8], const uint8_t *bytes, size_t blocks) {
    struct lanes lanes = load_state(state);
    for (; blocks > 0; blocks--, bytes += 64) {
        struct lanes before = lanes;
        __m128i words[4];
#pragma clang loop unroll(full)
        for (int group = 0; group < 16; group++) four_rounds(&lanes, words, bytes, group);
        lanes.abef = _mm_add_epi32(lanes.abef, before.abef);
        lanes.cdgh = _mm_add_epi32(lanes.cdgh, before.cdgh);
    }
    store_state(state, lanes);
}

WITH_SHA static void take_blocks_of_two(
    uint32_t one[8], const uint8_t *of_one, uint32_t two[8], const uint8_t *of_two, size_t blocks) {
    struct lanes a = load_state(one), b = load_state(two);
    for (; blocks > 0; blocks--, of_one += 64, of_two += 64) {
        struct lanes a_before = a, b_before = b;
        __m128i a_words[4], b_words[4];
#pragma clang loop unroll(full)
        for (int group = 0; group < 16; group++) {
            four_rounds(&a, a_words, of_one, group);
            four_rounds(&b, b_words, of_two, group);
        }
        a.abef = _mm_add_epi32(a.abef, a_before.abef);
        a.cdgh = _mm_add_epi32(a.cdgh, a_before.cdgh);
        b.abef = _mm_add_epi32(b.abef, b_before.abef);
        b.cdgh = _mm_add_epi32(b.cdgh, b_before.cdgh);
    }
    store_state(one, a);
    store_state(two, b);
}

#else

int coord_hash_is_available(void) { return 0; }
static void take_blocks(uint32_t state[8], const uint8_t *bytes, size_t blocks) {
    (void)state, (void)bytes, (void)blocks;
    __builtin_trap();
}
static void take_blocks_of_two(
    uint32_t one[8], const uint8_t *of_one, uint32_t two[8], const uint8_t *of_two, size_t blocks) {
    (void)one, (void)of_one, (void)two, (void)of_two, (void)blocks;
    __builtin_trap();
}

#endif

void coord_hash_start(struct coord_hash *hash) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, start, sizeof start);
    hash->length = 0;
}

/// Completes the block that a hash has begun; what is left of the job begins with a block.
static void begin(struct coord_hash_job *job) {
    struct coord_hash *hash = job->hash;
    size_t have = hash->length % 64, take = have == 0 ? 0 : 64 - have;
    if (take > job->count) take = job->count;
    if (take == 0) return;
    memcpy(hash->tail + have, job->bytes, take);
    hash->length += take;
    job->bytes += take;
    job->count -= take;
    if (have + take == 64) take_blocks(hash->state, hash->tail, 1);
}

static void advance(struct coord_hash_job *job, size_t blocks) {
    job->hash->length += blocks * 64;
    job->bytes += blocks * 64;
    job->count -= blocks * 64;
}

/// Keeps what is no whole block.
static void end(struct coord_hash_job *job) {
    if (job->count == 0) return;
    memcpy(job->hash->tail + job->hash->length % 64, job->bytes, job->count);
    job->hash->length += job->count;
}

void coord_hash_update(const struct coord_hash_job *jobs, size_t count) {
    struct coord_hash_job lane[2];
    size_t busy = 0, next = 0;
    while (1) {
        while (busy < 2 && next < count) {
            lane[busy] = jobs[next++];
            begin(&lane[busy]);
            if (lane[busy].count < 64) {
                end(&lane[busy]);
            } else {
                busy++;
            }
        }
        if (busy == 0) return;
        size_t blocks = lane[0].count / 64;
        if (busy == 2) {
            if (lane[1].count / 64 < blocks) blocks = lane[1].count / 64;
            take_blocks_of_two(lane[0].hash->state, lane[0].bytes, lane[1].hash->state, lane[1].bytes, blocks);
            advance(&lane[1], blocks);
        } else {
            take_blocks(lane[0].hash->state, lane[0].bytes, blocks);
        }
        advance(&lane[0], blocks);
        for (size_t index = busy; index-- > 0;) {
            if (lane[index].count >= 64) continue;
            end(&lane[index]);
            lane[index] = lane[--busy];
        }
    }
}

void coord_hash_finish(struct coord_hash *hash, uint8_t digest[32]) {
    uint8_t last[128] = {0};
    size_t have = hash->length % 64, size = have < 56 ? 64 : 128;
    memcpy(last, hash->tail, have);
    last[have] = 0x80;
    for (int byte = 0; byte < 8; byte++) last[size - 1 - byte] = (uint8_t)(hash->length * 8 >> 8 * byte);
    take_blocks(hash->state, last, size / 64);
    for (int byte = 0; byte < 32; byte++) digest[byte] = (uint8_t)(hash->state[byte / 4] >> (24 - 8 * (byte % 4)));
}
