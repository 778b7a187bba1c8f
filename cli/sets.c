/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sets.c - the contract is in sets.h.
 */
#include "cli/sets.h"

#include <inttypes.h>
#include <string.h>

#include "cli/tokenize.h"
#include "runtime/data/data.h"
#include "runtime/data/mix.h"
#include "runtime/data/source.h"
#include "runtime/data/valid.h"
#include "runtime/job_table.h"

/* --- what there is --------------------------------------------------------------------------- */

/* Are the files there?  What is in text that is to be tokenized is seen then. */
static int list_text(const struct ds_rows *sets, const char *what, struct ds_error *err)
{
    const struct ds_data_set *set = sets->row;

    for (size_t k = 0; k < sets->count; k++) {
        struct ds_source source;
        int rc = ds_source_list(&source, &set[k].path, err);

        if (rc != 0)
            return sets->count == 1 ? ds_error_context(err, rc, "%s", what)
                                    : ds_error_context(err, rc, "%s item %zu", what, k + 1);
        ds_source_release(&source);
    }
    return 0;
}

static int check_train(const struct ds_job *job, uint64_t *samples, struct ds_error *err)
{
    const struct ds_data_args args = {.what = "data.train",
                                      .sets = &job->data.train,
                                      .format = job->data.format,
                                      .order = job->data.order,
                                      .sequence = job->train.sequence,
                                      .vocab = job->model.shape.vocab,
                                      .seed = job->seed};
    struct ds_data *data = NULL;
    int rc = ds_data_open(&data, &args, err);

    for (size_t k = 0; rc == 0 && k < job->data.train.count; k++)
        samples[k] = ds_data_set_size(data, k).samples;
    ds_data_close(data);
    return rc;
}

static int check_valid(const struct ds_job *job, struct ds_error *err)
{
    struct ds_valid valid;
    int rc = ds_valid_open(&valid, job, err);

    ds_valid_close(&valid);
    return rc;
}

int ds_cli_sets_check(const struct ds_job *job, struct ds_cli_sets *sets, struct ds_error *err)
{
    bool text = strcmp(job->data.tokenizer, "bytes") != 0;
    int rc = ds_cli_sets_count(job, sets, err);

    if (rc == 0)
        rc = text ? list_text(&job->data.train, "data.train", err)
                  : check_train(job, sets->samples, err);
    if (rc != 0)
        return rc;
    return text ? list_text(&job->data.valid, "data.valid", err) : check_valid(job, err);
}

int ds_cli_sets_settle(const struct ds_cli *cli, struct ds_job *job, bool look,
                       struct ds_error *err)
{
    struct ds_cli_sets sets = {{0}, {0}};
    uint64_t sequences = 0;
    struct ds_job ranks;
    int rc;

    if (job->train.steps > 0)
        return 0;
    rc = ds_cli_tokenize_train(cli, job, look, &ranks, err);
    if (rc == 0)
        rc = ds_cli_sets_check(&ranks, &sets, err);
    if (rc != 0)
        return ds_keys_place(&job->source->keys, "train.epochs",
                             ds_error_context(err, rc, "'train.epochs' goes by the data"), err);
    for (size_t k = 0; k < job->data.train.count; k++)
        sequences += sets.samples[k];
    return ds_job_settle_epochs(job, sequences, err);
}

/* --- what a run takes ------------------------------------------------------------------------- */

int ds_cli_sets_count(const struct ds_job *job, struct ds_cli_sets *sets, struct ds_error *err)
{
    const struct ds_data_set *set = job->data.train.row;
    size_t count = job->data.train.count;
    double weight[DS_MAX_DATA_SETS] = {0};
    struct ds_mix mix;
    int rc;

    *sets = (struct ds_cli_sets){{0}, {0}};
    for (size_t k = 0; k < count; k++)
        weight[k] = set[k].weight;
    rc = ds_mix_open(&mix, weight, count, err);
    for (size_t k = 0; rc == 0 && k < count; k++)
        sets->taken[k] = ds_mix_count(&mix, k, job->train.steps * job->train.global_batch);
    ds_mix_release(&mix);
    return rc;
}

static double share_of(const struct ds_job *job, size_t set)
{
    const struct ds_data_set *all = job->data.train.row;
    double sum = 0.0;

    for (size_t k = 0; k < job->data.train.count; k++)
        sum += all[k].weight;
    return all[set].weight / sum;
}

static double epochs_of(const struct ds_cli_sets *sets, size_t set)
{
    return (double)sets->taken[set] / (double)sets->samples[set];
}

void ds_cli_sets_print(const struct ds_job *job, const struct ds_cli_sets *sets, struct ds_buf *out)
{
    const struct ds_data_set *set = job->data.train.row;
    size_t count = job->data.train.count;

    for (size_t k = 0; count > 1 && k < count; k++) {
        const struct ds_strings *path = &set[k].path;

        (void)ds_buf_printf(out, "%-9s %.3g%% of %s%s: %" PRIu64 " sequences", k == 0 ? "data" : "",
                            100.0 * share_of(job, k), path->item[0], path->count > 1 ? ", ..." : "",
                            sets->taken[k]);
        if (sets->samples[k] > 0)
            (void)ds_buf_printf(out, ", %.3g epochs of %" PRIu64, epochs_of(sets, k),
                                sets->samples[k]);
        (void)ds_buf_puts(out, "\n");
    }
}

void ds_cli_sets_json(const struct ds_job *job, const struct ds_cli_sets *sets,
                      struct ds_json *json)
{
    const struct ds_data_set *set = job->data.train.row;

    ds_json_array(json, "data_train");
    for (size_t k = 0; k < job->data.train.count; k++) {
        ds_json_object(json, NULL);
        ds_json_array(json, "path");
        for (size_t i = 0; i < set[k].path.count; i++)
            ds_json_string(json, NULL, set[k].path.item[i]);
        ds_json_end_array(json);
        ds_json_f64(json, "weight", set[k].weight, 12);
        ds_json_u64(json, "sequences", sets->taken[k]);
        if (sets->samples[k] > 0) {
            ds_json_u64(json, "epoch_sequences", sets->samples[k]);
            ds_json_f64(json, "epochs", epochs_of(sets, k), 6);
        }
        ds_json_end_object(json);
    }
    ds_json_end_array(json);
}
