/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spec.c - the contract is in spec.h; the bytes, little endian:
 *
 *     u32 world | u32 first_rank | u32 ranks | u32 node | u32 nodes | u32 threads | u32 grace_ms
 *     u32 lease_ms | u32 flags (1: link, 2: gather, 4: probe, 8: no GPUs) | string job | string cwd
 *     u32 argc | argc strings | u32 envc | envc strings | u32 blob_bytes | blob
 *
 * A string is u32 length and that many bytes without NUL.  Nothing may follow the blob.
 */
#include "launcher/spec.h"

#include <errno.h>
#include <string.h>

#include "base/limits.h"
#include "base/wire.h"

#define DEVICES "CUDA_VISIBLE_DEVICES="

enum { SPEC_SCALARS = 9 };
enum { SPEC_FLAG_LINK = 1, SPEC_FLAG_GATHER = 2, SPEC_FLAG_PROBE = 4, SPEC_FLAG_NO_GPUS = 8 };
enum { SPEC_FLAGS = SPEC_FLAG_LINK | SPEC_FLAG_GATHER | SPEC_FLAG_PROBE | SPEC_FLAG_NO_GPUS };

struct reader {
    const unsigned char *at;
    size_t left;
    bool bad;
    bool no_memory; /* bad, but not by the fault of who sent it */
};

static void put_u32(struct ds_buf *out, uint32_t value)
{
    unsigned char bytes[4];

    ds_put_u32(bytes, value);
    (void)ds_buf_put(out, bytes, sizeof(bytes)); /* out->failed is checked at the end */
}

static void put_string(struct ds_buf *out, const char *text)
{
    size_t len = strlen(text);

    put_u32(out, (uint32_t)len);
    (void)ds_buf_put(out, text, len);
}

static uint32_t get_u32(struct reader *in)
{
    uint32_t value;

    if (in->bad || in->left < 4) {
        in->bad = true;
        return 0;
    }
    value = ds_get_u32(in->at);
    in->at += 4;
    in->left -= 4;
    return value;
}

static const unsigned char *get_bytes(struct reader *in, size_t len)
{
    const unsigned char *bytes = in->at;

    if (in->bad || in->left < len) {
        in->bad = true;
        return NULL;
    }
    in->at += len;
    in->left -= len;
    return bytes;
}

static const char *get_string(struct reader *in, struct ds_arena *arena)
{
    uint32_t len = get_u32(in);
    const void *bytes = get_bytes(in, len);
    char *text;

    if (bytes == NULL || memchr(bytes, '\0', len) != NULL) {
        in->bad = true;
        return NULL;
    }
    text = ds_arena_strndup(arena, bytes, len);
    in->bad = in->no_memory = text == NULL;
    return text;
}

static const char **get_strings(struct reader *in, struct ds_arena *arena, size_t *count)
{
    uint32_t n = get_u32(in);
    const char **list;

    if (in->bad || n > DS_MAX_SPEC_STRINGS) {
        in->bad = true;
        return NULL;
    }
    list = ds_arena_alloc(arena, (size_t)n + 1, sizeof(*list)); /* NULL at the end */
    if (list == NULL) {
        in->bad = in->no_memory = true;
        return NULL;
    }
    for (uint32_t i = 0; i < n && !in->bad; i++)
        list[i] = get_string(in, arena);
    *count = n;
    return list;
}

/* What both ends insist on. */
static int check(const struct ds_spec *spec, int code, struct ds_error *err)
{
    if (spec->world == 0 || spec->world > DS_MAX_RANKS)
        return ds_fail(err, code, "world size %u is not in 1 .. %d", spec->world, DS_MAX_RANKS);
    if (spec->ranks == 0 || spec->ranks > DS_MAX_SLOTS)
        return ds_fail(err, code, "%u ranks on one host is not in 1 .. %d", spec->ranks,
                       DS_MAX_SLOTS);
    if (spec->first_rank > spec->world - 1 || spec->ranks > spec->world - spec->first_rank)
        return ds_fail(err, code, "ranks from %u, %u of them, do not fit in a world of %u",
                       spec->first_rank, spec->ranks, spec->world);
    if (spec->nodes == 0 || spec->nodes > DS_MAX_HOSTS || spec->node >= spec->nodes)
        return ds_fail(err, code, "node %u of %u does not exist", spec->node, spec->nodes);
    if (spec->threads > DS_MAX_THREADS)
        return ds_fail(err, code, "%u threads per rank is above %d", spec->threads, DS_MAX_THREADS);
    if (spec->argc == 0 || spec->argc > DS_MAX_SPEC_STRINGS ||
        spec->envc > DS_MAX_SPEC_STRINGS - spec->argc)
        return ds_fail(err, code,
                       "%zu arguments and %zu variables: at least one argument and at "
                       "most %d of both",
                       spec->argc, spec->envc, DS_MAX_SPEC_STRINGS);
    if (spec->link + spec->gather + spec->probe > 1)
        return ds_fail(err, code, "ranks have a link, or gather, or are a probe");
    if (spec->argv[0][0] == '\0')
        return ds_fail(err, code, "the program's name is empty");
    for (size_t i = 0; i < spec->envc; i++) {
        const char *equals = strchr(spec->env[i], '=');

        if (equals == NULL || equals == spec->env[i])
            return ds_fail(err, code, "'%.100s' is not NAME=VALUE", spec->env[i]);
    }
    return 0;
}

