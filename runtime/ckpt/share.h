/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * share.h - which of the elements that a rank holds it is the one to write.
 *
 * The ranges of one group that the same ranks hold, laid end to end, are a line; with n replicas
 * it is cut into n parts of equal bytes, one for each.  A cut that comes close to a tensor's end
 * moves there, so that small tensors stay whole; all replicas compute the same cuts.
 *
 * Pure.
 * Tests   tests/ckpt/test_share.c
 */
#ifndef DS_RUNTIME_SHARE_H
#define DS_RUNTIME_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/ckpt/ckpt.h"

struct ds__share {
    const struct ds_ckpt_tensor *tensor; /* borrowed */
    struct ds_ckpt_view view;            /* the tensor's, in its shortest form */
    uint64_t elems;                      /* of the view */
    uint64_t first, count;               /* of the view's elements, count > 0 */
};

struct ds__share_args {
    const struct ds_ckpt_tensor *tensors;
    size_t count;
    unsigned rank, world;
    uint64_t block_bytes; /* a cut moves by at most a quarter of it */
};

/* Fill shares[args->count], in the order of the tensors, at most one of each; *out: how many.
 * EINVAL a range or a view that is not in its tensor, a replica that cannot be; EOVERFLOW. */
int ds__share_out(const struct ds__share_args *args, struct ds__share *shares, size_t *out,
                  struct ds_error *err) DS_NODISCARD;

#endif
