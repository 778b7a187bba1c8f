/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * data.c - the contract is in data.h: sources, each read in its order, in turns.
 */
#include "runtime/data/data.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "runtime/data/mix.h"
#include "runtime/data/order.h"
#include "runtime/data/source.h"

struct set {
    struct ds_source source;
    enum ds_data_order order;
    uint64_t seed;
};

struct ds_data {
    struct set *set;
    size_t sets;
    struct ds_mix mix;
    uint64_t sequence, vocab;
};

static int check_args(const struct ds_data_args *args, struct ds_error *err)
{
    if (args->sequence == 0 || args->sequence > DS_MAX_CONTEXT)
        return ds_fail(err, EINVAL, "sequences of %ju ids, not within 1 to %d",
                       (uintmax_t)args->sequence, DS_MAX_CONTEXT);
    if (args->vocab == 0 || args->vocab > DS_MAX_VOCAB)
        return ds_fail(err, EINVAL, "a vocabulary of %ju ids, not within 1 to %d",
                       (uintmax_t)args->vocab, DS_MAX_VOCAB);
    if (args->sets->count == 0)
        return ds_fail(err, EINVAL, "no file is named");
    return 0;
}

static int open_mix(struct ds_data *data, const struct ds_data_set *set, size_t sets,
                    struct ds_error *err)
{
    double weight[DS_MAX_DATA_SETS];

    if (sets > DS_MAX_DATA_SETS)
        return ds_fail(err, EINVAL, "there are more than %d data sets; join some",
                       DS_MAX_DATA_SETS);
    for (size_t k = 0; k < sets; k++)
        weight[k] = set[k].weight;
    return ds_mix_open(&data->mix, weight, sets, err);
}

/* Bytes are ids, but not those of any tokenizer. */
static int check_alike(const struct ds_data *data, struct ds_error *err)
{
    bool text = data->set[0].source.format == DS_DATA_TEXT;

    for (size_t k = 1; k < data->sets; k++) {
        bool this = data->set[k].source.format == DS_DATA_TEXT;
        const char *first = data->set[0].source.file[0].path;
        const char *path = data->set[k].source.file[0].path;

        if (this != text)
            return ds_fail(err, EINVAL,
                           "'%s' is text and '%s' holds token ids, which do not mix; make ids of "
                           "the text with 'dsrun data tokenize'",
                           text ? first : path, text ? path : first);
    }
    return 0;
}

/* Samples stand as they were made, unless the job says more. */
static enum ds_data_order order_of(const struct ds_source *source, enum ds_data_order order)
{
    if (order != DS_ORDER_AUTO)
        return order;
    return source->format == DS_DATA_SAMPLES ? DS_ORDER_SEQUENTIAL : DS_ORDER_SHUFFLE;
}

static int open_sets(struct ds_data *data, const struct ds_data_args *args, struct ds_error *err)
{
    const struct ds_data_set *set = args->sets->row;

    for (size_t k = 0; k < args->sets->count; k++) {
        struct set *new = &data->set[k];
        int rc = ds_source_open(&new->source, &set[k].path, args->format, args->sequence, err);

        if (rc != 0)
            return args->sets->count == 1
                       ? ds_error_context(err, rc, "%s", args->what)
                       : ds_error_context(err, rc, "%s item %zu", args->what, k + 1);
        data->sets++;
        new->order = order_of(&new->source, args->order);
        new->seed = ds_order_seed(args->seed, k);
    }
    return 0;
}

int ds_data_open(struct ds_data **data, const struct ds_data_args *args, struct ds_error *err)
{
    struct ds_data *new = NULL;
    int rc = check_args(args, err);

    if (rc == 0) {
        new = calloc(1, sizeof(*new));
        if (new != NULL)
            new->set = calloc(args->sets->count, sizeof(*new->set));
        if (new == NULL || new->set == NULL)
            rc = ds_fail(err, ENOMEM, "no memory");
    }
    if (rc == 0)
        rc = open_mix(new, args->sets->row, args->sets->count, err);
    rc = rc == 0 ? open_sets(new, args, err) : ds_error_context(err, rc, "%s", args->what);
    if (rc == 0)
        rc = ds_error_context(err, check_alike(new, err), "%s", args->what);
    if (rc != 0) {
        ds_data_close(new);
        return rc;
    }
    new->sequence = args->sequence;
    new->vocab = args->vocab;
    *data = new;
    return 0;
}

