/* A file system with faults, for tests: the files of one folder, passed through as they are, and everything that a bad disk
 * does at the word of a test. What was changed, in its order, can be recorded, so that a power cut can be thought through.
 *
 *   faultfs BACKING MOUNTPOINT [no-nameless]
 *
 * says "ok" on standard output when it is mounted, or why it cannot be on standard error. It then obeys these lines on standard
 * input, each answered by one line, "ok" or "error: ...", until standard input ends, however its owner came to its end:
 *
 *   eio NAME FROM TO        reads of bytes FROM to TO, TO not included, of this file fail with EIO, whatever its name is later
 *   eio-off                 no longer
 *   enospc BYTES [reserve]  writes fail with ENOSPC when so many more bytes have been written; the last one is cut short. With
 *                           "reserve" fallocate fails, too, when it asks for more than is left; without it, fallocate promises
 *                           what is not there, as it does where a write copies
 *   enospc-off              no longer
 *   fail OPERATION          create, write, allocate, fsync, fsyncdir, link, rename or unlink fail with EIO
 *   fail-off                no longer
 *   slow BYTES              writes take their time: so many bytes a second; 0: none of their own
 *   drop NAME               what the kernel has cached of this file is read again when it is wanted
 *   record PATH             from now on every change is written to PATH, which must not lie in this file system
 *   record-off              no longer, and PATH is complete
 *   quit                    unmounts and ends
 *
 * Reads go through the kernel's page cache, so a file can be mapped, and a page that cannot be read is a SIGBUS there. An open
 * drops what is cached. Each write comes here at once and in order; so does each fsync.
 *
 * A recording is lines of JSON. Where a line has "bytes", so many follow it, and a line feed. A file keeps its number whatever
 * its names are. Who may read a file, and when it was changed, is not recorded.
 *
 *   {"op":"exists","name":"vm","file":1,"bytes":6}                     each file that was there when the recording began
 *   {"op":"create","name":"vm","file":1}   {"op":"tmpfile","file":1}
 *   {"op":"write","file":1,"offset":0,"bytes":4096}   {"op":"truncate","file":1,"size":0}
 *   {"op":"allocate","file":1,"mode":3,"offset":0,"length":4096}       fallocate, and what it was asked for
 *   {"op":"fsync","file":1}   {"op":"fdatasync","file":1}
 *   {"op":"link","file":1,"name":"vm"}   {"op":"rename","from":"a","to":"b"}   {"op":"unlink","name":"vm"}
 *   {"op":"fsyncdir"}                                                                                                       */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 34
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { WRITE_BYTES_MAX = 1 << 20, FAULTS_MAX = 64, LINE_MAX_BYTES = 8192 };
/* linux/fuse.h has it since 6.2, and the kernel asks for it since then. */
enum { OPCODE_TMPFILE = 51 };

/* A file that the kernel knows, or that the recording has named. Its address is its number towards the kernel. */
struct node {
  struct node *next;
  int fd; /* O_PATH: stays the same file when its name goes, and keeps its inode number from being given to another */
  dev_t dev;
  ino_t ino;
  uint64_t id;      /* what the recording calls it */
  uint64_t lookups; /* how often the kernel was told of it and has not forgotten it */
};

static struct fuse_session *session;
static int folder = -1;
static struct node *nodes;
static uint64_t last_id;
static bool offers_nameless = true;
/* The FUSE_CREATE that is being served was a FUSE_TMPFILE: see serve. */
static bool create_nameless;

static struct fault {
  dev_t dev;
  ino_t ino;
  off_t from, to;
} faults[FAULTS_MAX];
static unsigned fault_count;
static bool space_is_limited, space_is_reserved;
static uint64_t space_left;
static uint64_t bytes_per_second;
static char failing[16];

static FILE *recording;

/* --- the recording ---------------------------------------------------------------------------------------------------- */

