// Products of dense layers for a few rows, where packing the weights would cost more than the work: each weight is read once
// and each gradient written once. Included as KernelBodies.h is, after WinogradBodies.h. A number's bits depend on
// its row and column alone.

// Sixteen numbers from `x`, zeros from the `left`th on.
static inline void SET(part16)(coord_v16 *into, const float *x, size_t left) {
    float padded[16] = {0};
    for (size_t i = 0; i < left; i++) padded[i] = x[i];
    *into = COORD_FROM(padded);
}

// y: [rows, outputs] = x: [rows, inputs] times w: [outputs, inputs] turned; sums in one virtual width of 16.
static void SET(few_forward)(
    float *restrict y, size_t ldy, const float *restrict x, const float *restrict w, size_t rows, size_t inputs,
    size_t outputs) {
    for (size_t o = 0; o < outputs; o += 4)
        for (size_t r = 0; r < rows; r += 4) {
            const float *left[4], *right[4];
            coord_v16 sum[4][4];
            for (size_t i = 0; i < 4; i++) {
                left[i] = x + (r + i < rows ? r + i : rows - 1) * inputs;
                right[i] = w + (o + i < outputs ? o + i : outputs - 1) * inputs;
                for (int j = 0; j < 4; j++) sum[i][j] = (coord_v16){0};
            }
            size_t k = 0;
            for (; k + 16 <= inputs; k += 16)
#pragma clang loop unroll(full)
                for (int i = 0; i < 4; i++) {
                    coord_v16 a = COORD_FROM(left[i] + k);
#pragma clang loop unroll(full)
                    for (int j = 0; j < 4; j++) sum[i][j] = COORD_FMA(a, COORD_FROM(right[j] + k), sum[i][j]);
                }
            if (k < inputs)
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++) {
                        coord_v16 a, b;
                        SET(part16)(&a, left[i] + k, inputs - k);
                        SET(part16)(&b, right[j] + k, inputs - k);
                        sum[i][j] = COORD_FMA(a, b, sum[i][j]);
                    }
            for (size_t i = 0; i < 4 && r + i < rows; i++)
                for (size_t j = 0; j < 4 && o + j < outputs; j++) {
                    float a[16];
                    COORD_INTO(a) = sum[i][j];
                    y[(r + i) * ldy + o + j] = SET(fold16)(a);
                }
        }
}

// dw: [outputs, inputs] = dy: [rows, outputs] turned times x: [rows, inputs], in the order of the rows.
static void SET(few_weights)(
    float *restrict dw, const float *restrict dy, size_t lddy, const float *restrict x, size_t rows, size_t inputs,
    size_t outputs) {
    for (size_t o = 0; o < outputs; o += 4) {
        const size_t own = outputs - o < 4 ? outputs - o : 4;
        size_t k = 0;
        for (; own == 4 && k + 32 <= inputs; k += 32) {
            coord_v16 sum[4][2];
#pragma clang loop unroll(full)
            for (int j = 0; j < 4; j++) sum[j][0] = sum[j][1] = (coord_v16){0};
            for (size_t r = 0; r < rows; r++) {
                coord_v16 a = COORD_FROM(x + r * inputs + k), b = COORD_FROM(x + r * inputs + k + 16);
                const float *d = dy + r * lddy + o;
#pragma clang loop unroll(full)
                for (int j = 0; j < 4; j++) {
                    coord_v16 factor = (coord_v16){0} + d[j];
                    sum[j][0] = COORD_FMA(factor, a, sum[j][0]);
                    sum[j][1] = COORD_FMA(factor, b, sum[j][1]);
                }
            }
#pragma clang loop unroll(full)
            for (int j = 0; j < 4; j++) {
                COORD_INTO(dw + (o + j) * inputs + k) = sum[j][0];
                COORD_INTO(dw + (o + j) * inputs + k + 16) = sum[j][1];
            }
        }
        for (size_t j = 0; j < own; j++)
            for (size_t i = k; i < inputs; i++) {
                float sum = 0;
                for (size_t r = 0; r < rows; r++) sum = COORD_FMA(dy[r * lddy + o + j], x[r * inputs + i], sum);
                dw[(o + j) * inputs + i] = sum;
            }
    }
}

// dx: [rows, columns] = dy: [rows, outputs] times w: [outputs, columns], in the order of the outputs.
static void SET(few_inputs)(
    float *restrict dx, size_t lddx, const float *restrict dy, const float *restrict w, size_t ldw, size_t rows,
    size_t columns, size_t outputs) {
    for (size_t k = 0; k < columns; k += 32)
        for (size_t r = 0; r < rows; r += 4) {
            const size_t width = columns - k < 32 ? columns - k : 32, own = rows - r < 4 ? rows - r : 4;
            coord_v16 sum[4][2];
            const float *d[4];
            for (size_t i = 0; i < 4; i++) d[i] = dy + (r + i < rows ? r + i : rows - 1) * outputs;
#pragma clang loop unroll(full)
            for (int i = 0; i < 4; i++) sum[i][0] = sum[i][1] = (coord_v16){0};
            for (size_t o = 0; o < outputs; o++) {
                coord_v16 a, b;
                if (width == 32) {
                    a = COORD_FROM(w + o * ldw + k);
                    b = COORD_FROM(w + o * ldw + k + 16);
                } else {
                    SET(part16)(&a, w + o * ldw + k, width < 16 ? width : 16);
                    SET(part16)(&b, w + o * ldw + k + 16, width < 16 ? 0 : width - 16);
                }
#pragma clang loop unroll(full)
                for (int i = 0; i < 4; i++) {
                    coord_v16 factor = (coord_v16){0} + d[i][o];
                    sum[i][0] = COORD_FMA(factor, a, sum[i][0]);
                    sum[i][1] = COORD_FMA(factor, b, sum[i][1]);
                }
            }
            for (size_t i = 0; i < own; i++) {
                float *into = dx + (r + i) * lddx + k;
                if (width == 32) {
                    COORD_INTO(into) = sum[i][0];
                    COORD_INTO(into + 16) = sum[i][1];
                } else
                    for (size_t j = 0; j < width; j++) into[j] = sum[i][j / 16][j % 16];
            }
        }
}
