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

int ds_lines_copy(enum ds_copy_way way, const struct ds_engine_lines *to,
                  const struct ds_engine_lines *from, const struct ds_plan *plan,
                  struct ds_stream *stream, struct ds_error *err)
{
    int rc = ds_stream_copy(stream, way, to->params, from->params,
                            ds_plan_line_elems(plan, DS_ARENA_PARAMS) * sizeof(float), err);

    for (unsigned i = 0; rc == 0 && i < plan->optim_states; i++)
        rc = ds_stream_copy(stream, way, to->state[i], from->state[i],
                            ds_plan_state_elems(plan, i) * sizeof(float), err);
    return rc != 0 ? rc : ds_stream_finish(stream, err);
}
