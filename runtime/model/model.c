/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * model.c - a family's parameter table expanded for a shape; the contract is in model.h.
 */
#include "runtime/model/model.h"

#include <assert.h>
#include <stdio.h>

#include "runtime/model/family.h"

const struct ds_family *ds_family_of(enum ds_arch arch)
{
    static const struct ds_family *const families[] = {
        [DS_ARCH_GPT2] = &ds__family_gpt2,       [DS_ARCH_LLAMA] = &ds__family_llama,
        [DS_ARCH_MIXTRAL] = &ds__family_mixtral, [DS_ARCH_QWEN2] = &ds__family_qwen2,
        [DS_ARCH_QWEN3] = &ds__family_qwen3,     [DS_ARCH_QWEN3_MOE] = &ds__family_qwen3_moe,
        [DS_ARCH_PHI3] = &ds__family_phi3,       [DS_ARCH_OLMO2] = &ds__family_olmo2,
        [DS_ARCH_GEMMA3] = &ds__family_gemma3,   [DS_ARCH_SMOLLM3] = &ds__family_smollm3,
        [DS_ARCH_GRANITE] = &ds__family_granite, [DS_ARCH_GPT_NEOX] = &ds__family_gpt_neox,
    };

    return families[arch];
}

uint64_t ds_model_qkv_width(const struct ds_model_shape *shape)
{
    return (shape->heads + 2 * shape->kv_heads) * shape->head_size;
}

bool ds_model_local(const struct ds_model_shape *shape, uint64_t block)
{
    return shape->full_every > 0 && block % shape->full_every != 0;
}

uint64_t ds_model_window(const struct ds_model_shape *shape, uint64_t block)
{
    return shape->full_every == 0 || ds_model_local(shape, block) ? shape->window : 0;
}

bool ds_model_turns(const struct ds_model_shape *shape, uint64_t block)
{
    return ds_family_of(shape->arch)->rope &&
           (shape->nope_every == 0 || block % shape->nope_every != 0);
}

uint64_t ds_model_turning(const struct ds_model_shape *shape)
{
    uint64_t still = shape->nope_every > 0 ? shape->layers / shape->nope_every : 0;

    return ds_family_of(shape->arch)->rope ? shape->layers - still : 0;
}

const struct ds_numbers *ds_model_rope_each(const struct ds_model_shape *shape, uint64_t longest)
{
    if (shape->rope_scale.kind != DS_ROPE_LONGROPE)
        return NULL;
    return longest > shape->rope_scale.original ? &shape->rope_long : &shape->rope_short;
}

uint64_t ds_model_normed_width(const struct ds_model_shape *shape)
{
    const uint64_t queries = shape->heads * shape->head_size;

    return ds_arch_norms_rows(shape->arch) && queries > shape->hidden ? queries : shape->hidden;
}

uint64_t ds_model_ffn_in_width(const struct ds_model_shape *shape)
{
    return ds_family_of(shape->arch)->swiglu ? 2 * shape->ffn : shape->ffn;
}

struct ds_extents ds_model_product(const struct ds_model_shape *shape,
                                   enum ds_layer_product product)
{
    switch (product) {
    case DS_PRODUCT_QKV: return (struct ds_extents){shape->hidden, ds_model_qkv_width(shape)};
    case DS_PRODUCT_PROJ:
        return (struct ds_extents){shape->heads * shape->head_size, shape->hidden};
    case DS_PRODUCT_FC: return (struct ds_extents){shape->hidden, ds_model_ffn_in_width(shape)};
    default: return (struct ds_extents){shape->ffn, shape->hidden};
    }
}

