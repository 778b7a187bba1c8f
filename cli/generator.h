/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * generator.h - the worker that generates: started, asked, listened to; runtime/generate/request.h.
 *
 * Tests   tests/e2e/generate.py
 */
#ifndef DS_CLI_GENERATOR_H
#define DS_CLI_GENERATOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "runtime/generate/request.h"

struct ds_generator { /* of one request; ds_generator_end() after a start that gave 0 */
    pid_t pid;
    int to, from; /* its standard input and output */
};

int ds_generator_start(struct ds_generator *generator, const struct ds_generate_request *request,
                       struct ds_error *err) DS_NODISCARD;
/* The next event; *there is false when no more come. */
int ds_generator_next(struct ds_generator *generator, struct ds_generate_event *event, bool *there,
                      struct ds_error *err) DS_NODISCARD;
/* The sample is long enough; or DS_GENERATE_GO_ON.  That the worker has gone shows in the
 * events. */
void ds_generator_tell(struct ds_generator *generator, uint32_t number);
/* Wait for its end.  The code dsrun should end with; what a worker ended for it has said itself,
 * and of one that was killed it is said here. */
int ds_generator_end(struct ds_generator *generator);

#endif
