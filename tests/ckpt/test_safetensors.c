/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_safetensors.c - headers that must parse, headers that must not, and the writer's own.
 */
#include <errno.h>
#include <fcntl.h>

#include "runtime/ckpt/safetensors.h"
#include "tests/ckpt/support.h"

TestSuite(safetensors, .init = tempdir_make, .fini = tempdir_remove);

/* A whole file: length, header, `data_bytes` zeros. */
static struct ds_buf file_of(const char *header, size_t header_len, size_t data_bytes)
{
    struct ds_buf out;

    ds_buf_init(&out, 1 << 20);
    for (unsigned i = 0; i < 8; i++) {
        char byte = (char)(unsigned char)((uint64_t)header_len >> (8 * i));

        cr_assert(ds_buf_put(&out, &byte, 1) == 0);
    }
    cr_assert(ds_buf_put(&out, header, header_len) == 0);
    for (size_t i = 0; i < data_bytes; i++)
        cr_assert(ds_buf_put(&out, "", 1) == 0);
    return out;
}

#define T(name, rest) "\"" name "\":{" rest "}"
#define F32_2X3(begin, end)                                                                        \
    "\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[" #begin "," #end "]"

Test(safetensors, good_headers_parse)
{
    /* clang-format off */
    static const struct { const char *header; size_t data, count; } cases[] = {
        {"{}", 0, 0},
        {"{}   ", 0, 0},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
        {"{" T("a", F32_2X3(0, 24)) "}", 24, 1},
        {"{" T("b", F32_2X3(0, 24)) "," T("a", F32_2X3(24, 48)) "}", 48, 2},
        {"{" T("b", F32_2X3(24, 48)) "," T("a", F32_2X3(0, 24)) "}\n  ", 48, 2},
        {"{" T("s", "\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]") "}", 8, 1},
        {"{" T("e", "\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[0,0]") "}", 0, 1},
        {"{" T("e", "\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]") ","
             T("a", F32_2X3(0, 24)) "}", 24, 2},
        {"{" T("q", "\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]") "}", 2, 1},
        {"{" T("q", "\"dtype\":\"Q9_K\",\"shape\":[4],\"data_offsets\":[0,3]") "}", 3, 1},
        {"{" T("d", "\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]") "}", 2, 1},
    };
    /* clang-format on */

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_buf file = file_of(cases[i].header, strlen(cases[i].header), cases[i].data);
        struct ds_safetensors st;
        struct ds_error err = {0};

        cr_assert(ds_safetensors_parse(&st, file.data, file.len, file.len, &err) == 0,
                  "case %zu: %s", i, err.text);
        cr_assert(st.count == cases[i].count, "case %zu: %zu tensors", i, st.count);
        cr_assert(st.data_bytes == cases[i].data && st.data_at == file.len - cases[i].data);
        for (size_t j = 1; j < st.count; j++)
            cr_assert(strcmp(st.tensor[j - 1].name, st.tensor[j].name) < 0);
        ds_safetensors_release(&st);
        ds_buf_release(&file);
    }
}

/* clang-format off */
static const struct { const char *header; size_t data; const char *says; } bad_headers[] = {
    {"", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{'"},
    {"[]", 0, "does not start with '{'"},
    {"{", 0, "the header"},
    {"{}x", 0, "the header"},
    {"{\"a\":1}", 0, "'a' is not described by an object"},
    {"{\"\":{}}", 0, "tensor name"},
    {"{" T("a", "") "}", 0, "'a': 'dtype' is not a type's name"},
    {"{" T("a", "\"dtype\":1") "}", 0, "'a': 'dtype' is not a type's name"},
    {"{" T("a", "\"dtype\":\"F32\"") "}", 0, "'a': 'shape' is not a list"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":{}") "}", 0, "'a': 'shape' is not a list"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[-1]") "}", 0, "'a': dimension 0 is not a whole number"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[1.0]") "}", 0, "'a': dimension 0 is not a whole number"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1]") "}", 0, "9 dimensions"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[6]") "}", 24, "'data_offsets' is not a pair"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0]") "}", 24, "not a pair"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24,48]") "}", 24, "not a pair"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[-1,23]") "}", 24, "not a pair"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[\"0\",24]") "}", 24, "not a pair"},
    {"{" T("a", F32_2X3(24, 0)) "}", 24, "do not lie in the 24 bytes"},
    {"{" T("a", F32_2X3(0, 25)) "}", 24, "do not lie in the 24 bytes"},
    {"{" T("a", F32_2X3(0, 24)) "}", 23, "do not lie in the 23 bytes"},
    {"{" T("a", F32_2X3(0, 9223372036854775807)) "}", 24, "do not lie in the 24 bytes"},
    {"{" T("a", F32_2X3(0, 18446744073709551615)) "}", 24, "the header"},
    {"{" T("a", F32_2X3(0, 20)) "}", 20, "20 bytes do not hold F32 of [2, 3]"},
    {"{" T("a", "\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,24]") "}", 24, "BF16 of [2, 3]"},
    {"{" T("a", "\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]") "}", 2, "do not hold F4"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]") "}", 0,
     "more than 2^64 elements"},
    {"{" T("a", "\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]") "}", 0,
     "do not hold F32"},
    {"{" T("a", "\"dtype\":\"F64\",\"shape\":[288230376151711744],\"data_offsets\":[0,0]") "}", 0,
     "do not hold F64"},
    {"{" T("a", F32_2X3(0, 24)) "," T("a", F32_2X3(24, 48)) "}", 48, "duplicate"},
    {"{" T("a", F32_2X3(0, 24)) "," T("b", F32_2X3(0, 24)) "}", 24, "overlap"},
    {"{" T("a", F32_2X3(0, 24)) "," T("b", F32_2X3(20, 44)) "}", 44, "overlap"},
    {"{" T("a", F32_2X3(0, 24)) "," T("b", F32_2X3(28, 52)) "}", 52, "hole"},
    {"{" T("a", F32_2X3(4, 28)) "}", 28, "hole"},
    {"{" T("a", F32_2X3(0, 24)) "}", 25, "the last 1 bytes of the data belong to no tensor"},
    {"{}", 1, "the last 1 bytes of the data belong to no tensor"},
    {"{" T("a\\u0000b", F32_2X3(0, 24)) "}", 24, "the header"},
    {"{" T("\xff", F32_2X3(0, 24)) "}", 24, "the header"},
};
/* clang-format on */

