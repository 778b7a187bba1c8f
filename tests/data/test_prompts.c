/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_prompts.c - JSON lines to samples: prompts and what fills up are no targets, the same file for
 * any threads and stretches, and errors that name the place.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <string.h>

#include "runtime/data/corpus.h"

TestSuite(prompts, .init = tempdir_make, .fini = tempdir_remove);

#define FOLDER "tests/reference/tokenizers/"
enum { LENGTH = 12 };

static struct ds_tokenizer *load(const char *name)
{
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_error err = {0};
    char path[200];

    (void)snprintf(path, sizeof(path), FOLDER "%s.json", name);
    cr_assert_eq(ds_tokenizer_load(&tokenizer, path, &err), 0, "%s", err.text);
    return tokenizer;
}

static const char *out_path(void)
{
    return tempdir_path("out.safetensors");
}

static int run(const struct ds_corpus_args *args, struct ds_corpus_count *count,
               struct ds_error *err)
{
    struct ds_token_writer writer;
    int rc = ds_token_writer_open_samples(&writer, out_path(), ds_tokenizer_size(args->tokenizer),
                                          args->length, true, err);

    cr_assert_eq(rc, 0, "%s", err->text);
    rc = ds_corpus_tokenize(args, &writer, count, err);
    if (rc == 0)
        rc = ds_token_writer_commit(&writer, err);
    ds_token_writer_abort(&writer);
    return rc;
}

struct line {
    const char *prompt, *completion;
};

static const struct line lines[] = {
    {"What?", " That."},
    {"", "nothing in front"},
    {"a prompt that alone is longer than what a sample has room for, by far, and then some", " x"},
    {"Say", " the cat sat on the mat the cat sat on the mat the cat sat on the mat"},
    {"no answer", ""},
    {"", ""},
    {"caf\xc3\xa9 ", "\xe4\xbd\xa0\xe5\xa5\xbd"},
};
enum { LINES = sizeof(lines) / sizeof(lines[0]) };

static const char *write_lines(bool prompts)
{
    struct ds_buf text;
    const char *path;

    ds_buf_init(&text, 1 << 16);
    for (size_t i = 0; i < LINES; i++)
        if (prompts)
            ds_buf_printf(&text, "{\"p\":\"%s\",\"c\":\"%s\"}\n", lines[i].prompt,
                          lines[i].completion);
        else
            ds_buf_printf(&text, "{\"c\":\"%s\"}\n", lines[i].completion);
    path = tempdir_write("a.jsonl", ds_buf_text(&text), text.len);
    ds_buf_release(&text);
    return path;
}

/* The sample of a line into row[LENGTH]; how many of its ids are targets, 0: there is none. */
static size_t row_of(const struct ds_tokenizer *tokenizer, const char *prompt,
                     const char *completion, uint32_t separator, int32_t row[LENGTH])
{
    struct ds_encoder *encoder = NULL;
    struct ds_ids ids = {0};
    struct ds_encode_args first = {.text = prompt, .len = strlen(prompt), .end = strlen(prompt)};
    struct ds_encode_args second = {.text = completion,
                                    .len = strlen(completion),
                                    .end = strlen(completion),
                                    .continued = prompt[0] != '\0'};
    size_t in_prompt, targets = 0;

    cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
    cr_assert_eq(ds_encode(encoder, &first, &ids, NULL), 0);
    in_prompt = ids.count;
    cr_assert_eq(ds_encode(encoder, &second, &ids, NULL), 0);
    if (separator != DS_NO_TOKEN)
        cr_assert_eq(ds_ids_put(&ids, separator), 0);
    for (size_t i = 0; i < LENGTH; i++) {
        bool target = i > 0 && i >= in_prompt && i < ids.count;
        uint32_t id = i < ids.count ? ids.id[i] : separator == DS_NO_TOKEN ? 0 : separator;

        row[i] = target ? (int32_t)id : ~(int32_t)id;
        targets += target;
    }
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
    return targets;
}

