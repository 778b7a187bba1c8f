/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_request.c - what a worker is asked to generate, and what it tells: each way to be wrong.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "runtime/generate/request.h"

#define HEAD "dsrun-generate 2\nckpt /c d\n"
#define FROM_COUNT(temperature, top_p, prompt)                                                     \
    "count 3\nbatch 2\nids 97\nend 4294967295\ntemperature " temperature "\ntop_p " top_p          \
    "\nprompt" prompt "\n"
#define NUMBERS(seed) "cuda 0\ntype 1\nthreads 2\nmax_tokens 5\ntop_k 40\nseed " seed "\n"
#define REST          FROM_COUNT("0.5", "0.75", " 7 8")
#define GOOD          HEAD NUMBERS("18446744073709551615") REST

static struct ds_generate_request request; /* too large for a stack */

Test(request, what_is_written_is_read)
{
    static struct ds_generate_request back;
    int32_t ids[] = {0, 16777215, 5};
    struct ds_generate_prompt prompt[] = {{ids, 3}, {ids + 1, 1}, {ids, 2}};
    struct ds_buf out;
    struct ds_error err = {0};

    request = (struct ds_generate_request){.ckpt = "/a b/step-1",
                                           .cuda = 1,
                                           .type = DS_BF16,
                                           .threads = 3,
                                           .max_tokens = 4,
                                           .top_k = 5,
                                           .seed = UINT64_MAX,
                                           .count = 6,
                                           .batch = 256,
                                           .ids = 7,
                                           .end = DS_NO_END,
                                           .temperature = 0.1,
                                           .top_p = 1.0 / 3.0,
                                           .prompt = prompt,
                                           .prompts = 3};
    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_generate_request_write(&request, &out, &err), 0, "%s", err.text);
    cr_assert_eq(ds_generate_request_parse(&back, out.data, out.len, &err), 0, "%s", err.text);
    cr_assert_eq(back.prompts, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(back.prompt[i].count, prompt[i].count);
        cr_assert_eq(
            memcmp(back.prompt[i].ids, prompt[i].ids, prompt[i].count * sizeof(*prompt[i].ids)), 0);
    }
    ds_generate_request_release(&back);
    back.prompt = request.prompt;
    back.prompts = request.prompts;
    cr_assert_eq(memcmp(&back, &request, sizeof(back)), 0);
    for (size_t cut = 0; cut < out.len; cut++) { /* behind a prompt there may be no other */
        int rc = ds_generate_request_parse(&back, out.data, cut, NULL);

        cr_assert_eq(rc,
                     cut >= 1 && strstr(out.data, "\nprompt") + 1 < out.data + cut &&
                             out.data[cut - 1] == '\n'
                         ? 0
                         : -EPROTO,
                     "cut at %zu", cut);
        if (rc == 0)
            ds_generate_request_release(&back);
    }
    ds_buf_release(&out);
}

Test(request, what_cannot_be_written)
{
    int32_t ids[] = {1};
    struct ds_generate_prompt prompt = {ids, 1};
    struct ds_buf out;

    request = (struct ds_generate_request){.ckpt = "", .prompt = &prompt, .prompts = 1};
    ds_buf_init(&out, 16);
    cr_assert_eq(ds_generate_request_write(&request, &out, NULL), -EINVAL);
    memcpy(request.ckpt, "a\nb", 4);
    cr_assert_eq(ds_generate_request_write(&request, &out, NULL), -EINVAL);
    memcpy(request.ckpt, "ab", 3);
    cr_assert_eq(ds_generate_request_write(&request, &out, NULL), -ENOBUFS);
    ds_buf_release(&out);
}

