// The one source of every kernel; included once an instruction set, with SET(name) = name_v2, name_v3, ...
// No include guard: CKernels.c includes it several times on purpose.

static inline float SET(fold16)(const float *a) {
    float b[8], c[4];
    for (int i = 0; i < 8; i++) b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++) c[i] = b[i] + b[i + 4];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

static inline double SET(fold16d)(const double *a) {
    double b[8], c[4];
    for (int i = 0; i < 8; i++) b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++) c[i] = b[i] + b[i + 4];
    return (c[0] + c[2]) + (c[1] + c[3]);
}

// exp(x), relative error < 2e-7. Cody-Waite reduction, the polynomial of Cephes expf.
// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, the same way on every machine.
static inline float SET(exponential)(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504088896341f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
}

// log(x) for normal x > 0: 2 atanh(s) with s = (m-1)/(m+1), |s| < 0.172; the series ends below 1e-17.
static inline double SET(logarithm)(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    if (!(x > 0) || (bits >> 52) == 0x7FF) return x > 0 ? x : x - x + (0.0 / 0.0);
    int64_t exponent = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent += 1;
    }
    double s = (m - 1.0) / (m + 1.0), z = s * s, p = 1.0 / 23.0;
    for (int k = 21; k >= 1; k -= 2) p = p * z + 1.0 / (double)k;
    return 2.0 * s * p + (double)exponent * 0.69314718055994530942;
}

static void SET(add)(float *restrict into, const float *restrict from, size_t n) {
    for (size_t i = 0; i < n; i++) into[i] = into[i] + from[i];
}

// The sum of eight neighbours along the tree, straight from memory.
static inline void SET(tree_sum8)(float *restrict into, const float *const *from, size_t at, size_t n) {
    const float *a = from[0] + at, *b = from[1] + at, *c = from[2] + at, *d = from[3] + at;
    const float *e = from[4] + at, *f = from[5] + at, *g = from[6] + at, *h = from[7] + at;
    for (size_t j = 0; j < n; j++)
        into[j] = ((a[j] + b[j]) + (c[j] + d[j])) + ((e[j] + f[j]) + (g[j] + h[j]));
}

// The sum of a power of two of vectors along a binary tree on their order, in blocks that stay in the L1 cache: eights
// at once, then a binary counter whose bit l holds the finished sum of 2^l neighbours.
static void SET(tree_sum)(float *into, const float *const *from, size_t count, size_t begin, size_t end) {
    enum { block = 512 };
    float held[7][block], eight[block];
    const size_t step = count % 8 == 0 ? 8 : 1;
    for (size_t at = begin; at < end; at += block) {
        size_t n = end - at < block ? end - at : block;
        for (size_t i = 0; i < count / step; i++) {
            const float *right = from[i * step] + at;
            if (step == 8) {
                SET(tree_sum8)(count == 8 ? into + at : eight, from + 8 * i, at, n);
                if (count == 8) break;
                right = eight;
            }
            size_t level = 0;
            for (; (i >> level) & 1; level++) {
                const float *left = held[level];
                float *sum = held[level + 1];
                // Bit level + 1 is free when the carry stops there; else it is the left operand of the next add.
                if ((i >> (level + 1)) & 1) {
                    float *carry = held[level];
                    for (size_t j = 0; j < n; j++) carry[j] = left[j] + right[j];
                    right = carry;
                } else {
                    for (size_t j = 0; j < n; j++) sum[j] = left[j] + right[j];
                    right = sum;
                }
            }
            if (level == 0) memcpy(held[0], right, n * sizeof(float));
        }
        if (count == 8) continue;
        size_t top = 0;
        while (((size_t)1 << top) < count / step) top++;
        memcpy(into + at, held[top], n * sizeof(float));
    }
}

static void SET(divide)(float *x, float by, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] / by;
}

static void SET(scale)(float *x, float by, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] * by;
}