static void check_file(const struct ds_corpus_args *args, const struct ds_corpus_count *count)
{
    struct ds_map map;
    struct ds_tokens tokens;
    struct ds_error err = {0};
    uint64_t sample = 0, targets = 0;

    cr_assert_eq(ds_fs_map(out_path(), &map, &err), 0, "%s", err.text);
    cr_assert_eq(
        ds_tokens_parse(&tokens, out_path(), DS_DATA_AUTO, map.data, map.len, LENGTH - 1, &err), 0,
        "%s", err.text);
    for (size_t i = 0; i < LINES; i++) {
        int32_t want[LENGTH], got[LENGTH];
        size_t more = row_of(args->tokenizer, args->prompt != NULL ? lines[i].prompt : "",
                             lines[i].completion, args->separator, want);

        if (more == 0)
            continue;
        cr_assert_lt(sample, tokens.samples, "line %zu", i);
        cr_assert_eq(
            ds_tokens_copy(&tokens, map.data, sample * LENGTH, LENGTH, DS_MAX_VOCAB, got, &err), 0,
            "%s", err.text);
        cr_assert_arr_eq(got, want, sizeof(want), "line %zu", i);
        sample++;
        targets += more;
    }
    cr_assert_eq(tokens.samples, sample);
    cr_assert(count->targets == targets && count->documents == LINES &&
              count->passed == LINES - sample);
    ds_map_release(&map);
}

Test(prompts, samples_of_lines)
{
    static const char *const names[] = {"gpt2", "prefix", "llama3", "qwen", "llama2", "mistral"};
    static const size_t sizes[] = {8, 100, 0};

    for (unsigned i = 0; i < 6 * 2 * 3; i++) {
        struct ds_tokenizer *tokenizer = load(names[i % 6]);
        bool prompts = i / 6 % 2 == 0;
        const char *path = write_lines(prompts);
        struct ds_corpus_args args = {.tokenizer = tokenizer,
                                      .path = &path,
                                      .paths = 1,
                                      .key = "c",
                                      .prompt = prompts ? "p" : NULL,
                                      .length = LENGTH,
                                      .separator = i % 3 == 0 ? DS_NO_TOKEN : 5,
                                      .threads = 1 + i % 3,
                                      .stretch_bytes = sizes[i / 12]};
        struct ds_corpus_count count;
        struct ds_error err = {0};

        cr_assert_eq(run(&args, &count, &err), 0, "%s", err.text);
        check_file(&args, &count);
        cr_assert(count.passed > 0 && count.cut > 0 && count.cut < LINES);
        ds_tokenizer_free(tokenizer);
    }
}

/* A completion goes on from its prompt: what tokenizers put in front of a text is not in between, so
 * of words the ids are those of one text. */
Test(prompts, prompt_and_completion_are_one_text)
{
    static const char *const names[] = {"gpt2", "prefix", "llama3", "llama2", "mistral"};
    static const char text[] = "{\"prompt\":\"one two\",\"text\":\" three\"}";
    static const char whole[] = "one two three";

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct ds_tokenizer *tokenizer = load(names[i]);
        const char *path = tempdir_write("a.jsonl", text, sizeof(text) - 1);
        struct ds_corpus_args args = {.tokenizer = tokenizer,
                                      .path = &path,
                                      .paths = 1,
                                      .key = "text",
                                      .prompt = "prompt",
                                      .length = LENGTH + 8,
                                      .separator = DS_NO_TOKEN,
                                      .threads = 1};
        const struct ds_encode_args one = {
            .text = whole, .len = sizeof(whole) - 1, .end = sizeof(whole) - 1};
        struct ds_encoder *encoder = NULL;
        struct ds_ids want = {0};
        struct ds_corpus_count count;
        struct ds_error err = {0};
        struct ds_tokens tokens;
        struct ds_map map;
        int32_t ids[LENGTH + 8];

        cr_assert_eq(run(&args, &count, &err), 0, "%s", err.text);
        cr_assert_eq(ds_fs_map(out_path(), &map, NULL), 0);
        cr_assert_eq(ds_tokens_parse(&tokens, out_path(), DS_DATA_AUTO, map.data, map.len, 0, NULL),
                     0);
        cr_assert_eq(ds_tokens_copy(&tokens, map.data, 0, LENGTH + 8, DS_MAX_VOCAB, ids, NULL), 0);
        cr_assert_eq(ds_encoder_new(&encoder, tokenizer, NULL), 0);
        cr_assert_eq(ds_encode(encoder, &one, &want, NULL), 0);
        cr_assert_eq(count.tokens, want.count, "%s", names[i]);
        for (size_t k = 0; k < want.count; k++)
            cr_assert_eq(ids[k] < 0 ? ~ids[k] : ids[k], (int32_t)want.id[k], "%s", names[i]);
        cr_assert(count.targets > 0 && count.targets < want.count);
        ds_ids_release(&want);
        ds_encoder_free(encoder);
        ds_map_release(&map);
        ds_tokenizer_free(tokenizer);
    }
}

