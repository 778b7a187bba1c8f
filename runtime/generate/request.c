/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * request.c - the contract is in request.h.
 */
#include "runtime/generate/request.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "kernels/dtype.h"

static const char magic[] = "dsrun-generate 2\n";

enum { NUMBER_TEXT = 40 };

/* The numbers of a request, in the order of their lines. */
/* clang-format off */
#define WHOLE(name, min, max) {#name, offsetof(struct ds_generate_request, name), false, min, max}
#define REAL(name, max)       {#name, offsetof(struct ds_generate_request, name), true, 0, max}
static const struct field {
    const char *name;
    size_t at;
    bool real;
    uint64_t min, max;
} fields[] = {
    WHOLE(cuda,        0,      1),
    WHOLE(type,        DS_F32, DS_F16),
    WHOLE(threads,     0,      DS_MAX_THREADS),
    WHOLE(max_tokens,  1,      UINT32_MAX),
    WHOLE(top_k,       0,      UINT32_MAX),
    WHOLE(seed,        0,      UINT64_MAX),
    WHOLE(count,       1,      DS_MAX_SAMPLES),
    WHOLE(batch,       1,      DS_MAX_GENERATE_BATCH),
    WHOLE(ids,         1,      DS_MAX_VOCAB),
    WHOLE(end,         0,      DS_NO_END),
    REAL(temperature,  1000),
    REAL(top_p,        1),
};
/* clang-format on */

void ds_generate_request_release(struct ds_generate_request *request)
{
    for (size_t i = 0; i < request->prompts; i++)
        free(request->prompt[i].ids);
    free(request->prompt);
    request->prompt = NULL;
    request->prompts = 0;
}

/* Room is doubled where it is full: it is when the number is a power of two. */
int32_t *ds_generate_request_add(struct ds_generate_request *request, size_t count)
{
    const size_t used = request->prompts;
    int32_t *ids = calloc(count, sizeof(*ids));

    if (ids != NULL && (used & (used - 1)) == 0) {
        struct ds_generate_prompt *more =
            reallocarray(request->prompt, used > 0 ? 2 * used : 1, sizeof(*more));

        if (more == NULL) {
            free(ids);
            return NULL;
        }
        request->prompt = more;
    }
    if (ids != NULL)
        request->prompt[request->prompts++] = (struct ds_generate_prompt){ids, count};
    return ids;
}

int ds_generate_request_write(const struct ds_generate_request *request, struct ds_buf *out,
                              struct ds_error *err)
{
    if (request->ckpt[0] == '\0' || strchr(request->ckpt, '\n') != NULL)
        return ds_fail(err, EINVAL, "the checkpoint has no name or a line break in it");
    (void)ds_buf_printf(out, "%sckpt %s\n", magic, request->ckpt);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        const void *at = (const char *)request + fields[i].at;

        if (fields[i].real)
            (void)ds_buf_printf(out, "%s %.17g\n", fields[i].name, *(const double *)at);
        else
            (void)ds_buf_printf(out, "%s %" PRIu64 "\n", fields[i].name, *(const uint64_t *)at);
    }
    for (size_t p = 0; p < request->prompts; p++) {
        (void)ds_buf_puts(out, "prompt");
        for (size_t i = 0; i < request->prompt[p].count; i++)
            (void)ds_buf_printf(out, " %" PRId32, request->prompt[p].ids[i]);
        (void)ds_buf_puts(out, "\n");
    }
    return out->failed ? ds_fail(err, ENOBUFS, "%zu prompts do not fit in %zu bytes; give fewer",
                                 request->prompts, out->max)
                       : 0;
}

struct reader {
    const char *at, *end;
    struct ds_error *err;
};

static int malformed(const struct reader *r, const char *what)
{
    return ds_fail(r->err, EPROTO, "malformed %s in what the worker was asked to generate", what);
}

/* What follows "NAME " up to the end of the line, whose length is returned through *len. */
static int take_line(struct reader *r, const char *name, const char **value, size_t *len)
{
    size_t n = strlen(name), left = (size_t)(r->end - r->at);
    const char *newline;

    if (left <= n || memcmp(r->at, name, n) != 0 || r->at[n] != ' ')
        return malformed(r, name);
    *value = r->at + n + 1;
    newline = memchr(*value, '\n', (size_t)(r->end - *value));
    if (newline == NULL)
        return malformed(r, name);
    *len = (size_t)(newline - *value);
    r->at = newline + 1;
    return 0;
}

/* A whole number without sign, all of the `len` bytes. */
static bool whole_number(const char *text, size_t len, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < len; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');

        if (text[i] < '0' || text[i] > '9' || *out > (UINT64_MAX - digit) / 10)
            return false;
        *out = *out * 10 + digit;
    }
    return len > 0;
}

