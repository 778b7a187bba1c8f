/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tokens.c - the bytes of each format: well formed, cut at every byte, lying about themselves.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "runtime/data/tokens.h"

enum { LLMC_BYTES = 1024 };

/* Parse a copy of exactly this size, so that a sanitizer build sees a read past the end. */
static int parse(struct ds_tokens *tokens, const char *path, const void *bytes, size_t len,
                 uint64_t sequence, struct ds_error *err)
{
    unsigned char *copy = malloc(len + 1);
    int rc;

    cr_assert_not_null(copy);
    memcpy(copy + 1, bytes, len);
    rc = ds_tokens_parse(tokens, path, DS_DATA_AUTO, copy + 1, len, sequence, err);
    free(copy);
    return rc;
}

static void llmc_header(unsigned char *bytes, uint32_t version, uint32_t count)
{
    memset(bytes, 0, LLMC_BYTES);
    ds_put_u32(bytes, 20240520);
    ds_put_u32(bytes + 4, version);
    ds_put_u32(bytes + 8, count);
}

/* A file of one tensor; returns its length. */
static size_t safetensors(unsigned char *out, const char *header, size_t data_len)
{
    size_t len = strlen(header);

    ds_put_u64(out, len);
    memcpy(out + 8, header, len);
    for (size_t i = 0; i < data_len; i++)
        out[8 + len + i] = (unsigned char)(i % 8 == 0 ? i / 8 : 0);
    return 8 + len + data_len;
}

Test(tokens, formats_by_name)
{
    static const struct {
        const char *path;
        enum ds_data_format format;
    } cases[] = {
        {"a.txt", DS_DATA_TEXT},       {"a.safetensors", DS_DATA_SAMPLES},
        {"a.bin", DS_DATA_TOKENS},     {"a.u32.bin", DS_DATA_TOKENS},
        {"Makefile", DS_DATA_TEXT},    {"bin", DS_DATA_TEXT},
        {"safetensors", DS_DATA_TEXT}, {"a.bin.txt", DS_DATA_TEXT},
        {".bin", DS_DATA_TOKENS},      {"", DS_DATA_TEXT},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ds_tokens_format(DS_DATA_AUTO, cases[i].path), cases[i].format, "%s",
                     cases[i].path);
    cr_assert_eq(ds_tokens_format(DS_DATA_TEXT, "a.bin"), DS_DATA_TEXT);
}

/* n ids, sequence s: floor((n - 1) / s) samples that share their border ids. */
Test(tokens, samples_of_a_stream)
{
    static const struct {
        size_t ids;
        uint64_t sequence, samples;
    } cases[] = {
        {0, 4, 0}, {1, 4, 0}, {4, 4, 0},  {5, 4, 1},       {8, 4, 1},
        {9, 4, 2}, {2, 1, 1}, {10, 1, 9}, {5, 1 << 24, 0},
    };
    static const char bytes[16];
    struct ds_tokens tokens;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_assert_eq(parse(&tokens, "a.txt", bytes, cases[i].ids, cases[i].sequence, NULL), 0);
        cr_assert_eq(tokens.samples, cases[i].samples, "case %zu", i);
        cr_assert_eq(tokens.stride, cases[i].sequence);
        cr_assert_eq(tokens.count, cases[i].ids);
    }
}

Test(tokens, widths)
{
    static const unsigned char bytes[] = {1, 2, 3, 0, 5, 6, 7, 0};
    static const struct {
        const char *path;
        int32_t want[2];
    } cases[] = {{"a.txt", {1, 2}}, {"a.bin", {0x0201, 3}}, {"a.u32.bin", {0x030201, 0x070605}}};
    struct ds_tokens tokens;
    int32_t ids[2];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_assert_eq(parse(&tokens, cases[i].path, bytes, sizeof(bytes), 1, NULL), 0);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, 2, DS_MAX_VOCAB, ids, NULL), 0);
        cr_assert_arr_eq(ids, cases[i].want, sizeof(ids), "case %zu", i);
    }
}

