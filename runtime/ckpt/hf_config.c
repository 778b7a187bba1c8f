/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_config.c - config.json of the families of hf_families.c, read and written.
 *
 * A Mistral is a Llama, and is written as one where it has no window.
 *
 * A setting that changes what the model computes and is not supported is refused by name.  Dropout
 * is let pass: the published GPT-2 files all say 0.1, it changes no weight and nothing at
 * evaluation, and what training drops is the job's own to say (model.dropout).
 *
 * router_aux_loss_coef is taken as model.expert_balance, unless the job says another; noise on the
 * router's input (router_jitter_noise) is refused.
 */
#include "runtime/ckpt/hf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf_config.h"
#include "runtime/ckpt/hf_families.h"
#include "runtime/ckpt/hf_window.h"

#define GEMMA_SCALAR 256.0

const json_t *ds__hf_member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

int ds__hf_may_get_f64(const json_t *object, const char *key, double *out, struct ds_error *err)
{
    return ds__hf_member(object, key) != NULL ? ds_json_get_f64(object, key, out, err) : 0;
}

int ds__hf_not_supported(const char *key, const json_t *value, struct ds_error *err)
{
    if (json_is_string(value))
        return ds_fail(err, ENOTSUP, "'%s' is '%.40s', which is not supported", key,
                       json_string_value(value));
    if (json_is_boolean(value))
        return ds_fail(err, ENOTSUP, "'%s' is %s, which is not supported", key,
                       json_is_true(value) ? "true" : "false");
    return ds_fail(err, ENOTSUP, "'%s' is set, which is not supported", key);
}

/* What is a Llama by another name. */
#define MISTRAL  "mistral"
#define NO_THETA 10000.0 /* the job's own default, of a family that turns nothing */

static bool is_mistral(const json_t *root)
{
    const json_t *type = json_object_get(root, "model_type");

    return json_is_string(type) && strcmp(json_string_value(type), MISTRAL) == 0;
}

/* With the names of all that there are. */
static int fail_family(const char *type, struct ds_error *err)
{
    char names[256];
    size_t at = 0;

    for (unsigned i = 0; i < DS_ARCH_COUNT && at < sizeof(names); i++)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "'%s', ",
                               ds__hf_family_of((enum ds_arch)i)->model_type);
    return ds_fail(err, ENOTSUP, "'model_type' is '%.40s', only %sand '" MISTRAL "' are supported",
                   type, names);
}

static int read_family(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const char *type = "";
    int rc = ds_json_get_string(root, "model_type", &type, err);

    if (rc < 0)
        return rc;
    if (is_mistral(root)) {
        shape->arch = DS_ARCH_LLAMA;
        return 0;
    }
    for (unsigned i = 0; i < DS_ARCH_COUNT; i++)
        if (strcmp(ds__hf_family_of((enum ds_arch)i)->model_type, type) == 0) {
            shape->arch = (enum ds_arch)i;
            return 0;
        }
    return fail_family(type, err);
}

static int read_sizes(const json_t *root, const struct ds__hf_size *key,
                      struct ds_model_shape *shape, struct ds_error *err)
{
    for (; key->name != NULL; key++) {
        const char *name = key->name;
        uint64_t value = 0;

        if (key->otherwise != NULL && ds__hf_member(root, name) == NULL)
            name = key->otherwise;
        if (name[0] != '\0') {
            int rc = ds_json_get_u64(root, name, key->max, &value, err);

            if (rc < 0)
                return rc;
            if (value == 0)
                return ds_fail(err, EBADMSG, "key '%s' is 0, not within 1 to %ju", name,
                               (uintmax_t)key->max);
        }
        memcpy((char *)shape + key->offset, &value, sizeof(value));
    }
    return 0;
}

static int read_flags(const json_t *root, const struct ds__hf_flag *key, struct ds_error *err)
{
    for (; key->name != NULL; key++) {
        const json_t *value = ds__hf_member(root, key->name);

        if (value != NULL && !(json_is_boolean(value) && json_is_true(value) == key->must))
            return ds__hf_not_supported(key->name, value, err);
    }
    return 0;
}

static int read_activation(const json_t *root, const struct ds__hf_family *family,
                           struct ds_error *err)
{
    const json_t *value = ds__hf_member(root, family->act_key);

