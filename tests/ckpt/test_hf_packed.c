/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hf_packed.c - tensors that a folder has as one and the model as several.
 */
#include "tests/ckpt/configs.h"
#include "tests/ckpt/folder.h"

TestSuite(hf_packed, .init = tempdir_make, .fini = tempdir_remove);

/* A folder of Phi-3 of the shape, with its own names. */
static void fill_packed(struct folder *f, const struct ds_model_shape *shape)
{
    const uint64_t hidden = shape->hidden, ffn = shape->ffn, q = shape->heads * shape->head_size;
    const uint64_t qkv = q + 2 * shape->kv_heads * shape->head_size;
    const struct {
        const char *name;
        uint64_t shape[2];
    } layer[] = {{"input_layernorm.weight", {hidden, 0}},
                 {"mlp.down_proj.weight", {hidden, ffn}},
                 {"mlp.gate_up_proj.weight", {2 * ffn, hidden}},
                 {"post_attention_layernorm.weight", {hidden, 0}},
                 {"self_attn.o_proj.weight", {hidden, q}},
                 {"self_attn.qkv_proj.weight", {qkv, hidden}}};

    f->count = 0;
    add(f, "model.embed_tokens.weight", DS_F32, 2, (uint64_t[]){shape->vocab, hidden});
    add(f, "lm_head.weight", DS_F32, 2, (uint64_t[]){shape->vocab, hidden});
    add(f, "model.norm.weight", DS_F32, 1, (uint64_t[]){hidden});
    for (uint64_t i = 0; i < shape->layers; i++)
        for (size_t k = 0; k < sizeof(layer) / sizeof(layer[0]); k++) {
            char name[DS_MAX_TENSOR_NAME + 1];

            (void)snprintf(name, sizeof(name), "model.layers.%u.%s", (unsigned)i, layer[k].name);
            add(f, name, DS_F32, layer[k].shape[1] > 0 ? 2 : 1, layer[k].shape);
        }
}

/* The elements of a tensor of a layer begin with element `first` of the one that it is a part of. */
static void must_begin(const struct model *m, const char *name, uint64_t first)
{
    for (size_t i = 0; i < m->count; i++) {
        const float *data = m->weight[i].data;

        if (strstr(m->weight[i].name, name) == NULL)
            continue;
        for (uint64_t k = 0; k < m->weight[i].count; k++)
            cr_assert(data[k] == value_at(first + k), "%s, element %ju", m->weight[i].name,
                      (uintmax_t)k);
    }
}

