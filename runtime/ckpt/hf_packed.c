/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_packed.c - the contract is in hf_packed.h.
 *
 * Source  transformers: models/phi3/modeling_phi3.py, models/gpt_neox/modeling_gpt_neox.py
 */
#include "runtime/ckpt/hf_packed.h"

#include <assert.h>
#include <string.h>

/* clang-format off */
static const struct ds__hf_pack phi3[] = {
    {"self_attn.qkv_proj.weight", 3, 2, false, {{"self_attn.q_proj.weight", DS_ROLE_Q_W},
                                                {"self_attn.k_proj.weight", DS_ROLE_K_W},
                                                {"self_attn.v_proj.weight", DS_ROLE_V_W}}},
    {"mlp.gate_up_proj.weight",   2, 2, false, {{"mlp.gate_proj.weight", DS_ROLE_GATE_W},
                                                {"mlp.up_proj.weight", DS_ROLE_UP_W}}},
    {0},
};
static const struct ds__hf_pack gpt_neox[] = {
    {"attention.query_key_value.weight", 3, 2, true, {{"attention.query.weight", DS_ROLE_Q_W},
                                                      {"attention.key.weight", DS_ROLE_K_W},
                                                      {"attention.value.weight", DS_ROLE_V_W}}},
    {"attention.query_key_value.bias",   3, 1, true, {{"attention.query.bias", DS_ROLE_Q_B},
                                                      {"attention.key.bias", DS_ROLE_K_B},
                                                      {"attention.value.bias", DS_ROLE_V_B}}},
    {0},
};
/* clang-format on */

/* Ended by one without a name; NULL: nothing is packed. */
static const struct ds__hf_pack *const packs[DS_ARCH_COUNT] = {
    [DS_ARCH_PHI3] = phi3, [DS_ARCH_GPT_NEOX] = gpt_neox};

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

const struct ds__hf_pack *ds__hf_unpacks(enum ds_arch arch, const char *name)
{
    for (const struct ds__hf_pack *pack = packs[arch]; pack != NULL && pack->name != NULL; pack++)
        if (ends_with(name, pack->name))
            return pack;
    return NULL;
}

const struct ds__hf_pack *ds__hf_packs(enum ds_arch arch, const char *name)
{
    for (const struct ds__hf_pack *pack = packs[arch]; pack != NULL && pack->name != NULL; pack++)
        if (ends_with(name, pack->part[0].name))
            return pack;
    return NULL;
}

bool ds__hf_is_part(enum ds_arch arch, const char *module)
{
    const size_t len = strlen(module);

    for (const struct ds__hf_pack *pack = packs[arch]; pack != NULL && pack->name != NULL; pack++)
        for (unsigned i = 0; i < pack->parts; i++)
            if (strncmp(pack->part[i].name, module, len) == 0 && pack->part[i].name[len] == '.')
                return true;
    return false;
}

uint64_t ds__hf_part_rows(const struct ds_model_shape *shape, const struct ds__hf_pack *pack,
                          unsigned part)
{
    switch (pack->part[part].role) {
    case DS_ROLE_Q_W:
    case DS_ROLE_Q_B: return shape->heads * shape->head_size;
    case DS_ROLE_K_W:
    case DS_ROLE_V_W:
    case DS_ROLE_K_B:
    case DS_ROLE_V_B: return shape->kv_heads * shape->head_size;
    default: return shape->ffn;
    }
}

uint64_t ds__hf_part_width(const struct ds_model_shape *shape, const struct ds__hf_pack *pack)
{
    return pack->ndim == 1 ? 1 : shape->hidden;
}

uint64_t ds__hf_part_run(const struct ds_model_shape *shape, const struct ds__hf_pack *pack,
                         unsigned part)
{
    return pack->by_heads ? shape->head_size : ds__hf_part_rows(shape, pack, part);
}

const char *ds__hf_rename(struct ds_arena *arena, const char *name, const char *end,
                          const char *other)
{
    size_t len = strlen(name);

    assert(ends_with(name, end));
    return ds_arena_printf(arena, "%.*s%s", (int)(len - strlen(end)), name, other);
}