Test(tokens, ragged_streams_are_damaged)
{
    static const unsigned char bytes[16] = {1};
    struct ds_error err = {0};
    struct ds_tokens tokens;

    for (size_t len = 0; len <= sizeof(bytes); len++) {
        cr_assert_eq(parse(&tokens, "a.bin", bytes, len, 1, &err), len % 2 ? -EBADMSG : 0);
        cr_assert_eq(parse(&tokens, "a.u32.bin", bytes, len, 1, &err), len % 4 ? -EBADMSG : 0);
    }
    cr_assert_eq(parse(&tokens, "a.u32.bin", bytes, 15, 1, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "15 bytes are no whole number of 4-byte ids");
}

/* --- llm.c --------------------------------------------------------------------------------- */

Test(tokens, llmc)
{
    static const struct {
        uint32_t version;
        size_t width;
    } cases[] = {{1, 2}, {7, 4}};
    unsigned char bytes[LLMC_BYTES + 40] = {0};
    struct ds_tokens tokens;
    int32_t ids[10];

    for (size_t i = 0; i < 2; i++) {
        size_t width = cases[i].width;

        llmc_header(bytes, cases[i].version, 10);
        for (size_t k = 0; k < 10; k++)
            bytes[LLMC_BYTES + k * width] = (unsigned char)(k + 1);
        cr_assert_eq(parse(&tokens, "a.bin", bytes, LLMC_BYTES + 10 * width, 3, NULL), 0);
        cr_assert_eq(tokens.at, LLMC_BYTES);
        cr_assert_eq(tokens.count, 10);
        cr_assert_eq(tokens.samples, 3);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, 10, 100, ids, NULL), 0);
        for (int k = 0; k < 10; k++)
            cr_assert_eq(ids[k], k + 1);
        memset(bytes, 0, sizeof(bytes));
    }
}

/* A file that starts with the magic is llm.c's and must be whole to the byte. */
Test(tokens, llmc_truncated_at_every_byte)
{
    unsigned char bytes[LLMC_BYTES + 21] = {0};
    struct ds_tokens tokens;
    size_t refused = 0;

    llmc_header(bytes, 1, 10);
    for (size_t len = 4; len <= sizeof(bytes); len++) {
        int rc = parse(&tokens, "a.bin", bytes, len, 3, NULL);

        cr_assert_eq(rc, len == LLMC_BYTES + 20 ? 0 : -EBADMSG, "%zu bytes", len);
        refused += rc != 0;
    }
    cr_assert_eq(refused, LLMC_BYTES + 21 - 4);

    llmc_header(bytes, 1, 0); /* a header alone is whole, and empty */
    cr_assert_eq(parse(&tokens, "a.bin", bytes, LLMC_BYTES, 3, NULL), 0);
    cr_assert_eq(tokens.samples, 0);
}

Test(tokens, llmc_lies)
{
    static const struct {
        uint32_t version, count;
        const char *text;
    } cases[] = {
        {0, 10, "version 0"},
        {2, 10, "version 2"},
        {0xffffffff, 10, "version 4294967295"},
        {1, 9, "announces 9 ids of 2 bytes, but 20 bytes follow"},
        {1, 11, "announces 11"},
        {7, 10, "announces 10 ids of 4 bytes"},
        {1, 0, "announces 0"},
        {1, 0x7fffffff, "announces 2147483647"},
        {1, 0x8000000a, "announces 2147483658"}, /* * 2 wraps to 20 in 32 bits */
        {7, 0x40000005, "announces 1073741829"}, /* * 4 wraps to 20 in 32 bits */
        {1, 0xffffffff, "announces 4294967295"},
    };
    unsigned char bytes[LLMC_BYTES + 20] = {0};
    struct ds_tokens tokens;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};

        llmc_header(bytes, cases[i].version, cases[i].count);
        cr_assert_eq(parse(&tokens, "a.bin", bytes, sizeof(bytes), 3, &err), -EBADMSG);
        cr_assert_not_null(strstr(err.text, cases[i].text), "case %zu: %s", i, err.text);
    }
}

