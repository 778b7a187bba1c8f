/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_tokens.c - any bytes as a data file.
 *
 * The first byte chooses the file's name, the second the length of a sequence; the rest is the
 * file.  Whatever is accepted lies inside it: every sample can be read, or names the id or the mask
 * that cannot; and has as many targets as are told.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/data/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEQUENCES = 64, SAMPLES_READ = 256 };

static const char *const paths[] = {"a.txt", "a.bin", "a.u32.bin", "a.safetensors"};

/* Of ids that could be read. */
static void count_targets(const struct ds_tokens *tokens, const uint8_t *bytes, uint64_t first,
                          const int32_t *ids, size_t n)
{
    uint64_t targets, negative = 0;
    int rc = ds_tokens_targets(tokens, bytes, first, n, &targets, NULL);

    for (size_t i = 0; i < n; i++)
        negative += ids[i] < 0;
    assert(rc == 0 && targets + negative == n && (tokens->mask_at != 0 || negative == 0));
}

static void read_samples(const struct ds_tokens *tokens, const uint8_t *bytes, uint64_t sequence)
{
    uint64_t step = tokens->samples / SAMPLES_READ + 1;
    int32_t ids[SEQUENCES + 1];

    for (uint64_t sample = 0; sample < tokens->samples; sample += step) {
        struct ds_error err = {0};
        int rc = ds_tokens_copy(tokens, bytes, sample * tokens->stride, (size_t)sequence + 1, 256,
                                ids, &err);

        assert((rc == 0) == (err.text[0] == '\0'));
        for (uint64_t i = 0; rc == 0 && i <= sequence; i++)
            assert(ids[i] >= -256 && ids[i] < 256);
        if (rc == 0)
            count_targets(tokens, bytes, sample * tokens->stride, ids, (size_t)sequence + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_error err = {0};
    struct ds_tokens tokens;
    uint64_t sequence;
    size_t width;

    if (size < 2)
        return 0;
    sequence = data[1] % SEQUENCES + 1U;
    if (data[0] % 4 == 3 && data[1] == UINT8_MAX)
        sequence = 0; /* as many as the file says */
    if (ds_tokens_parse(&tokens, paths[data[0] % 4], DS_DATA_AUTO, data + 2, size - 2, sequence,
                        &err) != 0) {
        assert(err.text[0] != '\0');
        return 0;
    }
    width = ds_token_bytes(tokens.type);
    sequence = sequence == 0 ? tokens.stride - 1 : sequence;
    if (sequence > SEQUENCES)
        return 0;
    assert(tokens.at <= size - 2);
    assert(tokens.count <= (size - 2 - tokens.at) / width);
    assert(tokens.mask_at <= size - 2 && tokens.count <= size - 2 - tokens.mask_at);
    assert(tokens.samples == 0 ||
           (tokens.samples - 1) * tokens.stride + sequence + 1 <= tokens.count);
    read_samples(&tokens, data + 2, sequence);
    return 0;
}