Test(safetensors, bad_headers_are_refused_with_the_reason)
{
    for (size_t i = 0; i < sizeof(bad_headers) / sizeof(bad_headers[0]); i++) {
        const char *header = bad_headers[i].header;
        struct ds_buf file = file_of(header, strlen(header), bad_headers[i].data);
        struct ds_safetensors st;
        struct ds_error err = {0};
        int rc = ds_safetensors_parse(&st, file.data, file.len, file.len, &err);

        cr_assert(rc == -EBADMSG, "case %zu %s: %d", i, header, rc);
        cr_assert(strstr(err.text, bad_headers[i].says) != NULL, "case %zu %s: '%s'", i, header,
                  err.text);
        cr_assert(st.count == 0 && st.tensor == NULL);
        ds_buf_release(&file);
    }
}

Test(safetensors, header_lengths_that_overflow_are_refused)
{
    static const uint64_t lengths[] = {3,
                                       100,
                                       DS_MAX_JSON_BYTES,
                                       (uint64_t)DS_MAX_JSON_BYTES + 1,
                                       INT64_MAX,
                                       UINT64_MAX - 8,
                                       UINT64_MAX - 7,
                                       UINT64_MAX};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        unsigned char bytes[10] = {[8] = '{', [9] = '}'};
        struct ds_safetensors st;
        struct ds_error err = {0};

        for (unsigned b = 0; b < 8; b++)
            bytes[b] = (unsigned char)(lengths[i] >> (8 * b));
        cr_assert(ds_safetensors_parse(&st, bytes, sizeof(bytes), sizeof(bytes), &err) == -EBADMSG,
                  "length %ju", (uintmax_t)lengths[i]);
        cr_assert(strstr(err.text, "a header of") != NULL, "%s", err.text);
    }
}

Test(safetensors, every_truncation_is_refused)
{
    static const char header[] = "{" T("a", F32_2X3(0, 24)) "," T("b", F32_2X3(24, 48)) "}";
    struct ds_buf file = file_of(header, strlen(header), 48);

    for (size_t len = 0; len < file.len; len++) {
        char *copy = malloc(len + 1); /* of this size, so that a sanitizer sees a read behind it */
        struct ds_safetensors st;
        struct ds_error err = {0};

        cr_assert(copy != NULL);
        memcpy(copy, file.data, len);
        cr_assert(ds_safetensors_parse(&st, copy, len, len, &err) == -EBADMSG, "%zu bytes", len);
        cr_assert(err.text[0] != '\0');
        if (len < 8 + strlen(header)) /* the header itself is not all there */
            cr_assert(ds_safetensors_parse(&st, copy, len, file.len, &err) == -EBADMSG);
        spill(tempdir_path("cut"), copy, len);
        int fd = open(tempdir_path("cut"), O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && ds_safetensors_read(&st, fd, &err) == -EBADMSG);
        (void)close(fd);
        free(copy);
    }
    ds_buf_release(&file);
}

