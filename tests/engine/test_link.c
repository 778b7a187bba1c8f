/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_link - a worker's line from both ends, and the lines the monitor writes on it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json_read.h"
#include "base/rendezvous.h"
#include "base/wire.h"
#include "runtime/link.h"
#include "runtime/monitor.h"

static int agent; /* our end */
static struct ds_link *line;
static struct ds_buf spec, in;

static void put(enum ds_wire_type type, const void *bytes, size_t len)
{
    struct ds_buf out;
    const struct ds_frame frame = {.type = (uint16_t)type, .payload = bytes, .len = (uint32_t)len};

    ds_buf_init(&out, 1 << 21);
    cr_assert_eq(ds_wire_encode(&out, &frame), 0);
    cr_assert_eq(write(agent, out.data, out.len), (ssize_t)out.len);
    ds_buf_release(&out);
}

static void put_signal(enum ds_wire_signal signum)
{
    uint8_t payload[4];

    ds_put_u32(payload, signum);
    put(DS_WIRE_SIGNAL, payload, sizeof(payload));
}

/* The next frame the worker sent; payload as text. */
static struct ds_frame next(char text[1024])
{
    struct ds_frame frame;
    size_t used;

    while (ds_wire_decode(in.data, in.len, &frame, &used, NULL) == 0) {
        ssize_t got = recv(agent, ds_buf_reserve(&in, 4096), 4096, 0);

        cr_assert_gt(got, 0, "the worker's end is closed");
        ds_buf_commit(&in, (size_t)got);
    }
    cr_assert_lt(frame.len, 1024);
    memcpy(text, frame.payload, frame.len);
    text[frame.len] = '\0';
    frame.payload = text;
    ds_buf_consume(&in, used);
    return frame;
}

static int other_end(void)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    agent = pair[0];
    ds_buf_init(&spec, 1 << 20);
    ds_buf_init(&in, 1 << 20);
    return pair[1];
}

static void open_line(void)
{
    int fd = other_end();

    put(DS_WIRE_SPEC, "the job", 7);
    cr_assert_eq(ds_link_open(&line, fd, 3, &spec, NULL), 0);
}

static void close_line(void)
{
    ds_link_close(line);
    (void)close(agent);
    ds_buf_release(&spec);
    ds_buf_release(&in);
}

#define FIXTURE .init = open_line, .fini = close_line, .timeout = 20

static void wait_until(const atomic_int *value, int wanted)
{
    for (int i = 0; i < 10000 && atomic_load(value) != wanted; i++)
        (void)usleep(1000);
    cr_assert_eq(atomic_load(value), wanted);
}

