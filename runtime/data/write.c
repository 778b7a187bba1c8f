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

enum { BLOCK_BYTES = 1 << 18, U16_VOCAB = 1 << 16 };

int ds_token_writer_open(struct ds_token_writer *writer, const char *path, uint64_t vocab,
                         bool replace, struct ds_error *err)
{
    *writer = (struct ds_token_writer){
        .type = vocab <= U16_VOCAB ? DS_TOKEN_U16 : DS_TOKEN_U32, .replace = replace, .fd = -1};
    if (strlen(path) >= sizeof(writer->path))
        return ds_fail(err, ENAMETOOLONG, "the name '%.60s...' is too long", path);
    memcpy(writer->path, path, strlen(path) + 1);
    if (!replace && access(path, F_OK) == 0)
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
    writer->used = DS_TOKENS_HEADER; /* is written last */
    return 0;
}

static int write_block(struct ds_token_writer *writer, struct ds_error *err)
{
    int rc = ds_fs_write_all(writer->fd, writer->block, writer->used, err);

    writer->used = 0;
    return ds_error_context(err, rc, "file '%s'", writer->path);
}

int ds_token_writer_put(struct ds_token_writer *writer, const uint32_t *ids, size_t count,
                        struct ds_error *err)
{
    size_t width = ds_token_bytes(writer->type);

    for (size_t i = 0; i < count; i++) {
        uint8_t *at = writer->block + writer->used;

        if (width == 2) {
            at[0] = (uint8_t)ids[i];
            at[1] = (uint8_t)(ids[i] >> 8);
        } else {
            ds_put_u32(at, ids[i]);
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

int ds_token_writer_commit(struct ds_token_writer *writer, struct ds_error *err)
{
    int fd = writer->fd, rc = write_block(writer, err);

    if (rc == 0)
        rc = write_header(writer, err);
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
    free(writer->block);
    *writer = (struct ds_token_writer){.fd = -1};
}