Test(safetensors, tensors_are_found_by_name_and_type)
{
    static const char header[] =
        "{" T("b", F32_2X3(0, 24)) "," T("a", "\"dtype\":\"BOOL\",\"shape\":[3],"
                                              "\"data_offsets\":[24,27]") "}";
    struct ds_buf file = file_of(header, strlen(header), 27);
    const struct ds_safetensor *t = NULL;
    struct ds_safetensors st;
    struct ds_error err = {0};

    cr_assert(ds_safetensors_parse(&st, file.data, file.len, file.len, &err) == 0, "%s", err.text);
    cr_assert(ds_safetensors_get(&st, "b", &t, &err) == 0);
    cr_assert(t->dtype == DS_F32 && t->elems == 6 && t->begin == 0 && t->end == 24);
    cr_assert(t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    cr_assert(ds_safetensors_get(&st, "c", &t, &err) == -EBADMSG);
    cr_assert(strstr(err.text, "no tensor 'c'") != NULL, "%s", err.text);
    cr_assert(ds_safetensors_get(&st, "a", &t, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "'a' has the type 'BOOL'") != NULL, "%s", err.text);
    cr_assert(ds_safetensors_find(&st, "") == NULL);
    ds_safetensors_release(&st);
    ds_buf_release(&file);
}

Test(safetensors, built_headers_are_sorted_aligned_and_read_back)
{
    for (size_t pad = 0; pad < 9; pad++) { /* every remainder of the padding */
        char longest[DS_MAX_TENSOR_NAME + 1];
        struct ds_safetensor t[] = {
            {.name = "z", .dtype = DS_F32, .ndim = 1, .shape = {3}},
            {.name = "half", .dtype = DS_BF16, .ndim = 2, .shape = {3, 5}},
            {.name = longest, .dtype = DS_F32, .ndim = 0},
            {.name = "none", .dtype = DS_I64, .ndim = 2, .shape = {0, 7}},
        };
        struct ds_safetensors st;
        struct ds_error err = {0};
        struct ds_buf out;

        memset(longest, 'n', sizeof(longest));
        longest[DS_MAX_TENSOR_NAME - pad] = '\0';
        ds_buf_init(&out, 1 << 16);
        cr_assert(ds_safetensors_build(t, 4, pad % 2 ? "pt" : NULL, &out, &err) == 0);
        cr_assert(out.len % 8 == 0 && strcmp(t[0].name, "none") == 0 && t[3].end == 46);
        cr_assert(t[0].begin == 0 && t[1].begin == 0 && t[2].begin == 4 && t[3].begin == 16);
        cr_assert(ds_safetensors_parse(&st, out.data, out.len, out.len + 46, &err) == 0, "%s",
                  err.text);
        cr_assert(st.count == 4 && st.data_at == out.len);
        for (size_t i = 0; i < 4; i++) {
            const struct ds_safetensor *read = ds_safetensors_find(&st, t[i].name);

            cr_assert(read != NULL && read->dtype == t[i].dtype && read->ndim == t[i].ndim);
            cr_assert(read->begin == t[i].begin && read->end == t[i].end);
            cr_assert(memcmp(read->shape, t[i].shape, sizeof(t[i].shape)) == 0);
        }
        ds_safetensors_release(&st);
        ds_buf_release(&out);
    }
}

Test(safetensors, what_cannot_be_built_is_refused)
{
    struct ds_safetensor twice[] = {{.name = "a", .dtype = DS_F32, .ndim = 1, .shape = {3}},
                                    {.name = "a", .dtype = DS_U8, .ndim = 1, .shape = {3}}};
    struct ds_safetensor huge = {
        .name = "a", .dtype = DS_F32, .ndim = 2, .shape = {1u << 31, 1u << 31}};
    struct ds_error err = {0};
    struct ds_buf out;

    ds_buf_init(&out, 48);
    cr_assert(ds_safetensors_build(twice, 2, NULL, &out, &err) == -EINVAL, "%s", err.text);
    cr_assert(ds_safetensors_build(&huge, 1, NULL, &out, &err) == -EOVERFLOW, "%s", err.text);
    huge.shape[0] = huge.shape[1] = 1;
    cr_assert(ds_safetensors_build(&huge, 1, NULL, &out, &err) == -ENOBUFS, "%s", err.text);
    ds_buf_release(&out);
}

Test(safetensors, shapes_are_multiplied_checked_and_printed)
{
    uint64_t most[DS_MAX_TENSOR_DIMS], elems = 7;
    char text[DS_SHAPE_TEXT];

    for (size_t i = 0; i < DS_MAX_TENSOR_DIMS; i++)
        most[i] = UINT64_MAX;
    cr_assert(!ds_shape_elems(most, 2, &elems) && elems == 7);
    cr_assert(ds_shape_elems(most, 1, &elems) && elems == UINT64_MAX);
    cr_assert(ds_shape_elems(most, 0, &elems) && elems == 1);
    cr_assert(strlen(ds_shape_text(most, DS_MAX_TENSOR_DIMS, text)) == 8 * 20 + 7 * 2 + 2);
    cr_assert(strcmp(ds_shape_text(most, 0, text), "[]") == 0);
}
