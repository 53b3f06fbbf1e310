// The convolutions of the workloads of engine-vs-torch.py by the engine's kernels and by oneDNN, by turns in one process on one thread.
// Benchmarks/onednn-convolutions builds and runs it; what is printed is said there.
extern "C" {
#include <CKernels.h>
}
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

using namespace dnnl;

struct Shape {
    const char *name;
    int channels, filters, size, kernel, stride, groups;
};

static const Shape shapes[] = {
    {"64-64 3x3, 32x32", 64, 64, 32, 3, 1, 1},      {"128-128 3x3, 16x16", 128, 128, 16, 3, 1, 1},
    {"256-256 3x3, 8x8", 256, 256, 8, 3, 1, 1},     {"512-512 3x3, 4x4", 512, 512, 4, 3, 1, 1},
    {"3-64 3x3, 32x32", 3, 64, 32, 3, 1, 1},        {"64-128 3x3 by 2, 32x32", 64, 128, 32, 3, 2, 1},
    {"256-512 3x3 by 2, 8x8", 256, 512, 8, 3, 2, 1}, {"64-128 1x1 by 2, 32x32", 64, 128, 32, 1, 2, 1},
    {"32-64 3x3, 14x14", 32, 64, 14, 3, 1, 1},      {"144 depthwise 3x3, 16x16", 144, 144, 16, 3, 1, 144},
};
static const int batch = 64;
static const coord_kernels *kernels;

static std::vector<float> numbers(size_t count) {
    std::vector<float> x(count);
    for (size_t i = 0; i < count; i++) x[i] = float((i * 2654435761u >> 8) & 0xFFFF) / 65536 - 0.5f;
    return x;
}

