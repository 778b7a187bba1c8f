/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_peers - a worker gets the job's key and everybody's record from an agent that plays its part.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/rendezvous.h"
#include "base/wire.h"
#include "runtime/peers.h"

enum { WORLD = 3, RECORD = 8 };

struct play { /* what the agent answers, in turn; "" ends */
    int fd;
    const char *key;
    size_t key_bytes;
    const char *names[WORLD + 1]; /* of the gathering */
    size_t value_bytes;
};

static void answer(int fd, const struct ds_store_note *asked, const struct play *play)
{
    struct ds_store_note note = {.what = DS_STORE_ANSWER,
                                 .count = asked->count,
                                 .key = asked->key,
                                 .key_bytes = asked->key_bytes};
    struct ds_frame frame = {.type = DS_WIRE_STORE, .rank = 1};
    struct ds_buf entries, payload, bytes;

    ds_buf_init(&entries, 1 << 16);
    ds_buf_init(&payload, 1 << 16);
    ds_buf_init(&bytes, 1 << 16);
    if (asked->count == 0)
        (void)ds_store_entry_put(
            &entries, &(struct ds_store_entry){.key = DS_JOB_KEY,
                                               .key_bytes = 7,
                                               .value = play->key,
                                               .value_bytes = (uint32_t)play->key_bytes});
    for (size_t i = 0; asked->count > 0 && play->names[i] != NULL; i++)
        (void)ds_store_entry_put(
            &entries, &(struct ds_store_entry){.key = play->names[i],
                                               .key_bytes = (uint32_t)strlen(play->names[i]),
                                               .value = "abcdefghijkl",
                                               .value_bytes = (uint32_t)play->value_bytes});
    note.rest = entries.data;
    note.rest_bytes = (uint32_t)entries.len;
    (void)ds_store_note_put(&payload, &note);
    frame.payload = payload.data;
    frame.len = (uint32_t)payload.len;
    (void)ds_wire_encode(&bytes, &frame);
    cr_assert_eq(send(fd, bytes.data, bytes.len, MSG_NOSIGNAL), (ssize_t)bytes.len);
    ds_buf_release(&entries);
    ds_buf_release(&payload);
    ds_buf_release(&bytes);
}

static void *agent(void *arg)
{
    const struct play *play = arg;
    struct ds_buf in;
    ssize_t n = 1;

    ds_buf_init(&in, 1 << 20);
    while (n > 0) {
        struct ds_store_note note;
        struct ds_frame frame;
        size_t used;

        while (ds_wire_decode(in.data, in.len, &frame, &used, NULL) > 0) {
            if (frame.type == DS_WIRE_STORE &&
                ds_store_note_get(frame.payload, frame.len, &note, NULL) == 0 &&
                note.what == DS_STORE_GET)
                answer(play->fd, &note, play);
            ds_buf_consume(&in, used);
        }
        n = recv(play->fd, ds_buf_reserve(&in, 4096), 4096, 0);
        if (n > 0)
            ds_buf_commit(&in, (size_t)n);
    }
    ds_buf_release(&in);
    return NULL;
}

/* Meet and gather with an agent that answers by `play`. */
static int meet(struct play *play, char all[WORLD * RECORD], struct ds_error *err)
{
    static const char spec[] = "job";
    const struct ds_frame frame = {.type = DS_WIRE_SPEC, .payload = spec, .len = 3};
    struct ds_buf bytes, job;
    struct ds_link *link = NULL;
    struct ds_peers meet;
    pthread_t thread;
    int pair[2], rc;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ds_buf_init(&bytes, 4096);
    ds_buf_init(&job, 4096);
    (void)ds_wire_encode(&bytes, &frame);
    cr_assert_eq(write(pair[0], bytes.data, bytes.len), (ssize_t)bytes.len);
    cr_assert_eq(ds_link_open(&link, pair[1], 1, &job, NULL), 0);
    play->fd = pair[0];
    cr_assert_eq(pthread_create(&thread, NULL, agent, play), 0);
    rc = ds_peers_init(&meet, link, 1, WORLD, 7, "127.0.0.1", err);
    if (rc == 0) {
        cr_assert_eq(meet.comm.node, 7);
        cr_assert_str_eq(meet.comm.address, "127.0.0.1");
        cr_assert_eq(memcmp(meet.comm.key, play->key, DS_COMM_KEY_BYTES), 0);
        rc = meet.comm.gather(meet.comm.user, "12345678", RECORD, all, err);
    }
    ds_peers_release(&meet);
    (void)shutdown(pair[1], SHUT_RDWR);
    (void)pthread_join(thread, NULL);
    ds_link_close(link);
    (void)close(pair[0]);
    ds_buf_release(&bytes);
    ds_buf_release(&job);
    return rc;
}

static const char key[] = "0123456789abcdef0123456789abcdef";

Test(meet, everybody_s_record_by_rank)
{
    struct play play = {.key = key,
                        .key_bytes = 32,
                        .names = {"comm/2", "comm/0", "comm/1"},
                        .value_bytes = RECORD};
    char all[WORLD * RECORD];

    cr_assert_eq(meet(&play, all, NULL), 0);
    cr_assert_eq(memcmp(all, "abcdefghabcdefghabcdefgh", sizeof(all)), 0);
}

Test(meet, answers_that_do_not_fit)
{
    static const struct play plays[] = {
        {.key = key, .key_bytes = 31, .names = {"comm/0", "comm/1", "comm/2"}, .value_bytes = 8},
        {.key = key, .key_bytes = 32, .names = {"comm/0", "comm/1", "comm/2"}, .value_bytes = 9},
        {.key = key, .key_bytes = 32, .names = {"comm/0", "comm/1", "comm/3"}, .value_bytes = 8},
        {.key = key, .key_bytes = 32, .names = {"comm/0", "comm/1", "comm/"}, .value_bytes = 8},
        {.key = key, .key_bytes = 32, .names = {"comm/0", "comm/1", "comm/2x"}, .value_bytes = 8},
        {.key = key,
         .key_bytes = 32,
         .names = {"comm/0", "comm/1", "comm/99999999999"},
         .value_bytes = 8},
    };
    char all[WORLD * RECORD];

    for (size_t i = 0; i < sizeof(plays) / sizeof(plays[0]); i++) {
        struct play play = plays[i];
        struct ds_error err = {0};

        cr_assert_eq(meet(&play, all, &err), -EPROTO, "play %zu", i);
        cr_assert(err.text[0] != '\0');
    }
}
