/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * inputs.h - what runs read: reference cases, safetensors, ids.
 *
 * Reference cases are under tests/reference/ (weights, tokens, float64 answers); tests run in the
 * top folder.
 */
#ifndef DS_TESTS_ENGINE_INPUTS_H
#define DS_TESTS_ENGINE_INPUTS_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fsio.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/safetensors.h"
#include "tests/plan/fixture.h"

/* A safetensors file in memory. */
struct test_tensors {
    struct ds_map map;
    struct ds_safetensors table;
};

static inline void test_tensors_open(struct test_tensors *file, const char *path)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_fs_map(path, &file->map, &err), 0, "%s: %s", path, err.text);
    cr_assert_eq(
        ds_safetensors_parse(&file->table, file->map.data, file->map.len, file->map.len, &err), 0,
        "%s: %s", path, err.text);
}

static inline void test_tensors_close(struct test_tensors *file)
{
    ds_safetensors_release(&file->table);
    ds_map_release(&file->map);
}

enum { TEST_TURNS = 2 }; /* heads of cases whose parts take turns */

/* The tensor `full`, or one that it is a part of, as Phi-3's folders have them; its first element is
 * `*first` of that. */
static inline const struct ds_safetensor *test_find(const struct test_tensors *file,
                                                    const char *full, uint64_t elems,
                                                    uint64_t *first, uint64_t *turn)
{
    static const struct {
        const char *name, *packed;
        unsigned last; /* it and what follows it are so many of its size; 0: it is the first */
        unsigned turn; /* of three that take turns, head by head; 0: it is in one piece */
    } parts[] = {{"q_proj", "qkv_proj", 0, 0},      {"k_proj", "qkv_proj", 2, 0},
                 {"v_proj", "qkv_proj", 1, 0},      {"gate_proj", "gate_up_proj", 0, 0},
                 {"up_proj", "gate_up_proj", 1, 0}, {"query", "query_key_value", 0, 1},
                 {"key", "query_key_value", 0, 2},  {"value", "query_key_value", 0, 3}};
    const struct ds_safetensor *tensor = ds_safetensors_find(&file->table, full);
    const char *end = strrchr(full, '.');
    char packed[DS_MAX_TENSOR_NAME + 64];

    *first = *turn = 0;
    for (size_t i = 0; tensor == NULL && end != NULL && i < sizeof(parts) / sizeof(parts[0]); i++) {
        size_t len = strlen(parts[i].name), before = (size_t)(end - full) - len;

        if ((size_t)(end - full) <= len || full[before - 1] != '.' ||
            strncmp(full + before, parts[i].name, len) != 0)
            continue;
        (void)snprintf(packed, sizeof(packed), "%.*s%s%s", (int)before, full, parts[i].packed, end);
        tensor = ds_safetensors_find(&file->table, packed);
        if (tensor != NULL && parts[i].last > 0)
            *first = tensor->elems - parts[i].last * elems;
        *turn = parts[i].turn;
    }
    return tensor;
}

/* "<prefix><name>" as floats, copied. */
static inline float *test_tensor(const struct test_tensors *file, const char *prefix,
                                 const char *name, uint64_t elems)
{
    char full[DS_MAX_TENSOR_NAME + 32];
    const struct ds_safetensor *tensor;
    float *copy = malloc(elems * sizeof(*copy));
    const float *from;
    uint64_t first, turn;

    (void)snprintf(full, sizeof(full), "%s%s", prefix, name);
    tensor = test_find(file, full, elems, &first, &turn);
    cr_assert_not_null(tensor, "no tensor %s", full);
    cr_assert_not_null(copy);
    cr_assert(strstr(tensor->name, full) == NULL || tensor->elems == elems, "%s", full);
    from = (const void *)((const char *)file->map.data + file->table.data_at + tensor->begin);
    for (uint64_t i = 0, run = turn > 0 ? elems / TEST_TURNS : elems; i < elems; i += run)
        memcpy(copy + i, from + (turn > 0 ? 3 * i + (turn - 1) * run : first), run * sizeof(*copy));
    return copy;
}

/* Weights of norms as the model has them, where a folder has 1 less. */
static inline void test_add_one(enum ds_arch arch, const char *name, float *weight, uint64_t elems)
{
    for (uint64_t i = 0; i < elems && ds__hf_one_more(arch, name); i++)
        weight[i] += 1.0f;
}

