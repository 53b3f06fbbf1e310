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

enum { LINE = 64, BLOCK = 4096, DEPTH = 8 };

// One text, compiled for each width of vectors: a line of values has the same bits in all of them. The last line of an
// array is filled up with zeros, which change nothing beside them.

#define COMBINE(what, type, name, attributes, expression)                                                      \
    attributes static void what##_##name(void *target, const void *a, const void *b, size_t count) {           \
        for (size_t i = 0; i < count; i += LINE) {                                                             \
            size_t n = count - i < LINE ? count - i : LINE;                                                    \
            type x, y;                                                                                         \
            if (n == LINE) {                                                                                   \
                memcpy(&x, (const char *)a + i, LINE);                                                         \
                memcpy(&y, (const char *)b + i, LINE);                                                         \
                x = expression;                                                                                \
                memcpy((char *)target + i, &x, LINE);                                                          \
            } else {                                                                                           \
                type zero = {0};                                                                               \
                x = y = zero;                                                                                  \
                memcpy(&x, (const char *)a + i, n);                                                            \
                memcpy(&y, (const char *)b + i, n);                                                            \
                x = expression;                                                                                \
                memcpy((char *)target + i, &x, n);                                                             \
            }                                                                                                  \
        }                                                                                                      \
    }

typedef float f32_line __attribute__((vector_size(LINE)));
typedef double f64_line __attribute__((vector_size(LINE)));
typedef int32_t i32_line __attribute__((vector_size(LINE)));
typedef uint32_t u32_line __attribute__((vector_size(LINE)));
typedef int64_t i64_line __attribute__((vector_size(LINE)));
typedef uint16_t bf16_line __attribute__((vector_size(LINE)));
typedef uint32_t wide_line __attribute__((vector_size(2 * LINE)));
typedef float wide_floats __attribute__((vector_size(2 * LINE)));
typedef int32_t wide_mask __attribute__((vector_size(2 * LINE)));

// Bits of y where the mask is set, else of x.
#define CHOOSE(mask, type, bits, y, x) ((type)(((bits)(mask) & (bits)(y)) | (~(bits)(mask) & (bits)(x))))
#define SMALLER(type, bits) CHOOSE(y < x, type, bits, y, x)
#define LARGER(type, bits) CHOOSE(y > x, type, bits, y, x)

// The upper halves of floats, computed as floats. Rounded to nearest even; NaN stays NaN.
#define WIDE(half) ((wide_floats)(__builtin_convertvector(half, wide_line) << 16))
#define NARROW(bits) __builtin_convertvector((bits) >> 16, bf16_line)
#define BF16_SUM_BITS ((wide_line)(WIDE(x) + WIDE(y)))
#define BF16_ROUNDED(bits)                                                                                     \
    NARROW(CHOOSE(((bits) & 0x7fffffffu) > 0x7f800000u, wide_line, wide_line, (bits) | 0x400000u,              \
                  (bits) + 0x7fffu + ((bits) >> 16 & 1)))
#define BF16_CHOSEN(compared)                                                                                  \
    NARROW(CHOOSE(compared, wide_line, wide_line, (wide_line)WIDE(y), (wide_line)WIDE(x)))

