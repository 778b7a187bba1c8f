/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * data.c - the contract is in data.h: a source, read in an order.
 */
#include "runtime/data/data.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/data/order.h"
#include "runtime/data/source.h"

struct ds_data {
    struct ds_source source;
    enum ds_data_order order;
    uint64_t sequence, vocab, seed;
};

static int check_args(const struct ds_data_args *args, struct ds_error *err)
{
    if (args->sequence == 0 || args->sequence > DS_MAX_CONTEXT)
        return ds_fail(err, EINVAL, "sequences of %ju ids, not within 1 to %d",
                       (uintmax_t)args->sequence, DS_MAX_CONTEXT);
    if (args->vocab == 0 || args->vocab > DS_MAX_VOCAB)
        return ds_fail(err, EINVAL, "a vocabulary of %ju ids, not within 1 to %d",
                       (uintmax_t)args->vocab, DS_MAX_VOCAB);
    return 0;
}

int ds_data_open(struct ds_data **data, const struct ds_data_args *args, struct ds_error *err)
{
    struct ds_data *new;
    int rc = check_args(args, err);

    if (rc != 0)
        return ds_error_context(err, rc, "%s", args->what);
    new = calloc(1, sizeof(*new));
    if (new == NULL)
        return ds_fail(err, ENOMEM, "%s: no memory", args->what);
    rc = ds_source_open(&new->source, args->paths, args->format, args->sequence, err);
    if (rc != 0) {
        free(new);
        return ds_error_context(err, rc, "%s", args->what);
    }
    new->order = new->source.format == DS_DATA_SAMPLES ? DS_ORDER_SEQUENTIAL : args->order;
    new->sequence = args->sequence;
    new->vocab = args->vocab;
    new->seed = args->seed;
    *data = new;
    return 0;
}

void ds_data_close(struct ds_data *data)
{
    if (data == NULL)
        return;
    ds_source_release(&data->source);
    free(data);
}

uint64_t ds_data_samples(const struct ds_data *data)
{
    return data->source.samples;
}

uint64_t ds_data_tokens(const struct ds_data *data)
{
    return data->source.tokens;
}

size_t ds_data_files(const struct ds_data *data)
{
    return data->source.count;
}

int ds_data_read_part(const struct ds_data *data, uint64_t position, uint64_t first, uint64_t count,
                      int32_t *ids, struct ds_error *err)
{
    uint64_t sample = ds_order_sample(data->order, data->seed, data->source.samples, position);
    const struct ds_data_file *file = ds_source_find(&data->source, sample);
    const struct ds_tokens *tokens = &file->tokens;
    int rc = ds_source_check(file, err);

    if (rc != 0)
        return rc;
    rc = ds_tokens_copy(tokens, file->map.data,
                        (sample - file->first_sample) * tokens->stride + first, (size_t)count,
                        data->vocab, ids, err);
    return ds_error_context(err, rc, "'%s'", file->path);
}

int ds_data_read(const struct ds_data *data, uint64_t position, int32_t *ids, struct ds_error *err)
{
    return ds_data_read_part(data, position, 0, data->sequence + 1, ids, err);
}
