/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf_config.c - config.json of GPT-2, Llama, Mixtral, Qwen2, Qwen3, Phi-3, OLMo-2 and
 * Gemma 3, read and written.
 *
 * A Mistral is a Llama, and is written as one where it has no window.
 *
 * A setting that changes what the model computes and is not supported is refused by name.  Dropout
 * is let pass: the published GPT-2 files all say 0.1, it changes no weight and nothing at
 * evaluation, and what training drops is the job's own to say (model.dropout).
 *
 * router_aux_loss_coef is taken as model.expert_balance, unless the job says another; noise on the
 * router's input (router_jitter_noise) is refused.
 *
 * Source  transformers: models/gpt2/configuration_gpt2.py, models/llama/configuration_llama.py,
 *         models/mixtral/configuration_mixtral.py, models/mistral/configuration_mistral.py,
 *         models/qwen2/configuration_qwen2.py, models/qwen3/configuration_qwen3.py,
 *         models/qwen3_moe/configuration_qwen3_moe.py, models/phi3/configuration_phi3.py,
 *         models/olmo2/configuration_olmo2.py, models/gemma3/configuration_gemma3.py.
 */
#include "runtime/ckpt/hf.h"

#include <errno.h>
#include <string.h>

#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf_config.h"
#include "runtime/ckpt/hf_window.h"

/* A member that is a number of the shape; those with NULL as `otherwise` must be there, the others
 * take the value of that member when they are missing or null. */
struct size_key {
    const char *name;
    size_t offset;
    uint64_t max;
    const char *otherwise;
};

/* A member that may only have this value (true or false), which is also what its absence means. */
struct flag_key {
    const char *name;
    bool must;
};

struct family {
    const char *model_type, *architecture;
    const struct size_key *size;
    const struct flag_key *flag;  /* ended by a NULL name */
    const char *act_key, *act[3]; /* the first is the default, and what is written */
    const char *eps_key;
    double eps_default;
    bool tie_default, rope;
    double theta_default;
    uint64_t head_default; /* 0: hidden_size / heads */
    enum ds__hf_window window;
    uint64_t window_default;
    bool pads; /* with a token of its own, where pad_token_id is not said */
};

/* Of Mistral and of Qwen, where a number is missing. */
enum { USUAL_WINDOW = 4096 };
#define GEMMA_SCALAR 256.0

/* clang-format off */
#define SIZE(key, field, max, otherwise) \
    {key, offsetof(struct ds_model_shape, field), max, otherwise}

static const struct size_key gpt2_sizes[] = {
    SIZE("vocab_size",  vocab,    DS_MAX_VOCAB,   NULL),
    SIZE("n_positions", context,  DS_MAX_CONTEXT, NULL),
    SIZE("n_embd",      hidden,   DS_MAX_HIDDEN,  NULL),
    SIZE("n_layer",     layers,   DS_MAX_LAYERS,  NULL),
    SIZE("n_head",      heads,    DS_MAX_HEADS,   NULL),
    SIZE("n_inner",     ffn,      DS_MAX_FFN,     ""), /* 4 x n_embd */
    {0},
};

/* Of Llama and its relatives, which call the width of the feed-forward block, or of an expert, so. */
#define LLAMA_SIZES(width) \
    SIZE("vocab_size",              vocab,    DS_MAX_VOCAB,   NULL), \
    SIZE("max_position_embeddings", context,  DS_MAX_CONTEXT, NULL), \
    SIZE("hidden_size",             hidden,   DS_MAX_HIDDEN,  NULL), \
    SIZE(width,                     ffn,      DS_MAX_FFN,     NULL), \
    SIZE("num_hidden_layers",       layers,   DS_MAX_LAYERS,  NULL), \
    SIZE("num_attention_heads",     heads,    DS_MAX_HEADS,   NULL), \
    SIZE("num_key_value_heads",     kv_heads, DS_MAX_HEADS,   "num_attention_heads")
#define EXPERT_SIZES(number, otherwise) \
    SIZE(number,                    experts,      DS_MAX_EXPERTS,      otherwise), \
    SIZE("num_experts_per_tok",     experts_each, DS_MAX_EXPERTS_EACH, NULL)

