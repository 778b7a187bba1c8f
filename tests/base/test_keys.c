/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_keys.c - a table of every type: set, refused, printed, written; suggestions.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/keys.h"
#include "base/limits.h"
#include "base/nearest.h"

struct row {
    const char *name;
    double number, maybe;
};

struct thing {
    bool flag;
    uint64_t whole, automatic;
    double real, pair[2];
    const char *text, *word;
    unsigned choice, set;
    struct ds_strings list, env;
    struct ds_rows rows;
    struct ds_numbers numbers;
};

/* clang-format off */
static const struct ds_choice choices[] = {
    {"red", 1}, {"green", 2}, {"blue", 4}, {NULL, 0}};

#define AT(f) offsetof(struct thing, f)
static const struct ds_key row_keys[] = {
    {"name", DS_KEY_TEXT, DS_KEY_REQUIRED, offsetof(struct row, name), NULL, 0, 10, NULL, "", NULL},
    {"number", DS_KEY_F64, 0, offsetof(struct row, number), "1", 0, 9, NULL, "", NULL},
    {"maybe", DS_KEY_F64, DS_KEY_DERIVED, offsetof(struct row, maybe), "prose", 0, 9, NULL, "",
     NULL},
};
static const struct ds_key_rows rows = {row_keys, 3, sizeof(struct row)};

static const struct ds_key keys[] = {
    {"flag", DS_KEY_BOOL, 0, AT(flag), "true", 0, 0, NULL, "a", NULL},
    {"n.whole", DS_KEY_U64, DS_KEY_REQUIRED, AT(whole), NULL, 1, 1000, NULL, "b", NULL},
    {"n.automatic", DS_KEY_U64, DS_KEY_AUTO, AT(automatic), "auto", 1, 8, NULL, "c", NULL},
    {"n.real", DS_KEY_F64, 0, AT(real), "0.5", -1, 1, NULL, "d", NULL},
    {"n.deep.pair", DS_KEY_PAIR, DS_KEY_BELOW, AT(pair), "[0, 0.5]", 0, 1, NULL, "e", NULL},
    {"text", DS_KEY_TEXT, 0, AT(text), NULL, 0, 10, NULL, "g", NULL},
    {"word", DS_KEY_WORD, 0, AT(word), "red", 0, 0, choices, "h", NULL},
    {"choice", DS_KEY_ENUM, 0, AT(choice), "green", 0, 0, choices, "i", NULL},
    {"set", DS_KEY_SET, 0, AT(set), "[red, green]", 0, 0, choices, "j", NULL},
    {"list", DS_KEY_LIST, 0, AT(list), "[]", 0, 10, NULL, "k", NULL},
    {"env", DS_KEY_ENV, 0, AT(env), "{}", 0, 0, NULL, "l", NULL},
    {"rows", DS_KEY_ROWS, 0, AT(rows), "[]", 0, 3, NULL, "m", &rows},
    {"numbers", DS_KEY_NUMBERS, 0, AT(numbers), "[1, 2.5]", 0, 9, NULL, "n", NULL},
};
/* clang-format on */

enum { KEYS = sizeof(keys) / sizeof(keys[0]) };

struct work {
    struct thing thing;
    struct ds_arena arena;
    struct ds_keys_origin origin[KEYS];
    struct ds_keys keys;
    struct ds_error err;
};

static void start(struct work *w)
{
    memset(w, 0, sizeof(*w));
    ds_arena_init(&w->arena);
    w->keys = (struct ds_keys){.key = keys,
                               .count = KEYS,
                               .base = &w->thing,
                               .arena = &w->arena,
                               .origin = w->origin,
                               .name = "f"};
    cr_assert(ds_keys_defaults(&w->keys, &w->err) == 0, "%s", w->err.text);
}

static int take(struct work *w, const char *text)
{
    struct ds_yaml *root = NULL;
    int rc = ds_yaml_parse(&w->arena, "f", text, strlen(text), &root, &w->err);

    return rc != 0 ? rc : ds_keys_read(&w->keys, root, &w->err);
}

