/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_swap - all-to-all between hosts when something is wrong: peers that say what they should not,
 * hang up, stay away, call something else or end; test_net.c has it when all is right.
 */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "runtime/comm/host.h"
#include "tests/comm/hosts.h"
#include "tests/comm/played.h"

/* PART is more than a frame carries. */
enum { PART = DS_NET_CHUNK_MAX + 1001, BODY = DS_NET_CHUNK_MAX, SHORT_MS = 1500 };

static struct hosts setup_of(const unsigned *count, size_t bytes, const void *user)
{
    struct hosts setup = {.arena_bytes = bytes, .timeout_ms = 60000, .user = user};

    memcpy(setup.count, count, sizeof(setup.count));
    return setup;
}

static const unsigned pair[RANKS_MAX + 1] = {1, 1};

/* --- a peer played by hand -------------------------------------------------------------------- */

struct play {
    const char *what;
    struct played_head off; /* bits of the first frame's head that are not the right ones */
    size_t body;            /* bytes behind it */
    bool second;            /* and all of the second */
    bool ends;              /* then it hangs up */
    int rc, next;           /* what rank 0's call gives back, and the one after it */
    const char *text;
};

static const struct played_head right = {
    .kind = DS_FRAME_PAIR, .sequence = 1, .op = DS_COMM_ALL_TO_ALL, .bytes = 2 * (uint64_t)PART};

#define LIE BODY, true, false, -EPROTO, -ECANCELED

/* clang-format off */
static const struct play plays[] = {
    {"right",     {0},                                          BODY, true, true, 0, -ECONNRESET, "it has hung up"},
    {"magic",     {.magic = 0x20544547},                        LIE, "sent what is no frame"},
    {"kind",      {.kind = DS_FRAME_GATHER ^ DS_FRAME_PAIR},    LIE, "rank 1 on 'h1'"},
    {"sums",      {.kind = DS_FRAME_SCATTER ^ DS_FRAME_PAIR},   LIE, "rank 1 on 'h1'"},
    {"receipt",   {.kind = DS_FRAME_RECEIPT ^ DS_FRAME_PAIR},   LIE, "rank 1 on 'h1'"},
    {"no kind",   {.kind = 0x200},                              LIE, "rank 1 on 'h1'"},
    {"slot",      {.slot = 1},                                  LIE, "rank 1 on 'h1'"},
    {"sequence",  {.sequence = 1},                              LIE, "rank 1 on 'h1'"},
    {"operation", {.op = DS_COMM_ALL_GATHER ^ DS_COMM_ALL_TO_ALL}, LIE, "calls all_gather"},
    {"bytes",     {.bytes = 2},                                 LIE, "calls all_to_all of 526288 bytes"},
    {"root",      {.root = 1},                                  LIE, "(root 1)"},
    {"chunk",     {.chunk = 1},                                 LIE, "rank 1 on 'h1'"},
    {"too much",  {0}, BODY + 8, true, false, -EPROTO, -ECANCELED, "sent what is no frame"},
    {"cut",       {0}, BODY - 1, false, true, -ECONNRESET, -ECANCELED,
     "all_to_all: rank 1 on 'h1' (127.0.0.1) is gone: it has hung up"},
    {"silence",   {0}, BODY / 2, false, false, -ETIMEDOUT, -ECANCELED,
     "rank 1 on 'h1' (127.0.0.1) did not come to all_to_all of 526290 bytes within 1500 ms"},
};
/* clang-format on */

static bool play(int fd, const struct play *play)
{
    const struct played_head first = {.magic = play->off.magic,
                                      .kind = right.kind ^ play->off.kind,
                                      .slot = right.slot ^ play->off.slot,
                                      .sequence = right.sequence ^ play->off.sequence,
                                      .op = right.op ^ play->off.op,
                                      .root = right.root ^ play->off.root,
                                      .chunk = right.chunk ^ play->off.chunk,
                                      .bytes = right.bytes ^ play->off.bytes};
    struct played_head second = right;
    unsigned char *body = calloc(1, BODY + 8);
    bool fine = body != NULL && played_head(fd, &first);

    if (body != NULL)
        memset(body, 7, BODY);
    fine = fine && played_push(fd, body, play->body);
    second.chunk = 1;
    if (fine && play->second)
        fine = played_head(fd, &second) && played_push(fd, body, PART - BODY);
    free(body);
    return fine;
}

