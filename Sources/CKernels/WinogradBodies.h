// 3x3 convolutions with stride 1 and padding 1 by Winograd's algorithm F(4x4, 3x3): a tile of 4x4 outputs costs 36 multiplications
// a channel instead of 144. Included after TileBodies.h, and once more after RoundingBodies.h with
// COORD_ROUNDS, where the operands of the products are rounded to bfloat16.
//
// Every product is a sum of fused multiply-adds along the contraction in its order, so a number's bits depend neither on
// the tiles computed beside it, nor on threads, nor on the width of the machine's vectors.
//
// Points 0, a, -a, b, -b and infinity: Lavin & Gray 2016. Exact: 1 and 2. Rounded: 3/4 and 3/2, with which half as much of the
// rounding reaches the result.

#ifdef COORD_ROUNDS
#define COORD_A 0.75f
#define COORD_B 1.5f
#else
#define COORD_A 1.0f
#define COORD_B 2.0f
#endif
#define COORD_A2 (COORD_A * COORD_A)
#define COORD_B2 (COORD_B * COORD_B)
// The reciprocals of the products of each point's distances to the others, and what comes of them.
#define COORD_0 (1.0f / (COORD_A2 * COORD_B2))
#define COORD_1 (1.0f / (2.0f * (COORD_B2 - COORD_A2)))
#define COORD_1A (1.0f / (2.0f * COORD_A * (COORD_B2 - COORD_A2)))
#define COORD_1B (1.0f / (2.0f * COORD_B * (COORD_B2 - COORD_A2)))
#define COORD_1A2 (1.0f / (2.0f * COORD_A2 * (COORD_B2 - COORD_A2)))
#define COORD_1B2 (1.0f / (2.0f * COORD_B2 * (COORD_B2 - COORD_A2)))

#define COORD_WINOGRAD_INPUT(t0, t1, t2, t3, t4, t5, d0, d1, d2, d3, d4, d5)        \
    do {                                                                            \
        coord_v16 even = (d4) - COORD_B2 * (d2), odd = COORD_A * ((d3) - COORD_B2 * (d1)); \
        coord_v16 far = (d4) - COORD_A2 * (d2), near = COORD_B * ((d3) - COORD_A2 * (d1)); \
        t0 = (COORD_A2 * COORD_B2 * (d0) - (COORD_A2 + COORD_B2) * (d2)) + (d4);    \
        t1 = even + odd;                                                            \
        t2 = even - odd;                                                            \
        t3 = far + near;                                                            \
        t4 = far - near;                                                            \
        t5 = (COORD_A2 * COORD_B2 * (d1) - (COORD_A2 + COORD_B2) * (d3)) + (d5);    \
    } while (0)

// One channel's 16 tiles of 6x6 inputs, transformed: v[6 i + j] = (B^T d B)[i][j].
static inline void COORD_WAY(input_tiles)(
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
        y1 = COORD_A * minus + COORD_B * step;                                                                \
        y2 = COORD_A2 * plus + COORD_B2 * wide;                                                                 \
        y3 = (COORD_A * COORD_A2 * minus + COORD_B * COORD_B2 * step) + (m5);                                                       \
    } while (0)

