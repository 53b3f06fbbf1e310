// The order matters: jpeglib.h wants FILE.
#include <stdio.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "CImages.h"

int coord_image_tiff_orientation(const uint8_t *, size_t);
int coord_image_probe_jpeg(const uint8_t *, size_t, struct coord_image_info *, char *);
int coord_image_decode_jpeg(const uint8_t *, size_t, const struct coord_image_info *, int, uint8_t *, char *);

/// A file in many scans takes long to decode and is small: more than any camera writes are refused.
enum { most_scans = 200 };

struct failure {
    struct jpeg_error_mgr manager;
    jmp_buf jump;
    char *message;
};

static void fail(j_common_ptr info) {
    struct failure *failure = (struct failure *)info->err;
    char text[JMSG_LENGTH_MAX];
    info->err->format_message(info, text);
    snprintf(failure->message, coord_image_message_size, "%s", text);
    longjmp(failure->jump, 1);
}

/// Warnings of damaged data end the decoding; libjpeg would go on with grey.
static void warn(j_common_ptr info, int level) {
    if (level >= 0) return;
    switch (info->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_ADOBE_XFORM: return;
    default: fail(info);
    }
}

static void silent(j_common_ptr info) { (void)info; }

static void watch(j_common_ptr info) {
    if (((j_decompress_ptr)info)->input_scan_number > most_scans) {
        struct failure *failure = (struct failure *)info->err;
        snprintf(failure->message, coord_image_message_size, "more than %d scans", most_scans);
        longjmp(failure->jump, 1);
    }
}

static void prepare(struct jpeg_decompress_struct *info, struct failure *failure, char *message) {
    failure->message = message;
    info->err = jpeg_std_error(&failure->manager);
    failure->manager.error_exit = fail;
    failure->manager.emit_message = warn;
    failure->manager.output_message = silent;
}

int coord_image_probe_jpeg(const uint8_t *bytes, size_t count, struct coord_image_info *image, char *message) {
    struct jpeg_decompress_struct info;
    struct failure failure;
    prepare(&info, &failure, message);
    if (setjmp(failure.jump)) {
        jpeg_destroy_decompress(&info);
        return -2;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, bytes, count);
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    image->format = coord_image_jpeg;
    image->width = info.image_width;
    image->height = info.image_height;
    image->channels = info.num_components;
    image->bits = info.data_precision;
    image->is_cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
    for (jpeg_saved_marker_ptr m = info.marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length > 6 && !memcmp(m->data, "Exif\0\0", 6)) {
            image->orientation = coord_image_tiff_orientation(m->data + 6, m->data_length - 6);
            break;
        }
    jpeg_destroy_decompress(&info);
    return 0;
}

int coord_image_decode_jpeg(const uint8_t *bytes, size_t count, const struct coord_image_info *image, int channels,
                            uint8_t *target, char *message) {
    struct jpeg_decompress_struct info;
    struct jpeg_progress_mgr progress = {0};
    struct failure failure;
    prepare(&info, &failure, message);
    if (setjmp(failure.jump)) {
        jpeg_destroy_decompress(&info);
        return -2;
    }
    jpeg_create_decompress(&info);
    progress.progress_monitor = watch;
    info.progress = &progress;
    jpeg_mem_src(&info, bytes, count);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    // Exact in integers, so that every machine decodes the same bits.
    info.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&info);
    if (info.output_width != image->width || info.output_height != image->height || info.output_components != channels) {
        snprintf(message, coord_image_message_size, "the head changed");
        jpeg_destroy_decompress(&info);
        return -2;
    }
    size_t row = (size_t)info.output_width * channels;
    while (info.output_scanline < info.output_height) {
        JSAMPROW line = target + info.output_scanline * row;
        jpeg_read_scanlines(&info, &line, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return 0;
}

size_t coord_image_encode_jpeg(const uint8_t *source, uint32_t width, uint32_t height, int channels, int quality,
                               uint8_t *target, size_t capacity) {
    struct jpeg_compress_struct info;
    struct failure failure;
    char message[coord_image_message_size];
    failure.message = message;
    info.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = fail;
    unsigned char *made = NULL;
    unsigned long size = 0;
    if (setjmp(failure.jump)) {
        jpeg_destroy_compress(&info);
        free(made);
        return 0;
    }
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &made, &size);
    info.image_width = width;
    info.image_height = height;
    info.input_components = channels;
    info.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, quality, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < height) {
        JSAMPROW line = (JSAMPROW)(source + (size_t)info.next_scanline * width * channels);
        jpeg_write_scanlines(&info, &line, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    size_t count = size <= capacity ? size : 0;
    memcpy(target, made, count);
    free(made);
    return count;
}
