// Optimizers beside SGD and AdamW; included as KernelBodies.h is, and after it.

static void SET(axpy)(float *restrict y, const float *restrict x, float a, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = y[i] + a * x[i];
}

static void SET(lerp)(float *restrict y, const float *restrict x, float t, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = y[i] + t * (x[i] - y[i]);
}

static void SET(rmsprop)(
    float *restrict p, const float *restrict g, float *restrict v, float *restrict b,
    const coord_rmsprop_scalars *s, size_t n) {
    const float rate = s->rate, alpha = s->alpha, take = s->take, epsilon = s->epsilon, momentum = s->momentum;
    for (size_t i = 0; i < n; i++) v[i] = v[i] * alpha + take * g[i] * g[i];
    if (b) {
        for (size_t i = 0; i < n; i++) {
            b[i] = b[i] * momentum + g[i] / (__builtin_sqrtf(v[i]) + epsilon);
            p[i] = p[i] - rate * b[i];
        }
    } else {
        for (size_t i = 0; i < n; i++) p[i] = p[i] - rate * (g[i] / (__builtin_sqrtf(v[i]) + epsilon));
    }
}

// A NaN has no sign: it passes as itself, so that it reaches the loss, where it is seen.
static void SET(lion)(
    float *restrict p, const float *restrict g, float *restrict m, const coord_lion_scalars *s, size_t n) {
    const float rate = s->rate, keep = s->keep;
    const float beta1 = s->beta1, take1 = s->take1, beta2 = s->beta2, take2 = s->take2;
    for (size_t i = 0; i < n; i++) {
        float c = m[i] * beta1 + take1 * g[i];
        float sign = c > 0 ? 1.0f : c < 0 ? -1.0f : c;
        p[i] = p[i] * keep - rate * sign;
        m[i] = m[i] * beta2 + take2 * g[i];
    }
}

static void SET(lamb)(
    const float *restrict p, float *restrict g, float *restrict m, float *restrict v,
    const coord_lamb_scalars *s, size_t n) {
    const float take1 = s->take1, beta2 = s->beta2, take2 = s->take2, root2 = s->root2;
    const float correction1 = s->correction1, epsilon = s->epsilon, decay = s->decay;
    for (size_t i = 0; i < n; i++) {
        float x = g[i];
        m[i] = m[i] + take1 * (x - m[i]);
        v[i] = v[i] * beta2 + take2 * x * x;
        g[i] = (m[i] / correction1) / (__builtin_sqrtf(v[i]) / root2 + epsilon) + decay * p[i];
    }
}