static double seconds(const std::function<void()> &body) {
    auto start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Forward, gradient of the filters, gradient at the inputs.
using Passes = std::vector<std::function<void()>>;

// What the engine runs for the shape; rounded, Winograd's way back is, too.
static Passes ours(const Shape &s, bool rounds) {
    const int pad = s.kernel / 2, out = (s.size + 2 * pad - s.kernel) / s.stride + 1;
    const size_t in = size_t(batch) * s.size * s.size, row = size_t(batch) * out * out;
    auto x = new auto(numbers(s.channels * in)), dx = new auto(*x), y = new auto(numbers(s.filters * row));
    auto w = new auto(numbers(size_t(s.filters) * s.channels / s.groups * s.kernel * s.kernel)), dw = new auto(*w);
    auto window = new coord_window{s.channels, batch, s.size, s.size, s.kernel, s.stride, pad, 1, out, out};
    if (s.groups > 1) {
        auto scratch = new std::vector<float>(coord_depthwise_scratch(window));
        return {
            [=] { coord_depthwise_forward(kernels, y->data(), x->data(), w->data(), nullptr, window, scratch->data()); },
            [=] { coord_depthwise_weights(kernels, dw->data(), x->data(), y->data(), window, scratch->data()); },
            [=] { coord_depthwise_inputs(kernels, dx->data(), y->data(), w->data(), window, scratch->data()); }};
    }
    if (s.kernel == 3 && s.stride == 1 && s.channels >= 16) {
        auto f = new coord_winograd{s.channels, s.filters, batch, s.size, s.size};
        auto t = new coord_winograd{s.filters, s.channels, batch, s.size, s.size};
        size_t blocks = (s.filters + 15) / 16, rows = (s.filters + 7) / 8, turned = (s.channels + 7) / 8;
        auto u = new std::vector<float>(std::max(coord_winograd_filter_count(f, 0), coord_winograd_filter_count(t, 0)));
        auto scratch = new std::vector<float>(std::max(
            {coord_winograd_forward_scratch(f), coord_winograd_forward_scratch(t),
             coord_winograd_weights_scratch(f, int(blocks))}));
        auto filters = rounds ? coord_rounded_winograd_filters : coord_winograd_filters;
        auto back = rounds ? coord_rounded_winograd_forward : coord_winograd_forward;
        auto weights = rounds ? coord_rounded_winograd_weights : coord_winograd_weights;
        return {
            [=] {
                coord_winograd_filters(kernels, u->data(), w->data(), f, 0, 0, int(rows));
                coord_winograd_forward(
                    kernels, y->data(), x->data(), u->data(), nullptr, f, 0, int(coord_winograd_blocks(f)), 0, int(rows),
                    scratch->data());
            },
            [=] { weights(kernels, dw->data(), x->data(), y->data(), f, 0, int(blocks), scratch->data()); },
            [=] {
                filters(kernels, u->data(), w->data(), t, 1, 0, int(turned));
                back(
                    kernels, dx->data(), y->data(), u->data(), nullptr, t, 0, int(coord_winograd_blocks(t)), 0,
                    int(turned), scratch->data());
            }};
    }
    const size_t depth = size_t(s.channels) * s.kernel * s.kernel, pixels = size_t(out) * out;
    const size_t least = (256 + pixels - 1) / pixels;
    const size_t group = std::min<size_t>(batch, std::max(least, (1u << 17) / (depth * pixels)));
    auto columns = new std::vector<float>(group * depth * pixels);
    auto scratch = new std::vector<float>(
        coord_product_scratch(s.filters, group * pixels, depth) + coord_product_scratch(s.filters, depth, group * pixels)
        + coord_product_scratch(depth, group * pixels, s.filters));
    auto multiply = [=](size_t m, size_t n, size_t k, const float *a, bool turnedA, size_t lda, const float *b,
                        bool turnedB, size_t ldb, bool adds, float *c, size_t ldc) {
        (rounds ? coord_rounded_product : coord_product)(
            kernels, c, ldc, a, lda, turnedA, b, ldb, turnedB, m, n, k, adds, scratch->data());
    };
    auto each = [=](const std::function<void(size_t, size_t)> &body) {
        for (size_t first = 0; first < batch; first += group) body(first, std::min<size_t>(group, batch - first));
    };
    return {
        [=] {
            each([=](size_t first, size_t count) {
                coord_im2col(kernels, columns->data(), x->data(), window, int(first), int(count));
                multiply(
                    s.filters, count * pixels, depth, w->data(), false, depth, columns->data(), false, count * pixels,
                    false, y->data() + first * pixels, row);
            });
        },
        [=] {
            each([=](size_t first, size_t count) {
                coord_im2col(kernels, columns->data(), x->data(), window, int(first), int(count));
                multiply(
                    s.filters, depth, count * pixels, y->data() + first * pixels, false, row, columns->data(), true,
                    count * pixels, first > 0, dw->data(), depth);
            });
        },
        [=] {
            each([=](size_t first, size_t count) {
                multiply(
                    depth, count * pixels, s.filters, w->data(), true, depth, y->data() + first * pixels, false, row,
                    false, columns->data(), count * pixels);
                coord_col2im(kernels, dx->data(), columns->data(), window, int(first), int(count));
            });
        }};
}

// oneDNN with the layouts it likes best, already in them: no reordering is counted.
static Passes theirs(const Shape &s, memory::data_type type) {
    static engine device(engine::kind::cpu, 0);
    static stream queue(device);
    const int pad = s.kernel / 2, out = (s.size + 2 * pad - s.kernel) / s.stride + 1;
    auto any = memory::format_tag::any;
    memory::desc x({batch, s.channels, s.size, s.size}, type, any), y({batch, s.filters, out, out}, type, any);
    memory::dims filters{s.filters, s.channels, s.kernel, s.kernel};
    if (s.groups > 1) filters = {s.groups, s.filters / s.groups, s.channels / s.groups, s.kernel, s.kernel};
    memory::desc w(filters, type, any);
    memory::dims strides{s.stride, s.stride}, padding{pad, pad};
    auto way = algorithm::convolution_direct;
    convolution_forward::primitive_desc forward(
        {prop_kind::forward_training, way, x, w, y, strides, padding, padding}, device);
    convolution_backward_data::primitive_desc inputs({way, x, w, y, strides, padding, padding}, device, forward);
    convolution_backward_weights::primitive_desc weights({way, x, w, y, strides, padding, padding}, device, forward);
    auto place = [](const memory::desc &d) {
        memory m(d, device);
        std::fill_n(static_cast<char *>(m.get_data_handle()), d.get_size(), 0x3C);
        return m;
    };
    auto pass = [](primitive p, std::unordered_map<int, memory> arguments) {
        return [=]() mutable {
            p.execute(queue, arguments);
            queue.wait();
        };
    };
    return {
        pass(convolution_forward(forward),
             {{DNNL_ARG_SRC, place(forward.src_desc())}, {DNNL_ARG_WEIGHTS, place(forward.weights_desc())},
              {DNNL_ARG_DST, place(forward.dst_desc())}}),
        pass(convolution_backward_weights(weights),
             {{DNNL_ARG_SRC, place(weights.src_desc())}, {DNNL_ARG_DIFF_DST, place(weights.diff_dst_desc())},
              {DNNL_ARG_DIFF_WEIGHTS, place(weights.diff_weights_desc())}}),
        pass(convolution_backward_data(inputs),
             {{DNNL_ARG_DIFF_DST, place(inputs.diff_dst_desc())}, {DNNL_ARG_WEIGHTS, place(inputs.weights_desc())},
              {DNNL_ARG_DIFF_SRC, place(inputs.diff_src_desc())}})};
}

int main(int count, char **words) {
    const int rounds = count > 1 ? atoi(words[1]) : 9;
    kernels = coord_kernels_for(__builtin_cpu_supports("avx512bw") ? 4 : 3);
    coord_float_mode_enter();
    const dnnl_version_t *version = dnnl_version();
    printf("oneDNN %d.%d.%d, batch %d, one thread, medians of %d turns\n", version->major, version->minor,
           version->patch, batch, rounds);
    printf("| convolution | numbers | engine ms (forward + filters + inputs) | oneDNN ms | oneDNN / engine |\n");
    printf("|---|---|---|---|---|\n");
    for (const Shape &s : shapes)
        for (bool rounded : {false, true}) {
            Passes sides[2] = {
                ours(s, rounded), theirs(s, rounded ? memory::data_type::bf16 : memory::data_type::f32)};
            std::vector<double> taken[2][3];
            for (int round = 0; round <= rounds; round++)
                for (int side = 0; side < 2; side++)
                    for (int pass = 0; pass < 3; pass++) {
                        double t = seconds(sides[side][pass]);
                        if (round > 0) taken[side][pass].push_back(t);
                    }
            double ms[2][3], total[2] = {0, 0};
            for (int side = 0; side < 2; side++)
                for (int pass = 0; pass < 3; pass++) {
                    auto &t = taken[side][pass];
                    std::nth_element(t.begin(), t.begin() + t.size() / 2, t.end());
                    total[side] += ms[side][pass] = t[t.size() / 2] * 1e3;
                }
            printf("| %s | %s | %.1f + %.1f + %.1f | %.1f + %.1f + %.1f | %.2f |\n", s.name, rounded ? "bf16" : "float32",
                   ms[0][0], ms[0][1], ms[0][2], ms[1][0], ms[1][1], ms[1][2], total[1] / total[0]);
            fflush(stdout);
        }
    return 0;
}