    if (value == NULL)
        return 0;
    for (size_t i = 0; json_is_string(value) && family->act[i] != NULL; i++)
        if (strcmp(family->act[i], json_string_value(value)) == 0)
            return 0;
    return ds__hf_not_supported(family->act_key, value, err);
}

static int read_tie(const json_t *root, const struct ds__hf_family *family, bool *out,
                    struct ds_error *err)
{
    const json_t *value = ds__hf_member(root, "tie_word_embeddings");

    if (value != NULL && !json_is_boolean(value))
        return ds_fail(err, EBADMSG, "key 'tie_word_embeddings' must be true or false");
    *out = value != NULL ? json_is_true(value) : family->tie_default;
    return 0;
}

static int read_head_size(const json_t *root, const struct ds__hf_family *family,
                          struct ds_model_shape *shape, struct ds_error *err)
{
    if (!ds_arch_traits(shape->arch)->classic && ds__hf_member(root, "head_dim") != NULL)
        return ds_json_get_u64(root, "head_dim", DS_MAX_HIDDEN, &shape->head_size, err);
    shape->head_size = family->head_default;
    if (shape->head_size != 0)
        return 0;
    if (shape->hidden % shape->heads != 0)
        return ds_fail(err, EINVAL, "%ju heads do not divide the width %ju",
                       (uintmax_t)shape->heads, (uintmax_t)shape->hidden);
    shape->head_size = shape->hidden / shape->heads;
    return 0;
}

/* Of Qwen3-MoE every layer must have experts, and weights of a token's experts add up to 1. */
static int check_qwen3_moe(const json_t *root, struct ds_error *err)
{
    const json_t *norm = ds__hf_member(root, "norm_topk_prob"),
                 *every = ds__hf_member(root, "decoder_sparse_step");
    const json_t *dense = ds__hf_member(root, "mlp_only_layers");

    if (!json_is_true(norm))
        return ds_fail(err, ENOTSUP,
                       "'norm_topk_prob' is not true, and weights that do not add up to 1 are not "
                       "supported");
    if (every != NULL && !(json_is_integer(every) && json_integer_value(every) == 1))
        return ds__hf_not_supported("decoder_sparse_step", every, err);
    if (dense != NULL && !(json_is_array(dense) && json_array_size(dense) == 0))
        return ds__hf_not_supported("mlp_only_layers", dense, err);
    return 0;
}

/* What a router has beside its sizes. */
static int read_router(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *noise = ds__hf_member(root, "router_jitter_noise");
    double balance = 0.0;
    int rc;

    if (!ds_arch_has_experts(shape->arch))
        return 0;
    if (shape->arch == DS_ARCH_QWEN3_MOE && (rc = check_qwen3_moe(root, err)) != 0)
        return rc;
    if (noise != NULL && !(json_is_number(noise) && json_number_value(noise) == 0.0))
        return ds__hf_not_supported("router_jitter_noise", noise, err);
    rc = ds__hf_may_get_f64(root, "router_aux_loss_coef", &balance, err);
    shape->balance = balance;
    return rc;
}

/* What only a family of layers of two sorts has. */
static int read_mixed(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    static const char *const caps[] = {"final_logit_softcapping", "attn_logit_softcapping"};
    int rc;

    if (!ds_arch_traits(shape->arch)->mixed)
        return 0;
    for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
        if (ds__hf_member(root, caps[i]) != NULL)
            return ds__hf_not_supported(caps[i], ds__hf_member(root, caps[i]), err);
    shape->query_scalar = GEMMA_SCALAR;
    rc = ds__hf_may_get_f64(root, "query_pre_attn_scalar", &shape->query_scalar, err);
    if (shape->query_scalar == (double)shape->head_size)
        shape->query_scalar = 0.0;
    return rc == 0 ? ds__hf_read_local_theta(root, shape, err) : rc;
}

enum { USUAL_NOPE_EVERY = 4 };

/* Of how many layers the last has no positions, by the list of them all, which must go by that: 1
 * of those that have some. */
