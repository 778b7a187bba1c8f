/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * logmux.c - the contract is in logmux.h.
 */
#include "launcher/fleet/logmux.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum { ESCAPED_BYTES = 4 * DS_MAX_LINE_BYTES + 1 }; /* "\x1b" for every byte */

int ds_logmux_init(struct ds_logmux *mux, uint32_t world, ds_line_fn *line, void *user,
                   struct ds_error *err)
{
    *mux = (struct ds_logmux){.world = world, .line = line, .user = user};
    mux->rank = calloc(world, sizeof(*mux->rank));
    mux->escaped = malloc(ESCAPED_BYTES);
    if (mux->rank == NULL || mux->escaped == NULL) {
        ds_logmux_release(mux);
        return ds_fail(err, ENOMEM, "no memory for the output of %u ranks", world);
    }
    for (uint32_t i = 0; i < world; i++)
        for (int s = 0; s < DS_LOG_STREAMS; s++)
            ds_buf_init(&mux->rank[i].part[s], DS_MAX_LINE_BYTES);
    return 0;
}

void ds_logmux_release(struct ds_logmux *mux)
{
    for (uint32_t i = 0; mux->rank != NULL && i < mux->world; i++) {
        for (int s = 0; s < DS_LOG_STREAMS; s++)
            ds_buf_release(&mux->rank[i].part[s]);
        for (unsigned k = 0; k < DS_TAIL_LINES; k++)
            free(mux->rank[i].tail.line[k]);
    }
    free(mux->rank);
    free(mux->escaped);
    *mux = (struct ds_logmux){0};
}

static void keep(struct ds_log_tail *tail, const char *text)
{
    char **slot = &tail->line[tail->next];

    if (*slot == NULL)
        *slot = malloc(DS_TAIL_LINE_BYTES);
    if (*slot == NULL)
        return;
    (void)snprintf(*slot, DS_TAIL_LINE_BYTES, "%s", text);
    tail->next = (tail->next + 1) % DS_TAIL_LINES;
}

static void emit(struct ds_logmux *mux, uint32_t rank, enum ds_log_stream stream, const char *text,
                 size_t len)
{
    if (len > 0 && text[len - 1] == '\r')
        len--;
    (void)ds_escape_control(mux->escaped, ESCAPED_BYTES, text, len);
    if (stream == DS_LOG_STDERR)
        keep(&mux->rank[rank].tail, mux->escaped);
    mux->line(mux->user, rank, stream, mux->escaped);
}

static void flush(struct ds_logmux *mux, uint32_t rank, enum ds_log_stream stream)
{
    struct ds_buf *part = &mux->rank[rank].part[stream];

    emit(mux, rank, stream, ds_buf_text(part), part->len);
    ds_buf_reset(part);
}

void ds_logmux_feed(struct ds_logmux *mux, uint32_t rank, enum ds_log_stream stream,
                    const char *bytes, size_t len)
{
    struct ds_buf *part = &mux->rank[rank].part[stream];

    while (len > 0) {
        const char *end = memchr(bytes, '\n', len);
        size_t room = DS_MAX_LINE_BYTES - part->len;
        size_t take = end != NULL ? (size_t)(end - bytes) : len;

        if (take > room) { /* too long: give out what there is */
            (void)ds_buf_put(part, bytes, room);
            flush(mux, rank, stream);
            take = room;
        } else if (end == NULL) {
            (void)ds_buf_put(part, bytes, take);
        } else if (part->len == 0) {
            emit(mux, rank, stream, bytes, take);
            take++;
        } else {
            (void)ds_buf_put(part, bytes, take);
            flush(mux, rank, stream);
            take++;
        }
        if (part->failed)
            ds_buf_reset(part); /* no memory: this line is lost, the next is not */
        bytes += take;
        len -= take;
    }
}

void ds_logmux_end(struct ds_logmux *mux, uint32_t rank)
{
    for (int s = 0; s < DS_LOG_STREAMS; s++) {
        if (mux->rank[rank].part[s].len > 0)
            flush(mux, rank, (enum ds_log_stream)s);
        ds_buf_release(&mux->rank[rank].part[s]);
        ds_buf_init(&mux->rank[rank].part[s], DS_MAX_LINE_BYTES);
    }
}

void ds_logmux_tail(const struct ds_logmux *mux, uint32_t rank, ds_line_fn *line, void *user)
{
    const struct ds_log_tail *tail = &mux->rank[rank].tail;

    for (unsigned i = 0; i < DS_TAIL_LINES; i++) {
        const char *text = tail->line[(tail->next + i) % DS_TAIL_LINES];

        if (text != NULL)
            line(user, rank, DS_LOG_STDERR, text);
    }
}
