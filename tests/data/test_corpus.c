/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_corpus.c - files of text to a file of ids: the same for any threads and stretches, and errors
 * that name the place.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <string.h>

#include "runtime/data/corpus.h"

TestSuite(corpus, .init = tempdir_make, .fini = tempdir_remove);

#define FOLDER "tests/reference/tokenizers/"

static struct ds_tokenizer *load(const char *name)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    char path[200];

    (void)snprintf(path, sizeof(path), FOLDER "%s.json", name);
    cr_assert_eq(ds_tokenizer_load(&tokenizer, path, &err), 0, "%s", err.text);
    return tokenizer;
}

/* Tokenize into out.bin and read it back; the caller releases. */
static int run(const struct ds_corpus_args *args, struct ds_buf *out, struct ds_corpus_count *count,
               struct ds_error *err)
{
    struct ds_token_writer writer;
    int rc = ds_token_writer_open(&writer, tempdir_path("out.bin"),
                                  ds_tokenizer_size(args->tokenizer), true, err);

    cr_assert_eq(rc, 0, "%s", err->text);
    rc = ds_corpus_tokenize(args, &writer, count, err);
    if (rc == 0)
        rc = ds_token_writer_commit(&writer, err);
    ds_token_writer_abort(&writer);
    ds_buf_init(out, 1 << 26);
    if (rc == 0)
        cr_assert_eq(ds_fs_read(tempdir_path("out.bin"), 1 << 26, out, err), 0, "%s", err->text);
    return rc;
}

/* The file's ids must be those of each text as a whole, each with the separator behind it. */
static void expect(const struct ds_tokenizer *tokenizer, const char *const *texts, size_t count,
                   uint32_t separator, const struct ds_buf *file)
{
    struct ds_encoder *encoder = NULL;
    struct ds_ids ids = {0};
    struct ds_tokens tokens;
    struct ds_error err = {0};
    int32_t *got;

    cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
    for (size_t i = 0; i < count; i++) {
        struct ds_encode_args args = {
            .text = texts[i], .len = strlen(texts[i]), .end = strlen(texts[i])};

        cr_assert_eq(ds_encode(encoder, &args, &ids, &err), 0, "%s", err.text);
        cr_assert(separator == DS_NO_TOKEN || ds_ids_put(&ids, separator) == 0);
    }
    cr_assert_eq(
        ds_tokens_parse(&tokens, "out.bin", DS_DATA_TOKENS, file->data, file->len, 1, &err), 0,
        "%s", err.text);
    cr_assert_eq(tokens.count, ids.count);
    got = calloc(ids.count + 1, sizeof(*got));
    cr_assert_eq(ds_tokens_copy(&tokens, file->data, 0, ids.count, DS_MAX_VOCAB, got, &err), 0,
                 "%s", err.text);
    cr_assert_eq(memcmp(got, ids.id, ids.count * sizeof(*got)), 0);
    free(got);
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
}

/* A document with paragraphs, blank lines, spaces at ends of lines, and letters beyond ASCII. */
static void write_text(struct ds_buf *text, unsigned seed)
{
    static const char *const words[] = {"the ",
                                        "cat\n",
                                        "sat",
                                        "\n\n",
                                        "  on\n",
                                        "12345",
                                        "\xe4\xbd\xa0\xe5\xa5\xbd",
                                        "\n",
                                        " mat.\n",
                                        "!\n",
                                        "\r\n",
                                        "caf\xc3\xa9 ",
                                        "\xe3\x80\x80",
                                        "x_y ",
                                        "\n\xe5\xa5\xbd",
                                        "it's\n"};

    for (unsigned i = 0; i < 3000; i++) {
        seed = seed * 1103515245u + 12345u;
        ds_buf_puts(text, words[seed >> 16 & 15]);
    }
}

