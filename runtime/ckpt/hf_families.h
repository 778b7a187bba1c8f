/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_families.h - what a config.json of each family has: names, sizes, settings, and what is meant
 * where it says nothing.
 *
 * Private to runtime/ckpt/.
 * Tests   tests/ckpt/test_hf_config.c
 */
#ifndef DS_RUNTIME_CKPT_HF_FAMILIES_H
#define DS_RUNTIME_CKPT_HF_FAMILIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/ckpt/hf_window.h"
#include "runtime/job.h"

/* Of Mistral, of Qwen and of Gemma, where a number is missing. */
enum { DS__HF_USUAL_WINDOW = 4096 };

/* A member that is a number of the shape; those with NULL as `otherwise` must be there, the others
 * take the value of that member when they are missing or null. */
struct ds__hf_size {
    const char *name;
    size_t offset;
    uint64_t max;
    const char *otherwise;
};

/* A member that may only have this value (true or false), which is also what its absence means. */
struct ds__hf_flag {
    const char *name;
    bool must;
};

struct ds__hf_family {
    const char *model_type, *architecture;
    const struct ds__hf_size *size;
    const struct ds__hf_flag *flag; /* ended by a NULL name */
    const char *prefix, *head;      /* what all names of tensors begin with, but the classifier's */
    const char *buffer[3];          /* how names of tensors end that no model needs */
    const char *act_key, *act[3];   /* the first is the default, and what is written */
    const char *eps_key;
    double eps_default;
    bool tie_default, rope;
    double theta_default;
    const char *theta_key, *share_key; /* NULL: rope_theta, partial_rotary_factor */
    double share_default;              /* of a head that is turned; 0: all of it */
    uint64_t head_default;             /* 0: hidden_size / heads */
    enum ds__hf_window window;
    uint64_t window_default;
    bool pads; /* with a token of its own, where pad_token_id is not said */
};

const struct ds__hf_family *ds__hf_family_of(enum ds_arch arch);

#endif
