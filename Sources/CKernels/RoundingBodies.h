// Numbers rounded to bfloat16 as products read them, and products of panels of such. Included after TileBodies.h.
//
// A product of two bfloat16 is exact in single precision, so each number is a chain of plain additions along the contraction
// in its order, continued from what c held: the same bits with and without fused multiply-add, and with
// AVX512-BF16, whose instruction adds the upper halves' product before the lower halves'.

#if COORD_PAIRS
// Sixteen words: `one` in the upper halves, `next`, the next step of the contraction, in the lower ones.
static inline void SET(rounded_store)(float *into, const coord_v16 *one, const coord_v16 *next) {
    const __m512i order = _mm512_set_epi32(
        0x001F000F, 0x001E000E, 0x001D000D, 0x001C000C, 0x001B000B, 0x001A000A, 0x00190009, 0x00180008, 0x00170007,
        0x00160006, 0x00150005, 0x00140004, 0x00130003, 0x00120002, 0x00110001, 0x00100000);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)*one, (__m512)*next);
    _mm512_storeu_si512(into, _mm512_permutexvar_epi16(order, both));
}

// Eight words of two steps with eight numbers each, one behind the other.
static inline void SET(rounded_store_eights)(float *into, const coord_v16 *both, int is_one) {
    (void)is_one;
    const __m256i order = _mm256_set_epi16(7, 15, 6, 14, 5, 13, 4, 12, 3, 11, 2, 10, 1, 9, 0, 8);
    _mm256_storeu_si256((__m256i *)into, _mm256_permutexvar_epi16(order, (__m256i)_mm512_cvtneps_pbh((__m512)*both)));
}

// c: [8, 32] (+)= a: [steps, 8] transposed times b: [steps, 32].
static inline void SET(rounded_panel)(
    float *restrict c, size_t ldc, const float *restrict a, const float *restrict b, size_t steps, int adds) {
    __m512 sum[8][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = adds ? _mm512_loadu_ps(c + ldc * i + 16 * j) : _mm512_setzero_ps();
    for (size_t p = 0; p < steps; p++, a += 8, b += 32) {
        __m512bh left = (__m512bh)_mm512_loadu_ps(b), right = (__m512bh)_mm512_loadu_ps(b + 16);
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; i++) {
            __m512bh factor = (__m512bh)_mm512_set1_ps(a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], factor, left);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], factor, right);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(c + ldc * i + 16 * j, sum[i][j]);
}
#else
// To the nearest bfloat16, ties to even; a NaN stays one.
static inline void SET(rounded_store)(float *into, const coord_v16 *one, const coord_v16 *next) {
    (void)next;
    coord_u16 bits = (coord_u16)*one;
    coord_u16 near = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
    coord_u16 is_nan = (coord_u16)((bits & 0x7FFFFFFFu) > 0x7F800000u);
    COORD_INTO(into) = (coord_v16)((is_nan & ((bits | 0x00400000u) & 0xFFFF0000u)) | (~is_nan & near));
}

static inline void SET(rounded_store_eights)(float *into, const coord_v16 *both, int is_one) {
    coord_v16 r;
    SET(rounded_store)((float *)&r, both, both);
    SET(store_eights)(into, &r, is_one);
}

static inline void SET(rounded_panel)(
    float *restrict c, size_t ldc, const float *restrict a, const float *restrict b, size_t steps, int adds) {
    SET(panel)(c, ldc, a, b, steps, adds);
}
#endif