int ds_spec_encode(const struct ds_spec *spec, struct ds_buf *out, struct ds_error *err)
{
    const uint32_t flags =
        (spec->link ? SPEC_FLAG_LINK : 0U) | (spec->gather ? SPEC_FLAG_GATHER : 0U) |
        (spec->probe ? SPEC_FLAG_PROBE : 0U) | (spec->no_gpus ? SPEC_FLAG_NO_GPUS : 0U);
    const uint32_t scalars[SPEC_SCALARS] = {
        spec->world,   spec->first_rank, spec->ranks,    spec->node, spec->nodes,
        spec->threads, spec->grace_ms,   spec->lease_ms, flags,
    };
    int rc = check(spec, EINVAL, err);

    if (rc != 0)
        return rc;
    for (size_t i = 0; i < SPEC_SCALARS; i++)
        put_u32(out, scalars[i]);
    put_string(out, spec->job != NULL ? spec->job : "");
    put_string(out, spec->cwd);
    put_u32(out, (uint32_t)spec->argc);
    for (size_t i = 0; i < spec->argc; i++)
        put_string(out, spec->argv[i]);
    put_u32(out, (uint32_t)spec->envc + (spec->devices != NULL));
    if (spec->devices != NULL) {
        put_u32(out, (uint32_t)(strlen(DEVICES) + strlen(spec->devices)));
        (void)ds_buf_puts(out, DEVICES);
        (void)ds_buf_puts(out, spec->devices);
    }
    for (size_t i = 0; i < spec->envc; i++)
        put_string(out, spec->env[i]);
    put_u32(out, (uint32_t)spec->blob_bytes);
    (void)ds_buf_put(out, spec->blob, spec->blob_bytes);
    if (out->failed || out->len > DS_MAX_FRAME_BYTES)
        return ds_fail(err, EMSGSIZE, "arguments, environment and job do not fit in %d bytes",
                       DS_MAX_FRAME_BYTES);
    return 0;
}

int ds_spec_decode(const void *bytes, size_t len, struct ds_arena *arena, struct ds_spec *spec,
                   struct ds_error *err)
{
    struct reader in = {.at = bytes, .left = len};
    struct ds_spec out = {0};
    uint32_t flags;
    int rc;

    out.world = get_u32(&in);
    out.first_rank = get_u32(&in);
    out.ranks = get_u32(&in);
    out.node = get_u32(&in);
    out.nodes = get_u32(&in);
    out.threads = get_u32(&in);
    out.grace_ms = get_u32(&in);
    out.lease_ms = get_u32(&in);
    flags = get_u32(&in);
    out.link = (flags & SPEC_FLAG_LINK) != 0;
    out.gather = (flags & SPEC_FLAG_GATHER) != 0;
    out.probe = (flags & SPEC_FLAG_PROBE) != 0;
    out.no_gpus = (flags & SPEC_FLAG_NO_GPUS) != 0;
    out.job = get_string(&in, arena);
    out.cwd = get_string(&in, arena);
    out.argv = get_strings(&in, arena, &out.argc);
    out.env = get_strings(&in, arena, &out.envc);
    out.blob_bytes = get_u32(&in);
    out.blob = get_bytes(&in, out.blob_bytes);
    if (in.no_memory)
        return ds_fail(err, ENOMEM, "no memory for a start specification of %zu bytes", len);
    if (in.bad || in.left != 0 || (flags & ~(uint32_t)SPEC_FLAGS) != 0)
        return ds_fail(err, EPROTO, "malformed start specification of %zu bytes", len);
    rc = check(&out, EPROTO, err);
    if (rc != 0)
        return rc;
    *spec = out;
    return 0;
}
