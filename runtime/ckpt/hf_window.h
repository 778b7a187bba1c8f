/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_window.h - windows of the attention in a config.json: what mistral, mixtral, phi3 and qwen say
 * of them, each its own way.  A window as long as the context is none.
 *
 * Private to runtime/ckpt/.
 * Tests   tests/ckpt/test_hf_config.c
 */
#ifndef DS_RUNTIME_CKPT_HF_WINDOW_H
#define DS_RUNTIME_CKPT_HF_WINDOW_H

#include <stdbool.h>

#include "base/json.h"
#include "base/json_read.h"
#include "runtime/job.h"

/* How a family speaks of it: not at all; by a number or null; by a number, whether it counts, and
 * from which layer on; by a number, and of how many layers the last has none. */
enum ds__hf_window { DS__HF_NO_WINDOW, DS__HF_WINDOW, DS__HF_WINDOW_FROM, DS__HF_WINDOW_MIXED };

/* shape->window, and full_every, of a config whose other sizes are read; where it has no number it
 * is `otherwise`, 0 for none.  -ENOTSUP: of some layers only, or no number. */
int ds__hf_read_window(const json_t *root, enum ds__hf_window how, uint64_t otherwise,
                       struct ds_model_shape *shape, struct ds_error *err) DS_NODISCARD;
void ds__hf_put_window(enum ds__hf_window how, const struct ds_model_shape *shape,
                       struct ds_json *json);

#endif
