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

#include "runtime/ckpt/gather.h"
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

/* Two tensors on their way past each other. */
struct sums {
    bool differ;
    double norm, distance, largest;
    uint64_t elems; /* that differ */
};

/* Add the numbers of two pieces of F32. */
static void measure(struct sums *sums, const float *a, const float *b, size_t elems)
{
    for (size_t i = 0; i < elems; i++) {
        double delta = fabs((double)a[i] - (double)b[i]);

        sums->elems += memcmp(&a[i], &b[i], sizeof(a[i])) != 0;
        sums->norm += (double)a[i] * (double)a[i];
        sums->distance += delta * delta;
        if (delta > sums->largest || isnan(delta))
            sums->largest = delta;
    }
}

static struct ds_ckpt_diff_entry difference(const struct sums *sums, enum ds_dtype dtype)
{
    struct ds_ckpt_diff_entry entry = {
        .how = DS_DIFF_VALUES, .relative = HUGE_VAL, .largest = HUGE_VAL, .elems = sums->elems};

    if (dtype != DS_F32)
        return entry;
    entry.largest = sums->largest;
    if (sums->norm > 0.0)
        entry.relative = sqrt(sums->distance / sums->norm);
    else if (!(sums->distance > 0.0))
        entry.relative = 0.0;
    return entry;
}

struct pair {
    struct ds__store store[2];
    void *piece[2]; /* [DS__GATHER_PIECE] */
};

/* Read both tensors once, piece by piece. */
static int sum_up(struct pair *pair, const struct ds_manifest_tensor *a,
                  const struct ds_manifest_tensor *b, struct sums *sums, struct ds_error *err)
{
    const struct ds_ckpt_view all = {.runs = 0};
    size_t size = ds_dtype_bytes(a->dtype), most = DS__GATHER_PIECE / size;
    struct ds__gather gather[2];
    int rc = 0;

    *sums = (struct sums){.differ = false};
    ds__gather_init(&gather[0], &pair->store[0], a, &all, 0, a->elems);
    ds__gather_init(&gather[1], &pair->store[1], b, &all, 0, b->elems);
    for (uint64_t done = 0; rc == 0 && done < a->elems; done += most) {
        size_t count = a->elems - done < most ? (size_t)(a->elems - done) : most;

        for (int side = 0; rc == 0 && side < 2; side++)
            rc = ds__gather_next(&gather[side], pair->piece[side], count, err);
        if (rc < 0)
            return rc;
        sums->differ = sums->differ || memcmp(pair->piece[0], pair->piece[1], count * size) != 0;
        if (a->dtype == DS_F32)
            measure(sums, pair->piece[0], pair->piece[1], count);
    }
    return rc;
}

static int compare(struct pair *pair, const struct ds_manifest_tensor *a,
                   const struct ds_manifest_tensor *b, struct ds_ckpt_diff *diff,
                   struct ds_error *err)
{
    struct sums sums;
    int rc;

    if (a->dtype != b->dtype || a->ndim != b->ndim ||
        memcmp(a->shape, b->shape, sizeof(a->shape)) != 0) {
        add(diff, a->name, (struct ds_ckpt_diff_entry){.how = DS_DIFF_SHAPE, .relative = HUGE_VAL});
        return 0;
    }
    diff->compared++;
    rc = sum_up(pair, a, b, &sums, err);
    if (rc == 0 && sums.differ)
        add(diff, a->name, difference(&sums, a->dtype));
    return rc;
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
        free(pair->piece[side]);
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
    pair.piece[0] = malloc(DS__GATHER_PIECE);
    pair.piece[1] = malloc(DS__GATHER_PIECE);
    rc = pair.piece[0] == NULL || pair.piece[1] == NULL ? out_of_memory(err)
                                                        : compare_all(&pair, diff, err);
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
