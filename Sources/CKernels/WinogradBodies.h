// 3x3 convolutions with stride 1 and padding 1 by Winograd's F(4x4, 3x3): a tile of 4x4 outputs costs 36 multiplications
// a channel instead of 144. Included as KernelBodies.h is, and after it.
//
// Every product is a sum of fused multiply-adds along the contraction in its order, so a number's bits depend neither on
// the tiles computed beside it, nor on threads, nor on the width of the machine's vectors.
// Points 0, 1, -1, 2, -2 and infinity: Lavin & Gray 2016.

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
    // Where each four tiles begin in a plane, less their row's own pixels, and their row of tiles; -1 for none. Images
    // whose rows are multiples of 16 pixels are read in place.
    ptrdiff_t four[4];
    int four_row[4];
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

#define COORD_WINOGRAD_INPUT(t0, t1, t2, t3, t4, t5, d0, d1, d2, d3, d4, d5)        \
    do {                                                                            \
        coord_v16 even = (d4) - 4.0f * (d2), odd = (d3) - 4.0f * (d1);              \
        coord_v16 far = (d4) - (d2), near = 2.0f * ((d3) - (d1));                   \
        t0 = (4.0f * (d0) - 5.0f * (d2)) + (d4);                                    \
        t1 = even + odd;                                                            \
        t2 = even - odd;                                                            \
        t3 = far + near;                                                            \
        t4 = far - near;                                                            \
        t5 = (4.0f * (d1) - 5.0f * (d3)) + (d5);                                    \
    } while (0)

