/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * support.h - a folder, a small model's tensors and a world of forked ranks for the tests here.
 */
#ifndef DS_TESTS_CKPT_SUPPORT_H
#define DS_TESTS_CKPT_SUPPORT_H

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "runtime/ckpt/ckpt.h"
#include "tests/tempdir.h"

/* All of a folder that is asked for, in one go. */
static inline int hf_load(const char *dir, const struct ds_model_shape *shape,
                          const struct ds_ckpt_tensor *weights, size_t count, struct ds_error *err)
{
    struct ds_hf_folder *folder = NULL;
    int rc = ds_hf_open(&folder, dir, shape, err);

    if (rc == 0)
        rc = ds_hf_read(folder, weights, count, err);
    ds_hf_close(folder);
    return rc;
}

enum { SET_TENSORS = 5 };

/* Weights and moments of a made-up model; every element differs from every other. */
struct set {
    struct ds_ckpt_tensor weight[SET_TENSORS], moment[2 * SET_TENSORS];
};

static inline void remove_dir(const char *path)
{
    cr_assert(ds_fs_remove_tree(path, NULL) == 0);
}

/* dir/name; one of four buffers in turn. */
static inline const char *at(const char *dir, const char *name)
{
    static char path[4][DS_MAX_PATH];
    static unsigned turn;
    char *out = path[turn++ % 4];

    cr_assert(ds_path_join(out, dir, name, NULL) == 0);
    return out;
}

/* tempdir_path() in memory of its own, for tests that need more than four. */
struct path {
    char text[DS_MAX_PATH];
};
static inline struct path held(const char *name)
{
    struct path path;

    (void)snprintf(path.text, sizeof(path.text), "%s", tempdir_path(name));
    return path;
}

static inline size_t tensor_elems(const struct ds_ckpt_tensor *t)
{
    size_t elems = 1;

    for (unsigned i = 0; i < t->ndim; i++)
        elems *= t->shape[i];
    return elems;
}

static inline void init_tensor(struct ds_ckpt_tensor *t, const char *prefix, const char *name,
                               unsigned rows, unsigned cols, float first)
{
    float *data;

    memset(t, 0, sizeof(*t));
    (void)snprintf(t->name, sizeof(t->name), "%s%s", prefix, name);
    t->dtype = DS_F32;
    t->ndim = cols > 0 ? 2 : 1;
    t->shape[0] = rows;
    t->shape[1] = cols > 0 ? cols : 1; /* behind the last dimension: any value */
    t->count = tensor_elems(t);
    t->data = data = calloc(tensor_elems(t) + 1, sizeof(float));
    for (size_t i = 0; i < tensor_elems(t); i++)
        data[i] = first + (float)i / 1024.0f;
}

static inline void set_init(struct set *set, float first)
{
    /* clang-format off */
    static const struct { const char *name; unsigned rows, cols; } shapes[SET_TENSORS] = {
        {"wte.weight", 7, 6}, {"h.0.w", 6, 9}, {"h.0.b", 9, 0}, {"ln.w", 6, 0}, {"ln.b", 1, 0},
    };
    /* clang-format on */

    for (size_t i = 0; i < SET_TENSORS; i++) {
        init_tensor(&set->weight[i], "", shapes[i].name, shapes[i].rows, shapes[i].cols,
                    first + (float)i);
        init_tensor(&set->moment[2 * i], "exp_avg.", shapes[i].name, shapes[i].rows, shapes[i].cols,
                    first + 100.0f + (float)i);
        init_tensor(&set->moment[2 * i + 1], "exp_avg_sq.", shapes[i].name, shapes[i].rows,
                    shapes[i].cols, first + 200.0f + (float)i);
    }
}

static inline void set_release(struct set *set)
{
    for (size_t i = 0; i < SET_TENSORS; i++)
        free(set->weight[i].data);
    for (size_t i = 0; i < 2 * SET_TENSORS; i++)
        free(set->moment[i].data);
}

