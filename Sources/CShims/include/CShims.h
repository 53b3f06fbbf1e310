#pragma once
#include <stddef.h>
#include <stdint.h>

#include "CodecShims.h"
#include "CollectiveShims.h"
#include "HashShims.h"
#include "SharedMemoryShims.h"

/// Names the calling thread; at most 15 bytes.
void coord_set_thread_name(const char *name);

/// The x86-64 micro-architecture level of this CPU: 1 to 4; 0 on another architecture.
int coord_cpu_level(void);

/// Starts a program.
///
/// `files[i]` becomes descriptor `i` of the child (-1: /dev/null); all other descriptors are closed.
/// With `new_session` the child leads a session of its own (and survives the caller's terminal and shell).
/// Signals are reset to their defaults. With `die_with_parent` the child gets SIGKILL when the calling
/// thread's process ends.
/// Returns the pid, or -errno when the program could not be started (the child's exec error included).
int coord_spawn(
    const char *path, char *const argv[], char *const envp[], const char *directory,
    const int *files, int file_count, int new_session, int die_with_parent);

/// A descriptor that becomes readable when process `pid` ends, or -errno.
int coord_pidfd_open(int pid);

/// WIFEXITED/WEXITSTATUS as one number: 0...255 = exit status, 256 + n = ended by signal n.
int coord_wait_status(int status);

/// pipe2(2) with O_CLOEXEC; 0, or -errno.
int coord_pipe(int ends[2]);

/// socketpair(2) of unix stream sockets with SOCK_CLOEXEC; 0, or -errno.
int coord_socket_pair(int ends[2]);

/// Lets a pipe hold so much, where the system allows it; anything else stays as it is.
void coord_set_pipe_size(int descriptor, int bytes);

/// accept4(2) with SOCK_CLOEXEC; the descriptor, or -errno.
int coord_accept(int listener);

/// open(2) with O_CREAT and a mode, which Swift can't call (variadic).
int coord_open(const char *path, int flags, unsigned mode);

/// flock(2) without waiting; 0, or -errno.
int coord_try_lock(int descriptor);
