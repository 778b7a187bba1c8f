/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_serve.c - the worker's side of dsrun generate: what it tells for what it is asked, and how
 * it ends.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/wire.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/generate/request.h"
#include "runtime/generate/serve.h"
#include "tests/tempdir.h"

enum { VOCAB = 113, CONTEXT = 32, MOST = 40, SAMPLES = 4 }; /* of llama-tiny */

struct sample {
    uint32_t id[MOST];
    size_t count;
    enum ds_generate_end end;
};

struct served {
    int in, out, rc;
    struct ds_error err;
    pthread_t thread;
};

static int32_t ids[CONTEXT + 1] = {3, 1, 4, 1, 5}, others[] = {2, 7, 1};
static struct ds_generate_prompt prompt[2];

static void import_model(void)
{
    struct ds_error err = {0};

    tempdir_make();
    cr_assert_eq(ds_hf_import("tests/reference/llama-tiny", tempdir_path("ckpt"), &err), 0, "%s",
                 err.text);
}

TestSuite(serve, .init = import_model, .fini = tempdir_remove);

static struct ds_generate_request *usual(void)
{
    static struct ds_generate_request request; /* too large for a stack */

    prompt[0] = (struct ds_generate_prompt){ids, 5};
    prompt[1] = (struct ds_generate_prompt){others, 3};
    request = (struct ds_generate_request){.max_tokens = 10,
                                           .count = SAMPLES,
                                           .batch = 1,
                                           .ids = VOCAB,
                                           .end = DS_NO_END,
                                           .temperature = 1.0,
                                           .top_p = 1.0,
                                           .prompt = prompt,
                                           .prompts = 1};
    (void)snprintf(request.ckpt, sizeof(request.ckpt), "%s", tempdir_path("ckpt"));
    return &request;
}

static void *serve_thread(void *arg)
{
    struct served *s = arg;

    s->rc = ds_generate_serve(s->in, s->out, 2, &s->err);
    (void)close(s->out);
    return NULL;
}

/* Start one; *to is its input, *from its output. */
static void start(struct served *s, int *to, int *from)
{
    int in[2], out[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, in) == 0 && pipe(out) == 0);
    *s = (struct served){.in = in[1], .out = out[1]};
    *to = in[0];
    *from = out[0];
    cr_assert_eq(pthread_create(&s->thread, NULL, serve_thread, s), 0);
}

static void ask_text(int to, const char *text, size_t len)
{
    unsigned char head[4];

    ds_put_u32(head, (uint32_t)len);
    cr_assert_eq(write(to, head, sizeof(head)), (ssize_t)sizeof(head));
    cr_assert_eq(write(to, text, len), (ssize_t)len);
}

static void ask(int to, const struct ds_generate_request *request)
{
    struct ds_buf text;

    ds_buf_init(&text, 1 << 20);
    cr_assert_eq(ds_generate_request_write(request, &text, NULL), 0);
    ask_text(to, text.data, text.len);
    ds_buf_release(&text);
}

static bool next(int from, struct ds_generate_event *event)
{
    unsigned char bytes[DS_GENERATE_EVENT_BYTES];

    if (read(from, bytes, sizeof(bytes)) != (ssize_t)sizeof(bytes)) /* they are written whole */
        return false;
    cr_assert_eq(ds_generate_event_read(event, bytes, NULL), 0);
    return true;
}

