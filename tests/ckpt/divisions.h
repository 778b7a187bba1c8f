/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * divisions.h - ranks that share each tensor of a made-up run: some of its columns, some of its
 * rows or all of it, and of that any range; and a save of all of them, one after the other.
 *
 * An element's value tells its tensor and place, so that whatever lies where it should not is seen;
 * a canary stands behind each range.  Weights are in memory, moments on a line.
 */
#ifndef DS_TESTS_CKPT_DIVISIONS_H
#define DS_TESTS_CKPT_DIVISIONS_H

#include "runtime/ckpt/saving.h"
#include "runtime/ckpt/view.h"
#include "tests/ckpt/columns.h"

/* What the ranks of one layer share of a tensor, and who has the same. */
enum part {
    COLUMNS, /* each some columns, cut among the shards */
    SMALL,   /* each some columns, all of them on every shard */
    ROWS,    /* each some rows, cut among the shards */
    SLICED,  /* all the same, cut among the shards */
    WHOLE,   /* all on every rank */
};

enum { TENSORS = 8, SHARDS = 3, MAX_WORLD = 16 };
#define CANARY (-12345.0f)

/* clang-format off */
static const struct { const char *name; unsigned rows, cols; enum part part; } tensors[TENSORS] = {
    {"attn.w", 5, 24, COLUMNS}, {"attn.b", 24, 0, COLUMNS}, {"out.w", 9, 7, COLUMNS}, {"fc.w", 11, 6, ROWS},
    {"fc.b", 17, 0, SMALL}, {"ln.w", 13, 0, SLICED}, {"wte", 7, 5, SLICED}, {"wpe", 3, 5, WHOLE},
};
/* clang-format on */

/* `parts` ranks of a layer x `shards` x `replicas`. */
struct division {
    unsigned parts, shards, replicas;
    struct ds_ckpt_view view[TENSORS][MAX_PARTS];
    uint64_t row[TENSORS][MAX_PARTS + 1];
    unsigned cut[TENSORS][MAX_PARTS][SHARDS + 1]; /* thousandths of what a part has */
};

static inline unsigned world_of(const struct division *d)
{
    return d->parts * d->shards * d->replicas;
}

static inline uint64_t columns_of(size_t tensor)
{
    return tensors[tensor].cols > 0 ? tensors[tensor].cols : tensors[tensor].rows;
}

static inline uint64_t rows_of(size_t tensor)
{
    return tensors[tensor].cols > 0 ? tensors[tensor].rows : 1;
}

static inline void divide(struct division *d, struct dice *dice, unsigned parts, unsigned shards,
                          unsigned replicas)
{
    *d = (struct division){.parts = parts, .shards = shards, .replicas = replicas};
    for (size_t i = 0; i < TENSORS; i++) {
        divide_columns(dice, columns_of(i), parts, d->view[i]);
        for (unsigned t = 0; t < parts; t++) {
            d->row[i][t + 1] =
                t + 1 == parts ? rows_of(i)
                               : d->row[i][t] + roll(dice, (unsigned)(rows_of(i) - d->row[i][t]));
            d->cut[i][t][shards] = 1000;
            for (unsigned z = 1; z < shards; z++)
                d->cut[i][t][z] = d->cut[i][t][z - 1] + roll(dice, 1001 - d->cut[i][t][z - 1]);
        }
    }
}

static inline void divide_any(struct division *d, struct dice *dice)
{
    unsigned parts, shards, replicas;

    do {
        parts = 1 + roll(dice, MAX_PARTS);
        shards = 1 + roll(dice, SHARDS);
        replicas = 1 + roll(dice, 2);
    } while (parts * shards * replicas > MAX_WORLD);
    divide(d, dice, parts, shards, replicas);
}

/* --- what a rank holds ---------------------------------------------------------------------- */

/* Of what the part of a layer has, elements [first, first + count), what shard z has. */
static inline void cut(struct ds_ckpt_tensor *t, const unsigned *at, unsigned z)
{
    uint64_t from = t->count * at[z] / 1000, to = t->count * at[z + 1] / 1000;

    t->first += from;
    t->count = to - from;
}

static inline void place(const struct division *d, unsigned rank, size_t i,
                         struct ds_ckpt_tensor *t)
{
    unsigned part = rank % d->parts, z = rank / d->parts % d->shards;
    unsigned r = rank / d->parts / d->shards;
    enum part kind = tensors[i].part;

    t->count = rows_of(i) * columns_of(i);
    if (kind == WHOLE)
        return; /* replicas 0 */
    t->replica = r;
    t->replicas = d->replicas;
    t->group = 1;
    if (kind == COLUMNS || kind == SMALL) {
        t->view = d->view[i][part];
        t->count = t->view.runs > 0 ? rows_of(i) * ds__view_width(&t->view, columns_of(i)) : 0;
    } else if (kind == ROWS) {
        t->first = d->row[i][part] * columns_of(i);
        t->count = (d->row[i][part + 1] - d->row[i][part]) * columns_of(i);
    } else {
        t->replica = r * d->parts + part;
        t->replicas = d->replicas * d->parts;
        t->group = 2;
    }
    if (kind != SMALL) {
        cut(t, d->cut[i][kind == SLICED ? 0 : part], z);
        return;
    }
    t->replica = r * d->shards + z;
    t->replicas = d->replicas * d->shards;
    t->group = 3;
}

static inline float value_at(const struct ds_ckpt_tensor *t, size_t tensor, uint64_t elem)
{
    return (float)(tensor * 1000 + place_of(&t->view, columns_of(tensor), t->first + elem));
}

struct held {
    struct ds_ckpt_tensor weight[TENSORS], moment[TENSORS];
    struct ds_ckpt_line line[TENSORS];
};

