/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * store.c - a checkpoint opened for reading; the contract is in store.h.
 *
 * Whatever is wrong with the bytes is EBADMSG with the folder, the file and the tensor in the text.
 */
#include "runtime/ckpt/store.h"

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
    return rc;
}

static int open_checked(struct ds__store *store, struct ds_error *err)
{
    int rc = load_manifest(store, err);

    if (rc < 0)
        return rc;
    store->header_read = calloc(store->manifest.files + 1, sizeof(*store->header_read));
    if (store->header_read == NULL)
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
    store->header_read = NULL;
    store->piece = NULL;
    ds_manifest_release(&store->manifest);
}

/* Hash `bytes` bytes at `offset` of the open file on their way into `data` (or nowhere). */
static int read_hashed(struct ds__store *store, uint64_t offset, uint64_t bytes, void *data,
                       uint64_t *xxh3, struct ds_error *err)
{
    XXH3_state_t *hash = XXH3_createState();
    char *to = data;
    int rc = 0;

    if (data == NULL && store->piece == NULL)
        store->piece = malloc(PIECE_BYTES);
    if ((data == NULL && store->piece == NULL) || hash == NULL || XXH3_64bits_reset(hash) != XXH_OK)
        rc = ds_fail(err, ENOMEM, "out of memory");
    while (rc == 0 && bytes > 0) {
        size_t len = bytes < PIECE_BYTES ? (size_t)bytes : PIECE_BYTES;
        void *at = to != NULL ? to : (char *)store->piece;

        rc = ds_fs_pread_all(store->fd, at, len, offset, err);
        if (rc == 0)
            (void)XXH3_64bits_update(hash, at, len);
        to = to != NULL ? to + len : NULL;
        offset += len;
        bytes -= len;
    }
    if (rc == 0)
        *xxh3 = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return rc;
}

/* Make `index` the open file; the first time its header is compared too. */
static int select_file(struct ds__store *store, size_t index, struct ds_error *err)
{
    const struct ds_manifest_file *file = &store->manifest.file[index];
    uint64_t xxh3 = 0;
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
    rc = read_hashed(store, 0, file->header_bytes, NULL, &xxh3, err);
    if (rc < 0)
        return ds_error_context(err, rc, "file '%s'", file->name);
    if (xxh3 != file->header_xxh3)
        return ds_fail(err, EBADMSG, "damaged: the header of file '%s' does not match its checksum",
                       file->name);
    store->header_read[index] = true;
    return 0;
}

static int read_range(struct ds__store *store, const struct ds_manifest_tensor *tensor,
                      const struct ds_manifest_range *range, char *data, struct ds_error *err)
{
    const char *name = store->manifest.file[range->file].name;
    uint64_t xxh3 = 0;
    int rc = select_file(store, range->file, err);

    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", tensor->name);
    rc = read_hashed(store, range->offset, range->bytes, data, &xxh3, err);
    if (rc < 0)
        return ds_error_context(err, rc, "file '%s', tensor '%s'", name, tensor->name);
    if (xxh3 != range->xxh3)
        return ds_fail(err, EBADMSG,
                       "damaged: file '%s', tensor '%s': bytes %ju to %ju do not match their "
                       "checksum",
                       name, tensor->name, (uintmax_t)range->offset,
                       (uintmax_t)(range->offset + range->bytes));
    return 0;
}

int ds__store_read(struct ds__store *store, const struct ds_manifest_tensor *tensor, void *data,
                   struct ds_error *err)
{
    uint64_t size = ds_dtype_bytes(tensor->dtype);
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < tensor->ranges; i++) {
        const struct ds_manifest_range *range = &tensor->range[i];
        char *to = data != NULL ? (char *)data + range->begin_elem * size : NULL;

        rc = read_range(store, tensor, range, to, err);
    }
    return ds_error_context(err, rc, "checkpoint '%s'", store->path);
}

int ds__store_check_header(struct ds__store *store, size_t file, struct ds_error *err)
{
    return ds_error_context(err, select_file(store, file, err), "checkpoint '%s'", store->path);
}
