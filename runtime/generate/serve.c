/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * serve.c - the contract is in serve.h.
 *
 * A prompt is read once; each sample goes on from it with random numbers of its own, so that
 * sample i is the same whatever the number of samples.  Samples have seats, each with a sequence of
 * the session; a seat that is free is taken by the next one.
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

struct seat {
    bool busy, enough; /* somebody has said so of its sample */
    uint64_t sample, made;
    int32_t id;      /* the last that it was given, not read yet */
    uint64_t prompt; /* that its sequence begins with; UINT64_MAX: none */
};

struct serve {
    int in, out;
    struct ds_generate_request request;
    struct ds_session *session;
    struct ds_sampler sampler;
    struct seat *seat;            /* [batch] */
    struct ds_session_next *next; /* [batch] */
    float *after_prompt;          /* [ids] logits of what follows the last one that was read */
    uint64_t last_prompt;         /* its number */
    uint64_t begun;               /* samples */
    uint64_t prompts_ns;
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

/* The sample is enough, if it is still made. */
static void end_early(struct serve *s, uint32_t sample)
{
    for (uint64_t i = 0; i < s->request.batch; i++)
        if (s->seat[i].busy && s->seat[i].sample == sample)
            s->seat[i].enough = true;
}

/* Which samples are enough by now; with `wait` until dsrun has said of all. */
static int hear(struct serve *s, bool wait, struct ds_error *err)
{
    struct pollfd ready = {.fd = s->in, .events = POLLIN};
    unsigned char number[4];
    int rc = 0;

    while (rc == 0 && (wait || poll(&ready, 1, 0) > 0)) {
        rc = read_all(s->in, number, sizeof(number), err);
        if (rc == 0 && ds_get_u32(number) == DS_GENERATE_GO_ON)
            break;
        if (rc == 0)
            end_early(s, ds_get_u32(number));
    }
    return rc;
}

/* --- prompts ---------------------------------------------------------------------------------- */

/* Into the sequence whose turn it is. */
static int read_prompt(struct serve *s, const struct ds_generate_prompt *prompt,
                       struct ds_error *err)
{
    const uint64_t start = ds_clock_mono_ns(), context = ds_session_shape(s->session)->context;
    const float *logits = NULL;
    uint64_t took;
    int rc;

    if (prompt->count > context)
        return ds_fail(err, EDOM,
                       "the prompt has %zu tokens, and the model's context is %" PRIu64
                       "; shorten it",
                       prompt->count, context);
    ds_session_rewind(s->session, 0);
    rc = ds_session_read(s->session, prompt->ids, prompt->count, err);
    if (rc == 0)
        rc = ds_session_logits(s->session, &logits, err);
    if (rc != 0)
        return rc;
    memcpy(s->after_prompt, logits, s->request.ids * sizeof(*logits));
    took = ds_clock_mono_ns() - start;
    s->prompts_ns += took;
    return tell(s, DS_GENERATED_PROMPT, (uint32_t)prompt->count, took, err);
}

/* The sequence of a seat becomes prompt `number`: as it was, as another seat's begins, or read. */
static int begin_with(struct serve *s, unsigned seat, uint64_t number, struct ds_error *err)
{
    const struct ds_generate_prompt *prompt = &s->request.prompt[number];
    unsigned from = 0;
    int rc = 0;

    ds_session_turn(s->session, seat);
    if (s->last_prompt != number)
        rc = read_prompt(s, prompt, err);
    else if (s->seat[seat].prompt == number)
        ds_session_rewind(s->session, prompt->count);
    else {
        while (s->seat[from].prompt != number) /* who has read it, is there until the next one */
            from++;
        rc = ds_session_copy(s->session, from, prompt->count, err);
    }
    s->seat[seat].prompt = s->last_prompt = number;
    return rc;
}

/* --- samples ---------------------------------------------------------------------------------- */

/* Of a prompt's samples by the number that it has among these. */
static int next_id(const struct serve *s, const struct seat *seat, const float *logits,
                   uint32_t *id, struct ds_error *err)
{
    const struct ds_sampling how = {s->request.temperature, s->request.top_k, s->request.top_p};
    const uint64_t stream = SAMPLE_STREAMS + seat->sample % s->request.count;

    return ds_sample(&s->sampler, &how, logits, ds_rng_u64(s->request.seed, stream, seat->made), id,
                     err);
}

static int end_sample(struct serve *s, struct seat *seat, enum ds_generate_end end,
                      struct ds_error *err)
{
    seat->busy = false;
    return tell(s, DS_GENERATED_END, end, seat->sample, err);
}

/* What the sample ends for; END_COUNT: nothing yet. */
static enum ds_generate_end ends_after(struct serve *s, unsigned seat)
{
    if (s->seat[seat].enough)
        return DS_END_STOP;
    if (s->seat[seat].made == s->request.max_tokens)
        return DS_END_TOKENS;
    ds_session_turn(s->session, seat);
    return ds_session_rows(s->session) == ds_session_room(s->session) ? DS_END_CONTEXT
                                                                      : DS_END_COUNT;
}

/* One more id of a seat's sample. */
static int take(struct serve *s, unsigned number, const float *logits, struct ds_error *err)
{
    struct seat *seat = &s->seat[number];
    enum ds_generate_end end;
    uint32_t id = 0;
    int rc = next_id(s, seat, logits, &id, err);

    seat->made++;
    seat->id = (int32_t)id;
    if (rc == 0 && id == s->request.end)
        return end_sample(s, seat, DS_END_TEXT, err);
    if (rc == 0)
        rc = tell(s, DS_GENERATED_TOKEN, id, seat->sample, err);
    if (rc == 0 && s->request.batch == 1)
        rc = hear(s, false, err);
    end = ends_after(s, number);
    return rc == 0 && end != DS_END_COUNT ? end_sample(s, seat, end, err) : rc;
}

/* The next samples take the seats that are free. */
static int fill_seats(struct serve *s, struct ds_error *err)
{
    const uint64_t samples = s->request.prompts * s->request.count;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < s->request.batch && s->begun < samples; i++) {
        while (rc == 0 && !s->seat[i].busy && s->begun < samples) {
            s->seat[i].busy = true;
            s->seat[i].enough = false;
            s->seat[i].made = 0;
            s->seat[i].sample = s->begun++;
            rc = begin_with(s, i, s->seat[i].sample / s->request.count, err);
            if (rc == 0)
                rc = take(s, i, s->after_prompt, err);
        }
    }
    return rc;
}

