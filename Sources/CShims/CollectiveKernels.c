#include "CollectiveShims.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// MARK: Floating-point mode

uint64_t coord_float_mode(void) {
#if defined(__x86_64__)
    return _mm_getcsr() & ~0x3fu;  // without the sticky flags
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
#else
    return 0;
#endif
}

static void set_float_mode(uint64_t mode) {
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

// MARK: Kernels

typedef uint64_t words __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

// One text, compiled for each width of vectors: an addition has the same bits in all of them.
//
// The fingerprint: products of keyed halves (NH, from UMAC) plus the neighbour itself: a sum, so pieces may come in any
// order, and the key moves with the index, so values that change places are noticed. For accidents, not for enemies.
#define KERNELS(name, attributes)                                                                              \
    attributes static void add_##name(float *target, const float *a, const float *b, size_t count) {           \
        size_t i = 0;                                                                                          \
        for (; i + 16 <= count; i += 16) {                                                                     \
            floats x, y;                                                                                       \
            memcpy(&x, a + i, sizeof x);                                                                       \
            memcpy(&y, b + i, sizeof y);                                                                       \
            x += y;                                                                                            \
            memcpy(target + i, &x, sizeof x);                                                                  \
        }                                                                                                      \
        for (; i < count; i++) target[i] = a[i] + b[i];                                                        \
    }                                                                                                          \
    attributes static void fingerprint_##name(                                                                 \
        uint64_t accumulators[8], float *copy, const float *values, uint64_t first, size_t count) {            \
        const words keys = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu, 0xd6e8feb86659fd93u, \
                            0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u}; \
        const uint64_t step = 0x9fb21c651e98df25u;                                                             \
        uint64_t turn = (first / 16 + 1) * step;                                                               \
        words sum, value;                                                                                      \
        memcpy(&sum, accumulators, sizeof sum);                                                                \
        while (count > 0) {                                                                                    \
            size_t n = count < 16 ? count : 16;                                                                \
            if (n == 16) {                                                                                     \
                memcpy(&value, values, sizeof value);                                                          \
                if (copy) memcpy(copy, &value, sizeof value);                                                  \
            } else {                                                                                           \
                float last[16] = {0};                                                                          \
                memcpy(last, values, n * sizeof *values);                                                      \
                if (copy) memcpy(copy, last, n * sizeof *copy);                                                \
                memcpy(&value, last, sizeof value);                                                            \
            }                                                                                                  \
            words keyed = value + (keys ^ turn);                                                               \
            sum += (keyed & 0xffffffffu) * (keyed >> 32);                                                      \
            sum += __builtin_shufflevector(value, value, 1, 0, 3, 2, 5, 4, 7, 6);                              \
            turn += step;                                                                                      \
            values += n;                                                                                       \
            copy = copy ? copy + n : copy;                                                                     \
            count -= n;                                                                                        \
        }                                                                                                      \
        memcpy(accumulators, &sum, sizeof sum);                                                                \
    }

// Out of line, so that no addition moves across a change of mode.
#define OUT_OF_LINE __attribute__((noinline))
KERNELS(plain, OUT_OF_LINE)
#if defined(__x86_64__)
KERNELS(avx2, OUT_OF_LINE __attribute__((target("avx2"))))
KERNELS(avx512, OUT_OF_LINE __attribute__((target("avx512f,avx512dq"))))
#define DISPATCH(function, ...)                                                                     \
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) function##_avx512(__VA_ARGS__); \
    else if (__builtin_cpu_supports("avx2")) function##_avx2(__VA_ARGS__);                          \
    else function##_plain(__VA_ARGS__)
#else
#define DISPATCH(function, ...) function##_plain(__VA_ARGS__)
#endif

void coord_fingerprint(uint64_t accumulators[8], const float *values, uint64_t first, size_t count) {
    DISPATCH(fingerprint, accumulators, 0, values, first, count);
}

void coord_copy_fingerprint(
    uint64_t accumulators[8], float *target, const float *values, uint64_t first, size_t count) {
    DISPATCH(fingerprint, accumulators, target, values, first, count);
}

// MARK: Tree sum

enum { BLOCK = 1024, DEPTH = 8 };

int coord_tree_sum(
    const float *const *leaves, const int16_t *program, size_t program_count,
    float *target, size_t count, uint64_t mode, uint64_t accumulators[8], uint64_t first) {
    float scratch[DEPTH][BLOCK];
    const float *stack[DEPTH];
    uint64_t before = coord_float_mode();
    int result = 0;
    set_float_mode(mode);
    for (size_t start = 0; start < count && result == 0; start += BLOCK) {
        size_t n = count - start < BLOCK ? count - start : BLOCK;
        int depth = 0;
        for (size_t i = 0; i < program_count; i++) {
            if (program[i] >= 0) {
                if (depth == DEPTH) { result = -1; break; }
                stack[depth++] = leaves[program[i]] + start;
            } else {
                if (depth < 2) { result = -1; break; }
                depth--;
                float *place = i + 1 == program_count ? target + start : scratch[depth - 1];
                DISPATCH(add, place, stack[depth - 1], stack[depth], n);
                stack[depth - 1] = place;
            }
        }
        if (result == 0 && depth != 1) result = -1;
        if (result == 0 && stack[0] != target + start) memmove(target + start, stack[0], n * sizeof *target);
        if (result == 0) coord_fingerprint(accumulators, target + start, first + start, n);
    }
    set_float_mode(before);
    return result;
}