// One filter's 16 tiles of outputs, y = A^T m A, plus the bias; m[36] lie `gap` numbers apart.
static inline void COORD_WAY(output_tiles)(
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
static inline void COORD_WAY(gradient_tiles)(
    coord_v16 *restrict v, const float *restrict dy, const coord_winograd *s, const SET(tile_group) *g) {
    coord_v16 d[4][6];
    for (int i = 0; i < 4; i++) {
        coord_v16 e[4];
        SET(split4)(e, dy, s, g, i);
        coord_v16 even = e[0] + COORD_A2 * e[2], odd = COORD_A * e[1] + COORD_A * COORD_A2 * e[3];
        coord_v16 wide = e[0] + COORD_B2 * e[2], step = COORD_B * e[1] + COORD_B * COORD_B2 * e[3];
        d[i][0] = e[0];
        d[i][1] = even + odd;
        d[i][2] = even - odd;
        d[i][3] = wide + step;
        d[i][4] = wide - step;
        d[i][5] = e[3];
    }
    for (int j = 0; j < 6; j++) {
        coord_v16 even = d[0][j] + COORD_A2 * d[2][j], odd = COORD_A * d[1][j] + COORD_A * COORD_A2 * d[3][j];
        coord_v16 wide = d[0][j] + COORD_B2 * d[2][j], step = COORD_B * d[1][j] + COORD_B * COORD_B2 * d[3][j];
        v[j] = d[0][j];
        v[6 + j] = even + odd;
        v[12 + j] = even - odd;
        v[18 + j] = wide + step;
        v[24 + j] = wide - step;
        v[30 + j] = d[3][j];
    }
}

// u: [36, rows / 8, steps, 8]: U = G g G^T of the row blocks begin ..< end. Rows are filters and columns channels; turned,
// for the gradient at the input, rows are channels, columns filters, and each 3x3 is read from its end.
static void COORD_WAY(winograd_filters)(
    float *restrict u, const float *restrict w, const coord_winograd *s, int32_t turned, int32_t begin, int32_t end) {
    const int rows = turned ? s->channels : s->filters, columns = turned ? s->filters : s->channels;
    const size_t row_step = turned ? 9 : 9 * (size_t)s->channels, column_step = turned ? 9 * (size_t)s->channels : 9;
    const size_t blocks = (rows + 7) / 8, steps = (columns + COORD_STEP - 1) / COORD_STEP;
    const size_t gap = blocks * steps * 8 + COORD_APART;
    const float *end_of_w = w + (size_t)rows * columns * 9;
    for (int block = begin; block < end; block++)
        for (int first = 0; first < columns; first += 2) {
            coord_v16 g[16];
            for (int lane = 0; lane < 16; lane++) {
                int row = 8 * block + lane % 8, column = first + lane / 8;
                const float *own = w + row * row_step + column * column_step;
                g[lane] = (coord_v16){0};
                if (row >= rows || column >= columns) continue;
                if (own + 16 <= end_of_w)
                    g[lane] = COORD_FROM(own);
                else
                    memcpy(&g[lane], own, 9 * sizeof(float));
            }
            SET(transpose16)(g);
            coord_v16 t[6][3];
            for (int j = 0; j < 3; j++) {
                coord_v16 a = g[turned ? 8 - j : j], b = g[turned ? 5 - j : 3 + j], c = g[turned ? 2 - j : 6 + j];
                coord_v16 sum = (a + COORD_A2 * c) * -COORD_1A2, middle = b * COORD_1A;
                coord_v16 far = a * COORD_1B2 + c * COORD_1, half = b * COORD_1B;
                t[0][j] = a * COORD_0;
                t[1][j] = sum - middle;
                t[2][j] = sum + middle;
                t[3][j] = far + half;
                t[4][j] = far - half;
                t[5][j] = c;
            }
            float *into = u + (block * steps + first / COORD_STEP) * 8;
            for (int i = 0; i < 6; i++) {
                coord_v16 a = t[i][0], b = t[i][1], c = t[i][2], o[6];
                coord_v16 sum = (a + COORD_A2 * c) * -COORD_1A2, middle = b * COORD_1A;
                coord_v16 far = a * COORD_1B2 + c * COORD_1, half = b * COORD_1B;
                o[0] = a * COORD_0;
                o[1] = sum - middle;
                o[2] = sum + middle;
                o[3] = far + half;
                o[4] = far - half;
                o[5] = c;
                for (int j = 0; j < 6; j++)
                    COORD_WAY(store_eights)(into + (6 * i + j) * gap, &o[j], columns - first < 2);
            }
        }
}

// y: [filters, B, H, W] of the 8-blocks of filters rows_begin ..< rows_end and the blocks of tiles begin ..< end, from x:
// [channels, B, H, W] and u of winograd_filters.
static void COORD_WAY(winograd_forward)(
    float *y, const float *x, const float *u, const float *bias, const coord_winograd *s, int32_t begin, int32_t end,
    int32_t rows_begin, int32_t rows_end, float *scratch) {
    const size_t channels = s->channels, filters = s->filters, plane = (size_t)s->samples * s->height * s->width;
    const size_t tiles = coord_winograd_tiles(s), block = coord_winograd_block(s), rows = (filters + 7) / 8;
    const size_t panels = block / 32, steps = (channels + COORD_STEP - 1) / COORD_STEP;
    const size_t gap_u = rows * steps * 8 + COORD_APART, gap_v = panels * steps * 32 + COORD_APART;
    const size_t gap_m = panels * rows * 8 * 32 + COORD_APART;
    float *v = scratch, *m = v + 36 * gap_v;
    for (int at = begin; at < end; at++) {
        size_t first = at * block, here = tiles - first < block ? tiles - first : block, wide = (here + 31) / 32;
        for (size_t group = 0; group < 2 * wide; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            float *into = v + group / 2 * steps * 32 + group % 2 * 16;
            for (size_t c = 0; c < channels; c += COORD_STEP, into += 32) {
                coord_v16 t[COORD_STEP][36];
                for (size_t i = 0; i < COORD_STEP; i++) {
                    if (c + i < channels)
                        COORD_WAY(input_tiles)(t[i], x + (c + i) * plane, s, &g);
                    else
                        for (int p = 0; p < 36; p++) t[i][p] = (coord_v16){0};
                }
                for (int p = 0; p < 36; p++) COORD_WAY(store)(into + p * gap_v, &t[0][p], &t[COORD_STEP - 1][p]);
            }
        }
        for (size_t p = 0; p < 36; p++)
            for (size_t row = rows_begin; row < (size_t)rows_end; row++)
                for (size_t panel = 0; panel < wide; panel++)
                    COORD_WAY(panel)(
                        m + p * gap_m + (panel * rows + row) * 8 * 32, 32, u + p * gap_u + row * steps * 8,
                        v + p * gap_v + panel * steps * 32, steps, 0);
        for (size_t group = 0; group < 2 * wide && first + 16 * group < tiles; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            for (size_t f = 8 * (size_t)rows_begin; f < filters && f < 8 * (size_t)rows_end; f++)
                COORD_WAY(output_tiles)(
                    y + f * plane, m + group / 2 * rows * 8 * 32 + f * 32 + group % 2 * 16, gap_m, bias ? bias[f] : 0,
                    s, &g);
        }
    }
}

// dw: [filters, channels, 3, 3] = the gradient of the 16-blocks of filters begin ..< end.
static void COORD_WAY(winograd_weights)(
    float *restrict dw, const float *restrict x, const float *restrict dy, const coord_winograd *s, int32_t begin,
    int32_t end, float *restrict scratch) {
    const size_t channels = s->channels, filters = s->filters, plane = (size_t)s->samples * s->height * s->width;
    const size_t tiles = coord_winograd_tiles(s), block = coord_winograd_block(s);
    const size_t wide = (channels + 31) / 32, own = end - begin;
    const size_t steps = block / COORD_STEP, width = wide * 32;
    // v: [36, wide, steps, 32]; d: [36, 2 own, steps, 8]; sum: [36, 16 own, width].
    const size_t gap_v = wide * steps * 32 + 3 * COORD_APART, gap_d = own * steps * 16 + 3 * COORD_APART;
    const size_t gap_sum = own * 16 * width + COORD_APART;
    float *v = scratch, *d = v + 36 * gap_v, *sum = d + 36 * gap_d;
    for (size_t first = 0; first < tiles; first += block) {
        size_t here = tiles - first < block ? (tiles - first + 15) / 16 * 16 : block;
        for (size_t group = 0; group < here / 16; group++) {
            SET(tile_group) g = SET(group_at)(s, (int)(first + 16 * group));
            coord_v16 t[16][36];
            for (size_t c = 0; c < 2 * wide; c++) {
                for (size_t i = 0; i < 16; i++) {
                    if (16 * c + i < channels)
                        COORD_WAY(input_tiles)(t[i], x + (16 * c + i) * plane, s, &g);
                    else
                        for (int p = 0; p < 36; p++) t[i][p] = (coord_v16){0};
                }
                float *into = v + (c / 2 * steps + 16 / COORD_STEP * group) * 32 + c % 2 * 16;
                for (int p = 0; p < 36; p++) {
                    coord_v16 r[16];
                    for (int i = 0; i < 16; i++) r[i] = t[i][p];
                    SET(transpose16)(r);
                    for (int i = 0; i < 16; i += COORD_STEP)
                        COORD_WAY(store)(into + p * gap_v + i / COORD_STEP * 32, &r[i], &r[i + COORD_STEP - 1]);
                }
            }
            for (size_t f = 0; f < own; f++) {
                for (size_t i = 0; i < 16; i++) {
                    if (16 * (begin + f) + i < filters)
                        COORD_WAY(gradient_tiles)(t[i], dy + (16 * (begin + f) + i) * plane, s, &g);
                    else
                        for (int p = 0; p < 36; p++) t[i][p] = (coord_v16){0};
                }
                float *into = d + (2 * f * steps + 16 / COORD_STEP * group) * 8;
                for (int p = 0; p < 36; p++) {
                    coord_v16 r[16];
                    for (int i = 0; i < 16; i++) r[i] = t[i][p];
                    SET(transpose16)(r);
                    for (int i = 0; i < 16; i += COORD_STEP) {
                        float both[16], *place = into + p * gap_d + i / COORD_STEP * 8;
                        COORD_WAY(store)(both, &r[i], &r[i + COORD_STEP - 1]);
                        memcpy(place, both, 32);
                        memcpy(place + steps * 8, both + 8, 32);
                    }
                }
            }
        }
        for (size_t p = 0; p < 36; p++)
            for (size_t row = 0; row < 2 * own; row++)
                for (size_t c = 0; c < wide; c++)
                    COORD_WAY(panel)(
                        sum + p * gap_sum + row * 8 * width + c * 32, width, d + p * gap_d + row * steps * 8,
                        v + p * gap_v + c * steps * 32, here / COORD_STEP, first > 0);
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
                t[0][j] = (m[0] * COORD_0 - near * COORD_1A2) + far * COORD_1B2;
                t[1][j] = (m[2] - m[1]) * COORD_1A + (m[3] - m[4]) * COORD_1B;
                t[2][j] = ((far - near) * COORD_1) + m[5];
            }
            for (int i = 0; i < 3; i++) {
                coord_v16 *m = t[i];
                coord_v16 near = m[1] + m[2], far = m[3] + m[4];
                COORD_INTO(g[3 * i]) = (m[0] * COORD_0 - near * COORD_1A2) + far * COORD_1B2;
                COORD_INTO(g[3 * i + 1]) = (m[2] - m[1]) * COORD_1A + (m[3] - m[4]) * COORD_1B;
                COORD_INTO(g[3 * i + 2]) = ((far - near) * COORD_1) + m[5];
            }
            size_t count = channels - c < 16 ? channels - c : 16;
            float *into = dw + ((16 * begin + f) * channels + c) * 9;
            for (size_t i = 0; i < count; i++)
                for (int j = 0; j < 9; j++) into[9 * i + j] = g[j][i];
        }
}

#undef COORD_WINOGRAD_INPUT
#undef COORD_WINOGRAD_OUTPUT
#undef COORD_A
#undef COORD_B
#undef COORD_A2
#undef COORD_B2
#undef COORD_0
#undef COORD_1
#undef COORD_1A
#undef COORD_1B
#undef COORD_1A2
#undef COORD_1B2
