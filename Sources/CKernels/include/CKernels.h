#pragma once
#include <stddef.h>
#include <stdint.h>

// Every kernel gives the same bits on every instruction set: element-wise IEEE operations without contraction,
// reductions in one virtual width of 16 that is folded 8, 4, 2, 1, and no libm.
// Shapes: B samples, C channels, H x W pixels, K classes. Image activations are [C, B, H, W]: one GEMM a layer
// then writes its output in place, without a transposition.

/// The window of a convolution or a pooling over `[C, B, H, W]`.
typedef struct {
    int32_t channels, samples, height, width;
    int32_t kernel, stride, padding, dilation;
    int32_t out_height, out_width;
} coord_window;

/// A convolution with a 3x3 kernel, stride 1 and padding 1 over `[C, B, H, W]`, in tiles of 4x4 outputs.
typedef struct {
    int32_t channels, filters, samples, height, width;
} coord_winograd;

/// Tiles of all samples.
static inline size_t coord_winograd_tiles(const coord_winograd *s) {
    return (size_t)s->samples * ((s->height + 3) / 4) * ((s->width + 3) / 4);
}

/// Tiles that are computed together, so that their transforms stay in the cache; a multiple of 32.
static inline size_t coord_winograd_block(const coord_winograd *s) {
    size_t most = (coord_winograd_tiles(s) + 31) / 32 * 32;
    return most < 64 ? most : 64;
}

/// Blocks of tiles.
static inline size_t coord_winograd_blocks(const coord_winograd *s) {
    size_t block = coord_winograd_block(s);
    return (coord_winograd_tiles(s) + block - 1) / block;
}

/// Numbers between one of the 36 products' operands and the next, beside their own: without them all would lie in the same
/// sets of the caches.
enum { COORD_APART = 16 };

/// Numbers of transformed filters; `turned` as in winograd_filters.
static inline size_t coord_winograd_filter_count(const coord_winograd *s, int32_t turned) {
    size_t rows = turned ? s->channels : s->filters, columns = turned ? s->filters : s->channels;
    return 36 * ((rows + 7) / 8 * 8 * columns + COORD_APART);
}

/// Numbers of scratch of winograd_forward.
static inline size_t coord_winograd_forward_scratch(const coord_winograd *s) {
    size_t panels = coord_winograd_block(s) / 32;
    return 36 * (panels * 32 * ((size_t)s->channels + (s->filters + 7) / 8 * 8) + 2 * COORD_APART);
}

/// Numbers of scratch of winograd_weights for `count` 16-blocks of filters.
static inline size_t coord_winograd_weights_scratch(const coord_winograd *s, int32_t count) {
    size_t block = coord_winograd_block(s), width = ((size_t)s->channels + 31) / 32 * 32;
    return 36 * (block * width + (size_t)count * 16 * (block + width) + 7 * COORD_APART);
}

/// Scalars of one SGD step; `decay` is the weight decay.
typedef struct {
    float rate, momentum, decay;
    int32_t nesterov;
} coord_sgd_scalars;

/// Scalars of one AdamW step: `keep` = 1 - rate * decay, `step` = rate / (1 - beta1^t),
/// `root2` = sqrt(1 - beta2^t), `take1` = 1 - beta1, `take2` = 1 - beta2.
typedef struct {
    float keep, step, root2, take1, beta2, take2, epsilon;
} coord_adamw_scalars;

// Kernels of optimizers beside the two above: X(name, (arguments), parameters).
#define COORD_OPTIMIZER_KERNELS(X)                                                                                  \
    /* y += a * x */                                                                                                \
    X(axpy, (y, x, a, n), float *y, const float *x, float a, size_t n)                                              \
    /* y += t * (x - y) */                                                                                          \
    X(lerp, (y, x, t, n), float *y, const float *x, float t, size_t n)                                              \
    /* As torch.optim.RMSprop; b is NULL without momentum. */                                                       \
    X(rmsprop, (p, g, v, b, s, n), float *p, const float *g, float *v, float *b, const coord_rmsprop_scalars *s,    \
      size_t n)                                                                                                     \
    /* c = beta1 * m + take1 * g; p = p * keep - rate * sign(c); m = beta2 * m + take2 * g */                       \
    X(lion, (p, g, m, s, n), float *p, const float *g, float *m, const coord_lion_scalars *s, size_t n)             \
    /* Moments as AdamW's; leaves in g the update (m / c1) / (sqrt(v) / root2 + epsilon) + decay * p. */            \
    X(lamb, (p, g, m, v, s, n), const float *p, float *g, float *m, float *v, const coord_lamb_scalars *s, size_t n)