static void count_call(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

Test(link, the_first_frame_is_the_job, FIXTURE)
{
    cr_assert_str_eq(ds_buf_text(&spec), "the job");
    cr_assert_not(ds_link_stop_requested(line));
}

Test(link, reports_carry_the_rank_and_the_text, FIXTURE)
{
    char text[1024];
    struct ds_frame frame;

    cr_assert_eq(ds_link_metric(line, "{\"step\":1}", NULL), 0);
    cr_assert_eq(ds_link_event(line, "{\"event\":\"x\"}", NULL), 0);
    cr_assert_eq(ds_link_beat(line, 77, NULL), 0);
    frame = next(text);
    cr_assert(frame.type == DS_WIRE_METRIC && frame.rank == 3);
    cr_assert_str_eq(text, "{\"step\":1}");
    frame = next(text);
    cr_assert_eq(frame.type, DS_WIRE_EVENT);
    frame = next(text);
    cr_assert(frame.type == DS_WIRE_BEAT && frame.flags == 0 && ds_get_u64(text) == 77);
}

Test(link, a_stop_frame_sets_the_flag, FIXTURE)
{
    put_signal(DS_SIGNAL_STOP);
    for (int i = 0; i < 10000 && !ds_link_stop_requested(line); i++)
        (void)usleep(1000);
    cr_assert(ds_link_stop_requested(line));
}

Test(link, sigterm_counts_as_a_stop, FIXTURE)
{
    cr_assert_eq(raise(SIGTERM), 0);
    cr_assert(ds_link_stop_requested(line));
}

Test(link, an_abort_calls_once_even_when_the_line_then_ends, FIXTURE)
{
    atomic_int calls = 0;

    ds_link_on_abort(line, count_call, &calls);
    put_signal(DS_SIGNAL_ABORT);
    wait_until(&calls, 1);
    (void)shutdown(agent, SHUT_RDWR);
    cr_assert(ds_link_wait_over(line, 5000));
    cr_assert_eq(ds_link_flush(line, NULL), -ECANCELED);
    cr_assert_eq(atomic_load(&calls), 1);
}

Test(link, who_comes_too_late_for_the_abort_is_told_at_once, FIXTURE)
{
    atomic_int calls = 0;

    cr_assert_not(ds_link_wait_over(line, 5));
    (void)shutdown(agent, SHUT_RDWR);
    cr_assert(ds_link_wait_over(line, 5000));
    ds_link_on_abort(line, count_call, &calls);
    cr_assert_eq(atomic_load(&calls), 1);
}

Test(link, closing_ones_own_end_is_no_abort, FIXTURE)
{
    atomic_int calls = 0;

    ds_link_on_abort(line, count_call, &calls);
    ds_link_close(line);
    line = NULL;
    cr_assert_eq(atomic_load(&calls), 0);
}

static atomic_int flushed;

static void *flush_main(void *arg)
{
    (void)arg;
    atomic_store(&flushed, ds_link_flush(line, NULL) == 0 ? 1 : -1);
    return NULL;
}

Test(link, a_flush_waits_for_its_own_answer, FIXTURE)
{
    char text[1024];
    pthread_t thread;
    struct ds_frame frame;

    cr_assert_eq(pthread_create(&thread, NULL, flush_main, NULL), 0);
    frame = next(text);
    cr_assert_eq(frame.flags, DS_WIRE_WANT_ACK);
    (void)usleep(20000);
    cr_assert_eq(atomic_load(&flushed), 0);
    put(DS_WIRE_ACK, NULL, 0);
    wait_until(&flushed, 1);
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

Test(link, malformed_frames_end_the_line, FIXTURE)
{
    atomic_int calls = 0;
    static const unsigned char noise[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    ds_link_on_abort(line, count_call, &calls);
    cr_assert_eq(write(agent, noise, sizeof(noise)), (ssize_t)sizeof(noise));
    wait_until(&calls, 1);
}

Test(link_start, another_first_frame_or_none_is_an_error, .timeout = 20)
{
    int fd = other_end();
    struct ds_error err = {0};

    put(DS_WIRE_ACK, NULL, 0);
    cr_assert_eq(ds_link_open(&line, fd, 0, &spec, &err), -EPROTO);
    cr_assert_null(line);
    close_line();
    fd = other_end();
    (void)shutdown(agent, SHUT_WR);
    cr_assert_eq(ds_link_open(&line, fd, 0, &spec, &err), -ECANCELED);
    close_line();
}

Test(link_start, a_job_in_pieces_is_put_together, .timeout = 20)
{
    static char large[200000];
    int fd = other_end();

    memset(large, 'x', sizeof(large));
    (void)setsockopt(agent, SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int));
    put(DS_WIRE_SPEC, large, sizeof(large));
    put_signal(DS_SIGNAL_STOP); /* read by the thread, from the bytes that came along */
    cr_assert_eq(ds_link_open(&line, fd, 0, &spec, NULL), 0);
    cr_assert_eq(spec.len, sizeof(large));
    for (int i = 0; i < 10000 && !ds_link_stop_requested(line); i++)
        (void)usleep(1000);
    cr_assert(ds_link_stop_requested(line));
    close_line();
}

static json_t *next_json(enum ds_wire_type type)
{
    char text[1024];
    struct ds_frame frame = next(text);
    json_t *json = ds_json_parse(text, frame.len, NULL);

    cr_assert_eq(frame.type, type);
    cr_assert_not_null(json, "%s", text);
    return json;
}

static double number(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);

    cr_assert(json_is_number(value), "%s", key);
    return json_number_value(value);
}

Test(monitor, a_step_has_every_field_of_the_contract, FIXTURE)
{
    static const char *const keys[] = {"step",         "loss",    "grad_norm", "lr",      "tokens",
                                       "tokens_per_s", "step_ms", "mfu",       "skipped", "time"};
    struct ds_monitor_step step = {.step = 7,
                                   .tokens = 4096,
                                   .skipped = 1,
                                   .loss = 1.0 / 3.0,
                                   .grad_norm = 2.5,
                                   .lr = 1e-3,
                                   .tokens_per_s = 1e4,
                                   .step_ms = 12.5,
                                   .mfu = 0.625};
    struct ds_monitor monitor;
    json_t *json;

    cr_assert_eq(ds_monitor_init(&monitor, line, NULL), 0);
    cr_assert_eq(ds_monitor_step(&monitor, &step, NULL), 0);
    json = next_json(DS_WIRE_METRIC);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        cr_assert_not_null(json_object_get(json, keys[i]), "%s", keys[i]);
    cr_assert_eq(json_object_size(json), sizeof(keys) / sizeof(keys[0]));
    cr_assert(fabs(number(json, "loss") - 1.0 / 3.0) < 1e-11);
    cr_assert_eq(number(json, "tokens"), 4096.0);
    cr_assert_eq(number(json, "mfu"), 0.625);
    json_decref(json);
    step.loss = (double)NAN;
    cr_assert_eq(ds_monitor_step(&monitor, &step, NULL), 0);
    json = next_json(DS_WIRE_METRIC);
    cr_assert(json_is_null(json_object_get(json, "loss")));
    json_decref(json);
    ds_monitor_release(&monitor);
}

Test(monitor, events_say_their_name, FIXTURE)
{
    const struct ds_monitor_start start = {.device = "cpu", .world = 2, .threads = 1};
    const struct ds_monitor_saved saved = {
        .step = 5, .bytes = 99, .ms = 2.0, .stall_ms = 1.0, .path = "checkpoints/x"};
    struct ds_monitor monitor;
    static const char *const names[] = {"start",      "resumed", "resumed", "ready",
                                        "checkpoint", "warning", "stop"};

    cr_assert_eq(ds_monitor_init(&monitor, line, NULL), 0);
    cr_assert_eq(ds_monitor_start(&monitor, &start, NULL), 0);
    cr_assert_eq(ds_monitor_resumed(&monitor, 0, NULL, NULL), 0);
    cr_assert_eq(ds_monitor_resumed(&monitor, 5, "a\"b", NULL), 0);
    cr_assert_eq(ds_monitor_ready(&monitor, 5, 1.5, NULL), 0);
    cr_assert_eq(ds_monitor_checkpoint(&monitor, &saved, NULL), 0);
    cr_assert_eq(ds_monitor_warning(&monitor, "beware", NULL), 0);
    cr_assert_eq(ds_monitor_end(&monitor, "stop", 6, NULL, NULL), 0);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        json_t *json = next_json(DS_WIRE_EVENT);

        cr_assert_str_eq(json_string_value(json_object_get(json, "event")), names[i]);
        if (i == 1)
            cr_assert(json_is_null(json_object_get(json, "from")));
        if (i == 2)
            cr_assert_str_eq(json_string_value(json_object_get(json, "from")), "a\"b");
        json_decref(json);
    }
    ds_monitor_release(&monitor);
}

