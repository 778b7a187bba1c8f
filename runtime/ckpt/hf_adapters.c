/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_adapters.c - the adapters of a checkpoint as a folder that PEFT loads, and what was trained
 * beside them: PEFT's modules_to_save, of which its file has the names that they have in the model.
 * Of a tied embedding the classifier, too, which PEFT would leave as it was.
 *
 * Source  Hugging Face PEFT: LoraConfig, and the names that get_peft_model_state_dict() gives.
 * Tests   tests/e2e/lora.py
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/hf_packed.h"
#include "runtime/ckpt/merge.h"
#include "runtime/ckpt/part.h"
#include "runtime/ckpt/store.h"
#include "runtime/model/family.h"

#define CONFIG  "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define PREFIX  "base_model.model." /* PEFT's wrapper around the model */
#define TIED    "lm_head.weight"

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

struct table {
    struct ds_safetensor *tensor;
    size_t count, adapters; /* the first ones are of these, until they are written */
    uint64_t most;          /* elements of the largest */
    const char *embedding;  /* what a tied classifier is in the checkpoint, or NULL */
};

/* A tensor's module: without what comes behind the last dot. */
static size_t module_bytes(const struct ds_safetensor *tensor)
{
    return (size_t)(strrchr(tensor->name, '.') - tensor->name) - strlen(PREFIX);
}

/* The modules of what was trained beside adapters, each once. */
static void put_modules(struct ds_json *json, const struct table *table)
{
    ds_json_array(json, "modules_to_save");
    for (size_t i = table->adapters; i < table->count; i++) {
        const size_t bytes = module_bytes(&table->tensor[i]);
        char name[DS_MAX_TENSOR_NAME + 1];
        size_t k = table->adapters;

        (void)snprintf(name, sizeof(name), "%.*s", (int)bytes,
                       table->tensor[i].name + strlen(PREFIX));
        while (module_bytes(&table->tensor[k]) != bytes ||
               strncmp(table->tensor[k].name + strlen(PREFIX), name, bytes) != 0)
            k++;
        if (k == i)
            ds_json_string(json, NULL, name);
    }
    ds_json_end_array(json);
}

static int write_config(const struct ds_ckpt_state *state, const struct table *table,
                        const char *out_dir, struct ds_error *err)
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
    ds_json_bool(&json, "use_rslora", shape->lora.by_root);
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
    if (table->count > table->adapters)
        put_modules(&json, table);
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

static int put_tensor(struct table *table, const struct ds_param *param, const char *name,
                      enum ds_dtype dtype, struct ds_arena *arena, struct ds_error *err)
{
    struct ds_safetensor *to = &table->tensor[table->count++];

    *to = (struct ds_safetensor){.name = ds_arena_printf(arena, PREFIX "%s", name),
                                 .dtype = (int)dtype,
                                 .ndim = param->ndim,
                                 .elems = param->elems};
    memcpy(to->shape, param->shape, param->ndim * sizeof(param->shape[0]));
    table->most = param->elems > table->most ? param->elems : table->most;
    return to->name != NULL ? 0 : out_of_memory(err);
}

/* PEFT saves all tensors of a module, and one that has an adapter is not saved. */
static int check_module(const struct ds_manifest *m, const struct ds_param *param,
                        struct ds_error *err)
{
    const struct ds_model_shape *shape = &m->state.shape;
    const size_t bytes = (size_t)(strrchr(param->name, '.') - param->name) + 1;

    for (size_t i = 0; i < ds_model_param_count(shape); i++) {
        struct ds_param other;

        ds_model_param(shape, i, &other);
        if (strncmp(other.name, param->name, bytes) == 0 &&
            strchr(other.name + bytes, '.') == NULL && ds_manifest_find(m, other.name) == NULL)
            return ds_fail(err, ENOTSUP,
                           "PEFT saves modules whole, and '%s' was trained and '%s' was not; "
                           "export the merged model, without '--adapters'",
                           param->name, other.name);
    }
    return 0;
}

