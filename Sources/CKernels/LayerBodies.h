// Activations, norms, attention, pools and losses; included as KernelBodies.h is, and after it.

// tanh(x): the polynomial of Cephes tanhf below 0.625, else 1 - 2 / (exp(2|x|) + 1). Absolute error < 2e-7.
static inline float SET(hyperbolic)(float x) {
    float a = x < 0 ? -x : x, z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float small = p * z * x + x;
    float far = 1.0f - 2.0f / (SET(exponential)(2.0f * a) + 1.0f);
    return a < 0.625f ? small : x < 0 ? -far : x > 0 ? far : x;
}

static inline float SET(logistic)(float x) { return 1.0f / (1.0f + SET(exponential)(-x)); }

// erf(x) by the rational function of Numerical Recipes' erfcc in |x|. Absolute error < 4e-7.
static inline float SET(error)(float x) {
    float a = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.5f * a);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    float c = 1.0f - t * SET(exponential)(p - a * a);
    return x < 0 ? -c : c;
}

static void SET(activate)(float *restrict y, const float *restrict x, int32_t kind, size_t n) {
    switch (kind) {
    case COORD_GELU: COORD_EACH(0.5f * v * (1.0f + SET(error)(v * 0.70710678f)));
    case COORD_SILU: COORD_EACH(v * SET(logistic)(v));
    case COORD_TANH: COORD_EACH(SET(hyperbolic)(v));
    case COORD_SIGMOID: COORD_EACH(SET(logistic)(v));
    default: COORD_EACH(v < 0 ? 0 : v > 6.0f ? 6.0f : v);
    }
}

static inline float SET(silu_slope)(float v) {
    float s = SET(logistic)(v);
    return s + v * s * (1.0f - s);
}

static inline float SET(tanh_slope)(float v) {
    float t = SET(hyperbolic)(v);
    return 1.0f - t * t;
}

static inline float SET(logistic_slope)(float v) {
    float s = SET(logistic)(v);
    return s * (1.0f - s);
}

static void SET(activate_backward)(
    float *restrict dx, const float *restrict dy, const float *restrict x, int32_t kind, size_t n) {
    switch (kind) {
    case COORD_GELU:
        COORD_EACH_BACKWARD(
            0.5f * (1.0f + SET(error)(v * 0.70710678f)) + v * 0.39894228f * SET(exponential)(-0.5f * v * v));
    case COORD_SILU: COORD_EACH_BACKWARD(SET(silu_slope)(v));
    case COORD_TANH: COORD_EACH_BACKWARD(SET(tanh_slope)(v));
    case COORD_SIGMOID: COORD_EACH_BACKWARD(SET(logistic_slope)(v));
    default: COORD_EACH_BACKWARD((v > 0 && v < 6.0f) ? 1.0f : 0.0f);
    }
}

static void SET(scale_shift)(float *restrict y, const float *restrict x, float a, float b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = x[i] * a + b;
}

static void SET(scale_shift_relu)(float *restrict y, const float *restrict x, float a, float b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i] * a + b;
        y[i] = v < 0 ? 0 : v;
    }
}

static void SET(sum)(float *restrict y, const float *a, const float *b, int32_t rectifies, size_t n) {
    if (rectifies)
        for (size_t i = 0; i < n; i++) {
            float v = a[i] + b[i];
            y[i] = v < 0 ? 0 : v;
        }
    else
        for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void SET(relu_backward_twice)(float *restrict d, float *restrict copy, const float *restrict y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = y[i] > 0 ? d[i] : 0;
        d[i] = v;
        copy[i] = v;
    }
}

static void SET(relu_pair_sums)(
    const float *d, const float *x, const float *y, size_t n, double *sum, double *product) {
    double a[16] = {0}, b[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            double v = y[i + j] > 0 ? d[i + j] : 0;
            a[j] = a[j] + v;
            b[j] = b[j] + v * (double)x[i + j];
        }
    for (int j = 0; i < n; i++, j++) {
        double v = y[i] > 0 ? d[i] : 0;
        a[j] = a[j] + v;
        b[j] = b[j] + v * (double)x[i];
    }
    *sum = SET(fold16d)(a);
    *product = SET(fold16d)(b);
}

static void SET(relu_combine)(
    float *restrict dx, const float *restrict dy, const float *restrict x, const float *restrict y, float a, float b,
    float c, size_t n) {
    for (size_t i = 0; i < n; i++) dx[i] = a * (y[i] > 0 ? dy[i] : 0) + (b * x[i] + c);
}

static void SET(pair_sums)(const float *d, const float *x, size_t n, double *sum, double *product) {
    double a[16] = {0}, b[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            double v = d[i + j];
            a[j] = a[j] + v;
            b[j] = b[j] + v * (double)x[i + j];
        }
    for (int j = 0; i < n; i++, j++) {
        double v = d[i];
        a[j] = a[j] + v;
        b[j] = b[j] + v * (double)x[i];
    }
    *sum = SET(fold16d)(a);
    *product = SET(fold16d)(b);
}

