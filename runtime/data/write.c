/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * write.c - the contract is in write.h.
 */
#include "runtime/data/write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/wire.h"
#include "kernels/dtype.h"
#include "runtime/ckpt/safetensors.h"

enum { BLOCK_BYTES = 1 << 18, U16_VOCAB = 1 << 16, SAMPLES_HEADER = 512 };

static int open_file(struct ds_token_writer *writer, const char *path, struct ds_error *err)
{
    if (strlen(path) >= sizeof(writer->path))
        return ds_fail(err, ENAMETOOLONG, "the name '%.60s...' is too long", path);
    memcpy(writer->path, path, strlen(path) + 1);
    if (!writer->replace && access(path, F_OK) == 0)
        return ds_fail(err, EEXIST, "'%s' is there already", path);
    writer->block = calloc(1, BLOCK_BYTES);
    if (writer->block == NULL)
        return ds_fail(err, ENOMEM, "no memory to write '%s'", path);
    writer->fd = ds_fs_create_beside(path, writer->temp, err);
    if (writer->fd < 0) {
        int rc = writer->fd;

        ds_token_writer_abort(writer);
        return rc;
    }
    writer->used = writer->length > 0 ? SAMPLES_HEADER : DS_TOKENS_HEADER; /* is written last */
    return 0;
}

int ds_token_writer_open(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                         bool replace, struct ds_error *err)
{
    *writer = (struct ds_token_writer){
        .type = vocab <= U16_VOCAB ? DS_TOKEN_U16 : DS_TOKEN_U32, .replace = replace, .fd = -1};
    return open_file(writer, path, err);
}

int ds_token_writer_open_samples(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                                 uint64_t length, bool replace, struct ds_error *err)
{
    char temp[DS_MAX_PATH];
    int rc;

    *writer = (struct ds_token_writer){.type = vocab <= U16_VOCAB ? DS_TOKEN_U16 : DS_TOKEN_I32,
                                       .length = length,
                                       .replace = replace,
                                       .fd = -1};
    rc = open_file(writer, path, err);
    if (rc != 0)
        return rc;
    rc = ds_fs_create_beside(path, temp, err);
    if (rc >= 0) {
        writer->mask_fd = rc;
        (void)unlink(temp);
        writer->mask = malloc(BLOCK_BYTES);
        rc = writer->mask == NULL ? ds_fail(err, ENOMEM, "no memory to write '%s'", path) : 0;
        if (rc != 0)
            (void)close(writer->mask_fd);
    }
    if (rc != 0)
        ds_token_writer_abort(writer);
    return rc;
}

static int write_block(struct ds_token_writer *writer, struct ds_error *err)
{
    int rc = ds_fs_write_all(writer->fd, writer->block, writer->used, err);

    writer->used = 0;
    return ds_error_context(err, rc, "file '%s'", writer->path);
}

static int write_mask(struct ds_token_writer *writer, struct ds_error *err)
{
    int rc = ds_fs_write_all(writer->mask_fd, writer->mask, writer->masked, err);

    writer->masked = 0;
    return ds_error_context(err, rc, "the mask of file '%s'", writer->path);
}

/* Take down of an id whether it is a target; the id alone. */
static int put_mask(struct ds_token_writer *writer, uint32_t *id, struct ds_error *err)
{
    const bool target = (*id & DS_NOT_TARGET) == 0;

    *id = target ? *id : ~*id;
    writer->mask[writer->masked++] = target;
    return writer->masked == BLOCK_BYTES ? write_mask(writer, err) : 0;
}

int ds_token_writer_put(struct ds_token_writer *writer, const uint32_t *ids, size_t count,
                        struct ds_error *err)
{
    size_t width = ds_token_bytes(writer->type);

    for (size_t i = 0; i < count; i++) {
        uint8_t *at = writer->block + writer->used;
        uint32_t id = ids[i];
        int masked = writer->mask != NULL ? put_mask(writer, &id, err) : 0;

        if (masked != 0)
            return masked;
        if (width == 2) {
            at[0] = (uint8_t)id;
            at[1] = (uint8_t)(id >> 8);
        } else {
            ds_put_u32(at, id);
        }
        writer->used += width;
        if (writer->used == BLOCK_BYTES) {
            int rc = write_block(writer, err);

            if (rc != 0)
                return rc;
        }
    }
    writer->count += count;
    return 0;
}