Test(monitor, evaluations_are_metrics_and_other_ranks_are_silent, FIXTURE)
{
    struct ds_valid_set sets[] = {{.name = "wiki", .loss = 1.5}, {.name = "code", .loss = 1.0}};
    const struct ds_valid one = {1, &(struct ds_valid_set){.loss = 1.25}}, two = {2, sets};
    struct ds_monitor monitor, silent;
    json_t *json;

    cr_assert_eq(ds_monitor_init(&silent, NULL, NULL), 0);
    cr_assert_eq(ds_monitor_warning(&silent, "unheard", NULL), 0);
    cr_assert_eq(ds_monitor_valid(&silent, 1, 1.0, &one, NULL), 0);
    cr_assert_eq(ds_monitor_init(&monitor, line, NULL), 0);
    cr_assert_eq(ds_monitor_valid(&monitor, 50, 1.25, &one, NULL), 0);
    json = next_json(DS_WIRE_METRIC);
    cr_assert_eq(number(json, "step"), 50.0);
    cr_assert_eq(number(json, "valid_loss"), 1.25);
    cr_assert_eq(json_object_size(json), 3, "step, loss and time");
    json_decref(json);
    cr_assert_eq(ds_monitor_valid(&monitor, 60, 1.25, &two, NULL), 0);
    json = next_json(DS_WIRE_METRIC);
    cr_assert(number(json, "valid_loss/wiki") == 1.5 && number(json, "valid_loss/code") == 1.0);
    json_decref(json);
    ds_monitor_release(&monitor);
    ds_monitor_release(&silent);
}

/* --- rendezvous ------------------------------------------------------------------------------- */

static struct ds_buf answer;

