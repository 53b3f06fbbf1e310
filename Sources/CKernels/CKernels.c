#include "CKernels.h"

#include <string.h>

// x passes as itself where it is no number: exponential() would clamp it, and the loss must see it.
#define COORD_EACH(expression)            \
    for (size_t i = 0; i < n; i++) {      \
        float v = x[i], r = (expression); \
        y[i] = v == v ? r : v;            \
    }                                     \
    break
#define COORD_EACH_BACKWARD(expression)   \
    for (size_t i = 0; i < n; i++) {      \
        float v = x[i];                   \
        dx[i] = dy[i] * (expression);     \
    }                                     \
    break
// Sixteen numbers, whatever the machine's own width: the compiler splits them.
typedef float coord_v16 __attribute__((vector_size(64)));
typedef uint32_t coord_u16 __attribute__((vector_size(64)));
typedef float coord_v16_near __attribute__((vector_size(64), aligned(4), may_alias));

typedef uint32_t coord_u16_near __attribute__((vector_size(64), aligned(4), may_alias));
typedef float coord_v8 __attribute__((vector_size(32)));
typedef float coord_v8_near __attribute__((vector_size(32), aligned(4), may_alias));
typedef float coord_v4 __attribute__((vector_size(16)));
typedef float coord_v4_near __attribute__((vector_size(16), aligned(4), may_alias));

static const uint32_t coord_sixteen_ones[32] = {
    ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};

// A small image with its border, taken apart by even and odd rows and columns: with stride 2 each tap then reads whole rows.
#define COORD_HALVES (21 * 21)
#define COORD_IS_HALVED(w)                                                                                         \
    ((w)->stride == 2 && (w)->dilation == 1 && ((w)->out_width == 16 || (w)->out_width == 8 || (w)->out_width == 4) && \
     (w)->height == 2 * (w)->out_height && (w)->width == 2 * (w)->out_width && (w)->kernel <= 5 &&                 \
     (w)->padding == (w)->kernel / 2 && (w)->out_height <= 16)

#define COORD_ENTRY(name, arguments, ...) .name = SET(name),

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define SET(name) name##_v2
#define COORD_FMA(a, b, c) ((a) * (b) + (c))
#define COORD_PANEL_ROWS 2
#define COORD_PANEL_VECTORS 1
#define COORD_PAIRS 0
#pragma clang attribute push(__attribute__((target("sse4.2,popcnt"))), apply_to = function)
#include "AllBodies.h"
#pragma clang attribute pop

#define SET(name) name##_v3
#define COORD_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#define COORD_PANEL_ROWS 4
#define COORD_PANEL_VECTORS 1
#define COORD_PAIRS 0
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#include "AllBodies.h"
#pragma clang attribute pop

#define SET(name) name##_v4
#define COORD_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#define COORD_PANEL_ROWS 8
#define COORD_PANEL_VECTORS 2
#define COORD_PAIRS 0
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt"))), \
    apply_to = function)
#include "AllBodies.h"
#pragma clang attribute pop

// The same bits, with AVX512-BF16 where the CPU has it.
#define SET(name) name##_v4_bf16
#define COORD_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#define COORD_PANEL_ROWS 8
#define COORD_PANEL_VECTORS 2
#define COORD_PAIRS 1
#pragma clang attribute push( \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt"))), \
    apply_to = function)
#include "AllBodies.h"
#pragma clang attribute pop

static int has_bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

const coord_kernels *coord_kernels_for(int level) {
    switch (level) {
    case 2: return &table_v2;
    case 3: return &table_v3;
    case 4: return has_bf16() ? &table_v4_bf16 : &table_v4;
    case COORD_PLAIN_V4: return &table_v4;
    default: return NULL;
    }
}

unsigned coord_float_mode_enter(void) {
    unsigned before = _mm_getcsr();
    // 0x8040: flush to zero, denormals are zero; 0x1F80: all exceptions masked, round to nearest.
    _mm_setcsr(0x1F80 | 0x8040);
    return before;
}

void coord_float_mode_leave(unsigned before) { _mm_setcsr(before); }

#else

#define SET(name) name##_generic
#if defined(__FP_FAST_FMAF)
#define COORD_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#else
#define COORD_FMA(a, b, c) ((a) * (b) + (c))
#endif
#define COORD_PANEL_ROWS 4
#define COORD_PANEL_VECTORS 1
#define COORD_PAIRS 0
#include "AllBodies.h"

const coord_kernels *coord_kernels_for(int level) { return level == 0 ? &table_generic : NULL; }

unsigned coord_float_mode_enter(void) { return 0; }

void coord_float_mode_leave(unsigned before) { (void)before; }

#endif
