/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * share.c - the contract is in share.h.
 */
#include "runtime/ckpt/share.h"

#include <errno.h>

#include "runtime/ckpt/safetensors.h"
#include "runtime/ckpt/view.h"

/* Cuts inside of tensors lie at whole units, so that a piece starts where the disk likes it. */
enum { UNITS_PER_BLOCK = 64, NEAR_PER_BLOCK = 4 };

static unsigned replicas_of(const struct ds__share_args *args, const struct ds_ckpt_tensor *t)
{
    return t->replicas == 0 ? args->world : t->replicas;
}

static unsigned replica_of(const struct ds__share_args *args, const struct ds_ckpt_tensor *t)
{
    return t->replicas == 0 ? args->rank : t->replica;
}

/* That are to be saved. */
static uint64_t bytes_of(const struct ds_ckpt_tensor *t)
{
    return t->copy ? 0 : t->count * ds_dtype_bytes(t->dtype);
}

/* Of a tensor that can be saved, the view and its size. */
static int check(const struct ds__share_args *args, const struct ds_ckpt_tensor *t,
                 struct ds__share *share, struct ds_error *err)
{
    uint64_t elems = 0, bytes = 0;
    int rc;

    if (!ds_shape_elems(t->shape, t->ndim, &elems) ||
        __builtin_mul_overflow(elems, ds_dtype_bytes(t->dtype), &bytes) || bytes > INT64_MAX)
        return ds_fail(err, EOVERFLOW, "tensor '%s' does not fit in memory", t->name);
    rc = ds__view_shorten(&t->view, t->shape, t->ndim, &share->view, &share->elems, err);
    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", t->name);
    if (t->first > share->elems || t->count > share->elems - t->first)
        return ds_fail(err, EINVAL, "tensor '%s' has no elements %ju to %ju", t->name,
                       (uintmax_t)t->first, (uintmax_t)(t->first + t->count));
    if (replica_of(args, t) >= replicas_of(args, t) || replicas_of(args, t) > args->world)
        return ds_fail(err, EINVAL, "tensor '%s' cannot be replica %u of %u in a world of %u",
                       t->name, t->replica, t->replicas, args->world);
    return 0;
}

/* Bytes before part `part` of `parts` equal ones. */
static uint64_t before(uint64_t total, unsigned part, unsigned parts)
{
    return total / parts * part + total % parts * part / parts;
}

/* Where the line is cut, given in bytes of the tensor that lies at [start, start + bytes) of it:
 * close to one of its ends, there; else at a whole unit. */
static uint64_t cut_in(uint64_t cut, uint64_t start, uint64_t bytes, uint64_t size,
                       uint64_t block_bytes)
{
    uint64_t near = block_bytes / NEAR_PER_BLOCK, unit = block_bytes / UNITS_PER_BLOCK, at;

    if (cut <= start)
        return 0;
    if (cut >= start + bytes)
        return bytes;
    at = cut - start;
    if (at < near && at <= bytes - at)
        return 0;
    if (bytes - at < near)
        return bytes;
    unit = unit < size ? size : unit - unit % size;
    return at - at % unit;
}

/* Do the two lie in one line? */
static bool is_alike(const struct ds__share_args *args, const struct ds_ckpt_tensor *a,
                     const struct ds_ckpt_tensor *b)
{
    return a->group == b->group && replicas_of(args, a) == replicas_of(args, b) &&
           replica_of(args, a) == replica_of(args, b);
}

/* This rank's part of the line that `like` lies in. */
static void share_line(const struct ds__share_args *args, const struct ds_ckpt_tensor *like,
                       struct ds__share *shares)
{
    unsigned part = replica_of(args, like), parts = replicas_of(args, like);
    uint64_t total = 0, start = 0, from, to;

    for (size_t i = 0; i < args->count; i++)
        if (is_alike(args, &args->tensors[i], like))
            total += bytes_of(&args->tensors[i]);
    from = before(total, part, parts);
    to = before(total, part + 1, parts);
    for (size_t i = 0; i < args->count; i++) {
        const struct ds_ckpt_tensor *t = &args->tensors[i];
        uint64_t size = ds_dtype_bytes(t->dtype), bytes = bytes_of(t), a, b;

        if (!is_alike(args, t, like))
            continue;
        a = cut_in(from, start, bytes, size, args->block_bytes);
        b = cut_in(to, start, bytes, size, args->block_bytes);
        shares[i].tensor = t;
        shares[i].first = t->first + a / size;
        shares[i].count = (b - a) / size;
        start += bytes;
    }
}

int ds__share_out(const struct ds__share_args *args, struct ds__share *shares, size_t *out,
                  struct ds_error *err)
{
    uint64_t total = 0;
    size_t kept = 0;

    for (size_t i = 0; i < args->count; i++) {
        int rc;

        shares[i] = (struct ds__share){.tensor = NULL};
        rc = check(args, &args->tensors[i], &shares[i], err);

        if (rc < 0)
            return rc;
        if (__builtin_add_overflow(total, bytes_of(&args->tensors[i]), &total))
            return ds_fail(err, EOVERFLOW, "the tensors do not fit in memory");
    }
    for (size_t i = 0; i < args->count; i++)
        if (shares[i].tensor == NULL)
            share_line(args, &args->tensors[i], shares);
    for (size_t i = 0; i < args->count; i++)
        if (shares[i].count > 0)
            shares[kept++] = shares[i];
    *out = kept;
    return 0;
}
