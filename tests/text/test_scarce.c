/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_scarce.c - a tokenizer is read, and text encoded, when any allocation or read fails: an error,
 * and nothing kept.
 */
#include "tests/faults.h"
#include "tests/text/oracle.h"

static const char *name;

static int work(struct ds_error *err)
{
    static const char text[] =
        "one two  three\n\xe4\xbd\xa0 e\xcc\x81t <l> caf\xc3\xa9 12345 " /* more than the first room for ids */
        "one two three four five six seven eight nine ten";
    struct ds_encode_args args = {.text = text, .len = sizeof(text) - 1, .end = sizeof(text) - 1};
    struct ds_tokenizer *tokenizer = NULL;
    struct ds_encoder *encoder = NULL;
    struct ds_ids ids = {0};
    char path[200];
    int rc;

    (void)snprintf(path, sizeof(path), ORACLE_FOLDER "%s.json", name);
    rc = ds_tokenizer_load(&tokenizer, path, err);
    if (rc == 0)
        rc = ds_encoder_new(&encoder, tokenizer, err);
    for (int i = 0; rc == 0 && i < 30; i++)
        rc = ds_encode(encoder, &args, &ids, err);
    ds_ids_release(&ids);
    ds_encoder_free(encoder);
    ds_tokenizer_free(tokenizer);
    return rc;
}

Test(text_scarce, memory)
{
    static const char *const names[] = {"odd", "llama3", "llama2", "mistral", "prefix"};

    faults_kinds = FAULT_MEMORY;
    for (size_t i = 0; i < 5; i++) {
        struct faults_round r = {0};

        name = names[i];
        while (faults_round(&r, ENOMEM, work))
            cr_assert(r.hit ? r.rc == -ENOMEM && r.err.text[0] != '\0' : r.rc == 0,
                      "%s, call %u: %d %s", name, r.n, r.rc, r.err.text);
        cr_assert(r.hits > 15, "%s: %u", name, r.hits);
    }
}

Test(text_scarce, reading)
{
    struct faults_round r = {0};

    faults_kinds = FAULT_IO;
    name = "qwen";
    while (faults_round(&r, EIO, work))
        cr_assert_eq(r.rc, r.hit ? -EIO : 0, "call %u: %d %s", r.n, r.rc, r.err.text);
    cr_assert(r.hits >= 2);
}
