/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_layout - pieces are whole subtrees of one host, and their program is the tree.
 */
#include <criterion/criterion.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "runtime/comm/layout.h"
#include "runtime/comm/tree.h"

enum { MOST = 40 };

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* The tree over ranks lo .. hi - 1 as text. */
static void write_tree(struct ds_buf *out, unsigned lo, unsigned hi)
{
    if (hi - lo == 1) {
        (void)ds_buf_printf(out, "%u", lo);
        return;
    }
    (void)ds_buf_puts(out, "(");
    write_tree(out, lo, lo + ds__tree_left(hi - lo));
    (void)ds_buf_puts(out, "+");
    write_tree(out, lo + ds__tree_left(hi - lo), hi);
    (void)ds_buf_puts(out, ")");
}

/* What the program adds, as the same text. */
static void write_program(const struct ds__layout *layout, struct ds_buf *out)
{
    struct ds_buf stack[MOST];
    unsigned top = 0;

    for (unsigned i = 0; i < layout->steps; i++) {
        struct ds_buf both;

        ds_buf_init(&both, 1 << 16);
        if (layout->program[i] >= 0) {
            const struct ds__piece *piece = &layout->piece[layout->program[i]];

            write_tree(&both, piece->lo, piece->hi);
            stack[top++] = both;
            continue;
        }
        top--;
        (void)ds_buf_printf(&both, "(%s+%s)", ds_buf_text(&stack[top - 1]),
                            ds_buf_text(&stack[top]));
        ds_buf_release(&stack[top]);
        ds_buf_release(&stack[top - 1]);
        stack[top - 1] = both;
    }
    cr_assert_eq(top, 1);
    *out = stack[0];
}

static void check(const unsigned *host_of, unsigned ranks)
{
    struct ds_buf tree, program;
    struct ds__layout layout;
    unsigned covered = 0, seats = 0;

    cr_assert_eq(ds__layout_init(&layout, ranks, host_of, NULL), 0);
    ds_buf_init(&tree, 1 << 16);
    write_tree(&tree, 0, ranks);
    write_program(&layout, &program);
    cr_assert_str_eq(ds_buf_text(&program), ds_buf_text(&tree));
    ds_buf_release(&tree);
    ds_buf_release(&program);
    for (unsigned i = 0; i < layout.pieces; i++) {
        const struct ds__piece *piece = &layout.piece[i];

        cr_assert_eq(piece->lo, covered);
        covered = piece->hi;
        for (unsigned rank = piece->lo; rank < piece->hi; rank++)
            cr_assert_eq(layout.host[rank], piece->host);
    }
    cr_assert_eq(covered, ranks);
    for (unsigned host = 0; host < layout.hosts; host++)
        seats += ds__layout_count(&layout, host);
    cr_assert_eq(seats, ranks);
    for (unsigned rank = 0; rank < ranks; rank++) {
        cr_assert_eq(ds__layout_rank(&layout, layout.host[rank], layout.seat[rank]), rank);
        for (unsigned host = 0; host < layout.hosts; host++)
            cr_assert_eq(layout.host[ds__layout_partner(&layout, host, rank)], host);
    }
    ds__layout_release(&layout);
}

Test(layout, ranks_dealt_host_by_host)
{
    for (unsigned ranks = 1; ranks <= MOST; ranks++)
        for (unsigned each = 1; each <= ranks; each++) {
            unsigned host_of[MOST];

            for (unsigned rank = 0; rank < ranks; rank++)
                host_of[rank] = 7 + rank / each;
            check(host_of, ranks);
        }
}

Test(layout, ranks_anywhere)
{
    uint32_t state = 1;

    for (unsigned round = 0; round < 2000; round++) {
        unsigned host_of[MOST], ranks = 1 + next_random(&state) % MOST;
        unsigned hosts = 1 + next_random(&state) % ranks;

        for (unsigned rank = 0; rank < ranks; rank++)
            host_of[rank] = next_random(&state) % hosts;
        check(host_of, ranks);
    }
}

Test(layout, equal_powers_of_two_are_one_piece_a_host)
{
    const unsigned host_of[] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2};
    struct ds__layout layout;

    cr_assert_eq(ds__layout_init(&layout, 12, host_of, NULL), 0);
    cr_assert_eq(layout.pieces, 3);
    cr_assert_eq(ds__layout_pieces(&layout, 1), 1);
    cr_assert_eq(ds__layout_partner(&layout, 2, 5), 9);
    ds__layout_release(&layout);
}

Test(layout, three_and_one_are_three_pieces)
{
    const unsigned host_of[] = {0, 0, 0, 1};
    static const int program[] = {0, 1, 2, DS_LAYOUT_ADD, DS_LAYOUT_ADD};
    struct ds__layout layout;

    cr_assert_eq(ds__layout_init(&layout, 4, host_of, NULL), 0);
    cr_assert_eq(layout.pieces, 3);
    cr_assert_eq(layout.steps, 5);
    cr_assert_eq(memcmp(layout.program, program, sizeof(program)), 0);
    ds__layout_release(&layout);
}
