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
#define COORD_ENTRY(name, arguments, ...) .name = SET(name),

#if defined(__x86_64__)
#include <immintrin.h>

#define SET(name) name##_v2
#pragma clang attribute push(__attribute__((target("sse4.2,popcnt"))), apply_to = function)
#include "KernelBodies.h"
#include "OptimizerBodies.h"
#include "LayerBodies.h"
#include "KernelTable.h"
#pragma clang attribute pop
#undef SET

#define SET(name) name##_v3
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#include "KernelBodies.h"
#include "OptimizerBodies.h"
#include "LayerBodies.h"
#include "KernelTable.h"
#pragma clang attribute pop
#undef SET

#define SET(name) name##_v4
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt"))), \
    apply_to = function)
#include "KernelBodies.h"
#include "OptimizerBodies.h"
#include "LayerBodies.h"
#include "KernelTable.h"
#pragma clang attribute pop
#undef SET

const coord_kernels *coord_kernels_for(int level) {
    switch (level) {
    case 2: return &table_v2;
    case 3: return &table_v3;
    case 4: return &table_v4;
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
#include "KernelBodies.h"
#include "OptimizerBodies.h"
#include "LayerBodies.h"
#include "KernelTable.h"
#undef SET

const coord_kernels *coord_kernels_for(int level) { return level == 0 ? &table_generic : NULL; }

unsigned coord_float_mode_enter(void) { return 0; }

void coord_float_mode_leave(unsigned before) { (void)before; }

#endif
