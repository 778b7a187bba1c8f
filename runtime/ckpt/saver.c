/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * saver.c - the contract is in saver.h.
 *
 *   IDLE ─begin─► WRITE ─thread─► WRITTEN ─turn─► IDLE                           other ranks
 *                                         └─turn─► COMMIT ─thread─► COMMITTED ─► IDLE   rank 0
 *
 * All ranks leave WRITTEN after the same step, because all of them see the same sum; so all of them
 * know whether finish still has to meet the others.
 */
#include "runtime/ckpt/saver.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "runtime/ckpt/saving.h"

enum phase { IDLE, WRITE, WRITTEN, COMMIT, COMMITTED, QUIT };

struct ds_saver {
    struct ds_ckpt_save_args args;
    void *staging;
    size_t staging_bytes; /* mapped; 0: this rank writes nothing */
    pthread_t thread;
    struct ds__saving saving; /* from WRITE to IDLE */
    struct ds_saved saved;
    uint64_t began_ns;
    pthread_mutex_t lock; /* guards what follows; the rest is whose turn it is */
    pthread_cond_t changed;
    enum phase phase;
    int rc; /* of the thread's last work, with its text */
    struct ds_error err;
    uint64_t done_ns; /* when that was done */
};

/* --- the thread ----------------------------------------------------------------------------- */

/* Work that the thread is given, and what it is then. */
static bool is_work(enum phase phase)
{
    return phase == WRITE || phase == COMMIT;
}

