// JPEG and PNG out of memory, without a jump across Swift frames: libjpeg and libpng report errors by longjmp.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { coord_image_jpeg = 1, coord_image_png = 2 };

/// What a file's head says; nothing is decoded.
struct coord_image_info {
    int format;
    uint32_t width, height;
    /// As stored: 1 grey, 2 grey and alpha, 3 colours, 4 colours and alpha, or CMYK where `is_cmyk`.
    int channels;
    /// Bits of a channel as stored.
    int bits;
    /// EXIF, 1 to 8; 1 where there is none.
    int orientation;
    int is_cmyk, is_animated;
};

enum { coord_image_message_size = 200 };

/// Reads the head of a file. 0 = done; -1 = neither JPEG nor PNG; -2 = damaged, `message` says how.
int coord_image_probe(const uint8_t *bytes, size_t count, struct coord_image_info *info, char *message);

/// Decodes into rows of `channels` (1 or 3) bytes a pixel, not turned: `width * height * channels` of the head.
/// 0 = done; -2 = damaged or cut off. Grey becomes three equal channels, 16 bits become 8, alpha is dropped.
int coord_image_decode(const uint8_t *bytes, size_t count, const struct coord_image_info *info, int channels,
                       uint8_t *target, char *message);

/// Turns rows of pixels as EXIF asks; for 5 to 8 the target is `width` rows of `height` pixels.
void coord_image_turn(const uint8_t *source, uint32_t width, uint32_t height, int channels, int orientation,
                      uint8_t *target);

/// Scales to `out_width` by `out_height`: a triangle as wide as the step, in fixed point; Pillow's BILINEAR to the bit.
/// 0 = done; -1 = no memory.
int coord_image_scale(const uint8_t *source, int width, int height, int channels, uint8_t *target, int out_width,
                      int out_height);

/// Encodes rows of `channels` bytes a pixel, for tests; returns the count, 0 when `capacity` does not do.
size_t coord_image_encode_jpeg(const uint8_t *source, uint32_t width, uint32_t height, int channels, int quality,
                               uint8_t *target, size_t capacity);
size_t coord_image_encode_png(const uint8_t *source, uint32_t width, uint32_t height, int channels, int bits,
                              uint8_t *target, size_t capacity);
