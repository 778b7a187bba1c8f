/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_yaml.c - the tree, its places, what is refused, and texts that survive quoting.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/limits.h"
#include "base/yaml.h"

static int parse(struct ds_arena *arena, const char *text, struct ds_yaml **root,
                 struct ds_error *err)
{
    ds_arena_init(arena);
    return ds_yaml_parse(arena, "f", text, strlen(text), root, err);
}

static bool is_at(struct ds_yaml_mark mark, unsigned line, unsigned column)
{
    return mark.line == line && mark.column == column;
}

Test(yaml, every_node_knows_its_place)
{
    static const char text[] = "a: 1\n"
                               "b:\n"
                               "  - x\n"
                               "  - 'y'\n"
                               "c: {d: \"z\", e: [1,2]}\n"
                               "\xc3\xa9: |\n"
                               "  t\n";
    const struct ds_yaml *a, *b, *c, *e;
    struct ds_arena arena;
    struct ds_yaml *root;
    struct ds_error err;

    cr_assert(parse(&arena, text, &root, &err) == 0, "%s", err.text);
    cr_expect(root->kind == DS_YAML_MAP && root->count == 4 && root->key == NULL);
    a = ds_yaml_get(root, "a");
    cr_assert(a != NULL);
    cr_expect(a->plain && is_at(a->mark, 1, 4) && is_at(a->key_mark, 1, 1));
    cr_expect_str_eq(a->text, "1");
    b = ds_yaml_get(root, "b");
    cr_assert(b != NULL && b->kind == DS_YAML_SEQUENCE && b->count == 2);
    cr_expect(is_at(b->mark, 3, 3) && is_at(b->child->mark, 3, 5));
    cr_expect(b->child->plain && !b->child->next->plain && b->child->next->next == NULL);
    c = ds_yaml_get(root, "c");
    cr_assert(c != NULL && c->kind == DS_YAML_MAP);
    e = ds_yaml_get(c, "e");
    cr_assert(e != NULL);
    cr_expect(is_at(e->key_mark, 5, 13) && is_at(e->mark, 5, 16));
    cr_expect(!ds_yaml_get(c, "d")->plain);
    cr_expect(!ds_yaml_get(root, "\xc3\xa9")->plain, "a block scalar is not plain");
    cr_expect_str_eq(ds_yaml_get(root, "\xc3\xa9")->text, "t\n");
    cr_expect(ds_yaml_get(root, "zz") == NULL && ds_yaml_get(a, "a") == NULL);
    ds_arena_release(&arena);
}

Test(yaml, null_is_plain_and_says_nothing)
{
    static const struct {
        const char *text;
        bool null;
    } table[] = {{"a:\n", true},     {"a: ~\n", true},    {"a: null\n", true}, {"a: Null\n", true},
                 {"a: ''\n", false}, {"a: '~'\n", false}, {"a: nul\n", false}, {"a: []\n", false}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_arena arena;
        struct ds_yaml *root;

        cr_assert(parse(&arena, table[i].text, &root, NULL) == 0);
        cr_expect(ds_yaml_is_null(root->child) == table[i].null, "%s", table[i].text);
        ds_arena_release(&arena);
    }
}

