/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - the ranks of a group on several hosts: which sums a host may form, who talks to whom.
 *
 * The bits of a sum must not depend on who shares a host, so a host adds up only ranks that are a
 * whole subtree of the one reduction tree (tree.h).  The largest such subtrees are the `pieces`; a
 * postfix program adds them as the tree does:
 *
 *     ranks 0 1 2 | 3 on two hosts:   pieces [0,2) [2,3) | [3,4)   program 0 1 2 + +
 *
 * Every rank owns a slice of the work.  On each other host one rank, its partner, stands for that
 * host: it gives the host's pieces of the slice and takes the finished slice.
 *
 * Pure.
 * Tests   tests/comm/test_layout.c
 */
#ifndef DS_RUNTIME_COMM_LAYOUT_H
#define DS_RUNTIME_COMM_LAYOUT_H

#include <stddef.h>

#include "base/error.h"

enum { DS_LAYOUT_ADD = -1 }; /* in a program; numbers from 0 put a piece on the stack */

struct ds__piece { /* the sum of ranks [lo, hi), all of one host */
    unsigned lo, hi, host;
};

struct ds__layout {
    unsigned ranks, hosts, pieces, steps;
    unsigned *host;  /* of each rank: 0 .. hosts - 1 in the order of first appearance */
    unsigned *seat;  /* of each rank: its place among those on its host */
    unsigned *first; /* [hosts + 1]: where each host's ranks begin in `rank_at` */
    unsigned *rank_at;
    unsigned *forms;         /* [hosts]: pieces of each */
    struct ds__piece *piece; /* rising */
    int *program;            /* `steps` of them */
};

/* `host_of[rank]` is any number that ranks of one host share.  On failure nothing is held. */
int ds__layout_init(struct ds__layout *layout, unsigned ranks, const unsigned *host_of,
                    struct ds_error *err) DS_NODISCARD;
void ds__layout_release(struct ds__layout *layout); /* fine on a zeroed struct */

/* Ranks on `host`, pieces it forms, and the rank with `seat` there. */
unsigned ds__layout_count(const struct ds__layout *layout, unsigned host);
unsigned ds__layout_pieces(const struct ds__layout *layout, unsigned host);
unsigned ds__layout_rank(const struct ds__layout *layout, unsigned host, unsigned seat);

/* Who stands for `host` before `rank`, which is on another one. */
unsigned ds__layout_partner(const struct ds__layout *layout, unsigned host, unsigned rank);

#endif
