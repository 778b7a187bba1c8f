/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * job.c - job text to struct and back; the contract is in job.h.
 *
 * The order is: defaults, file, overrides, required keys, checks over several
 * keys.  Everything read lives in the job's arena until ds_job_release(), so a
 * failed job is released like a good one.
 */
#include "runtime/job.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/fsio.h"
#include "runtime/job_table.h"

void ds_job_init(struct ds_job *job)
{
    memset(job, 0, sizeof(*job));
    ds_arena_init(&job->arena);
}

void ds_job_release(struct ds_job *job)
{
    ds_arena_release(&job->arena);
    job->source = NULL;
}

/* The table over this job, remembered for messages; NULL when memory runs out. */
static struct ds_keys *open_source(struct ds_job *job, const char *name)
{
    struct ds_job_source *source = ds_arena_alloc(&job->arena, 1, sizeof(*source));
    struct ds_keys *keys;

    if (source == NULL)
        return NULL;
    keys = &source->keys;
    *keys = (struct ds_keys){.base = job, .arena = &job->arena};
    keys->key = ds_job_keys(&keys->count);
    keys->name = ds_arena_strdup(&job->arena, name);
    keys->origin = ds_arena_alloc(&job->arena, keys->count, sizeof(keys->origin[0]));
    if (keys->name == NULL || keys->origin == NULL)
        return NULL;
    job->source = source;
    return keys;
}

static int apply_overrides(struct ds_keys *keys, const char *const *overrides, size_t count,
                           struct ds_error *err)
{
    if (count > DS_MAX_OVERRIDES)
        return ds_fail(err, EINVAL, "%zu overrides are too many; at most %d are allowed", count,
                       DS_MAX_OVERRIDES);
    for (size_t i = 0; i < count; i++) {
        const char *word = ds_arena_strdup(keys->arena, overrides[i]);
        int rc = word == NULL ? ds_fail(err, ENOMEM, "out of memory")
                              : ds_keys_override(keys, word, err);

        if (rc != 0)
            return rc;
    }
    return 0;
}

int ds_job_parse(struct ds_job *job, const char *name, const void *text, size_t len,
                 const char *const *overrides, size_t n_overrides, struct ds_error *err)
{
    struct ds_keys *keys = open_source(job, name);
    struct ds_yaml *root = NULL;
    int rc;

    if (keys == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    rc = ds_keys_defaults(keys, err);
    if (rc == 0)
        rc = ds_yaml_parse(&job->arena, keys->name, text, len, &root, err);
    if (rc == 0)
        rc = ds_keys_read(keys, root, err);
    if (rc == 0)
        rc = apply_overrides(keys, overrides, n_overrides, err);
    if (rc == 0)
        rc = ds_keys_require(keys, err);
    if (rc == 0)
        rc = ds__job_check(job, keys, err);
    return rc;
}

int ds_job_load(struct ds_job *job, const char *path, const char *const *overrides,
                size_t n_overrides, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds_fs_read(path, DS_MAX_YAML_BYTES, &text, err);
    if (rc == -EFBIG)
        rc = ds_fail(err, EINVAL, "%s:1:1: larger than %d bytes", path, DS_MAX_YAML_BYTES);
    if (rc == 0)
        rc = ds_job_parse(job, path, ds_buf_text(&text), text.len, overrides, n_overrides, err);
    ds_buf_release(&text);
    return rc;
}

static int write_job(const struct ds_job *job, struct ds_keys_origin *origin, struct ds_buf *out,
                     struct ds_error *err)
{
    struct ds_job copy = *job; /* the table writes from a struct it could also fill */
    struct ds_keys keys = {.base = &copy, .origin = origin};

    assert(job->train.steps > 0);
    keys.key = ds_job_keys(&keys.count);
    keys.skip[0] = job->model.init_from != NULL ? "model.init.std" : NULL; /* one or the other */
    keys.skip[1] = "train.epochs"; /* train.steps is what they came to */
    ds_keys_write(&keys, out);
    return out->failed ? ds_fail(err, ENOMEM, "the resolved job does not fit in memory") : 0;
}

int ds_job_write(const struct ds_job *job, struct ds_buf *out, struct ds_error *err)
{
    return write_job(job, NULL, out, err);
}

int ds_job_record(const struct ds_job *job, struct ds_buf *out, struct ds_error *err)
{
    return write_job(job, job->source->keys.origin, out, err);
}

uint64_t ds_job_digest(const struct ds_job *job)
{
    struct ds_buf text;
    uint64_t digest;
    size_t count;
    const struct ds_key *keys = ds_job_keys(&count);

    ds_buf_init(&text, (size_t)2 * DS_MAX_YAML_BYTES);
    for (size_t i = 0; i < count; i++) {
        if (!(keys[i].flags & DS_KEY_DIGEST))
            continue;
        ds_buf_printf(&text, "%s: ", keys[i].path);
        ds_key_print(&keys[i], job, &text);
        ds_buf_puts(&text, "\n");
    }
    digest = text.failed ? 0 : XXH3_64bits(ds_buf_text(&text), text.len);
    ds_buf_release(&text);
    return digest;
}