Test(yaml, each_refusal_has_its_place)
{
    static const struct {
        const char *text, *message;
    } table[] = {
        {"", "f:1:1: the document is empty"},
        {"# c\n", "f:1:1: the document is empty"},
        {"--- ~\n", "f:1:1: the document is empty"},
        {"a: 1\n---\nb: 2\n", "f:2:1: a second document is not allowed"},
        {"%TAG ! tag:x,2000:\n--- {a: 1}\n", "f:1:1: a '%TAG' directive is not allowed"},
        {"a: &b 1\n", "f:1:4: anchor '&b' is not allowed"},
        {"&r {a: 1}\n", "f:1:1: anchor '&r' is not allowed"},
        {"[&b [1]]\n", "f:1:2: anchor '&b' is not allowed"},
        {"a: !x 1\n", "f:1:4: tag '!x' is not allowed"},
        {"a: ! 1\n", "f:1:4: tag '!' is not allowed"},
        {"!!map {a: 1}\n", "f:1:1: tag 'tag:yaml.org,2002:map' is not allowed"},
        {"a: *b\n", "f:1:4: alias '*b' is not allowed; put text that starts with '*' in quotes"},
        {"a: {<<: 1}\n", "f:1:5: merge key '<<' is not allowed; write the keys out"},
        {"{a: 1, b: 2, a: 3}\n", "f:1:14: key 'a' is already set on line 1"},
        {"a: 1\n'a': 2\n", "f:2:1: key 'a' is already set on line 1"},
        {"{a: 1}: 2\n", "f:1:1: a key must be text, not a map"},
        {"a: b: c\n", "f:1:5: not valid YAML: mapping values are not allowed in this context"},
        {"a: 'b\n",
         "f:2:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar"},
        {"a: \"\\0\"\n", "f:1:4: text must not hold a NUL"},
        {"\xc3\xa9\xc3\xa9: \x7f\n", "f:1:5: control character U+007F is not allowed"},
        {"a: 1\r\nb: 2\rc: \xc0\x80\n", "f:3:4: byte 0xc0 is not valid UTF-8"},
        {"a: \xed\xa0\x80\n", "f:1:4: byte 0xed is not valid UTF-8"},
        {"a: \xe2\x82\n", "f:1:4: byte 0xe2 is not valid UTF-8"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_error err = {0};
        struct ds_arena arena;
        struct ds_yaml *root = NULL;

        cr_expect(parse(&arena, table[i].text, &root, &err) == -EINVAL, "%s", table[i].message);
        cr_expect_str_eq(err.text, table[i].message);
        cr_expect(root == NULL, "untouched on failure");
        ds_arena_release(&arena);
    }
}

Test(yaml, nul_bytes_and_a_byte_order_mark)
{
    struct ds_error err = {0};
    struct ds_arena arena;
    struct ds_yaml *root;

    ds_arena_init(&arena);
    cr_expect(ds_yaml_parse(&arena, "f", "a: b\0c\n", 7, &root, &err) == -EINVAL);
    cr_expect_str_eq(err.text, "f:1:5: control character U+0000 is not allowed");
    cr_assert(ds_yaml_parse(&arena, "f",
                            "\xef\xbb\xbf"
                            "a: 1\nb: 2\n",
                            13, &root, &err) == 0,
              "%s", err.text);
    cr_expect_str_eq(root->child->key, "a");
    cr_expect_eq(root->child->key_mark.column, 1);
    ds_arena_release(&arena);
}

/* `depth` open brackets, closed again. */
static int nested(unsigned depth)
{
    char text[2 * DS_MAX_YAML_DEPTH + 8];
    struct ds_arena arena;
    struct ds_yaml *root;
    int rc;

    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    ds_arena_init(&arena);
    rc = ds_yaml_parse(&arena, "f", text, 2 * (size_t)depth, &root, NULL);
    ds_arena_release(&arena);
    return rc;
}

Test(yaml, depth_ends_where_it_says)
{
    cr_expect(nested(DS_MAX_YAML_DEPTH) == 0);
    cr_expect(nested(DS_MAX_YAML_DEPTH + 1) == -EINVAL);
}

Test(yaml, thousands_of_keys_are_compared_quickly, .timeout = 20)
{
    struct ds_buf text;
    struct ds_arena arena;
    struct ds_yaml *root;
    struct ds_error err = {0};

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    for (int i = 0; i < 4900; i++)
        (void)ds_buf_printf(&text, "key%d: 1\n", i);
    ds_arena_init(&arena);
    cr_expect(ds_yaml_parse(&arena, "f", text.data, text.len, &root, &err) == 0, "%s", err.text);
    (void)ds_buf_puts(&text, "key7: 1\n");
    cr_expect(ds_yaml_parse(&arena, "f", text.data, text.len, &root, &err) == -EINVAL);
    cr_expect_str_eq(err.text, "f:4901:1: key 'key7' is already set on line 8");
    ds_arena_release(&arena);
    ds_buf_release(&text);
}

Test(yaml, quoted_text_reads_back)
{
    static const char *const texts[] = {
        "",
        "plain",
        "a\"b\\c",
        "tab\tnl\ncr\r",
        "\x01\x1b\x7f",
        "\xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9",
        "\xef\xbb\xbf",
        "\xef\xbf\xbe",
        " lead and trail ",
        "#: {[,]}&*!|>'%@`",
        "\xf0\x9f\x98\x80",
        "~",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct ds_error err = {0};
        struct ds_arena arena;
        struct ds_yaml *root;
        struct ds_buf out;

        ds_buf_init(&out, 1000);
        (void)ds_buf_puts(&out, "k: [");
        cr_assert(ds_yaml_quote(texts[i], &out) == 0);
        (void)ds_buf_puts(&out, "]\n");
        cr_assert(parse(&arena, ds_buf_text(&out), &root, &err) == 0, "%zu: %s", i, err.text);
        cr_expect_str_eq(root->child->child->text, texts[i]);
        ds_arena_release(&arena);
        ds_buf_release(&out);
    }
}

Test(yaml, what_is_not_utf8_cannot_be_quoted)
{
    struct ds_buf out;

    ds_buf_init(&out, 100);
    cr_expect(ds_yaml_quote("a\xff", &out) == -EINVAL);
    ds_buf_release(&out);
    ds_buf_init(&out, 3);
    cr_expect(ds_yaml_quote("too long", &out) == -ENOBUFS);
    ds_buf_release(&out);
}
