/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * saving.c - what a rank writes, and the writing of it; the contract is in saving.h.
 */
#include "runtime/ckpt/saving.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/view.h"

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

/* --- what this rank writes ------------------------------------------------------------------ */

/* The order of ds_safetensors_build(), so that its table and the items stay in step. */
static int by_place(const void *a, const void *b)
{
    const struct ds__item *x = a, *y = b;
    size_t x_bytes = ds_dtype_bytes(x->share.tensor->dtype);
    size_t y_bytes = ds_dtype_bytes(y->share.tensor->dtype);

    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->entry, y->entry);
}

/* Is it all of its view? */
static bool is_whole(const struct ds__share *share)
{
    return share->count == share->elems;
}

/* "name", of some columns "name[:,0:4,8:12]", and of a piece of either that and "[first:end]". */
static int name_items(struct ds_manifest *m, struct ds__item *items, size_t count,
                      struct ds_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct ds__share *share = &items[i].share;
        char view[DS__VIEW_TEXT], piece[48] = "";

        if (!is_whole(share))
            (void)snprintf(piece, sizeof(piece), "[%ju:%ju]", (uintmax_t)share->first,
                           (uintmax_t)(share->first + share->count));
        items[i].entry = ds_arena_printf(&m->arena, "%s%s%s", share->tensor->name,
                                         ds__view_text(&share->view, view), piece);
        if (items[i].entry == NULL)
            return out_of_memory(err);
    }
    qsort(items, count, sizeof(*items), by_place);
    return 0;
}

/* The table of a file: whole tensors and views in their shape, pieces in one dimension. */
static struct ds_safetensor *make_table(struct ds_manifest *m, const struct ds__item *items,
                                        size_t count)
{
    struct ds_safetensor *table = ds_arena_alloc(&m->arena, count, sizeof(*table));

    for (size_t i = 0; table != NULL && i < count; i++) {
        const struct ds__share *share = &items[i].share;
        const struct ds_ckpt_tensor *t = share->tensor;

        table[i] = (struct ds_safetensor){
            .name = items[i].entry, .dtype = (int)t->dtype, .ndim = 1, .shape = {share->count}};
        if (!is_whole(share))
            continue;
        table[i].ndim = t->ndim;
        memcpy(table[i].shape, t->shape, t->ndim * sizeof(t->shape[0]));
        if (share->view.runs > 0)
            table[i].shape[t->ndim - 1] = ds__view_width(&share->view, t->shape[t->ndim - 1]);
    }
    return table;
}

static uint64_t item_bytes(const struct ds__item *item)
{
    return item->share.count * ds_dtype_bytes(item->share.tensor->dtype);
}

/* What this rank writes of one kind. */
static int make_items(struct ds__saving *s, const struct ds_ckpt_tensor *tensors, size_t count,
                      struct ds__items *out, struct ds_error *err)
{
    const struct ds__share_args args = {.tensors = tensors,
                                        .count = count,
                                        .rank = s->args.rank,
                                        .world = s->args.world,
                                        .block_bytes = s->args.block_bytes};
    struct ds__share *shares = calloc(count + 1, sizeof(*shares));
    int rc;

    out->item = ds_arena_alloc(&s->parts[0].arena, count + 1, sizeof(*out->item));
    rc = shares == NULL || out->item == NULL ? out_of_memory(err)
                                             : ds__share_out(&args, shares, &out->count, err);
    for (size_t i = 0; rc == 0 && i < out->count; i++) {
        const struct ds_ckpt_tensor *t = shares[i].tensor;
        uint64_t skip = (shares[i].first - t->first) * ds_dtype_bytes(t->dtype);

        out->item[i].share = shares[i];
        out->item[i].source = t->line != NULL
                                  ? (struct ds__source){.line = t->line, .at = t->line_at + skip}
                                  : (struct ds__source){.data = (const char *)t->data + skip};
    }
    free(shares);
    return rc < 0 ? rc : name_items(&s->parts[0], out->item, out->count, err);
}

static int name_folders(struct ds__saving *s, struct ds_error *err)
{
    char temp[DS__STEP_NAME + 8];
    int rc;

    ds__step_name(s->args.state.step, s->name);
    (void)snprintf(temp, sizeof(temp), ".%s.tmp", s->name);
    if ((rc = ds_path_join(s->root, s->args.run_dir, DS__CHECKPOINTS, err)) < 0 ||
        (rc = ds_path_join(s->temp, s->root, temp, err)) < 0)
        return rc;
    return ds_path_join(s->final, s->root, s->name, err);
}

static int check_args(const struct ds_ckpt_save_args *args, struct ds_error *err)
{
    if (args->world == 0 || args->rank >= args->world || args->world > DS_MAX_RANKS)
        return ds_fail(err, EINVAL, "rank %u of %u cannot save", args->rank, args->world);
    if (args->state.step > DS_MAX_STEPS)
        return ds_fail(err, EINVAL, "step %ju is above %d", (uintmax_t)args->state.step,
                       DS_MAX_STEPS);
    if (args->block_bytes % 8 != 0 || args->block_bytes > DS_CKPT_MAX_BLOCK_BYTES)
        return ds_fail(err, EINVAL, "blocks of %ju bytes cannot be summed",
                       (uintmax_t)args->block_bytes);
    return 0;
}

int ds__saving_init(struct ds__saving *saving, const struct ds_ckpt_save_args *args,
                    struct ds_error *err)
{
    int rc;