static bool real_number(const char *text, double *out)
{
    char *end = NULL;

    *out = strtod(text, &end);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && isfinite(*out);
}

static int take_field(struct reader *r, const struct field *field,
                      struct ds_generate_request *request)
{
    void *at = (char *)request + field->at;
    char text[NUMBER_TEXT];
    const char *value;
    uint64_t whole = 0;
    double real = 0.0;
    size_t len;
    int rc = take_line(r, field->name, &value, &len);

    if (rc != 0)
        return rc;
    if (len >= sizeof(text) || memchr(value, '\0', len) != NULL)
        return malformed(r, field->name);
    memcpy(text, value, len);
    text[len] = '\0';
    if (field->real ? !real_number(text, &real) || real > (double)field->max
                    : !whole_number(text, len, &whole) || whole < field->min || whole > field->max)
        return malformed(r, field->name);
    if (field->real)
        *(double *)at = real;
    else
        *(uint64_t *)at = whole;
    return 0;
}

static int take_ckpt(struct reader *r, struct ds_generate_request *request)
{
    const char *value;
    size_t len;
    int rc = take_line(r, "ckpt", &value, &len);

    if (rc != 0)
        return rc;
    if (len == 0 || len >= sizeof(request->ckpt) || memchr(value, '\0', len) != NULL)
        return malformed(r, "ckpt");
    memcpy(request->ckpt, value, len);
    request->ckpt[len] = '\0';
    return 0;
}

static int take_prompt(struct reader *r, struct ds_generate_request *request)
{
    const char *value, *next;
    size_t len, count = 1;
    int32_t *id;
    int rc = take_line(r, "prompt", &value, &len);

    if (rc != 0)
        return rc;
    for (size_t i = 0; i < len; i++)
        count += value[i] == ' ';
    id = ds_generate_request_add(request, count);
    if (id == NULL)
        return ds_fail(r->err, ENOMEM, "no memory for a prompt of %zu tokens", count);
    for (const char *end = value + len; value <= end; value = next + 1) {
        uint64_t number;

        next = memchr(value, ' ', (size_t)(end - value));
        if (next == NULL)
            next = end;
        if (!whole_number(value, (size_t)(next - value), &number) || number >= DS_MAX_VOCAB)
            return malformed(r, "prompt");
        *id++ = (int32_t)number;
    }
    return 0;
}

int ds_generate_request_parse(struct ds_generate_request *request, const char *text, size_t len,
                              struct ds_error *err)
{
    struct reader r = {text, text + len, err};
    int rc = 0;

    *request = (struct ds_generate_request){0};
    if (len < sizeof(magic) - 1 || memcmp(text, magic, sizeof(magic) - 1) != 0)
        return ds_fail(err, EPROTO, "what the worker was asked is nothing of this version");
    r.at += sizeof(magic) - 1;
    rc = take_ckpt(&r, request);
    for (size_t i = 0; rc == 0 && i < sizeof(fields) / sizeof(fields[0]); i++)
        rc = take_field(&r, &fields[i], request);
    do
        rc = rc == 0 ? take_prompt(&r, request) : rc;
    while (rc == 0 && r.at != r.end);
    if (rc == 0 && request->top_p == 0.0)
        rc = malformed(&r, "top_p");
    if (rc == 0 && request->prompts > DS_MAX_SAMPLES / request->count)
        rc = malformed(&r, "count");
    if (rc != 0)
        ds_generate_request_release(request);
    return rc;
}

void ds_generate_event_write(struct ds_generate_event event,
                             unsigned char out[DS_GENERATE_EVENT_BYTES])
{
    ds_put_u32(out, (uint32_t)event.kind);
    ds_put_u32(out + 4, event.value);
    ds_put_u64(out + 8, event.number);
}

int ds_generate_event_read(struct ds_generate_event *event,
                           const unsigned char bytes[DS_GENERATE_EVENT_BYTES], struct ds_error *err)
{
    uint32_t kind = ds_get_u32(bytes);

    *event = (struct ds_generate_event){(enum ds_generate_event_kind)kind, ds_get_u32(bytes + 4),
                                        ds_get_u64(bytes + 8)};
    if (kind >= DS_GENERATED_KINDS || (kind == DS_GENERATED_END && event->value >= DS_END_COUNT) ||
        (kind == DS_GENERATED_TOKEN && event->value >= DS_MAX_VOCAB))
        return ds_fail(err, EPROTO, "malformed event of the worker that generates");
    return 0;
}
