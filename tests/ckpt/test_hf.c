/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hf.c - Hugging Face folders: what is read, what is refused, what is written.
 */
#include <errno.h>

#include "base/json_read.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf.h"
#include "runtime/ckpt/inspect.h"
#include "tests/ckpt/configs.h"
#include "tests/ckpt/folder.h"

TestSuite(hf, .init = tempdir_make, .fini = tempdir_remove);

Test(hf, all_types_and_prefixes_load)
{
    static const struct {
        const char *config;
        size_t prefix;
    } models[] = {{GPT2 "}", sizeof("transformer.") - 1},
                  {LLAMA "}", sizeof("model.") - 1},
                  {MIXTRAL "}", sizeof("model.") - 1}};
    static const enum ds_dtype types[] = {DS_F32, DS_BF16, DS_F16};

    for (size_t i = 0; i < 18; i++) {
        const struct path here = held("");
        const char *dir = here.text;
        struct ds_model_shape shape;
        struct ds_error err = {0};
        struct folder f;
        struct model m;

        cr_assert(read_config(dir, models[i % 3].config, &shape, NULL) == 0);
        fill(&f, &shape, types[i / 6], i / 3 % 2 == 0 ? 0 : models[i % 3].prefix);
        (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
        model_init(&m, &shape);
        cr_assert(hf_load(dir, &shape, m.weight, m.count, &err) == 0, "case %zu: %s", i, err.text);
        must_hold_values(&m);
        must_load_ranges(dir, &shape, &m);
        model_release(&m);
    }
}

Test(hf, buffers_and_a_tied_head_are_passed_over)
{
    const struct path here = held("");
    const char *dir = here.text;
    struct ds_model_shape shape;
    struct ds_error err = {0};
    struct folder f;
    struct model m;

    cr_assert(read_config(dir, GPT2 "}", &shape, NULL) == 0);
    fill(&f, &shape, DS_F32, 0);
    add(&f, "transformer.h.0.attn.bias", DS_U8, 4, (uint64_t[]){1, 1, 8, 8});
    add(&f, "h.1.attn.masked_bias", DS_F32, 0, NULL);
    add(&f, "lm_head.weight", DS_F32, 2, (uint64_t[]){11, 6});
    for (size_t i = 0; i < f.count; i++) /* values of one byte each are not made here */
        f.tensor[i].dtype = f.tensor[i].dtype == DS_U8 ? (int)DS_U16 : f.tensor[i].dtype;
    (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
    model_init(&m, &shape);
    cr_assert(hf_load(dir, &shape, m.weight, m.count, &err) == 0, "%s", err.text);
    must_hold_values(&m);
    model_release(&m);
    cr_assert(read_config(dir, LLAMA "}", &shape, NULL) == 0);
    fill(&f, &shape, DS_F32, 0);
    add(&f, "model.layers.0.self_attn.rotary_emb.inv_freq", DS_F32, 1, (uint64_t[]){1});
    (void)write_weights(&f, 0, f.count, at(dir, "model.safetensors"));
    model_init(&m, &shape);
    cr_assert(hf_load(dir, &shape, m.weight, m.count, &err) == 0, "%s", err.text);
    model_release(&m);
}

Test(hf, weights_that_do_not_fit_are_refused_by_name)
{
    const struct path here = held("");
    const char *dir = here.text;
    struct ds_model_shape shape;
    struct folder f, g;

    cr_assert(read_config(dir, LLAMA "}", &shape, NULL) == 0);
    must_fail(dir, &shape, -ENOENT, "has neither 'model.safetensors' nor");
    fill(&f, &shape, DS_F32, 0);
#define SPOILED(change, rc, says)                                                                  \
    do {                                                                                           \
        g = f;                                                                                     \
        for (size_t i_ = 0; i_ < g.count; i_++)                                                    \
            g.tensor[i_].name = g.name[i_];                                                        \
        change;                                                                                    \
        (void)write_weights(&g, 0, g.count, at(dir, "model.safetensors"));                         \
        must_fail(dir, &shape, rc, says);                                                          \
    } while (0)
    SPOILED(g.count--, -EINVAL, "has no tensor 'lm_head.weight'");
    SPOILED(g.tensor[0].shape[0]++, -EINVAL, "has the shape [12, 8], the model's has [11, 8]");
    SPOILED(g.tensor[1].ndim = 2; g.tensor[1].shape[1] = 1, -EINVAL, "the model's has [8]");
    SPOILED(g.tensor[0].dtype = DS_I32, -ENOTSUP, "has the type 'I32'");
    SPOILED(add(&g, "model.extra", DS_F32, 1, (uint64_t[]){3}), -EINVAL,
            "'model.extra' that the model");
    SPOILED(add(&g, "lm_head.bias", DS_F32, 1, (uint64_t[]){3}), -EINVAL,
            "'lm_head.bias' that the model");
    SPOILED(add(&g, "norm.weight", DS_F32, 1, (uint64_t[]){8}), -EINVAL,
            "'model.norm.weight' stands in");
    SPOILED(g.name[0][6] = 'X', -EINVAL, "has no tensor 'model.embed_tokens.weight'");
    spill(at(dir, "model.safetensors"), "short", 5);
    must_fail(dir, &shape, -EBADMSG, "model.safetensors': 5 bytes are too short");
    cr_assert(unlink(at(dir, "model.safetensors")) == 0);
    cr_assert(mkdir(at(dir, "model.safetensors"), 0755) == 0);
    must_fail(dir, &shape, -EINVAL, "not a regular file");
}

Test(hf, weights_that_are_no_numbers_are_refused_by_name)
{
    static const uint32_t f32[] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0xffffffffu};
    static const uint32_t half[2][2] = {{0x7fc0u, 0xff80u}, {0x7e00u, 0xfc00u}}; /* bf16, f16 */
    static const enum ds_dtype types[] = {DS_F32, DS_BF16, DS_F16};
    const struct path here = held(""), file_path = held("model.safetensors");
    const char *dir = here.text, *path = file_path.text;
    struct ds_model_shape shape;

    cr_assert(read_config(dir, GPT2 "}", &shape, NULL) == 0);
    for (size_t i = 0; i < 8; i++) {
        enum ds_dtype type = types[i < 4 ? 0 : i / 2 - 1];
        uint32_t bits = i < 4 ? f32[i] : half[i / 2 - 2][i % 2];
        struct folder f;
        struct ds_buf file;
        size_t data_at;

        fill(&f, &shape, type, 0);
        data_at = write_weights(&f, 0, f.count, path);
        file = slurp(path);
        memcpy(file.data + data_at + 3 * ds_dtype_bytes(type), &bits, ds_dtype_bytes(type));
        spill(path, file.data, file.len);
        ds_buf_release(&file);
        must_fail(dir, &shape, -EBADMSG, "element 3 is ");
        must_fail(dir, &shape, -EBADMSG, f.tensor[0].name); /* the first in file order */
    }
}

/* --- shards --------------------------------------------------------------------------------- */

static void write_index(const struct folder *f, size_t cut, const char *a, const char *b)
{
    struct ds_buf text;

    ds_buf_init(&text, 1 << 16);
    cr_assert(ds_buf_puts(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{") == 0);
    for (size_t i = 0; i < f->count; i++)
        cr_assert(ds_buf_printf(&text, "%s\"%s\":\"%s\"", i > 0 ? "," : "", f->tensor[i].name,
                                i < cut ? a : b) == 0);
    cr_assert(ds_buf_puts(&text, "}}") == 0);
    spill(tempdir_path("model.safetensors.index.json"), text.data, text.len);
    ds_buf_release(&text);
}

Test(hf, shards_are_put_together)
{
    const struct path here = held("");
    const char *dir = here.text;
    struct ds_model_shape shape;
    struct ds_error err = {0};
    struct folder f;
    struct model m;

    cr_assert(read_config(dir, GPT2 "}", &shape, NULL) == 0);
    fill(&f, &shape, DS_F32, 0);
    (void)write_weights(&f, 0, 9, tempdir_path("a.safetensors"));
    (void)write_weights(&f, 9, f.count - 9, tempdir_path("blob"));
    cr_assert(symlink("blob", tempdir_path("b.safetensors")) == 0); /* as a download cache has it */
    write_index(&f, 9, "a.safetensors", "b.safetensors");
    model_init(&m, &shape);
    cr_assert(hf_load(dir, &shape, m.weight, m.count, &err) == 0, "%s", err.text);
    must_hold_values(&m);
    model_release(&m);
    write_index(&f, 9, "a.safetensors", "c.safetensors");
    must_fail(dir, &shape, -ENOENT, "c.safetensors");
    write_index(&f, 9, "a.safetensors", "../b.safetensors");
    must_fail(dir, &shape, -EBADMSG, "not mapped to a plain file name");
    write_index(&f, 9, "a.safetensors", "/etc/passwd");
    must_fail(dir, &shape, -EBADMSG, "not mapped to a plain file name");
    write_index(&f, f.count, "a.safetensors", "");
    must_fail(dir, &shape, -EINVAL, "has no tensor");
    spill(tempdir_path("model.safetensors.index.json"), "{\"weight_map\":[]}", 17);
    must_fail(dir, &shape, -EBADMSG, "'weight_map' is not an object");
    spill(tempdir_path("model.safetensors.index.json"), "{\"weight_map\":{\"a\":7}}", 22);
    must_fail(dir, &shape, -EBADMSG, "'a' is not mapped");
}

/* --- export and import ---------------------------------------------------------------------- */

static const char *import_model(const char *config, struct folder *f)
{
    static char ckpt[DS_MAX_PATH];
    const char *dir = make_dir("source");
    struct ds_model_shape shape;
    struct ds_error err = {0};

    (void)snprintf(ckpt, sizeof(ckpt), "%s", tempdir_path("ckpt"));
    cr_assert(read_config(dir, config, &shape, NULL) == 0);
    fill(f, &shape, DS_F32, 0);
    (void)write_weights(f, 0, f->count, at(dir, "model.safetensors"));
    cr_assert(ds_hf_import(dir, ckpt, &err) == 0, "%s", err.text);
    cr_assert(ds_ckpt_verify(ckpt, &err) == 0, "%s", err.text);
    return ckpt;
}

/* There and back with these settings; the values come back bit for bit. */
static void round_trip(const char *config, enum ds_dtype dtype, uint64_t max_bytes, size_t shards)
{
    const struct path out_path = held("out/deep"), again_path = held("again");
    const char *out = out_path.text, *again = again_path.text;
    struct ds_model_shape shape, read;
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct folder f;
    struct model m;
    const char *ckpt = import_model(config, &f);
    char last[64];

    cr_assert(ds_ckpt_peek(ckpt, &state, &err) == 0 && state.step == 0);
    shape = state.shape;
    cr_assert(ds__hf_export_split(ckpt, out, dtype, NULL, NULL, max_bytes, &err) == 0, "%s",
              err.text);
    (void)snprintf(last, sizeof(last), "model-%05zu-of-%05zu.safetensors", shards, shards);
    cr_assert(exists(at(out, shards > 1 ? last : "model.safetensors")), "no '%s'", last);
    cr_assert(exists(at(out, "model.safetensors.index.json")) == (shards > 1));
    cr_assert(ds_hf_read_config(out, &read, &err) == 0, "%s", err.text);
    cr_assert(memcmp(&read, &shape, sizeof(read)) == 0, "another shape comes back");
    model_init(&m, &shape);
    cr_assert(hf_load(out, &read, m.weight, m.count, &err) == 0, "%s", err.text);
    must_hold_values(&m); /* which are exact in bf16 too */
    cr_assert(ds_hf_import(out, again, &err) == 0, "%s", err.text);
    cr_assert(ds_ckpt_load(again, &state, m.weight, m.count, NULL, 0, &err) == 0, "%s", err.text);
    must_hold_values(&m);
    model_release(&m);
    remove_dir(tempdir_path("out"));
    remove_dir(again);
    remove_dir(ckpt);
    remove_dir(tempdir_path("source"));
}

Test(hf, export_and_import_return_the_same_bits)
{
    round_trip(GPT2 "}", DS_F32, UINT64_MAX, 1);
    round_trip(GPT2 "}", DS_BF16, UINT64_MAX, 1);
    round_trip(GPT2 ",\"tie_word_embeddings\":false}", DS_F32, UINT64_MAX, 1);
    round_trip(LLAMA "}", DS_F32, UINT64_MAX, 1);
    round_trip(LLAMA ",\"num_key_value_heads\":2,\"rope_theta\":12345.678}", DS_BF16, UINT64_MAX,
               1);
    round_trip(LLAMA ",\"tie_word_embeddings\":true}", DS_F32, UINT64_MAX, 1);
    round_trip(LLAMA "}", DS_F32, 1, 21); /* every tensor alone */
    round_trip(LLAMA "}", DS_F32, 2048, 3);
    round_trip(LLAMA "}", DS_BF16, 2048, 2);
    round_trip(MIXTRAL "}", DS_F32, UINT64_MAX, 1);
    round_trip(QWEN3 ",\"head_dim\":6}", DS_F32, UINT64_MAX, 1);
    round_trip(PHI3 ",\"partial_rotary_factor\":0.5,\"sliding_window\":6}", DS_F32, UINT64_MAX, 1);
    round_trip(PHI3 ",\"tie_word_embeddings\":true}", DS_BF16, UINT64_MAX, 1);
    round_trip(OLMO2 ",\"rms_norm_eps\":1e-6}", DS_F32, UINT64_MAX, 1);
    round_trip(GEMMA3 ",\"head_dim\":6,\"sliding_window\":5,\"query_pre_attn_scalar\":7}", DS_F32,
               UINT64_MAX, 1);
    round_trip(GEMMA3 ",\"head_dim\":4,\"tie_word_embeddings\":false}", DS_BF16, UINT64_MAX, 1);
    round_trip(PHI3 "}", DS_F32, 1, 15); /* packed tensors are one */
    round_trip(QWEN3_MOE "true,\"head_dim\":4,\"router_aux_loss_coef\":0.25}", DS_BF16, UINT64_MAX,
               1);
    round_trip(MISTRAL ",\"sliding_window\":null}", DS_F32, UINT64_MAX, 1);
    round_trip(QWEN2 ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5}}", DS_F32,
               UINT64_MAX, 1);
    round_trip(QWEN2
               ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32,\"low_freq_factor\":1.5,"
               "\"high_freq_factor\":5,\"original_max_position_embeddings\":4096}}",
               DS_BF16, UINT64_MAX, 1);
    round_trip(QWEN2 ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_slow\":1.5,"
                     "\"beta_fast\":20,\"original_max_position_embeddings\":16,\"mscale\":0.7}}",
               DS_F32, UINT64_MAX, 1);
    round_trip(SMOLLM3 ",\"no_rope_layer_interval\":2}", DS_F32, UINT64_MAX, 1);
    round_trip(GRANITE ",\"residual_multiplier\":0.22,\"logits_scaling\":6}", DS_F32, UINT64_MAX,
               1);
    round_trip(GRANITE ",\"attention_multiplier\":0.5,\"tie_word_embeddings\":true}", DS_BF16,
               UINT64_MAX, 1);
    round_trip(GPT_NEOX ",\"rotary_pct\":0.5}", DS_F32, UINT64_MAX, 1);
    round_trip(GPT_NEOX
               ",\"rotary_pct\":1.0,\"use_parallel_residual\":false,\"rotary_emb_base\":77.5}",
               DS_BF16, UINT64_MAX, 1);
    round_trip(LONGROPE("[1.0800000429153442,64.5]", ",\"original_max_position_embeddings\":4"),
               DS_F32, UINT64_MAX, 1);
    round_trip(MIXTRAL ",\"router_aux_loss_coef\":0.125}", DS_BF16, UINT64_MAX, 1);
}

/* The vocabulary of these is 11. */
Test(hf, tokens_are_in_both_configs)
{
    static const struct {
        struct ds_hf_tokens tokens;
        const char *config, *generation; /* the latter NULL: there is none */
    } cases[] = {
        {{1, 10, 0},
         "\"bos_token_id\":1,\"eos_token_id\":10,\"pad_token_id\":0,",
         "{\"_from_model_config\":true,\"bos_token_id\":1,\"eos_token_id\":10,\"pad_token_id\":0}"
         "\n"},
        {{11, 2, -1},
         "\"bos_token_id\":null,\"eos_token_id\":2,\"torch_dtype\"",
         "{\"_from_model_config\":true,\"eos_token_id\":2}\n"},
        {{-1, 11, -1}, "\"bos_token_id\":null,\"eos_token_id\":null,\"torch_dtype\"", NULL},
    };
    const struct path out_path = held("out");
    struct folder f;
    const char *ckpt = import_model(LLAMA "}", &f);

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_buf text;

        cr_assert(ds_hf_export(ckpt, out_path.text, DS_F32, &cases[i].tokens, NULL, NULL) == 0);
        text = slurp(at(out_path.text, "config.json"));
        cr_assert(strstr(ds_buf_text(&text), cases[i].config) != NULL, "%s", ds_buf_text(&text));
        ds_buf_release(&text);
        cr_assert(exists(at(out_path.text, "generation_config.json")) ==
                  (cases[i].generation != NULL));
        if (cases[i].generation != NULL) {
            text = slurp(at(out_path.text, "generation_config.json"));
            cr_assert_str_eq(ds_buf_text(&text), cases[i].generation);
            ds_buf_release(&text);
        }
        remove_dir(out_path.text);
    }
}

Test(hf, a_failed_export_leaves_nothing)
{
    const struct path out_path = held("out");
    const char *out = out_path.text;
    struct ds_error err = {0};
    struct folder f;
    const char *ckpt = import_model(LLAMA "}", &f);
    const struct path part_path = held("ckpt/weights-00001-of-00001.safetensors");
    const char *part = part_path.text;
    struct ds_buf bytes = slurp(part);

    cr_assert(ds_hf_export(ckpt, out, DS_F16, NULL, NULL, &err) == -ENOTSUP && !exists(out));
    bytes.data[bytes.len - 1] ^= 1;
    spill(part, bytes.data, bytes.len);
    cr_assert(ds_hf_export(ckpt, out, DS_F32, NULL, NULL, &err) == -EBADMSG && !exists(out));
    cr_assert(strstr(err.text, "weights-00001") != NULL, "%s", err.text);
    cr_assert(mkdir(out, 0755) == 0);
    cr_assert(ds_hf_export(ckpt, out, DS_F32, NULL, NULL, &err) == -EBADMSG);
    cr_assert(rmdir(out) == 0, "the folder that was empty is not");
    bytes.data[bytes.len - 1] ^= 1;
    spill(part, bytes.data, bytes.len);
    cr_assert(mkdir(out, 0755) == 0);
    spill(at(out, "mine"), "x", 1);
    cr_assert(ds_hf_export(ckpt, out, DS_F32, NULL, NULL, &err) == -EEXIST &&
              exists(at(out, "mine")));
    cr_assert(strstr(err.text, "is not empty") != NULL, "%s", err.text);
    cr_assert(ds_hf_export(ckpt, at(out, "mine"), DS_F32, NULL, NULL, &err) == -EEXIST, "%s",
              err.text);
    cr_assert(unlink(at(out, "mine")) == 0);
    cr_assert(ds_hf_export(ckpt, out, DS_F32, NULL, NULL, &err) == 0, "%s", err.text);
    cr_assert(ds_hf_export(tempdir_path("none"), out, DS_F32, NULL, NULL, &err) == -ENOENT);
    ds_buf_release(&bytes);
}

Test(hf, a_failed_import_leaves_nothing)
{
    const struct path source_path = held("source"), weights = held("source/model.safetensors");
    const char *source = source_path.text;
    struct ds_error err = {0};
    struct ds_buf bytes;
    struct folder f;
    const char *ckpt = import_model(GPT2 "}", &f);
    uint32_t nan = 0x7fc00000u;

    cr_assert(ds_hf_import(source, ckpt, &err) == -EEXIST, "%s", err.text);
    cr_assert(strstr(err.text, "is not empty") != NULL, "%s", err.text);
    cr_assert(ds_ckpt_verify(ckpt, &err) == 0, "%s", err.text);
    bytes = slurp(weights.text);
    memcpy(bytes.data + bytes.len - 4, &nan, 4);
    spill(weights.text, bytes.data, bytes.len);
    cr_assert(ds_hf_import(source, tempdir_path("new"), &err) == -EBADMSG);
    cr_assert(strstr(err.text, "is not a number") != NULL, "%s", err.text);
    cr_assert(!exists(tempdir_path("new")));
    cr_assert(ds_hf_import(tempdir_path("none"), tempdir_path("new"), &err) == -ENOENT);
    cr_assert(!exists(tempdir_path("new")));
    ds_buf_release(&bytes);
}
