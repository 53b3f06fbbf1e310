// Products of matrices. Included after TileBodies.h, and once more after RoundingBodies.h for operands rounded to bfloat16.
//
// Each number is a chain of fused multiply-adds along the contraction in its order, continued from what c held: its bits depend on
// its row and column alone, not on the call.

// v[i] = 16 neighbours of the outer index at place `first + i` of the contraction; what lies outside is 0.
static inline void COORD_WAY(take16)(
    coord_v16 *v, const float *x, size_t ld, int is_contraction_major, size_t outer, size_t outers, size_t first,
    size_t k) {
    const size_t row = is_contraction_major ? first : outer, rows = is_contraction_major ? k : outers;
    const size_t column = is_contraction_major ? outer : first, columns = is_contraction_major ? outers : k;
    const size_t inside = row < rows ? rows - row : 0, wide = column < columns ? columns - column : 0;
    for (size_t i = 0; i < 16; i++) {
        const float *from = x + (row + i) * ld + column;
        if (i < inside && wide >= 16)
            v[i] = COORD_FROM(from);
        else {
            v[i] = (coord_v16){0};
            for (size_t j = 0; i < inside && j < wide; j++) v[i][j] = from[j];
        }
    }
    if (!is_contraction_major) SET(transpose16)(v);
}

// Panels [outers / width, steps, width].
static void COORD_WAY(pack)(
    float *into, const float *x, size_t ld, int is_contraction_major, size_t outers, size_t k, size_t width) {
    const size_t steps = (k + COORD_STEP - 1) / COORD_STEP;
    for (size_t outer = 0; outer < outers; outer += 16)
        for (size_t first = 0; first < k; first += 16) {
            coord_v16 v[16];
            COORD_WAY(take16)(v, x, ld, is_contraction_major, outer, outers, first, k);
            const size_t own = k - first < 16 ? k - first : 16;
            float *place = into + (outer / width * steps + first / COORD_STEP) * width + outer % width;
            for (size_t i = 0; i < own; i += COORD_STEP, place += width) {
                if (width == 8) {
                    float both[16];
                    COORD_WAY(store)(both, &v[i], &v[i + COORD_STEP - 1]);
                    memcpy(place, both, 32);
                    memcpy(place + steps * 8, both + 8, 32);
                } else
                    COORD_WAY(store)(place, &v[i], &v[i + COORD_STEP - 1]);
            }
        }
}

// c: [m, n] = a · b, or c + a · b.
static void COORD_WAY(product)(
    float *c, size_t ldc, const float *a, size_t lda, int32_t is_a_turned, const float *b, size_t ldb,
    int32_t is_b_turned, size_t m, size_t n, size_t k, int32_t adds, float *scratch) {
    const size_t steps = (k + COORD_STEP - 1) / COORD_STEP;
    float *left = scratch, *right = left + (m + 15) / 16 * 16 * steps;
    COORD_WAY(pack)(left, a, lda, is_a_turned, m, k, 8);
    COORD_WAY(pack)(right, b, ldb, !is_b_turned, n, k, 32);
    for (size_t column = 0; column < n; column += 32)
        for (size_t row = 0; row < m; row += 8) {
            const size_t rows = m - row < 8 ? m - row : 8, columns = n - column < 32 ? n - column : 32;
            const float *own = left + row / 8 * steps * 8, *across = right + column / 32 * steps * 32;
            float *place = c + row * ldc + column;
            if (rows == 8 && columns == 32) {
                COORD_WAY(panel)(place, ldc, own, across, steps, adds);
                continue;
            }
            float tile[8 * 32] __attribute__((aligned(64)));
            for (size_t i = 0; adds && i < rows; i++)
                for (size_t j = 0; j < columns; j++) tile[32 * i + j] = place[i * ldc + j];
            COORD_WAY(panel)(tile, 32, own, across, steps, adds);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < columns; j++) place[i * ldc + j] = tile[32 * i + j];
        }
}