static void SET(moments)(const float *x, size_t n, double *sum, double *squares) {
    double a[16] = {0}, b[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            double v = x[i + j];
            a[j] = a[j] + v;
            b[j] = b[j] + v * v;
        }
    for (int j = 0; i < n; i++, j++) {
        double v = x[i];
        a[j] = a[j] + v;
        b[j] = b[j] + v * v;
    }
    *sum = SET(fold16d)(a);
    *squares = SET(fold16d)(b);
}

static double SET(sum_squares)(const float *x, size_t n) {
    double sum, squares;
    SET(moments)(x, n, &sum, &squares);
    return squares;
}

static void SET(normalize)(float *restrict y, const float *restrict x, float mean, float deviation, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) / deviation;
}

static void SET(bias_rows)(float *restrict y, const float *restrict bias, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) y[r * columns + c] = y[r * columns + c] + bias[c];
}

static void SET(bias_planes)(float *restrict y, const float *restrict bias, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        float b = bias[r];
        for (size_t c = 0; c < columns; c++) y[r * columns + c] = y[r * columns + c] + b;
    }
}

static void SET(column_sums)(float *restrict into, const float *restrict x, size_t rows, size_t columns) {
    for (size_t c = 0; c < columns; c++) into[c] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) into[c] = into[c] + x[r * columns + c];
}

static void SET(row_sums)(float *restrict into, const float *restrict x, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        const float *row = x + r * columns;
        float a[16] = {0};
        size_t i = 0;
        for (; i + 16 <= columns; i += 16)
            for (int j = 0; j < 16; j++) a[j] = a[j] + row[i + j];
        for (int j = 0; i < columns; i++, j++) a[j] = a[j] + row[i];
        into[r] = SET(fold16)(a);
    }
}

// Not "x > 0 ? x : 0": a NaN must reach the loss, where it is seen.
static void SET(relu)(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] < 0 ? 0 : x[i];
}

static void SET(relu_backward)(float *restrict d, const float *restrict y, size_t n) {
    for (size_t i = 0; i < n; i++) d[i] = y[i] > 0 ? d[i] : 0;
}

// e[j] = exp(x[j] - max x); returns the sum.
static inline float SET(exponentials)(float *e, const float *x, size_t classes, float *largest) {
    float m = x[0];
    for (size_t j = 1; j < classes; j++) m = x[j] > m ? x[j] : m;
    for (size_t j = 0; j < classes; j++) e[j] = SET(exponential)(x[j] - m);
    float a[16] = {0};
    size_t i = 0;
    for (; i + 16 <= classes; i += 16)
        for (int j = 0; j < 16; j++) a[j] = a[j] + e[i + j];
    for (int j = 0; i < classes; i++, j++) a[j] = a[j] + e[i];
    *largest = m;
    return SET(fold16)(a);
}

static void SET(softmax)(float *x, size_t rows, size_t classes) {
    for (size_t r = 0; r < rows; r++) {
        float *row = x + r * classes, m;
        float sum = SET(exponentials)(row, row, classes, &m);
        for (size_t j = 0; j < classes; j++) row[j] = row[j] / sum;
    }
}

// loss = sum over rows of log(sum exp(x - m)) - (x[label] - m);  d = softmax(x) - onehot(label), not divided.
static void SET(cross_entropy)(
    float *d, const float *logits, const int32_t *labels, size_t rows, size_t classes,
    double *loss, int64_t *correct) {
    double total = 0;
    int64_t right = 0;
    for (size_t r = 0; r < rows; r++) {
        const float *x = logits + r * classes;
        float *e = d + r * classes, m;
        size_t label = (size_t)labels[r], best = 0;
        for (size_t j = 1; j < classes; j++)
            if (x[j] > x[best]) best = j;
        right += best == label;
        float own = x[label];
        float sum = SET(exponentials)(e, x, classes, &m);
        for (size_t j = 0; j < classes; j++) e[j] = e[j] / sum;
        e[label] = e[label] - 1.0f;
        total = total + (SET(logarithm)((double)sum) - ((double)own - (double)m));
    }
    *loss = total;
    *correct = right;
}

