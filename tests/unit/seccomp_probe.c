/* Asks the kernel what a syscall filter answers, for test_seccomp_kernel.py. x86_64.
 *
 *   seccomp_probe ask FILTER < requests > answers    the filter's answer to each call, none of which is carried out
 *   seccomp_probe run FILTER PROGRAM [ARGUMENT...]   PROGRAM under the filter; a kill is reported on stderr, status 99
 *   seccomp_probe orphan FILTER PROGRAM...           the same with nobody at the listener, as when the launcher has died
 *   seccomp_probe call i386|x32|native NUMBER        carries the call out, arguments 0, and prints what it returned
 *
 * FILTER is a file of struct sock_filter, or "-" for none: the positive control.
 *
 * "ask" puts a second filter under the first, which sends every call that the first allows to a tracer
 * (SECCOMP_RET_TRACE ranks below ERRNO and USER_NOTIF and above ALLOW, seccomp(2)); the tracer skips the call. So exit,
 * fork and reboot can be asked like all others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_REQUESTS = 8192, KILLED_STATUS = 99 };
enum { TABLE_NATIVE = 0, TABLE_I386 = 1 };
enum kind { NOTHING, ALLOWED, ERRNO, NOTIFIED, SIGNALLED, RETURNED };
/* No errno has these numbers; the kernel passes on what tracer and listener set. */
enum { RESULT_ALLOWED = -4000, RESULT_NOTIFIED = -4001 };

struct request {
    uint64_t table;
    int64_t number;
    uint64_t args[6];
};

struct answer {
    uint32_t kind;
    int32_t value;
    uint32_t arch;
    int32_t number;
};

struct shared {
    volatile int seized;
    volatile int listener; /* the child's fd number; the tables of fds are one, by CLONE_FILES */
    volatile int asking;
    volatile uint32_t index;
    uint32_t count;
    struct request requests[MAX_REQUESTS];
    struct answer answers[MAX_REQUESTS];
};

static void die(const char *what)
{
    perror(what);
    _exit(98);
}

static int load(struct sock_filter *filter, size_t count, unsigned int flags)
{
    struct sock_fprog program = {.len = (unsigned short)count, .filter = filter};
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    if (result < 0)
        die("seccomp");
    return (int)result;
}

/* Load the filter with its listener; -1 where there is none. */
static int load_file(const char *path)
{
    static struct sock_filter filter[4096];
    if (strcmp(path, "-") == 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, filter, sizeof filter);
    if (size <= 0)
        die(path);
    close(fd);
    return load(filter, (size_t)size / sizeof *filter, SECCOMP_FILTER_FLAG_NEW_LISTENER);
}

static long call_native(long number, const uint64_t args[6])
{
    long result;
    register uint64_t r10 __asm__("r10") = args[3];
    register uint64_t r8 __asm__("r8") = args[4];
    register uint64_t r9 __asm__("r9") = args[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long call_i386(long number, const uint64_t args[6])
{
    uint32_t result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"((uint32_t)number), "b"(args[0]), "c"(args[1]), "d"(args[2]), "S"(args[3]), "D"(args[4])
                     : "r8", "r9", "r10", "r11", "memory");
    return (int32_t)result;
}

static void ask_all(struct shared *shared, const char *path)
{
    struct sock_filter trace[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRACE}};
    while (!shared->seized)
        sched_yield();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        die("no_new_privs");
    load(trace, 1, 0);
    shared->listener = load_file(path);
    (void)getppid(); /* stops at the tracer, which now learns of the listener */
    shared->asking = 1;
    for (uint32_t i = 0; i < shared->count; i++) {
        const struct request *request = &shared->requests[i];
        struct answer *answer = &shared->answers[i];
        shared->index = i;
        long result = request->table == TABLE_I386 ? call_i386(request->number, request->args)
                                                   : call_native(request->number, request->args);
        if (*(volatile uint32_t *)&answer->kind != NOTHING)
            continue; /* the tracer saw a signal, or the listener wrote it */
        answer->kind = result == RESULT_ALLOWED ? ALLOWED : result < 0 && result >= -4095 ? ERRNO : RETURNED;
        answer->value = answer->kind == ERRNO ? (int32_t)-result : (int32_t)result;
    }
    __asm__ volatile("int3"); /* the end, to be seen by the tracer without a system call */
    for (;;)
        ;
}

