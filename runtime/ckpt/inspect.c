/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * inspect.c - the contract is in inspect.h.
 */
#include "runtime/ckpt/inspect.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ckpt/store.h"

int ds_ckpt_inspect(const char *path, struct ds_ckpt_info *info, struct ds_error *err)
{
    struct ds__store store;
    int rc = ds__store_open(&store, path, err);

    if (rc < 0)
        return rc;
    *info = (struct ds_ckpt_info){.state = store.manifest.state,
                                  .tensors = store.manifest.tensors,
                                  .parts = store.manifest.files};
    for (size_t i = 0; i < store.manifest.files; i++)
        info->bytes += store.manifest.file[i].bytes;
    ds__store_close(&store);
    return 0;
}

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

static void add(struct ds_ckpt_diff *diff, const char *name, struct ds_ckpt_diff_entry entry)
{
    (void)snprintf(entry.name, sizeof(entry.name), "%s", name);
    diff->entry[diff->count++] = entry;
}

/* The numbers of two F32 tensors whose bytes differ. */
static struct ds_ckpt_diff_entry measure(const float *a, const float *b, uint64_t elems)
{
    struct ds_ckpt_diff_entry entry = {.how = DS_DIFF_VALUES};
    double norm = 0.0, distance = 0.0;

    for (uint64_t i = 0; i < elems; i++) {
        double delta = fabs((double)a[i] - (double)b[i]);

        entry.elems += memcmp(&a[i], &b[i], sizeof(a[i])) != 0;
        norm += (double)a[i] * (double)a[i];
        distance += delta * delta;
        if (delta > entry.largest || isnan(delta))
            entry.largest = delta;
    }
    entry.relative = norm > 0.0 ? sqrt(distance / norm) : distance > 0.0 ? HUGE_VAL : 0.0;
    return entry;
}

struct pair {
    struct ds__store store[2];
    void *data[2];
    uint64_t bytes[2]; /* room at data */
};

static int read_side(struct pair *pair, int side, const struct ds_manifest_tensor *t,
                     struct ds_error *err)
{
    uint64_t bytes = t->elems * ds_dtype_bytes(t->dtype);

    if (bytes > pair->bytes[side]) {
        void *more = realloc(pair->data[side], (size_t)bytes);

        if (more == NULL)
            return out_of_memory(err);
        pair->data[side] = more;
        pair->bytes[side] = bytes;
    }
    return ds__store_read(&pair->store[side], t, 0, t->elems, pair->data[side], err);
}

static int compare(struct pair *pair, const struct ds_manifest_tensor *a,
                   const struct ds_manifest_tensor *b, struct ds_ckpt_diff *diff,
                   struct ds_error *err)
{
    int rc;

    if (a->dtype != b->dtype || a->ndim != b->ndim ||
        memcmp(a->shape, b->shape, sizeof(a->shape)) != 0) {
        add(diff, a->name, (struct ds_ckpt_diff_entry){.how = DS_DIFF_SHAPE, .relative = HUGE_VAL});
        return 0;
    }
    diff->compared++;
    if ((rc = read_side(pair, 0, a, err)) < 0 || (rc = read_side(pair, 1, b, err)) < 0)
        return rc;
    if (a->elems == 0 ||
        memcmp(pair->data[0], pair->data[1], a->elems * ds_dtype_bytes(a->dtype)) == 0)
        return 0;
    if (a->dtype == DS_F32)
        add(diff, a->name, measure(pair->data[0], pair->data[1], a->elems));
    else
        add(diff, a->name,
            (struct ds_ckpt_diff_entry){
                .how = DS_DIFF_VALUES, .relative = HUGE_VAL, .largest = HUGE_VAL});
    return 0;
}

/* Both tables are sorted by name: walk them side by side. */
static int compare_all(struct pair *pair, struct ds_ckpt_diff *diff, struct ds_error *err)
{
    const struct ds_manifest *a = &pair->store[0].manifest, *b = &pair->store[1].manifest;
    size_t i = 0, j = 0;
    int rc = 0;

    diff->entry = calloc(a->tensors + b->tensors + 1, sizeof(*diff->entry));
    if (diff->entry == NULL)
        return out_of_memory(err);
    while (rc == 0 && (i < a->tensors || j < b->tensors)) {
        int order = i == a->tensors   ? 1
                    : j == b->tensors ? -1
                                      : strcmp(a->tensor[i].name, b->tensor[j].name);

        if (order == 0)
            rc = compare(pair, &a->tensor[i++], &b->tensor[j++], diff, err);
        else if (order < 0)
            add(diff, a->tensor[i++].name,
                (struct ds_ckpt_diff_entry){.how = DS_DIFF_ONLY_A, .relative = HUGE_VAL});
        else
            add(diff, b->tensor[j++].name,
                (struct ds_ckpt_diff_entry){.how = DS_DIFF_ONLY_B, .relative = HUGE_VAL});
    }
    return rc;
}

static int largest_first(const void *a, const void *b)
{
    const struct ds_ckpt_diff_entry *x = a, *y = b;
    double dx = isnan(x->relative) ? HUGE_VAL : x->relative;
    double dy = isnan(y->relative) ? HUGE_VAL : y->relative;

    if (dx > dy)
        return -1;
    if (dx < dy)
        return 1;
    return strcmp(x->name, y->name);
}

static void close_pair(struct pair *pair)
{
    for (int side = 0; side < 2; side++) {
        ds__store_close(&pair->store[side]);
        free(pair->data[side]);
    }
}

int ds_ckpt_diff(const char *a, const char *b, struct ds_ckpt_diff *diff, struct ds_error *err)
{
    struct pair pair = {0};
    int rc;

    memset(diff, 0, sizeof(*diff));
    if ((rc = ds__store_open(&pair.store[0], a, err)) < 0)
        return rc;
    rc = ds__store_open(&pair.store[1], b, err);
    if (rc < 0) {
        ds__store_close(&pair.store[0]);
        return rc;
    }
    rc = compare_all(&pair, diff, err);
    close_pair(&pair);
    if (rc < 0)
        ds_ckpt_diff_release(diff);
    else if (diff->count > 0)
        qsort(diff->entry, diff->count, sizeof(*diff->entry), largest_first);
    return rc;
}

void ds_ckpt_diff_release(struct ds_ckpt_diff *diff)
{
    free(diff->entry);
    memset(diff, 0, sizeof(*diff));
}