// Where pixel (y, x) of the image lies in the halves.
static inline size_t SET(half_at)(const coord_window *w, int y, int x) {
    const int more = w->kernel / 2 + 1, wide = w->out_width + more;
    y += w->padding, x += w->padding;
    return (size_t)(y % 2 * 2 + x % 2) * wide * (w->out_height + more) + y / 2 * wide + x / 2;
}

static inline void SET(halved_copy)(float *into, const float *from, int width) {
    if (width == 16)
        memcpy(into, from, 64);
    else if (width == 8)
        memcpy(into, from, 32);
    else
        memcpy(into, from, 16);
}

static void SET(im2col_halved)(
    float *restrict columns, const float *restrict x, const coord_window *w, int32_t first, int32_t count) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, p = w->padding;
    const int wide = OW + k / 2 + 1;
    float halves[4 * COORD_HALVES] = {0};
    for (int c = 0; c < w->channels; c++)
        for (int b = 0; b < count; b++) {
            const float *plane = x + ((size_t)c * w->samples + first + b) * H * W;
            for (int y = 0; y < H; y++) {
                float *even = halves + SET(half_at)(w, y, 0), *odd = halves + SET(half_at)(w, y, 1);
                for (int i = 0; i < OW; i++) {
                    even[i] = plane[y * W + 2 * i];
                    odd[i] = plane[y * W + 2 * i + 1];
                }
            }
            for (int tap = 0; tap < k * k; tap++) {
                const float *from = halves + SET(half_at)(w, tap / k - p, tap % k - p);
                float *out = columns + (((size_t)c * k * k + tap) * count + b) * OH * OW;
                for (int y = 0; y < OH; y++) SET(halved_copy)(out + y * OW, from + y * wide, OW);
            }
        }
}

// Each pixel's sum has the order of the taps, as in col2im.
static void SET(col2im_halved)(
    float *restrict dx, const float *restrict columns, const coord_window *w, int32_t first, int32_t count) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, p = w->padding;
    const int wide = OW + k / 2 + 1;
    float halves[4 * COORD_HALVES];
    for (int c = 0; c < w->channels; c++)
        for (int b = 0; b < count; b++) {
            float *plane = dx + ((size_t)c * w->samples + first + b) * H * W;
            memset(halves, 0, 4 * wide * (OH + k / 2 + 1) * sizeof(float));
            for (int tap = 0; tap < k * k; tap++) {
                float *into = halves + SET(half_at)(w, tap / k - p, tap % k - p);
                const float *in = columns + (((size_t)c * k * k + tap) * count + b) * OH * OW;
                for (int y = 0; y < OH; y++)
                    for (int i = 0; i < OW; i++) into[y * wide + i] = into[y * wide + i] + in[y * OW + i];
            }
            for (int y = 0; y < H; y++) {
                const float *even = halves + SET(half_at)(w, y, 0), *odd = halves + SET(half_at)(w, y, 1);
                for (int i = 0; i < OW; i++) {
                    plane[y * W + 2 * i] = even[i];
                    plane[y * W + 2 * i + 1] = odd[i];
                }
            }
        }
}

