// Depthwise convolutions: each channel has one filter of its own. Included as KernelBodies.h is, after TileBodies.h.
//
// The images of a channel lie behind each other, so that a tap of the filter is one shift of all of them; what a shift brings
// from beyond a border is masked. A stride leaves out what was computed between, or puts zeros there on the way back: the
// work is bound by memory anyway. Sums are chains of fused multiply-adds in the order of the taps; the gradient of the
// filters is summed in one virtual width of 16.

// mask: [taps, H * W + 16]: all bits where the tap of a pixel lies inside its image; the first pixels again at the end.
static void SET(depthwise_masks)(uint32_t *mask, const coord_window *w) {
    const int H = w->height, W = w->width, k = w->kernel, reach = k / 2, pixels = H * W;
    for (int tap = 0; tap < k * k; tap++) {
        const int down = (tap / k - reach) * w->dilation, right = (tap % k - reach) * w->dilation;
        uint32_t *own = mask + (size_t)tap * (pixels + 16);
        for (int i = 0; i < pixels; i++) {
            int y = i / W + down, x = i % W + right;
            own[i] = y >= 0 && y < H && x >= 0 && x < W ? ~0u : 0;
        }
        for (int i = 0; i < 16; i++) own[pixels + i] = own[i % pixels];
    }
}

// Some images into scratch, with zeros up to a multiple of 16; those of outputs with zeros between them.
static void SET(depthwise_take)(
    float *restrict into, const float *restrict x, const coord_window *w, size_t images, int are_outputs) {
    const size_t pixels = (size_t)w->height * w->width, count = images * pixels;
    for (size_t i = count; i % 16; i++) into[i] = 0;
    if (!are_outputs || w->stride == 1) {
        memcpy(into, x, count * sizeof(float));
        return;
    }
    memset(into, 0, count * sizeof(float));
    for (size_t image = 0; image < images; image++)
        for (int row = 0; row < w->out_height; row++, x += w->out_width) {
            float *line = into + image * pixels + (size_t)row * w->stride * w->width;
            for (int i = 0; i < w->out_width; i++) line[i * w->stride] = x[i];
        }
}

// One channel's images, shifted and summed; turned, the filter is read from its end. `count` is rounded up to 16.
static inline void SET(depthwise_slide)(
    float *restrict y, const float *restrict x, const float *restrict filter, float bias, const uint32_t *restrict mask,
    const coord_window *w, size_t count, int k, int is_turned) {
    const int pixels = w->height * w->width, taps = k * k, reach = k / 2;
    int phase = 0;
    for (size_t i = 0; i < count; i += 16) {
        coord_v16 sum = {0};
        for (int tap = 0; tap < taps; tap++) {
            const ptrdiff_t shift = ((tap / k - reach) * w->width + tap % k - reach) * w->dilation;
            coord_u16 inside = *(const coord_u16_near *)(mask + tap * (pixels + 16) + phase);
            coord_v16 value = (coord_v16)((coord_u16)COORD_FROM(x + (ptrdiff_t)i + shift) & inside);
            sum = COORD_FMA(value, (coord_v16){0} + filter[is_turned ? taps - 1 - tap : tap], sum);
        }
        COORD_INTO(y + i) = sum + bias;
        phase += 16;
        while (phase >= pixels) phase -= pixels;
    }
}

// The scratch of one thread: masks, then images with room on both sides for what the taps reach beyond them.
typedef struct {
    uint32_t *mask;
    float *x, *y;
    size_t images;
} SET(depthwise_room);

static SET(depthwise_room) SET(depthwise_prepare)(float *scratch, const coord_window *w) {
    const size_t edge = coord_depthwise_edge(w), masks = coord_depthwise_masks(w);
    SET(depthwise_room) room = {
        (uint32_t *)scratch, scratch + masks + edge, scratch + masks + coord_depthwise_block(w) + edge,
        coord_depthwise_images(w)};
    SET(depthwise_masks)(room.mask, w);
    memset(scratch + masks, 0, 2 * coord_depthwise_block(w) * sizeof(float));
    return room;
}