static inline double test_l2(const float *got, const float *want, uint64_t n)
{
    double diff = 0.0, norm = 0.0;

    for (uint64_t i = 0; i < n; i++) {
        double by = (double)got[i] - (double)want[i];

        diff += by * by;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(diff / (norm > 0.0 ? norm : 1.0));
}

/* A file of ids of two bytes below `below`, to be removed. */
static inline const char *test_ids_below(uint32_t count, unsigned below)
{
    static char path[64];
    uint16_t *ids = calloc(count, sizeof(*ids));
    ssize_t bytes = (ssize_t)(count * sizeof(*ids));
    int fd;

    cr_assert_not_null(ids);
    (void)snprintf(path, sizeof(path), "/tmp/dsrun-ids-XXXXXX.bin");
    fd = mkstemps(path, 4);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (uint16_t)(((i * 2654435761u) >> 9) % below);
    cr_assert(fd >= 0 && write(fd, ids, (size_t)bytes) == bytes);
    cr_assert_eq(close(fd), 0);
    free(ids);
    return path;
}

static inline const char *test_ids_file(uint32_t count)
{
    return test_ids_below(count, 257);
}

/* A file of samples, to be removed, and its mask where `counts` is not NULL: of id `place` of sample
 * `sample`, 0, 1 or what is wrong. */
struct test_samples {
    uint64_t samples, sequence, vocab;
    uint8_t (*counts)(uint64_t sample, uint64_t place);
    char path[64];
};

static inline uint16_t test_sample_id(const struct test_samples *file, uint64_t sample,
                                      uint64_t place)
{
    uint64_t at = sample * (file->sequence + 1) + place;

    return (uint16_t)((((uint32_t)at * 2654435761u) >> 9) % file->vocab);
}

static inline const char *test_samples_write(struct test_samples *file)
{
    const uint64_t row = file->sequence + 1, ids = file->samples * row;
    char header[256];
    int len =
        snprintf(header, sizeof(header),
                 "{\"tokens\":{\"dtype\":\"U16\",\"shape\":[%ju,%ju],\"data_offsets\":[0,%ju]}",
                 (uintmax_t)file->samples, (uintmax_t)row, (uintmax_t)(2 * ids));
    FILE *out;

    if (file->counts != NULL)
        len += snprintf(header + len, sizeof(header) - (size_t)len,
                        ",\"loss_mask\":{\"dtype\":\"U8\",\"shape\":[%ju,%ju],\"data_offsets\":"
                        "[%ju,%ju]}",
                        (uintmax_t)file->samples, (uintmax_t)row, (uintmax_t)(2 * ids),
                        (uintmax_t)(3 * ids));
    len += snprintf(header + len, sizeof(header) - (size_t)len, "}");
    (void)snprintf(file->path, sizeof(file->path), "/tmp/dsrun-samples-XXXXXX.safetensors");
    out = fdopen(mkstemps(file->path, 12), "wb");
    cr_assert_not_null(out);
    for (int i = 0; i < 8; i++)
        (void)fputc(i == 0 ? len & 255 : i == 1 ? len >> 8 : 0, out);
    (void)fputs(header, out);
    for (uint64_t i = 0; i < ids; i++) {
        uint16_t id = test_sample_id(file, i / row, i % row);

        (void)fputc(id & 255, out);
        (void)fputc(id >> 8, out);
    }
    for (uint64_t i = 0; file->counts != NULL && i < ids; i++)
        (void)fputc(file->counts(i / row, i % row), out);
    cr_assert_eq(fclose(out), 0);
    return file->path;
}

struct test_case {
    const char *folder;
    struct ds_model_shape shape;
    uint64_t sequence;
    bool documents; /* that end with id 5 are kept apart */
};
enum {
    TEST_CASES = 16,
    TEST_EXPERTS = 4 /* the one that has some */,
    TEST_NORMS = 9 /* the first of those whose norms, positions or sums are their own */,
    TEST_LONGROPE = 11
};

static inline struct test_case test_reference(unsigned i)
{
    struct test_case cases[TEST_CASES] = {
        {"tests/reference/gpt2-tiny", test_gpt2(2, 48, 3, 97, 32), 17, false},
        {"tests/reference/llama-tiny", test_llama(2, 64, 4, 2, 96, 113, 32), 17, false},
        {"tests/reference/gpt2-edge", test_gpt2(1, 16, 16, 11, 8), 1,
         false}, /* nothing to attend to */
        {"tests/reference/llama-tied", test_llama(2, 24, 6, 1, 10, 29, 16), 9, false},
        {"tests/reference/mixtral-tiny", test_mixtral(2, 32, 4, 2, 24, 61, 16, 5, 2), 9, false},
        {"tests/reference/qwen2-tiny", test_qwen2(2, 32, 2, 1, 40, 53, 16), 9, false},
        {"tests/reference/qwen3-moe-tiny", test_qwen3_moe(2, 24, 4, 10, 20, 47, 16, 6, 3), 9,
         false},
        {"tests/reference/mistral-tiny", test_llama(2, 24, 4, 2, 32, 13, 16), 9, true},
        {"tests/reference/phi3-tiny", test_phi3(2, 32, 2, 1, 40, 43, 16, 12), 9, false},
        {"tests/reference/olmo2-tiny", test_olmo2(2, 24, 4, 2, 32, 37, 16), 9, false},
        {"tests/reference/gemma3-tiny", test_gemma3(3, 24, 4, 10, 32, 41, 16, 4, 2), 9, false},
        {"tests/reference/longrope-tiny", test_longrope(), 9, false},
        {"tests/reference/granite-tiny", test_granite(2, 24, 4, 2, 32, 45, 16), 9, false},
        {"tests/reference/pythia-tiny", test_gpt_neox(2, 24, 2, 40, 35, 16, true), 9, false},
        {"tests/reference/neox-tiny", test_gpt_neox(2, 24, 2, 40, 35, 16, false), 9, false},
        {"tests/reference/smollm3-tiny", test_smollm3(3, 24, 4, 2, 32, 39, 16, 2), 9, false},
    };

    cases[3].shape.tie_embeddings = cases[5].shape.tie_embeddings = cases[8].shape.tie_embeddings =
        true;
    cases[7].shape.window = 4;
    cases[8].shape.window = 6;
    return cases[i];
}

#endif