Test(keys, defaults)
{
    struct work w;

    start(&w);
    cr_expect(w.thing.flag && w.thing.automatic == 0 && w.thing.real == 0.5);
    cr_expect(w.thing.pair[0] == 0 && w.thing.pair[1] == 0.5);
    cr_expect(w.thing.text == NULL && w.thing.choice == 2 && w.thing.set == 3);
    cr_expect_str_eq(w.thing.word, "red");
    cr_expect(w.thing.list.count == 0 && w.thing.env.count == 0);
    cr_expect(w.thing.numbers.count == 2 && w.thing.numbers.item[1] == 2.5);
    cr_expect(!ds_keys_given(&w.keys, "flag"));
    cr_expect(ds_keys_require(&w.keys, &w.err) == -EINVAL);
    cr_expect_str_eq(w.err.text, "f:1:1: 'n.whole' is required");
    ds_arena_release(&w.arena);
}

Test(keys, written_struct_reads_back)
{
    static const char *const words[] = {
        "flag=false",
        "n.whole=7",
        "n.automatic=3",
        "n.real=-1e-3",
        "n.deep.pair=[0.25, 0.125]",
        "text=\"a: #\"",
        "choice=red",
        "set=[green]",
        "list=[a, \"- b\"]",
        "env={A: '', B: \"x y\"}",
        "rows=[{name: '*.a', maybe: 0}, {number: 2.5, name: b}]",
        "numbers=[1.0800000429153442, 7, 1e-3]",
    };
    static const char expected[] = "flag: false\n"
                                   "n:\n"
                                   "  whole: 7\n"
                                   "  automatic: 3\n"
                                   "  real: -0.001\n"
                                   "  deep:\n"
                                   "    pair: [0.25, 0.125]\n"
                                   "text: \"a: #\"\n"
                                   "word: red\n"
                                   "choice: red\n"
                                   "set: [green]\n"
                                   "list: [a, \"- b\"]\n"
                                   "env: {\"A\": \"\", \"B\": \"x y\"}\n"
                                   "rows: [{name: \"*.a\", number: 1, maybe: 0}, "
                                   "{name: b, number: 2.5}]\n"
                                   "numbers: [1.0800000429153442, 7, 0.001]\n";
    struct ds_buf first, second;
    struct work w, again;

    start(&w);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        cr_assert(ds_keys_override(&w.keys, words[i], &w.err) == 0, "%s", w.err.text);
    cr_expect(ds_keys_require(&w.keys, &w.err) == 0);
    cr_expect(ds_keys_overridden(&w.keys, "flag") && !ds_keys_overridden(&w.keys, "word"));
    ds_buf_init(&first, 4000);
    ds_buf_init(&second, 4000);
    ds_keys_write(&w.keys, &first);
    cr_expect_str_eq(ds_buf_text(&first), expected);
    start(&again);
    cr_assert(take(&again, ds_buf_text(&first)) == 0, "%s", again.err.text);
    ds_keys_write(&again.keys, &second);
    cr_expect_str_eq(ds_buf_text(&second), expected);
    again.keys.skip[0] = "word";
    ds_buf_reset(&second);
    ds_keys_write(&again.keys, &second);
    cr_expect(strstr(ds_buf_text(&second), "word") == NULL);
    ds_buf_release(&first);
    ds_buf_release(&second);
    ds_arena_release(&w.arena);
    ds_arena_release(&again.arena);
}

