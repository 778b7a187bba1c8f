/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_safetensors.c - any bytes as a safetensors file.
 *
 * An input that starts with '{' is a header alone: its length is put in front of it and 48 bytes of
 * data behind, so that mutations need not keep the length in step.  Beyond "no crash": a refusal
 * has a reason, an accepted table is what the format demands, and built again it reads back equal.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/ckpt/safetensors.h"

enum { DATA_BYTES = 48 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_table(const struct ds_safetensors *st)
{
    uint64_t bytes = 0, elems;

    for (size_t i = 0; i < st->count; i++) {
        const struct ds_safetensor *t = &st->tensor[i];

        assert(i == 0 || strcmp(st->tensor[i - 1].name, t->name) < 0);
        assert(t->begin <= t->end && t->end <= st->data_bytes);
        assert(t->ndim <= DS_MAX_TENSOR_DIMS && strlen(t->name) <= DS_MAX_TENSOR_NAME);
        assert(ds_shape_elems(t->shape, t->ndim, &elems) && elems == t->elems);
        if (t->dtype >= 0)
            assert(t->elems * ds_dtype_bytes((enum ds_dtype)t->dtype) == t->end - t->begin);
        assert(ds_safetensors_find(st, t->name) == t);
        bytes += t->end - t->begin;
    }
    assert(bytes == st->data_bytes);
}

/* The tensors of known types, written and read again. */
static void check_rebuilt(const struct ds_safetensors *st)
{
    struct ds_safetensor *table = calloc(st->count + 1, sizeof(*table));
    struct ds_safetensors again;
    struct ds_error err = {0};
    struct ds_buf out;
    size_t count = 0;

    assert(table != NULL);
    for (size_t i = 0; i < st->count; i++)
        if (st->tensor[i].dtype >= 0)
            table[count++] = st->tensor[i];
    ds_buf_init(&out, DS_MAX_JSON_BYTES);
    if (ds_safetensors_build(table, count, "pt", &out, &err) == 0) {
        uint64_t end = count > 0 ? table[count - 1].end : 0;

        assert(ds_safetensors_parse(&again, out.data, out.len, out.len + end, &err) == 0);
        assert(again.count == count);
        check_table(&again);
        ds_safetensors_release(&again);
    }
    ds_buf_release(&out);
    free(table);
}

static void parse(const void *bytes, size_t len, uint64_t file_len)
{
    struct ds_safetensors st;
    struct ds_error err = {0};

    if (ds_safetensors_parse(&st, bytes, len, file_len, &err) != 0) {
        assert(err.text[0] != '\0' && st.tensor == NULL);
        return;
    }
    check_table(&st);
    check_rebuilt(&st);
    ds_safetensors_release(&st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file;

    if (size == 0 || data[0] != '{') {
        parse(data, size, size);
        return 0;
    }
    file = malloc(8 + size); /* of this size, so that a read behind it is seen */
    assert(file != NULL);
    for (unsigned i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)size >> (8 * i));
    memcpy(file + 8, data, size);
    parse(file, 8 + size, 8 + size + DATA_BYTES);
    free(file);
    return 0;
}
