/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mapped.h - which words among the arguments of an operation are addresses of this process.
 *
 * For doubles of a device with memory of its own: they share the process with the host, so that
 * nothing else would notice a pointer to the host's memory that a kernel is given.
 */
#ifndef DS_TESTS_SUPPORT_MAPPED_H
#define DS_TESTS_SUPPORT_MAPPED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* Bytes between members hold anything, half of an address among it.  Who compiles without this has no
 * way to tell them apart, and looks at nothing. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
#define MAPPED_CLEAN(object) (__builtin_clear_padding(object), sizeof(*(object)))
#endif
#endif
#ifndef MAPPED_CLEAN
#define MAPPED_CLEAN(object) ((void)(object), (size_t)0)
#endif

/* The first word at `args` that is such an address and of which allowed() is false, else 0. */
static inline uintptr_t mapped_stranger(const void *args, size_t bytes,
                                        bool (*allowed)(const void *p))
{
    const uintptr_t lowest = 1u << 16, beyond = (uintptr_t)1 << 47, page = 4096;

    for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
        unsigned char resident;
        uintptr_t word;

        memcpy(&word, (const char *)args + i, sizeof(word));
        if (word >= lowest && word < beyond && !allowed((const void *)word) &&
            mincore((void *)(word / page * page), 1, &resident) == 0)
            return word;
    }
    return 0;
}

#endif
