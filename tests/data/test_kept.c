/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_kept.c - the ids of a job's text are made once, and again when anything has changed.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <string.h>

#include "runtime/data/kept.h"

TestSuite(kept, .init = tempdir_make, .fini = tempdir_remove);

#define TOKENIZERS "tests/reference/tokenizers/"

static int ask(const char *tokenizer, const char *pattern, uint64_t vocab, bool look, char *path,
               bool *made, struct ds_error *err)
{
    char folder[DS_MAX_PATH];
    struct ds_strings paths = {1, &pattern};
    struct ds_kept_args args = {.tokenizer = tokenizer,
                                .folder = folder,
                                .name = "train",
                                .paths = &paths,
                                .vocab = vocab,
                                .threads = 2,
                                .look = look};
    struct ds_corpus_count count;

    (void)snprintf(folder, sizeof(folder), "%s/run/tokens", tempdir);
    return ds_kept_ids(&args, path, made, &count, err);
}

static int keep(const char *tokenizer, const char *pattern, uint64_t vocab, char *path, bool *made,
                struct ds_error *err)
{
    return ask(tokenizer, pattern, vocab, false, path, made, err);
}

Test(kept, once)
{
    char pattern[DS_MAX_PATH], first[DS_MAX_PATH], path[DS_MAX_PATH];
    struct ds_error err = {0};
    bool made = false;

    (void)snprintf(pattern, sizeof(pattern), "%s/*.txt", tempdir);
    (void)tempdir_write("a.txt", "one two", 7);
    (void)tempdir_write("b.txt", "three", 5);
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", pattern, 901, first, &made, &err), 0, "%s", err.text);
    cr_assert(made && strstr(first, "/run/tokens/train-") != NULL, "%s", first);
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", pattern, 901, path, &made, &err), 0, "%s", err.text);
    cr_assert(!made);
    cr_assert_str_eq(path, first);
    cr_assert_eq(ask(TOKENIZERS "gpt2.json", pattern, 901, true, path, &made, &err), 0, "%s",
                 err.text);
    cr_assert(!made);
    cr_assert_str_eq(path, first);
    /* Another tokenizer; the same bytes, divided elsewhere; a byte more; another name, and so form. */
    cr_assert_eq(keep(TOKENIZERS "qwen.json", pattern, 901, path, &made, &err), 0, "%s", err.text);
    cr_assert(made && strcmp(path, first) != 0);
    (void)tempdir_write("a.txt", "one two thr", 9);
    (void)tempdir_write("b.txt", "ree", 3);
    cr_assert_eq(ask(TOKENIZERS "gpt2.json", pattern, 901, true, path, &made, &err), -ENOENT,
                 "what is not there is not made");
    cr_assert(!made && access(path, F_OK) != 0);
    cr_assert(strstr(err.text, "its ids have not been made yet: '") != NULL, "%s", err.text);
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", pattern, 901, path, &made, &err), 0, "%s", err.text);
    cr_assert(made && strcmp(path, first) != 0);
    (void)tempdir_write("a.txt", "one two", 7);
    (void)tempdir_write("b.txt", "three", 5);
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", pattern, 901, path, &made, &err), 0, "%s", err.text);
    cr_assert(!made);
    cr_assert_str_eq(path, first);
}

Test(kept, refused)
{
    static const char lower[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    char path[DS_MAX_PATH], text[DS_MAX_PATH], tokenizer[DS_MAX_PATH];
    struct ds_error err = {0};
    bool made;

    (void)snprintf(text, sizeof(text), "%s", tempdir_write("a.txt", "one two", 7));
    (void)snprintf(tokenizer, sizeof(tokenizer), "%s",
                   tempdir_write("t.json", lower, sizeof(lower) - 1));
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", text, 900, path, &made, &err), -EINVAL);
    cr_assert(strstr(err.text, "has 901 ids, and 'model.vocab' is 900; it must be at least that") !=
                  NULL,
              "%s", err.text);
    cr_assert_eq(keep(tokenizer, text, 900, path, &made, &err), -EINVAL);
    cr_assert(strstr(err.text, "name it with 'dsrun data tokenize --eot'") != NULL, "%s", err.text);
    cr_assert_eq(keep(tokenizer, tempdir, 900, path, &made, &err), -EINVAL);
    cr_assert_eq(keep(tokenizer, tempdir_path("none*.txt"), 900, path, &made, &err), -ENOENT);
    cr_assert_eq(keep("/none.json", text, 900, path, &made, &err), -ENOENT);
    (void)tempdir_write("a.txt", "\xff", 1);
    cr_assert_eq(keep(TOKENIZERS "gpt2.json", text, 901, path, &made, &err), -EBADMSG);
    cr_assert(!made && access(path, F_OK) != 0);
}
