/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * inspect.h - looking at checkpoints: what one holds, and how two differ.
 *
 * Tests   tests/ckpt/test_cmd.c
 */
#ifndef DS_RUNTIME_INSPECT_H
#define DS_RUNTIME_INSPECT_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"
#include "runtime/ckpt/ckpt.h"

struct ds_ckpt_info {
    struct ds_ckpt_state state;
    size_t tensors, parts; /* parts: files with tensors */
    uint64_t bytes;        /* of all files, the manifest left out */
};

/* Manifest and sizes of files, as ds_ckpt_peek(). */
int ds_ckpt_inspect(const char *path, struct ds_ckpt_info *info, struct ds_error *err) DS_NODISCARD;

enum ds_ckpt_difference { DS_DIFF_VALUES, DS_DIFF_SHAPE, DS_DIFF_ONLY_A, DS_DIFF_ONLY_B };

struct ds_ckpt_diff_entry {
    char name[DS_MAX_TENSOR_NAME + 1];
    enum ds_ckpt_difference how;
    double relative; /* |a - b| / |a| in L2; infinite unless `how` is VALUES */
    double largest;  /* largest |a - b| of an element */
    uint64_t elems;  /* that differ */
};
struct ds_ckpt_diff {
    size_t compared; /* tensors that both have in one shape */
    size_t count;
    struct ds_ckpt_diff_entry *entry; /* largest relative difference first, then by name */
};

/* Compare all tensors, bit by bit; every checksum is compared on the way.  The layouts of the two
 * do not matter, and neither does the size of a tensor: both are read once, a piece at a time.
 * Tensors that are not F32 are compared without numbers: relative and largest are infinite when
 * their bytes differ. */
int ds_ckpt_diff(const char *a, const char *b, struct ds_ckpt_diff *diff, struct ds_error *err)
    DS_NODISCARD;
void ds_ckpt_diff_release(struct ds_ckpt_diff *diff);

#endif