/// Scalars of one RMSprop step: `take` = 1 - alpha.
typedef struct {
    float rate, alpha, take, epsilon, momentum;
} coord_rmsprop_scalars;

/// Scalars of one Lion step: `keep` = 1 - rate * decay, `take1` = 1 - beta1, `take2` = 1 - beta2.
typedef struct {
    float rate, keep, beta1, take1, beta2, take2;
} coord_lion_scalars;

/// Scalars of one LAMB step: `root2` = sqrt(1 - beta2^t), `correction1` = 1 - beta1^t.
typedef struct {
    float take1, beta2, take2, correction1, root2, epsilon, decay;
} coord_lamb_scalars;

enum { COORD_GELU, COORD_SILU, COORD_TANH, COORD_SIGMOID, COORD_RELU6 };
enum { COORD_CROSS_ENTROPY, COORD_FOCAL, COORD_MSE, COORD_BCE };

/// A loss: `weights` `[K]` or NULL.
typedef struct {
    int32_t kind;
    float smoothing, gamma;
    const float *weights;
} coord_loss;

// Kernels of layers and losses: X(name, (arguments), parameters).
#define COORD_LAYER_KERNELS(X)                                                                                      \
    X(activate, (y, x, kind, n), float *y, const float *x, int32_t kind, size_t n)                                  \
    X(activate_backward, (dx, dy, x, kind, n), float *dx, const float *dy, const float *x, int32_t kind, size_t n)  \
    /* y = x * a + b */                                                                                             \
    X(scale_shift, (y, x, a, b, n), float *y, const float *x, float a, float b, size_t n)                           \
    /* y = x * a + b, then relu */                                                                                  \
    X(scale_shift_relu, (y, x, a, b, n), float *y, const float *x, float a, float b, size_t n)                      \
    /* y = a + b, then relu where asked for */                                                                      \
    X(sum, (y, a, b, rectifies, n), float *y, const float *a, const float *b, int32_t rectifies, size_t n)          \
    /* d = y > 0 ? d : 0, and the same into copy */                                                                 \
    X(relu_backward_twice, (d, copy, y, n), float *d, float *copy, const float *y, size_t n)                        \
    /* pair_sums of y > 0 ? d : 0 */                                                                                \
    X(relu_pair_sums, (d, x, y, n, sum, product), const float *d, const float *x, const float *y, size_t n,         \
      double *sum, double *product)                                                                                 \
    /* combine of y > 0 ? dy : 0 */                                                                                 \
    X(relu_combine, (dx, dy, x, y, a, b, c, n), float *dx, const float *dy, const float *x, const float *y,         \
      float a, float b, float c, size_t n)                                                                          \
    /* sum of d and of d * x, in double */                                                                          \
    X(pair_sums, (d, x, n, sum, product), const float *d, const float *x, size_t n, double *sum, double *product)   \
    /* dx = a * dy + b * x + c */                                                                                   \
    X(combine, (dx, dy, x, a, b, c, n), float *dx, const float *dy, const float *x, float a, float b, float c,      \
      size_t n)                                                                                                     \
    /* Layer-norm, or RMS-norm when bias is NULL; saved: [rows, 2], mean and 1 / deviation. */                      \
    X(norm_rows, (y, saved, x, weight, bias, rows, columns, epsilon), float *y, float *saved, const float *x,       \
      const float *weight, const float *bias, size_t rows, size_t columns, double epsilon)                          \
    X(norm_rows_backward, (dx, dweight, dbias, dy, x, saved, weight, rows, columns), float *dx, float *dweight,     \
      float *dbias, const float *dy, const float *x, const float *saved, const float *weight, size_t rows,          \
      size_t columns)                                                                                               \
    /* Softmax of the scaled rows of squares, in place. */                                                          \
    X(attend, (x, rows, columns, scale, causal), float *x, size_t rows, size_t columns, float scale, int32_t causal) \
    X(attend_backward, (d, p, rows, columns, scale), float *d, const float *p, size_t rows, size_t columns,         \
      float scale)                                                                                                  \
    X(average_pool, (y, x, w), float *y, const float *x, const coord_window *w)                                     \
    X(average_pool_backward, (dx, dy, w), float *dx, const float *dy, const coord_window *w)                        \
    X(loss_rows, (d, logits, labels, rows, classes, s, loss, correct), float *d, const float *logits,               \
      const int32_t *labels, size_t rows, size_t classes, const coord_loss *s, double *loss, int64_t *correct)