// One channel's 16 tiles of 6x6 inputs, transformed: v[6 i + j] = (B^T d B)[i][j].
static inline void SET(input_tiles)(
    coord_v16 *restrict v, const float *restrict x, const coord_winograd *s, const SET(tile_group) *g) {
    coord_v16 d[6][6];
    for (int i = 0; i < 6; i++) {
        coord_v16 e[4];
        SET(split4)(e, x, s, g, i - 1);
        coord_v16 left = __builtin_shufflevector(e[3], e[3], 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        coord_v16 right = __builtin_shufflevector(e[0], e[0], 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15);
        left = left * g->has_left;
        right = right * g->has_right;
        if (g->outer_left >= 0) {
            int y = 4 * g->row[0] + i - 1;
            if (y >= 0 && y < s->height)
                left[0] = x[((size_t)g->sample[0] * s->height + y) * s->width + g->outer_left];
        }
        if (g->outer_right >= 0 && g->outer_right < s->width) {
            int last = g->runs - 1, y = 4 * g->row[last] + i - 1;
            if (y >= 0 && y < s->height)
                right[15] = x[((size_t)g->sample[last] * s->height + y) * s->width + g->outer_right];
        }
        COORD_WINOGRAD_INPUT(d[i][0], d[i][1], d[i][2], d[i][3], d[i][4], d[i][5], left, e[0], e[1], e[2], e[3], right);
    }
    for (int j = 0; j < 6; j++)
        COORD_WINOGRAD_INPUT(
            v[j], v[6 + j], v[12 + j], v[18 + j], v[24 + j], v[30 + j], d[0][j], d[1][j], d[2][j], d[3][j], d[4][j],
            d[5][j]);
}

#define COORD_WINOGRAD_OUTPUT(y0, y1, y2, y3, m0, m1, m2, m3, m4, m5)                            \
    do {                                                                                         \
        coord_v16 plus = (m1) + (m2), minus = (m1) - (m2), wide = (m3) + (m4), step = (m3) - (m4); \
        y0 = ((m0) + plus) + wide;                                                               \
        y1 = minus + 2.0f * step;                                                                \
        y2 = plus + 4.0f * wide;                                                                 \
        y3 = (minus + 8.0f * step) + (m5);                                                       \
    } while (0)

// One filter's 16 tiles of outputs, y = A^T m A, plus the bias; m[36] lie `gap` numbers apart.
static inline void SET(output_tiles)(
    float *restrict y, const float *restrict m, size_t gap, float bias, const coord_winograd *s,
    const SET(tile_group) *g) {
    const int W = s->width, H = s->height;
    coord_v16 t[4][6], o[4];
    for (int j = 0; j < 6; j++)
        COORD_WINOGRAD_OUTPUT(
            t[0][j], t[1][j], t[2][j], t[3][j], COORD_FROM(m + j * gap), COORD_FROM(m + (6 + j) * gap),
            COORD_FROM(m + (12 + j) * gap), COORD_FROM(m + (18 + j) * gap), COORD_FROM(m + (24 + j) * gap),
            COORD_FROM(m + (30 + j) * gap));
    for (int i = 0; i < 4; i++) {
        float raw[64] __attribute__((aligned(64)));
        COORD_WINOGRAD_OUTPUT(o[0], o[1], o[2], o[3], t[i][0], t[i][1], t[i][2], t[i][3], t[i][4], t[i][5]);
        for (int j = 0; j < 4; j++) o[j] = o[j] + bias;
        SET(join4)(raw, o);
        if (W % 16 == 0) {
            for (int k = 0; k < 4; k++) {
                int row = 4 * g->four_row[k] + i;
                if (g->four_row[k] >= 0 && row < H)
                    COORD_INTO(y + g->four[k] + (ptrdiff_t)row * W) = COORD_FROM(raw + 16 * k);
            }
            continue;
        }
        for (int r = 0; r < g->runs; r++) {
            int row = 4 * g->row[r] + i, from = 4 * g->column[r], count = 4 * g->count[r];
            if (row >= H) continue;
            if (count > W - from) count = W - from;
            float *into = y + ((size_t)g->sample[r] * H + row) * W + from;
            const float *own = raw + 4 * g->at[r];
            for (int j = 0; j < count;) {
                if (count - j >= 16) {
                    COORD_INTO(into + j) = COORD_FROM(own + j);
                    j += 16;
                } else if (count - j >= 8) {
                    *(coord_v8_near *)(into + j) = *(const coord_v8_near *)(own + j);
                    j += 8;
                } else if (count - j >= 4) {
                    *(coord_v4_near *)(into + j) = *(const coord_v4_near *)(own + j);
                    j += 4;
                } else {
                    into[j] = own[j];
                    j += 1;
                }
                COORD_NO_CALL;
            }
        }
    }
}

// One filter's 16 tiles of 4x4 output gradients for the gradient of the filters: v[6 i + j] = (A d A^T)[i][j].
static inline void SET(gradient_tiles)(
    coord_v16 *restrict v, const float *restrict dy, const coord_winograd *s, const SET(tile_group) *g) {
    coord_v16 d[4][6];
    for (int i = 0; i < 4; i++) {
        coord_v16 e[4];
        SET(split4)(e, dy, s, g, i);
        coord_v16 even = e[0] + e[2], odd = e[1] + e[3];
        coord_v16 wide = e[0] + 4.0f * e[2], step = 2.0f * e[1] + 8.0f * e[3];
        d[i][0] = e[0];
        d[i][1] = even + odd;
        d[i][2] = even - odd;
        d[i][3] = wide + step;
        d[i][4] = wide - step;
        d[i][5] = e[3];
    }
    for (int j = 0; j < 6; j++) {
        coord_v16 even = d[0][j] + d[2][j], odd = d[1][j] + d[3][j];
        coord_v16 wide = d[0][j] + 4.0f * d[2][j], step = 2.0f * d[1][j] + 8.0f * d[3][j];
        v[j] = d[0][j];
        v[6 + j] = even + odd;
        v[12 + j] = even - odd;
        v[18 + j] = wide + step;
        v[24 + j] = wide - step;
        v[30 + j] = d[3][j];
    }
}

// u: [36, rows / 8, columns, 8]: U = G g G^T of the row blocks begin ..< end. Rows are filters and columns channels; turned,
// for the gradient at the input, rows are channels, columns filters, and each 3x3 is read from its end.
static void SET(winograd_filters)(
    float *restrict u, const float *restrict w, const coord_winograd *s, int32_t turned, int32_t begin, int32_t end) {
    const int rows = turned ? s->channels : s->filters, columns = turned ? s->filters : s->channels;
    const size_t row_step = turned ? 9 : 9 * (size_t)s->channels, column_step = turned ? 9 * (size_t)s->channels : 9;
    const size_t blocks = (rows + 7) / 8, gap = blocks * columns * 8;
    for (int block = begin; block < end; block++)
        for (int first = 0; first < columns; first += 2) {
            float g[9][16] __attribute__((aligned(64)));
            int pair = columns - first < 2 ? 1 : 2;
            for (int lane = 0; lane < 16; lane++) {
                int row = 8 * block + lane % 8, column = first + lane / 8;
                if (row < rows && column < columns) {
                    const float *own = w + row * row_step + column * column_step;
                    if (turned)
                        for (int j = 0; j < 9; j++) g[j][lane] = own[8 - j];
                    else
                        for (int j = 0; j < 9; j++) g[j][lane] = own[j];
                } else
                    for (int j = 0; j < 9; j++) g[j][lane] = 0;
            }
            coord_v16 t[6][3];
            for (int j = 0; j < 3; j++) {
                coord_v16 a = COORD_FROM(g[j]), b = COORD_FROM(g[3 + j]), c = COORD_FROM(g[6 + j]);
                coord_v16 sum = (a + c) * (-1.0f / 6.0f), middle = b * (1.0f / 6.0f);
                coord_v16 far = a * (1.0f / 24.0f) + c * (1.0f / 6.0f), half = b * (1.0f / 12.0f);
                t[0][j] = a * 0.25f;
                t[1][j] = sum - middle;
                t[2][j] = sum + middle;
                t[3][j] = far + half;
                t[4][j] = far - half;
                t[5][j] = c;
            }
            float *into = u + ((size_t)block * columns + first) * 8;
            for (int i = 0; i < 6; i++) {
                coord_v16 a = t[i][0], b = t[i][1], c = t[i][2], o[6];
                coord_v16 sum = (a + c) * (-1.0f / 6.0f), middle = b * (1.0f / 6.0f);
                coord_v16 far = a * (1.0f / 24.0f) + c * (1.0f / 6.0f), half = b * (1.0f / 12.0f);
                o[0] = a * 0.25f;
                o[1] = sum - middle;
                o[2] = sum + middle;
                o[3] = far + half;
                o[4] = far - half;
                o[5] = c;
                for (int j = 0; j < 6; j++) {
                    float *place = into + (6 * i + j) * gap;
                    if (pair == 2)
                        COORD_INTO(place) = o[j];
                    else
                        memcpy(place, &o[j], 32);
                }
            }
        }
}

// y: [filters, B, H, W] of the blocks of tiles begin ..< end, from x: [channels, B, H, W] and u of winograd_filters.
static void SET(winograd_forward)(
    float *y, const float *x, const float *u, const float *bias, const coord_winograd *s, int32_t begin, int32_t end,
    float *scratch) {
    const size_t channels = s->channels, filters = s->filters, plane = (size_t)s->samples * s->height * s->width;
    const size_t tiles = coord_winograd_tiles(s), block = coord_winograd_block(s), rows = (filters + 7) / 8;
    const size_t panels = block / 32, gap_v = panels * channels * 32, gap_m = panels * rows * 8 * 32;
    float *v = scratch, *m = v + 36 * gap_v;
    for (int at = begin; at < end; at++) {
        size_t first = at * block, here = tiles - first < block ? tiles - first : block, wide = (here + 31) / 32;
        for (size_t group = 0; group < 2 * wide; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            float *into = v + group / 2 * channels * 32 + group % 2 * 16;
            for (size_t c = 0; c < channels; c++) {
                coord_v16 t[36];
                SET(input_tiles)(t, x + c * plane, s, &g);
                for (int p = 0; p < 36; p++) COORD_INTO(into + p * gap_v + c * 32) = t[p];
            }
        }
        for (size_t p = 0; p < 36; p++)
            for (size_t row = 0; row < rows; row++)
                for (size_t panel = 0; panel < wide; panel++)
                    SET(panel)(
                        m + p * gap_m + (panel * rows + row) * 8 * 32, 32, u + (p * rows + row) * channels * 8,
                        v + p * gap_v + panel * channels * 32, channels, 0);
        for (size_t group = 0; group < 2 * wide && first + 16 * group < tiles; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            for (size_t f = 0; f < filters; f++)
                SET(output_tiles)(
                    y + f * plane, m + group / 2 * rows * 8 * 32 + f * 32 + group % 2 * 16, gap_m, bias ? bias[f] : 0,
                    s, &g);
        }
    }
}

// dw: [filters, channels, 3, 3] = the gradient of the 16-blocks of filters begin ..< end.
static void SET(winograd_weights)(
    float *restrict dw, const float *restrict x, const float *restrict dy, const coord_winograd *s, int32_t begin,
    int32_t end, float *restrict scratch) {
    const size_t channels = s->channels, filters = s->filters, plane = (size_t)s->samples * s->height * s->width;
    const size_t tiles = coord_winograd_tiles(s), block = coord_winograd_block(s);
    const size_t wide = (channels + 31) / 32, own = end - begin;
    // v: [36, wide, block, 32]; d: [36, 2 own, block, 8]; sum: [36, 16 own, 32 wide].
    const size_t gap_v = wide * block * 32, gap_d = own * block * 16, width = wide * 32, gap_sum = own * 16 * width;
    float *v = scratch, *d = v + 36 * gap_v, *sum = d + 36 * gap_d;
    for (size_t first = 0; first < tiles; first += block) {
        size_t here = tiles - first < block ? (tiles - first + 15) / 16 * 16 : block;
        for (size_t group = 0; group < here / 16; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            coord_v16 t[16][36];
            for (size_t c = 0; c < 2 * wide; c++) {
                for (size_t i = 0; i < 16; i++) {
                    if (16 * c + i < channels)
                        SET(input_tiles)(t[i], x + (16 * c + i) * plane, s, &g);
                    else
                        for (int p = 0; p < 36; p++) t[i][p] = (coord_v16){0};
                }
                float *into = v + (c / 2 * block + 16 * group) * 32 + c % 2 * 16;
                for (int p = 0; p < 36; p++) {
                    coord_v16 r[16];
                    for (int i = 0; i < 16; i++) r[i] = t[i][p];
                    SET(transpose16)(r);
                    for (int i = 0; i < 16; i++) COORD_INTO(into + p * gap_v + i * 32) = r[i];
                }
            }
            for (size_t f = 0; f < own; f++) {
                for (size_t i = 0; i < 16; i++) {
                    if (16 * (begin + f) + i < filters)
                        SET(gradient_tiles)(t[i], dy + (16 * (begin + f) + i) * plane, s, &g);
                    else
                        for (int p = 0; p < 36; p++) t[i][p] = (coord_v16){0};
                }
                float *into = d + (2 * f * block + 16 * group) * 8;
                for (int p = 0; p < 36; p++) {
                    coord_v16 r[16];
                    for (int i = 0; i < 16; i++) r[i] = t[i][p];
                    SET(transpose16)(r);
                    for (int i = 0; i < 16; i++) {
                        memcpy(into + p * gap_d + i * 8, &r[i], 32);
                        memcpy(into + p * gap_d + (block + i) * 8, (const float *)&r[i] + 8, 32);
                    }
                }
            }
        }
        for (size_t p = 0; p < 36; p++)
            for (size_t row = 0; row < 2 * own; row++)
                for (size_t c = 0; c < wide; c++)
                    SET(panel)(
                        sum + p * gap_sum + row * 8 * width + c * 32, width, d + p * gap_d + row * block * 8,
                        v + p * gap_v + c * block * 32, here, first > 0);
    }
    // dg = G^T dU G
    for (size_t f = 0; f < own * 16 && 16 * begin + f < filters; f++)
        for (size_t c = 0; c < channels; c += 16) {
            const float *from = sum + f * width + c;
            coord_v16 t[3][6];
            float g[9][16] __attribute__((aligned(64)));
            for (int j = 0; j < 6; j++) {
                coord_v16 m[6];
                for (int i = 0; i < 6; i++) m[i] = COORD_FROM(from + (6 * i + j) * gap_sum);
                coord_v16 near = m[1] + m[2], far = m[3] + m[4];
                t[0][j] = (m[0] * 0.25f - near * (1.0f / 6.0f)) + far * (1.0f / 24.0f);
                t[1][j] = (m[2] - m[1]) * (1.0f / 6.0f) + (m[3] - m[4]) * (1.0f / 12.0f);
                t[2][j] = ((far - near) * (1.0f / 6.0f)) + m[5];
            }
            for (int i = 0; i < 3; i++) {
                coord_v16 *m = t[i];
                coord_v16 near = m[1] + m[2], far = m[3] + m[4];
                COORD_INTO(g[3 * i]) = (m[0] * 0.25f - near * (1.0f / 6.0f)) + far * (1.0f / 24.0f);
                COORD_INTO(g[3 * i + 1]) = (m[2] - m[1]) * (1.0f / 6.0f) + (m[3] - m[4]) * (1.0f / 12.0f);
                COORD_INTO(g[3 * i + 2]) = ((far - near) * (1.0f / 6.0f)) + m[5];
            }
            size_t count = channels - c < 16 ? channels - c : 16;
            float *into = dw + ((16 * begin + f) * channels + c) * 9;
            for (size_t i = 0; i < count; i++)
                for (int j = 0; j < 9; j++) into[9 * i + j] = g[j][i];
        }
}
