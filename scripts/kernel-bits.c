// Prints a hash of what some kernels compute, one line each: for scripts/check-aarch64, which compares two machines.
#include <CKernels.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const coord_kernels *kernels;

static float *numbers(size_t count, uint32_t seed) {
    float *x = calloc(count + 64, sizeof(float));
    for (size_t i = 0; x && i < count; i++)
        x[i] = (float)((((uint32_t)i + 1) * 2654435761u * seed) >> 8 & 0xFFFF) / 65536.0f - 0.5f;
    return x;
}

static void say(const char *name, const float *x, size_t count) {
    uint64_t hash = 0xCBF29CE484222325ull;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        hash = (hash ^ bits) * 0x100000001B3ull;
    }
    printf("%s %016llx\n", name, (unsigned long long)hash);
}

static void convolve(int rounds) {
    const coord_winograd s = {17, 33, 9, 8, 13};
    const size_t plane = 9 * 8 * 13;
    float *x = numbers(17 * plane, 1), *dy = numbers(33 * plane, 2), *w = numbers(33 * 17 * 9, 3);
    float *u = numbers(coord_winograd_filter_count(&s, 0), 1), *y = numbers(33 * plane, 1), *dw = numbers(33 * 17 * 9, 1);
    float *scratch = numbers(coord_winograd_forward_scratch(&s) + coord_winograd_weights_scratch(&s, 3), 1);
    const int blocks = (int)coord_winograd_blocks(&s);
    if (rounds) {
        coord_rounded_winograd_filters(kernels, u, w, &s, 0, 0, 5);
        coord_rounded_winograd_forward(kernels, y, x, u, NULL, &s, 0, blocks, 0, 5, scratch);
        coord_rounded_winograd_weights(kernels, dw, x, dy, &s, 0, 3, scratch);
    } else {
        coord_winograd_filters(kernels, u, w, &s, 0, 0, 5);
        coord_winograd_forward(kernels, y, x, u, NULL, &s, 0, blocks, 0, 5, scratch);
        coord_winograd_weights(kernels, dw, x, dy, &s, 0, 3, scratch);
    }
    say(rounds ? "rounded winograd" : "winograd", y, 33 * plane);
    say(rounds ? "rounded winograd's filters" : "winograd's filters", dw, 33 * 17 * 9);
}

static void slide(int stride) {
    const coord_window w = {5, 7, 9, 11, 3, stride, 1, 1, 8 / stride + 1, 10 / stride + 1};
    const size_t in = 5 * 7 * 9 * 11, out = (size_t)5 * 7 * w.out_height * w.out_width;
    float *x = numbers(in, 1), *dy = numbers(out, 2), *filters = numbers(45, 3), *y = numbers(out, 1);
    float *dx = numbers(in, 1), *dw = numbers(45, 1), *scratch = numbers(coord_depthwise_scratch(&w), 1);
    coord_depthwise_forward(kernels, y, x, filters, NULL, &w, scratch);
    coord_depthwise_inputs(kernels, dx, dy, filters, &w, scratch);
    coord_depthwise_weights(kernels, dw, x, dy, &w, scratch);
    say("depthwise", y, out);
    say("depthwise's inputs", dx, in);
    say("depthwise's filters", dw, 45);
}

int main(void) {
#if defined(__x86_64__)
    // v3, which any machine that builds this has, and which has fused multiply-add as aarch64 has.
    kernels = coord_kernels_for(3);
#else
    kernels = coord_kernels_for(0);
#endif
    coord_float_mode_enter();
    for (int rounds = 0; rounds < 2; rounds++) {
        float *a = numbers(37 * 29, 1), *b = numbers(29 * 45, 2), *c = numbers(37 * 45, 3);
        float *scratch = numbers(coord_product_scratch(37, 45, 29), 1);
        (rounds ? coord_rounded_product : coord_product)(kernels, c, 45, a, 29, 0, b, 29, 1, 37, 45, 29, 1, scratch);
        say(rounds ? "rounded product" : "product", c, 37 * 45);
        convolve(rounds);
    }
    slide(1);
    slide(2);
    float *x = numbers(1000, 1), *y = numbers(1000, 2), *d = numbers(1000, 3);
    double sum, squares;
    coord_moments(kernels, x, 1000, &sum, &squares);
    const float both[2] = {(float)sum, (float)squares};
    say("moments", both, 2);
    coord_softmax(kernels, x, 8, 125);
    say("softmax", x, 1000);
    const coord_adamw_scalars scalars = {0.99f, 0.01f, 0.5f, 0.1f, 0.999f, 0.001f, 1e-8f};
    float *m = numbers(1000, 4), *v = numbers(1000, 5);
    for (int i = 0; i < 1000; i++) v[i] += 0.5f;
    coord_adamw(kernels, y, d, m, v, &scalars, 1000);
    say("adamw", y, 1000);
    for (int kind = 0; kind < 5; kind++) {
        coord_activate(kernels, y, d, kind, 1000);
        say("activation", y, 1000);
    }
    return 0;
}
