/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job_data.c - the contract is in job_data.h.
 */
#include "runtime/job_data.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/data/mix.h"
#include "runtime/job_blame.h"
#include "runtime/job_table.h"
#include "runtime/text/size.h"

static bool has_tokenizer(const struct ds_job *job)
{
    return strcmp(job->data.tokenizer, "bytes") != 0;
}

int ds__job_default_vocab(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = 0;

    job->model.shape.vocab = 256;
    if (has_tokenizer(job))
        rc = ds_text_size(job->data.tokenizer, &job->model.shape.vocab, err);
    return ds_keys_place(keys, "data.tokenizer", rc, err);
}

/* What data.format auto takes a path or glob for, by its extension, as the data room does; a
 * wildcard in the extension leaves it open. */
enum named { NAMES_TEXT, NAMES_IDS, NAMES_ANY };

static enum named named(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash == NULL ? path : slash, '.');

    if (strpbrk(dot == NULL ? path : dot, "*?[") != NULL)
        return NAMES_ANY;
    if (dot != NULL && (strcmp(dot, ".bin") == 0 || strcmp(dot, ".safetensors") == 0))
        return NAMES_IDS;
    return NAMES_TEXT;
}

/* The first path or glob of the data that is `what`, or NULL. */
static const char *first_named(const struct ds_job *job, enum named what)
{
    const struct ds_rows *lists[] = {&job->data.train, &job->data.valid};

    for (size_t l = 0; l < 2; l++) {
        const struct ds_data_set *set = lists[l]->row;

        for (size_t k = 0; k < lists[l]->count; k++)
            for (size_t i = 0; i < set[k].path.count; i++)
                if (named(set[k].path.item[i]) == what)
                    return set[k].path.item[i];
    }
    return NULL;
}

bool ds__job_reads_bytes(const struct ds_job *job)
{
    if (has_tokenizer(job))
        return false;
    return job->data.format == DS_DATA_TEXT ||
           (job->data.format == DS_DATA_AUTO && first_named(job, NAMES_TEXT) != NULL);
}

/* What says that there are ids already, or NULL. */
static const char *no_text(const struct ds_job *job)
{
    if (job->data.format == DS_DATA_AUTO)
        return first_named(job, NAMES_IDS);
    return job->data.format == DS_DATA_TEXT ? NULL : "data.format";
}

/* Does every set name files, and can sets of these weights take turns? */
static int check_sets(const struct ds_rows *sets, const char *path, const struct ds_keys *keys,
                      struct ds_error *err)
{
    const struct ds_data_set *set = sets->row;
    double weight[DS_MAX_DATA_SETS];
    struct ds_mix_shares shares;
    int rc = 0;

    for (size_t k = 0; rc == 0 && k < sets->count; k++) {
        weight[k] = set[k].weight;
        if (set[k].path.count == 0)
            rc = ds_fail(err, EINVAL, "'%s' item %zu: 'path' must name at least one file", path,
                         k + 1);
    }
    if (rc == 0 && sets->count > 0)
        rc = ds_error_context(err, ds_mix_shares(&shares, weight, sets->count, err), "'%s'", path);
    return ds_keys_place(keys, path, rc, err);
}

/* --- data.valid ------------------------------------------------------------------------------ */