Test(prompts, errors_name_the_place)
{
    static const struct {
        const char *name, *text;
        int code;
        const char *says;
    } cases[] = {
        {"a.jsonl", "{\"p\":\"a\",\"c\":\"b\"}\n{\"c\":\"b\"}\n", EBADMSG,
         "a.jsonl':2: there is no key 'p'; name the right one with --prompt-key"},
        {"b.jsonl", "{\"p\":\"a\"}\n", EBADMSG,
         "b.jsonl':1: there is no key 'c'; name the right one with --key"},
        {"c.jsonl", "{\"p\":[\"a\"],\"c\":\"b\"}\n", EBADMSG, "c.jsonl':1: key 'p' is not a text"},
        {"d.jsonl", "{\"p\":\"a\",\"c\":null}\n", EBADMSG, "d.jsonl':1: key 'c' is not a text"},
        {"e.jsonl", "[1]\n", EBADMSG, "e.jsonl':1: a line must be an object"},
        {"a.txt", "one two\n", EINVAL, "a.txt' is text, and samples are of JSON lines"},
    };
    struct ds_tokenizer *tokenizer = load("gpt2");

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *path = tempdir_write(cases[i].name, cases[i].text, strlen(cases[i].text));
        struct ds_corpus_args args = {.tokenizer = tokenizer,
                                      .path = &path,
                                      .paths = 1,
                                      .key = "c",
                                      .prompt = "p",
                                      .length = LENGTH,
                                      .separator = 5,
                                      .threads = 2,
                                      .stretch_bytes = 4};
        struct ds_corpus_count count;
        struct ds_error err = {0};

        cr_expect_eq(run(&args, &count, &err), -cases[i].code, "%s", err.text);
        cr_expect(strstr(err.text, cases[i].says) != NULL, "%s", err.text);
        cr_expect(access(out_path(), F_OK) != 0, "nothing is left");
    }
    ds_tokenizer_free(tokenizer);
}

/* More ids than the writer's blocks hold, of either width. */
Test(prompts, writer)
{
    enum { ROW = 1000, SAMPLES = 700 };
    static int32_t got[ROW];
    static uint32_t ids[ROW];

    for (uint64_t vocab = 65536; vocab <= 65537; vocab++) {
        struct ds_token_writer writer;
        struct ds_tokens tokens;
        struct ds_error err = {0};
        struct ds_map map;

        cr_assert_eq(ds_token_writer_open_samples(&writer, out_path(), vocab, ROW, true, &err), 0,
                     "%s", err.text);
        for (uint32_t k = 0; k < SAMPLES; k++) {
            for (uint32_t i = 0; i < ROW; i++) {
                uint32_t id = (k * ROW + i) % (uint32_t)vocab;

                ids[i] = (k * 31 + i) % 7 < 3 ? ~id : id;
            }
            cr_assert_eq(ds_token_writer_put(&writer, ids, ROW, &err), 0, "%s", err.text);
        }
        cr_assert_eq(ds_token_writer_commit(&writer, &err), 0, "%s", err.text);
        cr_assert_eq(ds_fs_map(out_path(), &map, NULL), 0);
        cr_assert_eq(ds_tokens_parse(&tokens, out_path(), DS_DATA_AUTO, map.data, map.len, 0, &err),
                     0, "%s", err.text);
        cr_assert(tokens.samples == SAMPLES && tokens.stride == ROW);
        cr_assert_eq(tokens.type, vocab == 65536 ? DS_TOKEN_U16 : DS_TOKEN_I32);
        for (uint32_t k = 0; k < SAMPLES; k++) {
            cr_assert_eq(ds_tokens_copy(&tokens, map.data, k * ROW, ROW, vocab, got, &err), 0, "%s",
                         err.text);
            for (uint32_t i = 0; i < ROW; i++) {
                int32_t id = (int32_t)((k * ROW + i) % (uint32_t)vocab);

                cr_assert_eq(got[i], (k * 31 + i) % 7 < 3 ? ~id : id, "%u, %u", k, i);
            }
        }
        ds_map_release(&map);
    }
}
