#pragma once
#include <stddef.h>
#include <stdint.h>

/// A listening TCP socket on a numeric address; fills in the actual port. The descriptor, or -errno.
int coord_tcp_listen(const char *ip, uint16_t port, uint16_t *actual_port);

/// Starts connecting to a numeric address without waiting: writable when done. The descriptor, or -errno.
int coord_tcp_connect(const char *ip, uint16_t port);

/// Takes one waiting connection without blocking (-EAGAIN: none). The descriptor, or -errno.
int coord_tcp_accept(int listener);

/// Switches a descriptor to nonblocking; 0, or -errno.
int coord_set_nonblocking(int descriptor);

/// An eventfd(2), nonblocking: the descriptor, or -errno.
int coord_event_make(void);
/// Makes the event readable.
void coord_event_signal(int descriptor);
/// Makes the event unreadable until the next signal.
void coord_event_clear(int descriptor);

/// Reads into two buffers, in order, without blocking: the bytes, 0 at the end, or -errno.
long coord_receive(int descriptor, void *first, size_t first_count, void *second, size_t second_count);
/// Writes from two buffers, in order, without blocking and without SIGPIPE: the bytes, or -errno.
long coord_send(int descriptor, const void *first, size_t first_count, const void *second, size_t second_count);

/// CRC-32C (Castagnoli) of `count` bytes, going on from `crc` (0 to start): SSE4.2 where the CPU has it.
uint32_t coord_crc32c(uint32_t crc, const void *bytes, size_t count);
/// The same by table, on any CPU; for the test that compares them.
uint32_t coord_crc32c_portable(uint32_t crc, const void *bytes, size_t count);

/// Adds a fingerprint of `count` bytes to eight accumulators.
///
/// The sum over all pieces of an array is the same however the array was cut, as long as every piece starts at a
/// multiple of 64 bytes: `first` is the place of its first byte.
void coord_fingerprint(uint64_t accumulators[8], const void *values, uint64_t first, size_t count);
/// The same, and copies the bytes to `target`, read once.
void coord_copy_fingerprint(
    uint64_t accumulators[8], void *target, const void *values, uint64_t first, size_t count);

/// The calling thread's floating-point control word (rounding, denormals).
uint64_t coord_float_mode(void);

/// Combines leaves along a tree, element by element: `target[i] = tree(leaves[0][i], leaves[1][i], ...)`.
///
/// `type`: 0 f32, 1 bf16 (each node computed as floats and rounded to nearest even), 2 f64, 3 i32 (a sum wraps round).
/// `reduction`: 0 lower + upper, 1 the smaller, 2 the larger (the lower where they are equal or not comparable).
/// `program` is the tree in postfix order: n >= 0 pushes leaf n, -1 combines the two on top (lower and upper).
/// `mode` is the control word to compute under. `target` may be a leaf itself, at the same index. The results, of which
/// the first has index `first` in the whole array (on a multiple of 64 bytes), are added to the fingerprint.
/// A tree is at most 8 values deep. Returns 0, or -1 for a program that is no tree.
int coord_combine_tree(
    int type, int reduction, const void *const *leaves, const int16_t *program, size_t program_count,
    void *target, size_t count, uint64_t mode, uint64_t accumulators[8], uint64_t first);