/* One line; %J is a string as JSON has it, %U a uint64_t. */
static void record(const char *format, ...) {
  if (!recording) return;
  va_list args;
  va_start(args, format);
  for (const char *at = format; *at; at++) {
    if (*at != '%') {
      putc(*at, recording);
    } else if (*++at == 'U') {
      fprintf(recording, "%" PRIu64, va_arg(args, uint64_t));
    } else {
      putc('"', recording);
      for (const unsigned char *c = va_arg(args, const unsigned char *); *c; c++)
        fprintf(recording, *c < 0x20 || *c == '"' || *c == '\\' ? "\\u%04x" : "%c", *c);
      putc('"', recording);
    }
  }
  va_end(args);
  putc('\n', recording);
}

static void record_bytes(const void *bytes, size_t count) {
  if (!recording) return;
  fwrite(bytes, 1, count, recording);
  putc('\n', recording);
}

/* --- files ------------------------------------------------------------------------------------------------------------ */

static struct node *node_of(fuse_ino_t ino) { return (struct node *)(uintptr_t)ino; }

static int fd_of(fuse_ino_t ino) { return ino == FUSE_ROOT_ID ? folder : node_of(ino)->fd; }

/* The name by which an O_PATH descriptor is opened, changed and linked. */
struct proc_path {
  char text[32];
};
static struct proc_path proc_path(int fd) {
  struct proc_path path;
  snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
  return path;
}

static bool is_regular(const struct stat *status) { return (status->st_mode & S_IFMT) == S_IFREG; }

/* The node of the file that `fd`, with O_PATH, stands for; the descriptor is taken over. NULL: errno says why. */
static struct node *node_for(int fd, struct stat *status) {
  if (fd < 0) return NULL;
  if (fstat(fd, status) < 0 || !is_regular(status)) {
    close(fd);
    errno = EPERM;
    return NULL;
  }
  for (struct node *one = nodes; one; one = one->next) {
    if (one->dev != status->st_dev || one->ino != status->st_ino) continue;
    close(fd);
    return one;
  }
  struct node *node = calloc(1, sizeof *node);
  if (!node) {
    close(fd);
    errno = ENOMEM;
    return NULL;
  }
  *node = (struct node){.next = nodes, .fd = fd, .dev = status->st_dev, .ino = status->st_ino, .id = ++last_id};
  return nodes = node;
}

static int open_path(const char *name) { return openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC); }

/* 0, or an errno. The kernel is told of the file, and asks again each time: nothing of attributes or names is cached. */
static int fill_entry(int fd, struct fuse_entry_param *entry) {
  *entry = (struct fuse_entry_param){0};
  struct node *node = node_for(fd, &entry->attr);
  if (!node) return errno;
  node->lookups++;
  entry->ino = (uintptr_t)node;
  return 0;
}

/* As long as something is recorded, a file keeps its number even when the kernel has forgotten it. */
static void free_forgotten(void) {
  if (recording) return;
  for (struct node **at = &nodes; *at;) {
    struct node *node = *at;
    if (node->lookups) {
      at = &node->next;
      continue;
    }
    *at = node->next;
    close(node->fd);
    free(node);
  }
}

static void reply_entry(fuse_req_t req, int fd) {
  struct fuse_entry_param entry;
  int error = fill_entry(fd, &entry);
  if (error)
    fuse_reply_err(req, error);
  else
    fuse_reply_entry(req, &entry);
}

static bool fails(const char *operation) { return !strcmp(failing, operation); }

/* --- what the kernel asks --------------------------------------------------------------------------------------------- */

