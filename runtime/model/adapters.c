/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * adapters.c - adapters of low rank: which tensors they are; the contract is in model.h.
 *
 * Source  Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); names and layouts
 *         as PEFT's: A [rank, in] and B [out, rank] whatever the family's layout of matrices is.
 * Tests   tests/plan/test_adapters.c
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/model/family.h"

#define MATRIX ".weight" /* behind the module's path, in the name of a rule */

enum { ROOM_ALIGN = 64 }; /* bytes, as vectors like it */

struct ds_model_shape ds_model_base(const struct ds_model_shape *shape)
{
    struct ds_model_shape base = *shape;

    base.lora = (struct ds_lora){0};
    return base;
}

/* What an adapter of a matrix would be, or COUNT: it is none that has any. */
static enum ds_adapted adapted_by(enum ds_role role)
{
    switch (role) {
    case DS_ROLE_QKV_W:
    case DS_ROLE_Q_W: return DS_ADAPTED_QKV;
    case DS_ROLE_K_W: return DS_ADAPTED_K;
    case DS_ROLE_V_W: return DS_ADAPTED_V;
    case DS_ROLE_PROJ_W: return DS_ADAPTED_PROJ;
    case DS_ROLE_FC_W:
    case DS_ROLE_GATE_W: return DS_ADAPTED_FC;
    case DS_ROLE_UP_W: return DS_ADAPTED_UP;
    case DS_ROLE_DOWN_W: return DS_ADAPTED_DOWN;
    default: return DS_ADAPTED_COUNT;
    }
}

double ds_model_adapter_scale(const struct ds_lora *lora)
{
    const double rank = (double)lora->rank;

    return lora->alpha / (lora->by_root ? sqrt(rank) : rank);
}

bool ds_model_has_adapter(const struct ds_model_shape *shape, const struct ds_param *param)
{
    const enum ds_adapted target = adapted_by(param->role);

    return shape->lora.rank > 0 && target < DS_ADAPTED_COUNT &&
           (shape->lora.targets & 1U << target) != 0;
}

/* The rule of the matrix, or NULL: the family has none, or experts in its place. */
static const struct ds_param_rule *rule_of(const struct ds_model_shape *shape,
                                           enum ds_adapted target)
{
    const struct ds_family *family = ds_family_of(shape->arch);

    for (unsigned i = 0; i < family->n_layer; i++)
        if (family->layer[i].run == 0 && adapted_by(family->layer[i].role) == target)
            return &family->layer[i];
    return NULL;
}

bool ds_model_target_name(const struct ds_model_shape *shape, enum ds_adapted target,
                          char out[DS_MAX_TENSOR_NAME + 1])
{
    const struct ds_param_rule *rule = rule_of(shape, target);

    if (rule == NULL)
        return false;
    (void)snprintf(out, DS_MAX_TENSOR_NAME + 1, "%.*s", (int)(strlen(rule->name) - strlen(MATRIX)),
                   rule->name);
    return true;
}

unsigned ds_model_targets(const struct ds_model_shape *shape, const char *name)
{
    const size_t len = strlen(name);
    unsigned targets = 0;

    for (unsigned i = 0; i < DS_ADAPTED_COUNT; i++) {
        char path[DS_MAX_TENSOR_NAME + 1];
        size_t all;

        if (!ds_model_target_name(shape, (enum ds_adapted)i, path))
            continue;
        all = strlen(path);
        if (len > 0 && len <= all && strcmp(path + all - len, name) == 0 &&
            (len == all || path[all - len - 1] == '.'))
            targets |= 1U << i;
    }
    return targets;
}

static unsigned count_of(const struct ds_model_shape *shape)
{
    return shape->lora.rank > 0 ? (unsigned)__builtin_popcount(shape->lora.targets) : 0;
}

size_t ds__adapter_params(const struct ds_model_shape *shape)
{
    return 2 * (size_t)count_of(shape);
}

/* The i-th of the targets. */
static enum ds_adapted target_at(const struct ds_model_shape *shape, size_t i)
{
    unsigned target = 0;

    for (;; target++)
        if ((shape->lora.targets & 1U << target) != 0 && i-- == 0)
            return (enum ds_adapted)target;
}

unsigned ds_model_first_target(enum ds_layer_product product)
{
    static const enum ds_adapted first[] = {DS_ADAPTED_QKV, DS_ADAPTED_PROJ, DS_ADAPTED_FC,
                                            DS_ADAPTED_DOWN, DS_ADAPTED_COUNT};

    return first[product];
}

uint64_t ds_model_adapted_width(const struct ds_model_shape *shape)
{
    return count_of(shape) * shape->lora.rank;
}

