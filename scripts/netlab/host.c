// A machine of netlab: namespaces with a first process, and a way into them.
//
// host init NAME SCRIPT            new network, mount, process, IPC and host name namespaces; runs the file SCRIPT
//                                  there with /bin/sh, then prints `ready` and reaps until its standard input ends. Then the kernel
//                                  ends whatever runs in there: also when netlab.py was killed.
// host enter PID FOLDER COMMAND... runs a command in the namespaces of that first process, in FOLDER if it exists there.
//                                  Passes signals on, ends as the command ends, and takes the command along when killed.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
    fprintf(stderr, "netlab: %s: %s\n", what, strerror(errno));
    return 71;
}

static volatile pid_t child;

static void pass_on(int signal) {
    if (child > 0) kill(child, signal);
}

static int first_process(const char *name, const char *script) {
    if (sethostname(name, strlen(name)) != 0) return fail("sethostname");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return fail("private mounts");
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0) return fail("mount /proc");
    if (chdir("/") != 0) return fail("chdir");
    pid_t setup = fork();
    if (setup < 0) return fail("fork");
    if (setup == 0) {
        execl("/bin/sh", "sh", "-e", script, (char *)NULL);
        _exit(fail("/bin/sh"));
    }
    int status;
    if (waitpid(setup, &status, 0) < 0 || status != 0) {
        fprintf(stderr, "netlab: setting up %s failed\n", name);
        return 71;
    }
    // Orphans come to us; ignoring their ends reaps them.
    signal(SIGCHLD, SIG_IGN);
    // Terminal signals are for the person's programs; we end when our input does.
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0 || errno == EINTR) errno = 0;
    return 0;
}

static int init(const char *name, const char *script) {
    if (unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) != 0) return fail("unshare");
    child = fork();
    if (child < 0) return fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(first_process(name, script));
    }
    printf("%d\n", child);
    fflush(stdout);
    close(0);
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int enter(const char *pid, const char *folder, char **command) {
    static const char *kinds[] = {"net", "ipc", "uts", "pid", "mnt"};
    int namespaces[5];
    for (int i = 0; i < 5; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kinds[i]);
        namespaces[i] = open(path, O_RDONLY | O_CLOEXEC);
        if (namespaces[i] < 0) return fail(path);
    }
    for (int i = 0; i < 5; i++)
        if (setns(namespaces[i], 0) != 0) return fail(kinds[i]);
    if (chdir(folder) != 0 && chdir("/") != 0) return fail("chdir");
    int passed[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    child = fork();
    if (child < 0) return fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        execvp(command[0], command);
        _exit(fail(command[0]));
    }
    for (unsigned i = 0; i < sizeof passed / sizeof *passed; i++) signal(passed[i], pass_on);
    sigprocmask(SIG_SETMASK, &before, NULL);
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
        return 128 + WTERMSIG(status);
    }
    return WEXITSTATUS(status);
}

int main(int count, char **arguments) {
    if (count == 4 && strcmp(arguments[1], "init") == 0) return init(arguments[2], arguments[3]);
    if (count >= 5 && strcmp(arguments[1], "enter") == 0) return enter(arguments[2], arguments[3], arguments + 4);
    fprintf(stderr, "netlab: usage: host init NAME SCRIPT | host enter PID FOLDER COMMAND...\n");
    return 64;
}
