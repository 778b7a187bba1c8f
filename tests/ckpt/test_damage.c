/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_damage.c - a checkpoint with any byte wrong or missing is refused, by file and tensor.
 */
#include <errno.h>
#include <xxhash.h>

#include "runtime/ckpt/manifest.h"
#include "tests/ckpt/support.h"

#define STEP "checkpoints/step-00000007"

static struct set saved;

static void make_checkpoint(void)
{
    struct ds_error err = {0};
    int rc[64];

    tempdir_make();
    set_init(&saved, 1.0f);
    save_with_world(save_args(tempdir_path(""), &saved, 7), 2, rc);
    cr_assert(rc[0] == 0 && rc[1] == 0);
    cr_assert(ds_ckpt_verify(tempdir_path(STEP), &err) == 0, "%s", err.text);
}

static void remove_checkpoint(void)
{
    set_release(&saved);
    tempdir_remove();
}

TestSuite(damage, .init = make_checkpoint, .fini = remove_checkpoint);

static const char *const files[] = {
    "manifest.json",
    "weights-00001-of-00002.safetensors",
    "weights-00002-of-00002.safetensors",
    "optim-00001-of-00002.safetensors",
    "optim-00002-of-00002.safetensors",
};
enum { FILES = sizeof(files) / sizeof(files[0]) };

/* verify and load both refuse, and name the file. */
static void must_be_refused(const char *file, const char *how, size_t where)
{
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct set loaded;
    int rc = ds_ckpt_verify(tempdir_path(STEP), &err);

    cr_assert(rc == -EBADMSG, "%s %s %zu: %d %s", file, how, where, rc, err.text);
    cr_assert(strstr(err.text, file) != NULL, "%s %s %zu: '%s'", file, how, where, err.text);
    cr_assert(strstr(err.text, "damaged") != NULL, "%s %s %zu: '%s'", file, how, where, err.text);
    set_init(&loaded, 0.0f);
    ds_error_clear(&err);
    rc = load_set(tempdir_path(STEP), &loaded, &state, &err);
    cr_assert(rc == -EBADMSG, "load %s %s %zu: %d %s", file, how, where, rc, err.text);
    cr_assert(strstr(err.text, file) != NULL, "load %s %s %zu: '%s'", file, how, where, err.text);
    set_release(&loaded);
}

Test(damage, a_file_cut_at_any_byte)
{
    for (size_t i = 0; i < FILES; i++) {
        const char *path = at(tempdir_path(STEP), files[i]);
        struct ds_buf bytes = slurp(path);

        for (size_t len = 0; len < bytes.len; len++) {
            cr_assert(truncate(path, 0) == 0); /* then write, as a lost tail would look */
            spill(path, bytes.data, len);
            must_be_refused(files[i], "cut at", len);
        }
        spill(path, bytes.data, bytes.len);
        ds_buf_release(&bytes);
    }
    cr_assert(ds_ckpt_verify(tempdir_path(STEP), NULL) == 0);
}

Test(damage, a_bit_flipped_in_any_byte)
{
    for (size_t i = 0; i < FILES; i++) {
        const char *path = at(tempdir_path(STEP), files[i]);
        struct ds_buf bytes = slurp(path);

        for (size_t b = 0; b < bytes.len; b++) {
            char was = bytes.data[b];

            bytes.data[b] = (char)(was ^ (1 << b % 8));
            spill(path, bytes.data, bytes.len);
            must_be_refused(files[i], "flipped at", b);
            bytes.data[b] = was;
        }
        spill(path, bytes.data, bytes.len);
        ds_buf_release(&bytes);
    }
    cr_assert(ds_ckpt_verify(tempdir_path(STEP), NULL) == 0);
}

Test(damage, a_byte_too_many_or_no_file_at_all)
{
    for (size_t i = 0; i < FILES; i++) {
        const char *path = at(tempdir_path(STEP), files[i]);
        struct ds_buf bytes = slurp(path);

        cr_assert(ds_buf_put(&bytes, "x", 1) == 0);
        spill(path, bytes.data, bytes.len);
        must_be_refused(files[i], "longer than", bytes.len - 1);
        cr_assert(unlink(path) == 0);
        must_be_refused(files[i], "gone from", 0);
        cr_assert(mkdir(path, 0755) == 0);
        must_be_refused(files[i], "a folder, not", 0);
        cr_assert(rmdir(path) == 0);
        spill(path, bytes.data, bytes.len - 1);
        ds_buf_release(&bytes);
    }
    cr_assert(ds_ckpt_verify(tempdir_path(STEP), NULL) == 0);
}

