/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_seal.c - two seals joined by hand: what gets through, and that nothing else does.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "launcher/remote/seal.h"

static const uint8_t key[DS_SEAL_KEY_BYTES] = {1, 2, 3};
static const uint8_t other_key[DS_SEAL_KEY_BYTES] = {1, 2, 4};

enum { HELLO = 40, HEADER = 24, TAG = 17 };

/* Everything that waits in `from` to `to`, `step` bytes at a time. */
static int carry(struct ds_seal *from, struct ds_seal *to, size_t step, struct ds_error *err)
{
    int rc = 0;

    while (rc == 0 && from->out.len > 0) {
        size_t n = from->out.len < step ? from->out.len : step;

        rc = ds_seal_feed(to, from->out.data, n, err);
        ds_buf_consume(&from->out, n);
    }
    return rc;
}

static int shake(struct ds_seal *client, struct ds_seal *server, size_t step, struct ds_error *err)
{
    int rc = carry(client, server, step, err);

    if (rc == 0)
        rc = carry(server, client, step, err);
    return rc == 0 ? carry(client, server, step, err) : rc;
}

static void start(struct ds_seal *client, struct ds_seal *server, const uint8_t *theirs)
{
    cr_assert_eq(ds_seal_init(client, theirs, "node1", NULL), 0);
    cr_assert_eq(ds_seal_init(server, key, NULL, NULL), 0);
}

static void stop(struct ds_seal *client, struct ds_seal *server)
{
    ds_seal_release(client);
    ds_seal_release(server);
}

Test(seal, both_ways)
{
    static const size_t steps[] = {1, 7, 1000, SIZE_MAX};

    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct ds_seal client, server;

        start(&client, &server, key);
        cr_assert_eq(ds_seal_put(&client, "x", 1), -EAGAIN, "nothing is said before the proof");
        cr_assert_eq(shake(&client, &server, steps[i], NULL), 0);
        cr_assert(client.state == DS_SEAL_OPEN && server.state == DS_SEAL_OPEN);
        cr_assert_str_eq(server.identity, "node1");
        cr_assert_eq(ds_seal_put(&client, "up", 2), 0);
        cr_assert_eq(ds_seal_put(&client, "wards", 5), 0);
        cr_assert_eq(ds_seal_put(&server, "down", 4), 0);
        cr_assert_eq(carry(&client, &server, steps[i], NULL), 0);
        cr_assert_eq(carry(&server, &client, steps[i], NULL), 0);
        cr_assert(server.plain.len == 7 && memcmp(server.plain.data, "upwards", 7) == 0);
        cr_assert(client.plain.len == 4 && memcmp(client.plain.data, "down", 4) == 0);
        stop(&client, &server);
    }
}

Test(seal, nothing_is_readable)
{
    static const char secret[] = "attack at dawn, attack at dawn";
    struct ds_seal client, server;

    start(&client, &server, key);
    cr_assert_eq(shake(&client, &server, SIZE_MAX, NULL), 0);
    cr_assert_eq(ds_seal_put(&client, secret, sizeof(secret)), 0);
    cr_assert_null(memmem(client.out.data, client.out.len, secret, 8));
    stop(&client, &server);
}

Test(seal, wrong_key_both_sides_notice)
{
    struct ds_seal client, server;
    struct ds_error err = {0};
    char proof[HEADER + 4 + TAG] = {0};

    start(&client, &server, other_key);
    cr_assert_eq(shake(&client, &server, SIZE_MAX, &err), -EACCES);
    cr_assert_not_null(strstr(err.text, "does not have this job's key"));
    cr_assert(client.state == DS_SEAL_BROKEN && client.out.len == 0, "the client says no more");
    cr_assert_neq(server.state, DS_SEAL_OPEN);
    ds_put_u32(proof + HEADER, TAG);
    cr_assert_eq(ds_seal_feed(&server, proof, sizeof(proof), &err), -EACCES);
    cr_assert_eq(server.plain.len, 0);
    cr_assert_eq(ds_seal_feed(&server, "x", 1, NULL), -EPROTO, "it stays broken");
    stop(&client, &server);
}