static int read_nope_list(const json_t *list, struct ds_model_shape *shape, struct ds_error *err)
{
    uint64_t every = shape->layers + 1; /* none is without */
    const json_t *has;
    size_t i;

    json_array_foreach(list, i, has)
    {
        const bool none = json_is_integer(has) && json_integer_value(has) == 0;

        if (none && every > shape->layers)
            every = i + 1;
        if (none != ((i + 1) % every == 0))
            return ds_fail(err, ENOTSUP,
                           "'no_rope_layers' is no pattern of which the last has no positions");
    }
    shape->nope_every = every;
    return json_array_size(list) == shape->layers
               ? 0
               : ds_fail(err, EBADMSG, "'no_rope_layers' does not have a member for each layer");
}

static int read_nope(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *list = ds__hf_member(root, "no_rope_layers");

    if (!ds_arch_traits(shape->arch)->some_still)
        return 0;
    shape->nope_every = USUAL_NOPE_EVERY;
    if (json_is_array(list))
        return read_nope_list(list, shape, err);
    if (list != NULL)
        return ds__hf_not_supported("no_rope_layers", list, err);
    return ds__hf_member(root, "no_rope_layer_interval") != NULL
               ? ds_json_get_u64(root, "no_rope_layer_interval", DS_MAX_LAYERS + 1,
                                 &shape->nope_every, err)
               : 0;
}

/* A window is of all layers, which is said of each: else it would be of those without positions. */
static void put_nope(struct ds_json *json, const struct ds_model_shape *shape)
{
    if (shape->window > 0) {
        ds_json_array(json, "layer_types");
        for (uint64_t block = 1; block <= shape->layers; block++)
            ds_json_string(json, NULL, "sliding_attention");
        ds_json_end_array(json);
    }
    ds_json_u64(json, "no_rope_layer_interval", shape->nope_every);
    ds_json_array(json, "no_rope_layers");
    for (uint64_t block = 1; block <= shape->layers; block++)
        ds_json_u64(json, NULL, ds_model_turns(shape, block) ? 1 : 0);
    ds_json_end_array(json);
}

static double usual_scores(const struct ds_model_shape *shape)
{
    return 1.0 / sqrt((double)shape->head_size);
}

/* Factors, which are 1 where they are not said. */
static int read_scales(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    int rc;

    if (!ds_arch_traits(shape->arch)->scaled)
        return 0;
    shape->embed_scale = shape->residual_scale = shape->attention_scale = shape->logits_scale = 1.0;
    rc = ds__hf_may_get_f64(root, "embedding_multiplier", &shape->embed_scale, err);
    if (rc == 0)
        rc = ds__hf_may_get_f64(root, "residual_multiplier", &shape->residual_scale, err);
    if (rc == 0)
        rc = ds__hf_may_get_f64(root, "attention_multiplier", &shape->attention_scale, err);
    if (rc == 0)
        rc = ds__hf_may_get_f64(root, "logits_scaling", &shape->logits_scale, err);
    if (shape->attention_scale == usual_scores(shape))
        shape->attention_scale = 0.0;
    return rc;
}

#define PARALLEL "use_parallel_residual"

/* Both halves of a layer read its input, where nothing else is said. */
static int read_parallel(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const json_t *value = ds__hf_member(root, PARALLEL);

    if (!ds_arch_traits(shape->arch)->parallel)
        return 0;
    if (value != NULL && !json_is_boolean(value))
        return ds_fail(err, EBADMSG, "key '" PARALLEL "' must be true or false");
    shape->parallel_residual = value == NULL || json_is_true(value);
    return 0;
}

static void put_scales(struct ds_json *json, const struct ds_model_shape *shape)
{
    const double scores = shape->attention_scale;

    ds_json_real(json, "embedding_multiplier", shape->embed_scale);
    ds_json_real(json, "residual_multiplier", shape->residual_scale);
    ds_json_real(json, "attention_multiplier", scores > 0.0 ? scores : usual_scores(shape));
    ds_json_real(json, "logits_scaling", shape->logits_scale);
}

static void put_mixed(struct ds_json *json, const struct ds_model_shape *shape)
{
    const double scalar = shape->query_scalar;

    ds_json_f64(json, "query_pre_attn_scalar", scalar > 0.0 ? scalar : (double)shape->head_size,
                17);
    ds_json_f64(json, "rope_local_base_freq", shape->local_theta, 17);
    ds_json_null(json, "final_logit_softcapping");
    ds_json_null(json, "attn_logit_softcapping");
}

