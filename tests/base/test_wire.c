/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_wire.c - frames there and back, cut at every byte, wrong in every field; banners; HELLO.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/wire.h"

static const uint16_t types[] = {
#define X(id, number, text) DS_WIRE_##id,
    DS_WIRE_TYPES(X)
#undef X
};
enum { TYPES = sizeof(types) / sizeof(types[0]) };

/* The layout is a contract: spelled out once, byte by byte. */
Test(wire, layout)
{
    static const unsigned char want[] = {3,    0,    0,    0,    7,   0,   1,  0,
                                         0x78, 0x56, 0x34, 0x12, 'a', 'b', 'c'};
    struct ds_frame frame = {.type = DS_WIRE_METRIC,
                             .flags = DS_WIRE_WANT_ACK,
                             .rank = 0x12345678,
                             .payload = "abc",
                             .len = 3};
    struct ds_buf out;

    ds_buf_init(&out, 1000);
    cr_assert_eq(ds_wire_encode(&out, &frame), 0);
    cr_assert_eq(out.len, sizeof(want));
    cr_assert_arr_eq(out.data, want, sizeof(want));
    ds_buf_release(&out);
}

Test(wire, round_trip_of_every_type_and_size)
{
    static const uint32_t sizes[] = {0, 1, 11, 12, 13, 4096, DS_MAX_FRAME_BYTES};
    static char payload[DS_MAX_FRAME_BYTES];
    struct ds_buf out;

    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (char)(i * 31);
    ds_buf_init(&out, sizeof(payload) + DS_WIRE_HEADER_BYTES);
    for (int t = 0; t < TYPES; t++) {
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            struct ds_frame in = {.type = types[t],
                                  .flags = (uint16_t)s,
                                  .rank = (uint32_t)t,
                                  .payload = payload,
                                  .len = sizes[s]},
                            back;
            size_t used = 0;

            ds_buf_reset(&out);
            cr_assert_eq(ds_wire_encode(&out, &in), 0);
            cr_assert_eq(ds_wire_decode(out.data, out.len, &back, &used, NULL), 1);
            cr_assert_eq(used, out.len);
            cr_assert(back.type == in.type && back.flags == in.flags && back.rank == in.rank);
            cr_assert_eq(back.len, sizes[s]);
            cr_assert_eq(memcmp(back.payload, payload, sizes[s]), 0);
        }
    }
    ds_buf_release(&out);
}

/* Every beginning of a stream of frames asks for more, and reads nothing behind its end: each
 * beginning lies in a block of its own size, which a sanitizer build guards. */
Test(wire, truncated_at_every_byte)
{
    struct ds_frame frame = {.type = DS_WIRE_OUT, .rank = 1, .payload = "hello", .len = 5}, back;
    struct ds_buf out;

    ds_buf_init(&out, 1000);
    cr_assert_eq(ds_wire_encode(&out, &frame), 0);
    for (size_t len = 0; len < out.len; len++) {
        char *cut = malloc(len + 1); /* malloc(0) may be NULL */
        size_t used = 99;

        cr_assert_not_null(cut);
        memcpy(cut + 1, out.data, len);
        cr_assert_eq(ds_wire_decode(cut + 1, len, &back, &used, NULL), 0, "%zu bytes", len);
        cr_assert_eq(used, 99, "untouched");
        free(cut);
    }
    ds_buf_release(&out);
}

Test(wire, frames_in_a_row)
{
    struct ds_buf out;
    size_t at = 0, used;
    struct ds_frame frame;

    ds_buf_init(&out, 10000);
    for (uint32_t i = 0; i < 100; i++)
        cr_assert_eq(ds_wire_encode(&out, &(struct ds_frame){.type = DS_WIRE_BEAT,
                                                             .rank = i,
                                                             .payload = &i,
                                                             .len = i % 5 % 4}),
                     0);
    for (uint32_t i = 0; i < 100; i++, at += used) {
        cr_assert_eq(ds_wire_decode(out.data + at, out.len - at, &frame, &used, NULL), 1);
        cr_assert_eq(frame.rank, i);
        cr_assert_eq(frame.len, i % 5 % 4);
    }
    cr_assert_eq(at, out.len);
    ds_buf_release(&out);
}

