// Tiles of 4x4 pixels and the product of panels, for WinogradBodies.h and for other products. Included after KernelBodies.h.

// Keeps the compiler from making a call of a loop that copies a few numbers.
#define COORD_NO_CALL __asm__ volatile("")
// All bits of the first `count` of sixteen numbers.
#define COORD_FIRST(count) (*(const coord_u16_near *)(coord_sixteen_ones + 16 - (count)))
#define COORD_FROM(pointer) (*(const coord_v16_near *)(pointer))
#define COORD_INTO(pointer) (*(coord_v16_near *)(pointer))

// c: [8, 32] (+)= a: [k, 8] transposed times b: [k, 32], in pieces whose sums stay in registers.
static inline void SET(panel)(
    float *restrict c, size_t ldc, const float *restrict a, const float *restrict b, size_t k, int adds) {
    for (int row = 0; row < 8; row += COORD_PANEL_ROWS)
        for (int column = 0; column < 2; column += COORD_PANEL_VECTORS) {
            coord_v16 sum[COORD_PANEL_ROWS][COORD_PANEL_VECTORS];
#pragma clang loop unroll(full)
            for (int i = 0; i < COORD_PANEL_ROWS; i++)
#pragma clang loop unroll(full)
                for (int j = 0; j < COORD_PANEL_VECTORS; j++)
                    sum[i][j] = adds ? COORD_FROM(c + (row + i) * ldc + 16 * (column + j)) : (coord_v16){0};
            const float *left = a + row, *right = b + 16 * column;
            for (size_t p = 0; p < k; p++, left += 8, right += 32) {
#pragma clang loop unroll(full)
                for (int i = 0; i < COORD_PANEL_ROWS; i++) {
                    coord_v16 factor = (coord_v16){0} + left[i];
#pragma clang loop unroll(full)
                    for (int j = 0; j < COORD_PANEL_VECTORS; j++)
                        sum[i][j] = COORD_FMA(factor, COORD_FROM(right + 16 * j), sum[i][j]);
                }
            }
#pragma clang loop unroll(full)
            for (int i = 0; i < COORD_PANEL_ROWS; i++)
#pragma clang loop unroll(full)
                for (int j = 0; j < COORD_PANEL_VECTORS; j++)
                    COORD_INTO(c + (row + i) * ldc + 16 * (column + j)) = sum[i][j];
        }
}

// Sixteen numbers of one step of the contraction, as panels hold them; what rounds holds two steps in one.
static inline void SET(store)(float *into, const coord_v16 *one, const coord_v16 *next) {
    (void)next;
    COORD_INTO(into) = *one;
}

// Two steps of eight numbers, or one.
static inline void SET(store_eights)(float *into, const coord_v16 *both, int is_one) {
    if (is_one)
        memcpy(into, both, 32);
    else
        COORD_INTO(into) = *both;
}