static void tell(int to, uint32_t number)
{
    unsigned char bytes[4];

    ds_put_u32(bytes, number);
    cr_assert_eq(write(to, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
}

/* All of a request that is answered; samples that are `enough` after their first id are ended. */
static void generate(const struct ds_generate_request *request, bool enough, struct sample *sample)
{
    const uint64_t samples = request->prompts * request->count;
    size_t prompts = 0;
    struct ds_generate_event event;
    struct served s;
    int to, from;

    start(&s, &to, &from);
    ask(to, request);
    cr_assert(next(from, &event) && event.kind == DS_GENERATED_LOADED && event.number > 0);
    memset(sample, 0, samples * sizeof(*sample));
    for (uint64_t i = 0; i < samples; i++)
        sample[i].end = DS_END_COUNT;
    for (;;) {
        struct sample *of;

        cr_assert(next(from, &event));
        if (event.kind == DS_GENERATED_DONE)
            break;
        if (event.kind == DS_GENERATED_STEP) {
            cr_assert_gt(request->batch, 1);
            tell(to, DS_GENERATE_GO_ON);
            continue;
        }
        if (event.kind == DS_GENERATED_PROMPT) {
            cr_assert_eq(event.value, request->prompt[prompts++].count);
            continue;
        }
        cr_assert_lt(event.number, samples);
        of = &sample[event.number];
        cr_assert(of->end == DS_END_COUNT && event.number / request->count < prompts);
        if (event.kind == DS_GENERATED_END) {
            of->end = (enum ds_generate_end)event.value;
            continue;
        }
        cr_assert(event.kind == DS_GENERATED_TOKEN && of->count < MOST);
        of->id[of->count++] = event.value;
        if (enough && of->count == 1)
            tell(to, (uint32_t)event.number);
    }
    cr_assert_eq(prompts, request->prompts);
    cr_assert_not(next(from, &event));
    cr_assert_eq(pthread_join(s.thread, NULL), 0);
    cr_assert_eq(s.rc, 0, "%s", s.err.text);
    (void)close(to);
    (void)close(from);
    (void)close(s.in);
}

Test(serve, samples_do_not_depend_on_each_other)
{
    struct ds_generate_request *request = usual();
    struct sample all[SAMPLES], again[SAMPLES], other[SAMPLES];

    generate(request, false, all);
    request->count = 2;
    generate(request, false, again);
    cr_assert_eq(memcmp(all, again, 2 * sizeof(all[0])), 0);
    for (size_t i = 0; i < SAMPLES; i++) {
        cr_assert(all[i].count == 10 && all[i].end == DS_END_TOKENS);
        for (size_t j = 0; j < i; j++)
            cr_assert(memcmp(&all[i], &all[j], sizeof(all[0])) != 0);
    }
    request->seed = 1;
    generate(request, false, other);
    cr_assert(memcmp(all, other, sizeof(all[0])) != 0);
    request->temperature = 0.0; /* then neither seed nor sample matters */
    generate(request, false, other);
    request->seed = 2;
    generate(request, false, again);
    cr_assert_eq(memcmp(&other[0], &other[1], sizeof(other[0])), 0);
    cr_assert_eq(memcmp(other, again, 2 * sizeof(other[0])), 0);
}

Test(serve, what_a_sample_ends_for)
{
    struct ds_generate_request *request = usual();
    struct sample sample[SAMPLES];
    uint32_t third;

    request->count = 1;
    generate(request, false, sample);
    third = sample[0].id[2];
    for (size_t i = 0; i < 2; i++)
        cr_assert(sample[0].id[i] != third); /* or the next lines mean something else */
    request->end = third;
    generate(request, false, sample);
    cr_assert(sample[0].end == DS_END_TEXT && sample[0].count == 2);
    request->end = DS_NO_END;
    request->temperature = 0.0;
    generate(request, false, sample);
    request->ids = sample[0].id[0]; /* the likeliest is one that may not be given */
    cr_assert(request->ids > 1);
    generate(request, false, sample);
    for (size_t i = 0; i < sample[0].count; i++)
        cr_assert(sample[0].id[i] < request->ids);
    request->ids = VOCAB;
    request->max_tokens = MOST;
    generate(request, false, sample);
    cr_assert(sample[0].end == DS_END_CONTEXT && sample[0].count == CONTEXT - 5 + 1);
    prompt[0].count = CONTEXT;
    generate(request, false, sample);
    cr_assert(sample[0].end == DS_END_CONTEXT && sample[0].count == 1);
    request->max_tokens = 1;
    generate(request, false, sample);
    cr_assert(sample[0].end == DS_END_TOKENS && sample[0].count == 1);
}

/* Which ids are made before it is heard is left open; the samples behind are what they would be. */
Test(serve, enough_of_a_sample)
{
    struct ds_generate_request *request = usual();
    struct sample whole[SAMPLES], cut[SAMPLES];

    request->max_tokens = CONTEXT - 5;
    generate(request, false, whole);
    generate(request, true, cut);
    for (size_t i = 0; i < SAMPLES; i++) {
        cr_assert(cut[i].end == DS_END_STOP || cut[i].count == whole[i].count);
        cr_assert_eq(memcmp(cut[i].id, whole[i].id, cut[i].count * sizeof(cut[i].id[0])), 0);
    }
}

/* Two prompts, more samples than seats: those of one after the other, whose prompts are read into one
 * sequence or copied from another; and which end first is no matter. */
Test(serve, batches_of_samples)
{
    struct ds_generate_request *request = usual();
    struct sample alone[2 * SAMPLES], together[2 * SAMPLES], second[SAMPLES], cut[2 * SAMPLES];

    request->prompts = 2;
    generate(request, false, alone);
    request->end = alone[1].id[6]; /* so that seats are free at different times */
    generate(request, false, alone);
    cr_assert(alone[1].count <= 6 && alone[1].end == DS_END_TEXT);
    for (request->batch = 2; request->batch <= 16; request->batch++) {
        generate(request, false, together);
        for (size_t i = 0; i < 2 * SAMPLES; i++)
            cr_assert(alone[i].end == together[i].end && alone[i].count == together[i].count &&
                          memcmp(alone[i].id, together[i].id,
                                 alone[i].count * sizeof(alone[i].id[0])) == 0,
                      "sample %zu of a batch of %d", i, (int)request->batch);
        generate(request, true, cut);
        for (size_t i = 0; i < 2 * SAMPLES; i++)
            cr_assert(cut[i].count == 1 && cut[i].end == DS_END_STOP,
                      "sample %zu of a batch of %d has %zu ids", i, (int)request->batch,
                      cut[i].count);
    }
    request->batch = 1;
    prompt[0] = prompt[1]; /* a prompt's samples do not depend on those before */
    request->prompts = 1;
    generate(request, false, second);
    cr_assert_eq(memcmp(second, alone + SAMPLES, sizeof(second)), 0);
}

static int served(const struct ds_generate_request *request, const char *text, struct ds_error *err)
{
    struct ds_generate_event event;
    struct served s;
    int to, from;

    start(&s, &to, &from);
    if (request != NULL)
        ask(to, request);
    else
        ask_text(to, text, strlen(text));
    while (next(from, &event))
        cr_assert(event.kind != DS_GENERATED_END);
    cr_assert_eq(pthread_join(s.thread, NULL), 0);
    (void)close(to);
    (void)close(from);
    (void)close(s.in);
    *err = s.err;
    return s.rc;
}

Test(serve, what_is_refused)
{
    struct ds_generate_request *request = usual();
    struct ds_error err;

    cr_assert_eq(served(NULL, "dsrun-generate 2\n", &err), -EPROTO);
    prompt[0].count = CONTEXT + 1;
    cr_assert_eq(served(request, NULL, &err), -EDOM);
    cr_assert(strstr(err.text, "33 tokens, and the model's context is 32") != NULL, "%s", err.text);
    prompt[0].count = 5;
    ids[4] = VOCAB;
    cr_assert_eq(served(request, NULL, &err), -EDOM);
    cr_assert(strstr(err.text, "token 113 is not of the model's") != NULL, "%s", err.text);
    ids[4] = 5;
    (void)snprintf(request->ckpt, sizeof(request->ckpt), "%s", tempdir_path("none"));
    cr_assert_eq(served(request, NULL, &err), -ENOENT);
}

/* dsrun was killed: before it had asked, and while samples are made. */
Test(serve, ends_when_nobody_is_there)
{
    struct ds_generate_request *request = usual();
    struct ds_generate_event event;
    struct served s;
    int to, from;

    start(&s, &to, &from);
    cr_assert_eq(write(to, "ab", 2), 2);
    (void)close(to);
    cr_assert_eq(pthread_join(s.thread, NULL), 0);
    cr_assert_eq(s.rc, -ECANCELED);
    (void)close(from);
    (void)close(s.in);
    request->count = DS_MAX_SAMPLES;
    start(&s, &to, &from);
    ask(to, request);
    for (size_t i = 0; i < 20; i++)
        cr_assert(next(from, &event));
    (void)close(to);
    while (next(from, &event))
        ;
    cr_assert_eq(pthread_join(s.thread, NULL), 0);
    cr_assert_eq(s.rc, -ECANCELED);
    (void)close(from);
    (void)close(s.in);
}