Test(wire, wrong_headers_are_refused_as_early_as_possible)
{
    static const struct {
        unsigned char bytes[12];
        size_t needed; /* bytes after which it must be seen */
        const char *text;
    } cases[] = {
        {{1, 0, 0x10, 0, 4, 0}, 4, "1048577"},
        {{0xff, 0xff, 0xff, 0xff, 4, 0}, 4, "4294967295"},
        {{0, 0, 0, 0x80, 4, 0}, 4, "2147483648"},
        {{0, 0, 0, 0, 0, 0}, 6, "type 0"},
        {{0, 0, 0, 0, 15, 0}, 6, "type 15"},
        {{0, 0, 0, 0, 1, 1}, 6, "type 257"},
        {{0, 0, 0, 0, 0xff, 0xff}, 6, "type 65535"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t len = 0; len <= 12; len++) {
            struct ds_error err = {0};
            struct ds_frame frame;
            size_t used;
            int rc = ds_wire_decode(cases[i].bytes, len, &frame, &used, &err);

            cr_assert_eq(rc, len < cases[i].needed ? 0 : -EPROTO, "case %zu, %zu bytes", i, len);
            if (rc != 0)
                cr_assert_not_null(strstr(err.text, cases[i].text), "%s", err.text);
        }
    }
}

Test(wire, encode_refuses_what_does_not_fit)
{
    static char payload[DS_MAX_FRAME_BYTES + 1];
    struct ds_frame frame = {.type = DS_WIRE_OUT, .payload = payload, .len = sizeof(payload)};
    struct ds_buf out;

    ds_buf_init(&out, 20);
    cr_assert_eq(ds_wire_encode(&out, &frame), -EMSGSIZE);
    cr_assert_not(out.failed);
    frame.len = 9;
    cr_assert_eq(ds_wire_encode(&out, &frame), -ENOBUFS);
    cr_assert_eq(out.len, 0, "no half frame");
    ds_buf_reset(&out);
    frame.len = 8;
    cr_assert_eq(ds_wire_encode(&out, &frame), 0);
    cr_assert_eq(out.len, 20);
    ds_buf_release(&out);
}

Test(wire, type_names)
{
    cr_assert_str_eq(ds_wire_type_name(DS_WIRE_HELLO), "HELLO");
    cr_assert_str_eq(ds_wire_type_name(DS_WIRE_ACK), "ACK");
    cr_assert_null(ds_wire_type_name(0));
    cr_assert_null(ds_wire_type_name(15));
    cr_assert_null(ds_wire_type_name(UINT16_MAX));
}

Test(wire, scalars)
{
    static const uint64_t values[] = {
        0, 1, 0x80, 0x12345678, 0xffffffff, 0x123456789abcdef0, UINT64_MAX};
    unsigned char at[10];

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        memset(at, '#', sizeof(at));
        ds_put_u64(at + 1, values[i]); /* alignment does not matter */
        cr_assert(at[0] == '#' && at[9] == '#');
        cr_assert_eq(ds_get_u64(at + 1), values[i]);
        cr_assert_eq(ds_get_u32(at + 1), (uint32_t)values[i]);
        at[5] = '#';
        ds_put_u32(at + 1, (uint32_t)values[i]);
        cr_assert_eq(at[5], '#');
        cr_assert_eq(ds_get_u32(at + 1), (uint32_t)values[i]);
    }
    ds_put_u32(at, 0x12345678);
    cr_assert_arr_eq(at, "\x78\x56\x34\x12", 4);
}

/* --- HELLO --------------------------------------------------------------------------------- */

static const struct ds_hello hello = {.version = DS_WIRE_VERSION,
                                      .build_id = "1f0c9a7b",
                                      .nonce = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
enum { HELLO_FRAME = DS_WIRE_HEADER_BYTES + 60 };

static void put_hello(struct ds_buf *out)
{
    ds_buf_init(out, 1 << 20);
    cr_assert_eq(ds_wire_put_hello(out, &hello), 0);
    cr_assert_eq(out->len, HELLO_FRAME);
}

Test(wire, hello_round_trip)
{
    struct ds_hello full = hello, zero = hello, back;
    const struct ds_hello *const cases[] = {&hello, &full, &zero};
    struct ds_frame frame;
    struct ds_buf out;
    size_t used;

    /* A build id as long as it may be, and nonces that could be taken for more of it. */
    memset(full.build_id, 'b', DS_WIRE_BUILD_BYTES);
    memset(full.nonce, 'n', sizeof(full.nonce));
    memset(zero.nonce, 0, sizeof(zero.nonce));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct ds_hello *in = cases[i];

        ds_buf_init(&out, 1000);
        cr_assert_eq(ds_wire_put_hello(&out, in), 0);
        cr_assert_eq(ds_wire_decode(out.data, out.len, &frame, &used, NULL), 1);
        cr_assert_eq(frame.rank, DS_WIRE_NO_RANK);
        cr_assert_eq(ds_wire_get_hello(&frame, &back, NULL), 0);
        cr_assert_eq(back.version, in->version);
        cr_assert_str_eq(back.build_id, in->build_id);
        cr_assert_arr_eq(back.nonce, in->nonce, sizeof(in->nonce));
        ds_buf_release(&out);
    }
}

