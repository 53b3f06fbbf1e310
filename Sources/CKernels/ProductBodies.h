// Products of operands rounded to bfloat16, summed in single precision. Included as KernelBodies.h is, after
// WinogradBodies.h.
//
// A product of two bfloat16 is exact in single precision, so each number is a chain of plain additions along the contraction
// in its order, continued from what c held: the same bits with and without fused multiply-add, and with
// AVX512-BF16, whose instruction adds the upper halves' product before the lower halves'.

#ifndef COORD_PAIRS
#define COORD_PAIRS 0
#endif

// To the nearest bfloat16, ties to even; a NaN stays one.
static inline void SET(rounded)(coord_u16 *r, const coord_v16 *x) {
    coord_u16 bits = (coord_u16)*x;
    coord_u16 near = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
    coord_u16 is_nan = (coord_u16)((bits & 0x7FFFFFFFu) > 0x7F800000u);
    *r = (is_nan & ((bits | 0x00400000u) & 0xFFFF0000u)) | (~is_nan & near);
}

// r[i], i < 16, = 16 neighbours of the outer index at place `first + i` of the contraction, rounded; what lies outside is 0.
static inline void SET(take16)(
    coord_u16 *r, const float *x, size_t ld, int is_contraction_major, size_t outer, size_t outers, size_t first,
    size_t k) {
    coord_v16 v[16];
    const int is_whole = outer + 16 <= outers && first + 16 <= k;
    if (is_contraction_major) {
        for (size_t i = 0; i < 16; i++) {
            if (is_whole)
                v[i] = COORD_FROM(x + (first + i) * ld + outer);
            else {
                v[i] = (coord_v16){0};
                for (size_t j = 0; first + i < k && j < 16 && outer + j < outers; j++)
                    v[i][j] = x[(first + i) * ld + outer + j];
            }
        }
    } else {
        for (size_t i = 0; i < 16; i++) {
            if (is_whole)
                v[i] = COORD_FROM(x + (outer + i) * ld + first);
            else {
                v[i] = (coord_v16){0};
                for (size_t j = 0; outer + i < outers && j < 16 && first + j < k; j++)
                    v[i][j] = x[(outer + i) * ld + first + j];
            }
        }
        SET(transpose16)(v);
    }
    for (int i = 0; i < 16; i++) SET(rounded)(&r[i], &v[i]);
}

// Panels [outers / width, k, width]; two neighbours of the contraction in one word where COORD_PAIRS.
static void SET(pack)(
    uint32_t *into, const float *x, size_t ld, int is_contraction_major, size_t outers, size_t k, size_t width) {
    const size_t steps = COORD_PAIRS ? (k + 1) / 2 : k;
    for (size_t outer = 0; outer < outers; outer += 16)
        for (size_t first = 0; first < k; first += 16) {
            coord_u16 r[16];
            SET(take16)(r, x, ld, is_contraction_major, outer, outers, first, k);
            const size_t own = COORD_PAIRS ? (k - first + 1) / 2 : k - first, most = COORD_PAIRS ? 8 : 16;
            for (size_t i = 0; i < own && i < most; i++) {
                coord_u16 word = COORD_PAIRS ? (r[2 * i] & 0xFFFF0000u) | (r[2 * i + 1] >> 16) : r[i];
                size_t step = (COORD_PAIRS ? first / 2 : first) + i;
                if (width == 8) {
                    uint32_t *place = into + (outer / 8 * steps + step) * 8;
                    memcpy(place, &word, 32);
                    memcpy(place + steps * 8, (const uint32_t *)&word + 8, 32);
                } else
                    memcpy(into + (outer / 32 * steps + step) * 32 + outer % 32, &word, 64);
            }
        }
}

static inline void SET(product_panel)(
    float *restrict c, const uint32_t *restrict a, const uint32_t *restrict b, size_t steps) {
#if COORD_PAIRS
    __m512 sum[8][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = _mm512_loadu_ps(c + 32 * i + 16 * j);
    for (size_t p = 0; p < steps; p++, a += 8, b += 32) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(b), right = (__m512bh)_mm512_loadu_si512(b + 16);
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
            __m512bh factor = (__m512bh)_mm512_set1_epi32((int)a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], factor, left);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], factor, right);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(c + 32 * i + 16 * j, sum[i][j]);
#else
    SET(panel)(c, 32, (const float *)a, (const float *)b, steps, 1);
#endif
}

// c: [m, n] = a · b, or c + a · b.
static void SET(product)(
    float *c, size_t ldc, const float *a, size_t lda, int32_t is_a_turned, const float *b, size_t ldb,
    int32_t is_b_turned, size_t m, size_t n, size_t k, int32_t adds, float *scratch) {
    const size_t steps = COORD_PAIRS ? (k + 1) / 2 : k;
    uint32_t *left = (uint32_t *)scratch, *right = left + (m + 15) / 16 * 16 * steps;
    SET(pack)(left, a, lda, is_a_turned, m, k, 8);
    SET(pack)(right, b, ldb, !is_b_turned, n, k, 32);
    for (size_t column = 0; column < n; column += 32)
        for (size_t row = 0; row < m; row += 8) {
            float tile[8 * 32] __attribute__((aligned(64)));
            const size_t rows = m - row < 8 ? m - row : 8, columns = n - column < 32 ? n - column : 32;
            float *place = c + row * ldc + column;
            for (size_t i = 0; i < 8; i++)
                for (size_t j = 0; j < 32; j++)
                    tile[32 * i + j] = adds && i < rows && j < columns ? place[i * ldc + j] : 0;
            SET(product_panel)(tile, left + row / 8 * steps * 8, right + column / 32 * steps * 32, steps);
            if (columns == 32)
                for (size_t i = 0; i < rows; i++) {
                    COORD_INTO(place + i * ldc) = COORD_FROM(tile + 32 * i);
                    COORD_INTO(place + i * ldc + 16) = COORD_FROM(tile + 32 * i + 16);
                }
            else
                for (size_t i = 0; i < rows; i++)
                    for (size_t j = 0; j < columns; j++) place[i * ldc + j] = tile[32 * i + j];
        }
}
