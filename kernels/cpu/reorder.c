/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * reorder.c - runs of bytes in another order: what ranks exchange, laid out by who gets it.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"

#include <string.h>

enum { SPAN_BYTES = 64 << 10 };

struct reorder {
    const struct ds_reorder_args *a;
    size_t span, spans; /* inner runs of a task, tasks of an outer one */
};

static void reorder_task(void *arg, size_t task, unsigned thread)
{
    const struct reorder *r = arg;
    const struct ds_reorder_args *a = r->a;
    size_t i = task / r->spans, begin = task % r->spans * r->span;
    size_t end = ds__min(begin + r->span, a->inner);
    const char *from = (const char *)a->from + i * a->from_outer;
    char *to = (char *)a->to + i * a->to_outer;

    (void)thread;
    for (size_t j = begin; j < end; j++)
        memcpy(to + j * a->to_inner, from + j * a->from_inner, a->run);
}

int DS_ISA(ds__cpu_reorder)(const struct ds_reorder_args *args, struct ds_stream *stream,
                            struct ds_error *err)
{
    struct reorder r = {.a = args};

    (void)err;
    if (args->inner == 0 || args->run == 0)
        return 0;
    r.span = args->run < SPAN_BYTES ? SPAN_BYTES / args->run : 1;
    r.spans = ds__div_up(args->inner, r.span);
    ds__cpu_run(stream, args->outer * r.spans, reorder_task, &r);
    return 0;
}