// 3x3 convolutions by Winograd's F(4x4, 3x3): X(name, (arguments), parameters); WinogradBodies.h says more.
#define COORD_WINOGRAD_WAY(X, filters_, forward_, weights_)                                                          \
    /* Filters of the 8-blocks of rows begin ..< end, transformed. */                                               \
    X(filters_, (u, w, s, turned, begin, end), float *u, const float *w, const coord_winograd *s, int32_t turned,   \
      int32_t begin, int32_t end)                                                                                   \
    /* Outputs of the blocks of tiles begin ..< end and the 8-blocks of rows; bias may be NULL. */                  \
    X(forward_, (y, x, u, bias, s, begin, end, rows_begin, rows_end, scratch), float *y, const float *x,            \
      const float *u, const float *bias, const coord_winograd *s, int32_t begin, int32_t end, int32_t rows_begin,   \
      int32_t rows_end, float *scratch)                                                                             \
    /* The gradient of the filters in the 16-blocks begin ..< end. */                                               \
    X(weights_, (dw, x, dy, s, begin, end, scratch), float *dw, const float *x, const float *dy,                    \
      const coord_winograd *s, int32_t begin, int32_t end, float *scratch)
// Exact, and with the operands of the products rounded to bfloat16.
#define COORD_WINOGRAD_KERNELS(X)                                                                                   \
    COORD_WINOGRAD_WAY(X, winograd_filters, winograd_forward, winograd_weights)                                     \
    COORD_WINOGRAD_WAY(X, rounded_winograd_filters, rounded_winograd_forward, rounded_winograd_weights)

// Products of matrices, X(name, (arguments), parameters): exact, and with operands rounded to bfloat16.
#define COORD_PRODUCT_WAY(X, product_)                                                                              \
    /* c: [m, n] = a * b, or c + a * b; turned operands are stored [k, m] and [n, k]. */                            \
    X(product_, (c, ldc, a, lda, is_a_turned, b, ldb, is_b_turned, m, n, depth, adds, scratch), float *c,           \
      size_t ldc, const float *a, size_t lda, int32_t is_a_turned, const float *b, size_t ldb,                      \
      int32_t is_b_turned, size_t m, size_t n, size_t depth, int32_t adds, float *scratch)
#define COORD_PRODUCT_KERNELS(X)                                                                                    \
    COORD_PRODUCT_WAY(X, product)                                                                                   \
    COORD_PRODUCT_WAY(X, rounded_product)

/// Numbers of scratch of a product.
static inline size_t coord_product_scratch(size_t m, size_t n, size_t k) {
    return ((m + 15) / 16 * 16 + (n + 31) / 32 * 32) * k;
}

// Dense layers for a few rows; FewRowsBodies.h says more.
#define COORD_FEW_ROWS_KERNELS(X)                                                                                   \
    X(few_forward, (y, ldy, x, w, rows, inputs, outputs), float *y, size_t ldy, const float *x, const float *w,     \
      size_t rows, size_t inputs, size_t outputs)                                                                   \
    X(few_weights, (dw, dy, lddy, x, rows, inputs, outputs), float *dw, const float *dy, size_t lddy,               \
      const float *x, size_t rows, size_t inputs, size_t outputs)                                                   \
    X(few_inputs, (dx, lddx, dy, w, ldw, rows, columns, outputs), float *dx, size_t lddx, const float *dy,          \
      const float *w, size_t ldw, size_t rows, size_t columns, size_t outputs)

/// Images that a depthwise convolution takes at once, so that they stay in the cache.
static inline size_t coord_depthwise_images(const coord_window *w) {
    size_t images = 4096 / ((size_t)w->height * w->width);
    return images < 1 ? 1 : images < (size_t)w->samples ? images : (size_t)w->samples;
}

/// How far the taps reach before the first image and behind the last one, and 16 numbers more.
static inline size_t coord_depthwise_edge(const coord_window *w) {
    return ((size_t)w->dilation * (w->kernel / 2) * (w->width + 1) + 31) / 16 * 16;
}

