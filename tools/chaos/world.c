/* LD_PRELOAD for a process under test: a slow disk, a clock that is set, and a record of all that reaches the disk.
 *
 *   WORLD_FOLDER=DIR        what is recorded and slowed: files under DIR
 *   WORLD_RECORD=FILE       append every change of such a file, every sync, and every send on a TCP socket, in their order
 *   WORLD_SLOW_MS=N         each write and sync of such a file takes a random time up to twice that longer
 *   WORLD_DIALS=FILE        two int64 that may change at any time: nanoseconds that CLOCK_REALTIME is ahead, and the errno with
 *                           which every change of such a file fails (0: none does), as on a disk that is full or read-only
 *
 * A record is a head of eight native int64 (magic, op, file, offset, length of data, length of path, result, time), then
 * path and data. `file` is an inode, of a send the socket. One lock is held around an operation and its record, so that the order of
 * the records is the order of the operations.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, SEND, MAP };
#define MAGIC 0x444c524f57454e4cLL
#define FDS 4096

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *folder;
static size_t folder_length;
static int record_fd = -1;
static long slow_ms;
static volatile int64_t *dials;  /* [0] the clock, [1] the errno */
static ino_t inode_of[FDS];  /* 0: not ours */
static char is_folder[FDS];

#define REAL(result, name, ...) \
  typedef result (*name##_type)(__VA_ARGS__); \
  static name##_type name##_found; \
  static name##_type real_##name(void) { \
    if (!name##_found) name##_found = (name##_type)dlsym(RTLD_NEXT, #name); \
    return name##_found; \
  }
REAL(int, open, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
REAL(int, ftruncate64, int, off64_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, rename, const char *, const char *)
REAL(int, renameat, int, const char *, int, const char *)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, mkdir, const char *, mode_t)
REAL(ssize_t, send, int, const void *, size_t, int)
REAL(ssize_t, sendto, int, const void *, size_t, int, const struct sockaddr *, socklen_t)
REAL(void *, mmap64, void *, size_t, int, int, int, off64_t)
REAL(int, posix_fallocate64, int, off64_t, off64_t)
REAL(int, clock_gettime, clockid_t, struct timespec *)

__attribute__((constructor)) static void begin(void) {
  folder = getenv("WORLD_FOLDER");
  folder_length = folder ? strlen(folder) : 0;
  const char *record = getenv("WORLD_RECORD"), *turn = getenv("WORLD_DIALS"), *slow = getenv("WORLD_SLOW_MS");
  if (record) record_fd = real_open()(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (slow) slow_ms = atol(slow);
  if (turn) {
    int fd = real_open()(turn, O_RDONLY | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : real_mmap64()(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) { perror("WORLD_DIALS"); _exit(71); }
    dials = at;
    real_close()(fd);
  }
}

static int is_ours(const char *path) { return folder && strncmp(path, folder, folder_length) == 0; }
static int refused(void) {
  if (!dials || !dials[1]) return 0;
  errno = (int)dials[1];
  return 1;
}
static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }
static int known(int fd) { return fd >= 0 && fd < FDS && inode_of[fd]; }

static void note(int op, int64_t file, int64_t offset, const char *path, const void *data, size_t length, int64_t result) {
  if (record_fd < 0) return;
  int kept = errno;
  struct timespec now;
  real_clock_gettime()(CLOCK_MONOTONIC, &now);
  int64_t head[8] = {MAGIC, op, file, offset, (int64_t)length, path ? (int64_t)strlen(path) : 0, result,
                     now.tv_sec * 1000000000LL + now.tv_nsec};
  struct iovec parts[3] = {{head, sizeof head}, {(void *)(path ? path : ""), path ? strlen(path) : 0}, {(void *)data, length}};
  size_t whole = sizeof head + parts[1].iov_len + length;
  if (real_writev()(record_fd, parts, 3) != (ssize_t)whole) { perror("WORLD_RECORD"); _exit(71); }
  errno = kept;
}

static int opened(int fd, const char *path, int flags) {
  struct stat about;
  if (fd < 0 || fd >= FDS || !is_ours(path) || fstat(fd, &about) != 0) return fd;
  inode_of[fd] = about.st_ino;
  is_folder[fd] = S_ISDIR(about.st_mode);
  note(OPEN, about.st_ino, 0, path, NULL, 0, is_folder[fd] ? 2 : flags & O_TRUNC ? 1 : 0);
  return fd;
}

#define WITH_LOCK(expression) \
  pthread_mutex_lock(&lock); \
  __typeof__(expression) result = (expression); \
  int kept_errno = errno;
#define DONE \
  pthread_mutex_unlock(&lock); \
  errno = kept_errno; \
  return result;

static int open_any(const char *path, int flags, mode_t mode) {
  if (is_ours(path) && writes(flags) && refused()) return -1;
  WITH_LOCK(opened(real_open()(path, flags, mode), path, flags))
  DONE
}
#define MODE mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { MODE return open_any(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_any(path, flags | O_LARGEFILE, mode); }
static int openat_any(int at, const char *path, int flags, mode_t mode) {
  if (is_ours(path) && writes(flags) && refused()) return -1;
  WITH_LOCK(opened(real_openat()(at, path, flags, mode), path, flags))
  DONE
}
int openat(int at, const char *path, int flags, ...) { MODE return openat_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE return openat_any(at, path, flags | O_LARGEFILE, mode); }

int close(int fd) {
  WITH_LOCK((fd >= 0 && fd < FDS ? (void)(inode_of[fd] = 0) : (void)0, real_close()(fd)))
  DONE
}

static void slowly(int fd) {
  if (!slow_ms || !known(fd)) return;
  static __thread unsigned seed;
  if (!seed) seed = (unsigned)time(NULL) ^ (unsigned)getpid() ^ (unsigned)(uintptr_t)&seed;
  usleep((useconds_t)(rand_r(&seed) % (2000 * slow_ms + 1)));
}

static ssize_t wrote(int fd, const void *data, size_t length, int64_t offset, ssize_t count) {
  if (count > 0 && known(fd)) note(WRITE, inode_of[fd], offset, NULL, data, count, count);
  return count;
}

ssize_t write(int fd, const void *data, size_t length) {
  if (!known(fd)) return real_write()(fd, data, length);
  if (refused()) return -1;
  slowly(fd);
  pthread_mutex_lock(&lock);
  off_t at = lseek(fd, 0, SEEK_CUR);
  if (fcntl(fd, F_GETFL) & O_APPEND) at = lseek(fd, 0, SEEK_END);
  ssize_t result = wrote(fd, data, length, at, real_write()(fd, data, length));
  int kept_errno = errno;
  DONE
}

static ssize_t pwrite_any(int fd, const void *data, size_t length, off64_t offset) {
  if (known(fd) && refused()) return -1;
  slowly(fd);
  WITH_LOCK(wrote(fd, data, length, offset, real_pwrite64()(fd, data, length, offset)))
  DONE
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite_any(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite_any(fd, data, length, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!known(fd)) return real_writev()(fd, parts, count);
  ssize_t total = 0;
  for (int i = 0; i < count; i++) {
    ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (done < 0) return total ? total : done;
    total += done;
    if ((size_t)done < parts[i].iov_len) break;
  }
  return total;
}

static int truncated(int fd, int64_t size, int result) {
  if (result == 0 && known(fd)) note(TRUNCATE, inode_of[fd], size, NULL, NULL, 0, 0);
  return result;
}
static int truncate_any(int fd, off64_t size) {
  if (known(fd) && refused()) return -1;
  WITH_LOCK(truncated(fd, size, real_ftruncate64()(fd, size)))
  DONE
}
int ftruncate(int fd, off_t size) { return truncate_any(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_any(fd, size); }

static int allocate_any(int fd, off64_t offset, off64_t length) {
  pthread_mutex_lock(&lock);
  struct stat about = {0};
  int result = real_posix_fallocate64()(fd, offset, length), kept_errno = errno;
  if (result == 0 && known(fd) && fstat(fd, &about) == 0) note(TRUNCATE, inode_of[fd], about.st_size, NULL, NULL, 0, 0);
  DONE
}
int posix_fallocate(int fd, off_t offset, off_t length) { return allocate_any(fd, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocate_any(fd, offset, length); }

/* what was written before the call is what is durable after it: the record stands at the end of the call, and carries in
 * `offset` how many bytes of records there were at its beginning */
static int sync_any(int fd, int (*real)(int)) {
  off_t before = record_fd < 0 ? 0 : lseek(record_fd, 0, SEEK_END);
  slowly(fd);
  int result = real(fd), kept_errno = errno;
  pthread_mutex_lock(&lock);
  if (result == 0 && known(fd)) note(is_folder[fd] ? SYNC_FOLDER : SYNC, inode_of[fd], before, NULL, NULL, 0, 0);
  DONE
}
int fsync(int fd) { return sync_any(fd, real_fsync()); }
int fdatasync(int fd) { return sync_any(fd, real_fdatasync()); }

static int renamed(const char *from, const char *to, int result) {
  if (result == 0 && (is_ours(from) || is_ours(to))) note(RENAME, 0, 0, from, to, strlen(to), 0);
  return result;
}
int rename(const char *from, const char *to) {
  if (is_ours(to) && refused()) return -1;
  WITH_LOCK(renamed(from, to, real_rename()(from, to)))
  DONE
}
int renameat(int at, const char *from, int to_at, const char *to) {
  WITH_LOCK(renamed(from, to, real_renameat()(at, from, to_at, to)))
  DONE
}
static int unlinked(const char *path, int result) {
  if (result == 0 && is_ours(path)) note(UNLINK, 0, 0, path, NULL, 0, 0);
  return result;
}
int unlink(const char *path) {
  if (is_ours(path) && refused()) return -1;
  WITH_LOCK(unlinked(path, real_unlink()(path)))
  DONE
}
int unlinkat(int at, const char *path, int flags) {
  WITH_LOCK(unlinked(path, real_unlinkat()(at, path, flags)))
  DONE
}
int mkdir(const char *path, mode_t mode) {
  WITH_LOCK(real_mkdir()(path, mode))
  if (result == 0 && is_ours(path)) note(MKDIR, 0, 0, path, NULL, 0, 0);
  DONE
}

static void *map_any(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  if (known(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
    pthread_mutex_lock(&lock);
    note(MAP, inode_of[fd], offset, NULL, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
  }
  return real_mmap64()(at, length, protection, flags, fd, offset);
}
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
  return map_any(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  return map_any(at, length, protection, flags, fd, offset);
}

/* the lock is held over the send: what came before it in the record did come before */
static int is_network(int fd) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  return record_fd >= 0 && getsockname(fd, (struct sockaddr *)&name, &size) == 0 && name.ss_family != AF_UNIX;
}
static ssize_t sent(int fd, const void *data, ssize_t count) {
  if (count > 0) note(SEND, fd, 0, NULL, data, count, count);
  return count;
}
ssize_t send(int fd, const void *data, size_t length, int flags) {
  if (!is_network(fd)) return real_send()(fd, data, length, flags);
  WITH_LOCK(sent(fd, data, real_send()(fd, data, length, flags)))
  DONE
}
ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length) {
  if (!is_network(fd)) return real_sendto()(fd, data, length, flags, to, to_length);
  WITH_LOCK(sent(fd, data, real_sendto()(fd, data, length, flags, to, to_length)))
  DONE
}

int clock_gettime(clockid_t which, struct timespec *now) {
  int result = real_clock_gettime()(which, now);
  if (result == 0 && dials && which == CLOCK_REALTIME) {
    int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + dials[0];
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
  }
  return result;
}
time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec exact;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}