static const struct size_key llama_sizes[] = {LLAMA_SIZES("intermediate_size"), {0}};
static const struct size_key mixtral_sizes[] = {
    LLAMA_SIZES("intermediate_size"), EXPERT_SIZES("num_local_experts", NULL), {0}};
static const struct size_key qwen3_moe_sizes[] = {
    LLAMA_SIZES("moe_intermediate_size"),
    EXPERT_SIZES("num_experts", "num_local_experts"), {0}}; /* so in transformers 5 */

static const struct flag_key gpt2_flags[] = {
    {"scale_attn_weights", true},
    {"scale_attn_by_inverse_layer_idx", false},
    {"reorder_and_upcast_attn", false},
    {"add_cross_attention", false},
    {0},
};

static const struct flag_key llama_flags[] = {
    {"attention_bias", false},
    {"mlp_bias", false},
    {0},
};

static const struct flag_key mixtral_flags[] = {
    {"attention_bias", false},
    {0},
};

static const struct flag_key qwen2_flags[] = {{0}};

static const struct flag_key qwen3_flags[] = {
    {"attention_bias", false},
    {0},
};

static const struct flag_key gemma3_flags[] = {
    {"attention_bias", false},
    {"use_bidirectional_attention", false},
    {0},
};

static const struct family families[] = {
    [DS_ARCH_GPT2] = {
        .model_type = "gpt2", .architecture = "GPT2LMHeadModel",
        .size = gpt2_sizes, .flag = gpt2_flags,
        .act_key = "activation_function", .act = {"gelu_new", "gelu_pytorch_tanh"},
        .eps_key = "layer_norm_epsilon", .eps_default = 1e-5, .tie_default = true,
    },
    [DS_ARCH_LLAMA] = {
        .model_type = "llama", .architecture = "LlamaForCausalLM",
        .size = llama_sizes, .flag = llama_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
    },
    [DS_ARCH_MIXTRAL] = {
        .model_type = "mixtral", .architecture = "MixtralForCausalLM",
        .size = mixtral_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e6, .rope = true, .window = DS__HF_WINDOW,
    },
    [DS_ARCH_QWEN2] = {
        .model_type = "qwen2", .architecture = "Qwen2ForCausalLM",
        .size = llama_sizes, .flag = qwen2_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
        .window = DS__HF_WINDOW_FROM, .window_default = USUAL_WINDOW,
    },
    [DS_ARCH_QWEN3] = {
        .model_type = "qwen3", .architecture = "Qwen3ForCausalLM",
        .size = llama_sizes, .flag = qwen3_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true, .head_default = 128,
        .window = DS__HF_WINDOW_FROM, .window_default = USUAL_WINDOW,
    },
    [DS_ARCH_QWEN3_MOE] = {
        .model_type = "qwen3_moe", .architecture = "Qwen3MoeForCausalLM",
        .size = qwen3_moe_sizes, .flag = qwen3_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = false,
        .theta_default = 1e4, .rope = true,
        .window = DS__HF_WINDOW_FROM, .window_default = USUAL_WINDOW,
    },
    [DS_ARCH_PHI3] = {
        .model_type = "phi3", .architecture = "Phi3ForCausalLM",
        .size = llama_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e4, .rope = true, .window = DS__HF_WINDOW, .pads = true,
    },
    [DS_ARCH_OLMO2] = {
        .model_type = "olmo2", .architecture = "Olmo2ForCausalLM",
        .size = llama_sizes, .flag = mixtral_flags,
        .act_key = "hidden_act", .act = {"silu", "swish"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-5, .tie_default = false,
        .theta_default = 1e4, .rope = true, .pads = true,
    },
    [DS_ARCH_GEMMA3] = {
        .model_type = "gemma3_text", .architecture = "Gemma3ForCausalLM",
        .size = llama_sizes, .flag = gemma3_flags,
        .act_key = "hidden_activation", .act = {"gelu_pytorch_tanh"},
        .eps_key = "rms_norm_eps", .eps_default = 1e-6, .tie_default = true,
        .theta_default = 1e6, .rope = true, .head_default = 256,
        .window = DS__HF_WINDOW_MIXED, .window_default = USUAL_WINDOW, .pads = true,
    },
};
/* clang-format on */

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
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        if (strcmp(families[i].model_type, type) == 0) {
            shape->arch = (enum ds_arch)i;
            return 0;
        }
    return ds_fail(err, ENOTSUP,
                   "'model_type' is '%.40s', only 'gpt2', 'llama', 'mistral', 'mixtral', 'qwen2', "
                   "'qwen3', 'qwen3_moe', 'phi3', 'olmo2' and 'gemma3_text' are supported",
                   type);
}