uint64_t ds_model_product_rows(const struct ds_model_shape *shape, enum ds_layer_product product)
{
    bool routed = product == DS_PRODUCT_FC || product == DS_PRODUCT_DOWN;

    return routed && shape->experts > 0 ? shape->experts_each : 1;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Rows and weights; then gradients twice, and beside them rows or weights. */
uint64_t ds_model_fp8_bytes(const struct ds_model_shape *shape, uint64_t tokens, bool train)
{
    uint64_t most = 0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        struct ds_extents e = ds_model_product(shape, (enum ds_layer_product)i);
        uint64_t rows = tokens * e.in, weights = e.in * e.out;

        most = larger(most, rows + weights);
        if (train)
            most = larger(most, 2 * tokens * e.out + larger(rows, weights));
    }
    return DS_MODEL_FP8_SCALES + most;
}

uint64_t ds_model_fp8_largest_bytes(const struct ds_model_shape *shape)
{
    return shape->layers * DS_PRODUCT_COUNT * DS_FP8_OPERANDS * sizeof(uint32_t);
}

uint64_t ds_model_fp8_operands(const struct ds_model_shape *shape, uint64_t tokens)
{
    uint64_t most = 0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        struct ds_extents e = ds_model_product(shape, (enum ds_layer_product)i);

        most = larger(most, tokens * (e.in + e.out));
        most = larger(most, e.in * e.out + tokens * larger(e.in, e.out));
    }
    return most;
}

uint64_t ds__extent_of(const struct ds_model_shape *shape, enum ds_extent extent)
{
    switch (extent) {
    case DS_EXTENT_HIDDEN: return shape->hidden;
    case DS_EXTENT_VOCAB: return shape->vocab;
    case DS_EXTENT_CONTEXT: return shape->context;
    case DS_EXTENT_QKV: return ds_model_qkv_width(shape);
    case DS_EXTENT_Q: return shape->heads * shape->head_size;
    case DS_EXTENT_KV: return shape->kv_heads * shape->head_size;
    case DS_EXTENT_HEAD: return shape->head_size;
    case DS_EXTENT_FFN: return shape->ffn;
    case DS_EXTENT_EXPERTS: return shape->experts;
    case DS_EXTENT_NONE: break;
    }
    return 1;
}

/* Tensors that a rule stands for. */
static uint64_t times(const struct ds_model_shape *shape, const struct ds_param_rule *rule)
{
    return rule->run > 0 ? shape->experts : 1;
}

/* Tensors of a layer, without adapters. */
static size_t base_params(const struct ds_model_shape *shape)
{
    const struct ds_family *family = ds_family_of(shape->arch);
    size_t count = 0;

    for (unsigned i = 0; i < family->n_layer; i++)
        count += times(shape, &family->layer[i]);
    return count;
}

static size_t layer_params(const struct ds_model_shape *shape)
{
    return base_params(shape) + ds__adapter_params(shape);
}

size_t ds_model_param_count(const struct ds_model_shape *shape)
{
    const struct ds_family *family = ds_family_of(shape->arch);

    return family->n_embed + (size_t)shape->layers * layer_params(shape) + family->n_head -
           (shape->tie_embeddings ? 1 : 0);
}

/* The rule of a layer's tensor i, and its expert where it has one. */
static const struct ds_param_rule *layer_rule(const struct ds_model_shape *shape, size_t i,
                                              size_t *expert)
{
    const struct ds_param_rule *rule = ds_family_of(shape->arch)->layer;

    for (;;) {
        size_t rules = rule->run > 0 ? rule->run : 1, tensors = rules * times(shape, rule);

        if (i < tensors) {
            *expert = i / rules;
            return &rule[i % rules];
        }
        i -= tensors;
        rule += rules;
    }
}

/* The rule of parameter i, its block and its expert where it has one. */
static const struct ds_param_rule *rule_of(const struct ds_model_shape *shape, size_t i,
                                           unsigned *block, size_t *expert)
{
    const struct ds_family *family = ds_family_of(shape->arch);
    size_t of_layer = layer_params(shape), in_layers = (size_t)shape->layers * of_layer;

    if (i < family->n_embed) {
        *block = 0;
        return &family->embed[i];
    }
    i -= family->n_embed;
    if (i < in_layers) {
        *block = 1 + (unsigned)(i / of_layer);
        return layer_rule(shape, i % of_layer, expert);
    }
    *block = 1 + (unsigned)shape->layers;
    return &family->head[i - in_layers];
}

