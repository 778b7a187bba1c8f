/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * agree.c - the contract is in agree.h.
 */
#include "runtime/agree.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/fsio.h"

enum { LOOKED_AT = 4 }; /* samples, from the first to the last of an order */
enum { MARK_BYTES = 48 };

/* --- data ------------------------------------------------------------------------------------ */

/* What a rank sees of a data set: how much, and a hash of some of its samples. */
struct seen {
    uint64_t files, tokens, hash;
};

/* Of every set of `data` to seen[]. */
static int look(const struct ds_data *data, uint64_t sequence, struct seen *seen,
                struct ds_error *err)
{
    size_t bytes = (sequence + 1) * sizeof(int32_t), sets = ds_data_sets(data);
    int32_t *ids = malloc(bytes);

    if (ids == NULL)
        return ds_fail(err, ENOMEM, "no memory for a sample");
    for (size_t k = 0; k < sets; k++) {
        struct ds_data_size size = ds_data_set_size(data, k);

        seen[k] = (struct seen){.files = size.files, .tokens = size.tokens};
        for (uint64_t i = 0; i < LOOKED_AT; i++) { /* what cannot be read is told when needed */
            uint64_t nth = (size.samples - 1) / (LOOKED_AT - 1) * i;

            if (ds_data_read_set(data, k, nth, ids, NULL) == 0)
                seen[k].hash = XXH3_64bits_withSeed(ids, bytes, seen[k].hash);
        }
    }
    free(ids);
    return 0;
}

static int compare(const char *what, const struct seen *mine, const struct seen *first,
                   struct ds_error *err)
{
    if (mine->files != first->files || mine->tokens != first->tokens)
        return ds_fail(err, EBADMSG,
                       "%s: %" PRIu64 " ids in %" PRIu64 " file%s here, and rank 0 has %" PRIu64
                       " in %" PRIu64 "; every rank must see the same files",
                       what, mine->tokens, mine->files, mine->files == 1 ? "" : "s", first->tokens,
                       first->files);
    if (mine->hash != first->hash)
        return ds_fail(err, EBADMSG,
                       "%s: as many ids as rank 0 has, and not the same; every rank must see the "
                       "same files",
                       what);
    return 0;
}

static int compare_sets(const char *what, const struct ds_data *data, const struct seen *mine,
                        const struct seen *first, struct ds_error *err)
{
    size_t sets = ds_data_sets(data);
    int rc = 0;

    for (size_t k = 0; rc == 0 && k < sets; k++) {
        char name[DS_VALID_WHAT + 32];

        (void)snprintf(name, sizeof(name), "%s item %zu", what, k + 1);
        rc = compare(sets == 1 ? what : name, &mine[k], &first[k], err);
    }
    return rc;
}

enum { SEEN = 2 * DS_MAX_DATA_SETS }; /* train's, then valid's */

static int look_at_both(const struct ds_trainer *trainer, struct seen mine[SEEN],
                        struct ds_error *err)
{
    uint64_t sequence = trainer->job->train.sequence;
    const struct ds_valid *valid = &trainer->valid;
    int rc = look(trainer->train, sequence, mine, err);

    mine += DS_MAX_DATA_SETS;
    for (size_t i = 0; rc == 0 && i < valid->count; mine += ds_data_sets(valid->set[i++].data))
        rc = look(valid->set[i].data, sequence, mine, err);
    return rc;
}

static int compare_valid(const struct ds_valid *valid, const struct seen *mine,
                         const struct seen *first, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0, k = 0; rc == 0 && i < valid->count;
         k += ds_data_sets(valid->set[i++].data)) {
        char what[DS_VALID_WHAT];

        rc = compare_sets(ds_valid_what(valid->set[i].name, what), valid->set[i].data, mine + k,
                          first + k, err);
    }
    return rc;
}

