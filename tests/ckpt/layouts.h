/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * layouts.h - the ranges that each rank of a made-up run holds, and a save of all of them.
 *
 * Every element's value tells its kind, tensor and place, so that whatever lies where it should not
 * is seen; a canary stands behind each range.
 */
#ifndef DS_TESTS_CKPT_LAYOUTS_H
#define DS_TESTS_CKPT_LAYOUTS_H

#include "runtime/ckpt/share.h"
#include "tests/ckpt/support.h"

/* What is on which rank.  Groups of `group` ranks hold everything once, world / group times. */
enum kind {
    WHOLE,  /* all on every rank */
    STATES, /* weights on every rank, states in slices */
    SLICES, /* all in slices but for small tensors */
    OWNERS, /* whole tensors, each on one rank of the group */
};
struct layout {
    enum kind kind;
    unsigned world, group;
};

enum { GLOBALS = 7, SMALL = 8, SLICE_ALIGN = 4, MAX_WORLD = 16 };
#define CANARY (-12345.0f)

/* clang-format off */
static const struct { const char *name; unsigned rows, cols; } globals[GLOBALS] = {
    {"wte", 31, 13}, {"ln.w", 7, 0}, {"h.0.w", 13, 39}, {"h.0.b", 39, 0}, {"h.1.w", 39, 13},
    {"h.1.b", 13, 0}, {"one", 1, 0},
};
/* clang-format on */
static const char *const kinds_of_tensor[] = {"", "exp_avg.", "exp_avg_sq."};

struct held {
    struct ds_ckpt_tensor weight[GLOBALS], moment[2 * GLOBALS];
    size_t weights, moments;
};

static inline uint64_t elems_of(size_t tensor)
{
    return (uint64_t)globals[tensor].rows * (globals[tensor].cols > 0 ? globals[tensor].cols : 1);
}

static inline uint64_t global_elems(void)
{
    uint64_t elems = 0;

    for (size_t i = 0; i < GLOBALS; i++)
        elems += elems_of(i);
    return elems;
}

static inline float value_of(size_t kind, size_t tensor, uint64_t elem)
{
    return (float)(kind * 100000 + tensor * 10000 + elem);
}

/* The slice of the tensors that are cut, laid end to end and padded, that this rank has of one. */
static inline void slice(const struct layout *layout, unsigned rank, size_t tensor,
                         struct ds_ckpt_tensor *t)
{
    unsigned local = rank % layout->group;
    uint64_t line = 0, start = 0, share, from, to;

    for (size_t i = 0; i < GLOBALS; i++) {
        start = i == tensor ? line : start;
        line += elems_of(i) > SMALL ? elems_of(i) : 0;
    }
    share = (line + layout->group * SLICE_ALIGN - 1) / (layout->group * SLICE_ALIGN) * SLICE_ALIGN;
    from = share * local > start ? share * local - start : 0;
    to = share * (local + 1) > start ? share * (local + 1) - start : 0;
    from = from < elems_of(tensor) ? from : elems_of(tensor);
    to = to < elems_of(tensor) ? to : elems_of(tensor);
    t->first = from;
    t->count = to - from;
}

static inline void place(const struct layout *layout, unsigned rank, size_t kind, size_t tensor,
                         struct ds_ckpt_tensor *t)
{
    bool all = layout->kind == WHOLE || (layout->kind == STATES && kind == 0) ||
               (layout->kind != OWNERS && elems_of(tensor) <= SMALL);

    t->count = elems_of(tensor);
    if (all)
        return; /* replicas 0: every rank */
    t->replicas = layout->world / layout->group;
    t->replica = rank / layout->group;
    if (layout->kind != OWNERS)
        slice(layout, rank, tensor, t);
    else if (tensor % layout->group != rank % layout->group)
        t->count = 0;
}

static inline void held_one(struct ds_ckpt_tensor *t, const struct layout *layout, unsigned rank,
                            size_t kind, size_t tensor, bool filled)
{
    float *data;

    memset(t, 0, sizeof(*t));
    (void)snprintf(t->name, sizeof(t->name), "%s%s", kinds_of_tensor[kind], globals[tensor].name);
    t->dtype = DS_F32;
    t->ndim = globals[tensor].cols > 0 ? 2 : 1;
    t->shape[0] = globals[tensor].rows;
    t->shape[1] = globals[tensor].cols;
    place(layout, rank, kind, tensor, t);
    t->data = data = calloc(t->count + 1, sizeof(float));
    for (uint64_t i = 0; i < t->count; i++)
        data[i] = filled ? value_of(kind, tensor, t->first + i) : -1.0f;
    data[t->count] = CANARY;
}