/// Numbers of one block of images with its edges.
static inline size_t coord_depthwise_block(const coord_window *w) {
    return 2 * coord_depthwise_edge(w) + (coord_depthwise_images(w) * w->height * w->width + 15) / 16 * 16;
}

/// Numbers of the masks.
static inline size_t coord_depthwise_masks(const coord_window *w) {
    return ((size_t)w->kernel * w->kernel * (w->height * w->width + 16) + 15) / 16 * 16;
}

/// Numbers of scratch of a depthwise convolution.
static inline size_t coord_depthwise_scratch(const coord_window *w) {
    return coord_depthwise_masks(w) + 2 * coord_depthwise_block(w);
}

// Depthwise convolutions with an odd kernel that leaves the size of an image as it is, but for a stride; DepthwiseBodies.h
// says more.
#define COORD_DEPTHWISE_KERNELS(X)                                                                                  \
    X(depthwise_forward, (y, x, filters, bias, w, scratch), float *y, const float *x, const float *filters,         \
      const float *bias, const coord_window *w, float *scratch)                                                     \
    X(depthwise_inputs, (dx, dy, filters, w, scratch), float *dx, const float *dy, const float *filters,            \
      const coord_window *w, float *scratch)                                                                        \
    X(depthwise_weights, (dw, x, dy, w, scratch), float *dw, const float *x, const float *dy,                       \
      const coord_window *w, float *scratch)

#define COORD_FIELD(name, arguments, ...) void (*name)(__VA_ARGS__);
#define COORD_DOOR(name, arguments, ...)                                        \
    static inline void coord_##name(const coord_kernels *k, __VA_ARGS__) { k->name arguments; }

/// The kernels of one instruction set.
typedef struct coord_kernels coord_kernels;
struct coord_kernels {
    void (*add)(float *into, const float *from, size_t n);
    void (*tree_sum)(float *into, const float *const *from, size_t count, size_t begin, size_t end);
    void (*divide)(float *x, float by, size_t n);
    void (*scale)(float *x, float by, size_t n);
    double (*sum_squares)(const float *x, size_t n);
    void (*moments)(const float *x, size_t n, double *sum, double *squares);
    void (*normalize)(float *y, const float *x, float mean, float deviation, size_t n);
    void (*bias_rows)(float *y, const float *bias, size_t rows, size_t columns);
    void (*bias_planes)(float *y, const float *bias, size_t rows, size_t columns);
    void (*column_sums)(float *into, const float *x, size_t rows, size_t columns);
    void (*row_sums)(float *into, const float *x, size_t rows, size_t columns);
    void (*relu)(float *x, size_t n);
    void (*relu_backward)(float *d, const float *y, size_t n);
    void (*softmax)(float *x, size_t rows, size_t classes);
    void (*cross_entropy)(
        float *d, const float *logits, const int32_t *labels, size_t rows, size_t classes,
        double *loss, int64_t *correct);
    void (*im2col)(float *columns, const float *x, const coord_window *w, int32_t first, int32_t count);
    void (*col2im)(float *dx, const float *columns, const coord_window *w, int32_t first, int32_t count);
    void (*maxpool)(float *y, uint8_t *where, const float *x, const coord_window *w);
    void (*maxpool_backward)(float *dx, const uint8_t *where, const float *dy, const coord_window *w);
    void (*sgd)(float *p, const float *g, float *m, const coord_sgd_scalars *s, size_t n);
    void (*adamw)(float *p, const float *g, float *m, float *v, const coord_adamw_scalars *s, size_t n);
    COORD_OPTIMIZER_KERNELS(COORD_FIELD)
    COORD_LAYER_KERNELS(COORD_FIELD)
    COORD_WINOGRAD_KERNELS(COORD_FIELD)
    COORD_PRODUCT_KERNELS(COORD_FIELD)
    COORD_FEW_ROWS_KERNELS(COORD_FIELD)
    COORD_DEPTHWISE_KERNELS(COORD_FIELD)
};

/// A level: the kernels of level 4 without what only some of its CPUs have (AVX512-BF16), for tests.
enum { COORD_PLAIN_V4 = 40 };

/// The kernels for an x86-64 level (2, 3, 4; 0 = this architecture's only set); NULL when there is no such set here.
///
/// The caller makes sure that the CPU has the level.
const coord_kernels *coord_kernels_for(int level);