// x: [C, B, H, W] -> columns: [C*k*k, count*OH*OW] for the samples first ..< first + count.
static void SET(im2col)(float *columns, const float *x, const coord_window *w, int32_t first, int32_t count) {
    if (COORD_IS_HALVED(w)) return SET(im2col_halved)(columns, x, w, first, count);
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width;
    const int k = w->kernel, s = w->stride, p = w->padding, d = w->dilation;
    float *out = columns;
    for (int c = 0; c < w->channels; c++)
        for (int ky = 0; ky < k; ky++)
            for (int kx = 0; kx < k; kx++) {
                // Output columns lo ..< hi read inside the image.
                const int px = p - kx * d;
                int lo = px > 0 ? (px + s - 1) / s : 0;
                int hi = W - 1 + px < 0 ? 0 : (W - 1 + px) / s + 1;
                if (hi > OW) hi = OW;
                if (lo > hi) lo = hi;
                for (int b = first; b < first + count; b++) {
                    const float *plane = x + ((size_t)c * w->samples + b) * H * W;
                    for (int oy = 0; oy < OH; oy++, out += OW) {
                        int y = oy * s + ky * d - p;
                        if (y < 0 || y >= H) {
                            memset(out, 0, OW * sizeof(float));
                            continue;
                        }
                        const float *row = plane + (ptrdiff_t)y * W - px;
                        for (int i = 0; i < lo; i++) out[i] = 0;
                        if (s == 1)
                            for (int i = lo; i < hi; i++) out[i] = row[i];
                        else
                            for (int i = lo; i < hi; i++) out[i] = row[i * s];
                        for (int i = hi; i < OW; i++) out[i] = 0;
                    }
                }
            }
}

// The transpose of im2col: adds into dx, which it clears first, in the order of the columns.
static void SET(col2im)(
    float *restrict dx, const float *restrict columns, const coord_window *w, int32_t first, int32_t count) {
    if (COORD_IS_HALVED(w) && w->kernel > 1) return SET(col2im_halved)(dx, columns, w, first, count);
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width;
    const int k = w->kernel, s = w->stride, p = w->padding, d = w->dilation;
    const float *in = columns;
    for (int c = 0; c < w->channels; c++) {
        memset(dx + ((size_t)c * w->samples + first) * H * W, 0, (size_t)count * H * W * sizeof(float));
        for (int ky = 0; ky < k; ky++)
            for (int kx = 0; kx < k; kx++) {
                const int px = p - kx * d;
                int lo = px > 0 ? (px + s - 1) / s : 0;
                int hi = W - 1 + px < 0 ? 0 : (W - 1 + px) / s + 1;
                if (hi > OW) hi = OW;
                if (lo > hi) lo = hi;
                for (int b = first; b < first + count; b++) {
                    float *plane = dx + ((size_t)c * w->samples + b) * H * W;
                    for (int oy = 0; oy < OH; oy++, in += OW) {
                        int y = oy * s + ky * d - p;
                        if (y < 0 || y >= H) continue;
                        float *row = plane + (ptrdiff_t)y * W - px;
                        if (s == 1)
                            for (int i = lo; i < hi; i++) row[i] = row[i] + in[i];
                        else
                            for (int i = lo; i < hi; i++) row[i * s] = row[i * s] + in[i];
                    }
                }
            }
    }
}

// One row of outputs of a pooling whose windows reach over the border; what lies outside never wins.
static void SET(padded_maximum)(float *out, uint8_t *at, const float *plane, int oy, const coord_window *w) {
    const int H = w->height, W = w->width, k = w->kernel, s = w->stride, p = w->padding;
    for (int i = 0; i < w->out_width; i++) {
        float best = 0;
        int place = -1;
        for (int j = 0; j < k * k; j++) {
            int y = oy * s - p + j / k, x = i * s - p + j % k;
            if (y < 0 || y >= H || x < 0 || x >= W) continue;
            float v = plane[(size_t)y * W + x];
            if (place < 0 || v > best || v != v) {
                best = v;
                place = j;
            }
        }
        out[i] = best;
        at[i] = (uint8_t)place;
    }
}