static int read_sizes(const json_t *root, const struct size_key *key, struct ds_model_shape *shape,
                      struct ds_error *err)
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

static int read_flags(const json_t *root, const struct flag_key *key, struct ds_error *err)
{
    for (; key->name != NULL; key++) {
        const json_t *value = ds__hf_member(root, key->name);

        if (value != NULL && !(json_is_boolean(value) && json_is_true(value) == key->must))
            return ds__hf_not_supported(key->name, value, err);
    }
    return 0;
}

static int read_activation(const json_t *root, const struct family *family, struct ds_error *err)
{
    const json_t *value = ds__hf_member(root, family->act_key);

    if (value == NULL)
        return 0;
    for (size_t i = 0; json_is_string(value) && family->act[i] != NULL; i++)
        if (strcmp(family->act[i], json_string_value(value)) == 0)
            return 0;
    return ds__hf_not_supported(family->act_key, value, err);
}

static int read_tie(const json_t *root, const struct family *family, bool *out,
                    struct ds_error *err)
{
    const json_t *value = ds__hf_member(root, "tie_word_embeddings");

    if (value != NULL && !json_is_boolean(value))
        return ds_fail(err, EBADMSG, "key 'tie_word_embeddings' must be true or false");
    *out = value != NULL ? json_is_true(value) : family->tie_default;
    return 0;
}

static int read_head_size(const json_t *root, const struct family *family,
                          struct ds_model_shape *shape, struct ds_error *err)
{
    if (family->rope && ds__hf_member(root, "head_dim") != NULL)
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

static void put_mixed(struct ds_json *json, const struct ds_model_shape *shape)
{
    const double scalar = shape->query_scalar;

    ds_json_f64(json, "query_pre_attn_scalar", scalar > 0.0 ? scalar : (double)shape->head_size,
                17);
    ds_json_f64(json, "rope_local_base_freq", shape->local_theta, 17);
    ds_json_null(json, "final_logit_softcapping");
    ds_json_null(json, "attn_logit_softcapping");
}

static int read_window(const json_t *root, const struct family *family,
                       struct ds_model_shape *shape, struct ds_error *err)
{
    return is_mistral(root)
               ? ds__hf_read_window(root, DS__HF_WINDOW, USUAL_WINDOW, shape, err)
               : ds__hf_read_window(root, family->window, family->window_default, shape, err);
}

static int read_root(const json_t *root, struct ds_model_shape *shape, struct ds_error *err)
{
    const struct family *family;
    int rc;

    if (!json_is_object(root))
        return ds_fail(err, EBADMSG, "it is not an object");
    if ((rc = read_family(root, shape, err)) < 0)
        return rc;
    family = &families[shape->arch];
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
        (rc = read_mixed(root, shape, err)) < 0)
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

static void put_sizes(struct ds_json *json, const struct size_key *key,
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
    ds_json_f64(json, "router_aux_loss_coef", shape->balance, 17);
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
        {"pad_token_id", tokens != NULL ? tokens->pad : -1, nulls && families[shape->arch].pads},
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
    const struct family *family = &families[shape->arch];
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
    for (const struct flag_key *flag = family->flag; flag->name != NULL; flag++)
        ds_json_bool(&json, flag->name, flag->must);
    ds__hf_put_window(mistral ? DS__HF_WINDOW : family->window, shape, &json);
    if (shape->experts > 0)
        put_router(&json, shape);
    if (family->rope) {
        ds_json_u64(&json, "head_dim", shape->head_size);
        ds_json_f64(&json, "rope_theta", shape->rope_theta, 17);
        ds__hf_put_rope_scale(&json, &shape->rope_scale);
        if (ds_arch_traits(shape->arch)->part_turn)
            ds__hf_put_rope_dims(&json, shape);
        if (ds_arch_traits(shape->arch)->mixed)
            put_mixed(&json, shape);
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
