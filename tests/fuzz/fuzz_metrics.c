/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_metrics.c - any bytes as the metrics of a run that goes on.
 *
 * The first byte chooses the kind of file, the second how many updates stay.  Beyond "no crash": whole
 * lines stay as they were and in their order, and a second cut takes nothing more.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "cli/metrics.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every line of `out` is one of `text`, behind the one before it. */
static void check_lines(const struct ds_buf *out, const char *text, size_t size)
{
    const char *at = out->data, *end = out->data + out->len, *from = text;

    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = stop != NULL ? (size_t)(stop - at) + 1 : (size_t)(end - at);

        assert(stop != NULL); /* a line that was cut off does not stay */
        for (;;) {
            const char *next = memchr(from, '\n', size - (size_t)(from - text));
            size_t have = next != NULL ? (size_t)(next - from) + 1 : 0;
            bool same = have == len && memcmp(from, at, len) == 0;

            assert(next != NULL);
            from = next + 1;
            if (same)
                break;
        }
        at += len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_buf once, twice;
    const char *text;

    if (size < 2)
        return 0;
    text = (const char *)data + 2;
    ds_buf_init(&once, size + 1);
    ds_buf_init(&twice, size + 1);
    assert(ds_metrics_cut(text, size - 2, (data[0] & 1) != 0, data[1], &once) == 0);
    check_lines(&once, text, size - 2);
    assert(ds_metrics_cut(ds_buf_text(&once), once.len, (data[0] & 1) != 0, data[1], &twice) == 0);
    assert(twice.len == once.len &&
           (once.len == 0 || memcmp(twice.data, once.data, once.len) == 0));
    ds_buf_release(&once);
    ds_buf_release(&twice);
    return 0;
}
