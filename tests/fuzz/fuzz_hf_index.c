/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_hf_index.c - any bytes as the index of a Hugging Face folder whose weights lie in several files.
 *
 * Beyond "no crash": no file is opened but those of the folder.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[DS_MAX_PATH];

static void remove_folder(void)
{
    (void)!ds_fs_remove_tree(folder, NULL);
}

static void put(const char *name, const void *bytes, size_t size)
{
    char path[DS_MAX_PATH];
    FILE *file;

    assert(ds_path_join(path, folder, name, NULL) == 0);
    file = fopen(path, "wbe");
    assert(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

/* Where the index is, and one good file that it may name. */
static void make_folder(void)
{
    static const char good[] = "\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
                               "offsets\":[0,4]}}        \0\0\0\0";
    const char *parent = getenv("TMPDIR");

    (void)snprintf(folder, sizeof(folder), "%s/dsrun-fuzz.XXXXXX",
                   parent != NULL ? parent : "/tmp");
    assert(mkdtemp(folder) != NULL && atexit(remove_folder) == 0);
    put("a.safetensors", good, sizeof(good) - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ds_model_shape shape = {.arch = DS_ARCH_GPT2,
                                                .layers = 1,
                                                .hidden = 4,
                                                .heads = 1,
                                                .kv_heads = 1,
                                                .head_size = 4,
                                                .ffn = 16,
                                                .vocab = 5,
                                                .context = 3,
                                                .norm_eps = 1e-5,
                                                .rope_theta = 10000,
                                                .tie_embeddings = true};
    struct ds_error err = {0};
    struct ds__hf hf;
    int rc;

    if (folder[0] == '\0')
        make_folder();
    put(DS__HF_INDEX, data, size);
    rc = ds__hf_open(&hf, folder, &shape, &err);
    assert(rc != 0 && err.text[0] != '\0'); /* a.safetensors is no GPT-2 */
    return 0;
}