void ds_data_close(struct ds_data *data)
{
    if (data == NULL)
        return;
    for (size_t k = 0; k < data->sets; k++)
        ds_source_release(&data->set[k].source);
    ds_mix_release(&data->mix);
    free(data->set);
    free(data);
}

size_t ds_data_sets(const struct ds_data *data)
{
    return data->sets;
}

struct ds_data_size ds_data_set_size(const struct ds_data *data, size_t set)
{
    const struct ds_source *source = &data->set[set].source;

    return (struct ds_data_size){source->count, source->samples, source->tokens};
}

struct ds_data_size ds_data_size(const struct ds_data *data)
{
    struct ds_data_size all = {0};

    for (size_t k = 0; k < data->sets; k++) {
        struct ds_data_size size = ds_data_set_size(data, k);

        all.files += size.files;
        all.samples += size.samples;
        all.tokens += size.tokens;
    }
    return all;
}

/* The set's own n-th turn: its file, which is as long as it was, and its first id there. */
static int find_sample(const struct set *set, uint64_t nth, const struct ds_data_file **file,
                       uint64_t *first, struct ds_error *err)
{
    uint64_t sample = ds_order_sample(set->order, set->seed, set->source.samples, nth);

    *file = ds_source_find(&set->source, sample);
    *first = (sample - (*file)->first_sample) * (*file)->tokens.stride;
    return ds_source_check(*file, err);
}

/* ids[count] from `first` on of the sample at the set's own n-th turn. */
static int read_set(const struct ds_data *data, const struct set *set, uint64_t nth, uint64_t first,
                    uint64_t count, int32_t *ids, struct ds_error *err)
{
    const struct ds_data_file *file;
    uint64_t at;
    int rc = find_sample(set, nth, &file, &at, err);

    if (rc != 0)
        return rc;
    rc = ds_tokens_copy(&file->tokens, file->map.data, at + first, (size_t)count, data->vocab, ids,
                        err);
    return ds_error_context(err, rc, "'%s'", file->path);
}

int ds_data_read_part(const struct ds_data *data, uint64_t position, uint64_t first, uint64_t count,
                      int32_t *ids, struct ds_error *err)
{
    uint64_t nth;
    size_t set = ds_mix_at(&data->mix, position, &nth);

    return read_set(data, &data->set[set], nth, first, count, ids, err);
}

int ds_data_read(const struct ds_data *data, uint64_t position, int32_t *ids, struct ds_error *err)
{
    return ds_data_read_part(data, position, 0, data->sequence + 1, ids, err);
}

int ds_data_read_set(const struct ds_data *data, size_t set, uint64_t nth, int32_t *ids,
                     struct ds_error *err)
{
    return read_set(data, &data->set[set], nth, 0, data->sequence + 1, ids, err);
}

bool ds_data_masked(const struct ds_data *data)
{
    for (size_t k = 0; k < data->sets; k++)
        if (data->set[k].source.masked)
            return true;
    return false;
}

int ds_data_targets(const struct ds_data *data, uint64_t position, uint64_t samples,
                    uint64_t *targets, struct ds_error *err)
{
    *targets = ds_data_masked(data) ? 0 : samples * data->sequence;
    for (uint64_t i = 0; ds_data_masked(data) && i < samples; i++) {
        const struct ds_data_file *file;
        uint64_t nth, first, more;
        size_t set = ds_mix_at(&data->mix, position + i, &nth);
        int rc = find_sample(&data->set[set], nth, &file, &first, err);

        if (rc != 0)
            return rc;
        rc = ds_tokens_targets(&file->tokens, file->map.data, first + 1, (size_t)data->sequence,
                               &more, err);
        if (rc != 0)
            return ds_error_context(err, rc, "'%s'", file->path);
        *targets += more;
    }
    return 0;
}