Test(seal, a_recording_opens_nothing)
{
    struct ds_seal client, server, again;
    char hello[HELLO], proof[256];
    size_t proof_len;

    start(&client, &server, key);
    memcpy(hello, client.out.data, sizeof(hello));
    cr_assert_eq(carry(&client, &server, SIZE_MAX, NULL), 0);
    cr_assert_eq(carry(&server, &client, SIZE_MAX, NULL), 0);
    proof_len = client.out.len;
    cr_assert_leq(proof_len, sizeof(proof));
    memcpy(proof, client.out.data, proof_len);
    cr_assert_eq(carry(&client, &server, SIZE_MAX, NULL), 0);
    cr_assert_eq(ds_seal_init(&again, key, NULL, NULL), 0);
    cr_assert_eq(ds_seal_feed(&again, hello, sizeof(hello), NULL), 0);
    cr_assert_eq(ds_seal_feed(&again, proof, proof_len, NULL), -EACCES);
    ds_seal_release(&again);
    stop(&client, &server);
}

Test(seal, a_mirror_is_no_peer)
{
    struct ds_seal server;
    char out[512];
    size_t len;

    cr_assert_eq(ds_seal_init(&server, key, NULL, NULL), 0);
    cr_assert_eq(ds_seal_feed(&server, "DSSEAL1\n12345678901234567890123456789012", 40, NULL), 0);
    len = server.out.len;
    cr_assert(len > HELLO && len <= sizeof(out));
    memcpy(out, server.out.data, len);
    cr_assert_eq(ds_seal_feed(&server, out + HELLO, len - HELLO, NULL), -EACCES);
    ds_seal_release(&server);
}

Test(seal, damage_loss_and_repetition)
{
    enum what { FLIP_LENGTH, FLIP_BODY, DROP, REPEAT, WHATS };

    for (int what = FLIP_LENGTH; what < WHATS; what++) {
        struct ds_seal client, server;
        struct ds_error err = {0};
        char record[64];
        size_t len;

        start(&client, &server, key);
        cr_assert_eq(shake(&client, &server, SIZE_MAX, NULL), 0);
        cr_assert_eq(ds_seal_put(&client, "one", 3), 0);
        len = client.out.len;
        memcpy(record, client.out.data, len);
        ds_buf_reset(&client.out);
        cr_assert_eq(ds_seal_put(&client, "two", 3), 0);
        if (what == FLIP_LENGTH)
            record[0] = (char)(record[0] - 1);
        if (what == FLIP_BODY)
            record[10] = (char)(record[10] ^ 1);
        if (what == REPEAT)
            cr_assert_eq(ds_seal_feed(&server, record, len, NULL), 0);
        if (what != DROP)
            cr_assert_eq(ds_seal_feed(&server, record, len, &err), -EPROTO, "%d", what);
        else
            cr_assert_eq(carry(&client, &server, SIZE_MAX, &err), -EPROTO);
        cr_assert_not_null(strstr(err.text, "damaged on its way"));
        cr_assert_eq(server.plain.len, what == REPEAT ? 3 : 0);
        stop(&client, &server);
    }
}

Test(seal, bounds)
{
    struct ds_seal client, server;
    struct ds_error err = {0};
    char *large = calloc(1, DS_SEAL_RECORD_BYTES + 1);
    uint8_t length[4];
    int rc = 0, count = 0;

    start(&client, &server, key);
    cr_assert_eq(
        ds_seal_feed(&server, "GET / HTTP/1.1\r\nHost: somewhere-else.example\r\n", 46, &err),
        -EPROTO);
    cr_assert_not_null(strstr(err.text, "no program of this kind"));
    stop(&client, &server);
    start(&client, &server, key);
    cr_assert_eq(shake(&client, &server, SIZE_MAX, NULL), 0);
    cr_assert_eq(ds_seal_put(&client, large, DS_SEAL_RECORD_BYTES + 1), -EMSGSIZE);
    while (rc == 0 && count++ < 1000)
        rc = ds_seal_put(&client, large, DS_SEAL_RECORD_BYTES);
    cr_assert(rc == -ENOBUFS && count > 2, "the queue has an end");
    cr_assert_eq(carry(&client, &server, 4096, NULL), 0);
    cr_assert_eq(server.plain.len, (size_t)(count - 1) * DS_SEAL_RECORD_BYTES);
    ds_put_u32(length, DS_SEAL_RECORD_BYTES + TAG + 1);
    cr_assert_eq(ds_seal_feed(&server, length, 4, &err), -EPROTO);
    stop(&client, &server);
    memset(large, 'n', DS_SEAL_IDENTITY_BYTES + 1);
    cr_assert_eq(ds_seal_init(&client, key, large, NULL), -EINVAL);
    ds_seal_release(&client);
    free(large);
}
