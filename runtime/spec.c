/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spec.c - the contract is in spec.h.
 */
#include "runtime/spec.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char magic[] = "dsrun-job 1";

static bool plain_line(const char *text)
{
    return text[0] != '\0' && strchr(text, '\n') == NULL;
}

int ds_run_spec_write(const struct ds_run_spec *spec, struct ds_buf *out, struct ds_error *err)
{
    if (!plain_line(spec->run_dir) || !plain_line(spec->cwd))
        return ds_fail(err, EINVAL, "a folder of the run has no name or a line break in it");
    (void)ds_buf_printf(out, "%s\nrun_dir %s\ncwd %s\nattempt %u\n", magic, spec->run_dir,
                        spec->cwd, spec->attempt);
    for (unsigned i = 0; i < spec->trials; i++)
        (void)ds_buf_printf(out, "trial %s\n", spec->trial[i]);
    if (spec->saved)
        (void)ds_buf_puts(out, "saved 1\n");
    if (spec->evaluate)
        (void)ds_buf_puts(out, "evaluate 1\n");
    (void)ds_buf_puts(out, "\n");
    (void)ds_buf_put(out, spec->job_text, spec->job_bytes);
    if (out->failed)
        return ds_fail(err, EMSGSIZE, "the job's text does not fit in %zu bytes", out->max);
    return 0;
}

/* The next line of [*at, end), without its newline; false when none is complete. */
static bool next_line(const char **at, const char *end, const char **line, size_t *len)
{
    const char *newline = memchr(*at, '\n', (size_t)(end - *at));

    if (newline == NULL)
        return false;
    *line = *at;
    *len = (size_t)(newline - *at);
    *at = newline + 1;
    return true;
}

static int copy_path(char out[DS_MAX_PATH], const char *value, size_t len, struct ds_error *err)
{
    if (len == 0 || len >= DS_MAX_PATH || memchr(value, '\0', len) != NULL)
        return ds_fail(err, EPROTO, "malformed path in the job's first lines");
    memcpy(out, value, len);
    out[len] = '\0';
    return 0;
}

static int read_attempt(unsigned *attempt, const char *value, size_t len, struct ds_error *err)
{
    *attempt = 0;
    if (len == 0 || len > 9)
        return ds_fail(err, EPROTO, "malformed attempt in the job's first lines");
    for (size_t i = 0; i < len; i++) {
        if (value[i] < '0' || value[i] > '9')
            return ds_fail(err, EPROTO, "malformed attempt in the job's first lines");
        *attempt = *attempt * 10 + (unsigned)(value[i] - '0');
    }
    return 0;
}

static int add_trial(struct ds_run_spec *spec, const char *value, size_t len, struct ds_error *err)
{
    if (spec->trials == DS_MAX_TRIALS || len >= DS_MAX_TRIAL_TEXT ||
        memchr(value, '\0', len) != NULL)
        return ds_fail(err, EPROTO, "malformed trial in the job's first lines");
    memcpy(spec->trial[spec->trials], value, len);
    spec->trial[spec->trials++][len] = '\0';
    return 0;
}

static bool has_key(const char *line, size_t len, const char *key, const char **value,
                    size_t *value_len)
{
    size_t n = strlen(key);

    if (len <= n || memcmp(line, key, n) != 0 || line[n] != ' ')
        return false;
    *value = line + n + 1;
    *value_len = len - n - 1;
    return true;
}

static bool is_set(const char *line, size_t len, const char *key)
{
    const char *value;
    size_t value_len;

    return has_key(line, len, key, &value, &value_len) && value_len == 1 && value[0] == '1';
}

int ds_run_spec_parse(struct ds_run_spec *spec, const char *text, size_t len, struct ds_error *err)
{
    const char *at = text, *end = text + len, *line, *value;
    size_t line_len, value_len;
    int rc = 0;

    *spec = (struct ds_run_spec){0};
    if (!next_line(&at, end, &line, &line_len) || line_len != sizeof(magic) - 1 ||
        memcmp(line, magic, line_len) != 0)
        return ds_fail(err, EPROTO, "what the agent sent is not a job of this version");
    for (;;) {
        if (!next_line(&at, end, &line, &line_len))
            return ds_fail(err, EPROTO, "the job ends within its first lines");
        if (line_len == 0)
            break;
        if (has_key(line, line_len, "run_dir", &value, &value_len))
            rc = copy_path(spec->run_dir, value, value_len, err);
        else if (has_key(line, line_len, "cwd", &value, &value_len))
            rc = copy_path(spec->cwd, value, value_len, err);
        else if (has_key(line, line_len, "attempt", &value, &value_len))
            rc = read_attempt(&spec->attempt, value, value_len, err);
        else if (has_key(line, line_len, "trial", &value, &value_len))
            rc = add_trial(spec, value, value_len, err);
        else if (is_set(line, line_len, "saved"))
            spec->saved = true;
        else if (is_set(line, line_len, "evaluate"))
            spec->evaluate = true;
        else
            rc = ds_fail(err, EPROTO, "unknown line in the job's first lines");
        if (rc != 0)
            return rc;
    }
    if (spec->run_dir[0] == '\0' || spec->cwd[0] == '\0')
        return ds_fail(err, EPROTO, "the job's first lines name no run_dir or no cwd");
    spec->job_text = at;
    spec->job_bytes = (size_t)(end - at);
    return 0;
}
