/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_json.c - what the writer writes, jansson reads as the same; reading has bounds and reasons.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/json_read.h"

static struct ds_buf out;
static struct ds_json json;

static void begin(void)
{
    ds_buf_init(&out, 1 << 20);
    ds_json_init(&json, &out);
}

static void end(void)
{
    ds_buf_release(&out);
}

Test(json, commas_and_nesting, .init = begin, .fini = end)
{
    ds_json_object(&json, NULL);
    ds_json_u64(&json, "step", 7);
    ds_json_array(&json, "empty");
    ds_json_end_array(&json);
    ds_json_array(&json, "list");
    ds_json_i64(&json, NULL, -1);
    ds_json_object(&json, NULL);
    ds_json_end_object(&json);
    ds_json_bool(&json, NULL, true);
    ds_json_bool(&json, NULL, false);
    ds_json_null(&json, NULL);
    ds_json_end_array(&json);
    ds_json_object(&json, "o");
    ds_json_string(&json, "a", "b");
    ds_json_end_object(&json);
    ds_json_null(&json, "last");
    ds_json_end_object(&json);
    cr_assert_str_eq(ds_buf_text(&out), "{\"step\":7,\"empty\":[],\"list\":[-1,{},true,false,null],"
                                        "\"o\":{\"a\":\"b\"},\"last\":null}");
}

/* clang-format off */
static const struct {
    const char *in, *out;
} strings[] = {
    {"", "\"\""},
    {"plain", "\"plain\""},
    {"\"\\/", "\"\\\"\\\\/\""},
    {"\n\r\t\b\x01\x1f\x7f", "\"\\n\\r\\t\\u0008\\u0001\\u001f\\u007f\""},
    {"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "\"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80\""},
    {"a\xff" "b", "\"a\xef\xbf\xbd" "b\""},
    {"\xc3", "\"\xef\xbf\xbd\""},
    {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
    {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
};
/* clang-format on */

Test(json, strings_are_escaped, .init = begin, .fini = end)
{
    for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
        ds_buf_reset(&out);
        ds_json_init(&json, &out);
        ds_json_string(&json, NULL, strings[i].in);
        cr_assert_str_eq(ds_buf_text(&out), strings[i].out, "case %zu", i);
    }
}

Test(json, keys_are_escaped, .init = begin, .fini = end)
{
    ds_json_object(&json, NULL);
    ds_json_null(&json, "a\"b\n");
    ds_json_end_object(&json);
    cr_assert_str_eq(ds_buf_text(&out), "{\"a\\\"b\\n\":null}");
}

Test(json, numbers, .init = begin, .fini = end)
{
    static const struct {
        double value;
        int digits;
        const char *text;
    } cases[] = {
        {0, 6, "0"},
        {-0.0, 6, "-0"},
        {1.5, 6, "1.5"},
        {3.14159265358979, 3, "3.14"},
        {123456.7, 1, "1e+05"},
        {0.1, 17, "0.1"},
        {1.0 / 3, 17, "0.3333333333333333"},
        {5e-324, 17, "4.94065645841247e-324"},
        {1.7976931348623157e308, 17, "1.7976931348623157e+308"},
        {(double)NAN, 17, "null"},
        {HUGE_VAL, 6, "null"},
        {-HUGE_VAL, 6, "null"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ds_buf_reset(&out);
        ds_json_init(&json, &out);
        ds_json_f64(&json, NULL, cases[i].value, cases[i].digits);
        cr_assert_str_eq(ds_buf_text(&out), cases[i].text, "case %zu", i);
    }
}

Test(json, reals_have_a_point, .init = begin, .fini = end)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{4.0, "4.0"},      {-0.0, "-0.0"},
                 {0.5, "0.5"},      {999999999999999.0, "999999999999999.0"},
                 {1e15, "1e+15"},   {1e-7, "1e-07"},
                 {1e300, "1e+300"}, {(double)NAN, "null"}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ds_buf_reset(&out);
        ds_json_init(&json, &out);
        ds_json_real(&json, NULL, cases[i].value);
        cr_assert_str_eq(ds_buf_text(&out), cases[i].text, "case %zu", i);
    }
}

Test(json, lists_of_numbers_come_back, .init = begin, .fini = end)
{
    const struct ds_numbers numbers = {3, {1.0, 1.0800000429153442, -2e-9}};
    struct ds_numbers read;
    json_t *root;

    ds_json_init(&json, &out);
    ds_json_object(&json, NULL);
    ds_json_numbers(&json, "n", &numbers);
    ds_json_end_object(&json);
    root = ds_json_parse(ds_buf_text(&out), out.len, NULL);
    cr_assert_not_null(root);
    cr_assert_eq(ds_json_get_numbers(root, "n", &read, NULL), 0);
    cr_assert(memcmp(&read, &numbers, sizeof(read)) == 0);
    cr_assert_eq(ds_json_get_numbers(root, "m", &read, NULL), -EBADMSG);
    json_decref(root);
}