// The fingerprint: products of keyed halves (NH, from UMAC) plus the neighbour itself: a sum, so pieces may come in any
// order, and the key moves with the index, so values that change places are noticed. For accidents, not for enemies.
#define KERNELS(name, attributes)                                                                              \
    COMBINE(sum_f32, f32_line, name, attributes, x + y)                                                        \
    COMBINE(min_f32, f32_line, name, attributes, SMALLER(f32_line, i32_line))                                  \
    COMBINE(max_f32, f32_line, name, attributes, LARGER(f32_line, i32_line))                                   \
    COMBINE(sum_bf16, bf16_line, name, attributes, BF16_ROUNDED(BF16_SUM_BITS))                                \
    COMBINE(min_bf16, bf16_line, name, attributes, BF16_CHOSEN(WIDE(y) < WIDE(x)))                             \
    COMBINE(max_bf16, bf16_line, name, attributes, BF16_CHOSEN(WIDE(y) > WIDE(x)))                             \
    COMBINE(sum_f64, f64_line, name, attributes, x + y)                                                        \
    COMBINE(min_f64, f64_line, name, attributes, SMALLER(f64_line, i64_line))                                  \
    COMBINE(max_f64, f64_line, name, attributes, LARGER(f64_line, i64_line))                                   \
    COMBINE(sum_i32, u32_line, name, attributes, x + y)                                                        \
    COMBINE(min_i32, i32_line, name, attributes, SMALLER(i32_line, i32_line))                                  \
    COMBINE(max_i32, i32_line, name, attributes, LARGER(i32_line, i32_line))                                   \
    static combine *const combines_##name[4][3] = {{sum_f32_##name, min_f32_##name, max_f32_##name},           \
                                                   {sum_bf16_##name, min_bf16_##name, max_bf16_##name},        \
                                                   {sum_f64_##name, min_f64_##name, max_f64_##name},           \
                                                   {sum_i32_##name, min_i32_##name, max_i32_##name}};          \
    attributes static void fingerprint_##name(                                                                 \
        uint64_t accumulators[8], uint8_t *copy, const uint8_t *values, uint64_t first, size_t count) {        \
        const words keys = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu, 0xd6e8feb86659fd93u, \
                            0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u}; \
        const uint64_t step = 0x9fb21c651e98df25u;                                                             \
        uint64_t turn = (first / LINE + 1) * step;                                                             \
        words sum, value;                                                                                      \
        memcpy(&sum, accumulators, sizeof sum);                                                                \
        while (count > 0) {                                                                                    \
            size_t n = count < LINE ? count : LINE;                                                            \
            if (n == LINE) {                                                                                   \
                memcpy(&value, values, sizeof value);                                                          \
                if (copy) memcpy(copy, &value, sizeof value);                                                  \
            } else {                                                                                           \
                uint8_t last[LINE] = {0};                                                                      \
                memcpy(last, values, n);                                                                       \
                if (copy) memcpy(copy, last, n);                                                               \
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

typedef void combine(void *target, const void *a, const void *b, size_t count);

// Out of line, so that no addition moves across a change of mode.
#define OUT_OF_LINE __attribute__((noinline))
KERNELS(plain, OUT_OF_LINE)
#if defined(__x86_64__)
KERNELS(avx2, OUT_OF_LINE __attribute__((target("avx2"))))
KERNELS(avx512, OUT_OF_LINE __attribute__((target("avx512f,avx512dq,avx512bw"))))
#endif

#if defined(__x86_64__)
// The widest vectors of this CPU: 0 plain, 1 AVX2, 2 AVX-512.
static int width(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
}

#define PICK(what) (width() == 2 ? what##_avx512 : width() == 1 ? what##_avx2 : what##_plain)
#else
#define PICK(what) what##_plain
#endif

void coord_copy_fingerprint(
    uint64_t accumulators[8], void *target, const void *values, uint64_t first, size_t count) {
    PICK(fingerprint)(accumulators, target, values, first, count);
}

void coord_fingerprint(uint64_t accumulators[8], const void *values, uint64_t first, size_t count) {
    coord_copy_fingerprint(accumulators, NULL, values, first, count);
}

// MARK: Trees

int coord_combine_tree(
    int type, int reduction, const void *const *leaves, const int16_t *program, size_t program_count,
    void *target, size_t count, uint64_t mode, uint64_t accumulators[8], uint64_t first) {
    static const size_t sizes[] = {4, 2, 8, 4};
    if (type < 0 || type > 3 || reduction < 0 || reduction > 2) return -1;
    combine *step = PICK(combines)[type][reduction];
    char scratch[DEPTH][BLOCK] __attribute__((aligned(LINE)));
    const char *stack[DEPTH];
    uint64_t before = coord_float_mode();
    int result = 0;
    count *= sizes[type];
    first *= sizes[type];
    set_float_mode(mode);
    for (size_t start = 0; start < count && result == 0; start += BLOCK) {
        size_t n = count - start < BLOCK ? count - start : BLOCK;
        char *end = (char *)target + start;
        int depth = 0;
        for (size_t i = 0; i < program_count; i++) {
            if (program[i] >= 0) {
                if (depth == DEPTH) { result = -1; break; }
                stack[depth++] = (const char *)leaves[program[i]] + start;
            } else {
                if (depth < 2) { result = -1; break; }
                depth--;
                char *place = i + 1 == program_count ? end : scratch[depth - 1];
                step(place, stack[depth - 1], stack[depth], n);
                stack[depth - 1] = place;
            }
        }
        if (result == 0 && depth != 1) result = -1;
        if (result == 0 && stack[0] != end) memmove(end, stack[0], n);
        if (result == 0) coord_fingerprint(accumulators, end, first + start, n);
    }
    set_float_mode(before);
    return result;
}
