/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * lines.h - the host's copy of an engine's lines where the device has memory of its own.
 *
 * Gradients have none: nobody outside a step reads them.
 *
 * Tests   tests/e2e/cuda.py (a device of its own); tests/engine/ (none)
 */
#ifndef DS_RUNTIME_LINES_H
#define DS_RUNTIME_LINES_H

#include "base/error.h"
#include "kernels/device.h"
#include "runtime/engine.h"

/* Zeroed; pages that are never written cost nothing. */
int ds_lines_open(struct ds_engine_lines *host, const struct ds_plan *plan, struct ds_error *err)
    DS_NODISCARD;
void ds_lines_close(struct ds_engine_lines *host, const struct ds_plan *plan);

/* Parameters and states of one side to the other's; done when it returns. */
int ds_lines_copy(enum ds_copy_way way, const struct ds_engine_lines *to,
                  const struct ds_engine_lines *from, const struct ds_plan *plan,
                  struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

/* Elements of a line that kernels read, from the host, by way of memory that is free. */
struct ds_lines_put {
    struct ds_device *device;
    const struct ds_plan *plan;
    void *line;
    uint64_t at, count; /* elements of it */
    const float *values;
    void *room; /* the arena of activations */
};
int ds_lines_write(const struct ds_lines_put *put, struct ds_stream *stream, struct ds_error *err)
    DS_NODISCARD;

#endif
