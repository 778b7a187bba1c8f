/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * part.c - the contract is in part.h.
 *
 * Pieces of 8 MiB: large enough for the disk, small enough that the hash finds its bytes in cache
 * and the page cache starts to write behind early.
 */
#include "runtime/ckpt/part.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"

enum { PIECE_BYTES = 8 * 1024 * 1024 };

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

int ds__manifest_reserve(struct ds_manifest *manifest, size_t files, size_t tensors,
                         struct ds_error *err)
{
    manifest->file = ds_arena_alloc(&manifest->arena, files + 1, sizeof(*manifest->file));
    manifest->tensor = ds_arena_alloc(&manifest->arena, tensors + 1, sizeof(*manifest->tensor));
    return manifest->file == NULL || manifest->tensor == NULL ? out_of_memory(err) : 0;
}

static int note_file(struct ds_manifest *m, const char *name, const struct ds_buf *header,
                     uint64_t data_bytes, struct ds_error *err)
{
    struct ds_manifest_file *file = &m->file[m->files];

    *file = (struct ds_manifest_file){
        .name = ds_arena_strdup(&m->arena, name),
        .bytes = header->len + data_bytes,
        .header_bytes = header->len,
        .header_xxh3 = XXH3_64bits(header->data, header->len),
    };
    if (file->name == NULL)
        return out_of_memory(err);
    m->files++;
    return 0;
}

/* A tensor that lies whole in the file noted last. */
static int note_tensor(const struct ds__part *part, const struct ds_safetensor *t, uint64_t xxh3,
                       struct ds_error *err)
{
    struct ds_manifest *m = part->manifest;
    struct ds_manifest_tensor *to = &m->tensor[m->tensors];

    *to = (struct ds_manifest_tensor){
        .name = t->name,
        .dtype = (enum ds_dtype)t->dtype,
        .ndim = t->ndim,
        .elems = t->elems,
        .range = ds_arena_alloc(&m->arena, 1, sizeof(*to->range)),
        .ranges = 1,
    };
    if (to->range == NULL)
        return out_of_memory(err);
    memcpy(to->shape, t->shape, sizeof(to->shape));
    *to->range = (struct ds_manifest_range){.file = m->files - 1,
                                            .offset = part->data_at + t->begin,
                                            .bytes = t->end - t->begin,
                                            .xxh3 = xxh3};
    m->tensors++;
    return 0;
}

static int write_header(struct ds__part *part, const char *name, struct ds_safetensor *tensors,
                        size_t count, struct ds_error *err)
{
    struct ds_buf header;
    int rc;

    ds_buf_init(&header, DS_MAX_JSON_BYTES);
    rc = ds_safetensors_build(tensors, count, "pt", &header, err);
    if (rc == 0)
        rc = ds_fs_pwrite_all(part->fd, header.data, header.len, 0, err);
    if (rc == 0 && part->manifest != NULL)
        rc = note_file(part->manifest, name, &header, count > 0 ? tensors[count - 1].end : 0, err);
    part->data_at = header.len;
    ds_buf_release(&header);
    return rc;
}

int ds__part_create(struct ds__part *part, const char *dir, const char *name,
                    struct ds_safetensor *tensors, size_t count, struct ds_manifest *manifest,
                    struct ds_error *err)
{
    int rc;

    *part = (struct ds__part){.fd = -1, .manifest = manifest};
    if ((rc = ds_path_join(part->path, dir, name, err)) < 0)
        return rc;
    part->fd = open(part->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (part->fd < 0)
        return ds_fail(err, errno, "cannot create '%s': %s", part->path, strerror(errno));
    rc = write_header(part, name, tensors, count, err);
    if (rc == 0)
        return 0;
    (void)close(part->fd);
    part->fd = -1;
    return ds_error_context(err, rc, "file '%s'", part->path);
}

int ds__part_write(struct ds__part *part, const struct ds_safetensor *tensor, const void *data,
                   struct ds_error *err)
{
    const char *bytes = data;
    uint64_t left = tensor->end - tensor->begin, at = part->data_at + tensor->begin;
    XXH3_state_t *hash = XXH3_createState();
    int rc = 0;

    if (hash == NULL || XXH3_64bits_reset(hash) != XXH_OK)
        rc = out_of_memory(err);
    while (rc == 0 && left > 0) {
        size_t len = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;

        (void)XXH3_64bits_update(hash, bytes, len);
        rc = ds_fs_pwrite_all(part->fd, bytes, len, at, err);
        bytes += len;
        at += len;
        left -= len;
    }
    if (rc == 0 && part->manifest != NULL)
        rc = note_tensor(part, tensor, XXH3_64bits_digest(hash), err);
    (void)XXH3_freeState(hash);
    return ds_error_context(err, rc, "file '%s', tensor '%s'", part->path, tensor->name);
}

int ds__part_close(struct ds__part *part, int rc, struct ds_error *err)
{
    if (part->fd < 0)
        return rc;
    if (rc == 0 && fsync(part->fd) < 0)
        rc = ds_fail(err, errno, "cannot write '%s' to disk: %s", part->path, strerror(errno));
    if (close(part->fd) < 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write '%s' to disk: %s", part->path, strerror(errno));
    part->fd = -1;
    return rc;
}
