/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * op.c - the entries of operations, made from the list; the contract is in op.h.
 */
#include "kernels/op.h"

#include <errno.h>

#include "kernels/device.h"
#include "kernels/op_check.h"
#include "kernels/probe.h"

/* clang-format off */
#define X(id, fn) \
    int ds_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream, struct ds_error *err) \
    { \
        const char *wrong = ds__check_##fn(args); \
        const struct ds_kernels *kernels = ds_stream_kernels(stream); \
        size_t at; \
        int rc; \
        if (wrong != NULL) \
            return ds_fail(err, EINVAL, "operation '%s' was given %s", #fn, wrong); \
        if (kernels->fn == NULL) \
            return ds_fail(err, ENOTSUP, "device '%s' lacks operation '%s'", kernels->name, #fn); \
        rc = ds__probe_begin(stream, &at, err); \
        if (rc == 0) \
            rc = kernels->fn(args, stream, err); \
        return rc != 0 ? rc : ds__probe_end_op(stream, at, #fn, DS_OP_##id, args, err); \
    }
DS_OPS(X)
#undef X
/* clang-format on */

const char *ds_op_name(enum ds_op op)
{
    static const char *const names[] = {
#define X(id, fn) [DS_OP_##id] = #fn,
        DS_OPS(X)
#undef X
    };
    return (unsigned)op < DS_OP_COUNT ? names[op] : "?";
}
