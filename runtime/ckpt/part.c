/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * part.c - the contract is in part.h.
 *
 * Pieces of 8 MiB: large enough for the disk, small enough that it is kept busy while the next one
 * is hashed and copied.
 */
#include "runtime/ckpt/part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"

enum { PIECE_BYTES = 8 * 1024 * 1024 };
/* Of what is not in memory, which it takes for that long. */
enum { LINE_BYTES = 1024 * 1024 };

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

int ds__manifest_reserve(struct ds_manifest *manifest, size_t files, size_t tensors,
                         struct ds_error *err)
{
    manifest->block_bytes = DS_CKPT_BLOCK_BYTES;
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

/* Note an entry of the file noted last, with room for the sums of its blocks. */
static int note_entry(const struct ds__part *part, const struct ds_safetensor *entry,
                      const struct ds__piece *piece, struct ds_manifest_range **range,
                      struct ds_error *err)
{
    const struct ds__piece whole = {
        .name = entry->name, .ndim = entry->ndim, .shape = entry->shape, .elems = entry->elems};
    const struct ds__piece *is = piece != NULL ? piece : &whole;
    struct ds_manifest *m = part->manifest;
    struct ds_manifest_tensor *to = &m->tensor[m->tensors];
    uint64_t bytes = entry->end - entry->begin;
    struct note {
        struct ds_manifest_view view;
        struct ds_manifest_range range;
    } *note = ds_arena_alloc(&m->arena, 1, sizeof(*note));

    *to = (struct ds_manifest_tensor){
        .name = is->name, .dtype = (enum ds_dtype)entry->dtype, .ndim = is->ndim, .views = 1};
    memcpy(to->shape, is->shape, is->ndim * sizeof(to->shape[0]));
    if (note == NULL || !ds_shape_elems(to->shape, to->ndim, &to->elems))
        return out_of_memory(err);
    to->view = &note->view;
    note->view = (struct ds_manifest_view){
        .columns = is->view, .elems = is->elems, .range = &note->range, .ranges = 1};
    note->range = (struct ds_manifest_range){
        .file = m->files - 1,
        .offset = part->data_at + entry->begin,
        .bytes = bytes,
        .begin_elem = is->first,
        .xxh3 = ds_arena_alloc(&m->arena, (size_t)ds_manifest_sums(m, bytes) + 1,
                               sizeof(*note->range.xxh3)),
    };
    if (note->range.xxh3 == NULL)
        return out_of_memory(err);
    m->tensors++;
    *range = &note->range;
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

/* The sums of the blocks in `bytes`, which starts with a block; returns how many. */
static size_t sum_blocks(const char *bytes, size_t len, size_t block, uint64_t *xxh3)
{
    size_t sums = 0;

    for (size_t at = 0; at < len; at += block)
        xxh3[sums++] = XXH3_64bits(bytes + at, len - at < block ? len - at : block);
    return sums;
}

/* Sum and write; `xxh3` NULL: nobody asks for sums.  Returns the sums, or a failure. */
static int write_piece(const struct ds__part *part, const char *bytes, size_t len, uint64_t at,
                       uint64_t *xxh3, struct ds_error *err)
{
    size_t block = part->manifest != NULL ? (size_t)part->manifest->block_bytes : len;
    size_t sums = xxh3 != NULL ? sum_blocks(bytes, len, block, xxh3) : 0;
    int rc = ds_fs_pwrite_all(part->fd, bytes, len, at, err);

    if (rc == 0) /* let the disk begin; whether it can is seen by the fsync at the end */
        (void)sync_file_range(part->fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE);
    return rc == 0 ? (int)sums : rc;
}

/* Of whole blocks, at most `most` bytes or a block. */
static size_t piece_bytes(const struct ds__part *part, size_t most)
{
    size_t block = part->manifest != NULL ? (size_t)part->manifest->block_bytes : most;

    return block < most ? most - most % block : block;
}

/* What is not in memory comes there piece by piece. */
static int write_pieces(const struct ds__part *part, const struct ds_safetensor *entry,
                        struct ds__source source, uint64_t *xxh3, struct ds_error *err)
{
    size_t piece = piece_bytes(part, source.line != NULL ? LINE_BYTES : PIECE_BYTES);
    uint64_t bytes = entry->end - entry->begin;
    char *room = source.line != NULL ? malloc(piece) : NULL;
    int rc = source.line != NULL && room == NULL ? out_of_memory(err) : 0;

    for (uint64_t done = 0; rc >= 0 && done < bytes; done += piece) {
        size_t len = bytes - done < piece ? (size_t)(bytes - done) : piece;
        const char *from = source.line != NULL ? room : (const char *)source.data + done;

        if (source.line != NULL)
            rc = source.line->read(source.line->user, source.at + done, room, len, err);
        if (rc >= 0)
            rc = write_piece(part, from, len, part->data_at + entry->begin + done, xxh3, err);
        if (rc > 0)
            xxh3 += rc;
    }
    free(room);
    return rc < 0 ? rc : 0;
}

int ds__part_write(struct ds__part *part, const struct ds_safetensor *entry,
                   const struct ds__piece *piece, struct ds__source source, struct ds_error *err)
{
    struct ds_manifest_range *range = NULL;
    int rc = part->manifest != NULL ? note_entry(part, entry, piece, &range, err) : 0;

    if (rc == 0)
        rc = write_pieces(part, entry, source, range != NULL ? range->xxh3 : NULL, err);
    return ds_error_context(err, rc, "file '%s', tensor '%s'", part->path, entry->name);
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
