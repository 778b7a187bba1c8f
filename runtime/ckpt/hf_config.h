/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_config.h - what the readers and writers of config.json share; private to them.
 *
 * Tests   tests/ckpt/test_hf_config.c, tests/fuzz/fuzz_hf_config.c
 */
#ifndef DS_RUNTIME_CKPT_HF_CONFIG_H
#define DS_RUNTIME_CKPT_HF_CONFIG_H

#include <jansson.h>

#include "base/error.h"
#include "base/json.h"
#include "runtime/job.h"

/* A member, or NULL when it is missing or null. */
const json_t *ds__hf_member(const json_t *object, const char *key);

/* A number that may be missing or null: then `*out` is left as it is.  0 or -EBADMSG. */
int ds__hf_may_get_f64(const json_t *object, const char *key, double *out, struct ds_error *err)
    DS_NODISCARD;

/* -ENOTSUP, with the key and what it has. */
int ds__hf_not_supported(const char *key, const json_t *value, struct ds_error *err);

/* rope_theta, `theta` where it is not said, and rope_scale of a shape whose context is known.
 * 0, -EBADMSG or -ENOTSUP. */
int ds__hf_read_rope(const json_t *root, double theta, struct ds_model_shape *shape,
                     struct ds_error *err) DS_NODISCARD;

/* local_theta, which a config has beside the other or with it. */
int ds__hf_read_local_theta(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
    DS_NODISCARD;

/* rope_dims of a shape whose head size is known, and its factor, where they are not all of a head.
 * -ENOTSUP for a family that turns all. */
int ds__hf_read_rope_dims(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
    DS_NODISCARD;
void ds__hf_put_rope_dims(struct ds_json *json, const struct ds_model_shape *shape);

/* rope_theta, by the family's own name for it. */
void ds__hf_put_theta(struct ds_json *json, const struct ds_model_shape *shape);

/* The member "rope_scaling". */
void ds__hf_put_rope_scale(struct ds_json *json, const struct ds_model_shape *shape);

#endif
