/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_adapters.c - the adapters of a checkpoint as a folder that PEFT loads.
 *
 * Source  Hugging Face PEFT: LoraConfig, and the names that get_peft_model_state_dict() gives.
 * Tests   tests/e2e/lora.py
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/ckpt/gather.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/hf_packed.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/store.h"
#include "runtime/model/family.h"

#define CONFIG  "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define PREFIX  "base_model.model." /* PEFT's wrapper around the model */

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

static int write_config(const struct ds_ckpt_state *state, const char *out_dir,
                        struct ds_error *err)
{
    const struct ds_model_shape *shape = &state->shape;
    struct ds_json json;
    struct ds_buf text;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    ds_json_init(&json, &text);
    ds_json_object(&json, NULL);
    ds_json_string(&json, "peft_type", "LORA");
    ds_json_string(&json, "task_type", "CAUSAL_LM");
    ds_json_string(&json, "base_model_name_or_path", state->base.path);
    ds_json_u64(&json, "r", shape->lora.rank);
    ds_json_f64(&json, "lora_alpha", shape->lora.alpha, 17);
    ds_json_f64(&json, "lora_dropout", shape->lora.dropout, 17);
    ds_json_string(&json, "bias", "none");
    ds_json_bool(&json, "fan_in_fan_out", !ds_family_of(shape->arch)->weight_out);
    ds_json_bool(&json, "inference_mode", true);
    ds_json_array(&json, "target_modules");
    for (unsigned i = 0; i < DS_ADAPTED_COUNT; i++) {
        char name[DS_MAX_TENSOR_NAME + 1];

        if ((shape->lora.targets & 1U << i) != 0 &&
            ds_model_target_name(shape, (enum ds_adapted)i, name))
            ds_json_string(&json, NULL, name);
    }
    ds_json_end_array(&json);
    ds_json_end_object(&json);
    (void)ds_buf_puts(&text, "\n");
    return ds__folder_write(out_dir, CONFIG, &text, text.failed ? out_of_memory(err) : 0, err);
}

/* PEFT has one adapter for the matrices that a folder packs into one. */
static int check_packed(const struct ds_model_shape *shape, struct ds_error *err)
{
    for (unsigned i = 0; i < DS_ADAPTED_COUNT; i++) {
        char name[DS_MAX_TENSOR_NAME + 1];

        if ((shape->lora.targets & 1U << i) != 0 &&
            ds_model_target_name(shape, (enum ds_adapted)i, name) &&
            ds__hf_is_part(shape->arch, name))
            return ds_fail(err, ENOTSUP,
                           "a folder of %s has '%s' and others in one matrix, and PEFT no adapters "
                           "of parts of one; export the merged model, without '--adapters'",
                           ds_arch_name(shape->arch), name);
    }
    return 0;
}

struct table {
    struct ds_safetensor *tensor;
    size_t count;
    uint64_t most; /* elements of the largest */
};

/* The tensors of adapters, which the checkpoint must have, by PEFT's names. */
static int make_table(const struct ds_manifest *m, enum ds_dtype dtype, struct ds_arena *arena,
                      struct table *out, struct ds_error *err)
{
    const struct ds_model_shape *shape = &m->state.shape;
    const size_t all = ds_model_param_count(shape);

    *out = (struct table){.tensor = ds_arena_alloc(arena, all, sizeof(*out->tensor))};
    if (out->tensor == NULL)
        return out_of_memory(err);
    for (size_t i = 0; i < all; i++) {
        struct ds_safetensor *to = &out->tensor[out->count];
        const struct ds_manifest_tensor *saved;
        struct ds_param param;

        ds_model_param(shape, i, &param);
        if (!ds_model_is_adapter(&param))
            continue;
        saved = ds_manifest_find(m, param.name);
        if (saved == NULL || saved->dtype != DS_F32 || saved->elems != param.elems)
            return ds_fail(err, EBADMSG, "it has no tensor '%s' that fits its model", param.name);
        out->most = saved->elems > out->most ? saved->elems : out->most;
        to->name = ds_arena_printf(arena, PREFIX "%s", param.name);
        to->dtype = (int)dtype;
        to->ndim = 2;
        memcpy(to->shape, param.shape, sizeof(param.shape));
        if (to->name == NULL)
            return out_of_memory(err);
        out->count++;
    }
    return out->count > 0 ? 0 : ds_fail(err, EINVAL, "it has no adapters; 'lora.rank' makes some");
}

static int write_weights(struct ds__store *store, const char *out_dir, enum ds_dtype dtype,
                         struct ds_arena *arena, struct ds_error *err)
{
    struct ds__part part;
    struct table table;
    float *room;
    int rc = make_table(&store->manifest, dtype, arena, &table, err);

    if (rc < 0)
        return rc;
    room = malloc(table.most * sizeof(*room));
    if (room == NULL)
        return out_of_memory(err);
    rc = ds__part_create(&part, out_dir, WEIGHTS, table.tensor, table.count, NULL, err);
    for (size_t i = 0; rc == 0 && i < table.count; i++) {
        const struct ds_manifest_tensor *saved =
            ds_manifest_find(&store->manifest, table.tensor[i].name + strlen(PREFIX));

        rc = ds__gather_whole(store, saved, room, err);
        if (rc == 0 && dtype == DS_BF16)
            ds__narrow(room, (size_t)saved->elems);
        if (rc == 0)
            rc = ds__part_write(&part, &table.tensor[i], NULL, (struct ds__source){.data = room},
                                err);
    }
    rc = ds__part_close(&part, rc, err);
    free(room);
    return rc;
}

int ds_hf_export_adapters(const char *ckpt, const char *out_dir, enum ds_dtype dtype,
                          struct ds_error *err)
{
    struct ds_arena arena;
    struct ds__store store;
    bool made = false;
    int rc = ds__store_open(&store, ckpt, err);

    if (rc < 0)
        return rc;
    ds_arena_init(&arena);
    rc = ds_error_context(err, ds_model_check(&store.manifest.state.shape, err), "checkpoint '%s'",
                          ckpt);
    if (rc == 0)
        rc = check_packed(&store.manifest.state.shape, err);
    if (rc == 0)
        rc = ds__folder_claim(out_dir, &made, err);
    if (rc == 0) {
        rc = ds_error_context(err, write_weights(&store, out_dir, dtype, &arena, err),
                              "checkpoint '%s'", ckpt);
        if (rc == 0)
            rc = write_config(&store.manifest.state, out_dir, err);
        if (rc < 0)
            ds__folder_unclaim(out_dir, made);
    }
    ds_arena_release(&arena);
    ds__store_close(&store);
    return rc;
}