static void do_init(void *context, struct fuse_conn_info *connection) {
  (void)context;
  connection->max_write = WRITE_BYTES_MAX;
  /* A truncating open shall come as a truncate, which is recorded; what is cached shall go by `drop` and by opening only; and
   * `serve` wants to find a request in memory. */
  connection->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  (void)parent;
  reply_entry(req, open_path(name));
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  if (ino != FUSE_ROOT_ID) node_of(ino)->lookups -= count;
  free_forgotten();
  fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, fuse_ino_t ino) {
  struct stat status;
  if (fstat(fd_of(ino), &status) < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_attr(req, &status, 0);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info) {
  (void)info;
  reply_attr(req, ino);
}

static struct timespec time_to_set(int to_set, int set, int now, struct timespec value) {
  if (to_set & now) return (struct timespec){.tv_nsec = UTIME_NOW};
  return to_set & set ? value : (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_attr(fuse_ino_t ino, const struct stat *attr, int to_set, const struct fuse_file_info *info) {
  const int fd = fd_of(ino);
  const struct proc_path path = proc_path(fd);
  if (to_set & FUSE_SET_ATTR_MODE && chmod(path.text, attr->st_mode) < 0) return errno;
  if (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
    uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
    gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
    if (chown(path.text, uid, gid) < 0) return errno;
  }
  if (to_set & FUSE_SET_ATTR_SIZE) {
    if ((info ? ftruncate((int)info->fh, attr->st_size) : truncate(path.text, attr->st_size)) < 0) return errno;
    record("{\"op\":\"truncate\",\"file\":%U,\"size\":%U}", node_of(ino)->id, (uint64_t)attr->st_size);
  }
  if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) {
    const struct timespec times[2] = {
        time_to_set(to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, attr->st_atim),
        time_to_set(to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, attr->st_mtim),
    };
    if (utimensat(AT_FDCWD, path.text, times, 0) < 0) return errno;
  }
  return 0;
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *info) {
  int error = set_attr(ino, attr, to_set, info);
  if (error)
    fuse_reply_err(req, error);
  else
    reply_attr(req, ino);
}

static void do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *info) {
  (void)parent;
  if (fails("create")) return (void)fuse_reply_err(req, EIO);
  const int flags = (info->flags & (O_ACCMODE | O_EXCL)) | O_CLOEXEC;
  int fd = create_nameless ? openat(folder, ".", flags | O_TMPFILE, mode) : openat(folder, name, flags | O_CREAT, mode);
  if (fd < 0) return (void)fuse_reply_err(req, errno);
  struct fuse_entry_param entry;
  int error = fill_entry(open(proc_path(fd).text, O_PATH | O_CLOEXEC), &entry);
  if (error) {
    close(fd);
    return (void)fuse_reply_err(req, error);
  }
  const uint64_t id = node_of(entry.ino)->id;
  if (create_nameless)
    record("{\"op\":\"tmpfile\",\"file\":%U}", id);
  else
    record("{\"op\":\"create\",\"name\":%J,\"file\":%U}", name, id);
  info->fh = (uint64_t)fd;
  fuse_reply_create(req, &entry, info);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info) {
  /* Past the page cache of the backing file would need aligned buffers here; where to append, the kernel has worked out. */
  const int flags = info->flags & ~(O_NOFOLLOW | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECT);
  int fd = open(proc_path(fd_of(ino)).text, flags | O_CLOEXEC);
  if (fd < 0) return (void)fuse_reply_err(req, errno);
  info->fh = (uint64_t)fd;
  fuse_reply_open(req, info);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info) {
  (void)ino;
  close((int)info->fh);
  fuse_reply_err(req, 0);
}

/* Also for read-ahead: the kernel then asks for each page that it really needs by itself. */
static bool is_bad(const struct node *node, off_t from, off_t to) {
  for (const struct fault *one = faults; one < faults + fault_count; one++)
    if (one->dev == node->dev && one->ino == node->ino && from < one->to && to > one->from) return true;
  return false;
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info) {
  if (is_bad(node_of(ino), offset, offset + (off_t)size)) return (void)fuse_reply_err(req, EIO);
  char *bytes = malloc(size);
  if (!bytes) return (void)fuse_reply_err(req, ENOMEM);
  ssize_t count = pread((int)info->fh, bytes, size, offset);
  if (count < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_buf(req, bytes, (size_t)count);
  free(bytes);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *info) {
  if (fails("write")) return (void)fuse_reply_err(req, EIO);
  if (space_is_limited && size > space_left) size = space_left;
  if (size == 0) return (void)fuse_reply_err(req, ENOSPC);
  if (bytes_per_second) usleep((useconds_t)(size * 1000000 / bytes_per_second));
  ssize_t count = pwrite((int)info->fh, bytes, size, offset);
  if (count < 0) return (void)fuse_reply_err(req, errno);
  if (space_is_limited) space_left -= (uint64_t)count;
  record("{\"op\":\"write\",\"file\":%U,\"offset\":%U,\"bytes\":%U}", node_of(ino)->id, (uint64_t)offset, (uint64_t)count);
  record_bytes(bytes, (size_t)count);
  fuse_reply_write(req, (size_t)count);
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *info) {
  /* What moves bytes about in a file, the recording has no words for. */
  if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
    return (void)fuse_reply_err(req, EOPNOTSUPP);
  if (fails("allocate")) return (void)fuse_reply_err(req, EIO);
  const bool reserves = !(mode & FALLOC_FL_PUNCH_HOLE);
  if (reserves && space_is_limited && space_is_reserved && (uint64_t)length > space_left)
    return (void)fuse_reply_err(req, ENOSPC);
  if (fallocate((int)info->fh, mode, offset, length) < 0) return (void)fuse_reply_err(req, errno);
  record("{\"op\":\"allocate\",\"file\":%U,\"mode\":%U,\"offset\":%U,\"length\":%U}", node_of(ino)->id, (uint64_t)mode,
         (uint64_t)offset, (uint64_t)length);
  fuse_reply_err(req, 0);
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *info) {
  (void)ino;
  off_t found = lseek((int)info->fh, offset, whence);
  if (found < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_lseek(req, found);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info) {
  if (fails("fsync")) return (void)fuse_reply_err(req, EIO);
  if ((datasync ? fdatasync((int)info->fh) : fsync((int)info->fh)) < 0) return (void)fuse_reply_err(req, errno);
  record("{\"op\":%J,\"file\":%U}", datasync ? "fdatasync" : "fsync", node_of(ino)->id);
  fuse_reply_err(req, 0);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name) {
  (void)parent;
  if (fails("link")) return (void)fuse_reply_err(req, EIO);
  if (linkat(AT_FDCWD, proc_path(fd_of(ino)).text, folder, name, AT_SYMLINK_FOLLOW) < 0)
    return (void)fuse_reply_err(req, errno);
  record("{\"op\":\"link\",\"file\":%U,\"name\":%J}", node_of(ino)->id, name);
  reply_entry(req, open_path(name));
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *from, fuse_ino_t new_parent, const char *to,
                      unsigned flags) {
  (void)parent, (void)new_parent;
  if (flags & ~(unsigned)RENAME_NOREPLACE) return (void)fuse_reply_err(req, EINVAL);
  if (fails("rename")) return (void)fuse_reply_err(req, EIO);
  if (renameat2(folder, from, folder, to, flags) < 0) return (void)fuse_reply_err(req, errno);
  record("{\"op\":\"rename\",\"from\":%J,\"to\":%J}", from, to);
  fuse_reply_err(req, 0);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
  (void)parent;
  if (fails("unlink")) return (void)fuse_reply_err(req, EIO);
  if (unlinkat(folder, name, 0) < 0) return (void)fuse_reply_err(req, errno);
  record("{\"op\":\"unlink\",\"name\":%J}", name);
  fuse_reply_err(req, 0);
}

/* The stream of names of the folder, from its beginning: also for what the recording begins with. */
static DIR *open_names(void) {
  int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *names = fd < 0 ? NULL : fdopendir(fd);
  if (!names && fd >= 0) close(fd);
  return names;
}

static void do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info) {
  (void)ino;
  DIR *names = open_names();
  if (!names) return (void)fuse_reply_err(req, errno);
  info->fh = (uintptr_t)names;
  fuse_reply_open(req, info);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info) {
  (void)ino;
  DIR *names = (DIR *)(uintptr_t)info->fh;
  char *list = malloc(size);
  if (!list) return (void)fuse_reply_err(req, ENOMEM);
  size_t used = 0;
  if (offset)
    seekdir(names, offset);
  else
    rewinddir(names);
  for (const struct dirent *one; (one = readdir(names));) {
    struct stat status = {.st_ino = one->d_ino, .st_mode = (mode_t)one->d_type << 12};
    size_t more = fuse_add_direntry(req, list + used, size - used, one->d_name, &status, telldir(names));
    if (more > size - used) break; /* asked for again, from the offset of the one before */
    used += more;
  }
  fuse_reply_buf(req, list, used);
  free(list);
}

static void do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info) {
  (void)ino;
  closedir((DIR *)(uintptr_t)info->fh);
  fuse_reply_err(req, 0);
}

static void do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info) {
  (void)ino, (void)datasync, (void)info;
  if (fails("fsyncdir")) return (void)fuse_reply_err(req, EIO);
  if (fsync(folder) < 0) return (void)fuse_reply_err(req, errno);
  record("{\"op\":\"fsyncdir\"}");
  fuse_reply_err(req, 0);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino) {
  (void)ino;
  struct statvfs status;
  if (fstatvfs(folder, &status) < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_statfs(req, &status);
}

static const struct fuse_lowlevel_ops OPERATIONS = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .create = do_create,
    .open = do_open,
    .release = do_release,
    .read = do_read,
    .write = do_write,
    .fallocate = do_fallocate,
    .lseek = do_lseek,
    .fsync = do_fsync,
    .link = do_link,
    .rename = do_rename,
    .unlink = do_unlink,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .releasedir = do_releasedir,
    .fsyncdir = do_fsyncdir,
    .statfs = do_statfs,
};

