/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_buf.c - growth, ceilings, and the refusal after a failure.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "base/buf.h"

Test(buf, text_is_always_a_c_string)
{
    struct ds_buf buf;

    ds_buf_init(&buf, 1000);
    cr_assert_str_eq(ds_buf_text(&buf), "");
    cr_assert_eq(ds_buf_puts(&buf, "step "), 0);
    cr_assert_eq(ds_buf_printf(&buf, "%d of %s", 7, "9"), 0);
    cr_assert_eq(ds_buf_put(&buf, NULL, 0), 0);
    cr_assert_str_eq(ds_buf_text(&buf), "step 7 of 9");
    cr_assert_eq(buf.len, strlen("step 7 of 9"));
    ds_buf_consume(&buf, 5);
    cr_assert_str_eq(ds_buf_text(&buf), "7 of 9");
    ds_buf_consume(&buf, 6);
    cr_assert_str_eq(ds_buf_text(&buf), "");
    ds_buf_release(&buf);
}

/* Exactly `max` bytes fit, by every way of appending; one more does not, and then nothing does. */
Test(buf, ceiling_is_exact)
{
    static const size_t ceilings[] = {1, 2, 255, 256, 257, 1000};

    for (size_t i = 0; i < sizeof(ceilings) / sizeof(ceilings[0]); i++) {
        struct ds_buf buf;
        size_t max = ceilings[i];

        ds_buf_init(&buf, max);
        for (size_t k = 0; k < max; k++)
            cr_assert_eq(ds_buf_put(&buf, "x", 1), 0, "byte %zu of %zu", k, max);
        cr_assert_eq(buf.len, max);
        cr_assert_not(buf.failed);
        cr_assert_leq(buf.cap, max + 1, "never holds more than its ceiling");
        cr_assert_eq(ds_buf_put(&buf, "y", 1), -ENOBUFS);
        cr_assert(buf.failed);
        cr_assert_eq(buf.len, max, "what was there stays");

        ds_buf_consume(&buf, max);
        cr_assert_eq(ds_buf_put(&buf, "y", 1), -ENOBUFS, "refuses until reset");
        cr_assert_null(ds_buf_reserve(&buf, 1));
        cr_assert_neq(ds_buf_printf(&buf, "y"), 0);

        ds_buf_reset(&buf);
        cr_assert_eq(ds_buf_printf(&buf, "%*s", (int)max, ""), 0);
        cr_assert_eq(ds_buf_printf(&buf, "z"), -ENOBUFS);
        ds_buf_reset(&buf);
        cr_assert_not_null(ds_buf_reserve(&buf, max));
        cr_assert_null(ds_buf_reserve(&buf, max + 1));
        ds_buf_release(&buf);
    }
}

Test(buf, absurd_lengths_are_refused)
{
    struct ds_buf buf;

    ds_buf_init(&buf, SIZE_MAX);
    cr_assert_eq(ds_buf_puts(&buf, "x"), 0);
    cr_assert_null(ds_buf_reserve(&buf, SIZE_MAX));
    ds_buf_reset(&buf);
    cr_assert_null(ds_buf_reserve(&buf, SIZE_MAX / 2));
    ds_buf_release(&buf);
}

Test(buf, zeroed_is_valid)
{
    struct ds_buf buf = {0};

    cr_assert_str_eq(ds_buf_text(&buf), "");
    cr_assert_eq(ds_buf_put(&buf, "x", 1), -ENOBUFS);
    ds_buf_reset(&buf);
    ds_buf_release(&buf);
    ds_buf_release(&buf);
}

Test(buf, reserve_and_commit)
{
    struct ds_buf buf;
    char *at;

    ds_buf_init(&buf, 10000);
    cr_assert_eq(ds_buf_puts(&buf, "head:"), 0);
    at = ds_buf_reserve(&buf, 5000);
    cr_assert_not_null(at);
    memset(at, 'r', 5000);
    ds_buf_commit(&buf, 3);
    cr_assert_str_eq(ds_buf_text(&buf), "head:rrr");
    ds_buf_release(&buf);
}

/* Appending byte by byte moves the buffer rarely. */
Test(buf, growth_doubles)
{
    struct ds_buf buf;
    size_t cap = 0;
    unsigned moves = 0;

    ds_buf_init(&buf, 1 << 20);
    for (int i = 0; i < 1 << 16; i++) {
        cr_assert_eq(ds_buf_put(&buf, "x", 1), 0);
        moves += buf.cap != cap;
        cap = buf.cap;
    }
    cr_assert_leq(moves, 10, "256 bytes to 64 KiB: %u steps", moves);
    ds_buf_release(&buf);
}

/* A queue: what comes out is what went in, whatever the sizes. */
Test(buf, append_and_consume_keep_order)
{
    struct ds_buf buf;
    unsigned char next_in = 0, next_out = 0;

    ds_buf_init(&buf, 4096);
    for (unsigned round = 0; round < 500; round++) {
        size_t in = round * 7 % 61, out;

        for (size_t i = 0; i < in; i++, next_in++)
            cr_assert_eq(ds_buf_put(&buf, &next_in, 1), 0);
        out = round * 5 % 67 < buf.len ? round * 5 % 67 : buf.len;
        for (size_t i = 0; i < out; i++)
            cr_assert_eq((unsigned char)buf.data[i], next_out++);
        ds_buf_consume(&buf, out);
    }
    ds_buf_release(&buf);
}
