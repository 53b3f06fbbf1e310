#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CImages.h"

int coord_image_tiff_orientation(const uint8_t *, size_t);
int coord_image_probe_png(const uint8_t *, size_t, struct coord_image_info *, char *);
int coord_image_decode_png(const uint8_t *, size_t, const struct coord_image_info *, int, uint8_t *, char *);

static uint32_t big32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int coord_image_probe_png(const uint8_t *bytes, size_t count, struct coord_image_info *image, char *message) {
    static const int channels[] = {1, 0, 3, 3, 2, 0, 4};
    if (count < 33 || big32(bytes + 8) != 13 || memcmp(bytes + 12, "IHDR", 4) || bytes[25] > 6 || !channels[bytes[25]]) {
        snprintf(message, coord_image_message_size, "no image header");
        return -2;
    }
    image->format = coord_image_png;
    image->width = big32(bytes + 16);
    image->height = big32(bytes + 20);
    image->bits = bytes[24];
    image->channels = channels[bytes[25]];
    if (!image->width || !image->height) {
        snprintf(message, coord_image_message_size, "%u by %u pixels", image->width, image->height);
        return -2;
    }
    for (size_t at = 8; at + 12 <= count;) {
        size_t length = big32(bytes + at);
        const uint8_t *kind = bytes + at + 4;
        if (!memcmp(kind, "IDAT", 4) || !memcmp(kind, "IEND", 4)) break;
        if (!memcmp(kind, "acTL", 4)) image->is_animated = 1;
        if (!memcmp(kind, "eXIf", 4) && length <= count - at - 12)
            image->orientation = coord_image_tiff_orientation(bytes + at + 8, length);
        if (length > count - at - 12) break;
        at += 12 + length;
    }
    return 0;
}

struct source {
    const uint8_t *bytes;
    size_t left;
    char *message;
};

static void take(png_structp png, png_bytep target, png_size_t count) {
    struct source *source = png_get_io_ptr(png);
    if (count > source->left) png_error(png, "the file ends too early");
    memcpy(target, source->bytes, count);
    source->bytes += count;
    source->left -= count;
}

static void fail(png_structp png, png_const_charp text) {
    struct source *source = png_get_error_ptr(png);
    snprintf(source->message, coord_image_message_size, "%s", text);
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

int coord_image_decode_png(const uint8_t *bytes, size_t count, const struct coord_image_info *image, int channels,
                           uint8_t *target, char *message) {
    struct source source = {bytes, count, message};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, fail, ignore);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    png_bytep *rows = malloc(sizeof(png_bytep) * image->height);
    if (!png || !info || !rows || setjmp(png_jmpbuf(png))) {
        if (!message[0]) snprintf(message, coord_image_message_size, "no memory");
        png_destroy_read_struct(&png, &info, NULL);
        free(rows);
        return -2;
    }
    png_set_read_fn(png, &source, take);
    png_set_user_limits(png, image->width, image->height);
    png_set_chunk_cache_max(png, 128);
    png_set_chunk_malloc_max(png, 8 << 20);
    png_read_info(png, info);
    // Palettes and few bits become bytes; no gamma: values stay as they are stored.
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_strip_alpha(png);
    int is_color = png_get_color_type(png, info) & PNG_COLOR_MASK_COLOR;
    if (channels == 3 && !is_color) png_set_gray_to_rgb(png);
    if (channels == 1 && is_color) png_set_rgb_to_gray(png, PNG_ERROR_ACTION_NONE, PNG_RGB_TO_GRAY_DEFAULT, PNG_RGB_TO_GRAY_DEFAULT);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t row = (size_t)image->width * channels;
    if (png_get_rowbytes(png, info) != row || png_get_image_height(png, info) != image->height)
        png_error(png, "the head changed");
    for (uint32_t y = 0; y < image->height; y++) rows[y] = target + y * row;
    png_read_image(png, rows);
    png_read_end(png, NULL);
    png_destroy_read_struct(&png, &info, NULL);
    free(rows);
    return 0;
}

struct sink {
    uint8_t *bytes;
    size_t count, capacity;
};

static void give(png_structp png, png_bytep bytes, png_size_t count) {
    struct sink *sink = png_get_io_ptr(png);
    if (count > sink->capacity - sink->count) png_error(png, "no room");
    memcpy(sink->bytes + sink->count, bytes, count);
    sink->count += count;
}

static void flush(png_structp png) { (void)png; }

size_t coord_image_encode_png(const uint8_t *source, uint32_t width, uint32_t height, int channels, int bits,
                              uint8_t *target, size_t capacity) {
    struct sink sink = {target, 0, capacity};
    char message[coord_image_message_size];
    struct source failure = {NULL, 0, message};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &failure, fail, ignore);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!png || !info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return 0;
    }
    static const int types[] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
    png_set_write_fn(png, &sink, give, flush);
    png_set_IHDR(png, info, width, height, bits, types[channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (uint32_t y = 0; y < height; y++) png_write_row(png, source + (size_t)y * width * channels * (bits / 8));
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return sink.count;
}