/* --- what the test asks ----------------------------------------------------------------------------------------------- */

/* 0: the answer is on its way to standard output, where one thread at a time writes, because one command at a time is read. */
static void answer(int error) {
  char line[128];
  int length = error ? snprintf(line, sizeof line, "error: %s\n", strerror(error)) : snprintf(line, sizeof line, "ok\n");
  if (write(STDOUT_FILENO, line, (size_t)length) < 0) return; /* nobody listens: then standard input ends as well */
}

/* The kernel may wait for reads of this very file that only the main thread serves: so another one has to ask for it. */
static void *drop_cached(void *inode) {
  int error = -fuse_lowlevel_notify_inval_inode(session, (fuse_ino_t)(uintptr_t)inode, 0, 0);
  answer(error == ENOENT ? 0 : error); /* ENOENT: it is not cached at all */
  return NULL;
}

static int drop(const char *name) {
  struct stat status;
  struct node *node = node_for(open_path(name), &status);
  if (!node) return errno;
  pthread_t thread;
  int error = pthread_create(&thread, NULL, drop_cached, node);
  if (!error) pthread_detach(thread);
  return error;
}

static int add_fault(const char *name, int64_t from, int64_t to) {
  struct stat status;
  if (fault_count == FAULTS_MAX) return ENOSPC;
  if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0) return errno;
  faults[fault_count++] = (struct fault){.dev = status.st_dev, .ino = status.st_ino, .from = from, .to = to};
  return 0;
}