/* --- samples ------------------------------------------------------------------------------- */

Test(tokens, samples)
{
    static const struct {
        const char *header;
        size_t width;
    } cases[] = {
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 4},
        {"{\"tokens\":{\"dtype\":\"I64\",\"shape\":[1,1,1,3],\"data_offsets\":[0,24]}}", 8},
        {"{\"tokens\":{\"dtype\":\"U16\",\"shape\":[2,2,3],\"data_offsets\":[0,24]}}", 2},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]},"
         "\"x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[12,24]}}",
         4},
    };
    unsigned char bytes[512];
    struct ds_tokens tokens;
    int32_t ids[12];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t len = safetensors(bytes, cases[i].header, 24), n;

        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 2, NULL), 0, "case %zu", i);
        n = i == 3 ? 3 : 24 / cases[i].width;
        cr_assert_eq(tokens.count, n);
        cr_assert_eq(tokens.samples, n / 3);
        cr_assert_eq(tokens.stride, 3);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, (size_t)tokens.count, 100, ids, NULL), 0);
        for (size_t k = 0; k < n; k++) { /* byte 8 j holds j */
            size_t byte = k * cases[i].width;

            cr_assert_eq(ids[k], byte % 8 == 0 ? byte / 8 : 0, "case %zu id %zu", i, k);
        }
    }
}

/* As many as the file says, where nobody asks for some. */
Test(tokens, samples_of_any_length)
{
    static const struct {
        const char *header;
        int rc;
    } cases[] = {
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 0},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[6,1],\"data_offsets\":[0,24]}}", -EINVAL},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", -EINVAL},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}", -EINVAL},
    };
    unsigned char bytes[512];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static const size_t data[] = {24, 24, 0, 4};
        size_t len = safetensors(bytes, cases[i].header, data[i]);
        struct ds_error err = {0};
        struct ds_tokens tokens;

        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 0, &err), cases[i].rc,
                     "case %zu: %s", i, err.text);
        if (cases[i].rc == 0)
            cr_assert(tokens.stride == 3 && tokens.samples == 2);
    }
}

Test(tokens, samples_of_wrong_kind)
{
    static const struct {
        const char *header;
        int rc;
        const char *text;
    } cases[] = {
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,23]}}", -EBADMSG, ""},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[3,2],\"data_offsets\":[0,24]}}", -EINVAL,
         "tensor 'tokens' is [3, 2], its last dimension must be train.sequence + 1 = 3"},
        {"{\"tokens\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", -EINVAL,
         "tensor 'tokens' is F32, it must be I32, I64 or U16"},
        {"{\"tokens\":{\"dtype\":\"U8\",\"shape\":[8,3],\"data_offsets\":[0,24]}}", -EINVAL, "U8"},
        {"{\"token\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", -EBADMSG,
         "tokens"},
        {"{\"tokens\":{\"dtype\":\"I32\",\"shape\":[4611686018427387910,3],"
         "\"data_offsets\":[0,24]}}",
         -EBADMSG, ""},
        {"[]", -EBADMSG, ""},
        {"", -EBADMSG, ""},
    };
    unsigned char bytes[512];
    struct ds_tokens tokens;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        size_t len = safetensors(bytes, cases[i].header, 24);

        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 2, &err), cases[i].rc,
                     "case %zu: %s", i, err.text);
        cr_assert_not_null(strstr(err.text, cases[i].text), "case %zu: %s", i, err.text);
    }
}

Test(tokens, samples_truncated_at_every_byte)
{
    unsigned char bytes[512];
    struct ds_tokens tokens;
    size_t len = safetensors(
        bytes, "{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24);

    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, cut, 2, NULL), -EBADMSG, "%zu bytes",
                     cut);
}

/* --- masks --------------------------------------------------------------------------------- */