    *saving = (struct ds__saving){.args = *args};
    if ((rc = name_folders(saving, err)) < 0 || (rc = check_args(args, err)) < 0)
        return rc;
    if (args->block_bytes == 0)
        saving->args.block_bytes = DS_CKPT_BLOCK_BYTES;
    saving->args.state.world = args->world;
    saving->n_parts = args->rank == 0 ? args->world : 1;
    saving->parts = calloc(saving->n_parts, sizeof(*saving->parts));
    if (saving->parts == NULL)
        return out_of_memory(err);
    if ((rc = make_items(saving, args->weights, args->n_weights, &saving->weights, err)) < 0)
        return rc;
    return make_items(saving, args->moments, args->n_moments, &saving->moments, err);
}

void ds__saving_release(struct ds__saving *saving)
{
    for (size_t i = 0; saving->parts != NULL && i < saving->n_parts; i++)
        ds_manifest_release(&saving->parts[i]);
    free(saving->parts);
    saving->parts = NULL;
}

uint64_t ds__saving_bytes(const struct ds__saving *saving)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < saving->weights.count; i++)
        bytes += item_bytes(&saving->weights.item[i]);
    for (size_t i = 0; i < saving->moments.count; i++)
        bytes += item_bytes(&saving->moments.item[i]);
    return bytes;
}

static int stage(struct ds__items *items, char **to, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < items->count; i++) {
        size_t bytes = (size_t)item_bytes(&items->item[i]);
        struct ds__source *source = &items->item[i].source;

        if (source->line != NULL)
            rc = source->line->read(source->line->user, source->at, *to, bytes, err);
        else
            memcpy(*to, source->data, bytes);
        *source = (struct ds__source){.data = *to};
        *to += bytes;
    }
    return rc;
}

int ds__saving_stage(struct ds__saving *saving, void *to, struct ds_error *err)
{
    char *at = to;
    int rc = stage(&saving->weights, &at, err);

    return rc == 0 ? stage(&saving->moments, &at, err) : rc;
}

/* --- the folder and the files --------------------------------------------------------------- */

int ds__saving_prepare(struct ds__saving *s, struct ds_error *err)
{
    int rc;

    if ((rc = ds_fs_mkdirs(s->root, err)) < 0 || (rc = ds__clean_stale(s->root, err)) < 0)
        return rc;
    if (mkdir(s->temp, 0755) < 0)
        return ds_fail(err, errno, "cannot create '%s': %s", s->temp, strerror(errno));
    s->temp_made = true;
    return 0;
}

int ds__saving_clean(struct ds__saving *saving, int rc, struct ds_error *err)
{
    int removed;

    if (!saving->temp_made)
        return rc;
    saving->temp_made = false;
    removed = ds_fs_remove_tree(saving->temp, rc < 0 ? NULL : err);
    return rc < 0 ? rc : removed;
}

/* Write one file of items in their order. */
static int write_file(struct ds__saving *s, const char *name, const struct ds__items *items,
                      struct ds_error *err)
{
    struct ds_safetensor *table = make_table(&s->parts[0], items->item, items->count);
    struct ds__part part;
    int rc;

    if (table == NULL)
        return out_of_memory(err);
    rc = ds__part_create(&part, s->temp, name, table, items->count, &s->parts[0], err);
    for (size_t i = 0; rc == 0 && i < items->count; i++) {
        const struct ds__share *share = &items->item[i].share;
        const struct ds_ckpt_tensor *t = share->tensor;
        const struct ds__piece piece = {.name = t->name,
                                        .ndim = t->ndim,
                                        .shape = t->shape,
                                        .view = share->view,
                                        .elems = share->elems,
                                        .first = share->first};

        rc = ds__part_write(&part, &table[i], &piece, items->item[i].source, err);
    }
    return ds__part_close(&part, rc, err);
}

/* This rank's file of one kind; there is none when nothing of it is this rank's to write. */
static int write_kind(struct ds__saving *s, const char *kind, const struct ds__items *items,
                      struct ds_error *err)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "%s-%05u-of-%05u.safetensors", kind, s->args.rank + 1,
                   s->args.world);
    return items->count > 0 ? write_file(s, name, items, err) : 0;
}

int ds__fragment_path(const struct ds__saving *s, unsigned rank, char out[DS_MAX_PATH],
                      struct ds_error *err)
{
    char name[32];

    (void)snprintf(name, sizeof(name), "part-%05u.json", rank + 1);
    return ds_path_join(out, s->temp, name, err);
}

/* Hand this part's table to rank 0. */
static int write_fragment(const struct ds__saving *s, struct ds_manifest *m, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    struct ds_buf text;
    int rc = ds__fragment_path(s, s->args.rank, path, err);

    if (rc < 0)
        return rc;
    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    m->part = true;
    rc = ds_manifest_join(m, err);
    if (rc == 0)
        rc = ds_manifest_write(m, &text, err);
    if (rc == 0)
        rc = ds_fs_replace(path, text.data, text.len, err);
    ds_buf_release(&text);
    return rc;
}

int ds__saving_write(struct ds__saving *saving, struct ds_error *err)
{
    struct ds_manifest *m = &saving->parts[0];
    int rc;

    m->state = saving->args.state;
    if (saving->args.rank > 0 && access(saving->temp, F_OK) < 0)
        return ds_fail(err, ECANCELED, "rank 0 has not made '%s'", saving->temp);
    rc = ds__manifest_reserve(m, 2, saving->weights.count + saving->moments.count, err);
    if (rc < 0)
        return rc;
    m->block_bytes = saving->args.block_bytes;
    if ((rc = write_kind(saving, "weights", &saving->weights, err)) < 0 ||
        (rc = write_kind(saving, "optim", &saving->moments, err)) < 0)
        return rc;
    return saving->args.rank == 0 ? 0 : write_fragment(saving, m, err);
}
