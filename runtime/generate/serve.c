/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * serve.c - the contract is in serve.h.
 *
 * The prompt is read once; each sample goes on from it with random numbers of its own, so that
 * sample i is the same whatever the number of samples.
 */
#include "runtime/generate/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "base/rng.h"
#include "base/wire.h"
#include "runtime/generate/request.h"
#include "runtime/generate/sampler.h"
#include "runtime/generate/session.h"
#include "runtime/plugin.h"

/* Streams of random numbers, one for each sample; token i of it is drawn by number i. */
#define SAMPLE_STREAMS (UINT64_C(0x67656e72) << 32)

struct serve {
    int in, out;
    struct ds_generate_request request;
    struct ds_session *session;
    struct ds_sampler sampler;
    float *after_prompt; /* [ids] logits */
    uint64_t enough;     /* samples before this number are */
    uint64_t start_ns;   /* of the sample */
};

/* --- the lines to dsrun ----------------------------------------------------------------------- */

/* -ECANCELED: the input ends before. */
static int read_all(int fd, void *to, size_t len, struct ds_error *err)
{
    for (size_t at = 0; at < len;) {
        ssize_t got = read(fd, (char *)to + at, len - at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return ds_fail(err, ECANCELED, "dsrun is there no more");
        at += (size_t)got;
    }
    return 0;
}

static int read_request(struct serve *s, struct ds_error *err)
{
    unsigned char head[4];
    char *text;
    size_t len;
    int rc = read_all(s->in, head, sizeof(head), err);

    if (rc != 0)
        return rc;
    len = ds_get_u32(head);
    if (len > DS_MAX_REQUEST_BYTES)
        return ds_fail(err, EPROTO, "a request of %zu bytes, %d are the most", len,
                       DS_MAX_REQUEST_BYTES);
    text = malloc(len + 1);
    if (text == NULL)
        return ds_fail(err, ENOMEM, "no memory for a request of %zu bytes", len);
    rc = read_all(s->in, text, len, err);
    if (rc == 0)
        rc = ds_generate_request_parse(&s->request, text, len, err);
    free(text);
    return rc;
}

static int tell(const struct serve *s, enum ds_generate_event_kind kind, uint32_t value,
                uint64_t number, struct ds_error *err)
{
    unsigned char bytes[DS_GENERATE_EVENT_BYTES];

    ds_generate_event_write((struct ds_generate_event){kind, value, number}, bytes);
    return ds_fs_write_all(s->out, bytes, sizeof(bytes), err) == 0
               ? 0
               : ds_fail(err, ECANCELED, "dsrun hears no more");
}

/* Which samples are enough by now. */
static int hear(struct serve *s, struct ds_error *err)
{
    struct pollfd ready = {.fd = s->in, .events = POLLIN};
    unsigned char number[4];
    int rc = 0;

    while (rc == 0 && poll(&ready, 1, 0) > 0) {
        rc = read_all(s->in, number, sizeof(number), err);
        if (rc == 0 && ds_get_u32(number) >= s->enough)
            s->enough = (uint64_t)ds_get_u32(number) + 1;
    }
    return rc;
}

/* --- samples ---------------------------------------------------------------------------------- */

static uint64_t passed_ns(const struct serve *s)
{
    return ds_clock_mono_ns() - s->start_ns;
}

static int next_id(const struct serve *s, const float *logits, uint64_t sample, uint64_t number,
                   uint32_t *id, struct ds_error *err)
{
    const struct ds_sampling how = {s->request.temperature, s->request.top_k, s->request.top_p};
    uint64_t bits = ds_rng_u64(s->request.seed, SAMPLE_STREAMS + sample, number);

    return ds_sample(&s->sampler, &how, logits, bits, id, err);
}

/* Read the id that was given, to know what follows it. */
static int go_on(struct serve *s, uint32_t id, const float **logits, struct ds_error *err)
{
    int32_t read = (int32_t)id;
    int rc = ds_session_read(s->session, &read, 1, err);

    return rc != 0 ? rc : ds_session_logits(s->session, logits, err);
}

/* What the sample ends for after `number` ids, the last of them `id`; END_COUNT: nothing yet. */
static enum ds_generate_end ends_after(const struct serve *s, uint64_t sample, uint64_t number)
{
    if (s->enough > sample)
        return DS_END_STOP;
    if (number == s->request.max_tokens)
        return DS_END_TOKENS;
    return ds_session_rows(s->session) == ds_session_room(s->session) ? DS_END_CONTEXT
                                                                      : DS_END_COUNT;
}

static int run_sample(struct serve *s, uint64_t sample, struct ds_error *err)
{
    const float *logits = s->after_prompt;
    enum ds_generate_end end = DS_END_COUNT;
    int rc = 0;

    ds_session_rewind(s->session, s->request.prompt_ids);
    s->start_ns = ds_clock_mono_ns();
    for (uint64_t number = 0; rc == 0 && end == DS_END_COUNT;) {
        uint32_t id = 0;

        rc = next_id(s, logits, sample, number++, &id, err);
        if (rc == 0 && id == s->request.end) {
            end = DS_END_TEXT;
            break;
        }
        if (rc == 0)
            rc = tell(s, DS_GENERATED_TOKEN, id, passed_ns(s), err);
        if (rc == 0)
            rc = hear(s, err);
        end = ends_after(s, sample, number);
        if (rc == 0 && end == DS_END_COUNT)
            rc = go_on(s, id, &logits, err);
    }
    return rc != 0 ? rc : tell(s, DS_GENERATED_END, end, passed_ns(s), err);
}

static int read_prompt(struct serve *s, struct ds_error *err)
{
    const struct ds_model_shape *shape = ds_session_shape(s->session);
    uint64_t start = ds_clock_mono_ns();
    const float *logits = NULL;
    int rc;

    if (s->request.ids > shape->vocab)
        s->request.ids = shape->vocab;
    if (s->request.prompt_ids > shape->context)
        return ds_fail(err, EDOM,
                       "the prompt has %zu tokens, and the model's context is %" PRIu64
                       "; shorten it",
                       s->request.prompt_ids, shape->context);
    rc = ds_session_read(s->session, s->request.prompt, s->request.prompt_ids, err);
    if (rc == 0)
        rc = ds_session_logits(s->session, &logits, err);
    if (rc == 0)
        rc = ds_sampler_init(&s->sampler, s->request.ids, err);
    if (rc != 0)
        return rc;
    s->after_prompt = malloc(s->request.ids * sizeof(*logits));
    if (s->after_prompt == NULL)
        return ds_fail(err, ENOMEM, "no memory for %" PRIu64 " logits", s->request.ids);
    memcpy(s->after_prompt, logits, s->request.ids * sizeof(*logits));
    return tell(s, DS_GENERATED_PROMPT, (uint32_t)s->request.prompt_ids, ds_clock_mono_ns() - start,
                err);
}

static int serve(struct serve *s, unsigned threads, struct ds_error *err)
{
    struct ds_session_args args = {.device = s->request.cuda != 0 ? "cuda" : "cpu",
                                   .ckpt = s->request.ckpt,
                                   .type = (enum ds_dtype)s->request.type,
                                   .threads = threads,
                                   .rows = s->request.prompt_ids + s->request.max_tokens};
    unsigned devices;
    int rc = s->request.cuda != 0 ? ds_plugin_take(&devices, err) : 0;

    if (s->request.threads > 0)
        args.threads = (unsigned)s->request.threads;
    if (rc == 0)
        rc = ds_session_open(&s->session, &args, err);
    if (rc == 0)
        rc = tell(s, DS_GENERATED_LOADED, 0, ds_session_bytes(s->session), err);
    if (rc == 0)
        rc = read_prompt(s, err);
    for (uint64_t sample = 0; rc == 0 && sample < s->request.count; sample++)
        rc = run_sample(s, sample, err);
    return rc;
}

int ds_generate_serve(int in, int out, unsigned threads, struct ds_error *err)
{
    struct serve s = {.in = in, .out = out};
    int rc = read_request(&s, err);

    if (rc == 0)
        rc = serve(&s, threads, err);
    ds_session_close(s.session);
    ds_sampler_release(&s.sampler);
    free(s.after_prompt);
    ds_generate_request_release(&s.request);
    return rc;
}