/* Every byte but NUL in a string, the edges of the integers, hard doubles. */
Test(json, jansson_reads_what_was_written, .init = begin, .fini = end)
{
    static const double reals[] = {0.1,
                                   1.0 / 3,
                                   2.0 / 3,
                                   1e23,
                                   5e-324,
                                   1e-310,
                                   9007199254740993.0,
                                   1.7976931348623157e308,
                                   0x1.fffffffffffffp-3};
    enum { REALS = sizeof(reals) / sizeof(reals[0]) };
    char text[128];
    json_t *root;

    for (int i = 1; i < 128; i++)
        text[i - 1] = (char)i;
    text[127] = '\0';
    ds_json_object(&json, NULL);
    ds_json_string(&json, text, text);
    ds_json_i64(&json, "min", INT64_MIN);
    ds_json_u64(&json, "max", INT64_MAX);
    ds_json_array(&json, "reals");
    for (size_t i = 0; i < REALS; i++)
        ds_json_f64(&json, NULL, reals[i], 17);
    ds_json_end_array(&json);
    ds_json_end_object(&json);

    root = ds_json_parse(out.data, out.len, NULL);
    cr_assert_not_null(root);
    cr_assert_str_eq(json_string_value(json_object_get(root, text)), text);
    cr_assert_eq(json_integer_value(json_object_get(root, "min")), INT64_MIN);
    cr_assert_eq(json_integer_value(json_object_get(root, "max")), INT64_MAX);
    for (size_t i = 0; i < REALS; i++)
        cr_assert(json_number_value(json_array_get(json_object_get(root, "reals"), i)) == reals[i],
                  "%a", reals[i]);
    json_decref(root);
}

Test(json, a_full_buffer_is_marked)
{
    struct ds_buf small;

    ds_buf_init(&small, 10);
    ds_json_init(&json, &small);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "much", "too long");
    ds_json_end_object(&json);
    cr_assert(small.failed);
    ds_buf_release(&small);
}

/* --- reading ------------------------------------------------------------------------------- */

Test(json_read, wrong_documents_are_refused)
{
    static const char *const cases[] = {
        "",
        " ",
        "{",
        "{\"a\":1,}",
        "{\"a\":1}{",
        "{\"a\":1} x",
        "{\"a\":1,\"a\":2}",
        "{a:1}",
        "[1,2",
        "\"\\u0000\"",
        "[\"\xff\"]",
        "[1e999]",
        "[99999999999999999999]",
        "[NaN]",
        "[01]",
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};

        cr_assert_null(ds_json_parse(cases[i], strlen(cases[i]), &err), "'%s'", cases[i]);
        cr_assert_eq(err.code, EBADMSG);
        cr_assert_not_null(strstr(err.text, "line 1"), "%s", err.text);
    }
}

Test(json_read, endless_nesting_is_refused)
{
    static char deep[100000];

    memset(deep, '[', sizeof(deep));
    cr_assert_null(ds_json_parse(deep, sizeof(deep), NULL));
}

Test(json_read, members)
{
    static const char text[] = "{\"n\":7,\"neg\":-1,\"f\":1.5,\"s\":\"x\",\"z\":null}";
    json_t *root = ds_json_parse(text, strlen(text), NULL);
    const char *s = NULL;
    uint64_t n = 0;
    double f = 0;

    cr_assert_not_null(root);
    cr_assert_eq(ds_json_get_u64(root, "n", 7, &n, NULL), 0);
    cr_assert_eq(n, 7);
    cr_assert_eq(ds_json_get_u64(root, "n", 6, &n, NULL), -EBADMSG);
    cr_assert_eq(ds_json_get_u64(root, "neg", UINT64_MAX, &n, NULL), -EBADMSG);
    cr_assert_eq(ds_json_get_u64(root, "f", 9, &n, NULL), -EBADMSG);
    cr_assert_eq(ds_json_get_f64(root, "f", &f, NULL), 0);
    cr_assert_eq(f, 1.5);
    cr_assert_eq(ds_json_get_f64(root, "n", &f, NULL), 0);
    cr_assert_eq(f, 7.0);
    cr_assert_eq(ds_json_get_f64(root, "z", &f, NULL), -EBADMSG);
    cr_assert_eq(ds_json_get_string(root, "s", &s, NULL), 0);
    cr_assert_str_eq(s, "x");
    cr_assert_eq(ds_json_get_string(root, "n", &s, NULL), -EBADMSG);
    json_decref(root);
}

Test(json_read, member_errors_name_the_key)
{
    json_t *root = ds_json_parse("{\"s\":\"x\"}", 9, NULL);
    struct ds_error err = {0};
    const char *s;
    uint64_t n;

    cr_assert_eq(ds_json_get_u64(root, "s", 1, &n, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "key 's' must be a whole number");
    cr_assert_eq(ds_json_get_string(root, "gone", &s, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "key 'gone' is missing");
    cr_assert_eq(ds_json_get_string(json_null(), "gone", &s, &err), -EBADMSG);
    json_decref(root);
}

Test(json_read, load_names_the_file, .init = tempdir_make, .fini = tempdir_remove)
{
    const char *path = tempdir_write("a.json", "{\"a\":\n1,}", 9);
    struct ds_error err = {0};
    json_t *root = NULL;

    cr_assert_eq(ds_json_load(path, 100, &root, &err), -EBADMSG);
    cr_assert_not_null(strstr(err.text, path));
    cr_assert_not_null(strstr(err.text, "line 2"));
    cr_assert_eq(ds_json_load(path, 8, &root, &err), -EBADMSG);
    cr_assert_not_null(strstr(err.text, "larger than the 8 bytes"), "%s", err.text);
    cr_assert_eq(ds_json_load(tempdir_path("none"), 100, &root, &err), -ENOENT);
    cr_assert_null(root);
    cr_assert_eq(ds_json_load(tempdir_write("a.json", "[1]", 3), 3, &root, NULL), 0);
    cr_assert_eq(json_array_size(root), 1);
    json_decref(root);
}
