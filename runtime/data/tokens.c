/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokens.c - the contract is in tokens.h.
 */
#include "runtime/data/tokens.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/wire.h"
#include "kernels/dtype.h"
#include "runtime/ckpt/safetensors.h"

size_t ds_token_bytes(enum ds_token_type type)
{
    static const size_t bytes[] = {
        [DS_TOKEN_U8] = 1,  [DS_TOKEN_U16] = 2, [DS_TOKEN_U32] = 4,
        [DS_TOKEN_I32] = 4, [DS_TOKEN_I64] = 8,
    };

    return bytes[type];
}

static bool ends_in(const char *path, const char *end)
{
    size_t len = strlen(path), end_len = strlen(end);

    return len >= end_len && strcmp(path + len - end_len, end) == 0;
}

enum ds_data_format ds_tokens_format(enum ds_data_format format, const char *path)
{
    if (format != DS_DATA_AUTO)
        return format;
    if (ends_in(path, ".safetensors"))
        return DS_DATA_SAMPLES;
    return ends_in(path, ".bin") ? DS_DATA_TOKENS : DS_DATA_TEXT;
}

/* Samples of a stream overlap by the one id that is both last target and next first input. */
static void cut_stream(struct ds_tokens *tokens, uint64_t sequence)
{
    tokens->stride = sequence;
    tokens->samples = tokens->count == 0 ? 0 : (tokens->count - 1) / sequence;
}

static int parse_llmc(struct ds_tokens *tokens, const uint8_t *bytes, size_t len,
                      struct ds_error *err)
{
    uint32_t version, count;
    uint64_t body, ids;
    size_t width;

    if (len < DS_TOKENS_HEADER)
        return ds_fail(err, EBADMSG, "the header is cut: %zu of its %d bytes are there", len,
                       DS_TOKENS_HEADER);
    version = ds_get_u32(bytes + 4);
    count = ds_get_u32(bytes + 8);
    ids = count == DS_TOKENS_LONG ? ds_get_u64(bytes + DS_TOKENS_LONG_AT) : count;
    if (version != DS_TOKENS_U16 && version != DS_TOKENS_U32)
        return ds_fail(err, EBADMSG, "version %u of the token header is not known, only %d and %d",
                       version, DS_TOKENS_U16, DS_TOKENS_U32);
    *tokens = (struct ds_tokens){.type = version == DS_TOKENS_U16 ? DS_TOKEN_U16 : DS_TOKEN_U32,
                                 .at = DS_TOKENS_HEADER,
                                 .count = ids};
    body = len - DS_TOKENS_HEADER;
    width = ds_token_bytes(tokens->type);
    if (count == DS_TOKENS_LONG ? ids <= INT32_MAX : ids > INT32_MAX)
        return ds_fail(err, EBADMSG, "the header announces %u ids, which cannot be", count);
    if (body % width != 0 || body / width != ids)
        return ds_fail(err, EBADMSG,
                       "the header announces %ju ids of %zu bytes, but %ju bytes follow it",
                       (uintmax_t)ids, width, (uintmax_t)body);
    return 0;
}

static int parse_stream(struct ds_tokens *tokens, const char *path, const uint8_t *bytes,
                        size_t len, struct ds_error *err)
{
    size_t width;

    if (len >= 4 && ds_get_u32(bytes) == DS_TOKENS_MAGIC)
        return parse_llmc(tokens, bytes, len, err);
    *tokens = (struct ds_tokens){.type = ends_in(path, ".u32.bin") ? DS_TOKEN_U32 : DS_TOKEN_U16};
    width = ds_token_bytes(tokens->type);
    if (len % width != 0)
        return ds_fail(err, EBADMSG, "%zu bytes are no whole number of %zu-byte ids", len, width);
    tokens->count = len / width;
    return 0;
}

static int token_type(enum ds_dtype dtype, enum ds_token_type *type)
{
    switch (dtype) {
    case DS_U16: *type = DS_TOKEN_U16; return 0;
    case DS_I32: *type = DS_TOKEN_I32; return 0;
    case DS_I64: *type = DS_TOKEN_I64; return 0;
    default: return -EINVAL;
    }
}

/* The rows of `tensor`, which the parser has checked against the file's length. */
static int take_rows(struct ds_tokens *tokens, const struct ds_safetensors *file,
                     const struct ds_safetensor *tensor, uint64_t sequence, struct ds_error *err)
{
    const uint64_t row = tensor->ndim == 0 ? 0 : tensor->shape[tensor->ndim - 1];
    char shape[DS_SHAPE_TEXT];
    enum ds_token_type type;

    if (token_type((enum ds_dtype)tensor->dtype, &type) != 0)
        return ds_fail(err, EINVAL, "tensor 'tokens' is %s, it must be I32, I64 or U16",
                       tensor->dtype_name);
    if (sequence == 0 && (row < 2 || row > DS_MAX_CONTEXT + 1))
        return ds_fail(err, EINVAL, "tensor 'tokens' is %s, its last dimension is no sample's",
                       ds_shape_text(tensor->shape, tensor->ndim, shape));
    if (sequence > 0 && row != sequence + 1)
        return ds_fail(err, EINVAL,
                       "tensor 'tokens' is %s, its last dimension must be train.sequence + 1 = %ju",
                       ds_shape_text(tensor->shape, tensor->ndim, shape), (uintmax_t)sequence + 1);
    *tokens = (struct ds_tokens){.type = type,
                                 .at = file->data_at + tensor->begin,
                                 .count = tensor->elems,
                                 .stride = row,
                                 .samples = tensor->elems / row};
    return 0;
}