/// Flushes denormals to zero on the calling thread and returns the register as it was.
unsigned coord_float_mode_enter(void);
/// Gives the calling thread its register back.
void coord_float_mode_leave(unsigned before);

// A C function pointer in a struct is an optional in Swift: these call through without one.
static inline void coord_add(const coord_kernels *k, float *into, const float *from, size_t n) {
    k->add(into, from, n);
}
static inline void coord_tree_sum(
    const coord_kernels *k, float *into, const float *const *from, size_t count, size_t begin, size_t end) {
    k->tree_sum(into, from, count, begin, end);
}
static inline void coord_divide(const coord_kernels *k, float *x, float by, size_t n) { k->divide(x, by, n); }
static inline void coord_scale(const coord_kernels *k, float *x, float by, size_t n) { k->scale(x, by, n); }
static inline double coord_sum_squares(const coord_kernels *k, const float *x, size_t n) {
    return k->sum_squares(x, n);
}
static inline void coord_moments(
    const coord_kernels *k, const float *x, size_t n, double *sum, double *squares) {
    k->moments(x, n, sum, squares);
}
static inline void coord_normalize(
    const coord_kernels *k, float *y, const float *x, float mean, float deviation, size_t n) {
    k->normalize(y, x, mean, deviation, n);
}
static inline void coord_bias_rows(const coord_kernels *k, float *y, const float *bias, size_t rows, size_t columns) {
    k->bias_rows(y, bias, rows, columns);
}
static inline void coord_bias_planes(
    const coord_kernels *k, float *y, const float *bias, size_t rows, size_t columns) {
    k->bias_planes(y, bias, rows, columns);
}
static inline void coord_column_sums(
    const coord_kernels *k, float *into, const float *x, size_t rows, size_t columns) {
    k->column_sums(into, x, rows, columns);
}
static inline void coord_row_sums(
    const coord_kernels *k, float *into, const float *x, size_t rows, size_t columns) {
    k->row_sums(into, x, rows, columns);
}
static inline void coord_relu(const coord_kernels *k, float *x, size_t n) { k->relu(x, n); }
static inline void coord_relu_backward(const coord_kernels *k, float *d, const float *y, size_t n) {
    k->relu_backward(d, y, n);
}
static inline void coord_softmax(const coord_kernels *k, float *x, size_t rows, size_t classes) {
    k->softmax(x, rows, classes);
}
static inline void coord_cross_entropy(
    const coord_kernels *k, float *d, const float *logits, const int32_t *labels, size_t rows, size_t classes,
    double *loss, int64_t *correct) {
    k->cross_entropy(d, logits, labels, rows, classes, loss, correct);
}
static inline void coord_im2col(
    const coord_kernels *k, float *columns, const float *x, const coord_window *w, int32_t first, int32_t count) {
    k->im2col(columns, x, w, first, count);
}
static inline void coord_col2im(
    const coord_kernels *k, float *dx, const float *columns, const coord_window *w, int32_t first, int32_t count) {
    k->col2im(dx, columns, w, first, count);
}
static inline void coord_maxpool(
    const coord_kernels *k, float *y, uint8_t *where, const float *x, const coord_window *w) {
    k->maxpool(y, where, x, w);
}
static inline void coord_maxpool_backward(
    const coord_kernels *k, float *dx, const uint8_t *where, const float *dy, const coord_window *w) {
    k->maxpool_backward(dx, where, dy, w);
}
static inline void coord_sgd(
    const coord_kernels *k, float *p, const float *g, float *m, const coord_sgd_scalars *s, size_t n) {
    k->sgd(p, g, m, s, n);
}
static inline void coord_adamw(
    const coord_kernels *k, float *p, const float *g, float *m, float *v, const coord_adamw_scalars *s, size_t n) {
    k->adamw(p, g, m, v, s, n);
}
COORD_OPTIMIZER_KERNELS(COORD_DOOR)
COORD_LAYER_KERNELS(COORD_DOOR)
COORD_WINOGRAD_KERNELS(COORD_DOOR)
COORD_PRODUCT_KERNELS(COORD_DOOR)
COORD_FEW_ROWS_KERNELS(COORD_DOOR)
COORD_DEPTHWISE_KERNELS(COORD_DOOR)