static void on_notification(struct shared *shared)
{
    struct seccomp_notif notification = {0};
    struct seccomp_notif_resp response = {0};
    if (ioctl(shared->listener, SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0)
        die("SECCOMP_IOCTL_NOTIF_RECV");
    shared->answers[shared->index] =
        (struct answer){NOTIFIED, 0, notification.data.arch, notification.data.nr};
    response.id = notification.id;
    response.error = RESULT_NOTIFIED;
    if (ioctl(shared->listener, SECCOMP_IOCTL_NOTIF_SEND, &response) != 0)
        die("SECCOMP_IOCTL_NOTIF_SEND");
}

/* Returns 1 when the child has asked everything. */
static int on_stop(struct shared *shared, pid_t child, int status)
{
    struct user_regs_struct registers;
    if (!WIFSTOPPED(status)) {
        fprintf(stderr, "the child ended, wait status %#x, at request %u\n", status, shared->index);
        _exit(98);
    }
    int event = status >> 16, signal = WSTOPSIG(status);
    if (event == PTRACE_EVENT_SECCOMP && shared->asking) {
        if (ptrace(PTRACE_GETREGS, child, 0, &registers) != 0)
            die("PTRACE_GETREGS");
        registers.orig_rax = (unsigned long long)-1;
        registers.rax = (unsigned long long)RESULT_ALLOWED;
        if (ptrace(PTRACE_SETREGS, child, 0, &registers) != 0)
            die("PTRACE_SETREGS");
    } else if (event == 0 && signal == SIGTRAP) {
        return 1;
    } else if (event == 0) {
        shared->answers[shared->index] = (struct answer){SIGNALLED, signal, 0, 0};
    }
    if (ptrace(PTRACE_CONT, child, 0, 0) != 0)
        die("PTRACE_CONT");
    return 0;
}

static int signal_fd(void)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGALRM);
    if (sigprocmask(SIG_BLOCK, &mask, NULL) != 0)
        die("sigprocmask");
    return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int ask(const char *path)
{
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    shared->count = (uint32_t)fread(shared->requests, sizeof(struct request), MAX_REQUESTS, stdin);
    shared->listener = -1;
    int signals = signal_fd();
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        ask_all(shared, path);
    if (child < 0 || ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL) != 0)
        die("PTRACE_SEIZE");
    shared->seized = 1;
    for (int done = 0; !done;) {
        struct pollfd fds[] = {{signals, POLLIN, 0}, {shared->listener, POLLIN, 0}};
        struct signalfd_siginfo info;
        int status;
        if (poll(fds, 2, -1) < 0)
            die("poll");
        if (read(signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGALRM) {
            fputs("the child hangs\n", stderr);
            return 98; /* and PTRACE_O_EXITKILL ends it */
        }
        if (fds[1].revents & POLLIN)
            on_notification(shared);
        while (!done && waitpid(child, &status, WNOHANG | __WALL) > 0)
            done = on_stop(shared, child, status);
    }
    kill(child, SIGKILL);
    if (waitpid(child, NULL, __WALL) < 0)
        die("waitpid");
    return fwrite(shared->answers, sizeof(struct answer), shared->count, stdout) == shared->count ? 0 : 98;
}

static int run(const char *path, char **argv)
{
    volatile int *listener = mmap(NULL, sizeof *listener, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int signals = signal_fd(), loaded = eventfd(0, EFD_CLOEXEC);
    sigset_t none;
    sigemptyset(&none);
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child < 0)
        die("clone");
    if (child == 0) {
        uint64_t one = 1;
        if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            sigprocmask(SIG_SETMASK, &none, NULL) != 0)
            die("set-up");
        *listener = load_file(path);
        if (write(loaded, &one, sizeof one) != sizeof one)
            die("eventfd");
        execvp(argv[0], argv);
        die(argv[0]);
    }
    struct pollfd fds[] = {{signals, POLLIN, 0}, {loaded, POLLIN, 0}, {-1, POLLIN, 0}};
    for (;;) {
        int status;
        struct signalfd_siginfo info;
        uint64_t count;
        if (poll(fds, 3, -1) < 0)
            die("poll");
        if (read(signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGALRM) {
            kill(-child, SIGKILL);
            fputs("the program hangs\n", stderr);
            return 98;
        }
        if (fds[1].revents & POLLIN) {
            (void)!read(loaded, &count, sizeof count);
            fds[1].fd = -1;
            fds[2].fd = *listener;
        }
        if (fds[2].revents & POLLIN) {
            struct seccomp_notif notification = {0};
            if (ioctl(*listener, SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0)
                die("SECCOMP_IOCTL_NOTIF_RECV");
            fprintf(stderr, "KILLED %d %#x\n", notification.data.nr, notification.data.arch);
            kill(-child, SIGKILL);
            waitpid(child, &status, 0);
            return KILLED_STATUS;
        }
        if (fds[2].revents & POLLHUP)
            fds[2].fd = -1;
        if (waitpid(child, &status, WNOHANG) == child) {
            kill(-child, SIGKILL);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
}

int main(int argc, char **argv)
{
    static const uint64_t zeros[6];
    alarm(100); /* seconds: a hang fails the test, see signal_fd */
    if (argc == 3 && strcmp(argv[1], "ask") == 0)
        return ask(argv[2]);
    if (argc >= 4 && strcmp(argv[1], "run") == 0)
        return run(argv[2], argv + 3);
    if (argc >= 4 && strcmp(argv[1], "orphan") == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
            die("no_new_privs");
        (void)load_file(argv[2]); /* born close-on-exec, the listener ends here */
        execvp(argv[3], argv + 3);
        die(argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "call") == 0) {
        long number = strtol(argv[3], NULL, 0);
        if (strcmp(argv[2], "i386") == 0)
            printf("%ld\n", call_i386(number, zeros));
        else
            printf("%ld\n", call_native(strcmp(argv[2], "x32") == 0 ? number | 0x40000000 : number, zeros));
        return 0;
    }
    fputs("usage: seccomp_probe ask FILTER | run|orphan FILTER PROGRAM... | call TABLE NUMBER\n", stderr);
    return 98;
}
