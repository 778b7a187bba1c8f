/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * arena.c - the contract is in arena.h.
 *
 * A list of chunks; the newest is filled from its start.  What does not fit
 * there begins a new chunk, so a large request costs at most the rest of one.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 4096, ALIGN_BYTES = _Alignof(max_align_t) };

struct ds_arena_chunk {
    struct ds_arena_chunk *next;
    _Alignas(max_align_t) char bytes[]; /* zeroed */
};

void ds_arena_init(struct ds_arena *arena)
{
    *arena = (struct ds_arena){0};
}

void ds_arena_release(struct ds_arena *arena)
{
    while (arena->chunks != NULL) {
        struct ds_arena_chunk *chunk = arena->chunks;

        arena->chunks = chunk->next;
        free(chunk);
    }
    *arena = (struct ds_arena){0};
}

static int add_chunk(struct ds_arena *arena, size_t bytes)
{
    size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct ds_arena_chunk *chunk = calloc(1, sizeof(*chunk) + cap);

    if (chunk == NULL)
        return -1;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->used = 0;
    arena->cap = cap;
    return 0;
}

void *ds_arena_alloc(struct ds_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    void *at;

    if (size != 0 && count > (SIZE_MAX / 2) / size)
        return NULL;
    bytes = (count * size + ALIGN_BYTES - 1) & ~(size_t)(ALIGN_BYTES - 1);
    if (bytes == 0)
        bytes = ALIGN_BYTES; /* distinct pointers for empty things */
    if (bytes > arena->cap - arena->used && add_chunk(arena, bytes) != 0)
        return NULL;
    at = arena->chunks->bytes + arena->used;
    arena->used += bytes;
    return at;
}

char *ds_arena_strndup(struct ds_arena *arena, const char *text, size_t len)
{
    char *copy = len < SIZE_MAX ? ds_arena_alloc(arena, len + 1, 1) : NULL;

    if (copy != NULL && len > 0)
        memcpy(copy, text, len);
    return copy;
}

char *ds_arena_strdup(struct ds_arena *arena, const char *text)
{
    return ds_arena_strndup(arena, text, strlen(text));
}

char *ds_arena_printf(struct ds_arena *arena, const char *fmt, ...)
{
    va_list args;
    char *text;
    int len;

    va_start(args, fmt);
    len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0)
        return NULL;
    text = ds_arena_alloc(arena, (size_t)len + 1, 1);
    if (text == NULL)
        return NULL;
    va_start(args, fmt);
    (void)vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}
