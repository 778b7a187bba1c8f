/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_spec.c - the start specification there and back, cut at every byte, wrong in every field.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "base/wire.h"
#include "launcher/spec.h"

static const char *argv[] = {"dsrun-worker", "--x", ""};
static const char *env[] = {"A=b", "LONG=with spaces and = signs", "EMPTY="};

static struct ds_spec sample(void)
{
    return (struct ds_spec){.world = 8,
                            .first_rank = 4,
                            .ranks = 4,
                            .node = 1,
                            .nodes = 2,
                            .threads = 3,
                            .grace_ms = 30000,
                            .link = true,
                            .job = "17 head\ntiny\n/run",
                            .cwd = "/work",
                            .argc = 3,
                            .argv = argv,
                            .envc = 3,
                            .env = env,
                            .blob = "bytes\0with NUL",
                            .blob_bytes = 14};
}

Test(spec, round_trip)
{
    struct ds_spec in = sample(), out;
    struct ds_arena arena;
    struct ds_buf bytes;

    ds_arena_init(&arena);
    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    cr_assert_eq(ds_spec_encode(&in, &bytes, NULL), 0);
    cr_assert_eq(ds_spec_decode(bytes.data, bytes.len, &arena, &out, NULL), 0);
    cr_assert(out.world == 8 && out.first_rank == 4 && out.ranks == 4 && out.node == 1 &&
              out.nodes == 2 && out.threads == 3 && out.grace_ms == 30000 && out.link);
    cr_assert_str_eq(out.cwd, "/work");
    cr_assert_str_eq(out.job, "17 head\ntiny\n/run");
    cr_assert(out.argc == 3 && out.envc == 3 && out.argv[3] == NULL && out.env[3] == NULL);
    for (int i = 0; i < 3; i++) {
        cr_assert_str_eq(out.argv[i], argv[i]);
        cr_assert_str_eq(out.env[i], env[i]);
    }
    cr_assert(out.blob_bytes == 14 && memcmp(out.blob, in.blob, 14) == 0);
    ds_buf_release(&bytes);
    ds_arena_release(&arena);
}

Test(spec, cut_at_every_byte_or_too_long)
{
    struct ds_spec in = sample(), out;
    struct ds_buf bytes;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    cr_assert_eq(ds_spec_encode(&in, &bytes, NULL), 0);
    cr_assert_eq(ds_buf_put(&bytes, "x", 1), 0);
    for (size_t len = 0; len <= bytes.len; len++) {
        struct ds_arena arena;
        int rc;

        ds_arena_init(&arena);
        rc = ds_spec_decode(bytes.data, len, &arena, &out, NULL);
        cr_assert_eq(rc, len == bytes.len - 1 ? 0 : -EPROTO, "%zu bytes: %d", len, rc);
        ds_arena_release(&arena);
    }
    ds_buf_release(&bytes);
}

/* Every 32-bit word of the head set to values that overflow or do not fit. */
Test(spec, wrong_numbers)
{
    static const uint32_t values[] = {0, 1025, 65537, 0x7fffffff, 0x80000000, 0xffffffff};
    struct ds_spec in = sample(), out;
    struct ds_buf bytes;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    cr_assert_eq(ds_spec_encode(&in, &bytes, NULL), 0);
    for (size_t at = 0; at + 4 <= bytes.len; at += 4) {
        uint32_t was = ds_get_u32(bytes.data + at);

        for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
            struct ds_error err = {0};
            struct ds_arena arena;
            int rc;

            ds_arena_init(&arena);
            ds_put_u32(bytes.data + at, values[v]);
            rc = ds_spec_decode(bytes.data, bytes.len, &arena, &out, &err);
            cr_assert(rc == 0 || (rc == -EPROTO && err.text[0] != '\0'), "word %zu = %u: %d", at,
                      values[v], rc);
            cr_assert(rc == 0 ? out.ranks <= out.world - out.first_rank : true);
            ds_arena_release(&arena);
        }
        ds_put_u32(bytes.data + at, was);
    }
    ds_buf_release(&bytes);
}

Test(spec, refused_before_it_is_sent)
{
    static const char *no_value[] = {"A=b", "NOVALUE", "X=y"}, *no_name[] = {"=x", "A=b", "X=y"};
    static const char *empty[] = {"", "a", "b"};
    struct ds_buf bytes;
    struct ds_spec in;

#define REFUSED(change)                                                                            \
    do {                                                                                           \
        struct ds_error err = {0};                                                                 \
        in = sample();                                                                             \
        change;                                                                                    \
        ds_buf_reset(&bytes);                                                                      \
        cr_assert_eq(ds_spec_encode(&in, &bytes, &err), -EINVAL, #change);                         \
        cr_assert(err.text[0] != '\0', #change);                                                   \
    } while (0)

    ds_buf_init(&bytes, 2 * DS_MAX_FRAME_BYTES);
    REFUSED(in.world = 0);
    REFUSED(in.world = DS_MAX_RANKS + 1);
    REFUSED(in.ranks = 0);
    REFUSED(in.ranks = DS_MAX_SLOTS + 1);
    REFUSED(in.first_rank = 5);
    REFUSED(in.first_rank = UINT32_MAX);
    REFUSED(in.nodes = 0);
    REFUSED(in.node = 2);
    REFUSED(in.threads = DS_MAX_THREADS + 1);
    REFUSED(in.argc = 0);
    REFUSED(in.argc = DS_MAX_SPEC_STRINGS + 1);
    REFUSED(in.envc = DS_MAX_SPEC_STRINGS);
    REFUSED(in.argv = empty);
    REFUSED(in.env = no_value);
    REFUSED(in.env = no_name);
    ds_buf_release(&bytes);
}

Test(spec, too_large)
{
    static char blob[DS_MAX_FRAME_BYTES];
    struct ds_spec in = sample();
    struct ds_buf bytes;

    in.blob = blob;
    in.blob_bytes = sizeof(blob);
    ds_buf_init(&bytes, 2 * DS_MAX_FRAME_BYTES);
    cr_assert_eq(ds_spec_encode(&in, &bytes, NULL), -EMSGSIZE);
    ds_buf_release(&bytes);
}
