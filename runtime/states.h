/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * states.h - LOAD and STORE: the optimizer's states of a plan that keeps them in a file.
 *
 * The plan says which pieces there are, where they lie and in which order they come
 * (runtime/plan/pieces.c).  To load and to store is only begun by the call; a piece is waited for
 * when it is used.  Between steps the rooms are empty, and whoever saves, loads or compares states
 * reads and writes them here, as one line of floats: that of the first state, behind it that of the
 * second.
 *
 * Errors  those of disk.h.
 * Tests   tests/engine/test_states.c
 */
#ifndef DS_RUNTIME_STATES_H
#define DS_RUNTIME_STATES_H

#include <stdint.h>

#include "base/error.h"
#include "runtime/optim.h"
#include "runtime/plan/plan.h"

struct ds_states;

/* All zero.  `rooms` is the arena MOMENTS; all are borrowed until the close. */
int ds_states_open(struct ds_states **states, const struct ds_plan *plan, const char *dir,
                   void *rooms, struct ds_error *err) DS_NODISCARD;
void ds_states_close(struct ds_states *states); /* NULL is fine */

/* A sentence where states go through the page cache, else NULL. */
const char *ds_states_note(const struct ds_states *states);

void ds_states_load(struct ds_states *states, uint32_t piece);
/* Wait for a piece that is loaded; state[i] is its first element of the i-th state. */
int ds_states_use(struct ds_states *states, uint32_t piece, float *state[DS_OPTIM_STATES],
                  struct ds_error *err) DS_NODISCARD;
void ds_states_store(struct ds_states *states, uint32_t piece);
/* Wait for all that was begun. */
int ds_states_settle(struct ds_states *states, struct ds_error *err) DS_NODISCARD;

/* `count` floats from `first` of that line, while nothing is under way. */
int ds_states_read(struct ds_states *states, uint64_t first, float *to, uint64_t count,
                   struct ds_error *err) DS_NODISCARD;
int ds_states_write(struct ds_states *states, uint64_t first, const float *from, uint64_t count,
                    struct ds_error *err) DS_NODISCARD;
/* All zero again. */
int ds_states_clear(struct ds_states *states, struct ds_error *err) DS_NODISCARD;

#endif