Test(corpus, text_in_stretches)
{
    static const char *const names[] = {"gpt2",    "prefix",   "llama3",    "qwen",
                                        "o200k",   "deepseek", "starcoder", "llama2",
                                        "mistral", "unknown",  "odd"};
    static const size_t sizes[] = {50, 300, 0};
    struct ds_buf text[3];
    const char *paths[3], *texts[3];

    for (unsigned i = 0; i < 3; i++) {
        char name[8];

        ds_buf_init(&text[i], 1 << 20);
        if (i != 1) /* one is empty */
            write_text(&text[i], i + 1);
        (void)snprintf(name, sizeof(name), "%u.txt", i);
        texts[i] = ds_buf_text(&text[i]);
        paths[i] = strdup(tempdir_write(name, texts[i], text[i].len));
    }
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        struct ds_tokenizer *tokenizer = load(names[n]);

        for (unsigned i = 0; i < 3; i++) {
            struct ds_corpus_args args = {.tokenizer = tokenizer,
                                          .path = paths,
                                          .paths = 3,
                                          .key = "text",
                                          .separator = i == 0 ? DS_NO_TOKEN : 5,
                                          .threads = 1 + i,
                                          .stretch_bytes = sizes[i]};
            struct ds_corpus_count count;
            struct ds_error err = {0};
            struct ds_buf file;

            cr_assert_eq(run(&args, &file, &count, &err), 0, "%s: %s", names[n], err.text);
            expect(tokenizer, texts, 3, args.separator, &file);
            cr_assert_eq(count.documents, 3);
            cr_assert_eq(count.text_bytes, text[0].len + text[2].len);
            cr_assert_eq(count.input_bytes, count.total_bytes);
            ds_buf_release(&file);
        }
        ds_tokenizer_free(tokenizer);
    }
    for (unsigned i = 0; i < 3; i++) {
        ds_buf_release(&text[i]);
        free((char *)(uintptr_t)paths[i]);
    }
}

Test(corpus, lines)
{
    static const char lines[] = "{\"text\":\"one\\n\"}\n\n  \r\n{\"id\":7,\"text\":\"caf\\u00e9 "
                                "\xe4\xbd\xa0\"}\r\n{\"text\":\"\"}\n{\"text\":\"nul\\u0000\"}";
    static const char *const texts[] = {"one\n", "caf\xc3\xa9 \xe4\xbd\xa0", ""};
    struct ds_tokenizer *tokenizer = load("gpt2");
    const char *path = tempdir_write("a.jsonl", lines, sizeof(lines) - 1);
    struct ds_corpus_args args = {.tokenizer = tokenizer,
                                  .path = &path,
                                  .paths = 1,
                                  .key = "text",
                                  .separator = 900,
                                  .threads = 2,
                                  .stretch_bytes = 8};
    struct ds_corpus_count count;
    struct ds_error err = {0};
    struct ds_buf file, first;

    cr_assert_eq(run(&args, &file, &count, &err), 0, "%s", err.text);
    cr_assert_eq(count.documents, 4);
    cr_assert_eq(count.text_bytes, 4 + 9 + 4);
    path = tempdir_write("b.jsonl", lines, (size_t)(strstr(lines, "{\"text\":\"nul") - lines));
    args.stretch_bytes = 0;
    ds_buf_release(&file);
    cr_assert_eq(run(&args, &first, &count, &err), 0, "%s", err.text);
    expect(tokenizer, texts, 3, 900, &first);
    ds_buf_release(&first);
    ds_tokenizer_free(tokenizer);
}

Test(corpus, errors_name_the_place)
{
    static const struct {
        const char *name, *text;
        int code;
        const char *says;
    } cases[] = {
        {"a.txt", "good\nbad \xff\n", EBADMSG, "a.txt': byte 9 is not valid UTF-8"},
        {"b.txt", "good\ncut \xe4\xbd", EBADMSG, "b.txt': byte 9 is not valid UTF-8"},
        {"a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"\n", EBADMSG, "a.jsonl':2: column 1"},
        {"b.jsonl", "\n\n{\"body\":\"a\"}\n", EBADMSG,
         "b.jsonl':3: there is no key 'text'; name the right one with --key"},
        {"c.jsonl", "{\"text\":5}", EBADMSG, "c.jsonl':1: key 'text' is not a text"},
        {"d.jsonl", "[\"text\"]\n", EBADMSG, "d.jsonl':1: a line must be an object"},
        {"e.jsonl", "{\"text\":\"a\",\"text\":\"b\"}\n", EBADMSG, "e.jsonl':1: column"},
        {"f.jsonl", "{\"text\":\"\\ud800\"}\n", EBADMSG, "f.jsonl':1: column"},
        {"g.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n", EBADMSG, "g.jsonl':2: column"},
    };
    struct ds_tokenizer *tokenizer = load("gpt2");

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *path = tempdir_write(cases[i].name, cases[i].text, strlen(cases[i].text));
        struct ds_corpus_args args = {.tokenizer = tokenizer,
                                      .path = &path,
                                      .paths = 1,
                                      .key = "text",
                                      .separator = DS_NO_TOKEN,
                                      .threads = 2,
                                      .stretch_bytes = 4};
        struct ds_corpus_count count;
        struct ds_error err = {0};
        struct ds_buf file;

        cr_expect_eq(run(&args, &file, &count, &err), -cases[i].code, "%s", err.text);
        cr_expect(strstr(err.text, cases[i].says) != NULL, "%s", err.text);
        cr_expect(access(tempdir_path("out.bin"), F_OK) != 0, "nothing is left");
        ds_buf_release(&file);
    }
    ds_tokenizer_free(tokenizer);
}

