/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * store.c - a checkpoint opened for reading; the contract is in store.h.
 *
 * Whatever is wrong with the bytes is EBADMSG with the folder, the file and the tensor in the text.
 */
#include "runtime/ckpt/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"

enum { PIECE_BYTES = 1024 * 1024 };

void ds__step_name(uint64_t step, char out[DS__STEP_NAME])
{
    (void)snprintf(out, DS__STEP_NAME, "step-%08" PRIu64, step);
}

bool ds__step_parse(const char *name, uint64_t *step)
{
    char again[DS__STEP_NAME];

    if (strncmp(name, "step-", 5) != 0 || strlen(name) > 5 + 10 || name[5] == '\0' ||
        name[5 + strspn(name + 5, "0123456789")] != '\0')
        return false;
    *step = strtoull(name + 5, NULL, 10);
    ds__step_name(*step, again);
    return *step <= DS_MAX_STEPS && strcmp(name, again) == 0;
}

/* Open a file of the checkpoint; it must be a regular one of the size that the manifest says. */
static int open_file(const struct ds__store *store, size_t index, struct ds_error *err)
{
    const struct ds_manifest_file *file = &store->manifest.file[index];
    char path[DS_MAX_PATH];
    struct stat info;
    int fd, rc = ds_path_join(path, store->path, file->name, err);

    if (rc < 0)
        return rc;
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ELOOP))
        return ds_fail(err, EBADMSG, "damaged: file '%s' is %s", file->name,
                       errno == ENOENT ? "missing" : "a symbolic link");
    if (fd < 0)
        return ds_fail(err, errno, "cannot open file '%s': %s", file->name, strerror(errno));
    if (fstat(fd, &info) < 0)
        rc = ds_fail(err, errno, "cannot stat file '%s': %s", file->name, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        rc = ds_fail(err, EBADMSG, "damaged: '%s' is not a regular file", file->name);
    else if ((uint64_t)info.st_size != file->bytes)
        rc = ds_fail(err, EBADMSG, "damaged: file '%s' has %jd bytes, the manifest says %ju",
                     file->name, (intmax_t)info.st_size, (uintmax_t)file->bytes);
    if (rc < 0)
        (void)close(fd);
    return rc < 0 ? rc : fd;
}