static inline bool set_equal(const struct set *a, const struct set *b)
{
    for (size_t i = 0; i < SET_TENSORS; i++)
        if (memcmp(a->weight[i].data, b->weight[i].data, tensor_elems(&a->weight[i]) * 4) != 0)
            return false;
    for (size_t i = 0; i < 2 * SET_TENSORS; i++)
        if (memcmp(a->moment[i].data, b->moment[i].data, tensor_elems(&a->moment[i]) * 4) != 0)
            return false;
    return true;
}

static inline struct ds_ckpt_save_args save_args(const char *run_dir, const struct set *set,
                                                 uint64_t step)
{
    return (struct ds_ckpt_save_args){
        .run_dir = run_dir,
        .state = {.step = step,
                  .samples = step * 8,
                  .tokens = step * 512,
                  .skipped = 1,
                  .seed = UINT64_MAX,
                  .job_digest = 0xfedcba9876543210u,
                  .shape = {.arch = DS_ARCH_GPT2,
                            .layers = 1,
                            .hidden = 6,
                            .heads = 2,
                            .kv_heads = 2,
                            .head_size = 3,
                            .ffn = 24,
                            .vocab = 7,
                            .context = 16,
                            .tie_embeddings = true,
                            .norm_eps = 1e-5,
                            .rope_theta = 10000,
                            .rope_scale = {.factor = 1,
                                           .low = 1,
                                           .high = 4,
                                           .original = 8192,
                                           .slow = 1,
                                           .fast = 32,
                                           .attention = 1}},
                  .world = 1},
        .weights = set->weight,
        .moments = set->moment,
        .n_weights = SET_TENSORS,
        .n_moments = 2 * SET_TENSORS,
        .world = 1,
        .keep = 3,
    };
}

static inline int load_set(const char *path, struct set *set, struct ds_ckpt_state *state,
                           struct ds_error *err)
{
    return ds_ckpt_load(path, state, set->weight, SET_TENSORS, set->moment, 2 * SET_TENSORS, err);
}

/* --- a world of forked ranks ---------------------------------------------------------------- */

static inline int shared_barrier(void *user, struct ds_error *err)
{
    int rc = pthread_barrier_wait(user);

    (void)err;
    return rc == 0 || rc == PTHREAD_BARRIER_SERIAL_THREAD ? 0 : -rc;
}

/* Called in each rank's process before it saves, when not NULL. */
static void (*rank_starts)(unsigned rank);

/* Save with `world` processes, rank 0 being this one; rc[r] is what rank r returned (-255 to 0). */
static inline void save_with_world(struct ds_ckpt_save_args args, unsigned world, int *rc)
{
    pthread_barrier_t *barrier =
        mmap(NULL, sizeof(*barrier), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrierattr_t attr;
    pid_t pid[64];

    cr_assert(barrier != MAP_FAILED && world <= 64);
    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(barrier, &attr, world);
    args.world = world;
    args.barrier = shared_barrier;
    args.user = barrier;
    for (unsigned r = 1; r < world; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            args.rank = r;
            if (rank_starts != NULL)
                rank_starts(r);
            _exit(-ds_ckpt_save(&args, NULL) & 0xff);
        }
    }
    args.rank = 0;
    if (rank_starts != NULL)
        rank_starts(0);
    rc[0] = ds_ckpt_save(&args, NULL);
    for (unsigned r = 1; r < world; r++) {
        int status = 0;

        cr_assert(waitpid(pid[r], &status, 0) == pid[r] && WIFEXITED(status));
        rc[r] = -WEXITSTATUS(status);
    }
    (void)munmap(barrier, sizeof(*barrier));
}

/* --- files ---------------------------------------------------------------------------------- */

static inline struct ds_buf slurp(const char *path)
{
    struct ds_buf buf;

    ds_buf_init(&buf, 1 << 26);
    cr_assert(ds_fs_read(path, 1 << 26, &buf, NULL) == 0, "cannot read '%s'", path);
    return buf;
}

/* Write in place, without a rename: a file that is damaged, not replaced. */
static inline void spill(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");

    cr_assert(file != NULL, "cannot write '%s'", path);
    cr_assert(fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

static inline bool exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}

#endif
