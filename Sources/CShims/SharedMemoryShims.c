#define _GNU_SOURCE
#include "SharedMemoryShims.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int fail(int descriptor) {
    int error = errno;
    if (descriptor >= 0) close(descriptor);
    return -error;
}

// MARK: Memory

int coord_memory_make(const char *name, size_t size, void **address) {
    int made = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0) return -errno;
    if (ftruncate(made, (off_t)size) < 0) return fail(made);
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, made, 0);
    if (mapped == MAP_FAILED) return fail(made);
    (void)madvise(mapped, size, MADV_HUGEPAGE);
    (void)madvise(mapped, size, MADV_DONTDUMP);
    int size_seals = F_SEAL_SHRINK | F_SEAL_GROW;
    // Before Linux 5.1 there is no such seal: others are trusted then to map for reading, as this code does.
    (void)fcntl(made, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
    if (fcntl(made, F_ADD_SEALS, size_seals | F_SEAL_SEAL) < 0) {
        int error = errno;
        munmap(mapped, size);
        close(made);
        return -error;
    }
    *address = mapped;
    return made;
}

int coord_memory_map(int descriptor, const void **address, size_t *size) {
    struct stat status;
    struct statfs kind;
    int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0) return -errno;
    if (!(seals & F_SEAL_SHRINK)) return -EPERM;
    // Pages of hugetlbfs may run out while they are read.
    if (fstatfs(descriptor, &kind) < 0) return -errno;
    if (kind.f_type != 0x01021994) return -EPERM;  // TMPFS_MAGIC
    if (fstat(descriptor, &status) < 0) return -errno;
    if (status.st_size <= 0) return -EINVAL;
    void *mapped = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
    if (mapped == MAP_FAILED) return -errno;
    (void)madvise(mapped, (size_t)status.st_size, MADV_DONTDUMP);
    *address = mapped;
    *size = (size_t)status.st_size;
    return 0;
}

void coord_memory_unmap(const void *address, size_t size) { munmap((void *)address, size); }

// MARK: Sockets

static int abstract_address(const char *name, struct sockaddr_un *address, socklen_t *length) {
    size_t count = strlen(name);
    if (count + 1 > sizeof address->sun_path) return -ENAMETOOLONG;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + 1, name, count);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + count);
    return 0;
}

int coord_unix_listen(const char *name) {
    struct sockaddr_un address;
    socklen_t length;
    int checked = abstract_address(name, &address, &length);
    if (checked < 0) return checked;
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0) return -errno;
    if (bind(made, (struct sockaddr *)&address, length) < 0 || listen(made, 128) < 0) return fail(made);
    return made;
}

int coord_unix_connect(const char *name) {
    struct sockaddr_un address;
    socklen_t length;
    int checked = abstract_address(name, &address, &length);
    if (checked < 0) return checked;
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0) return -errno;
    if (connect(made, (struct sockaddr *)&address, length) < 0) return fail(made);
    // Names of this kind belong to nobody: whoever took it first must at least be this user.
    struct ucred who;
    socklen_t who_length = sizeof who;
    if (getsockopt(made, SOL_SOCKET, SO_PEERCRED, &who, &who_length) < 0) return fail(made);
    if (who.uid != geteuid()) {
        close(made);
        return -EPERM;
    }
    return made;
}

int coord_is_loopback(int descriptor) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (getsockname(descriptor, (struct sockaddr *)&address, &length) < 0) return 0;
    if (address.ss_family == AF_UNIX) return 1;
    if (address.ss_family == AF_INET)
        return (ntohl(((struct sockaddr_in *)&address)->sin_addr.s_addr) >> 24) == 127;
    if (address.ss_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&address)->sin6_addr);
    return 0;
}

int coord_either(int first, int second) {
    int made = epoll_create1(EPOLL_CLOEXEC);
    if (made < 0) return -errno;
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(made, EPOLL_CTL_ADD, first, &event) < 0 || epoll_ctl(made, EPOLL_CTL_ADD, second, &event) < 0)
        return fail(made);
    return made;
}

enum { MOST_DESCRIPTORS = 4 };

long coord_send_descriptors(int socket, const void *bytes, size_t count, const int *descriptors, int descriptor_count) {
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
    } control;
    if (descriptor_count < 0 || descriptor_count > MOST_DESCRIPTORS) return -EINVAL;
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor_count > 0) {
        size_t size = (size_t)descriptor_count * sizeof(int);
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(header), descriptors, size);
    }
    ssize_t sent;
    do sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

long coord_receive_descriptors(int socket, void *bytes, size_t count, int *descriptors, int *descriptor_count) {
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = count};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int room = *descriptor_count, came = 0;
    *descriptor_count = 0;
    ssize_t received;
    do received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < number; i++) {
            int one;
            memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof one);
            if (came < room) descriptors[came] = one;
            else close(one);
            came++;
        }
    }
    if (came > room || message.msg_flags & MSG_CTRUNC) {
        for (int i = 0; i < came && i < room; i++) close(descriptors[i]);
        return -EPROTO;
    }
    *descriptor_count = came;
    return received;
}

// MARK: Waiting

void coord_futex_wait(const uint32_t *word, uint32_t value, int milliseconds) {
    struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = (milliseconds % 1000) * 1000000L};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &time, NULL, 0);
}

void coord_futex_wake(const uint32_t *word) { (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }

void coord_yield(void) { (void)sched_yield(); }