static bool same_name(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool ds_job_next_valid(const struct ds_job *job, size_t *at, struct ds_rows *rows)
{
    struct ds_data_set *set = job->data.valid.row;
    size_t first = *at;

    while (*at < job->data.valid.count && same_name(set[*at].name, set[first].name))
        ++*at;
    *rows = (struct ds_rows){.count = *at - first, .row = set + first};
    return rows->count > 0;
}

static int check_name(const char *name, struct ds_error *err)
{
    const char *s = name == NULL ? "" : name;

    if (name == NULL)
        return ds_fail(err, EINVAL, "'data.valid' has names, so each item must have a 'name'");
    while (isalnum((unsigned char)*s) || (*s != '\0' && strchr("._-", *s) != NULL))
        s++;
    return *s == '\0' ? 0
                      : ds_fail(err, EINVAL,
                                "'name' in 'data.valid' must be of letters, digits, '.', '_' and "
                                "'-', not '%s'",
                                name);
}

/* The names of all mixtures, each of which stands once. */
static int check_names(const struct ds_job *job, struct ds_error *err)
{
    const struct ds_data_set *set = job->data.valid.row;
    const char *names[DS_MAX_VALID_NAMES];
    struct ds_rows rows;
    size_t count = 0;
    int rc = 0;

    for (size_t at = 0; rc == 0 && ds_job_next_valid(job, &at, &rows); count++) {
        const char *name = ((const struct ds_data_set *)rows.row)->name;

        if (rows.count == job->data.valid.count && name == NULL)
            return 0;
        if (count == DS_MAX_VALID_NAMES)
            return ds_fail(err, EINVAL, "'data.valid' has more than %d names", DS_MAX_VALID_NAMES);
        rc = check_name(name, err);
        for (size_t i = 0; rc == 0 && i < count; i++)
            if (strcmp(names[i], name) == 0)
                rc =
                    ds_fail(err, EINVAL,
                            "'data.valid' item %zu: '%s' is the name of an item further up, beside "
                            "which it must stand",
                            (size_t)((const struct ds_data_set *)rows.row - set) + 1, name);
        names[count] = name;
    }
    return rc;
}

static int check_valid(const struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = ds_keys_place(keys, "data.valid", check_names(job, err), err);
    struct ds_rows rows;

    for (size_t at = 0; rc == 0 && ds_job_next_valid(job, &at, &rows);)
        rc = check_sets(&rows, "data.valid", keys, err);
    return rc;
}

int ds__job_check_documents(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    const uint64_t vocab = job->model.shape.vocab;
    int rc = 0;

    if (job->data.documents != DS_DOCUMENTS_APART)
        return 0;
    if (!ds_keys_given(keys, "data.separator")) {
        if (!has_tokenizer(job))
            return FAIL_AT(
                keys, "data.documents", EINVAL,
                "'data.documents' apart needs 'data.separator', the id of the token that "
                "ends a document; a tokenizer.json in 'data.tokenizer' has one");
        rc = ds_keys_place(keys, "data.tokenizer",
                           ds_text_separator(job->data.tokenizer, &job->data.separator, err), err);
    }
    if (rc == 0 && job->data.separator >= vocab)
        rc = FAIL_AT(keys, ds__job_blame(keys, "data.separator", "model.vocab"), EINVAL,
                     "'data.separator' %" PRIu64 " must be below 'model.vocab' %" PRIu64,
                     job->data.separator, vocab);
    return rc;
}

int ds__job_check_data(struct ds_job *job, const struct ds_keys *keys, struct ds_error *err)
{
    int rc = 0;

    if (job->data.train.count == 0) {
        rc = ds_fail(err, EINVAL, "'data.train' must name at least one file");
        return ds_keys_place(keys, "data.train", rc, err);
    }
    rc = check_sets(&job->data.train, "data.train", keys, err);
    if (rc == 0)
        rc = check_valid(job, keys, err);
    if (rc != 0)
        return rc;
    if (has_tokenizer(job) && no_text(job) != NULL) {
        rc = ds_fail(err, EINVAL,
                     "'data.tokenizer' is for text, and '%s' says that there are ids; leave the "
                     "tokenizer out",
                     no_text(job));
        return ds_keys_place(keys, "data.tokenizer", rc, err);
    }
    if (!ds_keys_given(keys, "eval.every"))
        job->eval.every = job->data.valid.count > 0 ? 50 : 0;
    if (job->eval.every > 0 && job->data.valid.count == 0) {
        rc = ds_fail(err, EINVAL,
                     "'eval.every' %" PRIu64 " needs 'data.valid'; name files there, or use 0",
                     job->eval.every);
        return ds_keys_place(keys, "eval.every", rc, err);
    }
    return 0;
}