static int check_folder(const char *path, struct ds_error *err)
{
    struct stat info;

    if (stat(path, &info) < 0)
        return ds_fail(err, errno == ENOTDIR ? ENOENT : errno, "no checkpoint '%s': %s", path,
                       strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return ds_fail(err, EINVAL, "'%s' is not a checkpoint, which is a folder", path);
    return 0;
}

static int load_manifest(struct ds__store *store, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    int rc = ds_path_join(path, store->path, DS_MANIFEST_NAME, err);

    if (rc < 0)
        return rc;
    rc = ds_manifest_load(&store->manifest, path, err);
    if (rc == -ENOENT)
        return ds_fail(err, EBADMSG, "damaged: it has no '" DS_MANIFEST_NAME "'");
    if (rc == 0 && store->manifest.part)
        return ds_fail(err, EBADMSG, "damaged: '" DS_MANIFEST_NAME "' is that of one part");
    return rc;
}

static int open_checked(struct ds__store *store, struct ds_error *err)
{
    int rc = load_manifest(store, err);

    if (rc < 0)
        return rc;
    store->header_read = calloc(store->manifest.files + 1, sizeof(*store->header_read));
    store->hash = XXH3_createState();
    if (store->header_read == NULL || store->hash == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < store->manifest.files; i++) {
        int fd = open_file(store, i, err);

        if (fd < 0)
            return fd;
        (void)close(fd);
    }
    return 0;
}

int ds__store_open(struct ds__store *store, const char *path, struct ds_error *err)
{
    int rc = check_folder(path, err);

    if (rc < 0)
        return rc;
    memset(store, 0, sizeof(*store));
    store->fd = -1;
    rc = ds_path_join(store->path, "", path, err);
    if (rc == 0)
        rc = open_checked(store, err);
    if (rc < 0)
        ds__store_close(store);
    return ds_error_context(err, rc, "checkpoint '%s'", path);
}

void ds__store_close(struct ds__store *store)
{
    if (store->fd >= 0)
        (void)close(store->fd);
    store->fd = -1;
    free(store->header_read);
    free(store->piece);
    free(store->room);
    (void)XXH3_freeState(store->hash);
    store->header_read = NULL;
    store->piece = NULL;
    store->room = NULL;
    store->hash = NULL;
    ds_manifest_release(&store->manifest);
}

static int need_scratch(struct ds__store *store, struct ds_error *err)
{
    if (store->piece == NULL)
        store->piece = malloc(PIECE_BYTES);
    return store->piece == NULL ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

/* Read and hash `len` bytes at `offset` into `to`, or through scratch memory when it is NULL. */
static int hash_bytes(struct ds__store *store, uint64_t offset, uint64_t len, char *to,
                      struct ds_error *err)
{
    int rc = to == NULL && len > 0 ? need_scratch(store, err) : 0;

    while (rc == 0 && len > 0) {
        size_t now = len < PIECE_BYTES ? (size_t)len : PIECE_BYTES;
        void *at = to != NULL ? to : (char *)store->piece;

        rc = ds_fs_pread_all(store->fd, at, now, offset, err);
        if (rc == 0)
            (void)XXH3_64bits_update(store->hash, at, now);
        to = to != NULL ? to + now : NULL;
        offset += now;
        len -= now;
    }
    return rc;
}

/* Make `index` the open file; the first time its header is compared too. */
static int select_file(struct ds__store *store, size_t index, struct ds_error *err)
{
    const struct ds_manifest_file *file = &store->manifest.file[index];
    int fd, rc;

    if (store->fd >= 0 && store->open_file == index)
        return 0;
    fd = open_file(store, index, err);
    if (fd < 0)
        return fd;
    if (store->fd >= 0)
        (void)close(store->fd);
    store->fd = fd;
    store->open_file = index;
    if (store->header_read[index])
        return 0;
    (void)XXH3_64bits_reset(store->hash);
    rc = hash_bytes(store, 0, file->header_bytes, NULL, err);
    if (rc < 0)
        return ds_error_context(err, rc, "file '%s'", file->name);
    if (XXH3_64bits_digest(store->hash) != file->header_xxh3)
        return ds_fail(err, EBADMSG, "damaged: the header of file '%s' does not match its checksum",
                       file->name);
    store->header_read[index] = true;
    return 0;
}

/* --- a range of a view ---------------------------------------------------------------------- */

void ds__stream_init(struct ds__stream *stream, struct ds__store *store,
                     const struct ds_manifest_tensor *tensor, const struct ds_manifest_view *view,
                     uint64_t first, uint64_t count)
{
    *stream = (struct ds__stream){.store = store, .tensor = tensor};
    ds__reads_init(&stream->reads, &store->manifest, view, ds_dtype_bytes(tensor->dtype), first,
                   count);
}

/* Read and hash bytes of the block under way. */
static int hash_more(const struct ds__stream *stream, uint64_t at, uint64_t len, char *to,
                     struct ds_error *err)
{
    struct ds__store *store = stream->store;
    int rc = hash_bytes(store, stream->block.offset + at, len, to, err);

    return ds_error_context(err, rc, "file '%s', tensor '%s'",
                            store->manifest.file[stream->block.file].name, stream->tensor->name);
}

/* The block under way is begun: what lies before that which is asked for is hashed. */
static int begin_block(struct ds__stream *stream, struct ds_error *err)
{
    struct ds__store *store = stream->store;
    bool more = ds__reads_next(&stream->reads, &stream->block);
    int rc;

    assert(more);
    stream->done = 0;
    rc = select_file(store, stream->block.file, err);
    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", stream->tensor->name);
    (void)XXH3_64bits_reset(store->hash);
    return hash_more(stream, 0, stream->block.skip, NULL, err);
}

/* What lies behind it is, too, and the sum compared. */
static int end_block(struct ds__stream *stream, struct ds_error *err)
{
    const struct ds__store *store = stream->store;
    const struct ds__read *block = &stream->block;
    uint64_t end = block->skip + block->take;
    int rc = hash_more(stream, end, block->bytes - end, NULL, err);

    if (rc < 0 || XXH3_64bits_digest(store->hash) == block->xxh3)
        return rc;
    return ds_fail(err, EBADMSG,
                   "damaged: file '%s', tensor '%s': bytes %ju to %ju do not match their checksum",
                   store->manifest.file[block->file].name, stream->tensor->name,
                   (uintmax_t)block->offset, (uintmax_t)(block->offset + block->bytes));
}

/* Up to `bytes` bytes of the block under way; *len: how many. */
static int read_on(struct ds__stream *stream, char *to, uint64_t bytes, uint64_t *len,
                   struct ds_error *err)
{
    const struct ds__read *block = &stream->block;
    int rc = stream->done == block->take ? begin_block(stream, err) : 0;

    if (rc < 0)
        return rc;
    *len = block->take - stream->done < bytes ? block->take - stream->done : bytes;
    rc = hash_more(stream, block->skip + stream->done, *len, to, err);
    stream->done += *len;
    return rc == 0 && stream->done == block->take ? end_block(stream, err) : rc;
}

int ds__stream_next(struct ds__stream *stream, void *to, uint64_t bytes, struct ds_error *err)
{
    char *at = to;
    uint64_t len = 0;
    int rc = 0;

    for (; rc == 0 && bytes > 0; bytes -= len, at = at != NULL ? at + len : NULL)
        rc = read_on(stream, at, bytes, &len, err);
    return rc;
}

int ds__store_check_header(struct ds__store *store, size_t file, struct ds_error *err)
{
    return ds_error_context(err, select_file(store, file, err), "checkpoint '%s'", store->path);
}