/* Hear of all seats before any goes on: what is read together is to depend on no clock. */
static int agree(struct serve *s, struct ds_error *err)
{
    int rc = tell(s, DS_GENERATED_STEP, 0, 0, err);

    if (rc == 0)
        rc = hear(s, true, err);
    for (unsigned i = 0; rc == 0 && i < s->request.batch; i++)
        if (s->seat[i].busy && s->seat[i].enough)
            rc = end_sample(s, &s->seat[i], DS_END_STOP, err);
    return rc;
}

/* Read the ids that were given, and give what follows each. */
static int go_on(struct serve *s, struct ds_error *err)
{
    const uint64_t vocab = ds_session_shape(s->session)->vocab;
    const float *logits = NULL;
    size_t count = 0;
    int rc = 0;

    for (unsigned i = 0; i < s->request.batch; i++)
        if (s->seat[i].busy)
            s->next[count++] = (struct ds_session_next){.sequence = i, .id = s->seat[i].id};
    if (count == 0)
        return 0;
    rc = ds_session_step(s->session, s->next, count, err);
    if (rc == 0)
        rc = ds_session_logits(s->session, &logits, err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = take(s, s->next[i].sequence, logits + i * vocab, err);
    return rc;
}

static bool is_busy(const struct serve *s)
{
    for (unsigned i = 0; i < s->request.batch; i++)
        if (s->seat[i].busy)
            return true;
    return false;
}

static int run_samples(struct serve *s, struct ds_error *err)
{
    const uint64_t start = ds_clock_mono_ns();
    int rc;

    do {
        rc = fill_seats(s, err);
        if (rc == 0 && s->request.batch > 1)
            rc = agree(s, err);
        if (rc == 0)
            rc = go_on(s, err);
    } while (rc == 0 && (is_busy(s) || s->begun < s->request.prompts * s->request.count));
    return rc == 0 ? tell(s, DS_GENERATED_DONE, 0, ds_clock_mono_ns() - start - s->prompts_ns, err)
                   : rc;
}

/* --- the request ------------------------------------------------------------------------------ */

/* No more seats than samples; of as many rows as the longest prompt goes on for. */
static int open_session(struct serve *s, unsigned threads, struct ds_error *err)
{
    const uint64_t samples = s->request.prompts * s->request.count;
    struct ds_session_args args = {.device = s->request.cuda != 0 ? "cuda" : "cpu",
                                   .ckpt = s->request.ckpt,
                                   .type = (enum ds_dtype)s->request.type,
                                   .threads = threads};
    size_t longest = 0;

    for (size_t i = 0; i < s->request.prompts; i++)
        if (s->request.prompt[i].count > longest)
            longest = s->request.prompt[i].count;
    if (s->request.batch > samples)
        s->request.batch = samples;
    if (s->request.threads > 0)
        args.threads = (unsigned)s->request.threads;
    args.rows = longest + s->request.max_tokens;
    args.sequences = (unsigned)s->request.batch;
    return ds_session_open(&s->session, &args, err);
}

static int take_seats(struct serve *s, struct ds_error *err)
{
    const uint64_t vocab = ds_session_shape(s->session)->vocab;

    if (s->request.ids > vocab)
        s->request.ids = vocab;
    s->last_prompt = UINT64_MAX;
    s->seat = calloc(s->request.batch, sizeof(*s->seat));
    s->next = calloc(s->request.batch, sizeof(*s->next));
    s->after_prompt = calloc(s->request.ids, sizeof(*s->after_prompt));
    if (s->seat == NULL || s->next == NULL || s->after_prompt == NULL)
        return ds_fail(err, ENOMEM, "no memory for %" PRIu64 " logits", s->request.ids);
    for (unsigned i = 0; i < s->request.batch; i++)
        s->seat[i].prompt = UINT64_MAX;
    return ds_sampler_init(&s->sampler, s->request.ids, err);
}

static int serve(struct serve *s, unsigned threads, struct ds_error *err)
{
    unsigned devices;
    int rc = s->request.cuda != 0 ? ds_plugin_take(&devices, err) : 0;

    if (rc == 0)
        rc = open_session(s, threads, err);
    if (rc == 0)
        rc = take_seats(s, err);
    if (rc == 0)
        rc = tell(s, DS_GENERATED_LOADED, 0, ds_session_bytes(s->session), err);
    return rc == 0 ? run_samples(s, err) : rc;
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
    free(s.seat);
    free(s.next);
    ds_generate_request_release(&s.request);
    return rc;
}
