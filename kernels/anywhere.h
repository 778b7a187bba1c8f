/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * anywhere.h - functions that are written once for the host and for kernels of a device.
 */
#ifndef DS_KERNELS_ANYWHERE_H
#define DS_KERNELS_ANYWHERE_H

#ifdef __cplusplus
#define DS_ANYWHERE static __host__ __device__ inline
#else
#define DS_ANYWHERE static inline
#endif

#endif