/* Does this rank see the data that rank 0 sees?  All have the same job, and so as many sets. */
static int compare_data(struct ds_trainer *trainer, struct ds_error *err)
{
    const size_t bytes = SEEN * sizeof(struct seen), valid = DS_MAX_DATA_SETS;
    struct seen *mine = calloc(2, bytes), *first = mine == NULL ? NULL : mine + SEEN;
    int rc;

    if (mine == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of data sets");
    rc = look_at_both(trainer, mine, err);
    if (rc == 0) {
        memcpy(first, mine, bytes);
        rc = ds_comm_broadcast(trainer->comm, first, bytes, 0, err);
    }
    if (rc == 0)
        rc = compare_sets("data.train", trainer->train, mine, first, err);
    if (rc == 0)
        rc = compare_valid(&trainer->valid, mine + valid, first + valid, err);
    free(mine);
    return rc;
}

/* --- weights --------------------------------------------------------------------------------- */

int ds__trainer_agree_on_weights(const struct ds_trainer *trainer, uint64_t digest,
                                 struct ds_error *err)
{
    uint64_t first = digest;
    int rc = ds_comm_broadcast(trainer->comm, &first, sizeof(first), 0, err);

    if (rc == 0 && first != digest)
        rc = ds_fail(err, EBADMSG,
                     "other weights than those of rank 0; every rank must see the same files");
    return rc;
}

/* --- the run directory ---------------------------------------------------------------------- */

/* Rank 0 makes a folder in it, of a name that nobody has asked for; "" where it could not.  One
 * that a killed run leaves is removed by the next save. */
static int make_mark(struct ds_trainer *trainer, char name[MARK_BYTES], char path[DS_MAX_PATH],
                     struct ds_error *err)
{
    char folder[DS_MAX_PATH];
    int rc = ds_path_join(folder, trainer->args->run_dir, "checkpoints", err);

    if (rc == 0)
        rc = ds_fs_mkdirs(folder, err);
    (void)snprintf(name, MARK_BYTES, ".step-%.6f-%ld.tmp", ds_clock_wall_s(), (long)getpid());
    if (rc == 0)
        rc = ds_path_join(path, folder, name, err);
    if (rc == 0 && mkdir(path, 0700) != 0)
        rc = ds_fail(err, errno, "cannot create '%s': %s", path, strerror(errno));
    if (rc != 0)
        name[0] = '\0';
    return ds_error_context(err, rc, "run directory '%s'", trainer->args->run_dir);
}

/* Is it there?  A network file system may remember for a while that there was no such folder. */
static bool appears(const char *path)
{
    static const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    int left = 60;

    while (access(path, F_OK) != 0 && --left > 0)
        (void)nanosleep(&pause, NULL);
    return left > 0;
}

/* Do all ranks see rank 0's?  Each writes its part of a checkpoint there. */
static int compare_run_dir(struct ds_trainer *trainer, struct ds_error *err)
{
    const char *run_dir = trainer->args->run_dir;
    char name[MARK_BYTES] = "", path[DS_MAX_PATH] = "", sub[MARK_BYTES + 16];
    int rc = 0, met;

    if (trainer->args->local_world == trainer->args->world || trainer->job->checkpoint.every == 0)
        return 0;
    if (trainer->args->rank == 0)
        rc = make_mark(trainer, name, path, err);
    met = ds_comm_broadcast(trainer->comm, name, sizeof(name), 0, rc != 0 ? NULL : err);
    if (rc != 0 || met != 0)
        return rc != 0 ? rc : met;
    name[MARK_BYTES - 1] = '\0';
    (void)snprintf(sub, sizeof(sub), "checkpoints/%s", name);
    if (name[0] != '\0' && trainer->args->rank > 0)
        rc = ds_path_join(path, run_dir, sub, err);
    if (rc == 0 && name[0] != '\0' && !appears(path))
        rc = ds_fail(err, EINVAL,
                     "run directory '%s' on this host is not rank 0's: put 'run_dir' on a file "
                     "system that all hosts share, or set 'checkpoint.every' to 0",
                     run_dir);
    met = ds_comm_barrier(trainer->comm, rc != 0 ? NULL : err);
    if (trainer->args->rank == 0)
        (void)rmdir(path);
    return rc != 0 ? rc : met;
}

int ds__trainer_agree(struct ds_trainer *trainer, struct ds_error *err)
{
    int rc = compare_data(trainer, err);

    return rc == 0 ? compare_run_dir(trainer, err) : rc;
}