static void SET(combine)(
    float *restrict dx, const float *restrict dy, const float *restrict x, float a, float b, float c, size_t n) {
    for (size_t i = 0; i < n; i++) dx[i] = a * dy[i] + (b * x[i] + c);
}

static void SET(norm_rows)(
    float *restrict y, float *restrict saved, const float *restrict x, const float *restrict weight,
    const float *restrict bias, size_t rows, size_t columns, double epsilon) {
    for (size_t r = 0; r < rows; r++) {
        const float *row = x + r * columns;
        float *out = y + r * columns;
        double sum, squares;
        SET(moments)(row, columns, &sum, &squares);
        double mean = bias ? sum / (double)columns : 0.0;
        double variance = squares / (double)columns - mean * mean;
        float m = (float)mean, s = (float)(1.0 / __builtin_sqrt((variance < 0 ? 0 : variance) + epsilon));
        saved[2 * r] = m;
        saved[2 * r + 1] = s;
        if (bias)
            for (size_t i = 0; i < columns; i++) out[i] = ((row[i] - m) * s) * weight[i] + bias[i];
        else
            for (size_t i = 0; i < columns; i++) out[i] = (row[i] * s) * weight[i];
    }
}

// g = dy * weight, h = (x - mean) * s:  dx = s * (g - mean(g) - h * mean(g * h)), without mean(g) when bias is NULL.
static void SET(norm_rows_backward)(
    float *restrict dx, float *restrict dweight, float *restrict dbias, const float *restrict dy,
    const float *restrict x, const float *restrict saved, const float *restrict weight, size_t rows,
    size_t columns) {
    for (size_t i = 0; i < columns; i++) dweight[i] = 0;
    if (dbias)
        for (size_t i = 0; i < columns; i++) dbias[i] = 0;
    for (size_t r = 0; r < rows; r++) {
        const float *d = dy + r * columns, *row = x + r * columns;
        const float m = saved[2 * r], s = saved[2 * r + 1];
        double a[16] = {0}, b[16] = {0};
        for (size_t i = 0; i < columns; i++) {
            float h = (row[i] - m) * s, g = d[i] * weight[i];
            a[i % 16] = a[i % 16] + (double)g;
            b[i % 16] = b[i % 16] + (double)g * (double)h;
            dweight[i] = dweight[i] + d[i] * h;
        }
        if (dbias)
            for (size_t i = 0; i < columns; i++) dbias[i] = dbias[i] + d[i];
        float first = dbias ? (float)(SET(fold16d)(a) / (double)columns) : 0.0f;
        float second = (float)(SET(fold16d)(b) / (double)columns);
        float *out = dx + r * columns;
        for (size_t i = 0; i < columns; i++)
            out[i] = s * ((d[i] * weight[i] - first) - ((row[i] - m) * s) * second);
    }
}

// Row r of a square of `columns` attends to its first r + 1 places when causal, else to all of them.
static void SET(attend)(float *x, size_t rows, size_t columns, float scale, int32_t causal) {
    for (size_t r = 0; r < rows; r++) {
        float *row = x + r * columns, m;
        size_t n = causal ? r % columns + 1 : columns;
        for (size_t j = 0; j < n; j++) row[j] = row[j] * scale;
        float sum = SET(exponentials)(row, row, n, &m);
        for (size_t j = 0; j < n; j++) row[j] = row[j] / sum;
        for (size_t j = n; j < columns; j++) row[j] = 0;
    }
}

// d = scale * p * (d - sum(d * p)), row by row.
static void SET(attend_backward)(float *restrict d, const float *restrict p, size_t rows, size_t columns, float scale) {
    for (size_t r = 0; r < rows; r++) {
        float *g = d + r * columns;
        const float *q = p + r * columns;
        double sum, product;
        SET(pair_sums)(g, q, columns, &sum, &product);
        float inner = (float)product;
        for (size_t j = 0; j < columns; j++) g[j] = scale * (q[j] * (g[j] - inner));
    }
}

static void SET(average_pool)(float *restrict y, const float *restrict x, const coord_window *w) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, s = w->stride;
    size_t planes = (size_t)w->channels * w->samples;
    for (size_t q = 0; q < planes; q++)
        for (int oy = 0; oy < OH; oy++)
            for (int ox = 0; ox < OW; ox++) {
                const float *top = x + q * H * W + (size_t)oy * s * W + ox * s;
                float sum = 0;
                for (int ky = 0; ky < k; ky++)
                    for (int kx = 0; kx < k; kx++) sum = sum + top[(size_t)ky * W + kx];
                y[(q * OH + oy) * OW + ox] = sum / (float)(k * k);
            }
}

