/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_store - ranks put keys and ask for them in every order; what a rank may not do is refused.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "launcher/fleet/store.h"

enum { WORLD = 4, MANY = 1000 };

static struct ds_store store;
static unsigned answers;
static uint32_t answered_rank, answered_count;
static char answered[4096]; /* "key=value key=value ..." */

static void on_answer(void *user, uint32_t rank, const void *payload, size_t len)
{
    struct ds_store_note note;
    struct ds_store_entry entry;
    size_t at = 0, used = 0;

    cr_assert_eq(user, &answers);
    cr_assert_eq(ds_store_note_get(payload, len, &note, NULL), 0);
    cr_assert_eq(note.what, DS_STORE_ANSWER);
    answers++;
    answered_rank = rank;
    answered_count = note.count;
    answered[0] = '\0';
    while (ds_store_entry_next(&note, &at, &entry) && used < sizeof(answered) - 200)
        used += (size_t)snprintf(answered + used, sizeof(answered) - used, "%s%.*s=%.*s",
                                 used > 0 ? " " : "", (int)entry.key_bytes, entry.key,
                                 (int)entry.value_bytes, (const char *)entry.value);
}

static void open_store(void)
{
    answers = 0;
    cr_assert_eq(ds_store_init(&store, WORLD, on_answer, &answers, NULL), 0);
}

static void close_store(void)
{
    ds_store_release(&store);
}

#define FIXTURE .init = open_store, .fini = close_store

static int take(uint32_t rank, enum ds_store_what what, uint32_t count, const char *key,
                const char *rest, struct ds_error *err)
{
    const struct ds_store_note note = {.what = what,
                                       .count = count,
                                       .key = key,
                                       .key_bytes = (uint32_t)strlen(key),
                                       .rest = rest,
                                       .rest_bytes = (uint32_t)strlen(rest)};
    struct ds_buf bytes;
    int rc;

    ds_buf_init(&bytes, 1 << 20);
    cr_assert_eq(ds_store_note_put(&bytes, &note), 0);
    rc = ds_store_take(&store, rank, bytes.data, bytes.len, err);
    ds_buf_release(&bytes);
    return rc;
}

static void put(uint32_t rank, const char *key, const char *value)
{
    cr_assert_eq(take(rank, DS_STORE_PUT, 0, key, value, NULL), 0);
}

static void get(uint32_t rank, const char *key, uint32_t count)
{
    cr_assert_eq(take(rank, DS_STORE_GET, count, key, "", NULL), 0);
}

Test(store, a_key_that_is_there_is_answered_at_once, FIXTURE)
{
    put(0, "id", "here");
    get(2, "id", 0);
    cr_assert_eq(answers, 1);
    cr_assert_eq(answered_rank, 2);
    cr_assert_str_eq(answered, "id=here");
}

Test(store, every_job_has_a_secret_of_its_own)
{
    struct ds_store other;
    uint8_t zero[DS_JOB_KEY_BYTES] = {0};

    open_store();
    cr_assert_eq(ds_store_init(&other, WORLD, on_answer, NULL, NULL), 0);
    cr_assert_eq(store.entry[0].value_bytes, DS_JOB_KEY_BYTES);
    cr_assert_neq(memcmp(store.entry[0].value, zero, sizeof(zero)), 0);
    cr_assert_neq(memcmp(store.entry[0].value, other.entry[0].value, sizeof(zero)), 0);
    get(1, DS_JOB_KEY, 0);
    cr_assert_eq(answers, 1);
    cr_assert_eq(strncmp(answered, "job/key=", 8), 0);
    ds_store_release(&other);
    close_store();
}

Test(store, who_asks_early_waits_for_the_key, FIXTURE)
{
    get(3, "id", 0);
    put(0, "id2", "no"); /* begins with it, and is another key */
    put(0, "i", "no");
    cr_assert_eq(answers, 0);
    put(1, "id", "yes");
    cr_assert_eq(answers, 1);
    cr_assert_eq(answered_rank, 3);
    cr_assert_str_eq(answered, "id=yes");
    put(1, "id3", "");
    cr_assert_eq(answers, 1, "answered once");
}