/* Adapters of a product. */
static unsigned count_at(const struct ds_model_shape *shape, enum ds_layer_product product)
{
    const unsigned first = ds_model_first_target(product);
    const unsigned end = ds_model_first_target((enum ds_layer_product)(product + 1));
    const unsigned mask = (1U << end) - (1U << first);

    return (unsigned)__builtin_popcount(shape->lora.targets & mask);
}

uint64_t ds_model_adapted_widest(const struct ds_model_shape *shape)
{
    uint64_t most = 0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        uint64_t width = count_at(shape, (enum ds_layer_product)i) * shape->lora.rank;

        most = width > most ? width : most;
    }
    return most;
}

uint64_t ds_model_adapted_deepest(const struct ds_model_shape *shape)
{
    uint64_t most = 0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        const enum ds_layer_product product = (enum ds_layer_product)i;
        const uint64_t in = ds_model_product(shape, product).in;

        most = count_at(shape, product) > 0 && in > most ? in : most;
    }
    return most;
}

uint64_t ds_model_adapting_bytes(const struct ds_model_shape *shape, uint64_t tokens, size_t act)
{
    const uint64_t bytes = tokens * ds_model_adapted_widest(shape) * (sizeof(float) + act);

    return (bytes + ROOM_ALIGN - 1) / ROOM_ALIGN * ROOM_ALIGN;
}

static struct ds_extents extents_of(const struct ds_model_shape *shape,
                                    const struct ds_param_rule *rule)
{
    const bool weight_out = ds_family_of(shape->arch)->weight_out;

    return (struct ds_extents){.in = ds__extent_of(shape, rule->extent[weight_out ? 1 : 0]),
                               .out = ds__extent_of(shape, rule->extent[weight_out ? 0 : 1])};
}

void ds__adapter_param(const struct ds_model_shape *shape, size_t i, size_t layer,
                       struct ds_param *param)
{
    const size_t count = count_of(shape);
    const bool first = i < count;
    const enum ds_adapted target = target_at(shape, i % count);
    const struct ds_extents e = extents_of(shape, rule_of(shape, target));
    char path[DS_MAX_TENSOR_NAME + 1];

    (void)ds_model_target_name(shape, target, path);
    *param = (struct ds_param){
        .block = 1 + (unsigned)layer,
        .role = (enum ds_role)((first ? DS_ROLE_LORA_A : DS_ROLE_LORA_B) + (int)target),
        .ndim = 2,
        .shape = {first ? shape->lora.rank : e.out, first ? e.in : shape->lora.rank},
        .elems = shape->lora.rank * (first ? e.in : e.out),
        .init = first ? DS_INIT_FAN_IN : DS_INIT_ZERO,
    };
    (void)snprintf(param->name, sizeof(param->name), "%s%zu.%.*s.lora_%c.weight",
                   ds_family_of(shape->arch)->layer_prefix, layer, DS_MAX_TENSOR_NAME / 2, path,
                   first ? 'A' : 'B');
}

uint64_t ds__adapter_elems(const struct ds_model_shape *shape)
{
    uint64_t elems = 0;

    for (size_t i = 0; i < count_of(shape); i++) {
        const struct ds_extents e = extents_of(shape, rule_of(shape, target_at(shape, i)));

        elems += shape->lora.rank * (e.in + e.out);
    }
    return shape->layers * elems;
}

int ds__adapters_check(const struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds_lora *lora = &shape->lora;

    if (lora->rank == 0)
        return 0;
    if (lora->rank > DS_MAX_LORA_RANK)
        return ds_fail(err, EINVAL, "'lora.rank' is %llu, must be between 0 and %d",
                       (unsigned long long)lora->rank, DS_MAX_LORA_RANK);
    if (!(lora->alpha > 0.0) || !isfinite(lora->alpha))
        return ds_fail(err, EINVAL, "'lora.alpha' must be above 0");
    if (!(lora->dropout >= 0.0 && lora->dropout < 1.0))
        return ds_fail(err, EINVAL, "'lora.dropout' must be in [0, 1)");
    for (unsigned i = 0; i < sizeof(lora->targets) * 8; i++)
        if ((lora->targets & 1U << i) != 0 &&
            (i >= DS_ADAPTED_COUNT || rule_of(shape, (enum ds_adapted)i) == NULL))
            return ds_fail(err, EINVAL, "arch '%s' has no matrix for one of 'lora.targets'",
                           ds_arch_name(shape->arch));
    return lora->targets != 0 ? 0 : ds_fail(err, EINVAL, "'lora.targets' must name some matrices");
}