// y = the largest value of each window; where = its place in the window, the first one among equals.
static void SET(maxpool)(
    float *restrict y, uint8_t *restrict where, const float *restrict x, const coord_window *w) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, s = w->stride;
    size_t planes = (size_t)w->channels * w->samples;
    for (size_t q = 0; q < planes; q++)
        for (int oy = 0; oy < OH; oy++) {
            const float *top = x + q * H * W + (size_t)oy * s * W;
            float *out = y + (q * OH + oy) * OW;
            uint8_t *at = where + (q * OH + oy) * OW;
            if (k == 2 && s == 2 && w->padding == 0) {
                const float *low = top + W;
                for (int i = 0; i < OW; i++) {
                    float a = top[2 * i], b = top[2 * i + 1], c = low[2 * i], d = low[2 * i + 1];
                    int ab = b > a, cd = d > c;
                    float m = ab ? b : a, n = cd ? d : c;
                    int down = n > m;
                    out[i] = down ? n : m;
                    at[i] = (uint8_t)(down ? 2 + cd : ab);
                }
                continue;
            }
            if (w->padding > 0) {
                SET(padded_maximum)(out, at, x + q * H * W, oy, w);
                continue;
            }
            for (int i = 0; i < OW; i++) {
                float best = top[i * s];
                int place = 0;
                for (int j = 1; j < k * k; j++) {
                    float v = top[(size_t)(j / k) * W + i * s + j % k];
                    if (v > best) {
                        best = v;
                        place = j;
                    }
                }
                out[i] = best;
                at[i] = (uint8_t)place;
            }
        }
}

static void SET(maxpool_backward)(
    float *restrict dx, const uint8_t *restrict where, const float *restrict dy, const coord_window *w) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, s = w->stride;
    const int p = w->padding;
    size_t planes = (size_t)w->channels * w->samples;
    memset(dx, 0, planes * H * W * sizeof(float));
    for (size_t q = 0; q < planes; q++)
        for (int oy = 0; oy < OH; oy++) {
            float *top = dx + q * H * W + (size_t)oy * s * W;
            const float *d = dy + (q * OH + oy) * OW;
            const uint8_t *at = where + (q * OH + oy) * OW;
            if (k == 2 && s == 2 && w->padding == 0) {
                for (int i = 0; i < OW; i++) top[(at[i] >> 1) * W + 2 * i + (at[i] & 1)] = d[i];
                continue;
            }
            for (int i = 0; i < OW; i++) {
                float *cell = top + (ptrdiff_t)(at[i] / k - p) * W + (i * s + at[i] % k - p);
                *cell = *cell + d[i];
            }
        }
}

// g += decay * p;  m = momentum * m + g;  p -= rate * (nesterov ? g + momentum * m : m). As torch.optim.SGD.
static void SET(sgd)(
    float *restrict p, const float *restrict gradient, float *restrict m, const coord_sgd_scalars *s, size_t n) {
    const float rate = s->rate, momentum = s->momentum, decay = s->decay;
    if (momentum == 0) {
        for (size_t i = 0; i < n; i++) p[i] = p[i] - rate * (gradient[i] + decay * p[i]);
    } else if (s->nesterov) {
        for (size_t i = 0; i < n; i++) {
            float g = gradient[i] + decay * p[i];
            m[i] = momentum * m[i] + g;
            p[i] = p[i] - rate * (g + momentum * m[i]);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            float g = gradient[i] + decay * p[i];
            m[i] = momentum * m[i] + g;
            p[i] = p[i] - rate * m[i];
        }
    }
}

// p *= keep;  m += take1 * (g - m);  v = beta2 * v + take2 * g * g;  p -= step * m / (sqrt(v) / root2 + epsilon).
// As torch.optim.AdamW.
static void SET(adamw)(
    float *restrict p, const float *restrict gradient, float *restrict m, float *restrict v,
    const coord_adamw_scalars *s, size_t n) {
    const float keep = s->keep, step = s->step, root2 = s->root2, take1 = s->take1, beta2 = s->beta2;
    const float take2 = s->take2, epsilon = s->epsilon;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i];
        m[i] = m[i] + take1 * (g - m[i]);
        v[i] = v[i] * beta2 + take2 * g * g;
        float denominator = __builtin_sqrtf(v[i]) / root2 + epsilon;
        p[i] = p[i] * keep - step * (m[i] / denominator);
    }
}
