#include "CImages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t big32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/// The orientation that a TIFF block names; 1 when it names none or makes no sense.
int coord_image_tiff_orientation(const uint8_t *tiff, size_t count) {
    if (count < 14) return 1;
    int little = tiff[0] == 'I' && tiff[1] == 'I';
    if (!little && !(tiff[0] == 'M' && tiff[1] == 'M')) return 1;
#define U16(at) (little ? tiff[at] | tiff[(at) + 1] << 8 : tiff[at] << 8 | tiff[(at) + 1])
    if (U16(2) != 42) return 1;
    uint32_t first = little ? (uint32_t)tiff[4] | (uint32_t)tiff[5] << 8 | (uint32_t)tiff[6] << 16 | (uint32_t)tiff[7] << 24
                            : big32(tiff + 4);
    if (first > count - 2) return 1;
    size_t entries = U16(first);
    for (size_t i = 0; i < entries; i++) {
        size_t at = first + 2 + 12 * i;
        if (at + 12 > count) return 1;
        if (U16(at) == 0x0112) {
            int value = U16(at + 8);
            return value >= 1 && value <= 8 ? value : 1;
        }
    }
#undef U16
    return 1;
}

int coord_image_probe_jpeg(const uint8_t *, size_t, struct coord_image_info *, char *);
int coord_image_probe_png(const uint8_t *, size_t, struct coord_image_info *, char *);
int coord_image_decode_jpeg(const uint8_t *, size_t, const struct coord_image_info *, int, uint8_t *, char *);
int coord_image_decode_png(const uint8_t *, size_t, const struct coord_image_info *, int, uint8_t *, char *);

int coord_image_probe(const uint8_t *bytes, size_t count, struct coord_image_info *info, char *message) {
    memset(info, 0, sizeof *info);
    info->orientation = 1;
    message[0] = 0;
    if (count >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF)
        return coord_image_probe_jpeg(bytes, count, info, message);
    if (count >= 8 && !memcmp(bytes, "\x89PNG\r\n\x1a\n", 8)) return coord_image_probe_png(bytes, count, info, message);
    return -1;
}

int coord_image_decode(const uint8_t *bytes, size_t count, const struct coord_image_info *info, int channels,
                       uint8_t *target, char *message) {
    message[0] = 0;
    return info->format == coord_image_jpeg ? coord_image_decode_jpeg(bytes, count, info, channels, target, message)
                                            : coord_image_decode_png(bytes, count, info, channels, target, message);
}

void coord_image_turn(const uint8_t *source, uint32_t width, uint32_t height, int channels, int orientation,
                      uint8_t *target) {
    int swaps = orientation >= 5;
    uint32_t rows = swaps ? width : height, columns = swaps ? height : width;
    for (uint32_t y = 0; y < rows; y++) {
        for (uint32_t x = 0; x < columns; x++) {
            uint32_t a = swaps ? y : x, b = swaps ? x : y;  // place along the stored row, stored row
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) a = width - 1 - a;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) b = height - 1 - b;
            memcpy(target + ((size_t)y * columns + x) * channels, source + ((size_t)b * width + a) * channels, channels);
        }
    }
}

enum { precision = 22 };

/// The weights of one direction: for each place the first source, how many, and their weights.
struct weights {
    int size;
    int *bounds;
    int32_t *values;
};

static int make_weights(struct weights *w, int in, int out) {
    double scale = (double)in / out, width = scale < 1 ? 1 : scale;
    w->size = 2 * ((int)width + ((double)(int)width < width)) + 1;
    w->bounds = malloc(sizeof(int) * 2 * (size_t)out);
    w->values = malloc(sizeof(int32_t) * (size_t)out * w->size);
    double *row = malloc(sizeof(double) * w->size);
    if (!w->bounds || !w->values || !row) {
        free(row);
        return -1;
    }
    for (int x = 0; x < out; x++) {
        double center = (x + 0.5) * scale;
        int first = (int)(center - width + 0.5), end = (int)(center + width + 0.5);
        if (first < 0) first = 0;
        if (end > in) end = in;
        double sum = 0;
        for (int i = 0; i < end - first; i++) {
            double t = (i + first - center + 0.5) * (1 / width);
            if (t < 0) t = -t;
            row[i] = t < 1 ? 1 - t : 0;
            sum += row[i];
        }
        for (int i = 0; i < end - first; i++)
            w->values[(size_t)x * w->size + i] = (int32_t)(0.5 + (sum != 0 ? row[i] / sum : row[i]) * (1 << precision));
        w->bounds[2 * x] = first;
        w->bounds[2 * x + 1] = end - first;
    }
    free(row);
    return 0;
}

static uint8_t clip(int32_t value) {
    value >>= precision;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

int coord_image_scale(const uint8_t *source, int width, int height, int channels, uint8_t *target, int out_width,
                      int out_height) {
    struct weights across = {0}, down = {0};
    uint8_t *middle = malloc((size_t)height * out_width * channels);
    int failed = !middle || make_weights(&across, width, out_width) || make_weights(&down, height, out_height);
    for (int y = 0; !failed && y < height; y++) {
        for (int x = 0; x < out_width; x++) {
            int first = across.bounds[2 * x], count = across.bounds[2 * x + 1];
            const int32_t *k = across.values + (size_t)x * across.size;
            for (int c = 0; c < channels; c++) {
                const uint8_t *p = source + ((size_t)y * width + first) * channels + c;
                int32_t sum = 1 << (precision - 1);
                for (int i = 0; i < count; i++) sum += p[i * channels] * k[i];
                middle[((size_t)y * out_width + x) * channels + c] = clip(sum);
            }
        }
    }
    size_t row = (size_t)out_width * channels;
    for (int y = 0; !failed && y < out_height; y++) {
        int first = down.bounds[2 * y], count = down.bounds[2 * y + 1];
        const int32_t *k = down.values + (size_t)y * down.size;
        for (size_t x = 0; x < row; x++) {
            const uint8_t *p = middle + (size_t)first * row + x;
            int32_t sum = 1 << (precision - 1);
            for (int i = 0; i < count; i++) sum += p[(size_t)i * row] * k[i];
            target[(size_t)y * row + x] = clip(sum);
        }
    }
    free(middle);
    free(across.bounds);
    free(across.values);
    free(down.bounds);
    free(down.values);
    return failed ? -1 : 0;
}