static int rank_played_with(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const struct play *is = setup->user;
    unsigned char *from = ds_comm_arena(comm), *to = from + 2 * PART;
    int fd = ((struct ds__host *)comm)->net.mesh->fd[1 - rank], rc;
    struct ds_error err = {0};

    if (rank == 1) { /* it may be cut off while it still speaks */
        EXPECT(play(fd, is) || is->rc != 0);
        EXPECT(!is->ends || shutdown(fd, SHUT_WR) == 0);
        while (atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        return 0;
    }
    memset(from, 3, 2 * PART);
    rc = ds_comm_all_to_all(comm, from, to, 2 * PART, &err);
    EXPECT(rc == is->rc);
    for (size_t i = 0; rc == 0 && i < 2 * PART; i++)
        EXPECT(to[i] == (i < PART ? 3 : 7));
    EXPECT(rc == 0 || strstr(err.text, is->text) != NULL);
    EXPECT(ds_comm_all_to_all(comm, from, to, 2, &err) == is->next);
    EXPECT(rc != 0 || strstr(err.text, is->text) != NULL);
    atomic_store(&setup->page->word[0], 1);
    return 0;
}

Test(swap, a_peer_that_says_what_it_should_not)
{
    for (size_t i = 0; i < sizeof(plays) / sizeof(plays[0]); i++) {
        struct hosts setup = setup_of(pair, 4 * PART, &plays[i]);
        int line;

        if (plays[i].rc == -ETIMEDOUT)
            setup.timeout_ms = SHORT_MS;
        line = hosts_run(setup, rank_played_with);
        cr_assert(line == 0, "%s: line %d", plays[i].what, line);
    }
}

/* --- ranks that do not come, end, or call something else -------------------------------------- */

/* The last rank is alone on its host; those of the others know half of each other in pairs only. */
static const unsigned three[RANKS_MAX + 1] = {2, 2, 1};

static int rank_waits(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const bool ends = setup->user != NULL;
    unsigned char give[5 * 64] = {0}, take[5 * 64];
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(ds_comm_barrier(comm, &err), &err);
    if (rank == 4) {
        for (unsigned i = 0; ends && i < 50; i++)
            hosts_nap();
        if (ends)
            ds_comm_abort(comm);
        while (!ends && atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        return 0;
    }
    rc = ds_comm_all_to_all(comm, give, take, sizeof(give), &err);
    EXPECT(rc == -ECANCELED || rc == (ends ? -ECONNRESET : -ETIMEDOUT) || rc == -ECONNRESET);
    if (rc == -ETIMEDOUT)
        EXPECT(strstr(err.text, "rank 4 on 'h2' (127.0.0.1) did not come to all_to_all of 320 "
                                "bytes within 1500 ms") != NULL);
    EXPECT(rc != -ECONNRESET || strstr(err.text, "all_to_all: rank ") == err.text);
    EXPECT(ds_comm_all_to_all(comm, give, take, sizeof(give), &err) == -ECANCELED);
    if (rc == -ETIMEDOUT)
        atomic_store(&setup->page->word[0], 1);
    return 0;
}

Test(swap, a_rank_that_stays_away_is_named)
{
    struct hosts setup = setup_of(three, 0, NULL);

    setup.timeout_ms = SHORT_MS;
    cr_assert(hosts_run(setup, rank_waits) == 0);
}

Test(swap, a_rank_that_ends_ends_the_wait)
{
    struct hosts setup = setup_of(three, 0, &setup);

    setup.timeout_ms = 0;
    cr_assert(hosts_run(setup, rank_waits) == 0);
}

/* The last rank calls another operation, or one of another size. */
static int rank_clashes(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const unsigned *kind = setup->user;
    float give[40] = {0}, take[40];
    struct ds_error err = {0};
    const bool other = rank + 1 == setup->world;
    int rc;

    if (!other)
        rc = ds_comm_all_to_all(comm, give, take, setup->world * sizeof(*give), &err);
    else if (*kind == 0)
        rc = ds_comm_all_to_all(comm, give, take, 2 * setup->world * sizeof(*give), &err);
    else if (*kind == 1)
        rc = ds_comm_all_gather(comm, give, setup->world * sizeof(*give), &err);
    else
        rc = ds_comm_barrier(comm, &err);
    EXPECT(rc == -EPROTO || rc == -ECONNRESET || rc == -ECANCELED);
    if (rc == -EPROTO && !other)
        EXPECT(strstr(err.text, "calls all_to_all of ") != NULL);
    EXPECT(ds_comm_barrier(comm, &err) != 0);
    return 0;
}

Test(swap, ranks_that_disagree_are_told)
{
    static const unsigned counts[][RANKS_MAX + 1] = {{1, 1}, {2, 1}, {2, 2, 1}};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        for (unsigned kind = 0; kind < 3; kind++)
            cr_assert(hosts_run(setup_of(counts[i], 0, &kind), rank_clashes) == 0, "%zu: %u", i,
                      kind);
}