static bool never(void *user, const struct ds_corpus_count *count)
{
    (void)user;
    (void)count;
    return false;
}

Test(corpus, stopped_or_missing)
{
    struct ds_tokenizer *tokenizer = load("gpt2");
    char there[DS_MAX_PATH], missing[DS_MAX_PATH];
    const char *paths[] = {there, missing};
    struct ds_corpus_args args = {.tokenizer = tokenizer,
                                  .path = paths,
                                  .paths = 1,
                                  .key = "text",
                                  .separator = DS_NO_TOKEN,
                                  .threads = 1,
                                  .go_on = never};
    struct ds_corpus_count count;
    struct ds_error err = {0};
    struct ds_buf file;

    (void)snprintf(there, sizeof(there), "%s", tempdir_write("a.txt", "text", 4));
    (void)snprintf(missing, sizeof(missing), "%s", tempdir_path("missing.txt"));
    cr_assert_eq(run(&args, &file, &count, &err), -ECANCELED);
    args.go_on = NULL;
    args.paths = 2;
    cr_assert_eq(run(&args, &file, &count, &err), -ENOENT, "%s", err.text);
    paths[1] = tempdir;
    cr_assert_eq(run(&args, &file, &count, &err), -EINVAL, "%s", err.text);
    cr_assert(strstr(err.text, "is a folder; name the files in it") != NULL, "%s", err.text);
    ds_tokenizer_free(tokenizer);
}

Test(corpus, writer)
{
    struct ds_token_writer writer;
    struct ds_error err = {0};
    struct ds_buf file;
    uint32_t ids[] = {0, 65535, 65536, 7};

    cr_assert_eq(ds_token_writer_open(&writer, tempdir_path("w.bin"), 65536, false, &err), 0, "%s",
                 err.text);
    cr_assert_eq(writer.type, DS_TOKEN_U16);
    cr_assert_eq(ds_token_writer_put(&writer, ids, 2, &err), 0);
    cr_assert_eq(ds_token_writer_commit(&writer, &err), 0, "%s", err.text);
    cr_assert_eq(ds_token_writer_open(&writer, tempdir_path("w.bin"), 65537, false, &err), -EEXIST);
    cr_assert_eq(ds_token_writer_open(&writer, tempdir_path("w.bin"), 65537, true, &err), 0, "%s",
                 err.text);
    cr_assert_eq(writer.type, DS_TOKEN_U32);
    for (int i = 0; i < 40000; i++) /* more than a block */
        cr_assert_eq(ds_token_writer_put(&writer, ids, 4, &err), 0);
    cr_assert_eq(ds_token_writer_commit(&writer, &err), 0, "%s", err.text);
    ds_buf_init(&file, 1 << 20);
    cr_assert_eq(ds_fs_read(tempdir_path("w.bin"), 1 << 20, &file, &err), 0, "%s", err.text);
    cr_assert_eq(file.len, 1024 + 4 * 160000);
    ds_buf_release(&file);
    cr_assert_eq(ds_token_writer_open(&writer, tempdir_path("none/w.bin"), 9, false, &err),
                 -ENOENT);
    /* Another one was quicker. */
    cr_assert_eq(ds_token_writer_open(&writer, tempdir_path("v.bin"), 9, false, &err), 0);
    (void)tempdir_write("v.bin", "mine", 4);
    cr_assert_eq(ds_token_writer_commit(&writer, &err), -EEXIST);
}
