/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_page.c - any lines as metrics and events of a run, and the page about it.
 *
 * The first byte of a line says which of the two it is of.  Beyond "no crash": the page is UTF-8
 * without control characters, every tag is closed, and no number of it is NaN or infinite.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH = 32 };

/* Tags open and close in turn. */
static void check_tags(const char *at)
{
    const char *open[DEPTH];
    size_t depth = 0;

    while ((at = strchr(at, '<')) != NULL) {
        const char *end = strchr(at, '>');
        size_t len = strcspn(at + 1, " />");

        assert(end != NULL);
        if (at[1] == '!') { /* head and comment */
        } else if (at[1] == '/') {
            assert(depth > 0);
            depth--;
            len = strcspn(at + 2, ">");
            assert(strncmp(open[depth], at + 2, len) == 0 &&
                   strchr(" >", open[depth][len]) != NULL);
        } else if (end[-1] != '/') {
            assert(depth < DEPTH && len > 0);
            open[depth++] = at + 1;
        }
        at = end;
    }
    assert(depth == 0);
}

/* Of pictures, whose words are the page's own. */
static void check_numbers(const char *at)
{
    while ((at = strstr(at, "<svg")) != NULL) {
        const char *end = strstr(at, "</svg>");

        assert(end != NULL);
        assert(memmem(at, (size_t)(end - at), "nan", 3) == NULL);
        assert(memmem(at, (size_t)(end - at), "inf", 3) == NULL);
        at = end;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_page *page = calloc(1, sizeof(*page));
    const char *at = (const char *)data, *text;
    struct ds_buf out;

    assert(page != NULL);
    ds_buf_init(&page->header, DS_RECORD_BYTES);
    ds_buf_init(&page->job, 1 << 16);
    (void)ds_buf_put(&page->job, at, size < 1 << 16 ? size : 1 << 16);
    while (size > 0) {
        const char *end = memchr(at, '\n', size);
        size_t len = end == NULL ? size : (size_t)(end - at);

        if (len > 0 && at[0] == 'e')
            ds_page_event_line(page, at + 1, len - 1);
        else if (len > 0)
            ds_page_metrics_line(page, at + 1, len - 1);
        at += len + (end != NULL);
        size -= len + (end != NULL);
    }
    ds__page_end_launch(page, page->last_s);
    ds_buf_init(&out, (size_t)1 << 28);
    ds_page_write(page, "runs/<x>", 1e9, &out);
    assert(!out.failed);
    text = ds_buf_text(&out);
    assert(ds_utf8_valid(text, out.len) == out.len && strlen(text) == out.len);
    for (size_t i = 0; i < out.len; i++)
        assert((unsigned char)text[i] >= 0x20 || text[i] == '\n' || text[i] == '\t');
    check_numbers(text);
    check_tags(text);
    ds_buf_release(&out);
    ds_page_release(page);
    free(page);
    return 0;
}