static int read_window(const json_t *root, const struct ds__hf_family *family,
                       struct ds_model_shape *shape, struct ds_error *err)
{
    return is_mistral(root)
               ? ds__hf_read_window(root, DS__HF_WINDOW, DS__HF_USUAL_WINDOW, shape, err)
               : ds__hf_read_window(root, family->window, family->window_default, shape, err);
}

static int read_root(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const struct ds__hf_family *family;
    int rc;

    if (!json_is_object(root))
        return ds_fail(err, EBADMSG, "it is not an object");
    if ((rc = read_family(root, shape, err)) < 0)
        return rc;
    family = ds__hf_family_of(shape->arch);
    shape->norm_eps = family->eps_default;
    if (ds__hf_member(root, "quantization_config") != NULL)
        return ds__hf_not_supported("quantization_config",
                                    ds__hf_member(root, "quantization_config"), err);
    if ((rc = read_sizes(root, family->size, shape, err)) < 0 ||
        (rc = read_flags(root, family->flag, err)) < 0 ||
        (rc = read_activation(root, family, err)) < 0 ||
        (rc = read_tie(root, family, &shape->tie_embeddings, err)) < 0 ||
        (rc = ds__hf_read_rope(root, family->rope ? family->theta_default : NO_THETA, shape, err)) <
            0 ||
        (rc = read_window(root, family, shape, err)) < 0 ||
        (rc = read_router(root, shape, err)) < 0)
        return rc;
    if ((rc = ds__hf_may_get_f64(root, family->eps_key, &shape->norm_eps, err)) < 0)
        return rc;
    if (shape->kv_heads == 0)
        shape->kv_heads = shape->heads;
    if (shape->ffn == 0)
        shape->ffn = 4 * shape->hidden;
    if ((rc = read_head_size(root, family, shape, err)) < 0 ||
        (rc = ds__hf_read_rope_dims(root, shape, err)) < 0 ||
        (rc = read_mixed(root, shape, err)) < 0 || (rc = read_nope(root, shape, err)) < 0 ||
        (rc = read_scales(root, shape, err)) < 0 || (rc = read_parallel(root, shape, err)) < 0)
        return rc;
    return ds_model_check(shape, err);
}

static int take_root(json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    struct ds_model_shape read = {0};
    int rc = read_root(root, &read, err);

    json_decref(root);
    if (rc == 0)
        *shape = read;
    return rc;
}

int ds__hf_parse_config(const void *text, size_t len, struct ds_model_shape *shape,
                        struct ds_error *err)
{
    json_t *root = ds_json_parse(text, len, err);

    return root != NULL ? take_root(root, shape, err) : -EBADMSG;
}

/* Is it a folder that dsrun itself has made? */
static bool is_own(const char *dir)
{
    char own[DS_MAX_PATH];

    return ds_ckpt_resolve(dir, own, NULL) == 0;
}

int ds_hf_read_config(const char *dir, struct ds_model_shape *shape, struct ds_error *err)
{
    char path[DS_MAX_PATH];
    json_t *root = NULL;
    int rc = ds_path_join(path, dir, DS__HF_CONFIG, err);

    if (rc == 0)
        rc = ds_json_load(path, DS_MAX_YAML_BYTES, &root, err);
    if (rc == -ENOENT && is_own(dir))
        return ds_fail(err, ENOENT,
                       "'%s' is a checkpoint or run directory, not a folder of Hugging Face: "
                       "'dsrun ckpt export' makes one of it, 'checkpoint.resume' goes on from it",
                       dir);
    if (rc < 0)
        return rc;
    return ds_error_context(err, take_root(root, shape, err), "'%s'", path);
}

static void put_sizes(struct ds_json *json, const struct ds__hf_size *key,
                      const struct ds_model_shape *shape)
{
    for (; key->name != NULL; key++) {
        uint64_t value;

        memcpy(&value, (const char *)shape + key->offset, sizeof(value));
        ds_json_u64(json, key->name, value);
    }
}

static void put_router(struct ds_json *json, const struct ds_model_shape *shape)
{
    ds_json_real(json, "router_aux_loss_coef", shape->balance);
    ds_json_bool(json, "output_router_logits", shape->balance > 0.0);
    if (shape->arch == DS_ARCH_MIXTRAL) {
        ds_json_real(json, "router_jitter_noise", 0.0);
        return;
    }
    ds_json_bool(json, "norm_topk_prob", true);
    ds_json_u64(json, "decoder_sparse_step", 1);
    ds_json_array(json, "mlp_only_layers");
    ds_json_end_array(json);
    ds_json_u64(json, "intermediate_size",
                shape->ffn); /* of layers without experts: there are none */
}

