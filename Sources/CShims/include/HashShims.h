#pragma once
#include <stddef.h>
#include <stdint.h>

/// A SHA-256 that is being made.
struct coord_hash {
    uint32_t state[8];
    /// Bytes so far.
    uint64_t length;
    /// The last `length % 64` of them, which are no whole block yet.
    uint8_t tail[64];
};

/// Bytes that a hash is to take.
struct coord_hash_job {
    struct coord_hash *hash;
    const uint8_t *bytes;
    size_t count;
};

/// True when this CPU has instructions for SHA-256; the other functions may be called only then.
int coord_hash_is_available(void);

void coord_hash_start(struct coord_hash *hash);

/// Takes all jobs, each of another hash, two at a time.
///
/// One hash is a chain of instructions that wait for one another and leave half of the unit idle; two fill it.
void coord_hash_update(const struct coord_hash_job *jobs, size_t count);

void coord_hash_finish(struct coord_hash *hash, uint8_t digest[32]);