static int record_existing(const char *name) {
  struct stat status;
  struct node *node = node_for(open_path(name), &status);
  if (!node) return errno == EPERM ? 0 : errno; /* "." and ".." */
  int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  char *bytes = malloc((size_t)status.st_size + 1);
  int error = !bytes || pread(fd, bytes, (size_t)status.st_size, 0) != status.st_size ? EIO : 0;
  if (!error) {
    record("{\"op\":\"exists\",\"name\":%J,\"file\":%U,\"bytes\":%U}", name, node->id, (uint64_t)status.st_size);
    record_bytes(bytes, (size_t)status.st_size);
  }
  free(bytes);
  close(fd);
  return error;
}

static int begin_recording(const char *path) {
  if (recording) return EBUSY;
  DIR *names = open_names();
  if (!names) return errno;
  int error = 0;
  recording = fopen(path, "we");
  if (!recording) error = errno;
  for (const struct dirent *one; !error && (one = readdir(names));) error = record_existing(one->d_name);
  closedir(names);
  return error;
}

static int end_recording(void) {
  if (!recording) return EINVAL;
  int error = ferror(recording) ? EIO : 0;
  if (fclose(recording) != 0 && !error) error = errno;
  recording = NULL;
  free_forgotten();
  return error;
}

/* False: it was the last one. */
static bool obey(const char *line) {
  char name[4096], word[16];
  int64_t from, to;
  uint64_t bytes;
  int error = 0, count;
  if (!strcmp(line, "quit")) return false;
  if (!strcmp(line, "eio-off")) {
    fault_count = 0;
  } else if (!strcmp(line, "enospc-off")) {
    space_is_limited = false;
  } else if (!strcmp(line, "fail-off")) {
    failing[0] = '\0';
  } else if (sscanf(line, "slow %" SCNu64, &bytes) == 1) {
    bytes_per_second = bytes;
  } else if (!strcmp(line, "record-off")) {
    error = end_recording();
  } else if (sscanf(line, "eio %4095s %" SCNd64 " %" SCNd64, name, &from, &to) == 3) {
    error = add_fault(name, from, to);
  } else if ((count = sscanf(line, "enospc %" SCNu64 " %15s", &bytes, word)) >= 1) {
    space_is_limited = true;
    space_is_reserved = count == 2 && !strcmp(word, "reserve");
    space_left = bytes;
  } else if (sscanf(line, "fail %15s", word) == 1) {
    snprintf(failing, sizeof failing, "%s", word);
  } else if (sscanf(line, "drop %4095s", name) == 1) {
    error = drop(name);
    if (!error) return true; /* that thread answers */
  } else if (sscanf(line, "record %4095[^\n]", name) == 1) {
    error = begin_recording(name);
  } else {
    error = ENOSYS;
  }
  answer(error);
  return true;
}