// Rows and columns exchanged.
static inline void SET(transpose16)(coord_v16 *r) {
    for (int i = 0; i < 8; i++) {
        coord_v16 a = r[i], b = r[i + 8];
        r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        r[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (int h = 0; h < 16; h += 8)
        for (int i = h; i < h + 4; i++) {
            coord_v16 a = r[i], b = r[i + 4];
            r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
            r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        }
    for (int h = 0; h < 16; h += 4)
        for (int i = h; i < h + 2; i++) {
            coord_v16 a = r[i], b = r[i + 2];
            r[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            r[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        }
    for (int i = 0; i < 16; i += 2) {
        coord_v16 a = r[i], b = r[i + 1];
        r[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        r[i + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    }
}

// Sixteen neighbouring tiles, numbered along rows, then down an image, then from image to image.
typedef struct {
    // Runs of tiles of one row of tiles: the first one's place among the 16, how many, sample, row and column of tiles.
    int runs, at[16], count[16], sample[16], row[16], column[16];
    // 1 where the pixel left (right) of a tile is the neighbouring tile's, 0 where it is padding.
    coord_v16 has_left, has_right;
    // Where each four tiles begin in a plane, less their row's own pixels, and their row of tiles (-1 for none) and column.
    // Images with a multiple of four tiles a row are read in place.
    ptrdiff_t four[4];
    int four_row[4], four_column[4];
    // Where the pixel beside the sixteen lies in its row; -1 for padding.
    int outer_left, outer_right;
} SET(tile_group);

static inline SET(tile_group) SET(group_at)(const coord_winograd *s, int first) {
    SET(tile_group) g;
    const int columns = (s->width + 3) / 4, rows = (s->height + 3) / 4, tiles = s->samples * rows * columns;
    float left[16], right[16];
    g.runs = 0;
    g.outer_left = g.outer_right = -1;
    for (int lane = 0; lane < 16; lane++) {
        int t = first + lane, x = t % columns;
        int is_tile = t < tiles;
        left[lane] = is_tile && lane > 0 && x > 0;
        right[lane] = is_tile && lane < 15 && x < columns - 1;
        if (lane % 4 == 0) {
            g.four_row[lane / 4] = is_tile ? t / columns % rows : -1;
            g.four_column[lane / 4] = 4 * x;
            g.four[lane / 4] = (ptrdiff_t)(t / columns / rows) * s->height * s->width + 4 * x;
        }
        if (!is_tile) continue;
        if (lane == 0 && x > 0) g.outer_left = 4 * x - 1;
        if (lane == 15 && x < columns - 1) g.outer_right = 4 * x + 4;
        if (lane == 0 || x == 0) {
            g.at[g.runs] = lane;
            g.count[g.runs] = 0;
            g.sample[g.runs] = t / columns / rows;
            g.row[g.runs] = t / columns % rows;
            g.column[g.runs] = x;
            g.runs++;
        }
        g.count[g.runs - 1]++;
    }
    g.has_left = COORD_FROM(left);
    g.has_right = COORD_FROM(right);
    return g;
}

// Row `i` of the tiles' inputs, from one above the tile (or from its first, when `above` is 0): 64 pixels, 4 a tile.
// `raw` has room for 16 more: a run may write over its end, where the next one begins.
static inline void SET(take_row)(
    float *restrict raw, const float *restrict x, const coord_winograd *s, const SET(tile_group) *g, int i) {
    const int W = s->width, H = s->height;
    const ptrdiff_t end = (ptrdiff_t)s->samples * H * W;
    int filled = 0;
    for (int r = 0; r < g->runs; r++) {
        int y = 4 * g->row[r] + i, from = 4 * g->column[r], count = 4 * g->count[r];
        float *into = raw + 4 * g->at[r];
        int inside = y < 0 || y >= H ? 0 : W - from < count ? W - from : count;
        const ptrdiff_t at = ((ptrdiff_t)g->sample[r] * H + (inside ? y : 0)) * W + from;
        for (int j = 0; j < count; j += 16) {
            int left = inside - j < 0 ? 0 : inside - j > 16 ? 16 : inside - j;
            if (at + j + 16 <= end)
                COORD_INTO(into + j) = (coord_v16)((coord_u16)COORD_FROM(x + at + j) & COORD_FIRST(left));
            else
                for (int n = 0; n < 16; n++) {
                    into[j + n] = n < left ? x[at + j + n] : 0;
                    COORD_NO_CALL;
                }
        }
        filled = 4 * g->at[r] + count;
    }
    for (int n = filled; n < 64; n++) {
        raw[n] = 0;
        COORD_NO_CALL;
    }
}

// As take_row for images of 8 or 4 pixels a row, whole tiles all: without a way through memory.
static inline void SET(take_short_rows)(
    coord_v16 *four, const float *restrict x, const coord_winograd *s, const SET(tile_group) *g, int i) {
    const int H = s->height;
    if (s->width == 8) {
        coord_v8 part[8];
        for (int r = 0; r < 8; r++) {
            int y = r < g->runs ? 4 * g->row[r] + i : -1;
            part[r] = y < 0 || y >= H ? (coord_v8){0}
                                      : *(const coord_v8_near *)(x + ((ptrdiff_t)g->sample[r] * H + y) * 8);
        }
        for (int k = 0; k < 4; k++)
            four[k] = __builtin_shufflevector(
                part[2 * k], part[2 * k + 1], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    } else {
        for (int k = 0; k < 4; k++) {
            coord_v4 part[4];
            for (int n = 0; n < 4; n++) {
                int r = 4 * k + n, y = r < g->runs ? 4 * g->row[r] + i : -1;
                part[n] = y < 0 || y >= H ? (coord_v4){0}
                                          : *(const coord_v4_near *)(x + ((ptrdiff_t)g->sample[r] * H + y) * 4);
            }
            coord_v8 low = __builtin_shufflevector(part[0], part[1], 0, 1, 2, 3, 4, 5, 6, 7);
            coord_v8 high = __builtin_shufflevector(part[2], part[3], 0, 1, 2, 3, 4, 5, 6, 7);
            four[k] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        }
    }
}

// The first, second, third and fourth pixel of each tile in row `i` of the tiles.
static inline void SET(split4)(
    coord_v16 *e, const float *restrict x, const coord_winograd *s, const SET(tile_group) *g, int i) {
    coord_v16 a, b, c, d;
    if (s->width % 16 == 0) {
        coord_v16 four[4];
        for (int k = 0; k < 4; k++) {
            int y = 4 * g->four_row[k] + i;
            four[k] = g->four_row[k] < 0 || y < 0 || y >= s->height
                          ? (coord_v16){0}
                          : COORD_FROM(x + g->four[k] + (ptrdiff_t)y * s->width);
        }
        a = four[0], b = four[1], c = four[2], d = four[3];
    } else if ((s->width + 3) / 4 % 4 == 0) {
        // Each four tiles lie in one row, which may end among them.
        const float *end = x + (ptrdiff_t)s->samples * s->height * s->width;
        coord_v16 four[4];
        for (int k = 0; k < 4; k++) {
            int y = 4 * g->four_row[k] + i, inside = s->width - g->four_column[k];
            if (inside > 16) inside = 16;
            four[k] = (coord_v16){0};
            if (g->four_row[k] < 0 || y < 0 || y >= s->height) continue;
            const float *from = x + g->four[k] + (ptrdiff_t)y * s->width;
            if (from + 16 <= end)
                four[k] = (coord_v16)((coord_u16)COORD_FROM(from) & COORD_FIRST(inside));
            else
                for (int n = 0; n < inside; n++) four[k][n] = from[n];
        }
        a = four[0], b = four[1], c = four[2], d = four[3];
    } else if (s->width == 8 || s->width == 4) {
        coord_v16 four[4];
        SET(take_short_rows)(four, x, s, g, i);
        a = four[0], b = four[1], c = four[2], d = four[3];
    } else {
        float raw[80] __attribute__((aligned(64)));
        SET(take_row)(raw, x, s, g, i);
        a = COORD_FROM(raw), b = COORD_FROM(raw + 16), c = COORD_FROM(raw + 32), d = COORD_FROM(raw + 48);
    }
    coord_v16 ab = __builtin_shufflevector(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    coord_v16 cd = __builtin_shufflevector(c, d, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    e[0] = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    e[1] = __builtin_shufflevector(ab, cd, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    ab = __builtin_shufflevector(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    cd = __builtin_shufflevector(c, d, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    e[2] = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    e[3] = __builtin_shufflevector(ab, cd, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

// The way back of split4.
static inline void SET(join4)(float *raw, const coord_v16 *e) {
    for (int half = 0; half < 2; half++) {
        coord_v16 a, b;
        if (half == 0) {
            a = __builtin_shufflevector(e[0], e[1], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b = __builtin_shufflevector(e[2], e[3], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        } else {
            a = __builtin_shufflevector(e[0], e[1], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            b = __builtin_shufflevector(e[2], e[3], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        COORD_INTO(raw + 32 * half) =
            __builtin_shufflevector(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
        COORD_INTO(raw + 32 * half + 16) =
            __builtin_shufflevector(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
    }
}
