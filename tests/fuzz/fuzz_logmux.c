/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_logmux.c - any bytes as the output of two ranks; the first byte says in which pieces they come.
 *
 * Beyond "no crash": what leaves is bounded lines without a control character, and all of them once the
 * ranks have ended.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/limits.h"
#include "launcher/fleet/logmux.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_line(void *user, uint32_t rank, enum ds_log_stream stream, const char *text)
{
    unsigned *lines = user;

    assert(rank < 2 && (stream == DS_LOG_STDOUT || stream == DS_LOG_STDERR));
    assert(strlen(text) <= 4 * DS_MAX_LINE_BYTES);
    for (const char *at = text; *at != '\0'; at++)
        assert(((unsigned char)*at >= ' ' || *at == '\t') && *at != 127);
    ++*lines;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned lines = 0, tail = 0, ends = 0;
    struct ds_logmux mux;
    size_t piece;

    if (size < 1)
        return 0;
    piece = data[0] == 0 ? size : data[0];
    assert(ds_logmux_init(&mux, 2, take_line, &lines, NULL) == 0);
    for (size_t at = 1, i = 0; at < size; at += piece, i++) {
        size_t n = size - at < piece ? size - at : piece;

        ds_logmux_feed(&mux, i % 2, i / 2 % 2 == 0 ? DS_LOG_STDOUT : DS_LOG_STDERR,
                       (const char *)data + at, n);
        for (size_t k = 0; k < n; k++)
            ends += data[at + k] == '\n';
    }
    for (uint32_t rank = 0; rank < 2; rank++) {
        ds_logmux_end(&mux, rank);
        ds_logmux_tail(&mux, rank, take_line, &tail);
    }
    assert(lines >= ends && tail <= 2 * DS_TAIL_LINES);
    ds_logmux_release(&mux);
    return 0;
}