/* Whole lines of what has come by now. False: it is to end. */
static bool obey_all(void) {
  static char text[LINE_MAX_BYTES];
  static size_t used;
  ssize_t count = read(STDIN_FILENO, text + used, sizeof text - used);
  if (count < 0 && errno == EINTR) return true;
  if (count <= 0) return false; /* also for a line that is too long */
  used += (size_t)count;
  for (char *end; (end = memchr(text, '\n', used));) {
    *end = '\0';
    if (!obey(text)) return false;
    size_t length = (size_t)(end + 1 - text);
    memmove(text, end + 1, used -= length);
  }
  return true;
}

/* --- both ------------------------------------------------------------------------------------------------------------- */

/* One request of the kernel's, or what libfuse does when the file system is gone. */
static void serve(struct fuse_buf *request) {
  int size = fuse_session_receive_buf(session, request);
  if (size <= 0) return; /* taken back before it was read, or unmounted, which fuse_session_exited tells */
  struct fuse_in_header *header = request->mem;
  /* A file without a name is made by the same question as one with a name, but libfuse before 3.18 does not know its number. */
  create_nameless = offers_nameless && header->opcode == OPCODE_TMPFILE;
  if (create_nameless) header->opcode = FUSE_CREATE;
  fuse_session_process_buf(session, request);
}

static void serve_and_obey(void) {
  struct fuse_buf request = {0};
  for (;;) {
    struct pollfd watched[2] = {{fuse_session_fd(session), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(watched, 2, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents) serve(&request);
    if (fuse_session_exited(session)) break;
    if (watched[1].revents && !obey_all()) break;
  }
  free(request.mem);
}

static int refuse(const char *what) {
  fprintf(stderr, "faultfs: %s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 4 || (argc == 4 && strcmp(argv[3], "no-nameless"))) {
    fprintf(stderr, "usage: faultfs BACKING MOUNTPOINT [no-nameless]\n");
    return 2;
  }
  offers_nameless = argc == 3;
  folder = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return refuse(argv[1]);
  umask(0); /* the kernel has taken off the caller's */
  /* Ctrl-C goes to the whole group: the owner shall come to its end first, and with it our standard input. */
  for (const int *one = (const int[]){SIGINT, SIGHUP, SIGTERM, SIGPIPE, 0}; *one; one++) signal(*one, SIG_IGN);

  char option[] = "-o", options[] = "default_permissions,fsname=faultfs,subtype=faultfs";
  char *arguments[] = {argv[0], option, options};
  struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
  session = fuse_session_new(&args, &OPERATIONS, sizeof OPERATIONS, NULL);
  fuse_opt_free_args(&args);
  if (!session || fuse_session_mount(session, argv[2]) < 0) return 1; /* libfuse has said why */
  /* A request that is taken back between poll and read shall not leave us waiting for the next one. */
  fcntl(fuse_session_fd(session), F_SETFL, fcntl(fuse_session_fd(session), F_GETFL) | O_NONBLOCK);
  answer(0);
  serve_and_obey();
  /* A recording that was not ended is not complete; nothing is lost of it all the same. */
  if (recording) fclose(recording);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return 0;
}