Test(keys, each_wrong_value_has_its_sentence)
{
    static const struct {
        const char *word;
        int code;
        const char *message;
    } table[] = {
        {"flag=1", EINVAL, "'flag' must be true or false, not '1'"},
        {"n.whole=1001", EINVAL, "'n.whole' must be a whole number between 1 and 1000, not '1001'"},
        {"n.whole=1e2", EINVAL, "'n.whole' must be written in plain digits: 100, not '1e2'"},
        {"n.automatic=9", EINVAL,
         "'n.automatic' must be 'auto' or a whole number between 1 and 8, not '9'"},
        {"n.real=1.5", EINVAL, "'n.real' must be a number between -1 and 1, not '1.5'"},
        {"n.real=\"1\"", EINVAL, "'n.real' must be a number without quotes"},
        {"n.deep.pair=[0, 1]", EINVAL,
         "'n.deep.pair' must be a number at least 0 and below 1, not '1'"},
        {"text=12345678901", EINVAL, "'text' must be at most 10 bytes long, not 11"},
        {"word=green", 0, NULL},
        {"word=pink", EINVAL, "'word' must be 'red', 'green' or 'blue', not 'pink'"},
        {"choice=pink", EINVAL, "'choice' must be 'red', 'green' or 'blue', not 'pink'"},
        {"set=[red, [green]]", EINVAL, "'set' must be a list of names, not a list"},
        {"list=[12345678901]", EINVAL, "'list' must be at most 10 bytes long, not 11"},
        {"list=[a, ~]", EINVAL, "'list' has no value; it must be a list of texts"},
        {"env={'': x}", EINVAL,
         "'' in 'env' is not a name of an environment variable; use letters, digits and '_'"},
        {"env={A: ~}", EINVAL, "'env' has no value; it must be text"},
        {"numbers=3", EINVAL, "'numbers' must be a list of numbers, at most 128"},
        {"numbers=[1, ~]", EINVAL, "'numbers' has no value; it must be a list of numbers"},
        {"numbers=[1, 10]", EINVAL, "'numbers' must be a number between 0 and 9, not '10'"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char message[300];
        struct work w;

        start(&w);
        cr_expect(ds_keys_override(&w.keys, table[i].word, &w.err) == -table[i].code, "%s",
                  table[i].word);
        (void)snprintf(message, sizeof(message), "override '%s': %s",
                       strncmp(table[i].word, "env=", 4) == 0 ? "env=..." : table[i].word,
                       table[i].message == NULL ? "" : table[i].message);
        if (table[i].message != NULL)
            cr_expect_str_eq(w.err.text, message);
        ds_arena_release(&w.arena);
    }
}

Test(keys, a_failed_set_leaves_the_field)
{
    struct work w;

    start(&w);
    cr_expect(take(&w, "n: {real: 2}") == -EINVAL);
    cr_expect(w.thing.real == 0.5);
    cr_expect(ds_keys_override(&w.keys, "n.deep.pair=[0.1, 7]", &w.err) == -EINVAL);
    cr_expect(w.thing.pair[0] == 0 && w.thing.pair[1] == 0.5);
    cr_expect(ds_keys_override(&w.keys, "set=[red, pink]", &w.err) == -EINVAL);
    cr_expect(w.thing.set == 3);
    cr_expect(ds_keys_override(&w.keys, "numbers=[3, 10]", &w.err) == -EINVAL);
    cr_expect(w.thing.numbers.count == 2 && w.thing.numbers.item[0] == 1.0);
    ds_arena_release(&w.arena);
}

/* As many as there is room for, and one more. */
Test(keys, lists_of_numbers_end)
{
    struct ds_buf word;
    struct work w;

    start(&w);
    ds_buf_init(&word, 1000);
    ds_buf_puts(&word, "numbers=[1");
    for (int i = 1; i < DS_MAX_NUMBERS; i++)
        ds_buf_puts(&word, ",1");
    ds_buf_puts(&word, "]");
    cr_expect(ds_keys_override(&w.keys, ds_buf_text(&word), &w.err) == 0, "%s", w.err.text);
    cr_expect(w.thing.numbers.count == DS_MAX_NUMBERS);
    word.len--;
    ds_buf_puts(&word, ",1]");
    cr_expect(ds_keys_override(&w.keys, ds_buf_text(&word), &w.err) == -EINVAL);
    ds_buf_release(&word);
    ds_arena_release(&w.arena);
}

Test(keys, places)
{
    struct work w;

    start(&w);
    cr_assert(take(&w, "flag: true\nn:\n  real: 0\n  deep: {pair: [0, 0]}\n") == 0, "%s",
              w.err.text);
    cr_expect(ds_keys_place(&w.keys, "n.real", ds_fail(&w.err, EINVAL, "x"), &w.err) == -EINVAL);
    cr_expect_str_eq(w.err.text, "f:3:9: x");
    (void)ds_keys_place(&w.keys, "n.deep.pair", ds_fail(&w.err, EINVAL, "x"), &w.err);
    cr_expect_str_eq(w.err.text, "f:4:16: x");
    (void)ds_keys_place(&w.keys, "n.whole", ds_fail(&w.err, EINVAL, "x"), &w.err);
    cr_expect_str_eq(w.err.text, "f:2:1: x");
    (void)ds_keys_place(&w.keys, "text", ds_fail(&w.err, EINVAL, "x"), &w.err);
    cr_expect_str_eq(w.err.text, "f:1:1: x");
    cr_assert(ds_keys_override(&w.keys, "n.real=1", &w.err) == 0);
    (void)ds_keys_place(&w.keys, "n.real", ds_fail(&w.err, EINVAL, "x"), &w.err);
    cr_expect_str_eq(w.err.text, "override 'n.real=1': x");
    ds_arena_release(&w.arena);
}

Test(keys, doubles_print_as_the_fewest_digits_that_read_back)
{
    static const struct {
        const char *in, *out;
    } table[] = {{"0.1", "0.1"},
                 {"1e-05", "1e-05"},
                 {"0.30000000000000004", "0.30000000000000004"},
                 {"-0.3333333333333333", "-0.3333333333333333"},
                 {"1e-300", "1e-300"},
                 {"0", "0"}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_buf out;
        struct work w;

        start(&w);
        ds_buf_init(&out, 100);
        cr_assert(ds_key_set_text(&keys[3], &w.thing, &w.arena, table[i].in, &w.err) == 0, "%s",
                  w.err.text);
        ds_key_print(&keys[3], &w.thing, &out);
        cr_expect_str_eq(ds_buf_text(&out), table[i].out);
        ds_buf_release(&out);
        ds_arena_release(&w.arena);
    }
}

Test(nearest, distance)
{
    static const struct {
        const char *a, *b;
        unsigned distance;
    } table[] = {{"", "", 0},       {"a", "", 1},          {"", "abc", 3},
                 {"abc", "abc", 0}, {"abc", "acb", 1},     {"kitten", "sitting", 3},
                 {"ca", "abc", 3},  {"optmi", "optim", 1}, {"--solts", "--slots", 1}};
    char far[DS_NEAREST_MAX + 2];

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        cr_expect(ds_edit_distance(table[i].a, table[i].b) == table[i].distance, "%s %s",
                  table[i].a, table[i].b);
        cr_expect(ds_edit_distance(table[i].b, table[i].a) == table[i].distance);
    }
    memset(far, 'x', sizeof(far));
    far[DS_NEAREST_MAX + 1] = '\0';
    cr_expect(ds_edit_distance(far, far) == DS_NEAREST_FAR);
    far[DS_NEAREST_MAX] = '\0';
    cr_expect(ds_edit_distance(far, far) == 0);
    cr_expect(ds_edit_close(2, "check") && !ds_edit_close(3, "check") && !ds_edit_close(1, "x"));
}