static int write_header(struct ds_token_writer *writer, struct ds_error *err)
{
    uint8_t header[DS_TOKENS_HEADER] = {0};
    bool is_long = writer->count > INT32_MAX;

    ds_put_u32(header, DS_TOKENS_MAGIC);
    ds_put_u32(header + 4, writer->type == DS_TOKEN_U16 ? DS_TOKENS_U16 : DS_TOKENS_U32);
    ds_put_u32(header + 8, is_long ? DS_TOKENS_LONG : (uint32_t)writer->count);
    if (is_long)
        ds_put_u64(header + DS_TOKENS_LONG_AT, writer->count);
    return ds_error_context(err, ds_fs_pwrite_all(writer->fd, header, sizeof(header), 0, err),
                            "file '%s'", writer->path);
}

/* Behind the ids, block by block. */
static int append_mask(struct ds_token_writer *writer, struct ds_error *err)
{
    int rc = write_mask(writer, err);

    for (uint64_t at = 0, n; rc == 0 && at < writer->count; at += n) {
        n = writer->count - at < BLOCK_BYTES ? writer->count - at : BLOCK_BYTES;
        rc = ds_fs_pread_all(writer->mask_fd, writer->block, (size_t)n, at, err);
        writer->used = (size_t)n;
        if (rc == 0)
            rc = write_block(writer, err);
    }
    if (close(writer->mask_fd) != 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", writer->path, strerror(errno));
    free(writer->mask);
    writer->mask = NULL;
    return rc;
}

/* As long as the room for it. */
static int write_samples_header(struct ds_token_writer *writer, struct ds_error *err)
{
    const uint64_t samples = writer->count / writer->length;
    struct ds_safetensor tensors[] = {
        {.name = "tokens",
         .dtype = writer->type == DS_TOKEN_U16 ? DS_U16 : DS_I32,
         .ndim = 2,
         .shape = {samples, writer->length}},
        {.name = "loss_mask", .dtype = DS_U8, .ndim = 2, .shape = {samples, writer->length}},
    };
    struct ds_buf header;
    int rc;

    ds_buf_init(&header, SAMPLES_HEADER + 1);
    rc = ds_buf_reserve(&header, SAMPLES_HEADER) == NULL
             ? ds_fail(err, ENOMEM, "no memory for a header")
             : ds_safetensors_build(tensors, 2, NULL, &header, err);
    while (rc == 0 && header.len < SAMPLES_HEADER)
        rc = ds_buf_put(&header, " ", 1);
    if (rc == 0) {
        ds_put_u64((uint8_t *)header.data, SAMPLES_HEADER - sizeof(uint64_t));
        rc = ds_fs_pwrite_all(writer->fd, header.data, SAMPLES_HEADER, 0, err);
    }
    ds_buf_release(&header);
    return ds_error_context(err, rc, "file '%s'", writer->path);
}

static int write_rest(struct ds_token_writer *writer, struct ds_error *err)
{
    int rc = write_block(writer, err);

    if (rc != 0 || writer->mask == NULL)
        return rc == 0 ? write_header(writer, err) : rc;
    rc = append_mask(writer, err);
    return rc == 0 ? write_samples_header(writer, err) : rc;
}

int ds_token_writer_commit(struct ds_token_writer *writer, struct ds_error *err)
{
    int fd = writer->fd, rc = write_rest(writer, err);

    if (rc == 0 && fsync(fd) != 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", writer->path, strerror(errno));
    writer->fd = -1;
    if (close(fd) != 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", writer->path, strerror(errno));
    if (rc == 0) {
        rc = ds_fs_publish(writer->temp, writer->path, writer->replace, err);
        writer->temp[0] = '\0';
    }
    ds_token_writer_abort(writer);
    return rc;
}

void ds_token_writer_abort(struct ds_token_writer *writer)
{
    if (writer->fd >= 0)
        (void)close(writer->fd);
    if (writer->temp[0] != '\0')
        (void)unlink(writer->temp);
    if (writer->mask != NULL)
        (void)close(writer->mask_fd);
    free(writer->mask);
    free(writer->block);
    *writer = (struct ds_token_writer){.fd = -1};
}