Test(hf_packed, tensors_are_several_of_the_model)
{
    const struct path here = held("");
    const char *dir = here.text;
    struct ds_model_shape shape;
    struct ds_error err = {0};
    struct folder f;
    struct model m;
    size_t pack;

    cr_assert(read_config(dir, PHI3 "}", &shape, NULL) == 0);
    fill_packed(&f, &shape);
    (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
    model_init(&m, &shape);
    cr_assert(hf_load(dir, &shape, m.weight, m.count, &err) == 0, "%s", err.text);
    must_begin(&m, "q_proj", 0);
    must_begin(&m, "k_proj", UINT64_C(8) * 8);
    must_begin(&m, "v_proj", UINT64_C(12) * 8);
    must_begin(&m, "gate_proj", 0);
    must_begin(&m, "up_proj", UINT64_C(12) * 8);
    must_load_ranges(dir, &shape, &m);
    model_release(&m);
    for (pack = 0; strstr(f.tensor[pack].name, "gate_up") == NULL;) /* they lie sorted now */
        pack++;
    f.tensor[pack].shape[0]--;
    (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
    must_fail(dir, &shape, -EINVAL,
              "mlp.gate_up_proj.weight' has the shape [23, 8], the model's has "
              "[24, 8]");
    f.tensor[pack].shape[0]++;
    add(&f, "model.layers.1.self_attn.v_proj.weight", DS_F32, 2, (uint64_t[]){4, 8});
    (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
    must_fail(dir, &shape, -EINVAL, "'model.layers.1.self_attn.v_proj.weight' stands in");
}

/* A folder of GPT-NeoX of the shape, with its own names, and what it carries along. */
static void fill_by_heads(struct folder *f, const struct ds_model_shape *shape, enum ds_dtype dtype)
{
    const uint64_t hidden = shape->hidden, ffn = shape->ffn, three = 3 * hidden;
    const struct {
        const char *name;
        uint64_t shape[2];
    } layer[] = {{"attention.bias", {1, 8}},
                 {"attention.dense.bias", {hidden, 0}},
                 {"attention.dense.weight", {hidden, hidden}},
                 {"attention.masked_bias", {1, 0}},
                 {"attention.query_key_value.bias", {three, 0}},
                 {"attention.query_key_value.weight", {three, hidden}},
                 {"attention.rotary_emb.inv_freq", {1, 0}},
                 {"input_layernorm.bias", {hidden, 0}},
                 {"input_layernorm.weight", {hidden, 0}},
                 {"mlp.dense_4h_to_h.bias", {hidden, 0}},
                 {"mlp.dense_4h_to_h.weight", {hidden, ffn}},
                 {"mlp.dense_h_to_4h.bias", {ffn, 0}},
                 {"mlp.dense_h_to_4h.weight", {ffn, hidden}},
                 {"post_attention_layernorm.bias", {hidden, 0}},
                 {"post_attention_layernorm.weight", {hidden, 0}}};

    f->count = 0;
    add(f, "gpt_neox.embed_in.weight", dtype, 2, (uint64_t[]){shape->vocab, hidden});
    add(f, "embed_out.weight", dtype, 2, (uint64_t[]){shape->vocab, hidden});
    add(f, "gpt_neox.final_layer_norm.weight", dtype, 1, (uint64_t[]){hidden});
    add(f, "gpt_neox.final_layer_norm.bias", dtype, 1, (uint64_t[]){hidden});
    for (uint64_t i = 0; i < shape->layers; i++)
        for (size_t k = 0; k < sizeof(layer) / sizeof(layer[0]); k++) {
            char name[DS_MAX_TENSOR_NAME + 1];

            (void)snprintf(name, sizeof(name), "gpt_neox.layers.%u.%s", (unsigned)i, layer[k].name);
            add(f, name, dtype, layer[k].shape[1] > 0 ? 2 : 1, layer[k].shape);
        }
}

/* Each row of a part is that of its head's turn. */
static void must_take_turns(const struct model *m, const char *name, uint64_t part, uint64_t width)
{
    const uint64_t size = 4; /* of a head */

    for (size_t i = 0; i < m->count; i++) {
        const float *data = m->weight[i].data;

        if (strstr(m->weight[i].name, name) == NULL)
            continue;
        for (uint64_t k = 0; k < m->weight[i].count; k++) {
            const uint64_t row = k / width, from = row / size * 3 * size + part * size + row % size;

            cr_assert(data[k] == value_at(from * width + k % width), "%s, element %ju",
                      m->weight[i].name, (uintmax_t)k);
        }
    }
}

Test(hf_packed, parts_take_turns_by_heads)
{
    static const char *const parts[] = {"query", "key", "value"};
    static const enum ds_dtype types[] = {DS_F32, DS_F16};
    const struct path here = held("");
    struct ds_model_shape shape;
    struct folder f;

    cr_assert(read_config(here.text, GPT_NEOX ",\"rotary_pct\":0.5}", &shape, NULL) == 0);
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        struct ds_error err = {0};
        struct model m;

        fill_by_heads(&f, &shape, types[t]);
        (void)write_weights(&f, 0, f.count, at(here.text, "model.safetensors"));
        model_init(&m, &shape);
        cr_assert(hf_load(here.text, &shape, m.weight, m.count, &err) == 0, "%s", err.text);
        for (uint64_t i = 0; i < 3; i++) {
            char name[64];

            (void)snprintf(name, sizeof(name), "attention.%s.weight", parts[i]);
            must_take_turns(&m, name, i, 8);
            (void)snprintf(name, sizeof(name), "attention.%s.bias", parts[i]);
            must_take_turns(&m, name, i, 1);
        }
        must_load_ranges(here.text, &shape, &m);
        model_release(&m);
    }
    f.tensor[f.count - 1].shape[0] = 7;
    (void)write_weights(&f, 0, f.count, at(here.text, "model.safetensors"));
    must_fail(here.text, &shape, -EINVAL, "has the shape [7");
}
