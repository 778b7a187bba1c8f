/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * state.c - the named numbers of a run's state.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/ckpt/ckpt.h"

double ds_ckpt_scalar(const struct ds_ckpt_state *state, const char *name, double otherwise)
{
    for (unsigned i = 0; i < state->scalars; i++)
        if (strcmp(state->scalar[i].name, name) == 0)
            return state->scalar[i].value;
    return otherwise;
}

int ds_ckpt_set_scalar(struct ds_ckpt_state *state, const char *name, double value,
                       struct ds_error *err)
{
    size_t len = strlen(name);
    unsigned i = 0;

    if (len == 0 || len > DS_CKPT_SCALAR_NAME)
        return ds_fail(err, EINVAL, "'%.40s' is no name of a number, those have 1 to %d bytes",
                       name, DS_CKPT_SCALAR_NAME);
    if (!isfinite(value))
        return ds_fail(err, EINVAL, "'%s' is not finite", name);
    while (i < state->scalars && strcmp(state->scalar[i].name, name) != 0)
        i++;
    if (i == DS_CKPT_MAX_SCALARS)
        return ds_fail(err, EINVAL, "'%s' is one more than %d named numbers", name,
                       DS_CKPT_MAX_SCALARS);
    if (i == state->scalars) {
        (void)snprintf(state->scalar[i].name, sizeof(state->scalar[i].name), "%s", name);
        state->scalars++;
    }
    state->scalar[i].value = value + 0.0; /* no -0, which JSON readers drop */
    return 0;
}