static void SET(average_pool_backward)(float *restrict dx, const float *restrict dy, const coord_window *w) {
    const int H = w->height, W = w->width, OH = w->out_height, OW = w->out_width, k = w->kernel, s = w->stride;
    size_t planes = (size_t)w->channels * w->samples;
    memset(dx, 0, planes * H * W * sizeof(float));
    for (size_t q = 0; q < planes; q++)
        for (int oy = 0; oy < OH; oy++)
            for (int ox = 0; ox < OW; ox++) {
                float *top = dx + q * H * W + (size_t)oy * s * W + ox * s;
                float part = dy[(q * OH + oy) * OW + ox] / (float)(k * k);
                for (int ky = 0; ky < k; ky++)
                    for (int kx = 0; kx < k; kx++) top[(size_t)ky * W + kx] = top[(size_t)ky * W + kx] + part;
            }
}

static inline float SET(class_weight)(const coord_loss *s, size_t j) { return s->weights ? s->weights[j] : 1.0f; }

// The losses of one row each; d is set to the gradient at the logits. Returns the loss.
static double SET(softmax_loss)(float *d, const float *x, size_t label, size_t classes, const coord_loss *s) {
    float m, own = x[label];
    // d may not be x: the row of logits is read again below.
    float sum = SET(exponentials)(d, x, classes, &m);
    double log_sum = SET(logarithm)((double)sum);
    double log_own = ((double)own - (double)m) - log_sum;
    if (s->kind == COORD_FOCAL) {
        // L = -w (1-p)^g log p;  dL/dx_j = w ((1-p)^g - g (1-p)^(g-1) p log p) (p_j - [j = label]).
        double p = (double)(d[label] / sum), q = 1.0 - p;
        double power = 1.0, lower = 1.0;
        if (s->gamma > 0) {
            double log_q = q > 1e-12 ? SET(logarithm)(q) : -27.6;
            power = (double)SET(exponential)((float)((double)s->gamma * log_q));
            lower = (double)SET(exponential)((float)(((double)s->gamma - 1.0) * log_q));
        }
        double w = (double)SET(class_weight)(s, label);
        float factor = (float)(w * (power - (double)s->gamma * lower * p * log_own));
        for (size_t j = 0; j < classes; j++)
            d[j] = factor * (d[j] / sum - (j == label ? 1.0f : 0.0f));
        return -(w * power * log_own);
    }
    // L = -sum t_j log p_j with t_j = (1-e) w_y [j = y] + e/K w_j;  dL/dx_j = (sum t) p_j - t_j.
    float e = s->smoothing, each = e / (float)classes, hit = (1.0f - e) * SET(class_weight)(s, label);
    double loss = -((double)hit * log_own);
    float mass = hit;
    if (e > 0)
        for (size_t j = 0; j < classes; j++) {
            float t = each * SET(class_weight)(s, j);
            mass = mass + t;
            loss = loss - (double)t * (((double)x[j] - (double)m) - log_sum);
        }
    for (size_t j = 0; j < classes; j++) {
        float t = (e > 0 ? each * SET(class_weight)(s, j) : 0.0f) + (j == label ? hit : 0.0f);
        d[j] = mass * (d[j] / sum) - t;
    }
    return loss;
}

static double SET(element_loss)(float *d, const float *x, size_t label, size_t classes, const coord_loss *s) {
    double loss = 0;
    float w = SET(class_weight)(s, label) / (float)classes;
    for (size_t j = 0; j < classes; j++) {
        float t = j == label ? 1.0f : 0.0f, v = x[j];
        if (s->kind == COORD_MSE) {
            float e = v - t;
            loss = loss + (double)w * ((double)e * (double)e);
            d[j] = 2.0f * w * e;
        } else {
            float a = v < 0 ? -v : v;
            double soft = (v > 0 ? (double)v : 0.0) + SET(logarithm)(1.0 + (double)SET(exponential)(-a));
            loss = loss + (double)w * (v == v ? soft - (double)v * (double)t : (double)v);
            d[j] = w * (SET(logistic)(v) - t);
        }
    }
    return loss;
}

static void SET(loss_rows)(
    float *restrict d, const float *restrict logits, const int32_t *labels, size_t rows, size_t classes,
    const coord_loss *s, double *loss, int64_t *correct) {
    double total = 0;
    int64_t right = 0;
    for (size_t r = 0; r < rows; r++) {
        const float *x = logits + r * classes;
        size_t label = (size_t)labels[r], best = 0;
        for (size_t j = 1; j < classes; j++)
            if (x[j] > x[best]) best = j;
        right += best == label;
        int element = s->kind == COORD_MSE || s->kind == COORD_BCE;
        total = total + (element ? SET(element_loss)(d + r * classes, x, label, classes, s)
                                 : SET(softmax_loss)(d + r * classes, x, label, classes, s));
    }
    *loss = total;
    *correct = right;
}