/* Two rows of three ids, 1 to 6, and a mask of them from byte `*mask_at` on; returns the length. */
static size_t masked(unsigned char *out, const char *type, const unsigned char *mask,
                     size_t *mask_at)
{
    char header[256];
    size_t len;

    (void)snprintf(header, sizeof(header),
                   "{\"loss_mask\":{\"dtype\":\"%s\",\"shape\":[2,3],\"data_offsets\":[12,18]},"
                   "\"tokens\":{\"dtype\":\"U16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}",
                   type);
    len = safetensors(out, header, 18);
    *mask_at = len - 6;
    memset(out + *mask_at - 12, 0, 12);
    for (size_t i = 0; i < 6; i++)
        out[*mask_at - 12 + 2 * i] = (unsigned char)(i + 1);
    memcpy(out + *mask_at, mask, 6);
    return len;
}

Test(tokens, what_is_no_target_is_a_complement)
{
    static const unsigned char mask[] = {0, 1, 1, 1, 0, 0};
    static const int32_t want[] = {~1, 2, 3, 4, ~5, ~6};
    static const char *const types[] = {"U8", "BOOL"};
    unsigned char bytes[512];
    struct ds_tokens tokens;
    uint64_t targets;
    size_t at;
    int32_t ids[6];

    for (size_t t = 0; t < 2; t++) {
        size_t len = masked(bytes, types[t], mask, &at);

        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 2, NULL), 0);
        cr_assert_eq(tokens.mask_at, at);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, 6, 100, ids, NULL), 0);
        cr_assert_arr_eq(ids, want, sizeof(want));
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 4, 2, 100, ids, NULL), 0);
        cr_assert(ids[0] == ~5 && ids[1] == ~6);
        for (uint64_t first = 0; first < 5; first++) {
            cr_assert_eq(ds_tokens_targets(&tokens, bytes, first, 2, &targets, NULL), 0);
            cr_assert_eq(targets, mask[first] + mask[first + 1], "from %ju", (uintmax_t)first);
        }
        cr_assert_eq(ds_tokens_targets(&tokens, bytes, 0, 6, &targets, NULL), 0);
        cr_assert_eq(targets, 3);
    }
}

/* No mask, as many targets as ids. */
Test(tokens, without_a_mask_all_are_targets)
{
    static const char bytes[16];
    struct ds_tokens tokens;
    uint64_t targets;

    cr_assert_eq(parse(&tokens, "a.txt", bytes, sizeof(bytes), 4, NULL), 0);
    cr_assert_eq(tokens.mask_at, 0);
    cr_assert_eq(ds_tokens_targets(&tokens, bytes, 3, 9, &targets, NULL), 0);
    cr_assert_eq(targets, 9);
}

Test(tokens, masks_of_wrong_kind)
{
    static const struct {
        const char *type, *shape;
        size_t bytes;
        const char *text;
    } cases[] = {
        {"U8", "[3,2]", 6, "tensor 'loss_mask' is [3, 2], it must be [2, 3], as 'tokens' is"},
        {"U8", "[6]", 6, "tensor 'loss_mask' is [6], it must be [2, 3], as 'tokens' is"},
        {"U8", "[2,2]", 4, "it must be [2, 3]"},
        {"U8", "[1,2,3]", 6, "it must be [2, 3]"},
        {"I8", "[2,3]", 6, "tensor 'loss_mask' is I8, it must be U8 or BOOL"},
        {"F32", "[2,3]", 24, "tensor 'loss_mask' is F32, it must be U8 or BOOL"},
    };
    unsigned char bytes[512];
    char header[256];
    struct ds_tokens tokens;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};
        size_t len;

        (void)snprintf(header, sizeof(header),
                       "{\"tokens\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                       "\"loss_mask\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[24,%zu]}}",
                       cases[i].type, cases[i].shape, 24 + cases[i].bytes);
        len = safetensors(bytes, header, 24 + cases[i].bytes);
        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 2, &err), -EINVAL, "%zu: %s", i,
                     err.text);
        cr_assert_not_null(strstr(err.text, cases[i].text), "case %zu: %s", i, err.text);
    }
}