Test(wire, wrong_hello_is_refused)
{
    static const struct {
        size_t at;
        unsigned char byte;
        int rc;
    } cases[] = {
        {0, 'd', -EPROTO},   /* magic */
        {7, 0, -EPROTO},     /* magic's last */
        {8, 2, 0},           /* another version: readable, the caller names it */
        {12, '\n', -EPROTO}, /* control character in the build id */
        {12, 0, -EPROTO},    /* text behind its end */
        {12, 0x80, -EPROTO}, /* not ASCII */
        {43, 'x', -EPROTO},  /* text behind its end */
        {59, 0xff, 0},       /* nonce: anything */
    };
    struct ds_buf out;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        struct ds_frame frame;
        struct ds_hello back;
        size_t used;

        put_hello(&out);
        out.data[DS_WIRE_HEADER_BYTES + cases[i].at] = (char)cases[i].byte;
        cr_assert_eq(ds_wire_decode(out.data, out.len, &frame, &used, NULL), 1);
        cr_assert_eq(ds_wire_get_hello(&frame, &back, &err), cases[i].rc, "case %zu: %s", i,
                     err.text);
        ds_buf_release(&out);
    }
}

Test(wire, hello_of_wrong_length_or_type)
{
    char payload[61];
    struct ds_frame frame = {.type = DS_WIRE_HELLO, .payload = payload};
    struct ds_hello back;
    struct ds_buf out;

    put_hello(&out);
    memcpy(payload, out.data + DS_WIRE_HEADER_BYTES, 60);
    payload[60] = 0;
    for (frame.len = 0; frame.len <= 61; frame.len++)
        cr_assert_eq(ds_wire_get_hello(&frame, &back, NULL), frame.len == 60 ? 0 : -EPROTO,
                     "%u bytes", frame.len);
    payload[8] = 2; /* a later version may say more */
    frame.len = 61;
    cr_assert_eq(ds_wire_get_hello(&frame, &back, NULL), 0);
    cr_assert_eq(back.version, 2);
    frame.type = DS_WIRE_SPEC;
    cr_assert_eq(ds_wire_get_hello(&frame, &back, NULL), -EPROTO);
    ds_buf_release(&out);
}

/* --- banners ------------------------------------------------------------------------------- */

Test(wire, hello_is_found_behind_any_banner)
{
    static const char *const banners[] = {
        "",
        "x",
        "Welcome!\r\n",
        "DSRUN\r\n\032",
        "DSRUN\r\n\032DSRUN\r\n\032",
        "DSRUNDSRUNDSRUN",
        "DSRUN\r\nDSRUN\r\n\032\r\n",
        "0123456789abDSRUN\r\n\032",
    };

    for (size_t i = 0; i < sizeof(banners) / sizeof(banners[0]); i++) {
        struct ds_buf out, frame;
        size_t len = strlen(banners[i]);

        put_hello(&frame);
        ds_buf_init(&out, 1000);
        cr_assert_eq(ds_buf_puts(&out, banners[i]), 0);
        cr_assert_eq(ds_buf_put(&out, frame.data, frame.len), 0);
        for (size_t cut = 0; cut <= out.len; cut++)
            cr_assert_eq(ds_wire_find_hello(out.data, cut),
                         cut < len + DS_WIRE_HEADER_BYTES + 8 ? -EAGAIN : (long)len,
                         "banner %zu, %zu bytes", i, cut);
        ds_buf_release(&out);
        ds_buf_release(&frame);
    }
}

Test(wire, banner_has_a_bound)
{
    static char noise[DS_MAX_BANNER_BYTES + 200];
    struct ds_buf frame;

    put_hello(&frame);
    memset(noise, 'n', sizeof(noise));
    memcpy(noise + DS_MAX_BANNER_BYTES, frame.data, frame.len);
    cr_assert_eq(ds_wire_find_hello(noise, sizeof(noise)), DS_MAX_BANNER_BYTES);
    memset(noise, 'n', sizeof(noise));
    memcpy(noise + DS_MAX_BANNER_BYTES + 1, frame.data, frame.len);
    cr_assert_eq(ds_wire_find_hello(noise, sizeof(noise)), -EPROTO);
    cr_assert_eq(ds_wire_find_hello(noise, DS_MAX_BANNER_BYTES), -EAGAIN);
    cr_assert_eq(ds_wire_find_hello(noise, DS_MAX_BANNER_BYTES + 19), -EAGAIN);
    memset(noise, 'n', sizeof(noise));
    cr_assert_eq(ds_wire_find_hello(noise, DS_MAX_BANNER_BYTES + 20), -EPROTO);
    cr_assert_eq(ds_wire_find_hello(noise, sizeof(noise)), -EPROTO);
    ds_buf_release(&frame);
}