/* The mask, which need not be there, of the rows of `tensor`. */
static int take_mask(struct ds_tokens *tokens, const struct ds_safetensors *file,
                     const struct ds_safetensor *tensor, struct ds_error *err)
{
    const struct ds_safetensor *mask = ds_safetensors_find(file, "loss_mask");
    char shape[DS_SHAPE_TEXT], want[DS_SHAPE_TEXT];

    if (mask == NULL)
        return 0;
    if (strcmp(mask->dtype_name, "U8") != 0 && strcmp(mask->dtype_name, "BOOL") != 0)
        return ds_fail(err, EINVAL, "tensor 'loss_mask' is %s, it must be U8 or BOOL",
                       mask->dtype_name);
    if (mask->ndim != tensor->ndim ||
        memcmp(mask->shape, tensor->shape, tensor->ndim * sizeof(*tensor->shape)) != 0)
        return ds_fail(err, EINVAL, "tensor 'loss_mask' is %s, it must be %s, as 'tokens' is",
                       ds_shape_text(mask->shape, mask->ndim, shape),
                       ds_shape_text(tensor->shape, tensor->ndim, want));
    tokens->mask_at = file->data_at + mask->begin;
    return 0;
}

static int parse_samples(struct ds_tokens *tokens, const void *bytes, size_t len, uint64_t sequence,
                         struct ds_error *err)
{
    struct ds_safetensors file;
    const struct ds_safetensor *tensor;
    int rc = ds_safetensors_parse(&file, bytes, len, len, err);

    if (rc != 0)
        return rc;
    rc = ds_safetensors_get(&file, "tokens", &tensor, err);
    if (rc == 0)
        rc = take_rows(tokens, &file, tensor, sequence, err);
    if (rc == 0)
        rc = take_mask(tokens, &file, tensor, err);
    ds_safetensors_release(&file);
    return rc;
}

int ds_tokens_parse(struct ds_tokens *tokens, const char *path, enum ds_data_format format,
                    const void *bytes, size_t len, uint64_t sequence, struct ds_error *err)
{
    int rc = 0;

    format = ds_tokens_format(format, path);
    assert((sequence >= 1 || format == DS_DATA_SAMPLES) && sequence <= DS_MAX_CONTEXT);
    switch (format) {
    case DS_DATA_SAMPLES: return parse_samples(tokens, bytes, len, sequence, err);
    case DS_DATA_TOKENS: rc = parse_stream(tokens, path, bytes, len, err); break;
    default: *tokens = (struct ds_tokens){.type = DS_TOKEN_U8, .count = len};
    }
    if (rc == 0)
        cut_stream(tokens, sequence);
    return rc;
}

static int64_t id_at(enum ds_token_type type, const uint8_t *at)
{
    switch (type) {
    case DS_TOKEN_U8: return at[0];
    case DS_TOKEN_U16: return at[0] | at[1] << 8;
    case DS_TOKEN_U32: return ds_get_u32(at);
    case DS_TOKEN_I32: return (int32_t)ds_get_u32(at);
    case DS_TOKEN_I64: break;
    }
    return (int64_t)ds_get_u64(at);
}

/* The mask of id `first` and of those behind it; NULL: there is none. */
static const uint8_t *mask_of(const struct ds_tokens *tokens, const void *bytes, uint64_t first)
{
    return tokens->mask_at == 0 ? NULL : (const uint8_t *)bytes + tokens->mask_at + first;
}

static int bad_mask(const struct ds_tokens *tokens, unsigned value, uint64_t id,
                    struct ds_error *err)
{
    return ds_fail(err, EBADMSG, "mask %u at byte %ju is neither 0 nor 1", value,
                   (uintmax_t)(tokens->mask_at + id));
}

int ds_tokens_copy(const struct ds_tokens *tokens, const void *bytes, uint64_t first, size_t n,
                   uint64_t vocab, int32_t *ids, struct ds_error *err)
{
    size_t width = ds_token_bytes(tokens->type);
    const uint8_t *from = (const uint8_t *)bytes + tokens->at + first * width;
    const uint8_t *mask = mask_of(tokens, bytes, first);

    assert(first <= tokens->count && n <= tokens->count - first && vocab <= DS_MAX_VOCAB);
    for (size_t i = 0; i < n; i++) {
        int64_t id = id_at(tokens->type, from + i * width);

        if (id < 0 || (uint64_t)id >= vocab)
            return ds_fail(
                err, EBADMSG, "token %jd at byte %ju is outside the vocabulary of %ju ids",
                (intmax_t)id, (uintmax_t)(tokens->at + (first + i) * width), (uintmax_t)vocab);
        ids[i] = (int32_t)id;
    }
    for (size_t i = 0; mask != NULL && i < n; i++) {
        if (mask[i] > 1)
            return bad_mask(tokens, mask[i], first + i, err);
        ids[i] = mask[i] != 0 ? ids[i] : ~ids[i];
    }
    return 0;
}

int ds_tokens_targets(const struct ds_tokens *tokens, const void *bytes, uint64_t first, size_t n,
                      uint64_t *targets, struct ds_error *err)
{
    const uint8_t *mask = mask_of(tokens, bytes, first);
    uint64_t sum = 0;
    uint8_t any = 0;

    assert(first <= tokens->count && n <= tokens->count - first);
    for (size_t i = 0; mask != NULL && i < n; i++) { /* of a whole global batch: without a branch */
        sum += mask[i];
        any |= mask[i];
    }
    *targets = mask == NULL ? n : sum;
    for (size_t i = 0; any > 1; i++)
        if (mask[i] > 1)
            return bad_mask(tokens, mask[i], first + i, err);
    return 0;
}