Test(tokens, masks_are_0_or_1)
{
    static const unsigned char values[] = {2, 7, 128, 255};
    char where[64];

    for (size_t i = 0; i < sizeof(values); i++) {
        unsigned char bytes[512], mask[6] = {1, 1, 1, 1, 0, 1};
        struct ds_error err = {0};
        struct ds_tokens tokens;
        uint64_t targets;
        size_t at, len, bad = 2 + i % 3;
        int32_t ids[6];

        mask[bad] = values[i];
        len = masked(bytes, "U8", mask, &at);
        (void)snprintf(where, sizeof(where), "mask %u at byte %zu is neither 0 nor 1", values[i],
                       at + bad);
        cr_assert_eq(parse(&tokens, "a.safetensors", bytes, len, 2, NULL), 0);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, bad, 100, ids, NULL), 0);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 1, 5, 100, ids, &err), -EBADMSG);
        cr_assert_str_eq(err.text, where);
        err.text[0] = '\0';
        cr_assert_eq(ds_tokens_targets(&tokens, bytes, 1, 5, &targets, &err), -EBADMSG);
        cr_assert_str_eq(err.text, where);
        cr_assert_eq(ds_tokens_targets(&tokens, bytes, 0, bad, &targets, NULL), 0);
    }
}

/* --- vocabulary ---------------------------------------------------------------------------- */

Test(tokens, ids_outside_the_vocabulary)
{
    static const struct {
        enum ds_token_type type;
        uint64_t bits, vocab;
        const char *text; /* NULL: inside */
    } cases[] = {
        {DS_TOKEN_U8, 255, 256, NULL},
        {DS_TOKEN_U8, 255, 255, "token 255 at byte"},
        {DS_TOKEN_U16, 65535, 65536, NULL},
        {DS_TOKEN_U16, 50257, 50257, "token 50257 at byte"},
        {DS_TOKEN_U32, 0xffffffff, DS_MAX_VOCAB, "token 4294967295"},
        {DS_TOKEN_U32, DS_MAX_VOCAB - 1, DS_MAX_VOCAB, NULL},
        {DS_TOKEN_I32, 0xffffffff, DS_MAX_VOCAB, "token -1"},
        {DS_TOKEN_I32, 0x80000000, DS_MAX_VOCAB, "token -2147483648"},
        {DS_TOKEN_I64, UINT64_MAX, DS_MAX_VOCAB, "token -1"},
        {DS_TOKEN_I64, (UINT64_C(1) << 32) + 5, 256, "token 4294967301"},
        {DS_TOKEN_I64, UINT64_C(1) << 63, 256, "token -9223372036854775808"},
    };
    char where[64];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t width = ds_token_bytes(cases[i].type), bad = 5;
        struct ds_tokens tokens = {.type = cases[i].type, .at = 16, .count = 8};
        unsigned char bytes[16 + 8 * 8 + 8] = {0};
        struct ds_error err = {0};
        int32_t ids[8];

        ds_put_u64(bytes + 16 + bad * width, cases[i].bits);
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 0, bad, cases[i].vocab, ids, &err), 0);
        if (cases[i].text == NULL) {
            cr_assert_eq(ds_tokens_copy(&tokens, bytes, 2, 6, cases[i].vocab, ids, &err), 0);
            cr_assert_eq((uint64_t)ids[3], cases[i].bits);
            continue;
        }
        cr_assert_eq(ds_tokens_copy(&tokens, bytes, 2, 6, cases[i].vocab, ids, &err), -EBADMSG);
        cr_assert_not_null(strstr(err.text, cases[i].text), "case %zu: %s", i, err.text);
        (void)snprintf(where, sizeof(where), "at byte %zu is outside the vocabulary of %ju ids",
                       16 + bad * width, (uintmax_t)cases[i].vocab);
        cr_assert_not_null(strstr(err.text, where), "case %zu: %s", i, err.text);
    }
}