Test(store, a_gathering_waits_for_all, FIXTURE)
{
    for (uint32_t rank = 0; rank < WORLD; rank++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "comm/%u", rank);
        cr_assert_eq(answers, 0);
        put(rank, key, "here");
        get(rank, "comm/", WORLD);
    }
    cr_assert_eq(answers, WORLD);
    cr_assert_eq(answered_count, WORLD);
    cr_assert_str_eq(answered, "comm/0=here comm/1=here comm/2=here comm/3=here");
}

Test(store, no_more_entries_than_asked_for, FIXTURE)
{
    put(0, "a1", "");
    put(1, "a2", "");
    put(2, "a3", "");
    get(0, "a", 2);
    cr_assert_str_eq(answered, "a1= a2=");
}

Test(store, bytes_of_any_value_come_back, FIXTURE)
{
    static const char value[] = "a\0b\xff\n";
    const struct ds_store_note note = {.what = DS_STORE_PUT,
                                       .key = "k",
                                       .key_bytes = 1,
                                       .rest = value,
                                       .rest_bytes = sizeof(value)};
    struct ds_buf bytes;

    ds_buf_init(&bytes, 4096);
    cr_assert_eq(ds_store_note_put(&bytes, &note), 0);
    cr_assert_eq(ds_store_take(&store, 0, bytes.data, bytes.len, NULL), 0);
    cr_assert_eq(store.entry[1].value_bytes, sizeof(value));
    cr_assert_eq(memcmp(store.entry[1].value, value, sizeof(value)), 0);
    ds_buf_release(&bytes);
}

Test(store, what_a_rank_may_not_do, FIXTURE)
{
    char big[DS_MAX_STORE_VALUE + 2], key[DS_MAX_STORE_KEY + 2];
    struct ds_error err = {0};

    memset(big, 'v', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = '\0';
    cr_assert_eq(take(WORLD, DS_STORE_GET, 0, "x", "", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_PUT, 0, "job/key", "forged", &err), -EPROTO);
    cr_assert(strstr(err.text, "not a rank's") != NULL);
    cr_assert_eq(take(0, DS_STORE_PUT, 0, "x", big, &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_PUT, 0, key, "", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_PUT, 0, "", "", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_PUT, 1, "x", "", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_GET, 0, "x", "rest", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_GET, DS_MAX_RANKS + 1, "x", "", &err), -EPROTO);
    cr_assert_eq(take(0, DS_STORE_ANSWER, 0, "x", "", &err), -EPROTO);
    cr_assert_eq(take(0, (enum ds_store_what)9, 0, "x", "", &err), -EPROTO);
    cr_assert_eq(ds_store_take(&store, 0, "short", 5, &err), -EPROTO);
    cr_assert_eq(store.entries, 1);
    put(0, "x", "1");
    cr_assert_eq(take(1, DS_STORE_PUT, 0, "x", "2", &err), -EPROTO);
    cr_assert(strstr(err.text, "'x' is put twice") != NULL);
    cr_assert_eq(answers, 0);
}

/* The watchdog of the device's collectives asks for rank after rank, some of which never come. */
Test(store, who_gave_up_asks_for_another_key, FIXTURE)
{
    put(1, "x", "1");
    get(2, "never", 0);
    get(2, "x", 0);
    cr_assert_eq(answers, 1);
    cr_assert_str_eq(answered, "x=1");
    get(2, "late", 0);
    put(0, "never", "late");
    cr_assert_eq(answers, 1, "nobody waits for it now");
    put(0, "late", "now");
    cr_assert_eq(answers, 2);
    cr_assert_str_eq(answered, "late=now");
    cr_assert_eq(store.waiting, 0);
}

Test(store, a_rank_puts_a_few_keys_and_no_more, FIXTURE)
{
    char key[2] = "a";

    for (unsigned i = 0; i < DS_MAX_STORE_PUTS; i++, key[0]++)
        put(1, key, "");
    cr_assert_eq(take(1, DS_STORE_PUT, 0, key, "", NULL), -EPROTO);
    put(2, key, "");
}

Test(store, a_thousand_ranks_meet)
{
    char key[16];

    answers = 0;
    cr_assert_eq(ds_store_init(&store, MANY, on_answer, &answers, NULL), 0);
    for (uint32_t rank = 0; rank < MANY; rank++) {
        (void)snprintf(key, sizeof(key), "comm/%u", rank);
        put(rank, key, "0123456789012345678901234567890123456789");
        get(rank, "comm/", MANY);
    }
    cr_assert_eq(answers, MANY);
    cr_assert_eq(store.waiting, 0);
    ds_store_release(&store);
}