Test(keys, rows_are_structs_by_their_own_table)
{
    static const struct {
        const char *text, *error;
    } wrongs[] = {
        {"rows: {name: a}\n", "f:1:7: 'rows' must be a list of maps, not a map"},
        {"rows: [a]\n", "f:1:8: 'rows' item 1: must be a map of keys, not text"},
        {"rows: [{name: a}, {number: 1}]\n", "f:1:19: 'rows' item 2: 'name' is required"},
        {"rows: [{name: a, nmae: b}]\n",
         "f:1:18: 'rows' item 1: unknown key 'nmae', did you mean 'name'?"},
        {"rows: [{name: a, colour: b}]\n",
         "f:1:18: 'rows' item 1: unknown key 'colour'; known are name, number, maybe"},
        {"rows: [{name: a, number: 10}]\n",
         "f:1:26: 'rows' item 1: 'number' must be a number between 0 and 9, not '10'"},
        {"rows: [{name: a, maybe: x}]\n",
         "f:1:25: 'rows' item 1: 'maybe' must be a number between 0 and 9, not 'x'"},
        {"rows: [{name: a}, {name: a}, {name: a}, {name: a}]\n",
         "f:1:7: 'rows' must have at most 3 items, not 4"},
    };
    const struct row *row;
    struct work w;

    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        start(&w);
        cr_expect(take(&w, wrongs[i].text) == -EINVAL, "case %zu", i);
        cr_expect_str_eq(w.err.text, wrongs[i].error);
        cr_expect(w.thing.rows.count == 0, "untouched on failure");
        ds_arena_release(&w.arena);
    }
    start(&w);
    cr_expect(take(&w, "rows:\n  - {name: a}\n  - name: b\n    maybe: 3\n") == 0, "%s", w.err.text);
    row = w.thing.rows.row;
    cr_assert(w.thing.rows.count == 2);
    cr_expect_str_eq(row[0].name, "a");
    cr_expect(row[0].number == 1.0 && isnan(row[0].maybe) && row[1].maybe == 3.0);
    ds_arena_release(&w.arena);
}
