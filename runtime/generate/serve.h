/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * serve.h - the worker's side of dsrun generate: one request, its samples, as request.h says.
 *
 * Tests   tests/engine/test_serve.c, tests/e2e/generate.py
 */
#ifndef DS_RUNTIME_GENERATE_SERVE_H
#define DS_RUNTIME_GENERATE_SERVE_H

#include "base/error.h"

/* Read the request from `in` and write events to `out`; `threads` where it asks for none.
 * -ECANCELED: nobody is there any more; else the errors of session.h and sampler.h, and EPROTO. */
int ds_generate_serve(int in, int out, unsigned threads, struct ds_error *err) DS_NODISCARD;

#endif
