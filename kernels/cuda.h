/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cuda.h - the CUDA backend as the plug-in sees it.
 */
#ifndef DS_KERNELS_CUDA_H
#define DS_KERNELS_CUDA_H

#include <stdint.h>

#include "base/error.h"

struct ds_backend;
extern const struct ds_backend ds_backend_cuda;

/* How many devices this process may use; -ENODEV or -EIO and why, when there is none. */
int ds_cuda_count(unsigned *count, struct ds_error *err) DS_NODISCARD;

/* Bytes of a device that are free, and all there are, once this process has a context on it. */
int ds_cuda_memory(unsigned index, uint64_t *left, uint64_t *all, struct ds_error *err)
    DS_NODISCARD;

#endif
