/* Loaded before libc: the n-th call that changes a file fails, is cut short, or is the last. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { FAILS, FULL, SHORT, KILLED, TORN };

static long at, calls;
static int mode;

void faults_arm(long n, int how) { at = n, mode = how, calls = 0; }
long faults_calls(void) { return calls; }

/* Whether this call fails; a process that is to be killed ends here. */
static int fails(void)
{
    if (!at || ++calls < at || (calls > at && mode != FULL))
        return 0;
    if (mode == KILLED)
        _exit(9);
    errno = ENOSPC;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Of a write that is cut short, half is written. */
#define WRITES(name, ...)                                                     \
    if (fd <= 2 || !fails())                                                  \
        return NEXT(name)(fd, data, size, ##__VA_ARGS__);                     \
    if ((mode != SHORT && mode != TORN) || size < 2)                          \
        return -1;                                                            \
    ssize_t written = NEXT(name)(fd, data, size / 2, ##__VA_ARGS__);          \
    if (mode == TORN)                                                         \
        _exit(9);                                                             \
    return written;

ssize_t write(int fd, const void *data, size_t size) { WRITES(write) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t to) { WRITES(pwrite, to) }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t to) { WRITES(pwrite64, to) }
int fsync(int fd) { return fails() ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return fails() ? -1 : NEXT(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { return fails() ? -1 : NEXT(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fails() ? -1 : NEXT(ftruncate64)(fd, size); }
int rename(const char *from, const char *to) { return fails() ? -1 : NEXT(rename)(from, to); }
