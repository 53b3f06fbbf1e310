#include "CodecShims.h"

#include <math.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF  // a fused multiply-add would give a vector variant other bits

#define BODY static inline __attribute__((always_inline)) void

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// MARK: bfloat16

BODY bf16_encode(const float *restrict values, size_t count, uint8_t *restrict bytes, float *restrict left) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = bits_of(values[i]);
        // The largest value below the tie, or its odd neighbour above it, carries into the upper half.
        uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
        uint16_t half = (bits & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)rounded;
        memcpy(bytes + 2 * i, &half, 2);
    }
    if (left)
        for (size_t i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * i, 2);
            left[i] = values[i] - float_of((uint32_t)half << 16);
        }
}

BODY bf16_decode(const uint8_t *restrict bytes, size_t count, float *restrict values) {
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, 2);
        values[i] = float_of((uint32_t)half << 16);
    }
}

// MARK: int8

static inline __attribute__((always_inline)) void int8_block(
    const float *restrict values, size_t count, float *restrict scale, int8_t *restrict codes, float *restrict left) {
    // As integers, magnitudes order like the values, with infinity and NaN above them all.
    uint32_t top = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = bits_of(values[i]) & 0x7FFFFFFFu;
        top = magnitude > top ? magnitude : top;
    }
    if (top >= 0x7F000000u || top < 0x0D800000u) {
        *scale = top >= 0x7F000000u ? float_of(0x7FC00000u) : 0.0f;
        memset(codes, 0, count);
        if (left)
            for (size_t i = 0; i < count; i++) left[i] = values[i] - *scale;
        return;
    }
    float step = float_of(top) / 127.0f, inverse = 127.0f / float_of(top);
    *scale = step;
    // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
    for (size_t i = 0; i < count; i++)
        codes[i] = (int8_t)(bits_of(values[i] * inverse + 12582912.0f) - 0x4B400000u);
    if (left)
        for (size_t i = 0; i < count; i++) left[i] = values[i] - (float)codes[i] * step;
}

BODY int8_encode(const float *restrict values, size_t count, uint8_t *restrict bytes, float *restrict left) {
    size_t blocks = (count + coord_int8_block - 1) / coord_int8_block;
    int8_t *codes = (int8_t *)bytes + 4 * blocks;
    for (size_t b = 0; b < blocks; b++) {
        size_t at = b * coord_int8_block;
        float scale;
        if (at + coord_int8_block <= count)
            int8_block(values + at, coord_int8_block, &scale, codes + at, left ? left + at : 0);
        else
            int8_block(values + at, count - at, &scale, codes + at, left ? left + at : 0);
        memcpy(bytes + 4 * b, &scale, 4);
    }
}

BODY int8_decode(const uint8_t *restrict bytes, size_t count, float *restrict values) {
    size_t blocks = (count + coord_int8_block - 1) / coord_int8_block;
    const int8_t *codes = (const int8_t *)bytes + 4 * blocks;
    for (size_t b = 0; b < blocks; b++) {
        size_t at = b * coord_int8_block, n = count - at < coord_int8_block ? count - at : coord_int8_block;
        float scale;
        memcpy(&scale, bytes + 4 * b, 4);
        for (size_t i = 0; i < n; i++) values[at + i] = (float)codes[at + i] * scale;
    }
}

// MARK: Variants

#define VARIANT(name, target)                                                                                  \
    target static void bf16_encode_##name(const float *v, size_t n, uint8_t *b, float *l) { bf16_encode(v, n, b, l); } \
    target static void bf16_decode_##name(const uint8_t *b, size_t n, float *v) { bf16_decode(b, n, v); }     \
    target static void int8_encode_##name(const float *v, size_t n, uint8_t *b, float *l) { int8_encode(v, n, b, l); } \
    target static void int8_decode_##name(const uint8_t *b, size_t n, float *v) { int8_decode(b, n, v); }

VARIANT(portable, )

