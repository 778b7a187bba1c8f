/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl_watch.c - the watchdog of the backend `nccl`.
 *
 * NCCL has no time limit of its own: a collective that one rank does not come to runs for ever, and
 * the host waits for the device.  So a thread looks every POLL_MS at the oldest collective under
 * way and at NCCL's errors.  One that is under way for longer than the comm's time limit is a
 * failure: the rank puts on the board (the launcher's rendezvous) which collective it is at, reads
 * what the others put there, and ends with a sentence that names who did not come.  A rank that is
 * in the same collective runs into the same limit and puts its own note there; one that is not
 * puts none.  Then all communicators are aborted, so that the device goes on and the host with it.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/limits.h"
#include "runtime/comm/nccl.h"

enum { POLL_MS = 20, MAX_GRACE_MS = 60 * 1000, ANSWER_MS = 1000, WHO_BYTES = 192, WHO_ROOM = 64 };

#define NOBODY_ASKED "the other ranks cannot be asked where they are"

struct place { /* what a rank puts on the board */
    uint64_t number, bytes;
    uint32_t op, zero;
};

struct ending {
    const struct ds__nccl_root *root;
    ds_nccl_comm *comm;
    pthread_t thread;
    bool begun;
};

static void *end_one(void *arg)
{
    const struct ending *ending = arg;

    (void)cudaSetDevice(ending->root->index);
    (void)ending->root->lib.abort(ending->comm);
    return NULL;
}

/* All at the same time: NCCL waits in an abort for the stream that the communicator's collectives
 * went to, and so for what those of another have queued there before. */
static void end_all(const struct ds__nccl_root *root)
{
    struct ending ending[DS_NCCL_COMMS];
    sigset_t all, before;

    (void)sigfillset(&all); /* signals are the main thread's, which may be here */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < root->comms; i++) {
        ending[i] = (struct ending){.root = root, .comm = root->comm[i]};
        ending[i].begun = i + 1 < root->comms &&
                          pthread_create(&ending[i].thread, NULL, end_one, &ending[i]) == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (unsigned i = root->comms; i-- > 0;)
        if (!ending[i].begun)
            (void)end_one(&ending[i]);
    for (unsigned i = 0; i < root->comms; i++)
        if (ending[i].begun)
            (void)pthread_join(ending[i].thread, NULL);
}

void ds__nccl_kill(struct ds__nccl_root *root, int failure, const struct ds_error *err)
{
    if (root->dead)
        return;
    root->dead = true;
    root->failure = failure;
    root->err = *err;
    end_all(root);
}

/* Has it ended?  Not before it is queued; an error of the device ends it, too. */
static bool is_over(const struct ds__nccl_note *note)
{
    return note->queued && cudaEventQuery(note->end) != cudaErrorNotReady;
}

/* Under the gate: count what has ended. */
static void advance(struct ds__nccl_root *root)
{
    while (root->ended < root->begun && is_over(&root->note[root->ended % DS_NCCL_NOTES]))
        root->ended++;
}

/* "all_gather, all_gather, reduce_scatter": the flight before number `at`. */
static void recent(const struct ds__nccl_root *root, uint64_t at, char *out, size_t cap)
{
    uint64_t first = at > DS_NCCL_RECENT ? at - DS_NCCL_RECENT : 0;
    size_t used = 0;

    (void)snprintf(out, cap, "none");
    for (uint64_t i = first; i < at && used < cap; i++) {
        const struct ds__nccl_note *note = &root->note[i % DS_NCCL_NOTES];
        int n = snprintf(out + used, cap - used, "%s%" PRIu64 " %s of %zu", i > first ? ", " : "",
                         i + 1, ds_comm_op_name(note->op), note->bytes);

        used += n > 0 ? (size_t)n : 0;
    }
}

/* Put who is not where this rank is into `out`: "rank 1 has not come, rank 2 is at 5 all_gather".
 * All are waited for together, but an answer that is there has the time to arrive.  That no answer
 * can come, as when another rank has ended the job meanwhile, says nothing of any rank. */
static void absent(struct ds__nccl_root *root, const struct place *mine, char out[WHO_BYTES])
{
    unsigned wait_ms = (unsigned)(root->timeout_ns / 1000000);
    bool known = true;
    size_t used = 0;
    uint64_t until;

    if (wait_ms > MAX_GRACE_MS)
        wait_ms = MAX_GRACE_MS;
    until = ds_clock_mono_ns() + (uint64_t)wait_ms * 1000000;
    for (unsigned rank = 0; known && rank < root->world && used + WHO_ROOM < WHO_BYTES; rank++) {
        uint64_t now = ds_clock_mono_ns();
        const char *comma = used > 0 ? ", " : "";
        struct place theirs;
        int n = 0, rc;

        if (rank == root->rank)
            continue;
        rc = root->board->ask(
            root->board->user, rank, &theirs, sizeof(theirs),
            now + ANSWER_MS * 1000000ull < until ? (unsigned)((until - now) / 1000000) : ANSWER_MS);
        known = rc == 0 || rc == -ETIMEDOUT;
        if (rc == -ETIMEDOUT)
            n = snprintf(out + used, WHO_BYTES - used, "%srank %u has not come", comma, rank);
        else if (rc == 0 && (theirs.number != mine->number || theirs.op != mine->op))
            n = snprintf(out + used, WHO_BYTES - used, "%srank %u is at %" PRIu64 " %s", comma,
                         rank, theirs.number, ds_comm_op_name(theirs.op));
        used += n > 0 ? (size_t)n : 0;
    }
    if (used + WHO_ROOM >= WHO_BYTES)
        (void)snprintf(out + used, WHO_BYTES - used, ", and maybe more");
    else if (used == 0)
        (void)snprintf(out, WHO_BYTES, "%s",
                       known ? "all ranks have come, the network does not move" : NOBODY_ASKED);
}

/* The oldest collective is over its time.  The gate is free while others are asked. */
static void late(struct ds__nccl_root *root)
{
    const struct ds__nccl_note *note = &root->note[root->ended % DS_NCCL_NOTES];
    const struct place mine = {
        .number = root->ended + 1, .bytes = note->bytes, .op = (uint32_t)note->op};
    char who[WHO_BYTES] = NOBODY_ASKED, before[WHO_BYTES];
    struct ds_error err = {0};

    recent(root, root->ended, before, sizeof(before));
    (void)pthread_mutex_unlock(&root->gate);
    if (root->board != NULL && root->board->tell(root->board->user, &mine, sizeof(mine)) == 0)
        absent(root, &mine, who);
    (void)ds_fail(&err, ETIMEDOUT,
                  "collective %" PRIu64 " (%s of %" PRIu64 " bytes) is under way on rank %u for "
                  "%" PRIu64 " s: %s; before it: %s",
                  mine.number, ds_comm_op_name(mine.op), mine.bytes, root->rank,
                  root->timeout_ns / 1000000000, who, before);
    (void)pthread_mutex_lock(&root->gate);
    ds__nccl_kill(root, -ETIMEDOUT, &err);
}

static void check_errors(struct ds__nccl_root *root)
{
    struct ds_error err = {0};

    for (unsigned i = 0; i < root->comms && !root->dead; i++) {
        int result = DS_NCCL_OK;
        int rc = ds__nccl_check(root, root->lib.async_error(root->comm[i], &result), "go on", &err);

        if (rc == 0)
            rc = ds__nccl_check(root, result, "go on", &err);
        if (rc != 0)
            ds__nccl_kill(root, rc, &err);
    }
}

static void look(struct ds__nccl_root *root, uint64_t *oldest, uint64_t *since)
{
    struct ds_error err = {0};

    advance(root);
    if (*oldest != root->ended || root->ended == root->begun) {
        *oldest = root->ended;
        *since = ds_clock_mono_ns();
    }
    check_errors(root);
    if (!root->dead && atomic_load(&root->wanted)) {
        (void)ds_fail(&err, ECANCELED, "another rank has failed");
        ds__nccl_kill(root, -ECANCELED, &err);
    }
    if (!root->dead && root->timeout_ns > 0 && ds_clock_mono_ns() - *since > root->timeout_ns)
        late(root);
}

static void *watch(void *arg)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000};
    struct ds__nccl_root *root = arg;
    uint64_t oldest = 0, since = ds_clock_mono_ns();
    bool dead = false;

    (void)cudaSetDevice(root->index);
    while (!atomic_load(&root->stop) && !dead) {
        (void)nanosleep(&pause, NULL);
        (void)pthread_mutex_lock(&root->gate);
        look(root, &oldest, &since);
        dead = root->dead;
        (void)pthread_mutex_unlock(&root->gate);
    }
    if (dead) /* whoever waits for the others on this host */
        root->control->backend->abort(root->control);
    return NULL;
}

int ds__nccl_watch(struct ds__nccl_root *root, struct ds_error *err)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all); /* signals are the main thread's */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&root->thread, NULL, watch, root);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    root->watched = rc == 0;
    return rc == 0 ? 0 : ds_fail(err, rc, "cannot start the thread that watches NCCL");
}

void ds__nccl_unwatch(struct ds__nccl_root *root)
{
    atomic_store(&root->stop, true);
    if (root->watched)
        (void)pthread_join(root->thread, NULL);
    root->watched = false;
}
