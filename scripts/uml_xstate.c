/* uml_xstate: lets Debian's User Mode Linux 6.1 run on processors with more than 2696 bytes of register state.
 *
 * That kernel restores a process's floating point registers by PTRACE_SETREGSET of NT_X86_XSTATE, from a buffer of
 * 2696 bytes (arch/x86/um/user-offsets.c, HOST_FP_SIZE: AVX-512 and PKRU). The host refuses every length but its own
 * with EFAULT (arch/x86/kernel/fpu/regset.c, xstateregs_set), and with AMX its own is 11008: init dies at once with
 * "ptrace set fp regs failed, errno = 14". Preloaded, this ptrace() fills the missing tail with the registers as they
 * are, which no guest program has changed: the tiles must be asked for (ARCH_REQ_XCOMP_PERM), and nobody does.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long restore_padded(long pid, const struct iovec *given)
{
	static unsigned char state[1 << 16]; /* one tracer, one thread */
	struct iovec whole = { .iov_base = state, .iov_len = sizeof(state) };

	if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, (long)NT_X86_XSTATE, &whole) != 0)
		return -1;
	if (given->iov_len >= whole.iov_len) {
		errno = EFAULT; /* the length was not the trouble */
		return -1;
	}
	memcpy(state, given->iov_base, given->iov_len);
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, (long)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;

	va_start(arguments, request);
	long pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	/* The system call stores a peeked word through `data`; the function returns it (ptrace(2), "C library/kernel"). */
	long word = 0;
	int peek = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
	long result = syscall(SYS_ptrace, (long)request, pid, address, peek ? &word : data);

	if (peek && result == 0) {
		errno = 0;
		return word;
	}
	if (result == -1 && errno == EFAULT && request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE)
		return restore_padded(pid, data);
	return result;
}
