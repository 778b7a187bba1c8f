/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * lines.c - the contract is in lines.h.
 */
#include "runtime/lines.h"

#include <errno.h>
#include <stdlib.h>

int ds_lines_open(struct ds_engine_lines *host, const struct ds_plan *plan, struct ds_error *err)
{
    bool whole;

    *host = (struct ds_engine_lines){
        .params = calloc(ds_plan_line_elems(plan, DS_ARENA_PARAMS), sizeof(float))};
    whole = host->params != NULL;
    for (unsigned i = 0; i < plan->optim_states; i++) {
        uint64_t elems = ds_plan_state_elems(plan, i);

        host->state[i] = calloc(elems, sizeof(float));
        whole = whole && (host->state[i] != NULL || elems == 0);
    }
    if (whole)
        return 0;
    ds_lines_close(host, plan);
    return ds_fail(err, ENOMEM, "no memory for the host's copy of parameters and optimizer state");
}

void ds_lines_close(struct ds_engine_lines *host, const struct ds_plan *plan)
{
    free(host->params);
    for (unsigned i = 0; i < plan->optim_states; i++)
        free(host->state[i]);
    *host = (struct ds_engine_lines){0};
}

/* What of the parameters is frozen, which stays where kernels read it. */
static uint64_t frozen(const struct ds_plan *plan)
{
    if (plan->copies)
        return 0;
    return plan->sharded[DS_ARENA_PARAMS] ? plan->frozen_held : plan->frozen_elems;
}

int ds_lines_copy(enum ds_copy_way way, const struct ds_engine_lines *to,
                  const struct ds_engine_lines *from, const struct ds_plan *plan,
                  struct ds_stream *stream, struct ds_error *err)
{
    const uint64_t out = frozen(plan), elems = ds_plan_line_elems(plan, DS_ARENA_PARAMS) - out;
    int rc = ds_stream_copy(stream, way, to->params + out, from->params + out,
                            elems * sizeof(float), err);

    for (unsigned i = 0; rc == 0 && i < plan->optim_states; i++)
        rc = ds_stream_copy(stream, way, to->state[i], from->state[i],
                            ds_plan_state_elems(plan, i) * sizeof(float), err);
    return rc != 0 ? rc : ds_stream_finish(stream, err);
}

/* On a device apart values of another type than the line's become that there. */
int ds_lines_write(const struct ds_lines_put *put, struct ds_stream *stream, struct ds_error *err)
{
    const uint64_t room = put->plan->arena_bytes[DS_ARENA_ACTIVATIONS] / sizeof(float);
    const enum ds_dtype type = ds_compute_dtype(put->plan->compute);
    const bool apart = ds_device_is_apart(put->device);
    int rc = 0;

    for (uint64_t done = 0, n; rc == 0 && done < put->count; done += n) {
        unsigned char *to = (unsigned char *)put->line + (put->at + done) * ds_dtype_bytes(type);
        struct ds_cast_args cast = {.from = DS_F32, .to = type, .x = put->values + done, .y = to};

        n = put->count - done < room ? put->count - done : room;
        cast.n = n;
        if (apart) {
            void *there = type == DS_F32 ? to : put->room;

            rc = ds_stream_copy(stream, DS_COPY_UP, there, cast.x, n * sizeof(float), err);
            cast.x = there;
        }
        if (rc == 0 && cast.x != cast.y)
            rc = ds_cast(&cast, stream, err);
        if (rc == 0)
            rc = ds_stream_finish(stream, err);
    }
    return rc;
}
