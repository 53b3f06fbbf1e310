#pragma once
#include <stddef.h>
#include <stdint.h>

// Floats in fewer bytes. All byte layouts are little endian: docs/formats/collectives.md. Every variant of a function
// gives the same bits. `left` is NULL, or takes what the encoding lost of each value: value - decoded value.

/// Values with one scale in an int8 encoding.
enum { coord_int8_block = 256 };

/// Variants of the vectorised functions: 0 portable, 1 AVX2, 2 AVX-512. The best one of this CPU.
int coord_codec_variant(void);

/// Rounds to bfloat16, ties to even; NaN stays NaN, infinities stay. `bytes`: 2 a value.
void coord_bf16_encode(int variant, const float *values, size_t count, uint8_t *bytes, float *left);
/// Widens bfloat16; exact.
void coord_bf16_decode(int variant, const uint8_t *bytes, size_t count, float *values);

/// Quantises to 8 bits in blocks of 256 with one scale: absolute error at most half a step of largest / 127.
///
/// `bytes`: 4 a block, its scale; then 1 a value. A block with a value that is not finite, or is 2^127 or more,
/// becomes NaN; one without a value of 2^-100 becomes 0.
void coord_int8_encode(int variant, const float *values, size_t count, uint8_t *bytes, float *left);
/// `code * scale`.
void coord_int8_decode(int variant, const uint8_t *bytes, size_t count, float *values);

/// Keeps the `keep` values of the largest magnitude, of equals those with the lower index; NaN is the largest of all.
///
/// `bytes`: the distances between their indices as LEB128, then 4 a value kept; at most 9 a value kept.
/// Returns how many bytes. `keep` is at most `count`, `count` less than 2^31.
size_t coord_topk_encode(const float *values, size_t count, size_t keep, uint8_t *bytes, float *left);
/// Puts the kept values in their places and 0 everywhere else; bytes of strangers are looked at one by one.
///
/// Returns 0, or -1 when they are no encoding of `keep` of `count` values; `values` is undefined then.
int coord_topk_decode(const uint8_t *bytes, size_t byte_count, size_t count, size_t keep, float *values);
