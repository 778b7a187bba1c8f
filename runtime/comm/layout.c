/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * layout.c - the contract is in layout.h.
 */
#include "runtime/comm/layout.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "runtime/comm/tree.h"

/* Number the hosts as they appear, and the ranks within each.  Mostly they come in their order. */
static void number_hosts(struct ds__layout *layout, const unsigned *host_of)
{
    unsigned largest = 0; /* rank with the largest number yet */

    for (unsigned rank = 0; rank < layout->ranks; rank++) {
        bool new = rank == 0 || host_of[rank] > host_of[largest];
        unsigned before = new ? rank : 0;

        if (rank > 0 && host_of[rank] == host_of[rank - 1])
            before = rank - 1;
        while (before < rank && host_of[before] != host_of[rank])
            before++;
        largest = new ? rank : largest;
        layout->host[rank] = before < rank ? layout->host[before] : layout->hosts++;
        layout->seat[rank] = layout->first[layout->host[rank] + 1]++;
    }
    for (unsigned host = 0; host < layout->hosts; host++)
        layout->first[host + 1] += layout->first[host];
    for (unsigned rank = 0; rank < layout->ranks; rank++)
        layout->rank_at[layout->first[layout->host[rank]] + layout->seat[rank]] = rank;
}

static bool one_host(const struct ds__layout *layout, unsigned lo, unsigned hi)
{
    for (unsigned rank = lo + 1; rank < hi; rank++)
        if (layout->host[rank] != layout->host[lo])
            return false;
    return true;
}

static void cut(struct ds__layout *layout, unsigned lo, unsigned hi)
{
    unsigned middle;

    if (one_host(layout, lo, hi)) {
        layout->piece[layout->pieces] =
            (struct ds__piece){.lo = lo, .hi = hi, .host = layout->host[lo]};
        layout->program[layout->steps++] = (int)layout->pieces++;
        layout->forms[layout->host[lo]]++;
        return;
    }
    middle = lo + ds__tree_left(hi - lo);
    cut(layout, lo, middle);
    cut(layout, middle, hi);
    layout->program[layout->steps++] = DS_LAYOUT_ADD;
}

int ds__layout_init(struct ds__layout *layout, unsigned ranks, const unsigned *host_of,
                    struct ds_error *err)
{
    *layout = (struct ds__layout){.ranks = ranks,
                                  .host = calloc(ranks, sizeof(*layout->host)),
                                  .seat = calloc(ranks, sizeof(*layout->seat)),
                                  .first = calloc((size_t)ranks + 1, sizeof(*layout->first)),
                                  .rank_at = calloc(ranks, sizeof(*layout->rank_at)),
                                  .forms = calloc(ranks, sizeof(*layout->forms)),
                                  .piece = calloc(ranks, sizeof(*layout->piece)),
                                  .program = calloc(2 * (size_t)ranks, sizeof(*layout->program))};
    if (layout->host == NULL || layout->seat == NULL || layout->first == NULL ||
        layout->rank_at == NULL || layout->forms == NULL || layout->piece == NULL ||
        layout->program == NULL) {
        ds__layout_release(layout);
        return ds_fail(err, ENOMEM, "no memory for a group of %u ranks", ranks);
    }
    number_hosts(layout, host_of);
    cut(layout, 0, ranks);
    return 0;
}

void ds__layout_release(struct ds__layout *layout)
{
    free(layout->host);
    free(layout->seat);
    free(layout->first);
    free(layout->rank_at);
    free(layout->forms);
    free(layout->piece);
    free(layout->program);
    *layout = (struct ds__layout){0};
}

unsigned ds__layout_count(const struct ds__layout *layout, unsigned host)
{
    return layout->first[host + 1] - layout->first[host];
}

unsigned ds__layout_pieces(const struct ds__layout *layout, unsigned host)
{
    return layout->forms[host];
}

unsigned ds__layout_rank(const struct ds__layout *layout, unsigned host, unsigned seat)
{
    return layout->rank_at[layout->first[host] + seat];
}

unsigned ds__layout_partner(const struct ds__layout *layout, unsigned host, unsigned rank)
{
    return ds__layout_rank(layout, host, layout->seat[rank] % ds__layout_count(layout, host));
}