/* clang-format off */
static const struct {
    const char *text, *says; /* NULL: nothing, it is good */
} requests[] = {
    {GOOD,                                                         NULL},
    {HEAD NUMBERS("0") FROM_COUNT("0", "1", " 0"),                 NULL},
    {"",                                                           "nothing of this version"},
    {"dsrun-generate 3\n",                                         "nothing of this version"},
    {"dsrun-generate 2\n" NUMBERS("0") REST,                       "malformed ckpt"},
    {"dsrun-generate 2\nckpt \n" NUMBERS("0") REST,                "malformed ckpt"},
    {HEAD NUMBERS("18446744073709551616") REST,                    "malformed seed"},
    {HEAD NUMBERS("-1") REST,                                      "malformed seed"},
    {HEAD NUMBERS("") REST,                                        "malformed seed"},
    {HEAD NUMBERS("1 ") REST,                                      "malformed seed"},
    {HEAD NUMBERS("0000000000000000000000000000000000000001") REST, "malformed seed"},
    {HEAD REST,                                                    "malformed cuda"},
    {HEAD "cuda 2\n",                                              "malformed cuda"},
    {HEAD "cuda 1\ntype 3\n",                                      "malformed type"},
    {HEAD "cuda 1\ntype 1\nthreads 1025\n",                        "malformed threads"},
    {HEAD "cuda 1\ntype 1\nthreads 0\nmax_tokens 0\n",             "malformed max_tokens"},
    {HEAD NUMBERS("0") "count 0\n",                                "malformed count"},
    {HEAD NUMBERS("0") "count 1\nbatch 1\nids 16777217\n",                  "malformed ids"},
    {HEAD NUMBERS("0") FROM_COUNT("inf", "1", " 0"),               "malformed temperature"},
    {HEAD NUMBERS("0") FROM_COUNT("1e400", "1", " 0"),             "malformed temperature"},
    {HEAD NUMBERS("0") FROM_COUNT("-1", "1", " 0"),                "malformed temperature"},
    {HEAD NUMBERS("0") FROM_COUNT("1001", "1", " 0"),              "malformed temperature"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1.5", " 0"),               "malformed top_p"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "0", " 0"),                 "malformed top_p"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1", ""),                   "malformed prompt"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1", " "),                  "malformed prompt"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1", " 1  2"),              "malformed prompt"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1", " 16777216"),          "malformed prompt"},
    {HEAD NUMBERS("0") FROM_COUNT("1", "1", " -1"),                "malformed prompt"},
    {GOOD "more\n",                                                "malformed prompt"},
    {GOOD "prompt 1\nprompt 2 3\n",                                NULL},
    {HEAD NUMBERS("0") "count 1\nbatch 0\n",                       "malformed batch"},
    {HEAD NUMBERS("0") "count 1\nbatch 257\n",                     "malformed batch"},
    {HEAD NUMBERS("0") "count 1000000\nbatch 1\nids 1\nend 0\ntemperature 0\ntop_p 1\nprompt 0\nprompt 0\n", "malformed count"},
};
/* clang-format on */

Test(request, is_read_or_refused_with_a_reason)
{
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        const char *text = requests[i].text, *says = requests[i].says;
        struct ds_error err = {0};
        int rc = ds_generate_request_parse(&request, text, strlen(text), &err);

        cr_assert_eq(rc, says == NULL ? 0 : -EPROTO, "row %zu: %d %s", i, rc, err.text);
        cr_assert(says == NULL || strstr(err.text, says) != NULL, "row %zu: %s", i, err.text);
        cr_assert(says == NULL || request.prompt == NULL);
        ds_generate_request_release(&request);
    }
    cr_assert_eq(ds_generate_request_parse(&request, "dsrun-generate 2\nckpt a\0b\n", 26, NULL),
                 -EPROTO);
}

Test(request, events_are_read_or_refused)
{
    unsigned char bytes[DS_GENERATE_EVENT_BYTES];
    struct ds_generate_event back;
    const struct {
        struct ds_generate_event event;
        int rc;
    } cases[] = {
        {{DS_GENERATED_LOADED, 0, UINT64_MAX}, 0},
        {{DS_GENERATED_TOKEN, DS_MAX_VOCAB - 1, 1}, 0},
        {{DS_GENERATED_END, DS_END_STOP, 1}, 0},
        {{DS_GENERATED_TOKEN, DS_MAX_VOCAB, 1}, -EPROTO},
        {{DS_GENERATED_END, DS_END_COUNT, 1}, -EPROTO},
        {{DS_GENERATED_KINDS, 0, 0}, -EPROTO},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ds_generate_event_write(cases[i].event, bytes);
        cr_assert_eq(ds_generate_event_read(&back, bytes, NULL), cases[i].rc, "row %zu", i);
        cr_assert(back.kind == cases[i].event.kind && back.value == cases[i].event.value &&
                  back.number == cases[i].event.number);
    }
}
