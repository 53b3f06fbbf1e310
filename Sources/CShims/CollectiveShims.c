#define _GNU_SOURCE
#include "CollectiveShims.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

// MARK: Sockets

static socklen_t parse_address(const char *ip, uint16_t port, struct sockaddr_storage *address) {
    memset(address, 0, sizeof *address);
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    if (inet_pton(AF_INET, ip, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return sizeof *four;
    }
    if (inet_pton(AF_INET6, ip, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        return sizeof *six;
    }
    return 0;
}

static void set(int descriptor, int level, int name, int value) {
    setsockopt(descriptor, level, name, &value, sizeof value);
}

// A pulled cable is noticed within 5 s even while nothing is sent.
static void set_link_options(int descriptor) {
    set(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
    set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set(descriptor, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
}

int coord_tcp_listen(const char *ip, uint16_t port, uint16_t *actual_port) {
    struct sockaddr_storage address;
    socklen_t length = parse_address(ip, port, &address);
    if (length == 0) return -EINVAL;
    int descriptor = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return -errno;
    if (port != 0) set(descriptor, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(descriptor, (struct sockaddr *)&address, length) != 0 || listen(descriptor, 128) != 0 ||
        getsockname(descriptor, (struct sockaddr *)&address, &length) != 0) {
        int error = errno;
        close(descriptor);
        return -error;
    }
    *actual_port = ntohs(
        address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                     : ((struct sockaddr_in6 *)&address)->sin6_port);
    return descriptor;
}

int coord_tcp_connect(const char *ip, uint16_t port) {
    struct sockaddr_storage address;
    socklen_t length = parse_address(ip, port, &address);
    if (length == 0) return -EINVAL;
    int descriptor = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return -errno;
    set_link_options(descriptor);
    if (connect(descriptor, (struct sockaddr *)&address, length) != 0 && errno != EINPROGRESS) {
        int error = errno;
        close(descriptor);
        return -error;
    }
    return descriptor;
}

int coord_tcp_accept(int listener) {
    int descriptor;
    do descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (descriptor < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (descriptor < 0) return -errno;
    set_link_options(descriptor);
    return descriptor;
}

int coord_set_nonblocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    return flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : -errno;
}

int coord_event_make(void) {
    int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return descriptor < 0 ? -errno : descriptor;
}

void coord_event_signal(int descriptor) {
    uint64_t one = 1;
    ssize_t ignored = write(descriptor, &one, sizeof one);
    (void)ignored;
}

void coord_event_clear(int descriptor) {
    uint64_t value;
    ssize_t ignored = read(descriptor, &value, sizeof value);
    (void)ignored;
}

long coord_receive(int descriptor, void *first, size_t first_count, void *second, size_t second_count) {
    struct iovec parts[2] = {{first, first_count}, {second, second_count}};
    int skip = first_count == 0;
    ssize_t count;
    do count = readv(descriptor, parts + skip, 2 - skip - (second_count == 0));
    while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : count;
}

long coord_send(int descriptor, const void *first, size_t first_count, const void *second, size_t second_count) {
    struct iovec parts[2] = {{(void *)first, first_count}, {(void *)second, second_count}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t count;
    do count = sendmsg(descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : count;
}

// MARK: CRC-32C

#define POLYNOMIAL 0x82f63b78u  // reflected
enum { LONG_RUN = 4096, SHORT_RUN = 256 };

static uint32_t byte_table[8][256];
static uint32_t long_shift[4][256], short_shift[4][256];  // advance a CRC over a run of zero bytes
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static uint32_t advance_by_zeros(uint32_t crc, size_t count) {
    while (count--) crc = crc >> 8 ^ byte_table[0][crc & 255];
    return crc;
}

static void make_tables(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        byte_table[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int k = 1; k < 8; k++) {
            uint32_t before = byte_table[k - 1][n];
            byte_table[k][n] = before >> 8 ^ byte_table[0][before & 255];
        }
    // The advance is linear over GF(2): 32 images of single bits make every table entry.
    for (int pass = 0; pass < 2; pass++) {
        uint32_t image[32];
        for (int bit = 0; bit < 32; bit++)
            image[bit] = advance_by_zeros(1u << bit, pass ? SHORT_RUN : LONG_RUN);
        for (int k = 0; k < 4; k++)
            for (uint32_t n = 0; n < 256; n++) {
                uint32_t sum = 0;
                for (int bit = 0; bit < 8; bit++)
                    if (n >> bit & 1) sum ^= image[8 * k + bit];
                (pass ? short_shift : long_shift)[k][n] = sum;
            }
    }
}

uint32_t coord_crc32c_portable(uint32_t crc, const void *bytes, size_t count) {
    pthread_once(&tables_once, make_tables);
    const uint8_t *p = bytes;
    crc = ~crc;
    for (; count >= 8; p += 8, count -= 8) {
        uint32_t low = crc ^ (p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = byte_table[7][low & 255] ^ byte_table[6][low >> 8 & 255] ^ byte_table[5][low >> 16 & 255] ^
              byte_table[4][low >> 24] ^ byte_table[3][p[4]] ^ byte_table[2][p[5]] ^ byte_table[1][p[6]] ^
              byte_table[0][p[7]];
    }
    while (count--) crc = crc >> 8 ^ byte_table[0][(crc ^ *p++) & 255];
    return ~crc;
}

#if defined(__x86_64__)
#include <immintrin.h>

static inline uint32_t shifted(uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24];
}

// The instruction takes 3 cycles but starts each cycle: three streams side by side, joined by the shift tables.
#define THREE_STREAMS(run, table)                                   \
    while (count >= 3 * run) {                                      \
        uint64_t b = 0, c = 0;                                      \
        for (size_t i = 0; i < run; i += 8) {                       \
            uint64_t x, y, z;                                       \
            memcpy(&x, p + i, 8);                                   \
            memcpy(&y, p + run + i, 8);                             \
            memcpy(&z, p + 2 * run + i, 8);                         \
            a = _mm_crc32_u64(a, x);                                \
            b = _mm_crc32_u64(b, y);                                \
            c = _mm_crc32_u64(c, z);                                \
        }                                                           \
        a = shifted(table, (uint32_t)a) ^ b;                        \
        a = shifted(table, (uint32_t)a) ^ c;                        \
        p += 3 * run;                                               \
        count -= 3 * run;                                           \
    }

__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t crc, const uint8_t *p, size_t count) {
    uint64_t a = (uint32_t)~crc;
    THREE_STREAMS(LONG_RUN, long_shift)
    THREE_STREAMS(SHORT_RUN, short_shift)
    for (; count >= 8; p += 8, count -= 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        a = _mm_crc32_u64(a, x);
    }
    for (; count; p++, count--) a = _mm_crc32_u8((uint32_t)a, *p);
    return ~(uint32_t)a;
}
#endif

uint32_t coord_crc32c(uint32_t crc, const void *bytes, size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        pthread_once(&tables_once, make_tables);
        return crc32c_hardware(crc, bytes, count);
    }
#endif
    return coord_crc32c_portable(crc, bytes, count);
}