static void SET(depthwise_pass)(
    float *restrict y, const float *restrict x, const float *restrict filters, const float *restrict bias,
    const coord_window *w, int is_turned, float *restrict scratch) {
    const SET(depthwise_room) room = SET(depthwise_prepare)(scratch, w);
    const size_t pixels = (size_t)w->height * w->width, outputs = (size_t)w->out_height * w->out_width;
    const size_t from = is_turned ? outputs : pixels, into = is_turned ? pixels : outputs;
    const int k = w->kernel;
    for (int c = 0; c < w->channels; c++)
        for (size_t b = 0; b < (size_t)w->samples; b += room.images) {
            const size_t images = w->samples - b < room.images ? w->samples - b : room.images;
            const float *filter = filters + (size_t)c * k * k, own = bias ? bias[c] : 0;
            float *target = y + (c * (size_t)w->samples + b) * into;
            SET(depthwise_take)(room.x, x + (c * (size_t)w->samples + b) * from, w, images, is_turned);
            // Where nothing is left out, and no vector reaches over the end, straight into place.
            const int is_whole = is_turned || w->stride == 1, is_direct = is_whole && images * pixels % 16 == 0;
            float *sums = is_direct ? target : room.y;
            if (k == 3)
                SET(depthwise_slide)(sums, room.x, filter, own, room.mask, w, images * pixels, 3, is_turned);
            else
                SET(depthwise_slide)(sums, room.x, filter, own, room.mask, w, images * pixels, k, is_turned);
            if (is_direct) continue;
            if (is_whole)
                memcpy(target, room.y, images * pixels * sizeof(float));
            else
                for (size_t row = 0; row < images * w->out_height; row++, target += w->out_width) {
                    const float *line =
                        room.y + row / w->out_height * pixels + row % w->out_height * w->stride * w->width;
                    for (int i = 0; i < w->out_width; i++) target[i] = line[i * w->stride];
                }
        }
}

static void SET(depthwise_forward)(
    float *y, const float *x, const float *filters, const float *bias, const coord_window *w, float *scratch) {
    SET(depthwise_pass)(y, x, filters, bias, w, 0, scratch);
}

static void SET(depthwise_inputs)(
    float *dx, const float *dy, const float *filters, const coord_window *w, float *scratch) {
    SET(depthwise_pass)(dx, dy, filters, NULL, w, 1, scratch);
}

// sum[tap] += d * x shifted by the tap, for one channel's images.
static inline void SET(depthwise_gather)(
    coord_v16 *restrict sum, const float *restrict d, const float *restrict x, const uint32_t *restrict mask,
    const coord_window *w, size_t count, int k) {
    const int pixels = w->height * w->width, taps = k * k, reach = k / 2;
    coord_v16 own[256];
    for (int tap = 0; tap < taps; tap++) own[tap] = sum[tap];
    int phase = 0;
    for (size_t i = 0; i < count; i += 16) {
        const coord_v16 gradient = COORD_FROM(d + i);
        for (int tap = 0; tap < taps; tap++) {
            const ptrdiff_t shift = ((tap / k - reach) * w->width + tap % k - reach) * w->dilation;
            coord_u16 inside = *(const coord_u16_near *)(mask + tap * (pixels + 16) + phase);
            coord_v16 value = (coord_v16)((coord_u16)COORD_FROM(x + (ptrdiff_t)i + shift) & inside);
            own[tap] = COORD_FMA(value, gradient, own[tap]);
        }
        phase += 16;
        while (phase >= pixels) phase -= pixels;
    }
    for (int tap = 0; tap < taps; tap++) sum[tap] = own[tap];
}

static void SET(depthwise_weights)(
    float *restrict dw, const float *restrict x, const float *restrict dy, const coord_window *w,
    float *restrict scratch) {
    const SET(depthwise_room) room = SET(depthwise_prepare)(scratch, w);
    const size_t pixels = (size_t)w->height * w->width, outputs = (size_t)w->out_height * w->out_width;
    const int k = w->kernel;
    for (int c = 0; c < w->channels; c++) {
        coord_v16 sum[256];
        for (int tap = 0; tap < k * k; tap++) sum[tap] = (coord_v16){0};
        for (size_t b = 0; b < (size_t)w->samples; b += room.images) {
            const size_t images = w->samples - b < room.images ? w->samples - b : room.images;
            const size_t first = c * (size_t)w->samples + b;
            SET(depthwise_take)(room.x, x + first * pixels, w, images, 0);
            SET(depthwise_take)(room.y, dy + first * outputs, w, images, 1);
            if (k == 3)
                SET(depthwise_gather)(sum, room.y, room.x, room.mask, w, images * pixels, 3);
            else
                SET(depthwise_gather)(sum, room.y, room.x, room.mask, w, images * pixels, k);
        }
        for (int tap = 0; tap < k * k; tap++) {
            float a[16];
            COORD_INTO(a) = sum[tap];
            dw[(size_t)c * k * k + tap] = SET(fold16)(a);
        }
    }
}
