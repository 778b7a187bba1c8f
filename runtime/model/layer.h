/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * layer.h - what the files of one transformer layer share; private to them.
 *
 * Tests   tests/engine/test_engine.c
 */
#ifndef DS_RUNTIME_MODEL_LAYER_H
#define DS_RUNTIME_MODEL_LAYER_H

#include "runtime/model/net.h"

/* What a layer's code needs at hand. */
struct ds__layer {
    struct ds_net *net;
    uint32_t block;
    enum ds_pass pass;
    const void *const *w;
    float *const *g;
    void *const *buf;
    const void *x; /* the layer's input */
    bool again;    /* after another micro-batch of the step, with the same weights */
};

/* Queries and keys of packed rows turned by their positions, or back; where the layer has none they
 * stay. */
int ds__rotate(const struct ds__layer *layer, void *qkv, bool inverse, struct ds_error *err)
    DS_NODISCARD;
/* ATTENTION of QKV. */
int ds__attention_fwd(const struct ds__layer *layer, struct ds_error *err) DS_NODISCARD;
/* dqkv from dout, which may be overwritten. */
int ds__attention_bwd(const struct ds__layer *layer, void *dout, void *dqkv, struct ds_error *err)
    DS_NODISCARD;

#endif
