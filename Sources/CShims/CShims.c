#define _GNU_SOURCE
#include "CShims.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

void coord_set_thread_name(const char *name) {
    pthread_setname_np(pthread_self(), name);
}

int coord_cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    return v4 ? 4 : v3 ? 3 : v2 ? 2 : 1;
#else
    return 0;
#endif
}

// Between vfork-like clone and exec only async-signal-safe calls are made, so this is safe in a threaded program.
int coord_spawn(
    const char *path, char *const argv[], char *const envp[], const char *directory,
    const int *files, int file_count, int new_session, int die_with_parent) {
    int report[2];
    if (pipe2(report, O_CLOEXEC) != 0) return -errno;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        if (die_with_parent) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) _exit(127);
        }
        if (new_session) setsid();
        for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
        int error = 0;
        // First above the range of targets, then down: no source is overwritten before it is used.
        int moved[16];
        if (file_count > 16) error = EINVAL;
        int channel = fcntl(report[1], F_DUPFD_CLOEXEC, 64);
        for (int i = 0; i < file_count && !error; i++) {
            int source = files[i] >= 0 ? files[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
            moved[i] = fcntl(source, F_DUPFD_CLOEXEC, 64);
            if (moved[i] < 0) error = errno;
        }
        for (int i = 0; i < file_count && !error; i++)
            if (dup2(moved[i], i) < 0) error = errno;
        if (!error && syscall(SYS_close_range, (unsigned)file_count, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) != 0) {
            long limit = sysconf(_SC_OPEN_MAX);
            for (int d = file_count; d < (limit > 0 && limit < 65536 ? limit : 65536); d++)
                if (d != channel) fcntl(d, F_SETFD, FD_CLOEXEC);
        }
        if (!error && directory && chdir(directory) != 0) error = errno;
        if (!error) {
            sigset_t none;
            sigemptyset(&none);
            sigprocmask(SIG_SETMASK, &none, NULL);
            execve(path, argv, envp);
            error = errno;
        }
        ssize_t ignored = write(channel, &error, sizeof error);
        (void)ignored;
        _exit(127);
    }
    int fork_error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        return -fork_error;
    }
    int error = 0;
    ssize_t got;
    do got = read(report[0], &error, sizeof error);
    while (got < 0 && errno == EINTR);
    close(report[0]);
    if (got == sizeof error) {
        waitpid(pid, NULL, 0);
        return -error;
    }
    return pid;
}

int coord_pidfd_open(int pid) {
    int descriptor = (int)syscall(SYS_pidfd_open, pid, 0);
    return descriptor < 0 ? -errno : descriptor;
}

int coord_wait_status(int status) {
    return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

int coord_pipe(int ends[2]) {
    return pipe2(ends, O_CLOEXEC) == 0 ? 0 : -errno;
}

int coord_socket_pair(int ends[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : -errno;
}

void coord_set_pipe_size(int descriptor, int bytes) { fcntl(descriptor, F_SETPIPE_SZ, bytes); }

int coord_accept(int listener) {
    int descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    return descriptor >= 0 ? descriptor : -errno;
}

int coord_open(const char *path, int flags, unsigned mode) {
    return open(path, flags | O_CLOEXEC, (mode_t)mode);
}

int coord_try_lock(int descriptor) {
    return flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : -errno;
}