/* What a checkpoint has that the folder which it was made on has otherwise. */
static int put_whole(struct table *table, const struct ds_manifest *m, const struct ds_param *param,
                     enum ds_dtype dtype, struct ds_arena *arena, struct ds_error *err)
{
    const struct ds_model_shape *shape = &m->state.shape;
    int rc = check_module(m, param, err);

    if (rc == 0 && ds__hf_packs(shape->arch, param->name) != NULL)
        return ds_fail(err, ENOTSUP,
                       "a folder of %s has '%s' and others in one matrix; export the merged model, "
                       "without '--adapters'",
                       ds_arch_name(shape->arch), param->name);
    if (rc == 0)
        rc = put_tensor(table, param, param->name, dtype, arena, err);
    if (rc != 0 || param->role != DS_ROLE_WTE || !shape->tie_embeddings)
        return rc;
    table->embedding = ds_arena_strdup(arena, param->name);
    return table->embedding == NULL ? out_of_memory(err)
                                    : put_tensor(table, param, TIED, dtype, arena, err);
}

/* The tensors of adapters, which the checkpoint must have, and behind them what else it has, by
 * PEFT's names. */
static int make_table(const struct ds_manifest *m, enum ds_dtype dtype, struct ds_arena *arena,
                      struct table *out, struct ds_error *err)
{
    const struct ds_model_shape *shape = &m->state.shape;
    const size_t all = ds_model_param_count(shape);
    int rc = 0;

    *out = (struct table){.tensor = ds_arena_alloc(arena, all + 1, sizeof(*out->tensor))};
    if (out->tensor == NULL)
        return out_of_memory(err);
    if (shape->lora.rank == 0)
        return ds_fail(err, EINVAL, "it has no adapters; 'lora.rank' makes some");
    for (size_t i = 0; rc == 0 && i < 2 * all; i++) {
        struct ds_param param;

        ds_model_param(shape, i % all, &param);
        if (i < all && ds_model_is_adapter(&param)) {
            rc = put_tensor(out, &param, param.name, dtype, arena, err);
            out->adapters = out->count;
        } else if (i >= all && !ds_model_is_adapter(&param) &&
                   ds_manifest_find(m, param.name) != NULL) {
            rc = put_whole(out, m, &param, dtype, arena, err);
        }
    }
    return rc;
}

/* All of these are saved, so that nothing is read of a base. */
static int write_weights(struct ds__store *store, const struct table *table, const char *out_dir,
                         enum ds_dtype dtype, struct ds_error *err)
{
    struct ds__merge merge = {.store = store, .shape = store->manifest.state.shape, .folder = true};
    struct ds__part part;
    float *room = malloc(table->most * sizeof(*room));
    int rc;

    if (room == NULL)
        return out_of_memory(err);
    rc = ds__part_create(&part, out_dir, WEIGHTS, table->tensor, table->count, NULL, err);
    for (size_t i = 0; rc == 0 && i < table->count; i++) {
        struct ds_safetensor saved = table->tensor[i];

        saved.name += strlen(PREFIX);
        if (table->embedding != NULL && strcmp(saved.name, TIED) == 0)
            saved.name = table->embedding;
        rc = ds__merge_read(&merge, &saved, 0, saved.elems, room, err);
        if (rc == 0 && dtype == DS_BF16)
            ds__narrow(room, (size_t)saved.elems);
        if (rc == 0)
            rc = ds__part_write(&part, &table->tensor[i], NULL, (struct ds__source){.data = room},
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
    struct table table;
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
        rc = ds_error_context(err, make_table(&store.manifest, dtype, &arena, &table, err),
                              "checkpoint '%s'", ckpt);
    if (rc == 0)
        rc = ds__folder_claim(out_dir, &made, err);
    if (rc == 0) {
        rc = write_config(&store.manifest.state, &table, out_dir, err);
        if (rc == 0)
            rc = write_weights(&store, &table, out_dir, dtype, err);
        if (rc < 0)
            ds__folder_unclaim(out_dir, made);
    }
    ds_arena_release(&arena);
    ds__store_close(&store);
    return rc;
}