Test(damage, a_link_or_a_pipe_is_not_followed)
{
    const char *path = at(tempdir_path(STEP), files[1]);
    const char *moved = tempdir_path("elsewhere");

    cr_assert(rename(path, moved) == 0 && symlink(moved, path) == 0);
    must_be_refused(files[1], "a link", 0);
    cr_assert(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    must_be_refused(files[1], "a pipe", 0);
}

Test(damage, the_damaged_tensor_is_named)
{
    const char *path = at(tempdir_path(STEP), files[1]);
    struct ds_manifest m;
    struct ds_error err = {0};
    struct ds_buf bytes = slurp(path);

    cr_assert(ds_manifest_load(&m, at(tempdir_path(STEP), "manifest.json"), &err) == 0);
    for (size_t i = 0; i < m.tensors; i++) {
        const struct ds_manifest_range *range = &m.tensor[i].view->range[0];
        char quoted[DS_MAX_TENSOR_NAME + 3];

        if (strcmp(m.file[range->file].name, files[1]) != 0)
            continue;
        (void)snprintf(quoted, sizeof(quoted), "'%s'", m.tensor[i].name);
        bytes.data[range->offset] ^= 1;
        spill(path, bytes.data, bytes.len);
        bytes.data[range->offset] ^= 1;
        cr_assert(ds_ckpt_verify(tempdir_path(STEP), &err) == -EBADMSG);
        cr_assert(strstr(err.text, quoted) != NULL, "%s not in '%s'", quoted, err.text);
    }
    ds_manifest_release(&m);
    ds_buf_release(&bytes);
}

Test(damage, what_is_not_asked_for_is_not_read)
{
    const char *path = at(tempdir_path(STEP), files[3]);
    struct ds_buf bytes = slurp(path);
    struct ds_ckpt_state state;
    struct set loaded;

    bytes.data[bytes.len - 1] ^= 1; /* in the moments */
    spill(path, bytes.data, bytes.len);
    set_init(&loaded, 0.0f);
    cr_assert(ds_ckpt_load(tempdir_path(STEP), &state, loaded.weight, SET_TENSORS, NULL, 0, NULL) ==
              0);
    for (size_t i = 0; i < SET_TENSORS; i++)
        cr_assert(memcmp(loaded.weight[i].data, saved.weight[i].data,
                         tensor_elems(&saved.weight[i]) * sizeof(float)) == 0);
    cr_assert(ds_ckpt_peek(tempdir_path(STEP), &state, NULL) == 0 && state.step == 7);
    set_release(&loaded);
    ds_buf_release(&bytes);
}

/* --- whole, but not this model's ------------------------------------------------------------ */

static void must_not_fit(struct ds_ckpt_tensor *tensor, const char *says)
{
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct set loaded;

    set_init(&loaded, -1.0f);
    free(loaded.weight[1].data);
    loaded.weight[1] = *tensor;
    cr_assert(load_set(tempdir_path(STEP), &loaded, &state, &err) == -EINVAL, "%s", err.text);
    cr_assert(strstr(err.text, says) != NULL, "'%s' not in '%s'", says, err.text);
    cr_assert(((float *)loaded.weight[0].data)[0] == -1.0f, "touched before all was known to fit");
    set_release(&loaded);
}

Test(damage, another_model_is_told_apart)
{
    struct ds_ckpt_tensor t;

    init_tensor(&t, "", "h.0.v", 6, 9, 0.0f);
    must_not_fit(&t, "has no tensor 'h.0.v'");
    init_tensor(&t, "", "h.0.w", 9, 6, 0.0f);
    must_not_fit(&t, "'h.0.w' has the shape [6, 9], the model's has [9, 6]");
    init_tensor(&t, "", "h.0.w", 54, 0, 0.0f);
    must_not_fit(&t, "'h.0.w' has the shape [6, 9], the model's has [54]");
    init_tensor(&t, "", "h.0.w", 6, 9, 0.0f);
    t.dtype = DS_I32;
    must_not_fit(&t, "'h.0.w' has the type F32, not I32");
}

/* --- several ranges ------------------------------------------------------------------------- */

Test(damage, a_tensor_in_ranges_is_put_together)
{
    enum { ELEMS = 12 };
    struct ds_ckpt_tensor t;
    struct ds_manifest m;
    struct ds_manifest_file two[2] = {{.name = "a.bin", .bytes = 28},
                                      {.name = "b.bin", .bytes = 20}};
    struct ds_manifest_range range[3] = {{.file = 0, .offset = 12, .bytes = 16, .begin_elem = 0},
                                         {.file = 1, .offset = 0, .bytes = 20, .begin_elem = 4},
                                         {.file = 0, .offset = 0, .bytes = 12, .begin_elem = 9}};
    struct ds_manifest_view view = {.elems = ELEMS, .range = range, .ranges = 3};
    struct ds_manifest_tensor tensor = {.name = "x",
                                        .dtype = DS_F32,
                                        .ndim = 1,
                                        .shape = {ELEMS},
                                        .elems = ELEMS,
                                        .view = &view,
                                        .views = 1};
    struct ds_ckpt_state state = {0};
    struct ds_error err = {0};
    struct ds_buf text;
    float value[ELEMS], files_of[2][7], *out;
    const char *dir = tempdir_path("ranges");

    cr_assert(mkdir(dir, 0755) == 0);
    for (int i = 0; i < ELEMS; i++)
        value[i] = (float)i;
    memcpy(&files_of[0][3], value, 16);
    memcpy(&files_of[1][0], value + 4, 20);
    memcpy(&files_of[0][0], value + 9, 12);
    spill(at(dir, "a.bin"), files_of[0], 28);
    spill(at(dir, "b.bin"), files_of[1], 20);
    range[0].xxh3 = (uint64_t[]){XXH3_64bits(value, 16)};
    range[1].xxh3 = (uint64_t[]){XXH3_64bits(value + 4, 20)};
    range[2].xxh3 = (uint64_t[]){XXH3_64bits(value + 9, 12)};
    two[0].header_xxh3 = two[1].header_xxh3 = XXH3_64bits("", 0);
    ds_manifest_init(&m);
    m.file = two;
    m.files = 2;
    m.tensor = &tensor;
    m.tensors = 1;
    ds_buf_init(&text, 1 << 16);
    cr_assert(ds_manifest_write(&m, &text, &err) == 0);
    spill(at(dir, "manifest.json"), text.data, text.len);
    init_tensor(&t, "", "x", ELEMS, 0, -1.0f);
    cr_assert(ds_ckpt_load(dir, &state, &t, 1, NULL, 0, &err) == 0, "%s", err.text);
    out = t.data;
    for (int i = 0; i < ELEMS; i++)
        cr_assert(out[i] == (float)i, "element %d is %g", i, (double)out[i]);
    free(out);
    ds_buf_release(&text);
}