#if defined(__x86_64__)
VARIANT(avx2, __attribute__((target("avx2"))))
VARIANT(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-256-bit"))))

int coord_codec_variant(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}
#define PICK(name, ...)                            \
    switch (variant) {                             \
    case 2: name##_avx512(__VA_ARGS__); return;    \
    case 1: name##_avx2(__VA_ARGS__); return;      \
    default: name##_portable(__VA_ARGS__); return; \
    }
#else
int coord_codec_variant(void) { return 0; }
#define PICK(name, ...) \
    (void)variant;      \
    name##_portable(__VA_ARGS__);
#endif

void coord_bf16_encode(int variant, const float *values, size_t count, uint8_t *bytes, float *left) {
    PICK(bf16_encode, values, count, bytes, left)
}
void coord_bf16_decode(int variant, const uint8_t *bytes, size_t count, float *values) {
    PICK(bf16_decode, bytes, count, values)
}
void coord_int8_encode(int variant, const float *values, size_t count, uint8_t *bytes, float *left) {
    PICK(int8_encode, values, count, bytes, left)
}
void coord_int8_decode(int variant, const uint8_t *bytes, size_t count, float *values) {
    PICK(int8_decode, bytes, count, values)
}

// MARK: Top-k

// The magnitude of the keep-th largest value, and how many of exactly that magnitude are kept: a radix select over
// 11, 11 and 9 bits.
static uint32_t threshold(const float *values, size_t count, size_t keep, size_t *ties) {
    static const int shifts[3] = {20, 9, 0}, widths[3] = {11, 11, 9};
    uint32_t histogram[2048], known = 0, known_mask = 0;
    size_t wanted = keep;
    for (int level = 0; level < 3; level++) {
        uint32_t mask = (1u << widths[level]) - 1;
        memset(histogram, 0, sizeof histogram);
        for (size_t i = 0; i < count; i++) {
            uint32_t magnitude = bits_of(values[i]) & 0x7FFFFFFFu;
            if ((magnitude & known_mask) == known) histogram[magnitude >> shifts[level] & mask]++;
        }
        uint32_t bucket = mask;
        while (bucket > 0 && histogram[bucket] < wanted) wanted -= histogram[bucket--];
        known |= bucket << shifts[level];
        known_mask |= mask << shifts[level];
    }
    *ties = wanted;
    return known;
}

size_t coord_topk_encode(const float *values, size_t count, size_t keep, uint8_t *bytes, float *left) {
    if (left && count) memcpy(left, values, count * sizeof *left);
    if (keep == 0) return 0;
    size_t ties, at = 0, previous = (size_t)-1;
    uint32_t limit = threshold(values, count, keep, &ties);
    // The distances first; the values follow when it is known where.
    for (int pass = 0; pass < 2; pass++) {
        size_t open = ties;
        for (size_t i = 0; i < count; i++) {
            uint32_t magnitude = bits_of(values[i]) & 0x7FFFFFFFu;
            if (magnitude < limit || (magnitude == limit && open == 0)) continue;
            if (magnitude == limit) open--;
            if (pass == 0) {
                uint32_t gap = (uint32_t)(i - previous - 1);
                previous = i;
                for (; gap >= 128; gap >>= 7) bytes[at++] = (uint8_t)(gap | 128);
                bytes[at++] = (uint8_t)gap;
            } else {
                memcpy(bytes + at, values + i, 4);
                at += 4;
                if (left) left[i] = values[i] - values[i];
            }
        }
    }
    return at;
}

int coord_topk_decode(const uint8_t *bytes, size_t byte_count, size_t count, size_t keep, float *values) {
    if (keep > count || byte_count / 5 < keep) return -1;
    size_t at = 0, end = byte_count - 4 * keep, index = (size_t)-1;
    if (count) memset(values, 0, count * sizeof *values);
    for (size_t k = 0; k < keep; k++) {
        uint64_t gap = 0;
        int shift = 0;
        uint8_t byte;
        do {
            if (at == end || shift > 28) return -1;
            byte = bytes[at++];
            gap |= (uint64_t)(byte & 127) << shift;
            shift += 7;
        } while (byte & 128);
        if (shift > 7 && byte == 0) return -1;  // a longer form of a shorter number
        if (gap >= count - (index + 1)) return -1;
        index += gap + 1;
        memcpy(values + index, bytes + end + 4 * k, 4);
    }
    return at == end ? 0 : -1;
}
