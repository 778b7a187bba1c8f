/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_vocab.c - tokens by text and by id, and merges, as many as there is room for.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/text/vocab.h"

enum { TOKENS = 5000 };

static size_t name_of(uint32_t id, char out[16])
{
    return (size_t)snprintf(out, 16, "t%u", id * 7919u % 100003u);
}

Test(vocab, many)
{
    struct ds_vocab vocab;
    struct ds_error err = {0};
    char name[16];
    size_t len;

    cr_assert_eq(ds_vocab_init(&vocab, TOKENS, TOKENS, &err), 0, "%s", err.text);
    for (uint32_t id = 0; id < TOKENS; id += 2) /* with holes */
        cr_assert_eq(ds_vocab_add(&vocab, name, name_of(id, name), id, &err), 0, "%s", err.text);
    for (uint32_t i = 0; i < TOKENS; i++)
        ds_vocab_add_merge(&vocab, i, i * i % TOKENS, i, TOKENS - i);
    ds_vocab_add_merge(&vocab, 3, 9, 77, 88); /* the last one said counts */
    for (uint32_t id = 0; id < TOKENS; id++) {
        const char *text;

        len = name_of(id, name);
        cr_assert_eq(ds_vocab_find(&vocab, name, len), id % 2 == 0 ? id : DS_NO_TOKEN);
        text = ds_vocab_text(&vocab, id, &len);
        cr_assert((text != NULL) == (id % 2 == 0));
        cr_assert(text == NULL || (len == strlen(name) && memcmp(text, name, len) == 0));
    }
    cr_assert_null(ds_vocab_text(&vocab, TOKENS, &len));
    cr_assert_eq(vocab.count, TOKENS / 2);
    for (uint32_t i = 0; i < TOKENS; i++) {
        const struct ds_merge *merge = ds_vocab_merge(&vocab, i, i * i % TOKENS);

        cr_assert_not_null(merge);
        cr_assert(i == 3 ? merge->rank == 77 && merge->id == 88
                         : merge->rank == i && merge->id == TOKENS - i);
    }
    cr_assert_null(ds_vocab_merge(&vocab, 1, 2));
    cr_assert_null(ds_vocab_merge(&vocab, DS_NO_TOKEN, DS_NO_TOKEN - 1));
    ds_vocab_release(&vocab);
    ds_vocab_release(&vocab);
}

Test(vocab, refused)
{
    static char text[1100];
    struct ds_vocab vocab;
    struct ds_error err = {0};

    memset(text, 'x', sizeof(text));
    cr_assert_eq(ds_vocab_init(&vocab, 3, 0, &err), 0);
    cr_assert_eq(ds_vocab_add(&vocab, "a", 1, 0, &err), 0);
    cr_assert_eq(ds_vocab_add(&vocab, "a", 1, 1, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "tokens 0 and 1 are both 'a'");
    cr_assert_eq(ds_vocab_add(&vocab, "b", 1, 0, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "two tokens have id 0");
    cr_assert_eq(ds_vocab_add(&vocab, "", 0, 1, &err), -EBADMSG);
    cr_assert_eq(ds_vocab_add(&vocab, text, 1025, 1, &err), -EBADMSG);
    cr_assert_eq(ds_vocab_add(&vocab, text, 1024, 1, &err), 0);
    cr_assert_eq(ds_vocab_find(&vocab, text, 1024), 1);
    cr_assert_eq(ds_vocab_find(&vocab, text, 1023), DS_NO_TOKEN);
    cr_assert_null(ds_vocab_merge(&vocab, 0, 1));
    ds_vocab_release(&vocab);
}
