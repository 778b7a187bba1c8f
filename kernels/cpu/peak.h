/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * peak.h - the most that the arithmetic units do: a loop of multiply-adds in registers.
 */
#ifndef DS_KERNELS_CPU_PEAK_H
#define DS_KERNELS_CPU_PEAK_H

#include <stddef.h>

#include "kernels/op.h"

/* Run the loop `turns` times on each thread of the stream; returns the operations done. */
double ds__cpu_peak(struct ds_stream *stream, size_t turns);

#endif