static void *write_behind(void *arg)
{
    struct ds_saver *saver = arg;

    (void)pthread_mutex_lock(&saver->lock);
    while (saver->phase != QUIT) {
        struct ds_error err = {0};
        bool writes = saver->phase == WRITE;
        int rc;

        if (!is_work(saver->phase)) {
            (void)pthread_cond_wait(&saver->changed, &saver->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&saver->lock);
        rc = writes ? ds__saving_write(&saver->saving, &err)
                    : ds__saving_commit(&saver->saving, &err);
        (void)pthread_mutex_lock(&saver->lock);
        saver->rc = rc;
        saver->err = err;
        saver->done_ns = ds_clock_mono_ns();
        saver->phase = writes ? WRITTEN : COMMITTED;
        (void)pthread_cond_broadcast(&saver->changed);
    }
    (void)pthread_mutex_unlock(&saver->lock);
    return NULL;
}

static void give(struct ds_saver *saver, enum phase phase)
{
    (void)pthread_mutex_lock(&saver->lock);
    saver->phase = phase;
    (void)pthread_cond_broadcast(&saver->changed);
    (void)pthread_mutex_unlock(&saver->lock);
}

/* Wait until the thread has nothing to do; what is there then. */
static enum phase wait_for_thread(struct ds_saver *saver)
{
    enum phase phase;

    (void)pthread_mutex_lock(&saver->lock);
    while (is_work(saver->phase))
        (void)pthread_cond_wait(&saver->changed, &saver->lock);
    phase = saver->phase;
    (void)pthread_mutex_unlock(&saver->lock);
    return phase;
}

static enum phase phase_now(struct ds_saver *saver)
{
    enum phase phase;

    (void)pthread_mutex_lock(&saver->lock);
    phase = saver->phase;
    (void)pthread_mutex_unlock(&saver->lock);
    return phase;
}

/* --- open and close ------------------------------------------------------------------------- */

/* Memory for what this rank writes, resident from here on: a run that starts has it. */
static int take_memory(struct ds_saver *saver, struct ds_error *err)
{
    struct ds__saving saving;
    int rc = ds__saving_init(&saving, &saver->args, err);

    if (rc == 0)
        saver->staging_bytes = (size_t)ds__saving_bytes(&saving);
    ds__saving_release(&saving);
    if (rc < 0 || saver->staging_bytes == 0)
        return rc;
    saver->staging = mmap(NULL, saver->staging_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (saver->staging != MAP_FAILED)
        return 0;
    saver->staging_bytes = 0;
    return ds_fail(err, ENOMEM,
                   "no memory for a copy of this rank's part of a checkpoint, set "
                   "'checkpoint.async' to false");
}

static int start_thread(struct ds_saver *saver, struct ds_error *err)
{
    sigset_t all, before;
    int rc;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&saver->thread, NULL, write_behind, saver);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? 0 : ds_fail(err, rc, "cannot start the checkpoint writer: %s", strerror(rc));
}

static void free_saver(struct ds_saver *saver)
{
    if (saver->staging_bytes > 0)
        (void)munmap(saver->staging, saver->staging_bytes);
    (void)pthread_cond_destroy(&saver->changed);
    (void)pthread_mutex_destroy(&saver->lock);
    free(saver);
}

int ds_saver_open(struct ds_saver **out, const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    struct ds_saver *saver = calloc(1, sizeof(*saver));
    int rc;

    if (saver == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    saver->args = *args;
    (void)pthread_mutex_init(&saver->lock, NULL);
    (void)pthread_cond_init(&saver->changed, NULL);
    if ((rc = take_memory(saver, err)) < 0 || (rc = start_thread(saver, err)) < 0) {
        free_saver(saver);
        return rc;
    }
    *out = saver;
    return 0;
}

/* The save is over, with or without a checkpoint. */
static int end(struct ds_saver *saver, int rc, struct ds_error *err)
{
    rc = ds__saving_clean(&saver->saving, rc, err);
    rc = ds_error_context(err, rc, "cannot save checkpoint '%s'", saver->saving.final);
    ds__saving_release(&saver->saving);
    give(saver, IDLE);
    return rc;
}

void ds_saver_close(struct ds_saver *saver)
{
    if (saver == NULL)
        return;
    if (wait_for_thread(saver) != IDLE)
        (void)end(saver, -ECANCELED, NULL);
    give(saver, QUIT);
    (void)pthread_join(saver->thread, NULL);
    free_saver(saver);
}

/* --- the run's side ------------------------------------------------------------------------- */

/* What the thread's last work came to. */
static int outcome(const struct ds_saver *saver, struct ds_error *err)
{
    if (saver->rc < 0 && err != NULL)
        *err = saver->err;
    return saver->rc;
}

/* After COMMITTED: 1 and what it was, or why there is none. */
static int conclude(struct ds_saver *saver, struct ds_saved *saved, struct ds_error *err)
{
    int rc = end(saver, outcome(saver, err), err);

    if (rc < 0)
        return rc;
    saver->saved.ns = saver->done_ns - saver->began_ns;
    *saved = saver->saved;
    return 1;
}

/* Come to the barrier whatever happened here; the first failure wins. */
static int meet(const struct ds_saver *saver, int rc, struct ds_error *err)
{
    int met = 0;

    if (saver->args.barrier != NULL)
        met = saver->args.barrier(saver->args.user, rc < 0 ? NULL : err);
    return rc < 0 ? rc : met;
}

int ds_saver_begin(struct ds_saver *saver, const struct ds_ckpt_state *state,
                   struct ds_saved *saved, struct ds_error *err)
{
    struct ds_ckpt_save_args args = saver->args;
    uint64_t began = ds_clock_mono_ns();
    int before = ds_saver_finish(saver, saved, err), rc;

    if (before < 0)
        return before;
    args.state = *state;
    rc = ds__saving_init(&saver->saving, &args, err);
    if (rc == 0 && args.rank == 0)
        rc = ds__saving_prepare(&saver->saving, err);
    rc = meet(saver, rc, err);
    if (rc == 0)
        rc = ds__saving_stage(&saver->saving, saver->staging, err);
    if (rc < 0)
        return end(saver, rc, err);
    saver->began_ns = began;
    saver->saved = (struct ds_saved){.step = state->step,
                                     .bytes = ds__saving_bytes(&saver->saving),
                                     .stall_ns = ds_clock_mono_ns() - began};
    give(saver, WRITE);
    return before;
}

int ds_saver_poll(struct ds_saver *saver, struct ds_error *err)
{
    enum phase phase = phase_now(saver);
    int rc = phase == WRITTEN ? outcome(saver, err) : 0;

    return rc < 0 ? end(saver, rc, err) : phase == WRITE;
}

int ds_saver_turn(struct ds_saver *saver, bool writing, struct ds_saved *saved,
                  struct ds_error *err)
{
    enum phase phase = phase_now(saver);

    if (phase == COMMITTED)
        return conclude(saver, saved, err);
    if (phase != WRITTEN || writing)
        return 0;
    if (saver->args.rank > 0 || saver->rc < 0)
        return end(saver, outcome(saver, err), err);
    give(saver, COMMIT);
    return 0;
}

int ds_saver_finish(struct ds_saver *saver, struct ds_saved *saved, struct ds_error *err)
{
    enum phase phase = wait_for_thread(saver);
    int rc;

    if (phase == WRITTEN) {
        rc = meet(saver, outcome(saver, err), err);
        if (rc < 0 || saver->args.rank > 0)
            return end(saver, rc, err);
        give(saver, COMMIT);
        phase = wait_for_thread(saver);
    }
    return phase == COMMITTED ? conclude(saver, saved, err) : 0;
}
