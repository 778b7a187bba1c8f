/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hf_views.c - Hugging Face folders and columns: a folder written from a checkpoint whose
 * columns were divided is the same as from a whole one, and ranks take their columns out of it.
 */
#include <errno.h>

#include "runtime/ckpt/view.h"
#include "runtime/model/model.h"
#include "tests/ckpt/columns.h"

TestSuite(hf_views, .init = tempdir_make, .fini = tempdir_remove);

/* The embedding has more elements than are read at a time. */
static const struct ds_model_shape shape = {.arch = DS_ARCH_GPT2,
                                            .layers = 1,
                                            .hidden = 256,
                                            .heads = 4,
                                            .kv_heads = 4,
                                            .head_size = 64,
                                            .ffn = 1024,
                                            .vocab = 1100,
                                            .context = 8,
                                            .tie_embeddings = true,
                                            .norm_eps = 1e-5,
                                            .rope_theta = 10000};
enum { PARTS = 3, MAX_PARAMS = 32 };
static const char *const files[] = {"model.safetensors", "config.json"};

static float value_at(size_t param, uint64_t place)
{
    return (float)param + (float)place / 1048576.0f;
}

/* A tensor of a parameter's view, its data of its own. */
static struct ds_ckpt_tensor tensor_of(size_t index, const struct ds_ckpt_view *view)
{
    struct ds_ckpt_tensor t = {.dtype = DS_F32, .view = *view, .replicas = 1};
    struct ds_param param;
    struct ds_ckpt_view shortest;

    ds_model_param(&shape, index, &param);
    (void)snprintf(t.name, sizeof(t.name), "%s", param.name);
    t.ndim = param.ndim;
    memcpy(t.shape, param.shape, param.ndim * sizeof(t.shape[0]));
    cr_assert(ds__view_shorten(view, t.shape, t.ndim, &shortest, &t.count, NULL) == 0);
    t.data = calloc(t.count + 1, sizeof(float));
    return t;
}

static void save_model(const char *run, unsigned parts)
{
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, 9);
    struct ds_ckpt_tensor weights[MAX_PARAMS * PARTS];
    struct ds_ckpt_view view[PARTS] = {{0}};
    struct dice dice = {.seed = 6};
    struct ds_error err = {0};

    args.state.shape = shape;
    args.weights = weights;
    args.n_weights = args.n_moments = 0;
    for (size_t i = 0; i < ds_model_param_count(&shape); i++) {
        struct ds_param param;

        ds_model_param(&shape, i, &param);
        if (parts > 1)
            divide_columns(&dice, param.shape[param.ndim - 1], parts, view);
        for (unsigned p = 0; p < parts; p++) {
            struct ds_ckpt_tensor *t = &weights[args.n_weights];

            if (parts > 1 && view[p].runs == 0)
                continue;
            *t = tensor_of(i, &view[p]);
            for (uint64_t k = 0; k < t->count; k++)
                ((float *)t->data)[k] =
                    value_at(i, place_of(&t->view, param.shape[param.ndim - 1], k));
            args.n_weights++;
        }
    }
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < args.n_weights; i++)
        free(weights[i].data);
}

static struct path step_of(const char *run)
{
    return held(at(run, "checkpoints/step-00000009"));
}

static void expect_same_files(const char *a, const char *b)
{
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct ds_buf x = slurp(at(a, files[i])), y = slurp(at(b, files[i]));

        cr_assert(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, "%s", files[i]);
        ds_buf_release(&x);
        ds_buf_release(&y);
    }
}

static float as_saved(float value, enum ds_dtype dtype)
{
    return dtype == DS_BF16 ? ds_bf16_to_f32(ds_bf16_from_f32(value)) : value;
}

/* Any range of any view of every parameter. */
static void expect_ranges(const char *dir, enum ds_dtype dtype, struct dice *dice)
{
    for (size_t i = 0; i < ds_model_param_count(&shape); i++) {
        struct ds_ckpt_view view[PARTS];
        struct ds_error err = {0};
        struct ds_ckpt_tensor t;
        struct ds_param param;
        uint64_t columns;
        const float *data;

        ds_model_param(&shape, i, &param);
        columns = param.shape[param.ndim - 1];
        divide_columns(dice, columns, PARTS, view);
        t = tensor_of(i, &view[roll(dice, PARTS)]);
        data = t.data;
        t.first = roll(dice, (unsigned)t.count);
        t.count -= t.first + roll(dice, (unsigned)(t.count - t.first));
        cr_assert(hf_load(dir, &shape, &t, 1, &err) == 0, "%s", err.text);
        for (uint64_t k = 0; k < t.count; k++)
            cr_assert(data[k] ==
                      as_saved(value_at(i, place_of(&t.view, columns, t.first + k)), dtype));
        cr_assert(data[t.count] == 0.0f);
        free(t.data);
    }
}

Test(hf_views, a_folder_does_not_show_how_columns_were_divided)
{
    static const enum ds_dtype dtypes[] = {DS_F32, DS_BF16};
    struct path divided = held("divided"), whole = held("whole");
    struct path in_divided = step_of("divided"), in_whole = step_of("whole");
    struct dice dice = {.seed = 7};

    save_model(divided.text, PARTS);
    save_model(whole.text, 1);
    for (size_t i = 0; i < 2; i++) {
        struct path a = held("a"), b = held("b");
        struct ds_error err = {0};

        cr_assert(ds_hf_export(in_divided.text, a.text, dtypes[i], NULL, NULL, &err) == 0, "%s",
                  err.text);
        cr_assert(ds_hf_export(in_whole.text, b.text, dtypes[i], NULL, NULL, &err) == 0, "%s",
                  err.text);
        expect_same_files(a.text, b.text);
        for (unsigned round = 0; round < 8; round++)
            expect_ranges(a.text, dtypes[i], &dice);
        remove_dir(a.text);
        remove_dir(b.text);
    }
}

Test(hf_views, columns_that_a_tensor_has_not_are_refused)
{
    const struct ds_ckpt_view all = {.runs = 0};
    struct path run = held("run"), step = step_of("run"), dir = held("dir");
    struct ds_ckpt_tensor t = tensor_of(0, &all);
    struct ds_error err = {0};

    save_model(run.text, 1);
    cr_assert(ds_hf_export(step.text, dir.text, DS_F32, NULL, NULL, &err) == 0, "%s", err.text);
    t.view = (struct ds_ckpt_view){1, {{200, 57}}};
    cr_assert(hf_load(dir.text, &shape, &t, 1, &err) == -EINVAL);
    cr_assert(strstr(err.text, "57 columns from 200 on, is not in 256") != NULL, "%s", err.text);
    t.view = (struct ds_ckpt_view){1, {{200, 56}}};
    cr_assert(hf_load(dir.text, &shape, &t, 1, &err) == -EINVAL);
    cr_assert(strstr(err.text, "no tensor that fits") != NULL, "%s", err.text);
    free(t.data);
}
