#define _GNU_SOURCE
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int count;
static volatile sig_atomic_t seen;
static sigjmp_buf back;

static void *work(void *nothing) { pthread_mutex_lock(&mutex); count++; pthread_cond_signal(&condition); pthread_mutex_unlock(&mutex); return nothing; }
static void note(int number) { seen = number; }
static void leave(int number) { siglongjmp(back, number); }

static void files(void)
{
	char directory[] = "/tmp/xXXXXXX", name[64], buffer[16];
	assert(mkdtemp(directory));
	snprintf(name, sizeof name, "%s/file", directory);
	FILE *file = fopen(name, "w+");
	assert(file && fputs("one\ntwo\n", file) >= 0 && fseek(file, 4, SEEK_SET) == 0 && fgets(buffer, sizeof buffer, file));
	assert(strcmp(buffer, "two\n") == 0 && fflush(file) == 0 && fsync(fileno(file)) == 0 && fclose(file) == 0);
	int fd = open(name, O_RDWR | O_CLOEXEC);
	struct iovec parts[] = { { "a", 1 }, { "b", 1 } };
	assert(pwrite(fd, "x", 1, 0) == 1 && pread(fd, buffer, 1, 0) == 1 && writev(fd, parts, 2) == 2 && ftruncate(fd, 4) == 0);
	char *mapped = mmap(NULL, 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert(mapped != MAP_FAILED && mapped[0] == 'a' && munmap(mapped, 4) == 0 && lockf(fd, F_TLOCK, 0) == 0 && close(fd) == 0);
	struct stat found;
	assert(stat(name, &found) == 0 && found.st_size == 4 && chmod(name, 0600) == 0 && access(name, R_OK) == 0);
	DIR *entries = opendir(directory);
	assert(entries && readdir(entries) && closedir(entries) == 0);
	assert(unlink(name) == 0 && rmdir(directory) == 0);
}

int main(int argc, char **argv)
{
	setlocale(LC_ALL, "");
	files();
	pid_t pid = fork();
	if (pid == 0)
		execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
	int status;
	assert(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3 && system("exit 4") == 4 << 8);
	FILE *pipe_ = popen("cat", "w");
	assert(pipe_ && pclose(pipe_) == 0);
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		assert(pthread_create(&threads[i], NULL, work, NULL) == 0);
	pthread_mutex_lock(&mutex);
	while (count < 4)
		pthread_cond_wait(&condition, &mutex);
	pthread_mutex_unlock(&mutex);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	sem_t semaphore;
	assert(sem_init(&semaphore, 0, 1) == 0 && sem_wait(&semaphore) == 0);
	signal(SIGUSR1, note);
	assert(raise(SIGUSR1) == 0 && seen == SIGUSR1);
	signal(SIGALRM, note);
	assert(setitimer(ITIMER_REAL, &(struct itimerval){ .it_value = { 0, 5000 } }, NULL) == 0 && pause() < 0 && seen == SIGALRM);
	signal(SIGSEGV, leave);
	if (sigsetjmp(back, 1) == 0)
		*(volatile int *)NULL = 1;
	int pair[2], epoll = epoll_create1(0), event = eventfd(1, 0);
	struct epoll_event wanted = { .events = EPOLLIN }, got;
	assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && write(pair[0], "x", 1) == 1);
	assert(poll(&(struct pollfd){ pair[1], POLLIN, 0 }, 1, 100) == 1);
	assert(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) == 0 && epoll_wait(epoll, &got, 1, 100) == 1);
	nanosleep(&(struct timespec){ 0, 5000000 }, NULL);
	struct rusage usage;
	assert(getrusage(RUSAGE_SELF, &usage) == 0 && sysconf(_SC_NPROCESSORS_ONLN) > 0 && clock() >= 0 && time(NULL) > 0);
	char *big = malloc(64 << 20);
	memset(big, 1, 64 << 20);
	big = realloc(big, 96 << 20);
	free(big);
	char line[64];
	assert(fgets(line, sizeof line, stdin));
	line[strcspn(line, "\n")] = '\0';
	printf("%s", line);
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	fprintf(stderr, "bad\n");
	printf("\ndone\n");
	return 0;
}
