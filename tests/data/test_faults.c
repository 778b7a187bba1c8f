/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_faults.c - opening a data source when any call or allocation fails: an error, nothing kept.
 */
#include "tests/faults.h"
#include "tests/tempdir.h"

#include <glob.h>
#include <string.h>

#include "runtime/data/corpus.h"
#include "runtime/data/data.h"

TestSuite(data_faults, .init = tempdir_make, .fini = tempdir_remove);

Test(data_faults, open)
{
    const char *names[] = {NULL, NULL};
    struct ds_strings paths = {2, names};
    struct ds_data_set set[] = {{.path = paths, .weight = 3}, {.path = paths, .weight = 2}};
    struct ds_rows sets = {2, set};
    struct ds_data_args args = {.what = "data.train", .sets = &sets, .sequence = 4, .vocab = 256};
    static const struct {
        unsigned kind;
        int code;
    } kinds[] = {{FAULT_IO, EIO}, {FAULT_MEMORY, ENOMEM}};

    names[0] = tempdir_write("a.txt", "abcdefgh", 8);
    tempdir_write("b.txt", "abcdefgh", 8);
    names[1] = tempdir_path("*.txt");
    for (size_t k = 0; k < 2; k++) {
        unsigned failures = 0;

        faults_kinds = kinds[k].kind;
        for (unsigned n = 1; faults_next(n, kinds[k].code); n++) {
            struct ds_data *data = NULL;
            struct ds_error err = {0};
            int lowest = dup(0), again, rc;

            close(lowest);
            rc = ds_data_open(&data, &args, &err);
            faults_off();
            failures += faults_hit;
            cr_assert_eq(rc, faults_hit > 0 ? -kinds[k].code : 0, "call %u: %s", n, err.text);
            cr_assert_eq(data != NULL, rc == 0);
            cr_assert(rc == 0 || strncmp(err.text, "data.train", 10) == 0, "%s", err.text);
            ds_data_close(data);
            again = dup(0);
            close(again);
            cr_assert_eq(again, lowest, "call %u leaks a descriptor", n);
        }
        cr_assert_geq(failures, 4, "%u failures of kind %zu", failures, k);
    }
}

static struct ds_tokenizer *tokenizer;
static const char *inputs[2];

/* Text and lines to ids, in small stretches, by one thread beside this one; or lines to samples. */
static int tokenize_to(uint64_t length, struct ds_error *err)
{
    const struct ds_corpus_args args = {.tokenizer = tokenizer,
                                        .path = inputs + (length > 0),
                                        .paths = length > 0 ? 1 : 2,
                                        .key = "text",
                                        .length = length,
                                        .separator = 5,
                                        .threads = 1,
                                        .stretch_bytes = 16};
    struct ds_token_writer writer;
    struct ds_corpus_count count;
    const char *out = tempdir_path("out.bin");
    int rc = length > 0 ? ds_token_writer_open_samples(&writer, out, 1000, length, true, err)
                        : ds_token_writer_open(&writer, out, 1000, true, err);

    if (rc == 0)
        rc = ds_corpus_tokenize(&args, &writer, &count, err);
    if (rc == 0)
        rc = ds_token_writer_commit(&writer, err);
    ds_token_writer_abort(&writer);
    return rc;
}

static int tokenize(struct ds_error *err)
{
    return tokenize_to(0, err);
}

static int make_samples(struct ds_error *err)
{
    return tokenize_to(7, err);
}

static size_t names_in(const char *path)
{
    glob_t found;
    char pattern[DS_MAX_PATH];
    size_t count;

    (void)snprintf(pattern, sizeof(pattern), "%s/*", path);
    count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return count;
}

/* Beside the inputs there is a whole file of ids, or none. */
Test(data_faults, tokenize)
{
    static const struct {
        unsigned kind;
        int code;
    } kinds[] = {{FAULT_IO, EIO}, {FAULT_MEMORY, ENOMEM}};
    char text[DS_MAX_PATH], lines[DS_MAX_PATH];

    (void)snprintf(text, sizeof(text), "%s",
                   tempdir_write("a.txt", "one two\nthree four\nfive six\nseven\n", 34));
    (void)snprintf(lines, sizeof(lines), "%s",
                   tempdir_write("b.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n", 30));
    inputs[0] = text;
    inputs[1] = lines;
    cr_assert_eq(ds_tokenizer_load(&tokenizer, "tests/reference/tokenizers/gpt2.json", NULL), 0);
    for (size_t k = 0; k < 4; k++) {
        struct faults_round r = {0};
        int code = kinds[k % 2].code;

        faults_kinds = kinds[k % 2].kind;
        (void)unlink(tempdir_path("out.bin"));
        while (faults_round(&r, code, k < 2 ? tokenize : make_samples)) {
            cr_assert(r.hit ? r.rc == -code && r.err.text[0] != '\0' : r.rc == 0,
                      "call %u of kind %zu: %d %s", r.n, k, r.rc, r.err.text);
            cr_assert_eq(names_in(tempdir), access(tempdir_path("out.bin"), F_OK) == 0 ? 3 : 2,
                         "call %u leaves something", r.n);
        }
        cr_assert(r.hits > 8, "%u of kind %zu", r.hits, k);
    }
    ds_tokenizer_free(tokenizer);
}