static inline int get(void *user, uint64_t at, void *to, size_t bytes, struct ds_error *err)
{
    (void)err;
    memcpy(to, (const char *)user + at, bytes);
    return 0;
}

static inline int put(void *user, uint64_t at, const void *from, size_t bytes, struct ds_error *err)
{
    (void)err;
    memcpy((char *)user + at, from, bytes);
    return 0;
}

static inline void held_init(struct held *held, const struct division *d, unsigned rank,
                             bool filled)
{
    memset(held, 0, sizeof(*held));
    for (size_t i = 0; i < TENSORS; i++) {
        struct ds_ckpt_tensor *t = &held->weight[i];
        float *data, *on_line;

        (void)snprintf(t->name, sizeof(t->name), "%s", tensors[i].name);
        t->dtype = DS_F32;
        t->ndim = tensors[i].cols > 0 ? 2 : 1;
        t->shape[0] = tensors[i].rows;
        t->shape[1] = tensors[i].cols;
        place(d, rank, i, t);
        data = calloc(t->count + 1, sizeof(float));
        on_line = calloc(t->count + 2, sizeof(float));
        for (uint64_t k = 0; k < t->count; k++)
            data[k] = on_line[k + 1] = filled ? value_at(t, i, k) : -1.0f;
        data[t->count] = on_line[0] = on_line[t->count + 1] = CANARY;
        held->moment[i] = *t;
        (void)snprintf(held->moment[i].name, sizeof(t->name), "exp_avg.%s", tensors[i].name);
        held->line[i] = (struct ds_ckpt_line){.read = get, .write = put, .user = on_line};
        held->moment[i].line = &held->line[i];
        held->moment[i].line_at = sizeof(float);
        t->data = data;
    }
}

static inline bool held_is_right(const struct held *held)
{
    for (size_t i = 0; i < TENSORS; i++) {
        const struct ds_ckpt_tensor *t = &held->weight[i];
        const float *data = t->data, *on_line = held->line[i].user;

        for (uint64_t k = 0; k < t->count; k++)
            if (data[k] != value_at(t, i, k) || on_line[k + 1] != value_at(t, i, k))
                return false;
        if (data[t->count] != CANARY || on_line[0] != CANARY || on_line[t->count + 1] != CANARY)
            return false;
    }
    return true;
}

static inline void held_release(struct held *held)
{
    for (size_t i = 0; i < TENSORS; i++) {
        free(held->weight[i].data);
        free(held->line[i].user);
    }
}

/* --- a save --------------------------------------------------------------------------------- */

/* Called with what each rank holds before it saves, when not NULL. */
static void (*spoil_held)(struct held *held, unsigned rank);

struct saver {
    struct held held;
    struct ds__saving saving;
    void *staged;
};

/* One saver for each rank; free_savers(). */
static inline struct saver *make_savers(const struct division *d)
{
    struct saver *saver = calloc(MAX_WORLD, sizeof(*saver));

    for (unsigned r = 0; r < world_of(d); r++) {
        held_init(&saver[r].held, d, r, true);
        if (spoil_held != NULL)
            spoil_held(&saver[r].held, r);
    }
    return saver;
}

static inline void free_savers(struct saver *saver)
{
    for (unsigned r = 0; r < MAX_WORLD; r++) {
        held_release(&saver[r].held);
        free(saver[r].staged);
    }
    free(saver);
}

static inline int begin(struct saver *saver, const char *run, unsigned rank, unsigned world,
                        uint64_t block_bytes, struct ds_error *err)
{
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, 9);

    args.weights = saver->held.weight;
    args.moments = saver->held.moment;
    args.n_weights = args.n_moments = TENSORS;
    args.rank = rank;
    args.world = world;
    args.block_bytes = block_bytes;
    args.keep = 0; /* so that nothing that may fail unseen is looked at behind the commit */
    return ds__saving_init(&saver->saving, &args, err);
}

/* Write what a rank has, or what was copied aside before it changed. */
static inline int write_part(struct saver *saver, bool staged, struct ds_error *err)
{
    int rc = 0;

    if (staged) {
        saver->staged = malloc(ds__saving_bytes(&saver->saving) + 1);
        rc = ds__saving_stage(&saver->saving, saver->staged, err);
        for (size_t i = 0; i < TENSORS; i++)
            memset(saver->held.weight[i].data, 0, saver->held.weight[i].count * sizeof(float));
    }
    return rc == 0 ? ds__saving_write(&saver->saving, err) : rc;
}

/* Save step 9 of `run`, rank after rank. */
static inline int save_held(struct saver *saver, unsigned world, const char *run,
                            uint64_t block_bytes, bool staged, struct ds_error *err)
{
    unsigned begun = 0;
    int rc = 0;

    while (rc == 0 && begun < world) {
        rc = begin(&saver[begun], run, begun, world, block_bytes, err);
        begun++;
    }
    if (rc == 0)
        rc = ds__saving_prepare(&saver[0].saving, err);
    for (unsigned r = 0; r < world && rc == 0; r++)
        rc = write_part(&saver[r], staged, err);
    if (rc == 0)
        rc = ds__saving_commit(&saver[0].saving, err);
    rc = ds__saving_clean(&saver[0].saving, rc, err);
    while (begun-- > 0)
        ds__saving_release(&saver[begun].saving);
    return rc;
}

static inline int save_division(const struct division *d, const char *run, uint64_t block_bytes,
                                bool staged, struct ds_error *err)
{
    struct saver *saver = make_savers(d);
    int rc = save_held(saver, world_of(d), run, block_bytes, staged, err);

    free_savers(saver);
    return rc;
}

#endif