static void name_param(const struct ds_model_shape *shape, const struct ds_param_rule *rule,
                       size_t expert, struct ds_param *param)
{
    const struct ds_family *family = ds_family_of(shape->arch);

    if (param->block == 0 || param->block == shape->layers + 1)
        (void)snprintf(param->name, sizeof(param->name), "%s", rule->name);
    else if (rule->run > 0)
        (void)snprintf(param->name, sizeof(param->name), "%s%u.%s%zu.%s", family->layer_prefix,
                       param->block - 1, family->expert_prefix, expert, rule->name);
    else
        (void)snprintf(param->name, sizeof(param->name), "%s%u.%s", family->layer_prefix,
                       param->block - 1, rule->name);
}

/* Is tensor i of an adapter?  Then `param` is filled in. */
static bool is_of_adapter(const struct ds_model_shape *shape, size_t i, struct ds_param *param)
{
    const size_t embed = ds_family_of(shape->arch)->n_embed, base = base_params(shape);
    const size_t of_layer = layer_params(shape), layer = i < embed ? 0 : (i - embed) / of_layer;

    if (i < embed || layer >= shape->layers || (i - embed) % of_layer < base)
        return false;
    ds__adapter_param(shape, (i - embed) % of_layer - base, layer, param);
    return true;
}

void ds_model_param(const struct ds_model_shape *shape, size_t i, struct ds_param *param)
{
    const struct ds_param_rule *rule;
    size_t expert = 0;

    assert(i < ds_model_param_count(shape));
    *param = (struct ds_param){0};
    if (is_of_adapter(shape, i, param))
        return;
    rule = rule_of(shape, i, &param->block, &expert);
    name_param(shape, rule, expert, param);
    param->expert = (unsigned)expert;
    param->role = rule->role;
    param->ndim = rule->extent[1] == DS_EXTENT_NONE ? 1 : 2;
    param->shape[0] = ds__extent_of(shape, rule->extent[0]);
    param->shape[1] = ds__extent_of(shape, rule->extent[1]);
    param->elems = param->shape[0] * param->shape[1];
    param->init = rule->init;
}

bool ds_model_is_expert(const struct ds_model_shape *shape, size_t i)
{
    struct ds_param param;
    unsigned block = 0;
    size_t expert = 0;

    return !is_of_adapter(shape, i, &param) && rule_of(shape, i, &block, &expert)->run > 0;
}

static enum ds_role matrix_of(enum ds_role role)
{
    switch (role) {
    case DS_ROLE_K_W:
    case DS_ROLE_V_W: return DS_ROLE_Q_W;
    case DS_ROLE_UP_W: return DS_ROLE_GATE_W;
    case DS_ROLE_K_B:
    case DS_ROLE_V_B: return DS_ROLE_Q_B;
    case DS_ROLE_LORA_A_K:
    case DS_ROLE_LORA_A_V: return DS_ROLE_LORA_A_QKV;
    case DS_ROLE_LORA_A_UP: return DS_ROLE_LORA_A_FC;
    default: return role;
    }
}

bool ds_model_same_matrix(const struct ds_param *a, const struct ds_param *b)
{
    return a->block == b->block && matrix_of(a->role) == matrix_of(b->role);
}

unsigned ds_model_blocks(const struct ds_model_shape *shape)
{
    return (unsigned)shape->layers + 2;
}

static uint64_t rules_elems(const struct ds_model_shape *shape, const struct ds_param_rule *rule,
                            unsigned count)
{
    uint64_t elems = 0;

    for (unsigned i = 0; i < count; i++)
        elems += times(shape, &rule[i]) * ds__extent_of(shape, rule[i].extent[0]) *
                 ds__extent_of(shape, rule[i].extent[1]);
    return elems;
}

