/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cores.h - which cores a rank gets: a pure share of the cores this host allows.
 *
 * Rank i of a host takes `threads` cores from core i * threads on, counted among the allowed ones
 * and starting over at their end when the ranks want more cores than there are.
 *
 * Tests   tests/launcher/test_cores.c
 */
#ifndef DS_LAUNCHER_CORES_H
#define DS_LAUNCHER_CORES_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"

enum { DS_CORES_TEXT = 8192 }; /* enough for any list of CPU_SETSIZE cores */

/* The cores that this process may use, into `cores`; their number, at least 1. */
unsigned ds_cores_allowed(cpu_set_t *cores);

/* Threads of a rank: `wanted`, or an equal share of the allowed cores, at least 1, when 0. */
unsigned ds_cores_per_rank(unsigned allowed, unsigned ranks, unsigned wanted);

/* The cores of local rank `local`. */
void ds_cores_share(const cpu_set_t *allowed, unsigned threads, unsigned local, cpu_set_t *mine);

/* "0-3,8", the other way: false when it is malformed or names what is no core.  A line feed may end
 * it; an empty list is one, too. */
bool ds_cores_parse(const char *text, cpu_set_t *cores);

/* "0-3,8". */
void ds_cores_text(const cpu_set_t *cores, char out[DS_CORES_TEXT]);

#endif