static bool is_token(const struct ds_model_shape *shape, int64_t id)
{
    return id >= 0 && (uint64_t)id < shape->vocab;
}

/* Those of config.json; there the first two are null where there is none, and the third in a family
 * that has one, else left out. */
static void put_tokens(struct ds_json *json, const struct ds_model_shape *shape,
                       const struct ds_hf_tokens *tokens, bool nulls)
{
    const struct {
        const char *key;
        int64_t id;
        bool nulls;
    } table[] = {
        {"bos_token_id", tokens != NULL ? tokens->begin : -1, nulls},
        {"eos_token_id", tokens != NULL ? tokens->end : -1, nulls},
        {"pad_token_id", tokens != NULL ? tokens->pad : -1,
         nulls && ds__hf_family_of(shape->arch)->pads},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (is_token(shape, table[i].id))
            ds_json_i64(json, table[i].key, table[i].id);
        else if (table[i].nulls)
            ds_json_null(json, table[i].key);
}

int ds__hf_write_generation(const struct ds_model_shape *shape, const struct ds_hf_tokens *tokens,
                            struct ds_buf *out, struct ds_error *err)
{
    struct ds_json json;

    if (tokens == NULL || (!is_token(shape, tokens->begin) && !is_token(shape, tokens->end) &&
                           !is_token(shape, tokens->pad)))
        return 0;
    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_bool(&json, "_from_model_config", true);
    put_tokens(&json, shape, tokens, false);
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
    return out->failed ? ds_fail(err, ENOMEM, "out of memory") : 0;
}

int ds__hf_write_config(const struct ds_model_shape *shape, enum ds_dtype dtype,
                        const struct ds_hf_tokens *tokens, struct ds_buf *out, struct ds_error *err)
{
    const struct ds__hf_family *family = ds__hf_family_of(shape->arch);
    const bool mistral = shape->arch == DS_ARCH_LLAMA && shape->window > 0;
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_array(&json, "architectures");
    ds_json_string(&json, NULL, mistral ? "MistralForCausalLM" : family->architecture);
    ds_json_end_array(&json);
    ds_json_string(&json, "model_type", mistral ? MISTRAL : family->model_type);
    put_sizes(&json, family->size, shape);
    ds_json_string(&json, family->act_key, family->act[0]);
    ds_json_f64(&json, family->eps_key, shape->norm_eps, 17);
    for (const struct ds__hf_flag *flag = family->flag; flag->name != NULL; flag++)
        ds_json_bool(&json, flag->name, flag->must);
    ds__hf_put_window(mistral ? DS__HF_WINDOW : family->window, shape, &json);
    if (shape->experts > 0)
        put_router(&json, shape);
    if (family->rope) {
        if (!ds_arch_traits(shape->arch)->classic)
            ds_json_u64(&json, "head_dim", shape->head_size);
        ds__hf_put_theta(&json, shape);
        ds__hf_put_rope_scale(&json, shape);
        if (ds_arch_traits(shape->arch)->part_turn)
            ds__hf_put_rope_dims(&json, shape);
        if (ds_arch_traits(shape->arch)->mixed)
            put_mixed(&json, shape);
        if (ds_arch_traits(shape->arch)->some_still)
            put_nope(&json, shape);
        if (ds_arch_traits(shape->arch)->scaled)
            put_scales(&json, shape);
        if (ds_arch_traits(shape->arch)->parallel)
            ds_json_bool(&json, PARALLEL, shape->parallel_residual);
        ds_json_f64(&json, "attention_dropout", 0.0, 1);
    } else {
        ds_json_f64(&json, "resid_pdrop", 0.0, 1);
        ds_json_f64(&json, "embd_pdrop", 0.0, 1);
        ds_json_f64(&json, "attn_pdrop", 0.0, 1);
    }
    ds_json_bool(&json, "tie_word_embeddings", shape->tie_embeddings);
    put_tokens(&json, shape, tokens, true);
    ds_json_string(&json, "torch_dtype", dtype == DS_BF16 ? "bfloat16" : "float32");
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
    return out->failed ? ds_fail(err, ENOMEM, "out of memory") : 0;
}