uint64_t ds_model_elems(const struct ds_model_shape *shape)
{
    const struct ds_family *family = ds_family_of(shape->arch);

    return rules_elems(shape, family->embed, family->n_embed) +
           shape->layers * rules_elems(shape, family->layer, family->n_layer) +
           ds__adapter_elems(shape) +
           rules_elems(shape, family->head, family->n_head - (shape->tie_embeddings ? 1 : 0));
}

uint64_t ds_model_active_elems(const struct ds_model_shape *shape)
{
    const struct ds_family *family = ds_family_of(shape->arch);
    uint64_t expert = 0; /* elements of one */

    for (unsigned i = 0; i < family->n_layer; i++)
        if (family->layer[i].run > 0)
            expert += ds__extent_of(shape, family->layer[i].extent[0]) *
                      ds__extent_of(shape, family->layer[i].extent[1]);
    return ds_model_elems(shape) - shape->layers * (shape->experts - shape->experts_each) * expert;
}

double ds_model_seen(const struct ds_model_shape *shape, uint64_t sequence)
{
    double all = (double)sequence, window = (double)shape->window;
    double part = shape->full_every > 0
                      ? (double)(shape->layers / shape->full_every) / (double)shape->layers
                      : 0.0; /* of the layers, that see all */

    return shape->window == 0 || window >= all
               ? all / 2.0
               : part * all / 2.0 + (1.0 - part) * (window - window * window / all / 2.0);
}

double ds_model_flops_per_token(const struct ds_model_shape *shape, uint64_t sequence)
{
    double multiplied = (double)ds_model_active_elems(shape);

    if (!shape->tie_embeddings) /* looked up only: the head has a matrix of its own */
        multiplied -= (double)shape->vocab * (double)shape->hidden;
    return 6.0 * multiplied + 12.0 * (double)shape->layers * (double)shape->heads *
                                  (double)shape->head_size * ds_model_seen(shape, sequence);
}

double ds_model_product_flops_per_token(const struct ds_model_shape *shape)
{
    double multiplied = 0.0;

    for (unsigned i = 0; i < DS_PRODUCT_COUNT; i++) {
        struct ds_extents e = ds_model_product(shape, (enum ds_layer_product)i);

        multiplied +=
            (double)(e.in * e.out) * (double)ds_model_product_rows(shape, (enum ds_layer_product)i);
    }
    return 6.0 * multiplied * (double)shape->layers;
}

/* Places of a row's experts and of what is said of them, each at a multiple of ROUTES_ALIGN. */
enum { ROUTES_ALIGN = 64 };

static uint64_t take(uint64_t *end, uint64_t bytes)
{
    uint64_t at = *end;

    *end += (bytes + ROUTES_ALIGN - 1) / ROUTES_ALIGN * ROUTES_ALIGN;
    return at;
}

uint64_t ds_model_sorted_rows(const struct ds_model_shape *shape, uint64_t tokens, uint64_t ranks)
{
    const uint64_t here = shape->experts / ranks, each = shape->experts_each;

    return ranks * tokens * (here < each ? here : each);
}

struct ds_model_routes ds_model_routes(const struct ds_model_shape *shape, uint64_t batch,
                                       uint64_t tokens, uint64_t ranks)
{
    const uint64_t one = sizeof(float), pairs = ranks * tokens * shape->experts_each * one;
    struct ds_model_routes routes = {0};

    if (shape->experts == 0)
        return routes;
    routes.probs = take(&routes.bytes, tokens * shape->experts * one);
    routes.chosen = take(&routes.bytes, pairs);
    routes.source = take(&routes.bytes, ds_model_sorted_rows(shape, tokens, ranks) * one);
    routes.place = take(&routes.bytes, pairs);
    routes.offset = take(&routes.bytes, (shape->experts / ranks + 1) * one);
    routes.weight = take(&routes.bytes, pairs);
    routes.dweight = take(&routes.bytes, pairs);
    routes.load = take(&routes.bytes, batch * shape->experts * one);
    return routes;
}
