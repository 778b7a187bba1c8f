/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cached.h - attention of several new rows against a cache, in tiles.
 */
#ifndef DS_KERNELS_CPU_CACHED_H
#define DS_KERNELS_CPU_CACHED_H

#include "kernels/cpu/isa.h"

/* attention.c: the new rows' keys and values are in the cache already.  Scratch as of
 * ds__need_attention() for all rows. */
int DS_ISA(ds__attention_behind)(const struct ds_attention_cached_args *args,
                                 struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

#endif
