/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_greet - two ranks prove themselves; no change of a bit, no replay and no other role passes.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "runtime/comm/greet.h"

static const uint8_t key[DS_JOB_KEY_BYTES] = "one key", other_key[DS_JOB_KEY_BYTES] = "another";
static const uint8_t nonce_c[DS_GREET_NONCE] = "c", nonce_l[DS_GREET_NONCE] = "l",
                     nonce_2[DS_GREET_NONCE] = "2";

struct talk { /* the four messages, as far as they were said */
    uint8_t said[4][DS_GREET_MAX];
    size_t len[4];
};

static struct ds__greet_args connector(const uint8_t *its_key)
{
    return (struct ds__greet_args){
        .key = its_key, .nonce = nonce_c, .me = 3, .world = 4, .peer = 1};
}

static struct ds__greet_args listener(const uint8_t *nonce)
{
    return (struct ds__greet_args){.key = key, .nonce = nonce, .me = 1, .world = 4};
}

/* Bit `flip` of message `message` is changed on the way (message 4: none). */
static int converse(struct talk *talk, const uint8_t *its_key, unsigned message, size_t flip)
{
    const struct ds__greet_args c = connector(its_key), l = listener(nonce_l);
    struct ds__greet from, to;
    struct ds_error err = {0};
    int rc = 0;

    ds__greet_listen(&to, &l);
    ds__greet_connect(&from, &c, talk->said[0], &talk->len[0]);
    for (unsigned i = 0; rc == 0 && i < 4; i++) {
        struct ds__greet *hears = i % 2 == 0 ? &to : &from;
        uint8_t none[DS_GREET_MAX];
        size_t none_len;

        if (i == message)
            talk->said[i][flip / 8] ^= (uint8_t)(1u << flip % 8);
        cr_assert_eq(hears->want, talk->len[i]);
        rc = ds__greet_take(hears, talk->said[i], i < 3 ? talk->said[i + 1] : none,
                            i < 3 ? &talk->len[i + 1] : &none_len, &err);
    }
    if (rc == 0)
        cr_assert(from.done && to.done && to.peer == 3);
    else
        cr_assert(err.text[0] != '\0' && !(from.done && to.done));
    return rc;
}

Test(greet, holders_of_the_key_meet)
{
    struct talk talk = {0};

    cr_assert_eq(converse(&talk, key, 4, 0), 0);
    cr_assert_eq(talk.len[0], DS_GREET_HELLO);
    cr_assert_eq(talk.len[1], 64);
    cr_assert_eq(talk.len[2], 32);
    cr_assert_eq(talk.len[3], 32);
}

Test(greet, another_key_is_refused_by_the_connector_first)
{
    struct talk talk = {0};

    cr_assert_eq(converse(&talk, other_key, 4, 0), -EACCES);
    cr_assert_eq(talk.len[2], 0, "it said no more");
}

Test(greet, no_bit_may_change)
{
    static const size_t bytes[] = {DS_GREET_HELLO, 64, 32, 32};

    for (unsigned message = 0; message < 4; message++)
        for (size_t bit = 0; bit < bytes[message] * 8; bit++) {
            struct talk talk = {0};
            int rc = converse(&talk, key, message, bit);

            cr_assert(rc == -EACCES || rc == -EPROTO, "message %u, bit %zu: %d", message, bit, rc);
        }
}

Test(greet, a_replay_is_refused)
{
    const struct ds__greet_args again = listener(nonce_2);
    struct talk talk = {0};
    struct ds__greet to;
    uint8_t out[DS_GREET_MAX];
    size_t len;

    cr_assert_eq(converse(&talk, key, 4, 0), 0);
    ds__greet_listen(&to, &again);
    cr_assert_eq(ds__greet_take(&to, talk.said[0], out, &len, NULL), 0);
    cr_assert_eq(ds__greet_take(&to, talk.said[2], out, &len, NULL), -EACCES);
    cr_assert_eq(len, 0);
}

Test(greet, what_one_role_said_does_not_serve_the_other)
{
    const struct ds__greet_args l = listener(nonce_l);
    struct talk talk = {0};
    struct ds__greet to;
    uint8_t out[DS_GREET_MAX];
    size_t len;

    cr_assert_eq(converse(&talk, key, 4, 0), 0);
    for (unsigned back = 1; back < 4; back += 2) { /* the listener's own proofs, given back */
        ds__greet_listen(&to, &l);
        cr_assert_eq(ds__greet_take(&to, talk.said[0], out, &len, NULL), 0);
        cr_assert_eq(ds__greet_take(&to, talk.said[back] + (back == 1 ? DS_GREET_NONCE : 0), out,
                                    &len, NULL),
                     -EACCES);
    }
}

Test(greet, only_awaited_ranks_of_this_job)
{
    static const struct {
        unsigned me, world, peer;
    } wrong[] = {{3, 5, 1}, {3, 4, 0}, {1, 4, 1}, {0, 4, 1}, {4, 4, 1}};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const struct ds__greet_args c = {.key = key,
                                         .nonce = nonce_c,
                                         .me = wrong[i].me,
                                         .world = wrong[i].world,
                                         .peer = wrong[i].peer};
        const struct ds__greet_args l = listener(nonce_l);
        uint8_t hello[DS_GREET_MAX], out[DS_GREET_MAX];
        struct ds__greet from, to;
        size_t len;

        ds__greet_connect(&from, &c, hello, &len);
        ds__greet_listen(&to, &l);
        cr_assert_eq(ds__greet_take(&to, hello, out, &len, NULL), -EPROTO, "case %zu", i);
        cr_assert_eq(len, 0);
    }
}
