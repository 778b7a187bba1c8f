/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * arena.h - many small allocations with one lifetime, freed together.
 *
 * For parsed files, tables and plans: whatever hangs together lives in one
 * arena and needs no destructor of its own.  (The tensors of a run lie in the
 * plan's arenas, which are something else: runtime/plan/plan.h.)
 *
 * Tests   tests/base/test_arena.c
 */
#ifndef DS_BASE_ARENA_H
#define DS_BASE_ARENA_H

#include <stddef.h>

struct ds_arena_chunk;
struct ds_arena {
    struct ds_arena_chunk *chunks; /* newest first */
    size_t used, cap;              /* of the newest chunk */
};

void ds_arena_init(struct ds_arena *arena);
void ds_arena_release(struct ds_arena *arena);

/* Zeroed, aligned for any type; NULL when memory runs out or count * size overflows. */
void *ds_arena_alloc(struct ds_arena *arena, size_t count, size_t size);
char *ds_arena_strndup(struct ds_arena *arena, const char *text, size_t len);
char *ds_arena_strdup(struct ds_arena *arena, const char *text);
char *ds_arena_printf(struct ds_arena *arena, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