static inline void held_init(struct held *held, const struct layout *layout, unsigned rank,
                             bool filled)
{
    held->weights = GLOBALS;
    held->moments = 2 * (size_t)GLOBALS;
    for (size_t i = 0; i < GLOBALS; i++) {
        held_one(&held->weight[i], layout, rank, 0, i, filled);
        held_one(&held->moment[i], layout, rank, 1, i, filled);
        held_one(&held->moment[GLOBALS + i], layout, rank, 2, i, filled);
    }
}

static inline bool one_is_right(const struct ds_ckpt_tensor *t, size_t kind, size_t tensor)
{
    const float *data = t->data;

    for (uint64_t i = 0; i < t->count; i++)
        if (data[i] != value_of(kind, tensor, t->first + i))
            return false;
    return data[t->count] == CANARY;
}

static inline bool held_is_right(const struct held *held)
{
    for (size_t i = 0; i < GLOBALS; i++)
        if (!one_is_right(&held->weight[i], 0, i) || !one_is_right(&held->moment[i], 1, i) ||
            !one_is_right(&held->moment[GLOBALS + i], 2, i))
            return false;
    return true;
}

static inline void held_release(struct held *held)
{
    for (size_t i = 0; i < GLOBALS; i++)
        free(held->weight[i].data);
    for (size_t i = 0; i < 2 * GLOBALS; i++)
        free(held->moment[i].data);
}

/* Bytes that a rank of the layout writes. */
static inline uint64_t share_bytes(const struct layout *layout, unsigned rank, uint64_t block_bytes)
{
    struct ds__share share[2 * GLOBALS];
    struct held held;
    uint64_t bytes = 0;

    held_init(&held, layout, rank, true);
    for (int kind = 0; kind < 2; kind++) {
        const struct ds__share_args args = {
            .tensors = kind == 0 ? held.weight : held.moment,
            .count = kind == 0 ? held.weights : held.moments,
            .rank = rank,
            .world = layout->world,
            .block_bytes = block_bytes,
        };
        size_t shares = 0;

        cr_assert(ds__share_out(&args, share, &shares, NULL) == 0);
        for (size_t i = 0; i < shares; i++)
            bytes += share[i].count * 4;
    }
    held_release(&held);
    return bytes;
}

/* --- a save by threads ---------------------------------------------------------------------- */

struct saving_rank {
    const char *run;
    const struct layout *layout;
    pthread_barrier_t *barrier;
    uint64_t block_bytes;
    unsigned rank;
    int rc;
    struct ds_error err;
};

/* Called with what each rank holds before it saves, when not NULL. */
static void (*spoil_held)(struct held *held, unsigned rank);

static inline void *save_one(void *arg)
{
    struct saving_rank *me = arg;
    struct ds_ckpt_save_args args = save_args(me->run, &(struct set){0}, 9);
    struct held held;

    held_init(&held, me->layout, me->rank, true);
    if (spoil_held != NULL)
        spoil_held(&held, me->rank);
    cr_assert(ds_ckpt_set_scalar(&args.state, "loss_scale", 65536.0, NULL) == 0);
    args.weights = held.weight;
    args.n_weights = held.weights;
    args.moments = held.moment;
    args.n_moments = held.moments;
    args.rank = me->rank;
    args.world = me->layout->world;
    args.block_bytes = me->block_bytes;
    args.barrier = shared_barrier;
    args.user = me->barrier;
    me->rc = ds_ckpt_save(&args, &me->err);
    held_release(&held);
    return NULL;
}

/* Save step 9; rc[r] is what rank r returned, `err` (may be NULL) what the first that failed said:
 * of rank 0 its own failure comes before that another one's part is missing. */
static inline void save_layout(const char *run, const struct layout *layout, uint64_t block_bytes,
                               int *rc, struct ds_error *err)
{
    struct saving_rank rank[MAX_WORLD];
    pthread_t thread[MAX_WORLD];
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, layout->world);
    for (unsigned r = 0; r < layout->world; r++) {
        rank[r] = (struct saving_rank){.run = run,
                                       .layout = layout,
                                       .barrier = &barrier,
                                       .block_bytes = block_bytes,
                                       .rank = r};
        cr_assert(pthread_create(&thread[r], NULL, save_one, &rank[r]) == 0);
    }
    for (unsigned r = 0; r < layout->world; r++)
        cr_assert(pthread_join(thread[r], NULL) == 0);
    for (unsigned r = layout->world; r-- > 0;) {
        rc[r] = rank[r].rc;
        if (err != NULL && rc[r] < 0)
            *err = rank[r].err;
    }
    pthread_barrier_destroy(&barrier);
}

#endif
