/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * old.h - a checkpoint as version 1 of the format had it.
 */
#ifndef DS_TESTS_CKPT_OLD_H
#define DS_TESTS_CKPT_OLD_H

#include <xxhash.h>

#include "runtime/ckpt/manifest.h"
#include "tests/ckpt/support.h"

/* As a checkpoint that has one sum for each range: what version 1 of the format says. */
static inline void make_old(const char *step)
{
    struct ds_manifest m;
    struct ds_buf text;

    cr_assert(ds_manifest_load(&m, at(step, "manifest.json"), NULL) == 0);
    for (size_t i = 0; i < m.tensors; i++)
        for (size_t j = 0; j < m.tensor[i].view->ranges; j++) {
            struct ds_manifest_range *range = &m.tensor[i].view->range[j];
            struct ds_buf file = slurp(at(step, m.file[range->file].name));

            range->xxh3[0] = XXH3_64bits(file.data + range->offset, range->bytes);
            ds_buf_release(&file);
        }
    m.block_bytes = 0;
    ds_buf_init(&text, 1 << 24);
    cr_assert(ds_manifest_write(&m, &text, NULL) == 0);
    cr_assert(strstr(text.data, "\"version\":1") != NULL);
    spill(at(step, "manifest.json"), text.data, text.len);
    ds_buf_release(&text);
    ds_manifest_release(&m);
}

#endif
