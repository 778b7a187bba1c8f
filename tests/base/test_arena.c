/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_arena.c - alignment, zeroing, chunk borders, overflow.
 */
#include <criterion/criterion.h>

#include <stdint.h>
#include <string.h>

#include "base/arena.h"

Test(arena, memory_is_aligned_zeroed_and_disjoint)
{
    static const size_t sizes[] = {0, 1, 3, 16, 17, 100, 4080, 4096, 4097, 100000};
    enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), ROUNDS = 20 };
    unsigned char *at[SIZES * ROUNDS];
    struct ds_arena arena;

    ds_arena_init(&arena);
    for (size_t i = 0; i < SIZES * ROUNDS; i++) {
        size_t size = sizes[i % SIZES];

        at[i] = ds_arena_alloc(&arena, 1, size);
        cr_assert_not_null(at[i]);
        cr_assert_eq((uintptr_t)at[i] % _Alignof(max_align_t), 0);
        for (size_t k = 0; k < size; k++)
            cr_assert_eq(at[i][k], 0);
        memset(at[i], (int)(i % 251) + 1, size);
    }
    for (size_t i = 0; i < SIZES * ROUNDS; i++) /* nobody wrote into anybody else's */
        for (size_t k = 0; k < sizes[i % SIZES]; k++)
            cr_assert_eq(at[i][k], i % 251 + 1);
    ds_arena_release(&arena);
    ds_arena_release(&arena);
}

Test(arena, overflow_is_null)
{
    struct ds_arena arena;

    ds_arena_init(&arena);
    cr_assert_null(ds_arena_alloc(&arena, SIZE_MAX, 2));
    cr_assert_null(ds_arena_alloc(&arena, 2, SIZE_MAX));
    cr_assert_null(ds_arena_alloc(&arena, SIZE_MAX / 2, SIZE_MAX / 2));
    cr_assert_null(ds_arena_alloc(&arena, SIZE_MAX, 1));
    cr_assert_null(ds_arena_alloc(&arena, 1, SIZE_MAX - 8));
    cr_assert_null(ds_arena_strndup(&arena, "x", SIZE_MAX));
    cr_assert_not_null(ds_arena_alloc(&arena, 0, 0));
    cr_assert_not_null(ds_arena_alloc(&arena, SIZE_MAX, 0));
    ds_arena_release(&arena);
}

Test(arena, strings)
{
    struct ds_arena arena;

    ds_arena_init(&arena);
    cr_assert_str_eq(ds_arena_strdup(&arena, ""), "");
    cr_assert_str_eq(ds_arena_strdup(&arena, "wte"), "wte");
    cr_assert_str_eq(ds_arena_strndup(&arena, "wte.weight", 3), "wte");
    cr_assert_str_eq(ds_arena_strndup(&arena, NULL, 0), "");
    cr_assert_str_eq(ds_arena_printf(&arena, "h.%d.%s", 11, "ln_1"), "h.11.ln_1");
    cr_assert_eq(strlen(ds_arena_printf(&arena, "%*s", 10000, "")), 10000);
    cr_assert_str_eq(ds_arena_printf(&arena, "%s", ""), "");
    ds_arena_release(&arena);
}

/* Strings that fill their memory to the last byte keep their end. */
Test(arena, strings_end_before_their_neighbours)
{
    char *text[64];
    struct ds_arena arena;

    ds_arena_init(&arena);
    for (int i = 0; i < 64; i++)
        text[i] = i % 2 != 0 ? ds_arena_printf(&arena, "%*d", i, i)
                             : ds_arena_strndup(&arena,
                                                "0123456789abcdef0123456789abcdef"
                                                "0123456789abcdef0123456789abcdef",
                                                (size_t)i);
    for (int i = 2; i < 64; i++)
        cr_assert_eq(strlen(text[i]), (size_t)i, "%d: '%s'", i, text[i]);
    ds_arena_release(&arena);
}
