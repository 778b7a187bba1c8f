/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * clock.h - time, in the two senses the project needs.
 */
#ifndef DS_BASE_CLOCK_H
#define DS_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary point; never goes back.  For durations and deadlines. */
uint64_t ds_clock_mono_ns(void);

/* Seconds since 1970-01-01 UTC.  For records a person reads, never for decisions. */
double ds_clock_wall_s(void);

#endif