static void *ask_key(void *result)
{
    *(int *)result = ds_link_get(line, DS_JOB_KEY, 0, 20000, &answer, NULL);
    return NULL;
}

static pthread_t start_asking(int *result)
{
    pthread_t thread;
    char text[1024];
    struct ds_frame frame;
    struct ds_store_note note;

    ds_buf_init(&answer, 4096);
    cr_assert_eq(pthread_create(&thread, NULL, ask_key, result), 0);
    frame = next(text);
    cr_assert_eq(frame.type, DS_WIRE_STORE);
    cr_assert_eq(frame.rank, 3);
    cr_assert_eq(ds_store_note_get(frame.payload, frame.len, &note, NULL), 0);
    cr_assert_eq(note.what, DS_STORE_GET);
    cr_assert_eq(note.count, 0);
    cr_assert_eq(memcmp(note.key, "job/key", note.key_bytes), 0);
    return thread;
}

Test(link, a_question_waits_for_its_answer, FIXTURE)
{
    int rc = 1;
    pthread_t thread = start_asking(&rc);

    put(DS_WIRE_STORE, "the answer", 10);
    (void)pthread_join(thread, NULL);
    cr_assert_eq(rc, 0);
    cr_assert_str_eq(ds_buf_text(&answer), "the answer");
    put(DS_WIRE_STORE, "nobody asked", 12);
    ds_buf_release(&answer);
}

Test(link, a_question_ends_with_the_line, FIXTURE)
{
    int rc = 1;
    pthread_t thread = start_asking(&rc);

    put_signal(DS_SIGNAL_ABORT);
    (void)pthread_join(thread, NULL);
    cr_assert_eq(rc, -ECANCELED);
    ds_buf_release(&answer);
}

Test(link, a_question_ends_in_time, FIXTURE)
{
    struct ds_error err = {0};

    ds_buf_init(&answer, 4096);
    cr_assert_eq(ds_link_get(line, "comm/", 4, 10, &answer, &err), -ETIMEDOUT);
    cr_assert(strstr(err.text, "'comm/' was not answered within 10 ms") != NULL);
    ds_buf_release(&answer);
}

/* An answer of one entry from the launcher's side. */
static void put_answer(uint32_t count, const char *key, const char *value)
{
    const struct ds_store_note note = {
        .what = DS_STORE_ANSWER, .count = count, .key = key, .key_bytes = (uint32_t)strlen(key)};
    const struct ds_store_entry entry = {.key = key,
                                         .key_bytes = note.key_bytes,
                                         .value = value,
                                         .value_bytes = (uint32_t)strlen(value)};
    struct ds_buf bytes;

    ds_buf_init(&bytes, 4096);
    cr_assert_eq(ds_store_note_put(&bytes, &note), 0);
    cr_assert_eq(ds_store_entry_put(&bytes, &entry), 0);
    put(DS_WIRE_STORE, bytes.data, bytes.len);
    ds_buf_release(&bytes);
}

Test(link, a_late_answer_is_not_taken_for_another, FIXTURE)
{
    int rc = 1;
    pthread_t thread = start_asking(&rc);
    struct ds_store_note note;
    struct ds_store_entry entry;
    size_t at = 0;

    put_answer(0, "job/kez", "another's");
    put_answer(0, "job/ke", "a shorter key's");
    put_answer(1, "job/key", "of a prefix");
    put_answer(0, "job/key", "its own");
    (void)pthread_join(thread, NULL);
    cr_assert_eq(rc, 0);
    cr_assert_eq(ds_store_note_get(answer.data, answer.len, &note, NULL), 0);
    cr_assert(ds_store_entry_next(&note, &at, &entry));
    cr_assert_eq(entry.value_bytes, 7);
    cr_assert_eq(memcmp(entry.value, "its own", 7), 0);
    ds_buf_release(&answer);
}

Test(link, a_key_is_put, FIXTURE)
{
    char text[1024];
    struct ds_frame frame;
    struct ds_store_note note;

    cr_assert_eq(ds_link_put(line, "comm/3", "\0\1", 2, NULL), 0);
    frame = next(text);
    cr_assert_eq(ds_store_note_get(frame.payload, frame.len, &note, NULL), 0);
    cr_assert_eq(note.what, DS_STORE_PUT);
    cr_assert_eq(note.rest_bytes, 2);
    cr_assert_eq(memcmp(note.rest, "\0\1", 2), 0);
}
