#pragma once
#include <stddef.h>
#include <stdint.h>

/// An anonymous file of `size` bytes that can't change its size any more, mapped for writing at `*address`.
///
/// Where the kernel can (5.1), nobody else can ever map it for writing. Pages take memory when they are touched.
/// The descriptor, or -errno.
int coord_memory_make(const char *name, size_t size, void **address);

/// Maps a file that another process made for reading; its size is told in `*size`.
///
/// Refused (-EPERM) unless it is sealed against shrinking: reading it can then never fault.
/// 0, or -errno.
int coord_memory_map(int descriptor, const void **address, size_t *size);

/// Unmaps.
void coord_memory_unmap(const void *address, size_t size);

/// A unix stream socket that listens under an abstract name; the descriptor, or -errno.
int coord_unix_listen(const char *name);

/// Connects to an abstract name that a process of the same user listens on; nonblocking. The descriptor, or -errno.
int coord_unix_connect(const char *name);

/// Whether a socket is a unix one, or bound to a loopback address.
int coord_is_loopback(int descriptor);

/// A descriptor that is readable when one of two is; -errno when there is none.
int coord_either(int first, int second);

/// Sends bytes and at most 4 descriptors together over a unix socket: the bytes, or -errno.
long coord_send_descriptors(int socket, const void *bytes, size_t count, const int *descriptors, int descriptor_count);

/// Receives bytes and at most `*descriptor_count` descriptors, which are closed on exec: the bytes, 0 at the end, or
/// -errno (EPROTO: more than that, or than 4, came; all are closed).
///
/// `*descriptor_count` becomes the number that came; the caller closes them.
long coord_receive_descriptors(int socket, void *bytes, size_t count, int *descriptors, int *descriptor_count);

/// Sleeps while the word has this value, at most so many milliseconds. The word may be mapped for reading only.
void coord_futex_wait(const uint32_t *word, uint32_t value, int milliseconds);
/// Wakes all that sleep on the word, in all processes.
void coord_futex_wake(const uint32_t *word);

/// Lets others run on this core.
void coord_yield(void);

/// Reads a word that another process writes; what was written before it is visible then.
static inline uint64_t coord_load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
/// Writes a word that other processes read.
static inline void coord_store(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
/// As `coord_load`.
static inline uint32_t coord_load32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
/// As `coord_store`.
static inline void coord_store32(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
/// What was written before is visible to others before anything is read after.
static inline void coord_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
/// A breath in a loop that waits.
static inline void coord_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}
